package binary_test

import (
	"context"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/client"
	"nekoq/services/errs"
	"nekoq/services/testkit/process"
)

// wait passes time in which load runs against the cluster; it synchronises nothing.
func wait(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

// Writers with unique values while the leader is killed with -9, again and again.
func TestSoakLeaderKilledUnderLoad(t *testing.T) {
	c := startCluster(t, 3)
	stop, h := c.writers(64), c.record("hot", 6)
	end := time.Now().Add(soak(t, 25*time.Second))
	kills := 0
	for ; kills < 5 || time.Now().Before(end); kills++ {
		wait(t, 2*time.Second)
		l := c.leader()
		l.Kill()
		began := time.Now()
		next := c.leader()
		took := time.Since(began)
		t.Logf("%s killed, %s leads after %v", l.ID, next.ID, took)
		c.restart(l)
	}
	wait(t, 2*time.Second)
	a := stop()
	h.linearizable(t)
	c.allReady()
	a.everywhere(c)
	c.equalHashes()
	require.GreaterOrEqual(t, kills, 5)
}

// A leader frozen for 3 s under reads and writes never gives an old value.
func TestSoakFrozenLeader(t *testing.T) {
	c := startCluster(t, 3)
	h := c.record("frozen", 9)
	freezes := 4
	if soak(t, 0) > 0 {
		freezes = 20
	}
	for range freezes {
		wait(t, time.Second)
		l := c.leader()
		require.NoError(t, l.Freeze())
		wait(t, 3*time.Second)
		require.NoError(t, l.Thaw())
		c.allReady()
	}
	wait(t, time.Second)
	h.linearizable(t)
	c.equalHashes()
}

// All three are killed at once, again and again; nothing acknowledged is lost.
func TestSoakAllKilledAtOnce(t *testing.T) {
	c := startCluster(t, 3)
	stop := c.writers(32)
	for range 3 {
		wait(t, 1500*time.Millisecond)
		for _, n := range c.nodes {
			n.Kill()
		}
		for _, n := range c.nodes {
			require.NoError(t, n.Start())
		}
		c.allReady()
	}
	wait(t, time.Second)
	a := stop()
	a.everywhere(c)
	c.equalHashes()
}

// A node is stopped in order and started again, each in turn, under load.
func TestRollingRestart(t *testing.T) {
	c := startCluster(t, 3)
	stop, h := c.writers(32), c.record("rolling", 6)
	for _, n := range c.nodes {
		wait(t, time.Second)
		n.Stop()
		require.Zero(t, n.ExitCode(), n.Logs())
		c.restart(n)
	}
	wait(t, time.Second)
	a := stop()
	h.linearizable(t)
	a.everywhere(c)
	c.equalHashes()
}

// With two of three nodes gone, stale reads are answered and say their lag, and
// writes and linearizable reads fail within their deadline.
func TestNoQuorum(t *testing.T) {
	c := startCluster(t, 3)
	_, err := c.c.KV().Put(t.Context(), "before", []byte("here"))
	require.NoError(t, err)
	keep := c.follower()
	for _, n := range c.nodes {
		cl := c.client(n.Native)
		_, err := cl.KV().Get(t.Context(), "before") // every node has it
		require.NoError(t, err)
	}
	for _, n := range c.nodes {
		if n != keep {
			n.Kill()
		}
	}
	cl := c.client(keep.Native)
	got, err := cl.KV().Get(t.Context(), "before", client.Stale())
	require.NoError(t, err)
	require.Equal(t, "here", string(got.Value))

	for name, do := range map[string]func(ctx context.Context) error{
		"put": func(ctx context.Context) error { _, err := cl.KV().Put(ctx, "after", []byte("x")); return err },
		"get": func(ctx context.Context) error { _, err := cl.KV().Get(ctx, "before"); return err },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		began := time.Now()
		err := do(ctx)
		cancel()
		require.Error(t, err, name)
		require.Contains(t, []errs.Code{errs.NoLeader, errs.OutcomeUnknown, errs.DeadlineExceeded, errs.Unavailable}, errs.CodeOf(err), "%s: %v", name, err)
		require.Less(t, time.Since(began), 4*time.Second, name)
	}
	// The server ends first, so that the caller learns why, and a watch that can
	// not begin says so.
	short, err := client.New(client.Config{Endpoints: []string{keep.Native}, Timeout: 2 * time.Second, NoDiscovery: true})
	require.NoError(t, err)
	defer short.Close()
	began := time.Now()
	_, err = short.KV().Get(t.Context(), "before")
	require.Equal(t, errs.NoLeader, errs.CodeOf(err), "%v", err)
	_, err = short.KV().Put(t.Context(), "after", []byte("x"))
	require.Equal(t, errs.NoLeader, errs.CodeOf(err), "%v", err)
	_, err = short.KV().Watch(t.Context(), "before", client.AfterRevision(1))
	require.Contains(t, []errs.Code{errs.NoLeader, errs.Unavailable}, errs.CodeOf(err), "%v", err)
	require.Less(t, time.Since(began), 8*time.Second)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+keep.HTTP+"/v1/warehouse/kv/after", http.NoBody)
	require.NoError(t, err)
	req.Header.Set("Request-Timeout", "1s")
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	res.Body.Close()
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)

	for _, n := range c.nodes { // and it heals
		if n != keep {
			require.NoError(t, n.Start())
		}
	}
	c.allReady()
	_, err = cl.KV().Put(t.Context(), "after", []byte("x"))
	require.NoError(t, err)
	c.equalHashes()
}

