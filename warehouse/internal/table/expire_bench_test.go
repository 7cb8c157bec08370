package table

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"nekoq/services/command"
)

// What it costs to end a lease with one key: 100,000 that come up in the same second,
// with keys in order or scattered, from the state's overlay and from its file.
func BenchmarkExpire(b *testing.B) {
	const leases = 100_000
	inOrder := make([]int, leases)
	for i := range inOrder {
		inOrder[i] = i
	}
	for _, v := range []struct {
		name   string
		order  []int
		stored bool
	}{
		{"scattered/overlay", rand.New(rand.NewPCG(1, 2)).Perm(leases), false},
		{"scattered/file", rand.New(rand.NewPCG(1, 2)).Perm(leases), true},
		{"in-order/overlay", inOrder, false},
		{"in-order/file", inOrder, true},
	} {
		b.Run(v.name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				s := newStore(b, b.TempDir())
				order, stored := v.order, v.stored
				for at := 0; at < leases; {
					var batch []command.Command
					for ; at < leases && len(batch) < command.MaxBatchCommands; at++ {
						c := PutCommand{Key: fmt.Appendf(nil, "bench/%08d", order[at]), Value: make([]byte, 64), IfRevision: AnyRevision, TTL: 1000}
						batch = append(batch, command.Command{Kind: KindPut, Payload: c.Encode()})
					}
					s.apply(batch...)
				}
				if stored {
					if err := s.m.Flush(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
				s.step(2000)
				s.events = nil
				cpu := processCPU(b)
				b.StartTimer()
				start := time.Now()
				ended, slowest := uint64(0), time.Duration(0)
				for more := true; more; {
					began := time.Now()
					e := s.expire()
					slowest = max(slowest, time.Since(began))
					ended += e.Leases
					more = e.More
					s.events = s.events[:0]
				}
				took := time.Since(start)
				b.StopTimer()
				if ended != leases || s.meta().Keys != 0 {
					b.Fatalf("%d leases ended, %d keys are left", ended, s.meta().Keys)
				}
				b.ReportMetric(float64(took.Nanoseconds())/leases, "ns/lease")
				b.ReportMetric(float64((processCPU(b)-cpu).Nanoseconds())/leases, "cpu-ns/lease")
				b.ReportMetric(float64(slowest.Microseconds())/1000, "ms-slowest-entry")
				if err := s.m.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// processCPU is the CPU time that the process has used, its background commits and
// garbage collection included.
func processCPU(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
