package binary_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/client"
	"nekoq/services/errs"
	"nekoq/services/testkit/process"
)

// binVar hands the binary under test to a test that runs itself again.
const binVar = "TEST_NEKOQ_BIN"

// inMountNamespace runs the calling test again, in a process that may mount file
// systems which nobody else sees and which go away with it. It is true in that
// process. Root needs a mount namespace, others a user namespace too.
func inMountNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(binVar) != "" {
		require.NoError(t, syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""))
		return true
	}
	run := func(flags uintptr) ([]byte, error) {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=10m")
		cmd.Env = append(os.Environ(), binVar+"="+bin)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
		if flags&syscall.CLONE_NEWUSER != 0 {
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
		}
		return cmd.CombinedOutput()
	}
	out, err := run(syscall.CLONE_NEWNS)
	if errors.Is(err, syscall.EPERM) {
		out, err = run(syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER)
	}
	t.Logf("%s", out)
	require.NoError(t, err)
	require.Contains(t, string(out), "--- PASS: "+t.Name())
	return false
}

// mountDisk puts a file system of its own, of so many bytes, at dir.
func mountDisk(t *testing.T, dir string, size int) {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o700))
	require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)))
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
}

// fillDisk takes every free block of the file system at dir, but for spare bytes.
func fillDisk(t *testing.T, dir string, spare int64) (free func()) {
	t.Helper()
	name := filepath.Join(dir, "filler")
	f, err := os.Create(name)
	require.NoError(t, err)
	defer f.Close()
	var st syscall.Statfs_t
	require.NoError(t, syscall.Statfs(dir, &st))
	block := make([]byte, st.Bsize)
	for n := int64(st.Bavail) - spare/st.Bsize; n > 0; n-- {
		if _, err := f.Write(block); err != nil {
			require.ErrorIs(t, err, syscall.ENOSPC)
			break
		}
	}
	return func() { require.NoError(t, os.Remove(name)) }
}

// load is writers that go on until stop, with what they were told.
type load struct {
	acked
	errors map[errs.Code]int
	count  int
	stop   func()
}

// seen says how many writes were acknowledged, and refused with a code.
func (l *load) seen(code errs.Code) (acknowledged, refused int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count, l.errors[code]
}

// loadOn starts writers of values of so many bytes under keys of their own, a
// few hundred a second, so that only the disk that the test fills is full.
func (c *cluster) loadOn(prefix string, size int, endpoints ...string) *load {
	ctx, cancel := context.WithCancel(c.t.Context())
	l := &load{acked: acked{values: map[string]string{}}, errors: map[errs.Code]int{}}
	cl := c.client(endpoints...)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			pause := time.NewTicker(20 * time.Millisecond)
			defer pause.Stop()
			for i := 0; ; i++ {
				select {
				case <-pause.C:
				case <-ctx.Done():
					return
				}
				key := fmt.Sprintf("w/%s/%d/%06d", prefix, w, i)
				value := fmt.Sprintf("value %d %s", i, strings.Repeat("v", size))
				ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
				_, err := cl.KV().Put(ctx, key, []byte(value))
				cancel()
				l.mu.Lock()
				if err == nil {
					l.values[key], l.count = value, l.count+1
				} else {
					l.errors[errs.CodeOf(err)]++
				}
				l.mu.Unlock()
			}
		})
	}
	l.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	c.t.Cleanup(l.stop)
	return l
}

// until waits for a condition of the load.
func (l *load) until(t *testing.T, what string, f func(acknowledged int) bool) {
	t.Helper()
	err := process.Until(t.Context(), 60*time.Second, func(context.Context) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if !f(l.count) {
			return fmt.Errorf("%s: %d acknowledged, errors %v", what, l.count, l.errors)
		}
		return nil
	})
	require.NoError(t, err)
}

// readable checks that a node answers reads of all kinds over both doors.
func (c *cluster) readable(n *process.Nekoq, key, value string) {
	c.t.Helper()
	require.True(c.t, running(n), n.Logs())
	cl := c.client(n.Native)
	for _, options := range [][]client.KVOption{nil, {client.Stale()}} {
		ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
		got, err := cl.KV().Get(ctx, key, options...)
		cancel()
		require.NoError(c.t, err, n.ID)
		require.Equal(c.t, value, string(got.Value))
	}
	code, body := call(c.t, n, "GET", "/v1/warehouse/kv/"+key+"?raw=true", "")
	require.Equal(c.t, http.StatusOK, code, body)
	require.Equal(c.t, value, body)
}

