package wire

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
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

	"nekoq/services/auth"
	"nekoq/services/errs"
	"nekoq/services/internal/link"
)

func TestTooLarge(t *testing.T) {
	const limit = 64 << 10
	small := Limits{MaxFrameBytes: limit}
	big := make([]byte, limit+1)
	t.Run("the caller knows the server's limit", func(t *testing.T) {
		r := startRig(t, ServerOptions{Limits: small}, Options{})
		_, err := r.conn.Call(t.Context(), mEcho, big)
		require.Equal(t, errs.TooLarge, errs.CodeOf(err))
		require.Equal(t, fmt.Sprint(limit), errs.From(err).Details[0].Limit)
		_, err = r.conn.Stream(t.Context(), mCount, big)
		require.Equal(t, errs.TooLarge, errs.CodeOf(err))
	})
	t.Run("the server refuses one request and goes on", func(t *testing.T) {
		r := startRig(t, ServerOptions{Limits: small}, Options{})
		r.conn.maxOut = 1 << 30
		_, err := r.conn.Call(t.Context(), mEcho, big)
		require.Equal(t, errs.TooLarge, errs.CodeOf(err))
		_, err = r.conn.Call(t.Context(), mEcho, []byte("x"))
		require.NoError(t, err)
	})
	t.Run("an answer over the caller's limit", func(t *testing.T) {
		mux := NewMux()
		mux.Unary(1, "big", func(_ context.Context, _, dst []byte) ([]byte, error) { return append(dst, big...), nil })
		mux.Streaming(2, "big stream", func(_ context.Context, _ []byte, send func([]byte) error) error { return send(big) })
		a, b := Pipe()
		r := startRigOn(t, NewServer(mux, ServerOptions{}), Options{Limits: small}, a, b)
		_, err := r.conn.Call(t.Context(), 1, nil)
		require.Equal(t, errs.TooLarge, errs.CodeOf(err))
		s, err := r.conn.Stream(t.Context(), 2, nil)
		require.NoError(t, err)
		defer s.Close()
		_, err = s.Recv(t.Context())
		require.Equal(t, errs.TooLarge, errs.CodeOf(err))
	})
	t.Run("one as long as the limit", func(t *testing.T) {
		r := startRig(t, ServerOptions{}, Options{})
		body := make([]byte, DefaultLimits().MaxFrameBytes-minLength-maxRequestHead)
		out, err := r.conn.Call(t.Context(), mEcho, body)
		require.NoError(t, err)
		require.Len(t, out, len(body))
	})
}

func TestTooMany(t *testing.T) {
	r := startRig(t, ServerOptions{Limits: Limits{MaxRequests: 3, MaxStreams: 1}}, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	s, err := r.conn.Stream(ctx, mEndless, nil)
	require.NoError(t, err)
	_, err = s.Recv(ctx)
	require.NoError(t, err)
	s2, err := r.conn.Stream(ctx, mEndless, nil)
	require.NoError(t, err)
	defer s2.Close()
	_, err = s2.Recv(ctx)
	require.Equal(t, errs.TooManyRequests, errs.CodeOf(err))
	require.Equal(t, "max_streams", errs.From(err).Details[0].Field)

	var refused atomic.Int64
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			_, err := r.conn.Call(ctx, mBlock, nil)
			if errs.Has(err, errs.TooManyRequests) {
				refused.Add(1)
			}
		})
	}
	require.Eventually(t, func() bool { return refused.Load() == 8 }, 5*time.Second, time.Millisecond)
	cancel()
	wg.Wait()
	// What was cancelled makes room again.
	require.Eventually(t, func() bool {
		_, err := r.conn.Call(t.Context(), mEcho, nil)
		return err == nil
	}, 5*time.Second, time.Millisecond)
}

func TestMaxConns(t *testing.T) {
	srv := NewServer(testMux(), ServerOptions{Limits: Limits{MaxConns: 1}})
	a, b := Pipe()
	startRigOn(t, srv, Options{}, a, b)
	a2, b2 := Pipe()
	var wg sync.WaitGroup
	wg.Go(func() { srv.ServeConn(b2) })
	_, err := NewConn(t.Context(), a2, Options{})
	require.Equal(t, errs.TooManyRequests, errs.CodeOf(err))
	wg.Wait()
}

