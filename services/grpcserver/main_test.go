package grpcserver

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = 2 * time.Minute

// echo is a service whose handlers each test chooses.
type echo struct {
	unary  func(ctx context.Context, b []byte) ([]byte, error)
	stream func(ss grpc.ServerStream) error
}

const (
	unaryPath = "/test.Echo/Unary"
	downPath  = "/test.Echo/Down"
	upPath    = "/test.Echo/Up"
	bothPath  = "/test.Echo/Both"
)

func streamHandler(srv any, ss grpc.ServerStream) error {
	if f := srv.(*echo).stream; f != nil {
		return f(ss)
	}
	return mirror(ss)
}

var (
	downDesc = grpc.StreamDesc{StreamName: "Down", Handler: streamHandler, ServerStreams: true}
	upDesc   = grpc.StreamDesc{StreamName: "Up", Handler: streamHandler, ClientStreams: true}
	bothDesc = grpc.StreamDesc{StreamName: "Both", Handler: streamHandler, ServerStreams: true, ClientStreams: true}
	echoDesc = grpc.ServiceDesc{
		ServiceName: "test.Echo", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Unary", Handler: func(srv any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			in := &wrapperspb.BytesValue{}
			if err := dec(in); err != nil {
				return nil, err
			}
			f := srv.(*echo).unary
			if f == nil {
				return in, nil
			}
			out, err := f(ctx, in.Value)
			if err != nil {
				return nil, err
			}
			return wrapperspb.Bytes(out), nil
		}}},
		Streams: []grpc.StreamDesc{downDesc, upDesc, bothDesc},
	}
)

// mirror sends back what comes.
func mirror(ss grpc.ServerStream) error {
	for {
		in := &wrapperspb.BytesValue{}
		if err := ss.RecvMsg(in); err != nil {
			return endOf(err)
		}
		if err := ss.SendMsg(in); err != nil {
			return err
		}
	}
}

// serve starts a server on a port; it stops with the test.
func serve(tb testing.TB, e *echo, o Options) (*Server, string) {
	tb.Helper()
	srv := New(o)
	srv.RegisterService(&echoDesc, e)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	tb.Cleanup(func() {
		srv.Stop()
		require.NoError(tb, <-done)
	})
	return srv, ln.Addr().String()
}

// dial gives grpc-go's client of addr.
func dial(tb testing.TB, addr string, o ...grpc.DialOption) *grpc.ClientConn {
	tb.Helper()
	o = append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(128<<20), grpc.MaxCallSendMsgSize(128<<20)),
	}, o...)
	cc, err := grpc.NewClient("passthrough:"+addr, o...)
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = cc.Close() })
	return cc
}

// pair starts a server and its client.
func pair(t *testing.T, e *echo, o Options) *grpc.ClientConn {
	t.Helper()
	_, addr := serve(t, e, o)
	return dial(t, addr)
}

func patient(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// call makes one call with one answer.
func call(ctx context.Context, cc *grpc.ClientConn, b []byte, o ...grpc.CallOption) ([]byte, error) {
	out := &wrapperspb.BytesValue{}
	err := cc.Invoke(ctx, unaryPath, wrapperspb.Bytes(b), out, o...)
	return out.Value, err
}

func recv(t *testing.T, s interface{ RecvMsg(any) error }) []byte {
	t.Helper()
	m := &wrapperspb.BytesValue{}
	require.NoError(t, s.RecvMsg(m))
	return m.Value
}

// pattern gives n bytes that no shift of theirs equals.
func pattern(n int) []byte {
	b := make([]byte, n)
	x := uint32(2463534242)
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
	return b
}

// within waits for a channel.
func within[T any](t *testing.T, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatal("waited in vain for " + what)
	}
	return v
}
