package warehouse_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"nekoq/services/errs"
	"nekoq/services/replica/raftnode"
	"nekoq/services/testkit/cluster"
	"nekoq/warehouse/api"
)

// row: nekoq 9. Watches on every node see every change once and in order, over kills
// of the leader, a follower that is cut off until it needs a snapshot, and a
// compaction that runs all the time.
func TestWatchesOverFaults(t *testing.T) {
	g := startRaftWith(t, 3, func(_ string, c *raftnode.Config) {
		c.SnapshotLogBytes, c.TrailingLogBytes, c.SegmentBytes, c.CacheBytes = 128<<10, 64<<10, 64<<10, 64<<10
	})
	ctx, cancel := context.WithTimeout(t.Context(), 80*time.Second)
	defer cancel()
	stop := make(chan struct{})
	var writers, watchers sync.WaitGroup
	var written, avoid atomic.Int64
	avoid.Store(-1)
	for w := range 3 {
		writers.Go(func() { g.writeTwos(ctx, w, &written, &avoid, stop) })
	}
	seen := make([]atomic.Uint64, 3)
	final := make(chan struct{})
	last := uint64(0)
	for i := range g.Members {
		seen[i].Store(1)
		watchers.Go(func() { g.follow(ctx, t, i, &seen[i], final, &last) })
	}
	writers.Go(func() { // never overtakes a watch, which would be told so
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			least := min(seen[0].Load(), seen[1].Load(), seen[2].Load())
			one, cancel := context.WithTimeout(ctx, time.Second)
			_, _ = g.node(g.Members[0].ID).KV.Compact(one, least)
			cancel()
		}
	})
	progress := func(n int64) {
		t.Helper()
		want := written.Load() + n
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for written.Load() < want && ctx.Err() == nil {
			<-tick.C
		}
	}
	progress(100)
	cut := g.Followers()[0]
	for i, m := range g.Members {
		if m == cut {
			avoid.Store(int64(i)) // its writers would only wait
		}
	}
	g.Isolate(cut)
	progress(600)
	has := cut.Replica.Status().LastLog
	cluster.Eventually(t, "the log begins after what the node that was cut off has", func() error {
		if s := g.WaitLeaderBut(cut).Replica.Status(); s.FirstLog <= has+1 {
			return fmt.Errorf("it begins at %d of %d, the node has %d", s.FirstLog, s.LastLog, has)
		}
		return nil
	})
	avoid.Store(-1)
	g.Heal()
	progress(200)
	l := g.WaitLeader()
	l.Kill()
	g.WaitLeaderBut(l)
	progress(200)
	l.Start()
	g.WaitLeader()
	progress(200)
	close(stop)
	writers.Wait()
	h, err := g.node(g.WaitLeader().ID).KV.Head(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	last = h.Revision
	close(final)
	watchers.Wait()
	if n := g.resets.Load(); n == 0 {
		t.Error("no snapshot was installed under a watch")
	} else {
		t.Logf("%d snapshots installed, %d writes, revision %d", n, written.Load(), last)
	}
	g.WaitEqual()
}

// writeTwos puts one key, or two in one transaction.
func (g *group) writeTwos(ctx context.Context, w int, written, avoid *atomic.Int64, stop <-chan struct{}) {
	value := make([]byte, 1500)
	_, _ = rand.Read(value) // never fails
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		at := (i + w) % len(g.Members)
		if int64(at) == avoid.Load() {
			continue
		}
		kv := g.node(g.Members[at].ID).KV
		one, cancel := context.WithTimeout(ctx, time.Second)
		op := func(n int) api.Op {
			return api.Op{Put: &api.PutOp{Key: fmt.Appendf(nil, "k/%d/%d/%d", w, i%20, n), Value: value}}
		}
		ops := []api.Op{op(0)}
		if i%4 == 0 {
			ops = append(ops, op(1))
		}
		_, err := kv.Txn(one, &api.Txn{Then: ops})
		cancel()
		if err == nil {
			written.Add(1)
		}
	}
}

// follow watches everything on one node, from where it stood, until it has seen last.
func (g *group) follow(ctx context.Context, t *testing.T, i int, seen *atomic.Uint64, final <-chan struct{}, last *uint64) {
	for ctx.Err() == nil {
		err := g.followOnce(ctx, t, i, seen, final, last)
		if err == nil {
			return
		}
		if errs.Has(err, errs.Compacted) {
			t.Errorf("watch on node %d at %d: %v", i, seen.Load(), err)
			return
		}
	}
	t.Errorf("watch on node %d ended at %d, before %d", i, seen.Load(), *last)
}