// rawCaller speaks to a server by hand, after an orderly hello.
func rawCaller(t *testing.T, so ServerOptions) net.Conn {
	t.Helper()
	a, b := Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		NewServer(testMux(), so).ServeConn(b)
	}()
	t.Cleanup(func() {
		_ = a.Close()
		<-done
	})
	require.NoError(t, a.SetDeadline(time.Now().Add(10*time.Second)))
	hello, err := appendHello(appendPreamble(nil), callerHello{MaxFrame: 1 << 20, Window: 100})
	require.NoError(t, err)
	_, err = a.Write(hello)
	require.NoError(t, err)
	require.NoError(t, readPreamble(a))
	return a
}

func TestViolationsCloseTheConnection(t *testing.T) {
	req := func(id uint32) []byte { return appendRequest(nil, frameRequest, id, requestHead{method: mBlock}, nil) }
	for name, in := range map[string][]byte{
		"stream id 0":        req(0),
		"duplicate id":       append(req(7), req(7)...),
		"unknown type":       appendFrame(nil, 99, 1, nil),
		"a server's frame":   appendFrame(nil, frameResponse, 1, nil),
		"a second hello":     appendFrame(nil, frameHello, 0, []byte("{}")),
		"short request":      appendFrame(nil, frameRequest, 1, []byte{0}),
		"unknown flags":      appendFrame(nil, frameRequest, 1, []byte{0x80, 0, 0}),
		"zero timeout":       appendFrame(nil, frameRequest, 1, []byte{flagTimeout, 0, 0, 0}),
		"short ping":         appendFrame(nil, framePing, 0, []byte{1}),
		"far too long frame": binary.BigEndian.AppendUint32(nil, 1<<31),
		"endless credit": append(appendRequest(nil, frameOpen, 3, requestHead{method: mEndless}, nil),
			appendFrame(nil, frameCredit, 3, binary.AppendUvarint(nil, 1<<60))...),
	} {
		t.Run(name, func(t *testing.T) {
			c := rawCaller(t, ServerOptions{})
			_, err := c.Write(append(in, make([]byte, headerSize)...))
			require.NoError(t, err)
			r := newFrameReader(c, 1<<20)
			for {
				fr, err := r.next()
				require.NoError(t, err)
				if fr.typ != frameGoaway {
					continue
				}
				e, err := parseError(fr.body)
				require.NoError(t, err)
				require.Equal(t, errs.ProtocolViolation, e.Code)
				break
			}
			_, err = r.next()
			require.Error(t, err)
		})
	}
}

func TestHandshakeRefusals(t *testing.T) {
	t.Run("token", func(t *testing.T) {
		so := ServerOptions{Authenticate: func(_ context.Context, _ net.Conn, token []byte) (auth.Principal, error) {
			if string(token) != "right" {
				return auth.Principal{}, errs.New(errs.Unauthenticated, "the token is not valid")
			}
			return auth.Principal{Name: "cat"}, nil
		}}
		srv := NewServer(testMux(), so)
		a, b := Pipe()
		var wg sync.WaitGroup
		wg.Go(func() { srv.ServeConn(b) })
		_, err := NewConn(t.Context(), a, Options{Token: []byte("wrong")})
		require.Equal(t, errs.Unauthenticated, errs.CodeOf(err))
		wg.Wait()
		a, b = Pipe()
		r := startRigOn(t, srv, Options{Token: []byte("right")}, a, b)
		out, err := r.conn.Call(t.Context(), mWho, nil)
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(string(out), "native/cat"))
	})
	t.Run("another protocol", func(t *testing.T) {
		a, b := Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			NewServer(testMux(), ServerOptions{}).ServeConn(b)
		}()
		_, err := a.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
		require.NoError(t, err)
		require.NoError(t, a.Close())
		<-done
	})
	t.Run("a server of another protocol", func(t *testing.T) {
		a, b := Pipe()
		defer func() { _ = b.Close() }()
		_, err := b.Write([]byte("HTTP/1.1 400 Bad Request\r\n"))
		require.NoError(t, err)
		_, err = NewConn(t.Context(), a, Options{})
		require.Equal(t, errs.ProtocolViolation, errs.CodeOf(err))
		require.Contains(t, err.Error(), "HTTP")
	})
	t.Run("another version", func(t *testing.T) {
		a, b := Pipe()
		defer func() { _ = b.Close() }()
		_, err := b.Write([]byte(magic + "\x00\x02\x00\x00"))
		require.NoError(t, err)
		_, err = NewConn(t.Context(), a, Options{})
		require.Equal(t, errs.VersionTooOld, errs.CodeOf(err))
	})
	t.Run("a silent server, a cancelled dial", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := Pipe()
			_, err := NewConn(t.Context(), a, Options{})
			require.Equal(t, errs.Unavailable, errs.CodeOf(err))
			_ = b.Close()
			a, b = Pipe()
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			_, err = NewConn(ctx, a, Options{})
			require.Equal(t, errs.Canceled, errs.CodeOf(err))
			_ = b.Close()
		})
	})
}

