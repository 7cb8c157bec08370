package etcd_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nekoq/services/app"
)

// ctl runs Debian's etcdctl (.ci/deps installs it).
type ctl struct {
	t    *testing.T
	bin  string
	addr string
}

func newCtl(t *testing.T, n *app.App) *ctl {
	t.Helper()
	bin, err := exec.LookPath("etcdctl")
	if err != nil {
		t.Fatal("etcdctl is missing: run .ci/deps")
	}
	return &ctl{t, bin, n.EtcdAddr().String()}
}

func (c *ctl) command(ctx context.Context, input string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.CommandContext(ctx, c.bin, append([]string{"--endpoints", c.addr}, args...)...)
	cmd.Env = append(os.Environ(), "ETCDCTL_API=3")
	cmd.Stdin = strings.NewReader(input)
	out := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = out, out
	return cmd, out
}

// says runs a command and wants words in what it prints.
func (c *ctl) says(input string, args []string, words ...string) string {
	c.t.Helper()
	cmd, out := c.command(within(c.t, 30*time.Second), input, args...)
	err := cmd.Run()
	for _, w := range words {
		if !strings.Contains(out.String(), w) {
			c.t.Errorf("etcdctl %s: %v\n%s\nwant %q", strings.Join(args, " "), err, out, w)
		}
	}
	return out.String()
}

func TestEtcdctl(t *testing.T) {
	n := node(t)
	c := newCtl(t, n)
	f := strings.Fields
	c.says("", f("put a 1"), "OK")
	c.says("", f("put a 2 --prev-kv"), "OK", "1")
	c.says("", f("put b x"), "OK")
	c.says("", f("get a"), "a\n2\n")
	c.says("", f("get a --rev 2"), "a\n1\n")
	c.says("", f("get a z --limit 1 --order DESCEND --sort-by KEY"), "b\nx\n")
	c.says("", f("get --prefix --keys-only -w fields a"), `"Count" : 1`)
	c.says("", f("get a --from-key --print-value-only"), "2\nx\n")
	c.says("", f("get a --consistency s -w json"), `"version":2`)
	c.says("value(\"a\") = \"2\"\nver(\"b\") > \"0\"\n\nput c 3\nget a\n\ndel c\n\n", f("txn"), "SUCCESS", "OK", "a\n2\n")
	c.says("", f("del c --prev-kv"), "1\nc\n3")
	c.says("", f("del none"), "0")
	lease := strings.Fields(c.says("", f("lease grant 100"), "granted with TTL(100s)"))[1]
	c.says("", f("put leased v --lease "+lease), "OK")
	c.says("", f("lease list"), "found 1 leases", lease)
	c.says("", f("lease timetolive --keys "+lease), "granted with TTL(100s)", "attached keys([leased])")
	c.says("", f("lease keep-alive --once "+lease), "keepalived with TTL(100)")
	c.says("", f("lease revoke "+lease), "revoked")
	c.says("", f("lock held -- echo inside"), "inside")
	c.says("", f("member list"), "started", "http://"+c.addr)
	c.says("", f("endpoint health"), "is healthy")
	c.says("", f("endpoint status"), c.addr, "3.6.5", "true")
	c.says("", f("endpoint hashkv"), c.addr)
	c.says("", f("alarm list"))
	c.says("", f("alarm disarm"))
	c.says("", f("defrag"), "Finished defragmenting")
	file := filepath.Join(t.TempDir(), "snap")
	c.says("", f("snapshot save "+file), "saved")
	if i, err := os.Stat(file); err != nil || i.Size()%512 != 32 {
		t.Errorf("%v %v", i, err)
	}
	c.says("", f("compaction 3"), "compacted revision 3")
	c.says("", f("get a --rev 2"), "etcdserver: mvcc: required revision has been compacted")
	c.says("", f("compaction 3"), "etcdserver: mvcc: required revision has been compacted")
	c.says("", f("put x y --lease 1234"), "etcdserver: requested lease not found")
	c.says("", f("move-leader 1"), "bad leader transferee")
	c.says("", f("member add new --peer-urls http://127.0.0.1:1"), "a LocalSwitch is one node without peers")
}