// readableWhileBehind checks a node that has no space for its log: it answers
// stale reads, says for the others that another node must be asked, and does so
// soon; a client that knows the others does that by itself.
func (c *cluster) readableWhileBehind(n *process.Nekoq, key, value string) {
	c.t.Helper()
	code, body := call(c.t, n, "GET", "/v1/warehouse/kv/"+key+"?raw=true&consistency=stale", "")
	require.Equal(c.t, http.StatusOK, code, body)
	require.Equal(c.t, value, body)
	began := time.Now()
	code, body = call(c.t, n, "GET", "/v1/warehouse/kv/"+key, "")
	require.Equal(c.t, http.StatusInsufficientStorage, code, body)
	require.Contains(c.t, body, "ask another node, or read stale")
	require.Less(c.t, time.Since(began), 5*time.Second)
	code, body = call(c.t, n, "GET", "/readyz", "")
	require.Equal(c.t, http.StatusServiceUnavailable, code, body)
	require.Contains(c.t, body, "storage_full")
	endpoints := []string{n.Native}
	for _, other := range c.nodes {
		if other != n {
			endpoints = append(endpoints, other.Native)
		}
	}
	got, err := c.client(endpoints...).KV().Get(c.t.Context(), key)
	require.NoError(c.t, err)
	require.Equal(c.t, value, string(got.Value))
}

// The disk of LocalSwitch fills up under writes. They are refused with words
// that name the file, reads go on, and when space returns writes go on in the
// same process. A server started on the full disk does the same.
func TestDiskFullLocalSwitch(t *testing.T) {
	if !inMountNamespace(t) {
		return
	}
	c := prepareCluster(t, 0)
	n := c.nodes[0]
	mountDisk(t, n.Dir, 64<<20)
	c.start()
	_, err := c.c.KV().Put(t.Context(), "before", []byte("here"))
	require.NoError(t, err)
	l := c.loadOn("local", 20_000, n.Native)
	for round := range 2 {
		l.until(t, "writes", func(count int) bool { return count >= 50*(round+1) })
		free := fillDisk(t, n.Dir, 0)
		_, had := l.seen(errs.StorageFull)
		l.until(t, "storage_full", func(int) bool { return l.errors[errs.StorageFull] > had+20 })
		code, body := call(t, n, "PUT", "/v1/warehouse/kv/big", strings.Repeat("x", 1<<20))
		require.Equal(t, http.StatusInsufficientStorage, code, body)
		require.Contains(t, body, `"code":"storage_full"`)
		require.Contains(t, body, filepath.Join(n.Dir, "state.db"))
		c.readable(n, "before", "here")
		if round == 1 { // and once more from a start on the full disk
			n.Kill()
			require.NoError(t, n.Start()) // the first write that fails takes its readiness away
			require.NoError(t, n.Alive(t.Context(), 60*time.Second))
			c.readable(n, "before", "here")
		}
		free()
		count, _ := l.seen("")
		l.until(t, "writes after space returned", func(now int) bool { return now > count+20 })
		require.NoError(t, n.Ready(t.Context(), 10*time.Second))
		require.True(t, running(n))
	}
	l.stop()
	t.Logf("%d acknowledged, errors %v", l.count, l.errors)
	n.Kill()
	c.restart(n)
	l.everywhere(c)
}

// One disk of a cluster fills up: that of the log or that of the state file, on
// the leader or on a follower, to the last block or below the reserve. Every
// node goes on answering reads, writes are either acknowledged or refused with a
// code that says why, and when space returns everything goes on in the same
// processes, with nothing acknowledged missing.
func TestDiskFullCluster(t *testing.T) {
	if !inMountNamespace(t) {
		return
	}
	const reserve = 16 << 20
	for name, run := range map[string]struct {
		store   string
		reserve int64
	}{"last block of wal": {"wal", 0}, "last block of bolt": {"bolt", 0}, "reserve": {"wal", reserve}} {
		t.Run(name, func(t *testing.T) {
			c := prepareCluster(
				t, 3, "cluster.log_store="+run.store, fmt.Sprintf("cluster.disk_reserve_bytes=%d", run.reserve),
				"cluster.wal_segment_bytes=262144", "cluster.snapshot_log_bytes=4194304", "cluster.trailing_log_bytes=4194304",
			)
			for _, n := range c.nodes {
				mountDisk(t, n.Dir, 256<<20)
				mountDisk(t, filepath.Join(n.Dir, "raft"), 96<<20)
			}
			c.start()
			_, err := c.c.KV().Put(t.Context(), "before", []byte("here"))
			require.NoError(t, err)
			for _, disk := range []string{"raft", "state"} {
				for _, role := range []string{"leader", "follower"} {
					t.Run(role+"'s "+disk, func(t *testing.T) {
						sub := *c
						sub.t = t
						sub.oneDiskFull(disk, role, run.reserve/2)
					})
				}
			}
		})
	}
}