func TestHooks(t *testing.T) {
	var results []Result
	var mu sync.Mutex
	so := ServerOptions{
		Door:  "test",
		Hello: func() ServerInfo { return ServerInfo{NodeID: "n1", Endpoints: []string{"a:1"}} },
		Before: func(ctx context.Context, in Info) error {
			if string(in.Request) == "no" {
				return errs.New(errs.Forbidden, "%s may not call %s", auth.FromContext(ctx).Door, in.Name)
			}
			return nil
		},
		After: func(r Result) {
			mu.Lock()
			defer mu.Unlock()
			r.Duration = 0
			results = append(results, r)
		},
	}
	r := startRig(t, so, Options{})
	require.Equal(t, ServerInfo{NodeID: "n1", Endpoints: []string{"a:1"}}, r.conn.ServerInfo())
	_, err := r.conn.Call(t.Context(), mEcho, []byte("yes"))
	require.NoError(t, err)
	_, err = r.conn.Call(t.Context(), mEcho, []byte("no"))
	require.Equal(t, "test may not call test.echo", errs.From(err).Message)
	s, err := r.conn.Stream(t.Context(), mCount, []byte{3})
	require.NoError(t, err)
	for err == nil {
		_, err = s.Recv(t.Context())
	}
	require.Equal(t, io.EOF, err)
	require.NoError(t, r.conn.Close())
	r.wait()
	require.ElementsMatch(t, []Result{
		{Name: "test.echo", RequestBytes: 3, ResponseBytes: 3},
		{Name: "test.echo", RequestBytes: 2, Code: errs.Forbidden},
		{Name: "test.count", Stream: true, RequestBytes: 1, ResponseBytes: 3},
	}, results)
}

// TestContextEnds: a handler sees its context end when the caller cancels, at
// the deadline and when the connection is lost, and so do contexts made of it.
func TestContextEnds(t *testing.T) {
	type end struct {
		err, derived error
		deadline     bool
	}
	ends := make(chan end, 1)
	started := make(chan struct{}, 1)
	mux := NewMux()
	mux.Unary(1, "wait", func(ctx context.Context, _, _ []byte) ([]byte, error) {
		derived, cancel := context.WithCancel(ctx)
		defer cancel()
		started <- struct{}{}
		<-derived.Done()
		<-ctx.Done()
		_, ok := ctx.Deadline()
		ends <- end{ctx.Err(), derived.Err(), ok}
		return nil, ctx.Err()
	})
	open := func(t *testing.T) *rig {
		a, b := Pipe()
		return startRigOn(t, NewServer(mux, ServerOptions{}), Options{}, a, b)
	}
	t.Run("cancel", func(t *testing.T) {
		r := open(t)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-started
			cancel()
		}()
		_, err := r.conn.Call(ctx, 1, nil)
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, end{context.Canceled, context.Canceled, false}, <-ends)
	})
	t.Run("deadline", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := open(t)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			defer cancel()
			_, err := r.conn.Call(ctx, 1, nil)
			require.Error(t, err)
			<-started
			got := <-ends
			require.True(t, got.deadline)
			// The cancel frame and the server's own clock race.
			require.Contains(t, []error{context.Canceled, context.DeadlineExceeded}, got.err)
		})
	})
	t.Run("the server's own clock", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ended := make(chan time.Time, 1)
			mux := NewMux()
			mux.Unary(1, "wait", func(ctx context.Context, _, _ []byte) ([]byte, error) {
				<-ctx.Done()
				ended <- time.Now()
				return nil, ctx.Err()
			})
			a, b := Pipe()
			done := make(chan struct{})
			go func() {
				defer close(done)
				NewServer(mux, ServerOptions{}).ServeConn(b)
			}()
			hello, err := appendHello(appendPreamble(nil), callerHello{MaxFrame: 1 << 20, Window: 100})
			require.NoError(t, err)
			start := time.Now()
			_, err = a.Write(appendRequest(hello, frameRequest, 1, requestHead{method: 1, timeout: 3 * time.Second}, nil))
			require.NoError(t, err)
			late := (<-ended).Sub(start) - 3*time.Second
			require.GreaterOrEqual(t, late, time.Duration(0))
			require.LessOrEqual(t, late, 2*link.SweepGrain)
			_ = a.Close()
			<-done
		})
	})
	t.Run("connection lost", func(t *testing.T) {
		r := open(t)
		go func() {
			<-started
			_ = r.conn.conn.Close()
		}()
		_, err := r.conn.Call(t.Context(), 1, nil)
		require.Equal(t, errs.OutcomeUnknown, errs.CodeOf(err))
		require.False(t, errors.Is(err, io.EOF))
		require.Equal(t, context.Canceled, (<-ends).err)
	})
}

