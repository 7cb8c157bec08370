package client

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/services/auth"
	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/wire"
)

// TestWritesOnceInAStorm: connections break under many writers on two nodes;
// every write that was answered took effect once, and none took effect twice.
func TestWritesOnceInAStorm(t *testing.T) {
	f := newFakeCluster()
	a, b := newFakeNode(t, f, "a"), newFakeNode(t, f, "b")
	c := connect(t, Config{Timeout: 20 * time.Second}, a, b)
	var n atomic.Int64
	for _, node := range []*fakeNode{a, b} {
		hook := func(m wire.Method) error {
			switch n.Add(1) % 97 {
			case 0:
				node.breakConns()
			case 10:
				return errs.New(errs.NoLeader, "no leader is known")
			case 20:
				return errs.New(errs.OutcomeUnknown, "the leader was lost")
			}
			return nil
		}
		set(&node.before, hook)
		set(&node.after, hook)
	}
	const writers, each = 50, 40
	var wg sync.WaitGroup
	for g := range writers {
		wg.Go(func() {
			for i := range each {
				if _, err := c.write(t.Context(), mWrite, fmt.Appendf(nil, "%d/%d", g, i)); err != nil {
					t.Errorf("write %d/%d: %v", g, i, err)
				}
			}
		})
	}
	wg.Wait()
	seen := map[string]int{}
	for _, w := range f.writes() {
		seen[w]++
	}
	require.Len(t, seen, writers*each)
	for w, n := range seen {
		require.Equal(t, 1, n, w)
	}
}

// TestSessionWindow: more writes under way than one session may have open
// another session, and one that hangs stops nobody.
func TestSessionWindow(t *testing.T) {
	f := newFakeCluster()
	a := newFakeNode(t, f, "a")
	c := connect(t, Config{Timeout: 20 * time.Second}, a)
	_, err := c.write(t.Context(), mWrite, []byte("first"))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	hung := make(chan error, 1)
	go func() {
		_, err := c.write(ctx, mBlock, nil)
		hung <- err
	}()
	require.Eventually(t, func() bool { return a.served.Load() == 3 }, 5*time.Second, time.Millisecond)
	for i := range sessionWindow + 100 {
		_, err := c.write(t.Context(), mWrite, fmt.Appendf(nil, "%d", i))
		require.NoError(t, err)
	}
	f.mu.Lock()
	require.Len(t, f.sessions, 2)
	f.mu.Unlock()
	cancel()
	require.Equal(t, errs.Canceled, errs.CodeOf(<-hung))
	_, err = c.write(t.Context(), mWrite, []byte("last"))
	require.NoError(t, err)
	require.Len(t, f.writes(), 1+sessionWindow+100+1)
}

func TestAckedFollowsTheOldest(t *testing.T) {
	var ss sessions
	s := &session{owner: &ss, id: 1, next: 1}
	s.low.Store(1)
	ss.list = []*session{s}
	c := &Client{ctx: t.Context()}
	take := func() command.RequestID {
		_, id, err := ss.take(t.Context(), c, time.Now().Add(time.Second))
		require.NoError(t, err)
		return id
	}
	for i := range uint64(5) {
		require.Equal(t, command.RequestID{Session: 1, Seq: i + 1, Acked: 1}, take())
	}
	for _, step := range []struct{ finish, acked uint64 }{{2, 1}, {3, 1}, {1, 4}, {5, 4}, {4, 6}} {
		s.finish(step.finish)
		require.Equal(t, step.acked, s.acked())
	}
	for i := uint64(6); i < 3*sessionWindow; i++ {
		id := take()
		require.Equal(t, i, id.Seq)
		require.Equal(t, i, id.Acked)
		s.finish(id.Seq)
	}
}

