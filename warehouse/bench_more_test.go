package warehouse_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"syscall"
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
				if _, err := ws.Add(ctx, int64(i), &api.WatchRequest{Start: []byte("k"), Exact: true, Now: true}); err != nil {
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
// is, what the end of one costs in CPU time (its client's included), and how long the
// writes beside them take.
func BenchmarkExpiry(b *testing.B) {
	const leases = 100_000
	const ttl = 20 * time.Second
	for b.Loop() {
		n := localNode(b, nil)
		due := grantTogether(b, n, leases, ttl)
		ctx := context.Background()
		var puts []time.Duration
		var cpu time.Duration
		pace := time.NewTicker(time.Millisecond)
		first := time.Duration(0)
		for left := uint64(leases); left > 0; <-pace.C {
			call := time.Now()
			if _, err := n.KV.Put(ctx, &api.PutRequest{Key: []byte("w")}); err != nil {
				b.Fatal(err)
			}
			if call.After(due) {
				puts = append(puts, time.Since(call))
			} else {
				cpu = processCPU(b)
			}
			st, err := n.KV.Status(ctx, true)
			if err != nil {
				b.Fatal(err)
			}
			left = st.Keys - 1
			if left < leases && first == 0 {
				first = time.Since(due)
			}
		}
		pace.Stop()
		slices.Sort(puts)
		b.ReportMetric(first.Seconds(), "s-late-first")
		b.ReportMetric(time.Since(due).Seconds(), "s-late-last")
		b.ReportMetric(float64((processCPU(b)-cpu).Microseconds())/leases, "cpu-us/lease")
		b.ReportMetric(float64(puts[len(puts)*99/100].Microseconds())/1000, "ms-put-p99")
		b.ReportMetric(float64(puts[len(puts)-1].Microseconds())/1000, "ms-put-slowest")
	}
}

// grantTogether puts keys whose leases are all due at the time that it gives.
func grantTogether(tb testing.TB, n *warehousetest.Node, leases int, ttl time.Duration) time.Time {
	tb.Helper()
	due := time.Now().Add(ttl)
	sem := make(chan struct{}, 512)
	for i := range leases {
		sem <- struct{}{}
		go func() {
			defer func() { <-sem }()
			if _, err := n.KV.Put(context.Background(), &api.PutRequest{Key: fmt.Appendf(nil, "l/%06d", i), TTL: max(time.Until(due), time.Second)}); err != nil {
				tb.Error(err)
			}
		}()
	}
	for range cap(sem) {
		sem <- struct{}{}
	}
	return due
}

// processCPU is the CPU time that the process has used.
func processCPU(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
