package wire

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/services/errs"
)

// TestDeadPeers: a peer that freezes is found, on both sides.
func TestDeadPeers(t *testing.T) {
	t.Run("the server freezes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := Pipe()
			_, err := b.Write(mustHello(t))
			require.NoError(t, err)
			c, err := NewConn(t.Context(), a, Options{})
			require.NoError(t, err)
			start := time.Now()
			_, err = c.Call(t.Context(), mEcho, nil)
			require.Equal(t, errs.OutcomeUnknown, errs.CodeOf(err))
			require.Contains(t, err.Error(), "ping")
			require.Less(t, time.Since(start), 5*time.Second, "a waiting caller learns soon")
			<-c.Done()
			_ = b.Close()
		})
	})
	t.Run("the caller freezes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := Pipe()
			_, err := a.Write(mustCallerHello(t))
			require.NoError(t, err)
			start := time.Now()
			NewServer(testMux(), ServerOptions{}).ServeConn(b)
			require.InDelta(t, 10, time.Since(start).Seconds(), 3)
			_ = a.Close()
		})
	})
	t.Run("both live and idle", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := Pipe()
			done := make(chan struct{})
			go func() {
				defer close(done)
				NewServer(testMux(), ServerOptions{}).ServeConn(b)
			}()
			c, err := NewConn(t.Context(), a, Options{})
			require.NoError(t, err)
			select {
			case <-time.After(time.Hour):
			case <-c.Done():
				t.Fatal(c.Err())
			}
			require.NoError(t, c.Close())
			<-done
		})
	})
	t.Run("the caller reads nothing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := Pipe()
			in := append(mustCallerHello(t), appendRequest(nil, frameOpen, 1, requestHead{method: mEndless}, nil)...)
			in = appendFrame(in, frameCredit, 1, binary.AppendUvarint(nil, 1<<30))
			_, err := a.Write(in)
			require.NoError(t, err)
			start := time.Now()
			NewServer(testMux(), ServerOptions{Limits: Limits{PingInterval: time.Hour}}).ServeConn(b)
			require.InDelta(t, 12, time.Since(start).Seconds(), 6)
			_ = a.Close()
		})
	})
}

func mustHello(t *testing.T) []byte {
	b, err := appendHello(appendPreamble(nil), serverHello{MaxFrame: 1 << 20, MaxRequests: 10, MaxStreams: 10})
	require.NoError(t, err)
	return b
}

func mustCallerHello(t *testing.T) []byte {
	b, err := appendHello(appendPreamble(nil), callerHello{MaxFrame: 1 << 20, Window: 100})
	require.NoError(t, err)
	return b
}

// serveTCP runs a server on a loopback port.
func serveTCP(t *testing.T, srv *Server) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := srv.Serve(ln); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = srv.Shutdown(ctx)
		wg.Wait()
	})
	return ln.Addr().String()
}

func TestShutdownDrains(t *testing.T) {
	release, started := make(chan struct{}), make(chan struct{}, 1)
	mux := testMux()
	mux.Unary(1, "slow", func(_ context.Context, _, dst []byte) ([]byte, error) {
		started <- struct{}{}
		<-release
		return append(dst, "done"...), nil
	})
	srv := NewServer(mux, ServerOptions{})
	addr := serveTCP(t, srv)
	gone := make(chan struct{})
	c, err := Dial(t.Context(), "tcp", addr, Options{OnGoaway: func() { close(gone) }})
	require.NoError(t, err)
	s, err := c.Stream(t.Context(), mEndless, nil)
	require.NoError(t, err)
	_, err = s.Recv(t.Context())
	require.NoError(t, err)
	answer := make(chan error, 1)
	go func() {
		out, err := c.Call(t.Context(), 1, nil)
		if err == nil && string(out) != "done" {
			err = fmt.Errorf("answer %q", out)
		}
		answer <- err
	}()
	<-started
	down := make(chan error, 1)
	go func() { down <- srv.Shutdown(t.Context()) }()
	<-gone
	require.True(t, c.Draining())
	_, err = c.Call(t.Context(), mEcho, nil)
	require.Equal(t, errs.ShuttingDown, errs.CodeOf(err))
	for err = nil; err == nil; {
		_, err = s.Recv(t.Context())
	}
	require.Equal(t, errs.ShuttingDown, errs.CodeOf(err))
	select {
	case err := <-down:
		t.Fatalf("shutdown did not wait for the running request: %v", err)
	default:
	}
	close(release)
	require.NoError(t, <-answer)
	require.NoError(t, <-down)
	<-c.Done()
	require.Zero(t, srv.Conns())
	_, err = Dial(t.Context(), "tcp", addr, Options{})
	require.Equal(t, errs.Unavailable, errs.CodeOf(err))
	require.Contains(t, err.Error(), "connection refused")
}

