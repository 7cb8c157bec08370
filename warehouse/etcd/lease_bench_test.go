package etcd_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// BenchmarkBeats is what a keep-alive costs server and client together, over TCP:
// clients each with a stream and a lease of their own that wait for each answer, and
// clients that keep 64 leases on one stream.
func BenchmarkBeats(b *testing.B) {
	a := single(b)
	var conns []*grpc.ClientConn
	for range 8 {
		conns = append(conns, wire(b, a.EtcdAddr().String()))
	}
	for _, x := range []struct{ clients, leases int }{{1, 1}, {64, 1}, {8, 64}} {
		b.Run(fmt.Sprintf("clients=%d/leases=%d", x.clients, x.leases), func(b *testing.B) {
			b.SetParallelism(max(x.clients/2, 1))
			b.ReportAllocs()
			var n atomic.Int64
			cpu := processCPU(b)
			b.ResetTimer()
			b.RunParallel(func(p *testing.PB) {
				if err := beatUntil(b.Context(), pb.NewLeaseClient(conns[n.Add(1)%8]), x.leases, p.Next); err != nil {
					b.Error(err)
				}
			})
			b.ReportMetric(float64((processCPU(b)-cpu).Nanoseconds())/float64(b.N), "cpu-ns/op")
		})
	}
}

// beatUntil keeps leases alive on a stream, each again as soon as it is answered, as
// long as there are beats left.
func beatUntil(ctx context.Context, c pb.LeaseClient, leases int, next func() bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := c.LeaseKeepAlive(ctx)
	if err != nil {
		return err
	}
	pending := 0
	for range leases {
		l, err := c.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 600})
		if err != nil {
			return err
		}
		if !next() {
			break
		}
		pending++
		if err := s.Send(&pb.LeaseKeepAliveRequest{ID: l.ID}); err != nil {
			return err
		}
	}
	for ; pending > 0; pending-- {
		r, err := s.Recv()
		if err != nil {
			return err
		}
		if r.TTL != 600 {
			return fmt.Errorf("lease %x has a TTL of %d", r.ID, r.TTL)
		}
		if next() {
			pending++
			if err := s.Send(&pb.LeaseKeepAliveRequest{ID: r.ID}); err != nil {
				return err
			}
		}
	}
	return nil
}

// processCPU is the CPU time that the process has used.
func processCPU(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