// oneDiskFull takes one disk of one node through full and back, but for spare bytes.
func (c *cluster) oneDiskFull(disk, role string, spare int64) {
	t := c.t
	n, folder := c.leader(), ""
	if role == "follower" {
		n = c.follower()
	}
	if disk == "raft" {
		folder = disk
	}
	l := c.loadOn(fmt.Sprint(role, disk, spare), 4000, process.Endpoints(c.nodes)...)
	l.until(t, "writes", func(count int) bool { return count > 50 })
	free := fillDisk(t, filepath.Join(n.Dir, folder), spare)
	began, _ := l.seen("")
	if role == "leader" && (disk == "state" || spare > 0) {
		l.until(t, "writes refused while "+n.ID+" is full", func(int) bool { return l.errors[errs.StorageFull] > 20 })
	} else {
		l.until(t, "writes through the others while "+n.ID+" is full", func(count int) bool { return count > began+200 })
	}
	for _, other := range c.nodes {
		if other != n || spare > 0 || disk == "state" {
			c.readable(other, "before", "here")
		} else {
			c.readableWhileBehind(n, "before", "here")
		}
	}
	if role == "leader" && (disk == "state" || spare > 0) {
		// It hands leadership over by itself, and says what is the matter with it.
		l.until(t, "writes under another leader", func(now int) bool { return now > began+100 })
		c.otherLeads(n)
	}
	free()
	count, _ := l.seen("")
	l.until(t, "writes after space returned", func(now int) bool { return now > count+50 })
	l.stop()
	t.Logf("%s %s: %d acknowledged, errors %v", n.ID, role, l.count, l.errors)
	for _, n := range c.nodes {
		require.NoError(t, n.Ready(t.Context(), 30*time.Second))
	}
	l.everywhere(c)
	c.equalHashes()
}

// otherLeads waits until a node other than n leads, and reads of n in the cluster's
// status that its disk is full.
func (c *cluster) otherLeads(n *process.Nekoq) {
	c.t.Helper()
	cl := c.client(process.Endpoints(c.nodes)...)
	err := process.Until(c.t.Context(), 60*time.Second, func(ctx context.Context) error {
		s, err := cl.ClusterStatus(ctx)
		if err != nil {
			return err
		}
		for _, m := range s.Nodes {
			if m.ID == n.ID && (m.Leader || m.Disk == nil || !m.Disk.Full || m.Reason == "") {
				return fmt.Errorf("%+v, disk %+v", m, m.Disk)
			}
		}
		if s.LeaderID == "" {
			return errors.New("nobody leads")
		}
		return nil
	})
	require.NoError(c.t, err)
}

// Every disk of a cluster is below its reserve. Writes are refused, the status says
// that nobody has room, and the membership can still be changed: that may be the
// way out.
func TestMembersAreChangedWhileEveryDiskIsLow(t *testing.T) {
	if !inMountNamespace(t) {
		return
	}
	const reserve = 16 << 20
	c := prepareCluster(t, 3, fmt.Sprintf("cluster.disk_reserve_bytes=%d", reserve), "cluster.wal_segment_bytes=262144")
	for _, n := range c.nodes {
		mountDisk(t, n.Dir, 64<<20)
	}
	c.start()
	_, err := c.c.KV().Put(t.Context(), "before", []byte("here"))
	require.NoError(t, err)
	for _, n := range c.nodes {
		fillDisk(t, n.Dir, reserve/2)
	}
	cl := c.client(process.Endpoints(c.nodes)...) // one without a session
	err = process.Until(t.Context(), 60*time.Second, func(ctx context.Context) error {
		s, err := cl.ClusterStatus(ctx)
		if err != nil {
			return err
		}
		for _, m := range s.Nodes {
			if m.Leader && strings.Contains(m.Reason, "no other voter can take over") {
				return nil
			}
		}
		return fmt.Errorf("%+v", s.Nodes)
	})
	require.NoError(t, err)
	_, err = c.c.KV().Put(t.Context(), "refused", []byte("x"))
	require.Equal(t, errs.StorageFull, errs.CodeOf(err))

	gone := c.follower()
	for range 2 { // and it may be repeated
		_, err = cl.RemoveMember(t.Context(), gone.ID, false)
		require.NoError(t, err)
	}
	var leader string
	until(t, "two voters are left", func() bool { // as the node that is asked has them
		s, err := cl.ClusterStatus(t.Context())
		require.NoError(t, err)
		leader = s.LeaderID
		return s.Quorum.Voters == 2
	})
	_, err = cl.PromoteMember(t.Context(), leader)
	require.NoError(t, err, "it votes already")
}
