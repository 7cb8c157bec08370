package wire

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestWorkers: a burst starts one worker a request, the next burst finds them,
// and a quiet connection lets them go.
func TestWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		mux := NewMux()
		mux.Unary(1, "gate", func(context.Context, []byte, []byte) ([]byte, error) {
			<-gate
			return nil, nil
		})
		srv := NewServer(mux, ServerOptions{})
		a, b := Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			srv.ServeConn(b)
		}()
		c, err := NewConn(t.Context(), a, Options{})
		require.NoError(t, err)
		idle := func() int {
			srv.mu.Lock()
			defer srv.mu.Unlock()
			for sc := range srv.conns {
				sc.mu.Lock()
				defer sc.mu.Unlock()
				return len(sc.pool.idle)
			}
			return -1
		}
		burst := func(n int) {
			var wg sync.WaitGroup
			for range n {
				wg.Go(func() {
					if _, err := c.Call(t.Context(), 1, nil); err != nil {
						t.Error(err)
					}
				})
			}
			synctest.Wait()
			for range n {
				gate <- struct{}{}
			}
			wg.Wait()
			synctest.Wait()
		}
		burst(100)
		require.Equal(t, 100, idle())
		burst(50)
		require.Equal(t, 100, idle())
		burst(maxIdleWorkers + 100)
		require.Equal(t, maxIdleWorkers, idle())
		time.Sleep(2 * time.Minute) // of the bubble: some 48 trims
		synctest.Wait()
		require.Zero(t, idle())
		burst(3)
		require.Equal(t, 3, idle())
		require.NoError(t, c.Close())
		<-done
	})
}

//go:noinline
func deep(n int, b []byte) byte {
	var x [512]byte
	copy(x[:], b)
	if n == 0 {
		return x[3]
	}
	return deep(n-1, x[:]) + x[5]
}

// BenchmarkDeep: a handler that uses 8 KiB of stack, as a read of the state does,
// against one with the same work on one level.
func BenchmarkDeep(b *testing.B) {
	mux := NewMux()
	mux.Unary(1, "deep", func(_ context.Context, req, dst []byte) ([]byte, error) {
		return append(dst, deep(14, req)), nil
	})
	mux.Unary(2, "flat", func(_ context.Context, req, dst []byte) ([]byte, error) {
		x := byte(0)
		for range 15 {
			x += deep(0, req)
		}
		return append(dst, x), nil
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
	for m, name := range map[Method]string{1: "deep", 2: "flat"} {
		b.Run(name, func(b *testing.B) {
			hammer(b, 64, func(int) func() error {
				req := make([]byte, 64)
				return func() error {
					_, err := c.Do(context.Background(), Request{Method: m, Payload: req})
					return err
				}
			})
		})
	}
	_ = c.Close()
	<-done
}