// stuckConn takes no byte: each write waits until it is closed.
type stuckConn struct {
	net.Conn
	stuck  atomic.Bool
	closed chan struct{}
	once   sync.Once
}

func (c *stuckConn) Write(b []byte) (int, error) {
	if !c.stuck.Load() {
		return c.Conn.Write(b)
	}
	<-c.closed
	return 0, net.ErrClosed
}

func (c *stuckConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func TestUnsentIsUnavailable(t *testing.T) {
	a, b := Pipe()
	sc := &stuckConn{Conn: a, closed: make(chan struct{})}
	r := startRigOn(t, NewServer(testMux(), ServerOptions{}), Options{}, sc, b)
	sc.stuck.Store(true)
	codes := make(chan errs.Code, 10)
	for range 10 {
		go func() {
			_, err := r.conn.Call(t.Context(), mBlock, nil)
			codes <- errs.CodeOf(err)
		}()
	}
	require.Eventually(t, func() bool { return r.conn.Pending() == 10 }, 5*time.Second, time.Millisecond)
	_ = r.conn.Close()
	for range 10 {
		// One batch may be counted as sent; nothing else may.
		require.Contains(t, []errs.Code{errs.Unavailable, errs.OutcomeUnknown}, <-codes)
	}
	_, err := r.conn.Call(t.Context(), mEcho, nil)
	require.Equal(t, errs.Unavailable, errs.CodeOf(err))
	_, err = r.conn.Stream(t.Context(), mCount, nil)
	require.Equal(t, errs.Unavailable, errs.CodeOf(err))
}

// pausedConn holds its writes back while it is paused, as the socket of a frozen
// peer does, and lets them through afterwards.
type pausedConn struct {
	net.Conn
	mu sync.Mutex
}

func (c *pausedConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Conn.Write(b)
}

// A request that waits in the connection's buffer at its deadline may still go
// out: nobody may be told that it was not sent.
func TestUnsentAtTheDeadlineMayGoOutLater(t *testing.T) {
	const mNote Method = 0x7001
	noted := make(chan string, 2)
	mux := NewMux()
	mux.Unary(mNote, "note", func(_ context.Context, req, dst []byte) ([]byte, error) {
		noted <- string(req)
		return dst, nil
	})
	a, b := Pipe()
	pc := &pausedConn{Conn: a}
	r := startRigOn(t, NewServer(mux, ServerOptions{}), Options{}, pc, b)
	pc.mu.Lock()
	first := make(chan error, 1)
	go func() {
		_, err := r.conn.Call(t.Context(), mNote, []byte("first"))
		first <- err
	}()
	require.Eventually(t, func() bool { return r.conn.w.Stalled(0) }, 5*time.Second, time.Millisecond)
	_, err := r.conn.Do(t.Context(), Request{Method: mNote, Payload: []byte("second"), Deadline: time.Now().Add(10 * time.Millisecond)})
	require.Equal(t, errs.OutcomeUnknown, errs.CodeOf(err), "%v", err)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	pc.mu.Unlock()
	require.NoError(t, <-first)
	require.ElementsMatch(t, []string{"first", "second"}, []string{<-noted, <-noted}) // handlers run side by side
}

// TestFullPipeHonoursDeadlines: a caller that waits for room in a stuck
// connection still ends in time.
func TestFullPipeHonoursDeadlines(t *testing.T) {
	a, b := Pipe()
	sc := &stuckConn{Conn: a, closed: make(chan struct{})}
	r := startRigOn(t, NewServer(testMux(), ServerOptions{}), Options{}, sc, b)
	sc.stuck.Store(true)
	body := make([]byte, link.HighWater)
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			if i%2 == 0 {
				_, err := r.conn.Do(t.Context(), Request{Method: mEcho, Payload: body, Deadline: time.Now().Add(30 * time.Millisecond)})
				require.ErrorIs(t, err, context.DeadlineExceeded)
				return
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
			defer cancel()
			_, err := r.conn.Call(ctx, mEcho, body)
			require.ErrorIs(t, err, context.DeadlineExceeded)
		})
	}
	wg.Wait()
}

