package raftnode_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/replica"
	"nekoq/services/replica/raftnode"
	"nekoq/services/state"
	"nekoq/services/testkit/cluster"
	"nekoq/services/testkit/faultproxy"
	"nekoq/services/testkit/history"
	"nekoq/services/testkit/register"
)

// load is clients that read and write registers through all nodes until stopped,
// half of them with sessions.
type load struct {
	t       *testing.T
	nodes   []replica.Replica
	rec     *history.Recorder
	stop    context.CancelFunc
	wg      sync.WaitGroup
	mu      sync.Mutex
	acked   int
	unknown int
}

func startLoad(t *testing.T, c *cluster.Cluster, clients int) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{t: t, rec: history.New(), stop: cancel}
	for _, m := range c.Members {
		l.nodes = append(l.nodes, m.Replica)
	}
	for i := range clients {
		l.wg.Go(func() { l.client(ctx, i) })
	}
	return l
}

func (l *load) end() {
	l.t.Helper()
	l.stop()
	l.wg.Wait()
	l.rec.Check(l.t)
	l.t.Logf("%d operations, %d writes acknowledged, %d unknown", l.rec.Len(), l.acked, l.unknown)
	require.Positive(l.t, l.acked)
}

func (l *load) client(ctx context.Context, id int) {
	rnd := rand.New(rand.NewPCG(uint64(id), 1))
	session := uint64(0)
	for n := uint64(1); ctx.Err() == nil; n++ {
		// Most clients keep to one node, so that those of a healthy one are not held up
		// by a sick one; some go about, so that sessions do.
		node := l.nodes[id%len(l.nodes)]
		if id%4 == 3 {
			node = l.nodes[rnd.IntN(len(l.nodes))]
		}
		key := fmt.Sprintf("k%d", rnd.IntN(4))
		op, cancel := context.WithTimeout(context.Background(), 1500*time.Millisecond)
		if id%2 == 1 && session == 0 {
			if res, err := node.Propose(op, state.OpenSession()); err == nil {
				session, err = state.SessionID(res.Data)
				if err != nil {
					l.t.Error(err)
				}
			}
		}
		if rnd.IntN(2) == 0 {
			l.read(op, id, node, key)
		} else {
			l.write(op, id, n, session, node, key)
		}
		cancel()
	}
}

func (l *load) read(ctx context.Context, id int, node replica.Replica, key string) {
	op := l.rec.Get(id, key)
	v, _, err := node.View(ctx, replica.Linearizable)
	if err != nil {
		l.expect(err)
		op.Drop()
		return
	}
	op.Read(register.Get(v, key))
	v.Release()
}

func (l *load) write(ctx context.Context, id int, n, session uint64, node replica.Replica, key string) {
	value := fmt.Sprintf("%d.%d", id, n)
	cmd := register.Put(key, value)
	if session != 0 {
		cmd.RequestID = command.RequestID{Session: session, Seq: n, Acked: n - 1}
	}
	op := l.rec.Put(id, key, value)
	_, err := node.Propose(ctx, cmd)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		op.OK()
		l.acked++
	case errs.Has(err, errs.OutcomeUnknown):
		op.Unknown()
		l.unknown++
	default:
		l.expect(err)
		op.Drop()
	}
}

// expect fails the test for an error that a fault does not explain.
func (l *load) expect(err error) {
	switch errs.CodeOf(err) {
	case errs.NoLeader, errs.DeadlineExceeded, errs.TooManyRequests, errs.ShuttingDown:
	default:
		l.t.Errorf("unexpected error: %v", err)
	}
}

// progress waits until n more writes were acknowledged.
func (l *load) progress(n int) {
	l.t.Helper()
	l.mu.Lock()
	want := l.acked + n
	l.mu.Unlock()
	cluster.Eventually(l.t, "writes are acknowledged", func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.acked < want {
			return fmt.Errorf("%d of %d", l.acked, want)
		}
		return nil
	})
}

// leaderGoes is a fault of the leader's links, during which another takes over.
func leaderGoes(how func(*cluster.Cluster, *cluster.Member)) func(*testing.T, *cluster.Cluster, *load) {
	return func(_ *testing.T, c *cluster.Cluster, l *load) {
		old := c.WaitLeader()
		how(c, old)
		c.WaitLeaderBut(old)
		l.progress(50)
		c.Heal()
	}
}

