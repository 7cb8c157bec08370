package grpcserver

import (
	"context"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestGracefulStopLetsCallsEnd(t *testing.T) {
	began, release := make(chan struct{}), make(chan struct{})
	e := &echo{unary: func(_ context.Context, b []byte) ([]byte, error) {
		close(began)
		<-release
		return b, nil
	}}
	srv, addr := serve(t, e, Options{})
	cc, ctx := dial(t, addr), patient(t)
	r := rawDial(t, addr)
	r.greet()
	idle := rawDial(t, addr) // has said nothing yet
	type result struct {
		b   []byte
		err error
	}
	results := make(chan result, 1)
	go func() {
		b, err := call(ctx, cc, []byte("late"))
		results <- result{b, err}
	}()
	within(t, began, "the handler")
	stopped := make(chan struct{})
	go func() { srv.GracefulStop(); close(stopped) }()
	// Idle connections go at once, after a farewell in two steps.
	f := r.until(http2.FrameGoAway).(*http2.GoAwayFrame)
	require.Equal(t, http2.ErrCodeNo, f.ErrCode)
	require.Equal(t, uint32(1<<31-1), f.LastStreamID)
	ping := r.until(http2.FramePing).(*http2.PingFrame)
	require.NoError(t, r.fr.WritePing(true, ping.Data))
	require.Equal(t, uint32(0), r.until(http2.FrameGoAway).(*http2.GoAwayFrame).LastStreamID)
	r.closed()
	idle.closed()
	_, err := net.Dial("tcp", addr)
	require.Error(t, err, "new connections are refused")
	select {
	case <-stopped:
		t.Fatal("stopped over a call")
	default:
	}
	close(release)
	got := within(t, results, "the answer")
	require.NoError(t, got.err)
	require.Equal(t, "late", string(got.b))
	within(t, stopped, "the end")
	_, err = call(ctx, cc, nil)
	require.Equal(t, codes.Unavailable, status.Code(err))
}

// Streams that crossed our first farewell are served, those after the second refused.
func TestStreamsDuringAGracefulStop(t *testing.T) {
	e := &echo{}
	began := hold(e)
	srv, addr := serve(t, e, Options{})
	r := rawDial(t, addr)
	r.greet()
	r.headers(3, false, r.request(bothPath))
	within(t, began, "the handler")
	stopped := make(chan struct{})
	go func() { srv.GracefulStop(); close(stopped) }()
	r.until(http2.FrameGoAway)
	r.call(5)
	require.NoError(t, r.fr.WritePing(true, partingPing))
	require.Equal(t, uint32(5), r.until(http2.FrameGoAway).(*http2.GoAwayFrame).LastStreamID)
	r.headers(7, true, r.request(bothPath))
	r.reset(7, http2.ErrCodeRefusedStream)
	require.NoError(t, r.fr.WriteRSTStream(3, http2.ErrCodeCancel))
	r.closed()
	within(t, stopped, "the end")
}

// Whatever the server took on is answered, however many calls are under way.
func TestNoAnswerIsLostDuringAGracefulStop(t *testing.T) {
	for range 10 {
		var served, refused, answered, lost atomic.Int64
		e := &echo{unary: func(_ context.Context, b []byte) ([]byte, error) {
			served.Add(1)
			runtime.Gosched()
			return b, nil
		}}
		srv, addr := serve(t, e, Options{})
		var wg sync.WaitGroup
		warm := make(chan struct{}, 1000)
		for range 4 {
			cc := dial(t, addr)
			for i := range 50 {
				wg.Go(func() {
					for {
						b := pattern(i * 400)
						got, err := call(t.Context(), cc, b)
						switch {
						case err == nil && len(got) == len(b):
							answered.Add(1)
							select {
							case warm <- struct{}{}:
							default:
							}
							continue
						case status.Code(err) == codes.Unavailable:
							refused.Add(1)
						default:
							lost.Add(1)
							t.Error(err)
						}
						return
					}
				})
			}
		}
		for range 500 {
			within(t, warm, "calls under way")
		}
		srv.GracefulStop()
		wg.Wait()
		require.Equal(t, served.Load(), answered.Load(), "each call that was served got its answer")
	}
}

func TestStopCuts(t *testing.T) {
	e := &echo{}
	began := hold(e)
	srv, addr := serve(t, e, Options{})
	cc := dial(t, addr)
	result := make(chan error, 1)
	go func() { result <- both(patient(t), cc, 1, 1) }()
	within(t, began, "the handler")
	quiet := rawDial(t, addr)
	srv.Stop()
	require.Equal(t, codes.Unavailable, status.Code(within(t, result, "the end of the call")))
	quiet.closed()
	require.Zero(t, srv.Conns())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.ErrorIs(t, srv.Serve(ln), grpc.ErrServerStopped)
	require.NoError(t, ln.Close())
}

// A server that stops while a graceful stop waits.
func TestStopDuringAGracefulStop(t *testing.T) {
	e := &echo{}
	began := hold(e)
	srv, addr := serve(t, e, Options{})
	result := make(chan error, 1)
	go func() { result <- both(patient(t), dial(t, addr), 1, 1) }()
	within(t, began, "the handler")
	stopped := make(chan struct{})
	go func() { srv.GracefulStop(); close(stopped) }()
	r := rawDialMaybe(addr)
	srv.Stop()
	within(t, stopped, "the end")
	require.Error(t, within(t, result, "the end of the call"))
	if r != nil {
		_ = r.Close()
	}
}

func rawDialMaybe(addr string) net.Conn {
	nc, _ := net.Dial("tcp", addr)
	return nc
}

// In a bubble with a clock of its own: the server and a raw client over a pipe.
func bubble(t *testing.T, e *echo, o Options, do func(r *raw)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		srv := New(o)
		srv.RegisterService(&echoDesc, e)
		p := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
		done := make(chan error, 1)
		go func() { done <- srv.Serve(p) }()
		client, err := p.dial(t.Context(), "")
		require.NoError(t, err)
		do(newRaw(t, client))
		_ = client.Close()
		srv.Stop()
		require.NoError(t, <-done)
	})
}