func (g *group) followOnce(ctx context.Context, t *testing.T, i int, seen *atomic.Uint64, final <-chan struct{}, last *uint64) error {
	kv := g.node(g.Members[i].ID).KV
	start, stop := context.WithTimeout(ctx, 2*time.Second)
	w, err := kv.Watch(start, &api.WatchRequest{From: seen.Load() + 1})
	stop()
	if err != nil {
		return err
	}
	defer w.Close()
	for {
		select {
		case <-final:
			if seen.Load() >= *last {
				return nil
			}
		default:
		}
		step, stop := context.WithTimeout(ctx, 500*time.Millisecond)
		b, err := w.Next(step)
		stop()
		sub := uint32(0)
		for j := range b.Events {
			e := &b.Events[j]
			switch rev := e.KV.ModRevision; {
			case rev == seen.Load() && j > 0 && e.Sub == sub+1:
				sub = e.Sub
			case rev == seen.Load()+1 && e.Sub == 0:
				sub = 0
				seen.Store(rev)
			default:
				t.Errorf("node %d: event %d.%d after %d.%d", i, rev, e.Sub, seen.Load(), sub)
				return nil
			}
		}
		if err != nil {
			return err
		}
	}
}

// The holder of a lock, as porcupine sees it: acquiring gives a token greater than all
// before, and a write under a token succeeds only while no greater one was given.
type lockIn struct {
	write bool
	token uint64
}

type lockOut struct {
	token uint64
	ok    bool
}

var lockModel = porcupine.Model{
	Init: func() any { return uint64(0) },
	Step: func(state, in, out any) (bool, any) {
		greatest, i, o := state.(uint64), in.(lockIn), out.(lockOut)
		if !i.write {
			return o.token > greatest, max(o.token, greatest)
		}
		return !o.ok || i.token == greatest, greatest
	},
}

// Locks, and writes that demand their tokens, are linearizable over kills of the
// leader and holders that die.
func TestLocksOverFaults(t *testing.T) {
	g := startRaft(t, 3)
	ctx, cancel := context.WithTimeout(t.Context(), 80*time.Second)
	defer cancel()
	stop := make(chan struct{})
	var mu sync.Mutex
	var ops []porcupine.Operation
	began := time.Now()
	note := func(client int, call time.Duration, in lockIn, out lockOut) {
		mu.Lock()
		defer mu.Unlock()
		ops = append(ops, porcupine.Operation{ClientId: client, Input: in, Call: int64(call), Output: out, Return: int64(time.Since(began))})
	}
	var held atomic.Int64
	var wg sync.WaitGroup
	for c := range 5 {
		wg.Go(func() {
			for round := 0; ; round++ {
				select {
				case <-stop:
					return
				default:
				}
				kv := g.node(g.Members[(c+round)%3].ID).KV
				one, cancel := context.WithTimeout(ctx, 4*time.Second)
				call := time.Since(began)
				r := api.ClaimRequest{Kind: api.TokenLock, Name: "l", Holder: fmt.Sprint(c), TTL: time.Second, Wait: 2 * time.Second}
				claim, err := kv.Claim(one, &r)
				if err != nil || !claim.Held {
					cancel()
					continue
				}
				held.Add(1)
				note(c, call, lockIn{}, lockOut{token: claim.Token})
				for i := range 3 {
					call := time.Since(began)
					_, err := kv.PutHolding(one, &api.PutRequest{Key: []byte("guarded"), Value: fmt.Appendf(nil, "%d/%d", c, i)},
						api.Token{Kind: api.TokenLock, Name: "l", Token: claim.Token})
					if err == nil {
						note(c, call, lockIn{write: true, token: claim.Token}, lockOut{ok: true})
					} else if errs.Has(err, errs.StaleToken) {
						break
					}
				}
				if round%4 != 3 { // else it dies
					_, _ = kv.Release(one, &api.ReleaseRequest{Kind: api.TokenLock, Name: "l", Lease: claim.Lease, Token: claim.Token, Revoke: true})
				}
				cancel()
			}
		})
	}
	more := func(n int64) {
		want := held.Load() + n
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for held.Load() < want && ctx.Err() == nil {
			<-tick.C
		}
	}
	more(10)
	for range 2 {
		l := g.WaitLeader()
		l.Kill()
		g.WaitLeaderBut(l)
		more(5)
		l.Start()
		more(5)
	}
	close(stop)
	wg.Wait()
	if ctx.Err() != nil {
		t.Fatalf("only %d times held", held.Load())
	}
	switch res, _ := porcupine.CheckOperationsVerbose(lockModel, ops, time.Minute); res {
	case porcupine.Illegal:
		t.Fatalf("%d operations are not linearizable", len(ops))
	case porcupine.Unknown:
		t.Fatalf("%d operations could not be judged in time", len(ops))
	}
	t.Logf("held %d times, %d operations", held.Load(), len(ops))
}