// TestOverTCP: the default dialer, discovery, and a server that goes away.
func TestOverTCP(t *testing.T) {
	f := newFakeCluster()
	a, b := newFakeNode(t, f, "a"), newFakeNode(t, f, "b")
	serve := func(n *fakeNode, endpoints ...string) (string, func()) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		srv := wire.NewServer(n.mux(), wire.ServerOptions{
			Hello: func() wire.ServerInfo { return wire.ServerInfo{NodeID: n.name, Endpoints: endpoints} },
		})
		done := make(chan error, 1)
		go func() { done <- srv.Serve(ln) }()
		return ln.Addr().String(), sync.OnceFunc(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			require.NoError(t, srv.Shutdown(ctx))
			require.NoError(t, <-done)
		})
	}
	addrB, stopB := serve(b)
	defer stopB()
	addrA, stopA := serve(a, addrB)
	defer stopA()
	c, err := New(Config{Endpoints: []string{addrA}})
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	info, err := c.Server(t.Context())
	require.NoError(t, err)
	require.Equal(t, "a", info.NodeID)
	last := byte(0)
	s, err := c.stream(t.Context(), mWatch, func() ([]byte, error) { return []byte{last}, nil })
	require.NoError(t, err)
	defer s.close()
	for i := byte(1); i <= 10; i++ {
		msg, err := s.recv(t.Context())
		require.NoError(t, err)
		require.Equal(t, i, msg[0])
		last = i
	}
	stopA()
	out, err := c.read(t.Context(), mRead, nil)
	require.NoError(t, err)
	require.Equal(t, "b", string(out), "the client found the node that the first one had named")
	_, err = c.write(t.Context(), mWrite, []byte("w"))
	require.NoError(t, err)
	for i := byte(11); i <= 20; i++ {
		msg, err := s.recv(t.Context())
		require.NoError(t, err)
		require.Equal(t, i, msg[0])
		last = i
	}
}

// TestFrozenServer: a server that accepts and says nothing, and one that stops
// answering, do not eat the deadline while another one is well.
func TestFrozenServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeCluster()
		good := &fakeNode{t: t, name: "good", f: f}
		good.start()
		var frozen []net.Conn
		var mu sync.Mutex
		c, err := New(Config{
			Endpoints: []string{"frozen", "good"},
			Dialer: func(_ context.Context, ep string) (net.Conn, error) {
				if ep == "good" {
					return good.dial()
				}
				x, y := wire.Pipe()
				mu.Lock()
				frozen = append(frozen, y)
				mu.Unlock()
				return x, nil
			},
		})
		require.NoError(t, err)
		c.pool.current.Store(0)
		start := time.Now()
		out, err := c.read(t.Context(), mRead, nil)
		require.NoError(t, err)
		require.Equal(t, "good", string(out))
		require.Less(t, time.Since(start), 3*time.Second)
		require.NoError(t, c.Close())
		good.stop()
		mu.Lock()
		defer mu.Unlock()
		for _, y := range frozen {
			_ = y.Close()
		}
	})
}

// TestCancelWhileDown: the end of the caller's context or of the client ends the
// retries at once.
func TestCancelWhileDown(t *testing.T) {
	a := newFakeNode(t, newFakeCluster(), "a")
	a.kill()
	c := connect(t, Config{Timeout: time.Hour}, a)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := c.read(ctx, mRead, nil)
	require.Equal(t, errs.Unavailable, errs.CodeOf(err))
	require.Contains(t, err.Error(), "no server answered: a: ")
	_, err = c.write(ctx, mWrite, nil)
	require.Contains(t, []errs.Code{errs.Unavailable, errs.DeadlineExceeded}, errs.CodeOf(err))

	ends := make(chan error, 3)
	go func() {
		_, err := c.read(t.Context(), mRead, nil)
		ends <- err
	}()
	go func() {
		_, err := c.write(t.Context(), mWrite, nil)
		ends <- err
	}()
	go func() {
		_, err := c.stream(t.Context(), mWatch, func() ([]byte, error) { return []byte{0}, nil })
		ends <- err
	}()
	require.NoError(t, c.Close())
	for range 3 {
		require.Equal(t, errs.Canceled, errs.CodeOf(<-ends))
	}
}

// serveWith replaces the node's server.
func (n *fakeNode) serveWith(so wire.ServerOptions) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.srv = wire.NewServer(wire.NewMux(), so)
}

func TestRefusedTokenIsToldAtOnce(t *testing.T) {
	a := newFakeNode(t, newFakeCluster(), "a")
	a.serveWith(wire.ServerOptions{Authenticate: func(context.Context, net.Conn, []byte) (auth.Principal, error) {
		return auth.Principal{}, errs.New(errs.Unauthenticated, "the token is not valid")
	}})
	c := connect(t, Config{Timeout: time.Hour}, a)
	_, err := c.read(t.Context(), mRead, nil)
	require.Equal(t, errs.Unauthenticated, errs.CodeOf(err))
	_, err = c.write(t.Context(), mWrite, nil)
	require.Equal(t, errs.Unauthenticated, errs.CodeOf(err))
}