func TestKeepalive(t *testing.T) {
	o := Options{PingInterval: 10 * time.Second, PingTimeout: 4 * time.Second}
	t.Run("a client that answers stays", func(t *testing.T) {
		bubble(t, &echo{}, o, func(r *raw) {
			r.greet()
			start := time.Now()
			for range 20 {
				f := r.until(http2.FramePing).(*http2.PingFrame)
				require.False(t, f.IsAck())
				require.NoError(t, r.fr.WritePing(true, f.Data))
			}
			require.InDelta(t, 240, time.Since(start).Seconds(), 60)
			r.call(3)
		})
	})
	t.Run("a client that does not is cut", func(t *testing.T) {
		bubble(t, &echo{}, o, func(r *raw) {
			r.greet()
			start := time.Now()
			r.until(http2.FramePing)
			require.InDelta(t, 11, time.Since(start).Seconds(), 3)
			r.closed()
			require.InDelta(t, 16, time.Since(start).Seconds(), 4)
		})
	})
	t.Run("a client that takes nothing is cut", func(t *testing.T) {
		e := &echo{}
		bubble(t, e, o, func(r *raw) {
			ended := make(chan error, 1)
			e.stream = func(ss grpc.ServerStream) error {
				<-ss.Context().Done()
				ended <- ss.Context().Err()
				return nil
			}
			r.greet()
			r.headers(3, false, r.request(bothPath))
			r.headers(5, false, r.request(unaryPath))
			r.data(5, true, message(10))
			start := time.Now()
			require.ErrorIs(t, <-ended, context.Canceled)
			require.InDelta(t, 5, time.Since(start).Seconds(), 4)
		})
	})
}

func TestSlowPrefaces(t *testing.T) {
	for name, text := range map[string]string{"nothing": "", "half": http2.ClientPreface[:10], "no settings": http2.ClientPreface} {
		t.Run(name, func(t *testing.T) {
			bubble(t, &echo{}, Options{}, func(r *raw) {
				if text != "" {
					r.bytes(text)
				}
				start := time.Now()
				r.closed()
				require.InDelta(t, handshakeTimeout.Seconds(), time.Since(start).Seconds(), 3)
			})
		})
	}
}

