package warehousetest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"nekoq/services/errs"
	"nekoq/services/replica"
	"nekoq/warehouse"
	"nekoq/warehouse/api"
)

func watchOn(t *testing.T, n *Node, r api.WatchRequest) *warehouse.Watcher {
	t.Helper()
	w, err := n.kv().Watch(within(t), &r)
	if err != nil {
		t.Fatalf("watch %+v: %v", r, err)
	}
	return w
}

// show makes one event comparable.
func show(e *api.Event) string {
	return fmt.Sprintf("%d %s=%.20s@%d.%d v%d prev %d", e.Kind, e.KV.Key, e.KV.Value, e.KV.ModRevision, e.Sub, e.KV.Version, e.PrevRevision)
}

// collect reads until an event of the key stop, and checks the order on the way.
func collect(ctx context.Context, w *warehouse.Watcher, stop string) (out []string, err error) {
	defer w.Close()
	last := w.From()
	for {
		b, err := w.Next(ctx)
		if err != nil {
			return out, err
		}
		if b.Revision < last {
			return out, fmt.Errorf("progress went back from %d to %d", last, b.Revision)
		}
		prev, sub := last, uint32(0)
		for i := range b.Events {
			e := &b.Events[i]
			rev := e.KV.ModRevision
			if rev <= last || rev > b.Revision || rev < prev || (rev == prev && e.Sub <= sub) {
				return out, fmt.Errorf("event %s after revision %d.%d in a batch up to %d", show(e), prev, sub, b.Revision)
			}
			prev, sub = rev, e.Sub
			out = append(out, show(e))
			if string(e.KV.Key) == stop {
				return out, nil
			}
		}
		last = b.Revision
	}
}

// Watches on all nodes, begun before, during and after the writes, live or from
// the past, see the same events: all of them, once, in order.
func testWatches(t *testing.T, nodes []*Node) {
	ctx := within(t)
	const writers, rounds = 4, 120
	type result struct {
		name   string
		events []string
	}
	var mu sync.Mutex
	var results []result
	var watchers, writing sync.WaitGroup
	begin := func(n *Node, name string, r api.WatchRequest) {
		w := watchOn(t, n, r)
		watchers.Go(func() {
			evs, err := collect(ctx, w, "w/zz-stop")
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			results = append(results, result{name, evs})
		})
	}
	prefix := api.WatchRequest{Start: []byte("w/"), End: api.PrefixEnd([]byte("w/"))}
	live := prefix
	live.Now = true
	withPrev := prefix
	withPrev.Prev = true
	for i, n := range nodes {
		begin(n, fmt.Sprintf("live on %d", i), live)
		begin(n, fmt.Sprintf("with prev on %d", i), withPrev)
	}
	for w := range writers {
		n := nodes[w%len(nodes)]
		writing.Go(func() {
			for i := range rounds {
				key := fmt.Appendf(nil, "w/%d", (i*7+w)%11)
				var err error
				if i%9 == 8 {
					_, err = n.kv().Delete(ctx, &api.DeleteRequest{Key: key})
				} else {
					_, err = n.kv().Put(ctx, &api.PutRequest{Key: key, Value: fmt.Append(nil, w, i)})
				}
				if err == nil {
					_, err = n.kv().Put(ctx, &api.PutRequest{Key: fmt.Append(nil, "unrelated/", w)})
				}
				if err != nil {
					t.Errorf("write: %v", err)
					return
				}
			}
		})
	}
	for i, n := range nodes {
		begin(n, fmt.Sprintf("from the start, during the writes, on %d", i), prefix)
	}
	writing.Wait()
	put(t, nodes[0], "w/zz-stop", "")
	for i, n := range nodes {
		begin(n, fmt.Sprintf("from the start, after the writes, on %d", i), prefix)
	}
	watchers.Wait()
	for _, r := range results {
		if got, want := strings.Join(r.events, "\n"), strings.Join(results[0].events, "\n"); got != want {
			t.Errorf("%s saw %d events, %s %d", r.name, len(r.events), results[0].name, len(results[0].events))
		}
	}
	if len(results[0].events) < writers*rounds*8/9 {
		t.Errorf("only %d events", len(results[0].events))
	}
	resume(t, nodes, prefix, results[0].events)
}

// resume watches in many short steps, each from the revision that the one before
// had reached.
func resume(t *testing.T, nodes []*Node, r api.WatchRequest, want []string) {
	t.Helper()
	ctx := within(t)
	var got []string
	for i := 0; len(got) < len(want); i++ {
		w := watchOn(t, nodes[i%len(nodes)], r)
		b, err := w.NextEvents(ctx)
		w.Close()
		if err != nil {
			t.Fatalf("resuming after %d: %v", r.After, err)
		}
		for j := range b.Events {
			got = append(got, show(&b.Events[j]))
		}
		r.After = b.Revision
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("resumed watches saw %d events, want %d", len(got), len(want))
	}
}