// followerGoes is a fault of a follower's links, without which it goes on as well.
func followerGoes(how func(*cluster.Cluster, *cluster.Member)) func(*testing.T, *cluster.Cluster, *load) {
	return func(_ *testing.T, c *cluster.Cluster, l *load) {
		how(c, c.Followers()[0])
		l.progress(100)
		c.Heal()
		l.progress(50)
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	for _, s := range []struct {
		name   string
		memory bool
		fault  func(t *testing.T, c *cluster.Cluster, l *load)
	}{
		{"LeaderIsolated", false, leaderGoes((*cluster.Cluster).Isolate)},
		{"LeaderMuted", false, leaderGoes((*cluster.Cluster).Mute)},
		{"LeaderDeaf", true, leaderGoes((*cluster.Cluster).Deafen)},
		{"FollowerIsolated", false, followerGoes((*cluster.Cluster).Isolate)},
		{"FollowerCut", true, followerGoes((*cluster.Cluster).Cut)},
		{"FollowerSlow", false, func(_ *testing.T, c *cluster.Cluster, l *load) {
			c.Slow(c.Followers()[0], 40*time.Millisecond)
			l.progress(100)
			c.Heal()
		}},
		{"EverythingDelayed", true, func(_ *testing.T, c *cluster.Cluster, l *load) {
			for _, m := range c.Members[:2] {
				c.Slow(m, 8*time.Millisecond)
			}
			l.progress(100)
			c.Heal()
		}},
		{"ConnectionsBreak", false, func(_ *testing.T, c *cluster.Cluster, l *load) {
			for range 5 {
				for _, a := range c.Members {
					for _, b := range c.Others(a) {
						c.Link(a, b).Break()
					}
				}
				l.progress(30)
			}
		}},
		{"LeadershipMovesAbout", false, func(t *testing.T, c *cluster.Cluster, l *load) {
			for range 4 {
				old := c.WaitLeader()
				if err := old.Replica.TransferLeadership(context.Background(), c.Followers()[0].ID); err != nil {
					t.Logf("transfer: %v", err)
				}
				l.progress(30)
			}
		}},
		{"HalfLinks", true, func(_ *testing.T, c *cluster.Cluster, l *load) {
			// The leader and one follower do not hear each other; the third hears both.
			old := c.WaitLeader()
			f := c.Followers()[0]
			for _, link := range []*faultproxy.Link{c.Link(old, f), c.Link(f, old)} {
				link.Cut()
			}
			l.progress(100)
			c.Heal()
		}},
	} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			c := cluster.New(t, cluster.Options{Memory: s.memory})
			l := startLoad(t, c, 10)
			l.progress(20)
			s.fault(t, c, l)
			c.WaitLeader()
			l.progress(20)
			l.end()
			c.WaitEqual()
		})
	}
}

// A leader whose network stands still must not answer from its own state once
// another one may have been elected.
func TestIsolatedLeaderGivesNoOldValue(t *testing.T) {
	t.Parallel()
	c := cluster.New(t, cluster.Options{})
	ctx := within(t, 20*time.Second)
	old := c.WaitLeader()
	old.Put(ctx, "k", "old")
	c.Isolate(old)
	read := make(chan error, 1)
	go func() {
		short, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_, err := old.Get(short, "k", replica.Linearizable)
		read <- err
	}()
	next := c.WaitLeaderBut(old)
	next.Put(ctx, "k", "new")
	err := <-read
	require.Contains(t, []errs.Code{errs.NoLeader, errs.DeadlineExceeded}, errs.CodeOf(err), "%v", err)
	stale, err := old.Get(ctx, "k", replica.Stale)
	require.NoError(t, err)
	require.Equal(t, "old", stale)
	c.Heal()
	got, err := old.Get(ctx, "k", replica.Linearizable)
	require.NoError(t, err)
	require.Equal(t, "new", got)
	c.WaitEqual()
}

func TestWithoutMajority(t *testing.T) {
	t.Parallel()
	c := cluster.New(t, cluster.Options{})
	ctx := within(t, 20*time.Second)
	left := c.Members[0]
	left.Put(ctx, "k", "v")
	_, err := left.Get(ctx, "k", replica.Linearizable)
	require.NoError(t, err)
	c.Members[1].Kill()
	c.Members[2].Kill()
	for range 3 {
		short, cancel := context.WithTimeout(context.Background(), 400*time.Millisecond)
		begin := time.Now()
		_, err = left.Replica.Propose(short, register.Put("k", "w"))
		require.Contains(t, []errs.Code{errs.NoLeader, errs.OutcomeUnknown, errs.DeadlineExceeded}, errs.CodeOf(err), "%v", err)
		require.Less(t, time.Since(begin), 3*time.Second)
		cancel()
		short, cancel = context.WithTimeout(context.Background(), 400*time.Millisecond)
		_, err = left.Get(short, "k", replica.Linearizable)
		require.Contains(t, []errs.Code{errs.NoLeader, errs.DeadlineExceeded}, errs.CodeOf(err), "%v", err)
		cancel()
	}
	v, lag, err := left.Replica.View(ctx, replica.Stale)
	require.NoError(t, err)
	require.Equal(t, "v", register.Get(v, "k"))
	require.True(t, lag.Known)
	v.Release()
	c.Members[1].Start()
	c.WaitLeader()
	left.Put(ctx, "k", "x")
	c.Members[2].Start()
	c.WaitEqual()
}

// small makes logs short enough that followers fall off them within a test.
func small(_ string, cfg *raftnode.Config) {
	cfg.SegmentBytes = 64 << 10
	cfg.SnapshotLogBytes = 128 << 10
	cfg.TrailingLogBytes = 64 << 10
	cfg.CacheBytes = 64 << 10
}

