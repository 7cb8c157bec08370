package binary_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/services/errs"
	"nekoq/services/testkit/process"
)

// etcdctl runs Debian's etcdctl (.ci/deps installs it) against some doors and gives
// what it prints.
func etcdctl(t *testing.T, d time.Duration, doors []string, input string, args ...string) (string, error) {
	t.Helper()
	bin, err := exec.LookPath("etcdctl")
	require.NoError(t, err, "etcdctl is missing: run .ci/deps")
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, append([]string{"--endpoints", strings.Join(doors, ",")}, args...)...)
	cmd.Env = append(os.Environ(), "ETCDCTL_API=3")
	cmd.Stdin = strings.NewReader(input)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	return out.String(), err
}

// says wants words in what a command prints.
func says(t *testing.T, doors []string, input, line string, words ...string) string {
	t.Helper()
	out, err := etcdctl(t, 60*time.Second, doors, input, strings.Fields(line)...)
	for _, w := range words {
		require.Contains(t, out, w, "etcdctl %s: %v", line, err)
	}
	return out
}

// goesOn runs a command until the test ends, with its output in a file.
func goesOn(t *testing.T, door, line string) (out func() string) {
	t.Helper()
	bin, err := exec.LookPath("etcdctl")
	require.NoError(t, err, "etcdctl is missing: run .ci/deps")
	f, err := os.CreateTemp(t.TempDir(), "out")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, bin, append([]string{"--endpoints", door}, strings.Fields(line)...)...)
	cmd.Env = append(os.Environ(), "ETCDCTL_API=3")
	cmd.Stdout, cmd.Stderr = f, f
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { cancel(); _ = cmd.Wait(); _ = f.Close() })
	return func() string {
		b, _ := os.ReadFile(f.Name())
		return string(b)
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	require.NoError(t, process.Until(t.Context(), 30*time.Second, func(context.Context) error {
		if !ok() {
			return errs.New(errs.Conflict, "not yet: %s", what)
		}
		return nil
	}))
}

// Debian's etcdctl against every node of a cluster.
func TestEtcdctlOfACluster(t *testing.T) {
	c := startCluster(t, 3)
	all := etcdDoors(c.nodes)
	for i, n := range c.nodes {
		here, next := []string{n.Etcd}, c.nodes[(i+1)%3].Etcd
		k := n.ID
		says(t, here, "", "put "+k+"/a 1", "OK")
		says(t, here, "", "put "+k+"/a 2 --prev-kv", "OK", "1")
		says(t, []string{next}, "", "get "+k+"/a", k+"/a\n2\n")
		says(t, here, "", "get --prefix --keys-only "+k, k+"/a")
		says(t, here, "value(\""+k+"/a\") = \"2\"\n\nput "+k+"/b 3\n\n\n", "txn", "SUCCESS", "OK")
		watched := goesOn(t, next, "watch --prefix "+k+"/ --rev 1")
		until(t, "the history is watched", func() bool { return strings.Contains(watched(), k+"/b\n3") })
		says(t, here, "", "del "+k+"/b --prev-kv", "1\n"+k+"/b\n3")
		until(t, "the delete is watched", func() bool { return strings.Contains(watched(), "DELETE\n"+k+"/b") })
		lease := strings.Fields(says(t, here, "", "lease grant 100", "granted with TTL(100s)"))[1]
		says(t, []string{next}, "", "put "+k+"/l v --lease "+lease, "OK")
		says(t, here, "", "lease keep-alive --once "+lease, "keepalived with TTL(100)")
		says(t, []string{next}, "", "lease timetolive --keys "+lease, "attached keys(["+k+"/l])")
		says(t, []string{next}, "", "lease revoke "+lease, "revoked")
		require.Empty(t, says(t, here, "", "get "+k+"/l"))
		says(t, here, "", "lock "+k+"-lock -- echo inside", "inside")
		elected := goesOn(t, n.Etcd, "elect "+k+"-election "+k)
		until(t, "somebody is elected", func() bool { return strings.Contains(elected(), k) })
		says(t, here, "", "user add "+k+"-user:pw", "created")
		says(t, here, "", "role add "+k+"-role", "created")
		says(t, []string{next}, "", "user grant-role "+k+"-user "+k+"-role", "is granted")
		says(t, []string{next}, "", "user get "+k+"-user", k+"-role")
		says(t, here, "", "member list", c.nodes[0].Etcd, c.nodes[1].Etcd, c.nodes[2].Etcd, "started")
		says(t, here, "", "endpoint health --cluster", all[0]+" is healthy", all[1]+" is healthy", all[2]+" is healthy")
		says(t, here, "", "endpoint status --cluster", all...)
		require.Empty(t, says(t, here, "", "alarm list"))
	}
	says(t, all, "", "compaction 5", "compacted revision 5")
	for _, d := range all {
		says(t, []string{d}, "", "get n1/a --rev 2", "required revision has been compacted")
	}
	equalHashKV(t, all)
	if soak(t, 0) > 0 { // takes a minute
		out, err := etcdctl(t, 2*time.Minute, all, "", "check", "perf", "--load=s")
		require.NoError(t, err, out)
		require.Contains(t, out, "PASS: Throughput")
		require.NotContains(t, out, "FAIL")
	}
}