// A fourth node joins, catches up and is promoted; the first is removed.
func TestJoinAndRemove(t *testing.T) {
	c := startCluster(t, 3)
	stop := c.writers(16)
	n4, err := process.JoinNekoq(process.Options{Bin: bin, Dir: c.dir}, "n4", c.nodes[:2])
	require.NoError(t, err)
	require.NoError(t, n4.Start())
	c.nodes = append(c.nodes, n4)
	require.NoError(t, n4.Ready(t.Context(), 60*time.Second))
	c.awaitRole("n4", "voter")
	n1 := c.nodes[0]
	code, body := call(t, n4, "DELETE", "/v1/system/cluster/members/n1", "")
	require.Equal(t, 200, code, body)
	c.nodes = c.nodes[1:]
	err = process.Until(t.Context(), 30*time.Second, func(ctx context.Context) error {
		_, err := n1.Get(ctx, "/readyz")
		if err == nil {
			return errs.New(errs.Conflict, "the removed node still says that it is ready")
		}
		return nil
	})
	require.NoError(t, err)
	n1.Kill()
	wait(t, time.Second)
	a := stop()
	a.everywhere(c)
	c.equalHashes()
	// The removed node does not come back under its old identity.
	require.NoError(t, n1.Start())
	err = process.Until(t.Context(), 30*time.Second, func(ctx context.Context) error {
		if !running(n1) {
			return nil
		}
		b, err := n1.Get(ctx, "/v1/system/cluster")
		if err == nil {
			return errs.New(errs.Conflict, "it answers: %s", b)
		}
		return nil
	})
	require.NoError(t, err)
	n1.Kill()
}

func (c *cluster) awaitRole(id, role string) {
	c.t.Helper()
	err := process.Until(c.t.Context(), 60*time.Second, func(ctx context.Context) error {
		code, body := call(c.t, c.nodes[1], "GET", "/v1/system/cluster", "")
		if code != 200 {
			return errs.New(errs.Unavailable, "%d %s", code, body)
		}
		if !hasRole(body, id, role) {
			return errs.New(errs.Conflict, "%s is not %s yet: %s", id, role, body)
		}
		return nil
	})
	require.NoError(c.t, err)
}

// SIGTERM drains: what was acknowledged is there after the start.
func TestGracefulStopOfLocalSwitch(t *testing.T) {
	c := startCluster(t, 0)
	stop := c.writers(16)
	wait(t, time.Second)
	require.NoError(t, c.nodes[0].Signal(syscall.SIGTERM))
	<-c.nodes[0].Done()
	require.Zero(t, c.nodes[0].ExitCode(), c.nodes[0].Logs())
	c.restart(c.nodes[0])
	wait(t, 300*time.Millisecond)
	stop().everywhere(c)
}

// The data folder of a LocalSwitch survives kill -9.
func TestKillLocalSwitch(t *testing.T) {
	c := startCluster(t, 0)
	stop := c.writers(16)
	for range 4 {
		wait(t, 700*time.Millisecond)
		c.nodes[0].Kill()
		c.restart(c.nodes[0])
	}
	stop().everywhere(c)
}