func TestEtcdctlMembers(t *testing.T) {
	nodes := three(t)
	c := newCtl(t, nodes[1])
	f := strings.Fields
	said := c.says("", f("member add n4 --peer-urls=http://127.0.0.1:1"), "Member ", "added to cluster", `ETCD_NAME="n4"`, "n4=http://127.0.0.1:1")
	id := f(said)[1]
	c.says("", f("member list"), id+", unstarted, , http://127.0.0.1:1, , false\n", ", started, n1, ")
	c.says("", f("member add n4 --peer-urls=http://127.0.0.1:1"), "Peer URLs already exists")
	c.says("", f("member promote "+id), "can only promote a learner member")
	c.says("", f("member update "+id+" --peer-urls=http://127.0.0.1:2"), id+" updated in cluster")
	c.says("", f("member list"), id+", unstarted, , http://127.0.0.1:2, , false\n")
	c.says("", f("member remove "+id), id+" removed from cluster")
	if s := c.says("", f("member list"), "started"); strings.Contains(s, id) || strings.Contains(s, "unstarted") {
		t.Error(s)
	}
	said = c.says("", f("member add n4 --learner --peer-urls=http://127.0.0.1:1"), "added to cluster")
	c.says("", f("member list"), f(said)[1]+", unstarted, , http://127.0.0.1:1, , true\n")
	c.says("", f("member promote "+f(said)[1]), "in sync with leader")
}

func TestEtcdctlUsers(t *testing.T) {
	n := node(t)
	c := newCtl(t, n)
	f := strings.Fields
	c.says("", f("user add root:secret"), "User root created")
	c.says("", f("role add root"), "Role root created")
	c.says("", f("user grant-role root root"), "is granted")
	c.says("", f("role add reader"), "created")
	c.says("", f("role grant-permission reader read app/ --prefix"), "updated")
	c.says("", f("user add eve:pw"), "created")
	c.says("", f("user grant-role eve reader"), "is granted")
	c.says("", f("user get eve"), "Roles: reader")
	c.says("", f("role get reader"), "[app/, app0)")
	c.says("", f("auth enable"), "Authentication Enabled")
	c.says("", f("get app/x"), "user name is empty")
	c.says("", f("--user eve:wrong get app/x"), "authentication failed")
	c.says("", f("--user root:secret put app/x 1"), "OK")
	c.says("", f("--user eve:pw get app/x"), "app/x\n1")
	c.says("", f("--user eve:pw put app/x 2"), "permission denied")
	c.says("", f("--user eve:pw get other"), "permission denied")
	c.says("", f("--user eve:pw user list"), "permission denied")
	c.says("", f("--user root:secret user list"), "eve", "root")
	c.says("", f("--user root:secret role list"), "reader")
	c.says("new\n", f("--user root:secret user passwd eve --interactive=false"), "Password updated")
	c.says("", f("--user eve:new get app/x"), "app/x\n1")
	c.says("", f("--user root:secret role revoke-permission reader app/ --prefix"), "is revoked")
	c.says("", f("--user eve:new get app/x"), "permission denied")
	c.says("", f("--user root:secret user revoke-role eve reader"), "is revoked")
	c.says("", f("--user root:secret user delete eve"), "deleted")
	c.says("", f("--user root:secret role delete reader"), "deleted")
	c.says("", f("--user root:secret auth disable"), "Authentication Disabled")
	c.says("", f("get app/x"), "app/x\n1")
}

// running starts a command that goes on until the test has what it wants.
func (c *ctl) running(args ...string) (out func() string, stop func()) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(within(c.t, time.Minute))
	file, err := os.CreateTemp(c.t.TempDir(), "out")
	if err != nil {
		c.t.Fatal(err)
	}
	cmd, _ := c.command(ctx, "", args...)
	cmd.Stdout, cmd.Stderr = file, file
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { cancel(); _ = cmd.Wait(); _ = file.Close() })
	return func() string {
		b, _ := os.ReadFile(file.Name())
		return string(b)
	}, cancel
}

func TestEtcdctlGoesOn(t *testing.T) {
	a, b := node(t), node(t)
	c := newCtl(t, a)
	f := strings.Fields
	c.says("", f("put w/1 past"), "OK")
	watched, _ := c.running(f("watch w/ --prefix --rev 1")...)
	mirrored, _ := c.running(f("make-mirror --prefix w/ " + b.EtcdAddr().String())...)
	elected, _ := c.running(f("elect e candidate")...)
	eventually(t, "the history is watched", func() bool { return strings.Contains(watched(), "past") })
	eventually(t, "somebody is elected", func() bool { return strings.Contains(elected(), "candidate") })
	target := newCtl(t, b)
	eventually(t, "the base is mirrored", func() bool { return strings.Contains(target.says("", f("get w/1")), "past") })
	c.says("", f("put w/2 new"), "OK")
	c.says("", f("del w/1"), "1")
	eventually(t, "changes are watched", func() bool { return strings.Contains(watched(), "new") && strings.Contains(watched(), "DELETE\nw/1") })
	eventually(t, "changes are mirrored", func() bool {
		return strings.Contains(target.says("", f("get w/2")), "new") && target.says("", f("get w/1")) == ""
	})
	if s := mirrored(); strings.Contains(s, "Error") {
		t.Error(s)
	}
}
