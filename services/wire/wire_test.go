package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"nekoq/services/auth"
	"nekoq/services/command"
	"nekoq/services/errs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	mEcho Method = 0x7001 + iota
	mError
	mBlock
	mWho
	mCount
	mPanic
	mPlain
	mEndless
)

// testMux has one method for each kind of behaviour.
func testMux() *Mux {
	m := NewMux()
	m.Unary(mEcho, "test.echo", func(_ context.Context, req, dst []byte) ([]byte, error) {
		return append(dst, req...), nil
	})
	m.Unary(mError, "test.error", func(context.Context, []byte, []byte) ([]byte, error) {
		return nil, errs.Invalid("name", "x y", "no blanks")
	})
	m.Unary(mPlain, "test.plain", func(context.Context, []byte, []byte) ([]byte, error) {
		return nil, errors.New("a secret of the server")
	})
	m.Unary(mPanic, "test.panic", func(context.Context, []byte, []byte) ([]byte, error) { panic("boom") })
	m.Unary(mBlock, "test.block", func(ctx context.Context, _, _ []byte) ([]byte, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	m.Unary(mWho, "test.who", func(ctx context.Context, _, dst []byte) ([]byte, error) {
		p, id := auth.FromContext(ctx), command.RequestIDFrom(ctx)
		dst = append(dst, p.Door+"/"+p.Name...)
		return append(dst, byte(id.Session), byte(id.Seq), byte(id.Acked)), nil
	})
	m.Streaming(mCount, "test.count", func(_ context.Context, req []byte, send func([]byte) error) error {
		for i := range int(req[0]) {
			if err := send([]byte{byte(i)}); err != nil {
				return err
			}
		}
		return nil
	})
	m.Streaming(mEndless, "test.endless", func(_ context.Context, _ []byte, send func([]byte) error) error {
		msg := make([]byte, 1000)
		for {
			if err := send(msg); err != nil {
				return err
			}
		}
	})
	return m
}

// rig is a server and one connection to it.
type rig struct {
	srv  *Server
	conn *Conn
	wait func() // for the serving side to end
}

func startRig(t testing.TB, so ServerOptions, co Options) *rig {
	t.Helper()
	a, b := Pipe()
	return startRigOn(t, NewServer(testMux(), so), co, a, b)
}

func startRigOn(t testing.TB, srv *Server, co Options, a, b net.Conn) *rig {
	t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() { srv.ServeConn(b) })
	c, err := NewConn(t.Context(), a, co)
	require.NoError(t, err)
	r := &rig{srv: srv, conn: c, wait: wg.Wait}
	t.Cleanup(func() {
		_ = c.Close()
		wg.Wait()
	})
	return r
}

func TestUnary(t *testing.T) {
	r := startRig(t, ServerOptions{}, Options{})
	ctx := t.Context()
	out, err := r.conn.Call(ctx, mEcho, []byte("hello"))
	require.NoError(t, err)
	require.Equal(t, "hello", string(out))

	out, err = r.conn.Call(command.NewContext(ctx, command.RequestID{Session: 7, Seq: 8, Acked: 9}), mWho, nil)
	require.NoError(t, err)
	require.Equal(t, "native/anonymous\x07\x08\x09", string(out))
	out, err = r.conn.Call(ctx, mWho, nil)
	require.NoError(t, err)
	require.Equal(t, "native/anonymous\x00\x00\x00", string(out))

	_, err = r.conn.Call(ctx, mError, nil)
	e := errs.From(err)
	require.Equal(t, errs.InvalidArgument, e.Code)
	require.Equal(t, []errs.Detail{{Field: "name", Value: "x y", Limit: "no blanks"}}, e.Details)
	_, err = r.conn.Call(ctx, mPlain, nil)
	require.Equal(t, errs.Internal, errs.CodeOf(err))
	require.NotContains(t, err.Error(), "secret")
	_, err = r.conn.Call(ctx, mPanic, nil)
	require.Equal(t, errs.Internal, errs.CodeOf(err))
	_, err = r.conn.Call(ctx, 0x6666, nil)
	require.Equal(t, errs.Unimplemented, errs.CodeOf(err))
	_, err = r.conn.Call(ctx, mCount, []byte{1})
	require.Equal(t, errs.Unimplemented, errs.CodeOf(err))
}

func TestDeadlineAndCancel(t *testing.T) {
	r := startRig(t, ServerOptions{}, Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := r.conn.Call(ctx, mBlock, nil)
	require.Contains(t, []errs.Code{errs.OutcomeUnknown, errs.DeadlineExceeded}, errs.CodeOf(err))
	_, err = r.conn.Do(t.Context(), Request{Method: mBlock, Deadline: time.Now().Add(20 * time.Millisecond)})
	require.Contains(t, []errs.Code{errs.OutcomeUnknown, errs.DeadlineExceeded}, errs.CodeOf(err))
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(5*time.Millisecond, cancel)
	_, err = r.conn.Call(ctx, mBlock, nil)
	require.Equal(t, errs.Canceled, errs.CodeOf(err))
	require.Eventually(t, func() bool { return r.conn.Pending() == 0 }, 5*time.Second, time.Millisecond)
}

func TestStream(t *testing.T) {
	r := startRig(t, ServerOptions{}, Options{})
	s, err := r.conn.Stream(t.Context(), mCount, []byte{200})
	require.NoError(t, err)
	defer s.Close()
	for i := range 200 {
		m, err := s.Recv(t.Context())
		require.NoError(t, err)
		require.Equal(t, []byte{byte(i)}, m)
	}
	for range 2 {
		_, err = s.Recv(t.Context())
		require.Equal(t, io.EOF, err)
	}
}
