package grpcserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func endOf(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// pipes is a listener of in-process connections without any buffer.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error { p.once.Do(func() { close(p.done) }); return nil }

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (p *pipes) dial(context.Context, string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

// Calls of all kinds, in both directions at once, on a socket and on a connection
// whose writes wait until they are read.
func TestCallsOfAllKinds(t *testing.T) {
	over := map[string]func(t *testing.T) *grpc.ClientConn{
		"tcp": func(t *testing.T) *grpc.ClientConn { return pair(t, &echo{}, Options{}) },
		"pipe": func(t *testing.T) *grpc.ClientConn {
			srv := New(Options{})
			srv.RegisterService(&echoDesc, &echo{})
			p := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
			done := make(chan error, 1)
			go func() { done <- srv.Serve(p) }()
			cc, err := grpc.NewClient("passthrough:x", grpc.WithContextDialer(p.dial), grpc.WithTransportCredentials(insecure.NewCredentials()))
			require.NoError(t, err)
			t.Cleanup(func() {
				_ = cc.Close()
				srv.Stop()
				require.NoError(t, <-done)
			})
			return cc
		},
	}
	for name, connect := range over {
		t.Run(name, func(t *testing.T) {
			cc, ctx := connect(t), patient(t)
			var wg sync.WaitGroup
			for i := range 40 {
				wg.Go(func() {
					want := pattern(i * i * 100)
					for range 10 {
						got, err := call(ctx, cc, want)
						if err != nil || string(got) != string(want) {
							t.Errorf("call %d: %d bytes, %v", i, len(got), err)
						}
					}
				})
				wg.Go(func() {
					if err := both(ctx, cc, 20, i*1000); err != nil {
						t.Errorf("stream %d: %v", i, err)
					}
				})
			}
			wg.Wait()
		})
	}
}

// both sends and receives n messages of size bytes on one stream, at once.
func both(ctx context.Context, cc *grpc.ClientConn, n, size int) error {
	cs, err := cc.NewStream(ctx, &bothDesc, bothPath)
	if err != nil {
		return err
	}
	want := pattern(size)
	sent := make(chan error, 1)
	go func() {
		for range n {
			if err := cs.SendMsg(wrapperspb.Bytes(want)); err != nil {
				sent <- err
				return
			}
		}
		sent <- cs.CloseSend()
	}()
	for range n {
		m := &wrapperspb.BytesValue{}
		if err := cs.RecvMsg(m); err != nil {
			return err
		}
		if string(m.Value) != string(want) {
			return errors.New("another message came back")
		}
	}
	if err := cs.RecvMsg(&wrapperspb.BytesValue{}); !errors.Is(err, io.EOF) {
		return fmt.Errorf("no end: %w", err)
	}
	return <-sent
}

func TestStreamsOfOneDirection(t *testing.T) {
	e, ctx := &echo{}, patient(t)
	cc := pair(t, e, Options{})
	e.stream = func(ss grpc.ServerStream) error {
		in := &wrapperspb.BytesValue{}
		for total := 0; ; total += len(in.Value) {
			if err := ss.RecvMsg(in); errors.Is(err, io.EOF) {
				for i := range 5 {
					if err := ss.SendMsg(wrapperspb.Bytes(fmt.Append(nil, total, i))); err != nil {
						return err
					}
				}
				return nil
			} else if err != nil {
				return err
			}
		}
	}
	cs, err := cc.NewStream(ctx, &downDesc, downPath)
	require.NoError(t, err)
	require.NoError(t, cs.SendMsg(wrapperspb.Bytes([]byte("abc"))))
	require.NoError(t, cs.CloseSend())
	for i := range 5 {
		require.Equal(t, fmt.Sprint(3, i), string(recv(t, cs)))
	}
	require.ErrorIs(t, cs.RecvMsg(&wrapperspb.BytesValue{}), io.EOF)

	e.stream = func(ss grpc.ServerStream) error {
		total := 0
		for {
			in := &wrapperspb.BytesValue{}
			if err := ss.RecvMsg(in); err != nil {
				return ss.SendMsg(wrapperspb.Bytes(fmt.Append(nil, total)))
			}
			total += len(in.Value)
		}
	}
	cs, err = cc.NewStream(ctx, &upDesc, upPath)
	require.NoError(t, err)
	for range 100 {
		require.NoError(t, cs.SendMsg(wrapperspb.Bytes(make([]byte, 50000))))
	}
	require.NoError(t, cs.CloseSend())
	require.Equal(t, "5000000", string(recv(t, cs)))
}

func TestMetadataBothWays(t *testing.T) {
	long := strings.Repeat("x", 40<<10)
	bin := string(pattern(300))
	answer := func(ctx context.Context, header func(metadata.MD) error, trailer func(metadata.MD)) error {
		md, _ := metadata.FromIncomingContext(ctx)
		if p, ok := peer.FromContext(ctx); !ok || p.Addr == nil {
			return errors.New("no peer")
		}
		if err := header(metadata.Pairs("bad", "\n")); status.Code(err) != codes.Internal {
			return errors.New("a header that HTTP/2 forbids was taken")
		}
		out := metadata.Pairs("many", "1", "many", "2", "some-bin", bin, "long", long)
		out["got-bin"] = append(md["plain"], md["raw-bin"]...)
		trailer(metadata.Pairs("end", "yes", "bad", "\n", "end-bin", bin))
		return header(out)
	}
	for name, fail := range map[string]error{"ok": nil, "error": status.Error(codes.Aborted, "no")} {
		for _, sent := range []bool{false, true} {
			e := &echo{}
			e.unary = func(ctx context.Context, b []byte) ([]byte, error) {
				set := func(md metadata.MD) error { return grpc.SetHeader(ctx, md) }
				if sent {
					set = func(md metadata.MD) error { return grpc.SendHeader(ctx, md) }
				}
				if m, ok := grpc.Method(ctx); !ok || m != unaryPath {
					return nil, errors.New("no method")
				}
				if err := answer(ctx, set, func(md metadata.MD) { _ = grpc.SetTrailer(ctx, md) }); err != nil {
					return nil, err
				}
				return b, fail
			}
			e.stream = func(ss grpc.ServerStream) error {
				set := ss.SetHeader
				if sent {
					set = ss.SendHeader
				}
				if err := answer(ss.Context(), set, ss.SetTrailer); err != nil {
					return err
				}
				return fail
			}
			t.Run(fmt.Sprint(name, sent), func(t *testing.T) {
				cc := pair(t, e, Options{})
				ctx := metadata.AppendToOutgoingContext(patient(t), "plain", "p", "raw-bin", bin)
				var header, trailer metadata.MD
				_, err := call(ctx, cc, nil, grpc.Header(&header), grpc.Trailer(&trailer))
				require.Equal(t, status.Code(fail), status.Code(err), err)
				check := func() {
					require.Equal(t, []string{"1", "2"}, header["many"])
					require.Equal(t, []string{bin}, header["some-bin"])
					require.Equal(t, []string{"p", bin}, header["got-bin"])
					require.Equal(t, []string{long}, header["long"])
					require.Equal(t, []string{"yes"}, trailer["end"])
					require.Empty(t, trailer["bad"])
					require.Equal(t, []string{bin}, trailer["end-bin"])
				}
				check()
				cs, err := cc.NewStream(ctx, &bothDesc, bothPath)
				require.NoError(t, err)
				header, err = cs.Header()
				require.NoError(t, err)
				err = cs.RecvMsg(&wrapperspb.BytesValue{})
				require.Equal(t, fail == nil, errors.Is(err, io.EOF), err)
				trailer = cs.Trailer()
				check()
			})
		}
	}
}

func TestHeaderFindsWhatTheClientSent(t *testing.T) {
	e := &echo{unary: func(ctx context.Context, _ []byte) ([]byte, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		v, _ := Header(ctx, "token")
		_, other := Header(ctx, "nothing")
		return fmt.Append(nil, v, other), nil
	}}
	long := strings.Repeat("v", 20<<10)
	got, err := call(metadata.AppendToOutgoingContext(patient(t), "token", long), pair(t, e, Options{}), nil)
	require.NoError(t, err)
	require.Equal(t, long+"false", string(got))
}

func TestStatuses(t *testing.T) {
	e := &echo{}
	cc, ctx := pair(t, e, Options{}), patient(t)
	for _, msg := range []string{"", "plain", "100 % of it", "ümläut \x00\x1f\x7f ~", "日本\r\n語", strings.Repeat("long%", 10000)} {
		st, err := status.New(codes.FailedPrecondition, msg).WithDetails(
			&errdetails.ErrorInfo{Reason: "R", Domain: "D", Metadata: map[string]string{"a": "b"}}, &errdetails.RequestInfo{RequestId: "7"})
		require.NoError(t, err)
		e.unary = func(context.Context, []byte) ([]byte, error) { return nil, st.Err() }
		_, err = call(ctx, cc, nil)
		got := status.Convert(err)
		require.Equal(t, codes.FailedPrecondition, got.Code())
		require.Equal(t, msg, got.Message())
		require.Len(t, got.Details(), 2)
		require.Equal(t, "R", got.Details()[0].(*errdetails.ErrorInfo).Reason)
	}
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		e.unary = func(context.Context, []byte) ([]byte, error) { return nil, status.Error(code, "x") }
		_, err := call(ctx, cc, nil)
		require.Equal(t, code, status.Code(err))
	}
	e.unary = func(context.Context, []byte) ([]byte, error) { return nil, errors.New("bare") }
	_, err := call(ctx, cc, nil)
	require.Equal(t, status.New(codes.Unknown, "bare").Err().Error(), err.Error())
	e.unary = func(context.Context, []byte) ([]byte, error) { return nil, context.DeadlineExceeded }
	_, err = call(ctx, cc, nil)
	require.Equal(t, codes.DeadlineExceeded, status.Code(err))
	// A status after messages.
	e.stream = func(ss grpc.ServerStream) error {
		if err := ss.SendMsg(wrapperspb.Bytes([]byte("one"))); err != nil {
			return err
		}
		return status.Error(codes.DataLoss, "ä")
	}
	cs, err := cc.NewStream(ctx, &bothDesc, bothPath)
	require.NoError(t, err)
	require.Equal(t, "one", string(recv(t, cs)))
	err = cs.RecvMsg(&wrapperspb.BytesValue{})
	require.Equal(t, status.Error(codes.DataLoss, "ä").Error(), err.Error())
}

// The words of refusals are those of grpc-go, since clients' tests look for them.
func TestRefusalsAreWordedAsGRPCsOwn(t *testing.T) {
	_, addr := serve(t, &echo{}, Options{})
	theirs := grpc.NewServer()
	theirs.RegisterService(&echoDesc, &echo{})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() { _ = theirs.Serve(ln) }()
	defer theirs.Stop()
	ours, other, ctx := dial(t, addr), dial(t, ln.Addr().String()), patient(t)
	for _, path := range []string{"/test.Echo/Nothing", "/no.Service/Unary", "/a/b/c", "/bad", "/test.Echo/", "//"} {
		a := ours.Invoke(ctx, path, &emptypb.Empty{}, &emptypb.Empty{})
		b := other.Invoke(ctx, path, &emptypb.Empty{}, &emptypb.Empty{})
		require.Equal(t, b.Error(), a.Error(), path)
		require.Equal(t, codes.Unimplemented, status.Code(a))
	}
}

func TestDeadlines(t *testing.T) {
	e := &echo{}
	cc := pair(t, e, Options{})
	ended := make(chan error, 1)
	var left atomic.Int64
	e.unary = func(ctx context.Context, _ []byte) ([]byte, error) {
		at, _ := ctx.Deadline()
		left.Store(int64(time.Until(at)))
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	_, err := call(ctx, cc, nil)
	require.Equal(t, codes.DeadlineExceeded, status.Code(err))
	// The client may say first that it leaves.
	require.Error(t, within(t, ended, "the end of the handler"))
	require.LessOrEqual(t, left.Load(), int64(30*time.Millisecond))

	e.unary = func(ctx context.Context, b []byte) ([]byte, error) {
		_, ok := ctx.Deadline()
		return fmt.Append(nil, ok), ctx.Err()
	}
	got, err := call(t.Context(), cc, nil)
	require.NoError(t, err)
	require.Equal(t, "false", string(got))
	for _, d := range []time.Duration{time.Hour, 90 * time.Second, 1 << 62} {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		got, err = call(ctx, cc, nil)
		cancel()
		require.NoError(t, err)
		require.Equal(t, "true", string(got))
	}
}

func TestCancelledCallsEndTheirHandlers(t *testing.T) {
	e := &echo{}
	cc := pair(t, e, Options{})
	began, ended := make(chan struct{}, 1), make(chan error, 1)
	wait := func(ctx context.Context) {
		began <- struct{}{}
		<-ctx.Done()
		ended <- ctx.Err()
	}
	e.unary = func(ctx context.Context, _ []byte) ([]byte, error) { wait(ctx); return nil, nil }
	e.stream = func(ss grpc.ServerStream) error { wait(ss.Context()); return nil }
	for _, stream := range []bool{false, true} {
		ctx, cancel := context.WithCancel(patient(t))
		result := make(chan error, 1)
		go func() {
			if stream {
				cs, err := cc.NewStream(ctx, &bothDesc, bothPath)
				if err == nil {
					err = cs.RecvMsg(&wrapperspb.BytesValue{})
				}
				result <- err
				return
			}
			_, err := call(ctx, cc, nil)
			result <- err
		}()
		within(t, began, "the handler")
		cancel()
		require.Equal(t, codes.Canceled, status.Code(within(t, result, "the call")))
		require.ErrorIs(t, within(t, ended, "the end of the handler"), context.Canceled)
	}
}

func TestBigMessages(t *testing.T) {
	e := &echo{}
	cc, ctx := pair(t, e, Options{MaxRequestBytes: 20 << 20}), patient(t)
	big := pattern(19 << 20)
	got, err := call(ctx, cc, big)
	require.NoError(t, err)
	require.Equal(t, string(big), string(got))
	require.NoError(t, both(ctx, cc, 4, 5<<20))
	e.unary = func(context.Context, []byte) ([]byte, error) { return make([]byte, 64<<20), nil }
	got, err = call(ctx, cc, big[:2<<20])
	require.NoError(t, err)
	require.Len(t, got, 64<<20)
}

func TestMessagesLargerThanTheLimit(t *testing.T) {
	cc, ctx := pair(t, &echo{}, Options{MaxRequestBytes: 1000}), patient(t)
	text := "grpc: received message larger than max (2003 vs. 1000)"
	for range 3 {
		_, err := call(ctx, cc, make([]byte, 2000))
		require.Equal(t, status.Error(codes.ResourceExhausted, text).Error(), err.Error())
		_, err = call(ctx, cc, make([]byte, 3<<20)) // goes on sending after the answer
		require.Equal(t, codes.ResourceExhausted, status.Code(err))
		require.Equal(t, codes.ResourceExhausted, status.Code(both(ctx, cc, 1, 2000)))
		_, err = call(ctx, cc, make([]byte, 2000), grpc.UseCompressor(gzip.Name))
		require.Equal(t, codes.ResourceExhausted, status.Code(err), "small, and large once unpacked")
		_, err = call(ctx, cc, make([]byte, 900))
		require.NoError(t, err)
	}
}

func TestCompressedRequests(t *testing.T) {
	cc, ctx := pair(t, &echo{}, Options{}), patient(t)
	want := []byte(strings.Repeat("again and ", 50000))
	got, err := call(ctx, cc, want, grpc.UseCompressor(gzip.Name))
	require.NoError(t, err)
	require.Equal(t, string(want), string(got))
	cs, err := cc.NewStream(ctx, &bothDesc, bothPath, grpc.UseCompressor(gzip.Name))
	require.NoError(t, err)
	for range 3 {
		require.NoError(t, cs.SendMsg(wrapperspb.Bytes(want)))
		require.Equal(t, string(want), string(recv(t, cs)))
	}
	require.NoError(t, cs.CloseSend())
	require.ErrorIs(t, cs.RecvMsg(&wrapperspb.BytesValue{}), io.EOF)
}

func TestHealthService(t *testing.T) {
	srv := New(Options{})
	hs := health.NewServer()
	healthpb.RegisterHealthServer(srv, hs)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	defer func() { srv.Stop(); require.NoError(t, <-done) }()
	cl, ctx := healthpb.NewHealthClient(dial(t, ln.Addr().String())), patient(t)
	a, err := cl.Check(ctx, &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	require.Equal(t, healthpb.HealthCheckResponse_SERVING, a.Status)
	_, err = cl.Check(ctx, &healthpb.HealthCheckRequest{Service: "x"})
	require.Equal(t, codes.NotFound, status.Code(err))
	w, err := cl.Watch(ctx, &healthpb.HealthCheckRequest{Service: "x"})
	require.NoError(t, err)
	for _, s := range []healthpb.HealthCheckResponse_ServingStatus{healthpb.HealthCheckResponse_SERVICE_UNKNOWN, 2, 1, 2} {
		if s != healthpb.HealthCheckResponse_SERVICE_UNKNOWN {
			hs.SetServingStatus("x", s)
		}
		got, err := w.Recv()
		require.NoError(t, err)
		require.Equal(t, s, got.Status)
	}
}

func TestPanicsEndTheCallOnly(t *testing.T) {
	e := &echo{
		unary:  func(context.Context, []byte) ([]byte, error) { panic("unary") },
		stream: func(grpc.ServerStream) error { panic("stream") },
	}
	cc, ctx := pair(t, e, Options{}), patient(t)
	for range 3 {
		_, err := call(ctx, cc, nil)
		require.Equal(t, codes.Internal, status.Code(err))
		require.Equal(t, codes.Internal, status.Code(both(ctx, cc, 1, 1)))
	}
	e.unary = nil
	_, err := call(ctx, cc, nil)
	require.NoError(t, err)
}

func TestHandlersOfBytes(t *testing.T) {
	srv, addr := serve(t, &echo{}, Options{})
	require.Panics(t, func() { srv.HandleUnary("/test.Echo/Both", nil) })
	srv.HandleUnary(unaryPath, func(_ context.Context, req, dst []byte) ([]byte, error) {
		if len(req) == 0 {
			return nil, status.Error(codes.InvalidArgument, "empty")
		}
		return append(dst, req...), nil
	})
	cc, ctx := dial(t, addr), patient(t)
	got, err := call(ctx, cc, []byte("x"))
	require.NoError(t, err)
	require.Equal(t, "x", string(got))
	_, err = call(ctx, cc, nil)
	require.Equal(t, codes.InvalidArgument, status.Code(err))
}

// A client may have only so many requests under way, and waits for its turn; one that
// does not is refused.
func TestMaxStreams(t *testing.T) {
	var now, most atomic.Int64
	e := &echo{unary: func(ctx context.Context, b []byte) ([]byte, error) {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		return b, nil
	}}
	cc, ctx := pair(t, e, Options{MaxStreams: 3}), patient(t)
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			if _, err := call(ctx, cc, []byte("x")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.LessOrEqual(t, most.Load(), int64(3))

	began := hold(e)
	r := rawPair(t, e, Options{MaxStreams: 2})
	for _, id := range []uint32{3, 5} {
		r.headers(id, false, r.request(bothPath))
		within(t, began, "a handler")
	}
	r.headers(7, false, r.request(bothPath))
	r.reset(7, http2.ErrCodeRefusedStream)
	require.NoError(t, r.fr.WriteRSTStream(3, http2.ErrCodeCancel))
	r.call(9)
}

func TestAfterIsToldOfEachRequest(t *testing.T) {
	results := make(chan Result, 10)
	e := &echo{}
	cc, ctx := pair(t, e, Options{After: func(r Result) { results <- r }}), patient(t)
	_, err := call(ctx, cc, nil)
	require.NoError(t, err)
	r := within(t, results, "a result")
	require.Equal(t, Result{Method: unaryPath, Duration: r.Duration}, r)
	require.Positive(t, r.Duration)
	e.stream = func(grpc.ServerStream) error { return status.Error(codes.Aborted, "") }
	require.Error(t, both(ctx, cc, 1, 1))
	r = within(t, results, "a result")
	require.Equal(t, Result{Method: bothPath, Stream: true, Code: codes.Aborted, Duration: r.Duration}, r)
	require.Error(t, cc.Invoke(ctx, "/no/no", &emptypb.Empty{}, &emptypb.Empty{}))
	r = within(t, results, "a result")
	require.Equal(t, Result{Code: codes.Unimplemented, Duration: r.Duration}, r, "what a client makes up must not be kept")
}