// Values too large for the event ring come from the history.
func testWatchLargeValues(t *testing.T, nodes []*Node) {
	ctx, n := within(t), nodes[len(nodes)-1]
	w := watchOn(t, n, api.WatchRequest{Start: []byte("big"), Exact: true, Now: true, Prev: true})
	defer w.Close()
	before := ""
	for i := range 6 {
		value := strings.Repeat(fmt.Sprint(i), (i+1)*20_000)
		if i == 4 {
			value = "small"
		}
		put(t, nodes[0], "big", value)
		b, err := w.NextEvents(ctx)
		if err != nil || len(b.Events) != 1 || string(b.Events[0].KV.Value) != value {
			t.Fatalf("event %d: %d events, %v", i, len(b.Events), err)
		}
		if p := b.Events[0].Prev; (p == nil) != (i == 0) || (p != nil && string(p.Value) != before) {
			t.Fatalf("event %d: the version before is wrong", i)
		}
		before = value
	}
}

func testWatchRefusals(t *testing.T, nodes []*Node) {
	ctx, n := within(t), nodes[0]
	rev := put(t, n, "a", "1").Revision
	for name, c := range map[string]struct {
		r    api.WatchRequest
		code errs.Code
	}{
		"future":         {api.WatchRequest{After: rev + 1}, errs.FutureRevision},
		"no key":         {api.WatchRequest{Exact: true}, errs.InvalidArgument},
		"system key":     {api.WatchRequest{Exact: true, Start: []byte("/_sys/a")}, errs.Forbidden},
		"system prefix":  {api.WatchRequest{Start: []byte("/_sys/"), End: []byte("/_sys0")}, errs.Forbidden},
		"too long a key": {api.WatchRequest{Start: make([]byte, n.KV.Limits().MaxKeyBytes+1)}, errs.TooLarge},
	} {
		if w, err := n.kv().Watch(ctx, &c.r); !errs.Has(err, c.code) {
			t.Errorf("%s: %v, want %s", name, err, c.code)
			if w != nil {
				w.Close()
			}
		}
	}
	w := watchOn(t, n, api.WatchRequest{After: rev})
	defer w.Close()
	put(t, n, "b", "1")
	if b, err := w.NextEvents(ctx); err != nil || len(b.Events) != 1 || b.Revision != rev+1 {
		t.Fatalf("after the newest revision: %+v %v", b, err)
	}
}

func testWaitForKey(t *testing.T, nodes []*Node) {
	ctx, n := within(t), nodes[0]
	rev := put(t, n, "k", "1").Revision
	check := func(key string, after uint64, want bool) {
		t.Helper()
		k, err := n.kv().WatchKey(ctx, []byte(key), after, false)
		if err != nil {
			t.Fatalf("%q after %d: %v", key, after, err)
		}
		defer k.Close()
		if k.Changed != want {
			t.Fatalf("%q after %d: changed %v", key, after, k.Changed)
		}
	}
	check("k", rev-1, true)
	check("k", rev, false)
	check("never", rev, false)
	gone := del(t, n, "k").Revision
	check("k", rev, true)
	check("k", gone, false)
	if _, err := n.kv().WatchKey(ctx, []byte("k"), gone+1, false); !errs.Has(err, errs.FutureRevision) {
		t.Fatalf("a future revision: %v", err)
	}
	k, err := n.kv().WatchKey(ctx, []byte("k"), gone, false)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	put(t, nodes[len(nodes)-1], "k", "2")
	if err := k.Wait(ctx); err != nil {
		t.Fatalf("wait: %v", err)
	}
}

