package wire

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// benchConns opens n connections to one server.
func benchConns(b *testing.B, n int, dial func() (net.Conn, net.Conn)) []*Conn {
	b.Helper()
	srv := NewServer(testMux(), ServerOptions{})
	var wg sync.WaitGroup
	conns := make([]*Conn, n)
	for i := range conns {
		mine, theirs := dial()
		wg.Go(func() { srv.ServeConn(theirs) })
		c, err := NewConn(b.Context(), mine, Options{})
		require.NoError(b, err)
		conns[i] = c
	}
	b.Cleanup(func() {
		for _, c := range conns {
			_ = c.Close()
		}
		wg.Wait()
	})
	return conns
}

func tcpPair(t testing.TB) (net.Conn, net.Conn) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = ln.Close() }()
	mine, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	theirs, err := ln.Accept()
	require.NoError(t, err)
	return mine, theirs
}

// BenchmarkUnary: callers share the connections; one op is one round trip of 64 B.
func BenchmarkUnary(b *testing.B) {
	for _, transport := range []string{"tcp", "pipe"} {
		for _, k := range []struct{ callers, conns int }{{1, 1}, {8, 1}, {64, 1}, {64, 2}, {1000, 1}, {1000, 4}} {
			b.Run(fmt.Sprintf("%s/callers=%d/conns=%d", transport, k.callers, k.conns), func(b *testing.B) {
				conns := benchConns(b, k.conns, func() (net.Conn, net.Conn) {
					if transport == "tcp" {
						return tcpPair(b)
					}
					return Pipe()
				})
				hammer(b, k.callers, func(g int) func() error {
					c, req, dst := conns[g%len(conns)], make([]byte, 64), make([]byte, 0, 64)
					ctx := context.Background()
					return func() error {
						_, err := c.Do(ctx, Request{Method: mEcho, Payload: req, Dst: dst})
						return err
					}
				})
			})
		}
	}
}

// hammer shares b.N operations among the callers.
func hammer(b *testing.B, callers int, prepare func(g int) func() error) {
	b.ReportAllocs()
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	b.ResetTimer()
	before := cpuTime(b)
	for g := range callers {
		op := prepare(g)
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := op(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
}

// cpuTime is what the process has used, in ns: it holds on a busy machine, where
// calls/s does not.
func cpuTime(b *testing.B) int64 {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return u.Utime.Nano() + u.Stime.Nano()
}

// BenchmarkFloor is what one client alone could get at best: a bare echo of 64 B
// over a socket, with no framing and no goroutine beside the two.
func BenchmarkFloor(b *testing.B) {
	mine, theirs := tcpPair(b)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 64)
		for {
			if _, err := io.ReadFull(theirs, buf); err != nil {
				return
			}
			if _, err := theirs.Write(buf); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, 64)
	for b.Loop() {
		if _, err := mine.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(mine, buf); err != nil {
			b.Fatal(err)
		}
	}
	_ = mine.Close()
	<-done
}

// BenchmarkStream: one op is one message of 256 B; the streams share one
// connection.
func BenchmarkStream(b *testing.B) {
	for _, streams := range []int{1, 100} {
		b.Run(fmt.Sprintf("streams=%d", streams), func(b *testing.B) {
			mux := NewMux()
			mux.Streaming(1, "flood", func(_ context.Context, _ []byte, send func([]byte) error) error {
				msg := make([]byte, 256)
				for {
					if err := send(msg); err != nil {
						return err
					}
				}
			})
			srv := NewServer(mux, ServerOptions{})
			mine, theirs := tcpPair(b)
			done := make(chan struct{})
			go func() {
				defer close(done)
				srv.ServeConn(theirs)
			}()
			c, err := NewConn(b.Context(), mine, Options{})
			require.NoError(b, err)
			hammer(b, streams, func(int) func() error {
				s, err := c.Stream(b.Context(), 1, nil)
				require.NoError(b, err)
				return func() error {
					_, err := s.Recv(context.Background())
					return err
				}
			})
			_ = c.Close()
			<-done
		})
	}
}