func TestStreamBackpressure(t *testing.T) {
	sent := make(chan int, 1)
	mux := NewMux()
	mux.Streaming(1, "flood", func(ctx context.Context, _ []byte, send func([]byte) error) error {
		for i := 0; ; i++ {
			select {
			case <-sent:
			default:
			}
			sent <- i
			if err := send(make([]byte, 991)); err != nil { // 1,000 with its head
				return err
			}
		}
	})
	synctest.Test(t, func(t *testing.T) {
		sent = make(chan int, 1)
		a, b := Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			NewServer(mux, ServerOptions{}).ServeConn(b)
		}()
		c, err := NewConn(t.Context(), a, Options{Limits: Limits{WindowBytes: 10_000}})
		require.NoError(t, err)
		s, err := c.Stream(t.Context(), 1, nil)
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, 10, <-sent, "the sender stops at the window")
		for range 100 {
			_, err := s.Recv(t.Context())
			require.NoError(t, err)
		}
		synctest.Wait()
		require.LessOrEqual(t, <-sent, 110)
		s.Close()
		_, err = s.Recv(t.Context())
		for err == nil {
			_, err = s.Recv(t.Context())
		}
		require.Equal(t, errs.Canceled, errs.CodeOf(err))
		synctest.Wait()
		require.Equal(t, 0, c.Pending())
		_ = c.Close()
		<-done
	})
}

func TestStreamEndsWithItsContext(t *testing.T) {
	r := startRig(t, ServerOptions{}, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	s, err := r.conn.Stream(ctx, mEndless, nil)
	require.NoError(t, err)
	_, err = s.Recv(t.Context())
	require.NoError(t, err)
	cancel()
	for err == nil {
		_, err = s.Recv(t.Context())
	}
	require.Equal(t, errs.Canceled, errs.CodeOf(err))
	require.Eventually(t, func() bool { return r.conn.Pending() == 0 }, 5*time.Second, time.Millisecond)

	s, err = r.conn.Stream(t.Context(), mEndless, nil)
	require.NoError(t, err)
	_ = r.conn.Close()
	for err == nil {
		_, err = s.Recv(t.Context())
	}
	require.Contains(t, []errs.Code{errs.OutcomeUnknown, errs.Unavailable}, errs.CodeOf(err))
}

func TestTLS(t *testing.T) {
	cert := selfSigned(t)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	require.NoError(t, err)
	srv := NewServer(testMux(), ServerOptions{})
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	nc, err := tls.Dial("tcp", ln.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	require.NoError(t, err)
	c, err := NewConn(t.Context(), nc, Options{})
	require.NoError(t, err)
	out, err := c.Call(t.Context(), mEcho, []byte("over TLS"))
	require.NoError(t, err)
	require.Equal(t, "over TLS", string(out))
	require.NoError(t, c.Close())
	require.NoError(t, srv.Shutdown(t.Context()))
	require.NoError(t, <-done)
}

func TestMuxRefusesDuplicates(t *testing.T) {
	h := func(context.Context, []byte, []byte) ([]byte, error) { return nil, nil }
	for name, f := range map[string]func(m *Mux){
		"number": func(m *Mux) { m.Unary(1, "b", h) },
		"name":   func(m *Mux) { m.Unary(2, "a", h) },
		"none":   func(m *Mux) { m.Unary(3, "c", nil) },
	} {
		t.Run(name, func(t *testing.T) {
			m := NewMux()
			m.Unary(1, "a", h)
			require.Panics(t, func() { f(m) })
		})
	}
}

func TestLimitsValidate(t *testing.T) {
	require.Empty(t, DefaultLimits().Validate())
	require.Len(t, Limits{}.Validate(), 9)
}