func TestShutdownGivesUp(t *testing.T) {
	srv := NewServer(testMux(), ServerOptions{})
	a, b := Pipe()
	r := startRigOn(t, srv, Options{}, a, b)
	answer := make(chan error, 1)
	go func() {
		_, err := r.conn.Call(t.Context(), mBlock, nil)
		answer <- err
	}()
	require.Eventually(t, func() bool { return srv.running() == 1 }, 5*time.Second, time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, srv.Shutdown(ctx), context.DeadlineExceeded)
	require.Equal(t, errs.OutcomeUnknown, errs.CodeOf(<-answer))
	r.wait()
	// A connection that comes late is told.
	a, b = Pipe()
	go srv.ServeConn(b)
	_, err := NewConn(t.Context(), a, Options{})
	require.Equal(t, errs.ShuttingDown, errs.CodeOf(err))
}

// running counts the requests under way.
func (s *Server) running() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for sc := range s.conns {
		sc.mu.Lock()
		n += len(sc.calls)
		sc.mu.Unlock()
	}
	return n
}

// TestCrowd: many goroutines, methods, cancels and streams on few connections.
func TestCrowd(t *testing.T) {
	srv := NewServer(testMux(), ServerOptions{})
	addr := serveTCP(t, srv)
	var conns []*Conn
	for range 2 {
		c, err := Dial(t.Context(), "tcp", addr, Options{Limits: Limits{WindowBytes: 4 << 10}})
		require.NoError(t, err)
		conns = append(conns, c)
	}
	var wg sync.WaitGroup
	for g := range 200 {
		wg.Go(func() {
			c := conns[g%2]
			for i := range 40 {
				switch (g + i) % 8 {
				case 0:
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*50*time.Microsecond)
					_, err := c.Call(ctx, mBlock, nil)
					cancel()
					if err == nil {
						t.Error("a blocked call gave an answer")
					}
				case 1:
					s, err := c.Stream(t.Context(), mCount, []byte{byte(i)})
					if err != nil {
						t.Error(err)
						continue
					}
					n := 0
					for err == nil {
						_, err = s.Recv(t.Context())
						n++
					}
					if err != io.EOF || n != i+1 {
						t.Errorf("%d messages of %d, %v", n-1, i, err)
					}
					s.Close()
				case 2:
					s, err := c.Stream(t.Context(), mEndless, nil)
					if err == nil {
						_, err = s.Recv(t.Context())
						s.Close()
					}
					if err != nil {
						t.Error(err)
					}
				default:
					want := fmt.Sprintf("%d/%d/%s", g, i, strings.Repeat("x", i*g))
					out, err := c.Call(t.Context(), mEcho, []byte(want))
					if err != nil || string(out) != want {
						t.Errorf("%q, %v", out, err)
					}
				}
			}
		})
	}
	wg.Wait()
	for _, c := range conns {
		require.Zero(t, c.Pending())
	}
	require.Eventually(t, func() bool { return srv.running() == 0 }, 5*time.Second, time.Millisecond)
	for _, c := range conns {
		require.NoError(t, c.Close())
	}
}

// TestCutAnywhere: a connection that breaks while many call gives each caller an
// answer or one of the two transport codes.
func TestCutAnywhere(t *testing.T) {
	for range 20 {
		a, b := Pipe()
		r := startRigOn(t, NewServer(testMux(), ServerOptions{}), Options{}, a, b)
		var wg sync.WaitGroup
		var answers atomic.Int64
		for range 50 {
			wg.Go(func() {
				for {
					_, err := r.conn.Call(t.Context(), mEcho, []byte("x"))
					switch errs.CodeOf(err) {
					case "":
						if answers.Add(1) == 500 {
							_ = b.Close()
						}
					case errs.Unavailable, errs.OutcomeUnknown:
						return
					default:
						t.Errorf("%v", err)
						return
					}
				}
			})
		}
		wg.Wait()
		<-r.conn.Done()
	}
}
