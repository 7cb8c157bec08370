package warehouse_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"nekoq/services/replica/raftnode"
	"nekoq/services/testkit/cluster"
	"nekoq/services/testkit/history"
	"nekoq/warehouse"
	"nekoq/warehouse/api"
)

// A follower that fell behind gets the state as a snapshot. Its watches, which stay
// open all the while, see no gap; whoever observes an election or waits for a lock
// there learns what happened.
func TestWatchesOverSnapshotInstall(t *testing.T) {
	g := startRaftWith(t, 3, func(_ string, c *raftnode.Config) {
		c.SnapshotLogBytes, c.TrailingLogBytes, c.SegmentBytes, c.CacheBytes = 128<<10, 64<<10, 64<<10, 64<<10
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cut := g.Followers()[0]
	far, near := g.node(cut.ID).KV, g.node(g.WaitLeader().ID).KV
	wr := writer{t: t, kv: near}
	wr.some(ctx, 20)

	held := wr.claim(ctx, api.TokenLock, "first")
	led := wr.claim(ctx, api.TokenElection, "first")
	observer, err := far.Observe(ctx, &api.LookRequest{Kind: api.TokenElection, Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	defer observer.Close()
	if c, err := observer.Next(ctx); err != nil || c.Token != led.Token {
		t.Fatalf("the observer begins with %+v %v", c, err)
	}
	var wg sync.WaitGroup
	lease, err := far.GrantLease(ctx, 0, 10*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	wg.Go(func() {
		c, err := far.Claim(ctx, &api.ClaimRequest{Kind: api.TokenLock, Name: "x", Holder: "second", Lease: lease.ID, Wait: time.Minute})
		if err != nil || !c.Held || c.Token <= held.Token {
			t.Errorf("who waited for the lock: %+v %v", c, err)
		}
	})
	cluster.Eventually(t, "the second waits in line", func() error {
		c, err := near.Look(ctx, &api.LookRequest{Kind: api.TokenLock, Name: "x"})
		if err == nil && len(c.Waiting) != 1 {
			err = fmt.Errorf("%d wait", len(c.Waiting))
		}
		return err
	})
	feeds := startWatches(ctx, t, far)

	g.Isolate(cut)
	near = g.node(g.WaitLeaderBut(cut).ID).KV
	wr.kv = near
	has := cut.Replica.Status().LastLog
	cluster.Eventually(t, "the log begins after what the node that was cut off has", func() error {
		wr.some(ctx, 20)
		if s := g.WaitLeaderBut(cut).Replica.Status(); s.FirstLog <= has+1 {
			return fmt.Errorf("it begins at %d of %d, the node has %d", s.FirstLog, s.LastLog, has)
		}
		return nil
	})
	wr.release(ctx, api.TokenLock, held)
	wr.release(ctx, api.TokenElection, led)
	led = wr.claim(ctx, api.TokenElection, "later")
	g.Heal()
	wr.some(ctx, 20) // what comes after the snapshot is live again
	log, head := logOf(ctx, t, near)
	feeds.end(head)
	wg.Wait()
	for c := (api.Claim{}); c.Token != led.Token; {
		if c, err = observer.Next(ctx); err != nil {
			t.Fatalf("the observer: %v", err)
		}
		if c.Token > led.Token {
			t.Fatalf("the observer sees %+v after %+v", c, led)
		}
	}
	judgeAll(t, log, feeds.feeds)
	if g.resets.Load() == 0 {
		t.Error("no snapshot was installed")
	}
	g.WaitEqual()
}

// writer changes keys in every way, one after the other.
type writer struct {
	t  *testing.T
	kv *warehouse.Service
	n  int
}

func (w *writer) some(ctx context.Context, n int) {
	for range n {
		w.n++
		value := bytes.Repeat([]byte{byte('a' + w.n%26)}, 1500)
		if w.n%10 == 0 {
			value = bytes.Repeat(value, 40) // more than a buffer of events keeps
		}
		key := func(k string) []byte { return fmt.Appendf(nil, "%s/%d", k, w.n%7) }
		put := func(k string) api.Op { return api.Op{Put: &api.PutOp{Key: key(k), Value: value}} }
		txn := api.Txn{Then: []api.Op{put("a")}}
		switch w.n % 4 {
		case 1:
			txn.Then = append(txn.Then, put("b"), put("c"))
		case 2:
			txn.Then = append(txn.Then, api.Op{Delete: &api.DeleteOp{Span: api.Prefix([]byte("b/"))}})
		}
		again(ctx, w.t, func() error { _, err := w.kv.Txn(ctx, &txn); return err })
	}
}

// again repeats what failed; that it may then be done twice does not matter here.
func again(ctx context.Context, t *testing.T, do func() error) {
	t.Helper()
	for {
		err := do()
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

func (w *writer) claim(ctx context.Context, kind api.TokenKind, holder string) (c api.Claim) {
	w.t.Helper()
	again(ctx, w.t, func() (err error) {
		c, err = w.kv.Claim(ctx, &api.ClaimRequest{Kind: kind, Name: "x", Holder: holder, TTL: 10 * time.Minute})
		return err
	})
	if !c.Held {
		w.t.Fatalf("%s does not hold: %+v", holder, c)
	}
	return c
}

func (w *writer) release(ctx context.Context, kind api.TokenKind, c api.Claim) {
	w.t.Helper()
	if _, err := w.kv.Release(ctx, &api.ReleaseRequest{Kind: kind, Name: "x", Lease: c.Lease, Token: c.Token}); err != nil {
		w.t.Fatal(err)
	}
}

// openWatches are watches of one node that are read until the end.
type openWatches struct {
	feeds []*history.Feed
	final chan struct{}
	head  uint64
	wg    sync.WaitGroup
}

// startWatches opens watches of all kinds, alone and in a set.
func startWatches(ctx context.Context, t *testing.T, kv *warehouse.Service) *openWatches {
	t.Helper()
	o := &openWatches{final: make(chan struct{})}
	in := func(p string) func(e *history.Event) bool {
		return func(e *history.Event) bool { return strings.HasPrefix(e.Key, p) }
	}
	set := kv.NewWatches()
	t.Cleanup(set.Close)
	for i, c := range []struct {
		name  string
		q     api.WatchRequest
		wants func(e *history.Event) bool
	}{
		{"of everything", api.WatchRequest{}, nil},
		{"with the version before", api.WatchRequest{Prev: true}, nil},
		{"of a prefix", api.WatchRequest{Start: []byte("b/"), End: []byte("b0")}, in("b/")},
		{"of deletes", api.WatchRequest{NoPut: true}, func(e *history.Event) bool { return e.Delete }},
		{"of puts", api.WatchRequest{NoDelete: true}, func(e *history.Event) bool { return !e.Delete }},
		{"of one key", api.WatchRequest{Start: []byte("a/3"), Exact: true}, func(e *history.Event) bool { return e.Key == "a/3" }},
		{"of nothing", api.WatchRequest{Start: []byte("none"), Exact: true}, func(*history.Event) bool { return false }},
	} {
		alone, member := history.NewFeed(c.name, 0, c.wants), history.NewFeed(c.name+", in a set", 0, c.wants)
		o.feeds = append(o.feeds, alone, member)
		w, err := kv.Watch(ctx, &c.q)
		if err == nil {
			_, err = set.Add(ctx, int64(2*i+1), &c.q)
		}
		if err != nil {
			t.Fatal(err)
		}
		o.wg.Go(func() {
			defer w.Close()
			for !o.over(alone) {
				if err := o.step(ctx, w, alone); err != nil {
					t.Errorf("watch %s: %v", c.name, err)
					return
				}
			}
		})
	}
	o.wg.Go(func() {
		for !o.allOver() && ctx.Err() == nil {
			o.stepSet(ctx, t, set)
		}
	})
	return o
}

func (o *openWatches) step(ctx context.Context, w *warehouse.Watcher, f *history.Feed) error {
	b, err := w.Next(ctx) // progress wakes it
	if err == nil {
		f.Batch(b.Revision, asEvents(&b)...)
	}
	return err
}

func (o *openWatches) stepSet(ctx context.Context, t *testing.T, set *warehouse.Watches) {
	for i := range o.feeds {
		if i%2 == 1 {
			set.Progress(int64(i))
		}
	}
	short, stop := context.WithTimeout(ctx, 100*time.Millisecond)
	defer stop()
	for {
		s, err := set.Next(short)
		switch {
		case err != nil && short.Err() == nil, s.Err != nil:
			t.Errorf("set of watches: %v %v", err, s.Err)
			return
		case err != nil:
			return
		}
		o.feeds[s.ID].Batch(s.Batch.Revision, asEvents(&s.Batch)...)
	}
}

func (o *openWatches) over(f *history.Feed) bool {
	select {
	case <-o.final:
		return f.At() >= o.head
	default:
		return false
	}
}

func (o *openWatches) allOver() bool {
	for i, f := range o.feeds {
		if i%2 == 1 && !o.over(f) {
			return false
		}
	}
	return true
}

// end lets the watches end when they have come to head.
func (o *openWatches) end(head uint64) {
	o.head = head
	close(o.final)
	o.wg.Wait()
}
