package warehousetest

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"nekoq/services/errs"
	"nekoq/services/replica"
	"nekoq/warehouse"
	"nekoq/warehouse/api"
)

// testKeepAlives has every node keep leases alive, most of the times without a write,
// and none of them a moment longer than the lease is there.
func testKeepAlives(t *testing.T, nodes []*Node) {
	ctx := within(t)
	const ttl = time.Hour
	for round := range 20 {
		var keep []uint64
		for range 3 {
			l, err := nodes[round%len(nodes)].kv().Grant(ctx, 0, ttl, nil)
			if err != nil {
				t.Fatal(err)
			}
			keep = append(keep, l.ID)
		}
		key := fmt.Appendf(nil, "kept/%d", round)
		if _, err := nodes[0].kv().Put(ctx, &api.PutRequest{Key: key, Lease: keep[0]}); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			for _, n := range nodes {
				checkKept(t, n, keep, ttl)
			}
		}
		revoker := nodes[(round+1)%len(nodes)]
		if _, err := revoker.kv().Revoke(ctx, keep[0]); err != nil {
			t.Fatal(err)
		}
		for i := range nodes {
			n := nodes[(round+2+i)%len(nodes)]
			if l, err := n.kv().KeepAlive(ctx, keep[0]); !errs.Has(err, errs.LeaseNotFound) {
				t.Fatalf("node %s kept a revoked lease alive: %+v %v", n.Replica.NodeID(), l, err)
			}
			checkKept(t, n, append([]uint64{12345}, keep[1:]...), 0, ttl, ttl)
			if get(t, n, string(key), 0).Found {
				t.Fatal("the key of a lease that is gone is there")
			}
		}
	}
}

// checkKept keeps ids alive together and compares each answer with the TTL wanted, of
// which the last goes for those that follow.
func checkKept(t *testing.T, n *Node, ids []uint64, want ...time.Duration) {
	t.Helper()
	var kept []warehouse.LeaseInfo
	err := again(within(t), func() (err error) { kept, err = n.KV.KeepLeases(within(t), ids, kept[:0]); return err })
	if err != nil || len(kept) != len(ids) {
		t.Fatalf("%d of %d leases were kept alive: %v", len(kept), len(ids), err)
	}
	for i, k := range kept {
		w := want[min(i, len(want)-1)]
		if k.ID != ids[i] || k.TTL != w || k.Remaining != w {
			t.Fatalf("node %s, keep-alive of lease %d: %+v, want %s", n.Replica.NodeID(), ids[i], k, w)
		}
		if w == 0 {
			continue
		}
		if i, err := n.Leases.TimeToLive(within(t), k.ID, replica.Linearizable, false); err != nil || i.Remaining > w || i.Remaining < w-time.Minute {
			t.Fatalf("node %s, lease %d after its keep-alive: %+v %v", n.Replica.NodeID(), k.ID, i, err)
		}
	}
}

// testMassExpiry ends many leases together: those of single keys and those of several.
// A watch on every node has each key's end once, a lease's keys at one revision, in the
// order of revisions, and by the lease's name. Other writes pass meanwhile, and a lease
// that is kept alive stays.
func testMassExpiry(t *testing.T, nodes []*Node) {
	const single, shared, each = 1200, 150, 3
	ctx := within(t)
	kept, err := nodes[0].kv().Grant(ctx, 0, time.Second, nil)
	if err != nil {
		t.Fatal(err)
	}
	stop := keepAliveUntil(t, nodes[len(nodes)-1], kept.ID)
	defer stop()
	watches := make([]*warehouse.Watcher, len(nodes))
	for i, n := range nodes {
		watches[i] = watchOn(t, n, api.WatchRequest{Start: []byte("mass/"), End: []byte("mass0"), Now: true, NoPut: true})
		defer watches[i].Close()
	}
	putMass(t, nodes[0], single, shared, each)
	if _, err := nodes[0].kv().Put(ctx, &api.PutRequest{Key: []byte("mass/kept"), Lease: kept.ID}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() {
			if err := endOnce(ctx, watches[i], single+shared*each); err != nil {
				t.Errorf("watch on node %s: %v", n.Replica.NodeID(), err)
			}
		})
	}
	wg.Wait()
	for _, n := range nodes {
		put(t, n, "beside", "v")
		r, err := n.kv().List(ctx, &api.ListRequest{Start: []byte("mass/"), End: []byte("mass0"), Limit: 10})
		if err != nil || len(r.Items) != 1 || string(r.Items[0].Key) != "mass/kept" {
			t.Fatalf("node %s has %d keys left: %v", n.Replica.NodeID(), len(r.Items), err)
		}
	}
}

// keepAliveUntil keeps a lease alive many times a second, until it is stopped.
func keepAliveUntil(t *testing.T, n *Node, id uint64) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			if _, err := n.Leases.KeepAlive(ctx, id); errs.Has(err, errs.LeaseNotFound) {
				t.Errorf("a lease ended that was kept alive: %v", err)
				return
			}
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

// putMass puts single keys with a TTL and shared leases of each keys.
func putMass(t *testing.T, n *Node, single, shared, each int) {
	t.Helper()
	var ops []api.Op
	flush := func() {
		t.Helper()
		err := again(within(t), func() error { return second(n.KV.Txn(within(t), &api.Txn{Then: ops})) })
		if err != nil {
			t.Fatal(err)
		}
		ops = nil
	}
	for i := range single {
		ops = append(ops, api.Op{Put: &api.PutOp{Key: fmt.Appendf(nil, "mass/%04d", i*7919%single), TTL: 1500}})
		if len(ops) == 120 {
			flush()
		}
	}
	for i := range shared {
		l, err := n.kv().Grant(within(t), uint64(1_000_000+i*i), 1500*time.Millisecond, nil)
		if err != nil {
			t.Fatal(err)
		}
		for j := range each {
			ops = append(ops, api.Op{Put: &api.PutOp{Key: fmt.Appendf(nil, "mass/s/%04d/%d", i, j), Lease: l.ID}})
		}
		if len(ops) >= 120 || i == shared-1 {
			flush()
		}
	}
}

// endOnce reads the ends of n keys from w.
func endOnce(ctx context.Context, w *warehouse.Watcher, n int) error {
	seen := map[string]bool{}
	by := map[uint64]string{} // revision to the lease
	last := uint64(0)
	for len(seen) < n {
		b, err := w.NextEvents(ctx)
		if err != nil {
			return fmt.Errorf("after %d of %d keys: %w", len(seen), n, err)
		}
		for i := range b.Events {
			e := &b.Events[i]
			key, rev := string(e.KV.Key), e.KV.ModRevision
			if e.Kind != api.EventDelete || seen[key] || key == "mass/kept" || rev < last {
				return fmt.Errorf("event %s after revision %d, seen: %v", show(e), last, seen[key])
			}
			if _, err := strconv.ParseUint(e.KV.Actor[min(len("lease-expired:"), len(e.KV.Actor)):], 10, 64); err != nil {
				return fmt.Errorf("%s ended by %q", key, e.KV.Actor)
			}
			if other := by[rev]; other != "" && other != e.KV.Actor {
				return fmt.Errorf("revision %d is of %q and of %q", rev, other, e.KV.Actor)
			}
			seen[key], by[rev], last = true, e.KV.Actor, rev
		}
	}
	return nil
}
