package binary_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/services/errs"
	"nekoq/services/testkit/process"
)

// tiny settings make snapshots, cuts of the log and whole copies of the state
// happen all the time, so that kills fall into them.
func tiny(store string) []string {
	return []string{
		"cluster.log_store=" + store,
		"cluster.wal_segment_bytes=65536",
		"cluster.snapshot_log_bytes=131072",
		"cluster.trailing_log_bytes=0",
		"cluster.log_cache_bytes=65536",
	}
}

// Nodes are killed, frozen and stopped at random moments, also while they start,
// with logs so short that a node that comes back needs a copy of the state.
func TestSoakMixedFaults(t *testing.T) {
	for _, store := range []string{"wal", "bolt"} {
		t.Run(store, func(t *testing.T) { mixedFaults(t, store, soak(t, 8*time.Second)) })
	}
}

func mixedFaults(t *testing.T, store string, d time.Duration) {
	c := startCluster(t, 3, tiny(store)...)
	stop, h := c.writers(32), c.record("mixed", 6)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	faults := 0
	for end := time.Now().Add(d); time.Now().Before(end); faults++ {
		wait(t, random(r, 1500*time.Millisecond))
		c.oneFault(r)
		if r.IntN(3) > 0 {
			c.allReady()
		}
	}
	c.allReady()
	wait(t, time.Second)
	a := stop()
	h.linearizable(t)
	a.everywhere(c)
	c.equalHashes()
	t.Logf("%d faults, %d states taken over from another node", faults, c.logged("Installed remote snapshot"))
}

func random(r *rand.Rand, most time.Duration) time.Duration {
	return time.Duration(r.Int64N(int64(most)))
}

// oneFault does something bad to a node, the leader two times in three.
func (c *cluster) oneFault(r *rand.Rand) {
	t := c.t
	t.Helper()
	n := c.leader()
	if r.IntN(3) == 0 {
		n = c.nodes[r.IntN(len(c.nodes))]
	}
	switch kind := r.IntN(8); {
	case kind < 4:
		t.Logf("%s killed", n.ID)
		n.Kill()
		wait(t, random(r, 2*time.Second))
		require.NoError(t, n.Start())
		if r.IntN(2) == 0 { // and again while it starts
			wait(t, random(r, 500*time.Millisecond))
			n.Kill()
			require.NoError(t, n.Start())
		}
	case kind < 6:
		t.Logf("%s frozen", n.ID)
		require.NoError(t, n.Freeze())
		wait(t, random(r, 3*time.Second))
		require.NoError(t, n.Thaw())
	case kind == 6:
		t.Logf("%s stopped, and killed on the way", n.ID)
		require.NoError(t, n.Signal(syscall.SIGTERM))
		wait(t, random(r, 300*time.Millisecond))
		n.Kill()
		require.NoError(t, n.Start())
	default:
		other := c.nodes[r.IntN(len(c.nodes))]
		t.Logf("%s and %s killed", n.ID, other.ID)
		n.Kill()
		if other != n {
			other.Kill()
			require.NoError(t, other.Start())
		}
		require.NoError(t, n.Start())
	}
}

// logged counts the lines with these words in the logs of all nodes.
func (c *cluster) logged(words string) (lines int) {
	logs, err := filepath.Glob(filepath.Join(c.dir, "*.log"))
	require.NoError(c.t, err)
	for _, l := range logs {
		b, err := os.ReadFile(l)
		require.NoError(c.t, err)
		lines += strings.Count(string(b), words)
	}
	return lines
}

// A follower is away until the others have dropped what it needs of the log, gets
// a copy of the state, and is killed in the middle of it.
func TestKilledWhileItTakesTheStateOver(t *testing.T) {
	c := startCluster(t, 3, tiny("wal")...)
	r := rand.New(rand.NewPCG(1, 2))
	stop := c.writers(16)
	for range 3 {
		f := c.follower()
		f.Kill()
		was := c.firstLog()
		err := process.Until(t.Context(), 60*time.Second, func(context.Context) error {
			if now := c.firstLog(); now < was+100 {
				return errs.New(errs.Conflict, "the log still begins at %.0f", now)
			}
			return nil
		})
		require.NoError(t, err)
		for range 3 {
			require.NoError(t, f.Start())
			wait(t, random(r, 400*time.Millisecond))
			f.Kill()
		}
		c.restart(f)
	}
	a := stop()
	a.everywhere(c)
	c.equalHashes()
	require.Positive(t, c.logged("Installed remote snapshot"), "no state was sent, so nothing was tested")
}

// firstLog is where the leader's log begins.
func (c *cluster) firstLog() float64 {
	c.t.Helper()
	return c.metric(c.leader(), "nekoq_raftnode_first_log_index")
}

func (c *cluster) metric(n *process.Nekoq, name string) float64 {
	c.t.Helper()
	code, body := call(c.t, n, "GET", "/metrics", "")
	require.Equal(c.t, 200, code)
	found := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(body)
	require.NotNil(c.t, found, "no metric %s on %s", name, n.ID)
	v, err := strconv.ParseFloat(found[1], 64)
	require.NoError(c.t, err)
	return v
}

// The leader is asked to stop under load: it answers what it has taken, hands
// leadership over, and nothing that was acknowledged is gone.
func TestStoppedLeaderLosesNothing(t *testing.T) {
	c := startCluster(t, 3)
	stop, h := c.writers(32), c.record("stopped", 6)
	for range 3 {
		wait(t, time.Second)
		l := c.leader()
		require.NoError(t, l.Signal(syscall.SIGTERM))
		select {
		case <-l.Done():
		case <-time.After(60 * time.Second):
			t.Fatalf("%s has not stopped:\n%s", l.ID, l.Logs())
		}
		require.Zero(t, l.ExitCode(), l.Logs())
		c.restart(l)
	}
	wait(t, time.Second)
	a := stop()
	h.linearizable(t)
	a.everywhere(c)
	c.equalHashes()
}

// A write through a follower goes to the leader and nowhere else: one hop.
func TestFollowersForwardToTheLeader(t *testing.T) {
	c := startCluster(t, 3)
	const writes = 50
	forwarded := func() (all []float64) {
		for _, n := range c.nodes {
			all = append(all, c.metric(n, "nekoq_raftnode_commands_forwarded_total"))
		}
		return all
	}
	leader := c.leader()
	for i, n := range c.nodes {
		cl := c.client(n.Native)
		_, err := cl.KV().Put(t.Context(), "warm", nil) // opens the session
		require.NoError(t, err)
		before := forwarded()
		for w := range writes {
			_, err := cl.KV().Put(t.Context(), fmt.Sprintf("f/%s/%d", n.ID, w), []byte("x"))
			require.NoError(t, err)
		}
		if c.leader() != leader {
			return // a machine this busy makes elections: forwarded again, and rightly
		}
		for j, after := range forwarded() {
			switch {
			case j != i:
				require.Less(t, after-before[j], float64(writes), "%s forwarded what came to %s", c.nodes[j].ID, n.ID)
			case n == leader:
				require.Less(t, after-before[j], float64(writes), "the leader forwards nothing")
			default:
				require.GreaterOrEqual(t, after-before[j], float64(writes), "what comes to %s goes to the leader", n.ID)
			}
		}
	}
	for _, n := range c.nodes {
		for _, of := range c.nodes {
			got, err := c.client(n.Native).KV().Get(t.Context(), fmt.Sprintf("f/%s/%d", of.ID, writes-1))
			require.NoError(t, err)
			require.Equal(t, "x", string(got.Value))
		}
	}
}
