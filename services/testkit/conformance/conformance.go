// Package conformance is what every implementation of replica.Replica must do,
// as one suite: services/replica/local, Raft with one node and Raft with three
// run it.
//
// Only tests import it.
package conformance

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/replica"
	"nekoq/services/state"
	"nekoq/services/testkit/register"
)

// Group is the replicas of one state, started.
type Group struct {
	Replicas []replica.Replica
	// Stop shuts replica i down and waits for it.
	Stop func(i int)
}

// Make starts a new group whose registry has package register. Before runs on
// each replica before it starts.
type Make func(t *testing.T, before func(r replica.Replica)) *Group

// Run runs the suite.
func Run(t *testing.T, mk Make) {
	for _, c := range []struct {
		name string
		test func(*testing.T, *Group)
	}{
		{"WritesAreSeenEverywhere", writesAreSeen},
		{"ResultsAreTheCommandsOwn", resultsAreOwn},
		{"RefusalsAreWhole", refusalsAreWhole},
		{"RetriesGetTheFirstAnswer", retries},
		{"ConcurrentWritersLoseNothing", concurrentWriters},
		{"ViewsDoNotChange", viewsDoNotChange},
		{"StaleViewsSayTheirLag", staleViews},
		{"ContextsEnd", contextsEnd},
		{"BadCommandsAreRefused", badCommands},
		{"LargeCommands", largeCommands},
		{"TimeNeverGoesBack", timeIsMonotonic},
		{"CallersMayReuseTheirMemory", memoryReuse},
		{"StoppingIsSaid", stopping},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, mk(t, func(replica.Replica) {}))
		})
	}
	t.Run("LeaderLoops", func(t *testing.T) {
		t.Parallel()
		leaderLoops(t, mk)
	})
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func get(t *testing.T, ctx context.Context, r replica.Replica, key string) string {
	t.Helper()
	v, _, err := r.View(ctx, replica.Linearizable)
	require.NoError(t, err)
	defer v.Release()
	return register.Get(v, key)
}

func propose(t *testing.T, ctx context.Context, r replica.Replica, cmd command.Command) replica.Result {
	t.Helper()
	res, err := r.Propose(ctx, cmd)
	require.NoError(t, err)
	return res
}

func writesAreSeen(t *testing.T, g *Group) {
	ctx := deadline(t)
	var last replica.Result
	for i, r := range g.Replicas {
		value := fmt.Sprintf("from %d", i)
		res := propose(t, ctx, r, register.Put("k", value))
		require.Greater(t, res.Index, last.Index)
		require.Equal(t, last.Revision+1, res.Revision)
		require.True(t, res.Changed)
		last = res
		for _, o := range g.Replicas {
			require.Equal(t, value, get(t, ctx, o, "k"))
			v, _, err := o.View(ctx, replica.Linearizable)
			require.NoError(t, err)
			require.GreaterOrEqual(t, v.Index(), res.Index)
			require.Equal(t, res.Revision, v.Revision())
			v.Release()
		}
	}
}

func resultsAreOwn(t *testing.T, g *Group) {
	ctx := deadline(t)
	var wg sync.WaitGroup
	for w := range 32 {
		r := g.Replicas[w%len(g.Replicas)]
		wg.Go(func() {
			key, old := fmt.Sprintf("k%d", w), ""
			for i := range 20 {
				value := fmt.Sprintf("%d.%d", w, i)
				res, err := r.Propose(ctx, register.Put(key, value))
				if err != nil || string(res.Data) != old {
					t.Errorf("result %q, %v; want %q", res.Data, err, old)
					return
				}
				old = value
			}
		})
	}
	wg.Wait()
}

func refusalsAreWhole(t *testing.T, g *Group) {
	ctx := deadline(t)
	before := propose(t, ctx, g.Replicas[0], register.Put("k", "a"))
	for _, r := range g.Replicas {
		_, err := r.Propose(ctx, register.Fail())
		e := errs.From(err)
		require.Equal(t, errs.InvalidArgument, e.Code)
		require.Equal(t, []errs.Detail{{Field: "value", Value: "bad", Limit: "good"}}, e.Details)
		_, err = r.Propose(ctx, register.CAS("k", "b", "c"))
		require.Equal(t, errs.RevisionMismatch, errs.CodeOf(err), "%v", err)
		require.Equal(t, "a", get(t, ctx, r, "k"))
	}
	after := propose(t, ctx, g.Replicas[0], register.Put("k", "d"))
	require.Equal(t, before.Revision+1, after.Revision)
}

func retries(t *testing.T, g *Group) {
	ctx := deadline(t)
	res := propose(t, ctx, g.Replicas[0], state.OpenSession())
	session, err := state.SessionID(res.Data)
	require.NoError(t, err)
	cmd := register.Append("log", "x")
	cmd.RequestID = command.RequestID{Session: session, Seq: 1}
	first := propose(t, ctx, g.Replicas[0], cmd)
	for _, r := range g.Replicas {
		again := propose(t, ctx, r, cmd)
		require.Equal(t, first.Data, again.Data)
		require.Equal(t, first.Revision, again.Revision)
	}
	require.Equal(t, "x", get(t, ctx, g.Replicas[0], "log"))
	cmd.Session += 1000
	_, err = g.Replicas[0].Propose(ctx, cmd)
	require.Equal(t, errs.SessionExpired, errs.CodeOf(err))
}