// equalHashKV compares the hashes that the nodes give at one revision.
func equalHashKV(t *testing.T, doors []string) {
	t.Helper()
	rev := regexp.MustCompile(`"revision":(\d+)`).FindStringSubmatch(says(t, doors[:1], "", "get x -w json"))
	require.NotNil(t, rev)
	var out string
	hash := regexp.MustCompile(`(?m), (\d+)$`)
	until(t, "every node gives the same hash", func() bool {
		var err error
		if out, err = etcdctl(t, 30*time.Second, doors[:1], "", "endpoint", "hashkv", "--cluster", "--rev", rev[1]); err != nil {
			return false // a node that has not come so far
		}
		found := hash.FindAllStringSubmatch(out, -1)
		require.Len(t, found, len(doors), out)
		require.Equal(t, found[0][1], found[1][1], out)
		require.Equal(t, found[0][1], found[2][1], out)
		return true
	})
}

// Snapshots are saved from every node while clients write, and a mirror elsewhere
// becomes what the cluster is.
func TestEtcdctlSnapshotAndMirrorUnderLoad(t *testing.T) {
	c, to := startCluster(t, 3), startCluster(t, 0)
	all, target := etcdDoors(c.nodes), []string{to.nodes[0].Etcd}
	says(t, all, "", "put w/base 0", "OK")
	mirrored := goesOn(t, c.nodes[0].Etcd, "make-mirror --prefix w/ "+target[0])
	until(t, "the base is mirrored", func() bool { return strings.Contains(says(t, target, "", "get w/base"), "0") })
	stop := c.writers(4)
	for i, d := range all {
		file := filepath.Join(t.TempDir(), fmt.Sprintf("snapshot%d", i))
		out, err := etcdctl(t, 60*time.Second, []string{d}, "", "snapshot", "save", file)
		require.NoError(t, err, out)
		require.Contains(t, out, "saved")
		info, err := os.Stat(file)
		require.NoError(t, err)
		require.EqualValues(t, 32, info.Size()%512, "a whole number of 512 bytes and the checksum")
		require.Greater(t, info.Size(), int64(4096))
	}
	equalHashKV(t, all)
	a := stop()
	a.everywhere(c)
	says(t, all, "", "put w/last z", "OK")
	until(t, "the last change is mirrored: "+mirrored(), func() bool { return strings.Contains(says(t, target, "", "get w/last"), "z") })
	want := says(t, all, "", "get --prefix w/")
	require.Equal(t, want, says(t, target, "", "get --prefix w/"), "the mirror is not what it mirrors: %s", mirrored())
	require.NotContains(t, mirrored(), "Error")
}