// A key with a TTL is there for all of its time, and then goes, with a deletion
// that watchers see.
func testTTL(t *testing.T, nodes []*Node) {
	ctx, n := within(t), nodes[0]
	w := watchOn(t, n, api.WatchRequest{Start: []byte("ttl"), Exact: true, Now: true})
	defer w.Close()
	began := time.Now()
	if _, err := n.kv().Put(ctx, &api.PutRequest{Key: []byte("ttl"), Value: []byte("v"), TTL: time.Second}); err != nil {
		t.Fatal(err)
	}
	put(t, n, "permanent", "v")
	for deleted := false; !deleted; {
		b, err := w.NextEvents(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for i := range b.Events {
			if b.Events[i].Kind == api.EventDelete {
				deleted = true
				if !strings.HasPrefix(b.Events[i].KV.Actor, "lease-expired:") {
					t.Errorf("deleted by %q", b.Events[i].KV.Actor)
				}
			}
		}
	}
	if d := time.Since(began); d < time.Second {
		t.Fatalf("a key with a TTL of 1s ended after %s", d)
	}
	for _, n := range nodes {
		if get(t, n, "ttl", 0).Found || !get(t, n, "permanent", 0).Found {
			t.Fatal("the wrong key has ended")
		}
	}
}

func testLeases(t *testing.T, nodes []*Node) {
	ctx, n := within(t), nodes[len(nodes)-1]
	l, err := n.kv().Grant(ctx, 0, time.Hour, []byte("meta"))
	if err != nil || l.ID == 0 || l.TTL != time.Hour || l.Revision == 0 {
		t.Fatalf("grant: %+v %v", l, err)
	}
	if _, err := n.kv().Grant(ctx, l.ID, time.Hour, nil); !errs.Has(err, errs.AlreadyExists) {
		t.Fatalf("a second grant: %v", err)
	}
	for _, k := range []string{"l1", "l2"} {
		if _, err := n.kv().Put(ctx, &api.PutRequest{Key: []byte(k), Lease: l.ID}); err != nil {
			t.Fatal(err)
		}
	}
	if r := get(t, nodes[0], "l1", 0); r.KV.Lease != l.ID {
		t.Fatalf("a key on a lease: %+v", r)
	}
	info, err := nodes[0].Leases.TimeToLive(ctx, l.ID, replica.Linearizable, true)
	if err != nil || len(info.Keys) != 2 || string(info.Meta) != "meta" || info.Remaining > time.Hour || info.Remaining < 59*time.Minute {
		t.Fatalf("time to live: %+v %v", info, err)
	}
	all, more, err := nodes[0].Leases.List(ctx, 0, 10, replica.Linearizable)
	if err != nil || more || len(all) != 1 || all[0].ID != l.ID {
		t.Fatalf("list: %+v %v %v", all, more, err)
	}
	if _, err := n.kv().KeepAlive(ctx, l.ID); err != nil {
		t.Fatalf("keep alive: %v", err)
	}
	rev, err := n.kv().Revoke(ctx, l.ID)
	if err != nil || rev == 0 {
		t.Fatalf("revoke: %d %v", rev, err)
	}
	for _, n := range nodes {
		if get(t, n, "l1", 0).Found || get(t, n, "l2", 0).Found {
			t.Fatal("keys outlived their lease")
		}
	}
	for what, err := range map[string]error{
		"keep alive": second(n.kv().KeepAlive(ctx, l.ID)),
		"revoke":     second(n.kv().Revoke(ctx, l.ID)),
		"ttl":        second(n.Leases.TimeToLive(ctx, l.ID, replica.Linearizable, false)),
	} {
		if !errs.Has(err, errs.LeaseNotFound) {
			t.Errorf("%s of an ended lease: %v", what, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func testCompaction(t *testing.T, nodes []*Node) {
	ctx, n := within(t), nodes[len(nodes)-1]
	for i := range 300 {
		put(t, n, fmt.Sprintf("c%d", i%10), fmt.Sprint(i))
	}
	del(t, n, "c9")
	rev := put(t, n, "c0", "kept").Revision
	idle := watchOn(t, n, api.WatchRequest{Start: []byte("elsewhere"), Exact: true, Now: true})
	defer idle.Close()
	put(t, n, "c0", "newest")
	if _, err := n.kv().Compact(ctx, rev+100); !errs.Has(err, errs.FutureRevision) {
		t.Fatalf("compacting the future: %v", err)
	}
	if got, err := n.kv().Compact(ctx, rev); err != nil || got != rev {
		t.Fatalf("compact: %d %v", got, err)
	}
	if _, err := n.kv().Compact(ctx, rev); !errs.Has(err, errs.Compacted) {
		t.Fatalf("compacting again: %v", err)
	}
	for _, n := range nodes {
		if r := get(t, n, "c0", rev); string(r.KV.Value) != "kept" {
			t.Fatalf("at the compact revision: %+v", r)
		}
		for what, err := range map[string]error{
			"get":   second(n.kv().Get(ctx, &api.GetRequest{Key: []byte("c0"), Revision: rev - 1})),
			"list":  second(n.kv().List(ctx, &api.ListRequest{Revision: rev - 1})),
			"watch": second(n.kv().Watch(ctx, &api.WatchRequest{After: rev - 2})),
		} {
			if c, ok := api.CompactRevision(err); !ok || c != rev {
				t.Errorf("%s below the compact revision: %v", what, err)
			}
		}
		w := watchOn(t, n, api.WatchRequest{After: rev - 1})
		b, err := w.NextEvents(ctx)
		w.Close()
		if err != nil || len(b.Events) != 2 {
			t.Fatalf("watch from the compact revision: %+v %v", b, err)
		}
	}
	// The history is swept in the background; the idle watch is not disturbed by it.
	eventually(t, "the sweep is through", func() bool {
		h, err := n.kv().History(ctx, &api.HistoryRequest{Key: []byte("c1")})
		return err == nil && len(h.Items) == 1
	})
	put(t, n, "elsewhere", "x")
	if b, err := idle.NextEvents(ctx); err != nil || len(b.Events) != 1 {
		t.Fatalf("the idle watch: %+v %v", b, err)
	}
}
