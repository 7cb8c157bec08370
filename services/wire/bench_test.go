package wire

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
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
}