// The strikes of pings that come too often are grpc-go's.
func TestTooManyPings(t *testing.T) {
	ping := func(r *raw) {
		require.NoError(r.t, r.fr.WritePing(false, [8]byte{1}))
	}
	o := Options{PingMinTime: 5 * time.Second}
	t.Run("while a call runs", func(t *testing.T) {
		e := &echo{}
		hold(e)
		bubble(t, e, o, func(r *raw) {
			r.greet()
			r.headers(3, false, r.request(bothPath))
			for range 10 { // often enough apart
				r.alive()
				time.Sleep(6 * time.Second)
			}
			for range 3 {
				r.alive()
			}
			ping(r)
			r.away(http2.ErrCodeEnhanceYourCalm)
		})
	})
	t.Run("answers wipe them out", func(t *testing.T) {
		bubble(t, &echo{}, o, func(r *raw) {
			r.greet()
			for id := uint32(3); id < 40; id += 2 {
				r.call(id)
				r.alive()
				r.alive()
			}
		})
	})
	t.Run("without a call", func(t *testing.T) {
		bubble(t, &echo{}, o, func(r *raw) {
			r.greet()
			for range 3 {
				r.alive()
				time.Sleep(time.Minute)
			}
			ping(r)
			r.away(http2.ErrCodeEnhanceYourCalm)
		})
	})
}

// A request that never becomes whole ends with its deadline.
func TestDeadlineOfARequestThatIsNotWhole(t *testing.T) {
	var results chan Result
	bubble(t, &echo{}, Options{After: func(r Result) { results <- r }}, func(r *raw) {
		results = make(chan Result, 2)
		r.greet()
		start := time.Now()
		r.headers(3, false, r.request(unaryPath, "grpc-timeout", "3S"))
		r.data(3, false, message(10)[:4])
		r.reset(3, http2.ErrCodeCancel)
		require.InDelta(t, 3, time.Since(start).Seconds(), 0.1)
		require.Equal(t, codes.DeadlineExceeded, (<-results).Code)
		r.data(3, true, nil)
		r.call(5)
	})
}

// A request without a deadline ends when the server's limit passes, and its client gets
// what the handler answers.
func TestLimits(t *testing.T) {
	limited := false
	e := &echo{unary: func(ctx context.Context, _ []byte) ([]byte, error) {
		<-ctx.Done()
		limited = Limited(ctx)
		return nil, status.Error(codes.Unavailable, "it takes too long")
	}}
	limits := func(method string) time.Duration {
		require.Equal(t, unaryPath, method)
		return 3 * time.Second
	}
	bubble(t, e, Options{Limits: limits}, func(r *raw) {
		r.greet()
		start := time.Now()
		r.headers(3, false, r.request(unaryPath))
		r.data(3, true, message(10))
		require.Equal(t, "14", r.status(3))
		require.True(t, limited)
		require.InDelta(t, 3, time.Since(start).Seconds(), 0.01)
		r.headers(5, false, r.request(unaryPath, "grpc-timeout", "9S"))
		r.data(5, true, message(10))
		require.Equal(t, "14", r.status(5))
		require.False(t, limited)
		require.InDelta(t, 12, time.Since(start).Seconds(), 0.01)
	})
}

// The server ends a handler whose deadline passes, whatever its client does.
func TestDeadlineEndsTheHandler(t *testing.T) {
	e := &echo{unary: func(ctx context.Context, _ []byte) ([]byte, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	for v, want := range map[string]time.Duration{"2H": 2 * time.Hour, "3M": 3 * time.Minute, "4S": 4 * time.Second, "500m": time.Second / 2, "70000u": 70 * time.Millisecond, "9n": 0} {
		t.Run(v, func(t *testing.T) {
			bubble(t, e, Options{PingInterval: 24 * time.Hour}, func(r *raw) {
				r.greet()
				start := time.Now()
				r.headers(3, false, r.request(unaryPath, "grpc-timeout", v))
				r.data(3, true, message(10))
				require.Equal(t, "4", r.status(3))
				require.InDelta(t, want.Seconds(), time.Since(start).Seconds(), 0.01)
			})
		})
	}
}
