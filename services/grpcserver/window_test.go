package grpcserver

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
)

// A stream that ends while its next bytes wait for the writer gives the connection back
// the window that it took for them.
func TestStreamsThatEndKeepNoWindow(t *testing.T) {
	ended := make(chan error, 1)
	srv := New(Options{})
	srv.RegisterService(&echoDesc, &echo{stream: func(ss grpc.ServerStream) error {
		for {
			if err := ss.SendMsg(Raw(make([]byte, 10_000))); err != nil {
				ended <- err
				return err
			}
		}
	}})
	ours, theirs := net.Pipe() // holds nothing: what nobody reads waits in the writer
	c := newConn(srv, theirs)
	require.True(t, srv.admit(c))
	go func() {
		defer srv.release(c)
		c.serve()
	}()
	t.Cleanup(srv.Stop)
	t.Cleanup(func() { _ = ours.Close() })
	require.NoError(t, ours.SetDeadline(time.Now().Add(patience)))
	r := newRaw(t, ours)
	const window = 1 << 30
	r.greet(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window})
	require.NoError(t, r.fr.WriteWindowUpdate(0, window-firstWindow))
	received := 0
	for i := range uint32(8) {
		id := 2*i + 1
		r.headers(id, true, r.request(downPath))
		stuck := func() bool {
			full := false
			if c.w.Begin(nil, nil, true) == nil {
				full = len(c.w.Buf) >= 1<<20
				c.w.Hold()
			}
			return full
		}
		require.Eventually(t, stuck, patience, time.Millisecond)
		require.NoError(t, r.fr.WriteRSTStream(id, http2.ErrCodeCancel))
		require.Error(t, within(t, ended, "the end of the handler"))
		require.NoError(t, r.fr.WritePing(false, [8]byte{byte(i)}))
		for {
			f, err := r.fr.ReadFrame()
			require.NoError(t, err)
			if f.Header().Type == http2.FrameData {
				received += int(f.Header().Length)
			}
			if p, ok := f.(*http2.PingFrame); ok && p.IsAck() && p.Data == [8]byte{byte(i)} {
				break
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	require.Equal(t, window, int(c.window)+received, "window that is neither left nor used")
}
