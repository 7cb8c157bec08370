package warehousetest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"nekoq/services/errs"
	"nekoq/warehouse"
	"nekoq/warehouse/api"
)

func putOp(k, v string) api.Op { return api.Op{Put: &api.PutOp{Key: []byte(k), Value: []byte(v)}} }

// row: nekoq 8. Transactions, deletes of ranges, counts, rollback and diff.
func testTransactions(t *testing.T, nodes []*Node) {
	ctx := within(t)
	n := nodes[len(nodes)-1].KV
	head, err := n.Head(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	var ops []api.Op
	for i := range 100 {
		ops = append(ops, putOp(fmt.Sprintf("t/%02d", i), "1"))
	}
	res, err := n.Txn(ctx, &api.Txn{Then: ops})
	if err != nil || res.Revision != head.Revision+1 || res.StoreRevision == 0 {
		t.Fatalf("%d puts: revision %d after %d, %v", len(ops), res.Revision, head.Revision, err)
	}
	base := res.Revision
	all := api.Prefix([]byte("t/"))
	for _, nd := range nodes {
		r, err := nd.KV.Range(ctx, &api.RangeRequest{Span: all, Limit: 7})
		if err != nil || len(r.Items) != 7 || !r.More || r.Count != 100 || r.Revision != base {
			t.Fatalf("limited range: %d items, more %v, count %d, revision %d, %v", len(r.Items), r.More, r.Count, r.Revision, err)
		}
	}
	// A read-only transaction, one that deletes nothing: neither takes a revision.
	for _, tx := range []*api.Txn{
		{Then: []api.Op{{Range: &api.RangeRequest{Span: all, CountOnly: true}}}},
		{Then: []api.Op{{Delete: &api.DeleteOp{Span: api.Prefix([]byte("none/"))}}}},
	} {
		if res, err = n.Txn(ctx, tx); err != nil || res.Revision != base {
			t.Fatalf("revision %d, want %d: %v", res.Revision, base, err)
		}
	}
	d, err := n.DeleteRange(ctx, &api.DeleteOp{Span: api.Span{Key: []byte("t/10"), End: []byte("t/20")}, Prev: true})
	if err != nil || d.Deleted != 10 || len(d.Prev) != 10 || d.Revision != base+1 {
		t.Fatalf("delete: %+v %v", d, err)
	}
	p, err := n.PutOne(ctx, &api.PutOp{Key: []byte("t/00"), IgnoreLease: true, Value: []byte("2"), Prev: true})
	if err != nil || p.Prev == nil || string(p.Prev.Value) != "1" || p.Version != 2 {
		t.Fatalf("put: %+v %v", p, err)
	}
	_, diff, more, err := n.Diff(ctx, all, base, 0, 5, false)
	if err != nil || len(diff) != 5 || !more || diff[1].To != nil {
		t.Fatalf("diff: %d, more %v, %v", len(diff), more, err)
	}
	old, err := n.Range(ctx, &api.RangeRequest{Span: all, Revision: base, CountOnly: true})
	if err != nil || old.Count != 100 {
		t.Fatalf("count at %d: %d %v", base, old.Count, err)
	}
	r, err := n.Revert(ctx, all, base)
	if err != nil || r.Put != 11 || r.Deleted != 0 || r.Revision != base+3 {
		t.Fatalf("rollback: %+v %v", r, err)
	}
	now, err := n.Range(ctx, &api.RangeRequest{Span: all, SortBy: api.SortByMod, Order: api.Descending, Limit: 11})
	if err != nil || now.Count != 100 || now.Items[10].ModRevision != r.Revision {
		t.Fatalf("after the rollback: %d keys, %v", now.Count, err)
	}
	if _, err := n.Range(ctx, &api.RangeRequest{Span: all, Revision: r.Revision + 9}); !errs.Has(err, errs.FutureRevision) {
		t.Fatalf("future: %v", err)
	}
	sameHash(ctx, t, nodes)
}

// sameHash: all nodes hash the keys alike at one revision.
func sameHash(ctx context.Context, t *testing.T, nodes []*Node) {
	t.Helper()
	h, err := nodes[0].KV.HashKV(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		got, err := n.KV.HashKV(ctx, h.HashRevision)
		if err != nil || got.Hash != h.Hash {
			t.Fatalf("hash at %d: %x and %x, %v", h.HashRevision, h.Hash, got.Hash, err)
		}
	}
}

// Locks: one holder at a time, in line, tokens grow, a lost token is refused.
func testLocks(t *testing.T, nodes []*Node) {
	ctx := within(t)
	lock := func(n *Node, who string, lease uint64, wait time.Duration) api.Claim {
		t.Helper()
		c, err := n.KV.Claim(ctx, &api.ClaimRequest{Kind: api.TokenLock, Name: "jobs", Holder: who, Lease: lease, Wait: wait, Stay: wait > 0})
		if err != nil {
			t.Fatalf("%s: %v", who, err)
		}
		return c
	}
	a, b := nodes[0], nodes[len(nodes)-1]
	la, err := a.KV.GrantLease(ctx, 0, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	lb, err := b.KV.GrantLease(ctx, 0, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	first := lock(a, "a", la.ID, 0)
	if !first.Held || first.Token == 0 {
		t.Fatalf("a free lock: %+v", first)
	}
	if again := lock(b, "a", la.ID, 0); !again.Held || again.Token != first.Token {
		t.Fatalf("asked again: %+v", again)
	}
	if c := lock(b, "b", lb.ID, 0); c.Held || c.Holder != "a" || c.Token != first.Token {
		t.Fatalf("a taken lock: %+v", c)
	}
	proof := api.Token{Kind: api.TokenLock, Name: "jobs", Token: first.Token}
	if _, err := b.KV.PutHolding(ctx, &api.PutRequest{Key: []byte("work"), Value: []byte("a")}, proof); err != nil {
		t.Fatalf("a write under a token that holds: %v", err)
	}
	var wg sync.WaitGroup
	var second api.Claim
	wg.Go(func() { second = lock(b, "b", lb.ID, 20*time.Second) })
	eventually(t, "b waits in line", func() bool {
		c, err := a.KV.Look(ctx, &api.LookRequest{Kind: api.TokenLock, Name: "jobs"})
		return err == nil && len(c.Waiting) == 1 && c.Waiting[0] == "b"
	})
	if _, err := a.KV.RevokeLease(ctx, la.ID); err != nil { // the holder dies
		t.Fatal(err)
	}
	wg.Wait()
	if !second.Held || second.Token <= first.Token || second.Holder != "b" {
		t.Fatalf("the next holder: %+v after %+v", second, first)
	}
	if _, err := a.KV.PutHolding(ctx, &api.PutRequest{Key: []byte("work"), Value: []byte("stale")}, proof); !errs.Has(err, errs.StaleToken) {
		t.Fatalf("a write under a lost token: %v", err)
	}
	work := api.DeleteRequest{Key: []byte("work")}
	if _, err := a.KV.DeleteHolding(ctx, &work, proof); !errs.Has(err, errs.StaleToken) {
		t.Fatalf("a delete under a lost token: %v", err)
	}
	if _, err := a.KV.DeleteRangeHolding(ctx, &api.DeleteOp{Span: api.Prefix(work.Key)}, proof); !errs.Has(err, errs.StaleToken) {
		t.Fatalf("a delete of many under a lost token: %v", err)
	}
	proof.Token = second.Token
	work.If = api.If(1)
	if _, err := a.KV.DeleteHolding(ctx, &work, proof); !errs.Has(err, errs.RevisionMismatch) {
		t.Fatalf("a delete at another revision: %v", err)
	}
	work.If = api.Condition{}
	if w, err := a.KV.DeleteHolding(ctx, &work, proof); err != nil || w.PrevRevision == 0 || w.Revision <= w.PrevRevision {
		t.Fatalf("a delete under a token that holds: %+v %v", w, err)
	}
	if _, err := a.KV.PutHolding(ctx, &api.PutRequest{Key: work.Key}, proof); err != nil {
		t.Fatal(err)
	}
	if _, err := a.KV.Release(ctx, &api.ReleaseRequest{Kind: api.TokenLock, Name: "jobs", Lease: lb.ID, Token: first.Token}); !errs.Has(err, errs.NotLeader) {
		t.Fatalf("release under another token: %v", err)
	}
	if _, err := a.KV.Release(ctx, &api.ReleaseRequest{Kind: api.TokenLock, Name: "jobs", Lease: lb.ID, Token: second.Token, Revoke: true}); err != nil {
		t.Fatal(err)
	}
	c, err := b.KV.Look(ctx, &api.LookRequest{Kind: api.TokenLock, Name: "jobs"})
	if err != nil || c.Token != 0 || c.Holder != "" {
		t.Fatalf("a free lock: %+v %v", c, err)
	}
	// The system's keys stay hidden.
	r, err := a.KV.Range(ctx, &api.RangeRequest{Span: api.FromKey(nil)})
	if err != nil || r.Count != 1 {
		t.Fatalf("users see %d keys: %v", r.Count, err)
	}
}

// row: nekoq 10. The second node gets the first's name; after the holder dies another
// wins, and both learn it.
func testAcquire(t *testing.T, nodes []*Node) {
	ctx := within(t)
	a, b := nodes[0].KV, nodes[len(nodes)-1].KV
	acquire := func(s *warehouse.Service, who string) api.Claim {
		t.Helper()
		c, err := s.Claim(ctx, &api.ClaimRequest{Kind: api.TokenElection, Name: "master", Holder: who, TTL: 3 * time.Second, Stay: true})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	watch := func(s *warehouse.Service) *warehouse.Observer {
		t.Helper()
		o, err := s.Observe(ctx, &api.LookRequest{Kind: api.TokenElection, Name: "master"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(o.Close)
		return o
	}
	oa, ob := watch(a), watch(b)
	first := acquire(a, "node1")
	second := acquire(b, "node2")
	if !first.Held || second.Held || second.Holder != "node1" {
		t.Fatalf("first %+v, second %+v", first, second)
	}
	began := time.Now()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { // node2 lives, node1 is dead
		for {
			select {
			case <-stop:
				return
			case <-time.After(500 * time.Millisecond):
				_, _ = b.KeepLease(ctx, second.Lease)
			}
		}
	})
	defer wg.Wait()
	defer close(stop)
	for _, o := range []*warehouse.Observer{oa, ob} {
		for {
			c, err := o.Next(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if c.Holder == "node2" {
				if c.Token != second.Own || c.Token <= first.Token {
					t.Fatalf("the new leader: %+v", c)
				}
				break
			}
		}
	}
	if took := time.Since(began); took < 2500*time.Millisecond || took > 8*time.Second {
		t.Errorf("the next leader came after %v, want 3 to 4 s", took)
	}
}

// row: nekoq 9
func testFolder(t *testing.T, nodes []*Node) {
	ctx := within(t)
	a, b := nodes[0].KV, nodes[len(nodes)-1].KV
	if _, err := a.WatchFolder(ctx, "/cfg", 0); !errs.Has(err, errs.InvalidArgument) {
		t.Fatalf("a path without a slash: %v", err)
	}
	put := func(k, v string) {
		t.Helper()
		if _, err := a.Put(ctx, &api.PutRequest{Key: []byte(k), Value: []byte(v)}); err != nil {
			t.Fatal(err)
		}
	}
	put("/cfg/a", "1")
	put("/cfg0", "x")
	f, err := b.WatchFolder(ctx, "/cfg/", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	step, err := f.Next(ctx)
	if err != nil || !step.First || len(step.Existing) != 1 || string(step.Existing[0].Key) != "/cfg/a" {
		t.Fatalf("the first event: %+v %v", step, err)
	}
	put("/cfg/b", "1")
	put("/cfg/a", "2")
	if _, err := a.Delete(ctx, &api.DeleteRequest{Key: []byte("/cfg/b")}); err != nil {
		t.Fatal(err)
	}
	want := []string{"created /cfg/b", "modified /cfg/a", "deleted /cfg/b"}
	var got []string
	for len(got) < len(want) {
		if step, err = f.Next(ctx); err != nil {
			t.Fatal(err)
		}
		for _, c := range step.Changes {
			got = append(got, string(c.Kind)+" "+string(c.KV.Key))
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("%q, want %q", got, want)
	}
}

// Many watches on one reader: from the past, from the future, filtered, with progress.
func testManyWatches(t *testing.T, nodes []*Node) {
	ctx := within(t)
	kv := nodes[len(nodes)-1].KV
	ws := kv.NewWatches()
	defer ws.Close()
	head, err := kv.Head(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	const writes = 300
	start := head.Revision
	add := func(id int64, r api.WatchRequest) {
		t.Helper()
		r.Start, r.End = []byte("m/"), []byte("m0")
		if _, err := ws.Add(ctx, id, &r); err != nil {
			t.Fatal(err)
		}
	}
	for id := range int64(20) {
		add(id, api.WatchRequest{Now: true, Prev: id == 0})
	}
	add(100, api.WatchRequest{From: start + writes}) // ahead of the store
	add(101, api.WatchRequest{Now: true, NoPut: true})
	if _, err := ws.Add(ctx, 101, &api.WatchRequest{Start: []byte("m/")}); !errs.Has(err, errs.AlreadyExists) {
		t.Fatalf("an id twice: %v", err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range writes {
			var err error
			if i%10 == 9 {
				_, err = kv.Delete(ctx, &api.DeleteRequest{Key: fmt.Appendf(nil, "m/%d", (i-1)%7)})
			} else {
				_, err = kv.Put(ctx, &api.PutRequest{Key: fmt.Appendf(nil, "m/%d", i%7), Value: fmt.Appendf(nil, "%d", i)})
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	defer wg.Wait()
	seen := map[int64]uint64{}
	counts := map[int64]int{}
	late := false
	for {
		step, err := ws.Next(ctx)
		if err != nil || step.Err != nil {
			t.Fatal(err, step.Err)
		}
		for i := range step.Batch.Events {
			e := &step.Batch.Events[i]
			rev := e.KV.ModRevision
			if last := seen[step.ID]; rev <= last || (step.ID < 100 && last != 0 && rev != last+1) {
				t.Fatalf("watch %d: revision %d after %d", step.ID, rev, last)
			}
			if step.ID == 0 && e.PrevRevision != 0 && (e.Prev == nil || e.Prev.ModRevision != e.PrevRevision) {
				t.Fatalf("no version before %d", rev)
			}
			if step.ID == 101 && e.Kind != api.EventDelete || step.ID == 100 && rev < start+writes {
				t.Fatalf("watch %d got %+v", step.ID, e)
			}
			seen[step.ID] = rev
			counts[step.ID]++
		}
		if len(seen) == 22 && !late {
			late = true
			add(200, api.WatchRequest{From: start + 1}) // all of it again
		}
		whole := counts[200] == writes && counts[100] == 1
		for id := range int64(20) {
			whole = whole && counts[id] == writes
		}
		if whole {
			break
		}
	}
	ws.Progress(101)
	for {
		step, err := ws.Next(ctx)
		if err != nil || step.Err != nil {
			t.Fatal(err, step.Err)
		}
		if step.ID == 101 && len(step.Batch.Events) == 0 {
			if step.Batch.Revision != start+writes {
				ws.Progress(101) // honest, and not there yet
				continue
			}
			break
		}
	}
	if !ws.Remove(100) || ws.Remove(100) || ws.Len() != 22 {
		t.Fatalf("after a removal there are %d watches", ws.Len())
	}
	if _, err := kv.Compact(ctx, start+writes); err != nil {
		t.Fatal(err)
	}
	eventually(t, "this node has the compaction", func() bool {
		st, err := kv.Status(ctx, true)
		return err == nil && st.CompactRevision == start+writes
	})
	add(300, api.WatchRequest{From: start + 1})
	for {
		step, err := ws.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if step.Err == nil {
			continue
		}
		if rev, ok := api.CompactRevision(step.Err); step.ID != 300 || !ok || rev != start+writes {
			t.Fatalf("%+v", step)
		}
		break
	}
}

// A prefix at its quota is refused and the others go on; watches count on their server.
func testQuotas(t *testing.T, nodes []*Node) {
	ctx := within(t)
	kv := nodes[len(nodes)-1].KV
	if err := kv.SetQuota(ctx, api.Quota{Prefix: []byte("tenant/"), MaxKeys: 3, MaxWatches: 1}); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		_, err := kv.Put(ctx, &api.PutRequest{Key: fmt.Appendf(nil, "tenant/%d", i)})
		if (i < 3) != (err == nil) || (i == 3 && !errs.Has(err, errs.QuotaExceeded)) {
			t.Fatalf("key %d: %v", i, err)
		}
	}
	if _, err := kv.Put(ctx, &api.PutRequest{Key: []byte("other/1")}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "this node has the quota", func() bool {
		qs, err := kv.Quotas(ctx, true)
		return err == nil && len(qs) == 1 && qs[0].Keys == 3
	})
	w, err := kv.Watch(ctx, &api.WatchRequest{Start: []byte("tenant/"), End: []byte("tenant0"), Now: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Watch(ctx, &api.WatchRequest{Start: []byte("tenant/1"), Exact: true, Now: true}); !errs.Has(err, errs.QuotaExceeded) {
		t.Fatalf("a second watch: %v", err)
	}
	w.Close()
	w, err = kv.Watch(ctx, &api.WatchRequest{Start: []byte("tenant/1"), Exact: true, Now: true})
	if err != nil {
		t.Fatalf("after the first closed: %v", err)
	}
	w.Close()
	if err := kv.SetStoreLimit(ctx, 5); !errs.Has(err, errs.InvalidArgument) {
		t.Fatalf("a limit of 5 bytes: %v", err)
	}
	if err := kv.SetStoreLimit(ctx, warehouse.MinStoreLimit); err != nil {
		t.Fatal(err)
	}
	value := make([]byte, 8<<10)
	for i := range 20 {
		if _, err = kv.Put(ctx, &api.PutRequest{Key: fmt.Appendf(nil, "fill/%d", i%2), Value: value}); err != nil {
			break
		}
	}
	if !errs.Has(err, errs.QuotaExceeded) {
		t.Fatalf("the full store: %v", err)
	}
	eventually(t, "an alarm at 80 %", func() bool {
		as, err := kv.Alarms(ctx)
		return err == nil && len(as) >= 1 && as[0].Kind == warehouse.AlarmEarly
	})
	st, err := kv.Status(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.CompactTo(ctx, st.Revision, true); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(ctx, &api.PutRequest{Key: []byte("fill/0"), Value: value}); err != nil {
		t.Fatalf("after the compaction: %v", err)
	}
}