func TestFollowerGetsTheStateUnderLoad(t *testing.T) {
	t.Parallel()
	for _, store := range []string{raftnode.LogStoreWAL, raftnode.LogStoreBolt} {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			c := cluster.New(t, cluster.Options{Config: func(id string, cfg *raftnode.Config) {
				small(id, cfg)
				cfg.LogStore = store
			}})
			ctx := within(t, 60*time.Second)
			leader, away := c.WaitLeader(), c.Followers()[0]
			away.Kill()
			fill := func(n int) {
				value := string(make([]byte, 4<<10))
				for i := range n {
					leader.Put(ctx, fmt.Sprintf("fill%d", i), value)
				}
			}
			fill(300)
			cluster.Eventually(t, "the log is shortened", func() error {
				if s := leader.Replica.Status(); s.FirstLog < 50 {
					return fmt.Errorf("it begins at %d of %d, snapshot %d", s.FirstLog, s.LastLog, s.SnapshotIndex)
				}
				return nil
			})
			away.Start()
			fill(200)
			c.WaitEqual()
			require.Positive(t, away.Replica.Status().SnapshotIndex)
			// And what it took over is there after a restart.
			away.Kill()
			away.Start()
			fill(20)
			c.WaitEqual()
		})
	}
}

func TestKilledNodesKeepWhatWasAcknowledged(t *testing.T) {
	t.Parallel()
	c := cluster.New(t, cluster.Options{Config: small})
	ctx := within(t, 60*time.Second)
	next := 0
	for round := range 5 {
		l := c.WaitLeader()
		for range 40 {
			l.Put(ctx, fmt.Sprintf("k%d", next), fmt.Sprint(next))
			next++
		}
		switch round % 3 {
		case 0:
			l.Kill()
			c.WaitLeaderBut(l)
			l.Start()
		case 1:
			for _, m := range c.Members {
				m.Kill()
			}
			for _, m := range c.Members {
				m.Start()
			}
		default:
			f := c.Followers()[0]
			f.Stop()
			f.Start()
		}
	}
	c.WaitLeader()
	for _, m := range c.Members {
		v, _, err := m.Replica.View(ctx, replica.Linearizable)
		require.NoError(t, err)
		for i := range next {
			require.Equal(t, fmt.Sprint(i), register.Get(v, fmt.Sprintf("k%d", i)))
		}
		v.Release()
	}
	c.WaitEqual()
}

func TestMembership(t *testing.T) {
	t.Parallel()
	c := cluster.New(t, cluster.Options{Config: cluster.Calm})
	ctx := within(t, 30*time.Second)
	first := c.WaitLeader()
	for i := range 50 {
		first.Put(ctx, fmt.Sprint(i), "v")
	}
	n4 := c.Add("n4")
	require.False(t, n4.Replica.IsLeader())
	require.NoError(t, first.Replica.AddNonvoter(ctx, "n4", "n4"))
	cluster.Eventually(t, "the new node has caught up", func() error {
		p, err := first.Replica.Progress(ctx, "n4")
		if err != nil {
			return err
		}
		if at, _ := first.Machine.Applied(); p.Applied < at {
			return fmt.Errorf("it is at %d of %d", p.Applied, at)
		}
		return nil
	})
	require.NoError(t, first.Replica.Promote(ctx, "n4"))
	cluster.Eventually(t, "the new node knows of its vote", func() error {
		if have := n4.Replica.Servers(); !slices.Contains(have, raftnode.Server{ID: "n4", Addr: "n4", Voter: true}) {
			return fmt.Errorf("%v", have)
		}
		return nil
	})
	got, err := n4.Get(ctx, "7", replica.Linearizable)
	require.NoError(t, err)
	require.Equal(t, "v", got)

	require.Equal(t, errs.NoLeader, errs.CodeOf(c.Followers()[0].Replica.Remove(ctx, "n4")))
	require.Equal(t, errs.NotFound, errs.CodeOf(first.Replica.Promote(ctx, "nobody")))
	require.NoError(t, first.Replica.Remove(ctx, first.ID))
	second := c.WaitLeaderBut(first)
	first.Stop()
	require.Len(t, second.Replica.Servers(), 3)
	second.Put(ctx, "after", "v")
	require.NoError(t, second.Replica.TransferLeadership(ctx, "n4"))
	cluster.Eventually(t, "n4 leads", func() error {
		if l := c.Leader(); l != n4 {
			return fmt.Errorf("%v does", l)
		}
		return nil
	})
	c.WaitEqual()
}

func TestHaltedNodeStopsLoudly(t *testing.T) {
	t.Parallel()
	c := cluster.New(t, cluster.Options{Nodes: 1})
	node := c.Members[0].Replica
	_, err := node.Propose(within(t, 10*time.Second), register.Halt())
	require.Equal(t, errs.OutcomeUnknown, errs.CodeOf(err), "%v", err)
	<-node.Failed()
	require.Error(t, node.Err())
	_, err = node.Propose(within(t, 10*time.Second), register.Put("k", "v"))
	require.Equal(t, errs.Unavailable, errs.CodeOf(err), "%v", err)
	_, _, err = node.View(within(t, 10*time.Second), replica.Linearizable)
	require.Equal(t, errs.Unavailable, errs.CodeOf(err), "%v", err)
}
