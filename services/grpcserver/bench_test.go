package grpcserver

import (
	"context"
	"net"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
)

func processorTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkUnary compares the processor time of a small call, client included, with
// that of grpc-go's server: cpu-ns/op is what to look at.
func BenchmarkUnary(b *testing.B) {
	theirs := func(b *testing.B) string {
		srv := grpc.NewServer()
		srv.RegisterService(&echoDesc, &echo{})
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(b, err)
		go func() { _ = srv.Serve(ln) }()
		b.Cleanup(srv.Stop)
		return ln.Addr().String()
	}
	ours := func(b *testing.B) string {
		_, addr := serve(b, &echo{}, Options{})
		return addr
	}
	for _, s := range []struct {
		name string
		addr func(*testing.B) string
	}{{"ours", ours}, {"grpc-go", theirs}} {
		for _, clients := range []int{1, 64} {
			b.Run(s.name+"/"+map[int]string{1: "one", 64: "many"}[clients], func(b *testing.B) {
				cc := dial(b, s.addr(b))
				msg := make([]byte, 64)
				_, err := call(b.Context(), cc, msg)
				require.NoError(b, err)
				b.ResetTimer()
				start := processorTime()
				var wg sync.WaitGroup
				for i := range clients {
					wg.Go(func() {
						for n := i; n < b.N; n += clients {
							if _, err := call(context.Background(), cc, msg); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64(processorTime()-start)/float64(b.N), "cpu-ns/op")
			})
		}
	}
}

// BenchmarkIdleConnections tells what a connection costs that was used once and now
// waits: both ends in one process, but only the server's goroutines.
func BenchmarkIdleConnections(b *testing.B) {
	const n = 1000
	for b.Loop() {
		srv, addr := serve(b, &echo{}, Options{})
		memory := func() uint64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapInuse + m.StackInuse
		}
		before, goroutines := memory(), runtime.NumGoroutine()
		conns := make([]net.Conn, n)
		hello := append([]byte(http2.ClientPreface), appendSettings(nil)...)
		for i := range conns {
			nc, err := net.Dial("tcp", addr)
			require.NoError(b, err)
			_, err = nc.Write(hello)
			require.NoError(b, err)
			conns[i] = nc
		}
		fresh := make([]byte, 9+3*6+13+9)
		for _, nc := range conns {
			_, err := nc.Read(fresh)
			require.NoError(b, err)
		}
		b.ReportMetric(float64(memory()-before)/n, "bytes/conn")
		b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/n, "goroutines/conn")
		for _, nc := range conns {
			_ = nc.Close()
		}
		srv.Stop()
	}
}