func concurrentWriters(t *testing.T, g *Group) {
	ctx := deadline(t)
	const writers, each = 64, 25
	var wg sync.WaitGroup
	for w := range writers {
		r := g.Replicas[w%len(g.Replicas)]
		wg.Go(func() {
			for range each {
				if _, err := r.Propose(ctx, register.Append("all", string(rune('0'+w)))); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	for _, r := range g.Replicas {
		all := get(t, ctx, r, "all")
		for w := range writers {
			require.Equal(t, each, strings.Count(all, string(rune('0'+w))))
		}
	}
}

func viewsDoNotChange(t *testing.T, g *Group) {
	ctx := deadline(t)
	r := g.Replicas[len(g.Replicas)-1]
	propose(t, ctx, r, register.Put("k", "old"))
	v, _, err := r.View(ctx, replica.Linearizable)
	require.NoError(t, err)
	defer v.Release()
	propose(t, ctx, r, register.Put("k", "new"))
	require.Equal(t, "new", get(t, ctx, r, "k"))
	require.Equal(t, "old", register.Get(v, "k"))
}

func staleViews(t *testing.T, g *Group) {
	ctx := deadline(t)
	propose(t, ctx, g.Replicas[0], register.Put("k", "v"))
	for _, r := range g.Replicas {
		require.Equal(t, "v", get(t, ctx, r, "k")) // so it is there already
		v, lag, err := r.View(ctx, replica.Stale)
		require.NoError(t, err)
		require.Equal(t, "v", register.Get(v, "k"))
		v.Release()
		require.True(t, lag.Known)
		require.Less(t, lag.Age, 20*time.Second)
	}
}

func contextsEnd(t *testing.T, g *Group) {
	for _, r := range g.Replicas {
		gone, cancel := context.WithCancel(context.Background())
		cancel()
		_, err := r.Propose(gone, register.Put("never", "x"))
		require.Equal(t, errs.Canceled, errs.CodeOf(err), "%v", err)
		_, _, err = r.View(gone, replica.Linearizable)
		require.Equal(t, errs.Canceled, errs.CodeOf(err), "%v", err)
		_, _, err = r.View(gone, replica.Stale)
		require.Equal(t, errs.Canceled, errs.CodeOf(err), "%v", err)

		late, cancel := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
		_, err = r.Propose(late, register.Put("never", "x"))
		require.Equal(t, errs.DeadlineExceeded, errs.CodeOf(err), "%v", err)
		cancel()
	}
	require.Empty(t, get(t, deadline(t), g.Replicas[0], "never"))
}

func badCommands(t *testing.T, g *Group) {
	ctx := deadline(t)
	for _, r := range g.Replicas {
		_, err := r.Propose(ctx, command.Command{})
		require.Equal(t, errs.Internal, errs.CodeOf(err))
		cmd := register.Put("k", "v")
		cmd.Actor = strings.Repeat("a", 256)
		_, err = r.Propose(ctx, cmd)
		require.Equal(t, errs.InvalidArgument, errs.CodeOf(err))
		_, err = r.Propose(ctx, register.Put("k", strings.Repeat("v", 33<<20)))
		require.Equal(t, errs.TooLarge, errs.CodeOf(err))
	}
}

func largeCommands(t *testing.T, g *Group) {
	ctx := deadline(t)
	for i, r := range g.Replicas {
		value := strings.Repeat(fmt.Sprint(i), 4<<20) // more than one batch may have
		propose(t, ctx, r, register.Put("big", value))
		require.Equal(t, value, get(t, ctx, r, "big"))
	}
}

func timeIsMonotonic(t *testing.T, g *Group) {
	ctx := deadline(t)
	var last int64
	for i := range 20 {
		r := g.Replicas[i%len(g.Replicas)]
		cmd := register.Put("k", "v")
		cmd.Time = -1 // ignored
		propose(t, ctx, r, cmd)
		v, _, err := r.View(ctx, replica.Linearizable)
		require.NoError(t, err)
		require.GreaterOrEqual(t, v.Time(), last)
		last = v.Time()
		v.Release()
	}
	require.InDelta(t, time.Now().UnixNano(), last, float64(time.Minute))
}

func memoryReuse(t *testing.T, g *Group) {
	ctx := deadline(t)
	for i, r := range g.Replicas {
		cmd := register.Put("k", fmt.Sprintf("value %d", i))
		propose(t, ctx, r, cmd)
		clear(cmd.Payload)
		require.Equal(t, fmt.Sprintf("value %d", i), get(t, ctx, r, "k"))
	}
}

func stopping(t *testing.T, g *Group) {
	ctx := deadline(t)
	propose(t, ctx, g.Replicas[0], register.Put("k", "v"))
	for i, r := range g.Replicas {
		g.Stop(i)
		_, err := r.Propose(ctx, register.Put("k", "w"))
		require.Equal(t, errs.ShuttingDown, errs.CodeOf(err), "%v", err)
	}
}

// leaderLoops: the functions run on the leader and nowhere else, with writes
// working in them, and are waited for.
func leaderLoops(t *testing.T, mk Make) {
	type run struct {
		id   string
		term uint64
	}
	begun, ended := make(chan run, 16), make(chan run, 16)
	g := mk(t, func(r replica.Replica) {
		r.OnLeader("test", func(ctx context.Context, term uint64) {
			begun <- run{r.NodeID(), term}
			<-ctx.Done()
			ended <- run{r.NodeID(), term}
		})
	})
	ctx := deadline(t)
	var first run
	select {
	case first = <-begun:
	case <-ctx.Done():
		t.Fatal("no leader loop began")
	}
	for i, r := range g.Replicas {
		propose(t, ctx, r, register.Put("k", "v"))
		id, term := r.Leader()
		require.Equal(t, first.id, id)
		require.Equal(t, first.term, term)
		require.Equal(t, r.NodeID() == first.id, r.IsLeader())
		if r.NodeID() == first.id {
			defer func() {
				g.Stop(i)
				select {
				case last := <-ended:
					require.Equal(t, first, last)
				default:
					t.Error("the leader stopped before its loop had ended")
				}
			}()
		}
	}
}