func TestFullServerIsNamed(t *testing.T) {
	a := newFakeNode(t, newFakeCluster(), "a")
	a.serveWith(wire.ServerOptions{Limits: wire.Limits{MaxConns: 1}})
	c := connect(t, Config{}, a)
	_, err := c.read(t.Context(), mRead, nil)
	require.Equal(t, errs.Unimplemented, errs.CodeOf(err))
	// The server is full: that is told with its address.
	d := connect(t, Config{Timeout: 500 * time.Millisecond}, a)
	_, err = d.read(t.Context(), mRead, nil)
	require.Equal(t, errs.Unavailable, errs.CodeOf(err))
	require.Contains(t, err.Error(), "a: the server has 1 connections open")
}

func TestConfigIsChecked(t *testing.T) {
	for _, cfg := range []Config{
		{},
		{Endpoints: []string{"no-port"}},
		{Endpoints: []string{"a:1"}, Timeout: -1},
		{Endpoints: []string{"a:1"}, ConnsPerEndpoint: 100},
	} {
		_, err := New(cfg)
		require.Equal(t, errs.InvalidArgument, errs.CodeOf(err), "%+v", cfg)
	}
}

func TestSpread(t *testing.T) {
	f := newFakeCluster()
	a, b := newFakeNode(t, f, "a"), newFakeNode(t, f, "b")
	c := connect(t, Config{Spread: true, ConnsPerEndpoint: 2}, a, b)
	got := map[string]int{}
	for range 10 {
		out, err := c.read(t.Context(), mRead, nil)
		require.NoError(t, err)
		got[string(out)]++
	}
	require.Equal(t, map[string]int{"a": 5, "b": 5}, got)
}

func BenchmarkClient(b *testing.B) {
	mux := wire.NewMux()
	mux.Unary(mRead, "read", func(_ context.Context, _, dst []byte) ([]byte, error) { return append(dst, "value"...), nil })
	mux.Unary(wire.MethodSessionOpen, "open", func(_ context.Context, _, dst []byte) ([]byte, error) {
		return binary.BigEndian.AppendUint64(dst, 1), nil
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	srv := wire.NewServer(mux, wire.ServerOptions{})
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	c, err := New(Config{Endpoints: []string{ln.Addr().String()}})
	require.NoError(b, err)
	defer func() {
		_ = c.Close()
		_ = srv.Shutdown(b.Context())
		<-done
	}()
	for name, op := range map[string]func(context.Context, wire.Method, []byte) ([]byte, error){"read": c.read, "write": c.write} {
		for _, callers := range []int{1, 64, 1000} {
			b.Run(fmt.Sprintf("%s/callers=%d", name, callers), func(b *testing.B) {
				b.ReportAllocs()
				var left atomic.Int64
				left.Store(int64(b.N))
				var wg sync.WaitGroup
				for range callers {
					wg.Go(func() {
						req := make([]byte, 64)
						for left.Add(-1) >= 0 {
							if _, err := op(context.Background(), mRead, req); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
			})
		}
	}
}

// The first attempt is carried out and its answer lost; the second is refused by
// a server that has not asked the state. The caller must not be told that
// nothing was done.
func TestARefusedRetrySaysNothingOfTheFirstAttempt(t *testing.T) {
	for _, code := range []errs.Code{errs.TooManyRequests, errs.StorageFull, errs.ServiceOff} {
		f := newFakeCluster()
		a, b := newFakeNode(t, f, "a"), newFakeNode(t, f, "b")
		c := connect(t, Config{}, a, b)
		_, err := c.write(t.Context(), mWrite, []byte("first"))
		require.NoError(t, err)
		var attempts atomic.Int64
		for _, n := range []*fakeNode{a, b} {
			set(&n.before, func(m wire.Method) error {
				if m == mWrite && attempts.Add(1) == 2 {
					return errs.New(code, "refused at the door")
				}
				return nil
			})
			set(&n.after, func(m wire.Method) error {
				if m == mWrite {
					n.breakConns()
				}
				return nil
			})
		}
		_, err = c.write(t.Context(), mWrite, []byte("second"))
		require.True(t, errs.Has(err, errs.OutcomeUnknown), "%s: %v", code, err)
		require.Len(t, f.writes(), 2)
	}
}
