package warehouse_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"nekoq/warehouse/api"
	"nekoq/warehouse/warehousetest"
)

// fillKeys puts n keys of 256 B, many in a transaction.
func fillKeys(tb testing.TB, n *warehousetest.Node, keys int) {
	tb.Helper()
	ctx := context.Background()
	value := make([]byte, 256)
	for i := 0; i < keys; {
		t := &api.Txn{}
		for range min(128, keys-i) {
			t.Then = append(t.Then, api.Op{Put: &api.PutOp{Key: fmt.Appendf(nil, "bench/%08d", i), Value: value}})
			i++
		}
		if _, err := n.KV.Txn(ctx, t); err != nil {
			tb.Fatal(err)
		}
	}
}

// A range limited to 100 of 100,000 keys, with its exact count.
func BenchmarkRangeLimited(b *testing.B) {
	n := localNode(b, nil)
	fillKeys(b, n, 100_000)
	ctx := context.Background()
	for _, stale := range []bool{false, true} {
		b.Run(fmt.Sprintf("stale=%v", stale), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r, err := n.KV.Range(ctx, &api.RangeRequest{Span: api.Prefix([]byte("bench/")), Limit: 100, Stale: stale})
				if err != nil || r.Count != 100_000 || len(r.Items) != 100 {
					b.Fatal(err, r.Count)
				}
			}
		})
	}
}

// One change to 10,000 watches on one reader.
func BenchmarkFanOut(b *testing.B) {
	for _, watchers := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprint(watchers), func(b *testing.B) {
			n := localNode(b, nil)
			ctx := context.Background()
			ws := n.KV.NewWatches()
			defer ws.Close()
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			for i := range watchers {
				if err := ws.Add(ctx, int64(i), &api.WatchRequest{Start: []byte("k"), Exact: true, Now: true}); err != nil {
					b.Fatal(err)
				}
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(watchers), "B/watch")
			b.ResetTimer()
			for b.Loop() {
				if _, err := n.KV.Put(ctx, &api.PutRequest{Key: []byte("k"), Value: []byte("v")}); err != nil {
					b.Fatal(err)
				}
				for got := 0; got < watchers; {
					s, err := ws.Next(ctx)
					if err != nil {
						b.Fatal(err)
					}
					got += len(s.Batch.Events)
				}
			}
			b.ReportMetric(float64(watchers)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// 100,000 leases, each with a key, that end in the same second: how late the last one
// is, and how long the slowest write beside them takes.
func BenchmarkExpiry(b *testing.B) {
	for b.Loop() {
		n := localNode(b, nil)
		ctx := context.Background()
		const leases = 100_000
		ttl := 20 * time.Second
		began := time.Now()
		sem := make(chan struct{}, 512)
		for i := range leases {
			sem <- struct{}{}
			go func() {
				defer func() { <-sem }()
				left := ttl - time.Since(began)
				if _, err := n.KV.Put(ctx, &api.PutRequest{Key: fmt.Appendf(nil, "l/%06d", i), TTL: max(left, time.Second)}); err != nil {
					b.Error(err)
				}
			}()
		}
		for range cap(sem) {
			sem <- struct{}{}
		}
		due := began.Add(ttl)
		slowest := time.Duration(0)
		pace := time.NewTicker(time.Millisecond)
		defer pace.Stop()
		for {
			call := time.Now()
			if _, err := n.KV.Put(ctx, &api.PutRequest{Key: []byte("w")}); err != nil {
				b.Fatal(err)
			}
			if time.Now().After(due) {
				slowest = max(slowest, time.Since(call))
			}
			st, err := n.KV.Status(ctx, true)
			if err != nil {
				b.Fatal(err)
			}
			if st.Keys <= 1 {
				break
			}
			<-pace.C // the rate of the measured writes
		}
		b.ReportMetric(time.Since(due).Seconds(), "s-late")
		b.ReportMetric(float64(slowest.Microseconds())/1000, "ms-slowest-put")
	}
}
