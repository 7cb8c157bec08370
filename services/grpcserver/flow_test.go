package grpcserver

import (
	"bufio"
	"context"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// sent reads frames until n bytes of data came on a stream.
func (r *raw) sent(id uint32, n int) (last *http2.DataFrame) {
	r.t.Helper()
	for n > 0 {
		last = r.until(http2.FrameData).(*http2.DataFrame)
		require.Equal(r.t, id, last.StreamID)
		require.LessOrEqual(r.t, len(last.Data()), n, "more than the window")
		n -= len(last.Data())
	}
	return last
}

// silent checks that no data comes before the answer to a ping.
func (r *raw) silent() {
	r.t.Helper()
	require.NoError(r.t, r.fr.WritePing(false, [8]byte{9}))
	for {
		f, err := r.fr.ReadFrame()
		require.NoError(r.t, err)
		switch f := f.(type) {
		case *http2.DataFrame:
			r.t.Fatalf("%d bytes beyond the window", f.Length)
		case *http2.HeadersFrame:
			_, err := r.dec.DecodeFull(f.HeaderBlockFragment())
			require.NoError(r.t, err)
			require.False(r.t, f.StreamEnded())
		case *http2.PingFrame:
			return
		}
	}
}

func TestWindowsOfStreams(t *testing.T) {
	r := rawPair(t, &echo{}, Options{}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	want := message(30000)
	size := len(want)
	r.headers(3, false, r.request(unaryPath))
	r.data(3, false, want[:1])
	r.silent()
	r.data(3, true, want[1:])
	// One byte by a window update, then more by a larger initial window.
	require.NoError(t, r.fr.WriteWindowUpdate(3, 1))
	r.sent(3, 1)
	r.silent()
	require.NoError(t, r.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1000}))
	r.sent(3, 1000)
	r.silent()
	// 1,000 were used, so 400 is a window of 600 below zero.
	require.NoError(t, r.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 400}))
	require.NoError(t, r.fr.WriteWindowUpdate(3, 600))
	r.silent()
	require.NoError(t, r.fr.WriteWindowUpdate(3, 10))
	r.sent(3, 10)
	r.silent()
	require.NoError(t, r.fr.WriteWindowUpdate(3, 1<<20))
	r.sent(3, size-1011)
	require.True(t, r.until(http2.FrameHeaders).(*http2.HeadersFrame).StreamEnded())
}

func TestWindowOfTheConnection(t *testing.T) {
	e := &echo{unary: func(context.Context, []byte) ([]byte, error) { return make([]byte, 100000), nil }}
	r := rawPair(t, e, Options{}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	for _, id := range []uint32{3, 5} {
		r.headers(id, false, r.request(unaryPath))
		r.data(id, true, message(1))
	}
	got := map[uint32]int{}
	total := func() int { return got[3] + got[5] }
	take := func(n int) {
		for total() < n {
			f := r.until(http2.FrameData).(*http2.DataFrame)
			got[f.StreamID] += len(f.Data())
		}
		require.Equal(t, n, total())
	}
	take(firstWindow)
	r.silent()
	for n := 1; n < 10; n++ {
		require.NoError(t, r.fr.WriteWindowUpdate(0, 100))
		take(firstWindow + n*100)
	}
	r.silent()
	require.NoError(t, r.fr.WriteWindowUpdate(0, 1<<20))
	take(2 * (100000 + 4 + prefixSize))
}

// Messages that are held back are written before their sender waits for a window:
// the client makes room when it has them.
func TestHeldMessagesDoNotWaitForTheWindow(t *testing.T) {
	e := &echo{stream: func(ss grpc.ServerStream) error {
		for range 10 {
			if err := SendHeld(ss, wrapperspb.Bytes(make([]byte, 93))); err != nil {
				return err
			}
		}
		return nil
	}}
	r := rawPair(t, e, Options{}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 250})
	r.headers(3, true, r.request(downPath))
	for range 3 {
		r.sent(3, 250)
		require.NoError(t, r.fr.WriteWindowUpdate(3, 250))
	}
	r.sent(3, 250)
	require.True(t, r.until(http2.FrameHeaders).(*http2.HeadersFrame).StreamEnded())
}

// The client may always send the rest of a message, padded or not, and gets back what
// it sent on streams that ended.
func TestRoomIsGivenBack(t *testing.T) {
	r := rawPair(t, &echo{}, Options{})
	left, all := map[uint32]int64{}, int64(connWindow)
	send := func(id uint32, end bool, b []byte, pad int) {
		n := int64(len(b))
		if pad > 0 {
			n += int64(pad) + 1
		}
		for left[id] < n || all < n {
			f := r.until(http2.FrameWindowUpdate).(*http2.WindowUpdateFrame)
			if f.StreamID == 0 {
				all += int64(f.Increment)
			} else {
				left[f.StreamID] += int64(f.Increment)
			}
		}
		left[id], all = left[id]-n, all-n
		if pad > 0 {
			require.NoError(t, r.fr.WriteDataPadded(id, end, b, make([]byte, pad)))
		} else {
			r.data(id, end, b)
		}
	}
	require.NoError(t, r.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: maxWindow}))
	require.NoError(t, r.fr.WriteWindowUpdate(0, 1<<30))
	for i, path := range []string{unaryPath, bothPath} {
		id := uint32(2*i + 3)
		left[id] = streamWindow
		r.headers(id, false, r.request(path))
		want := message(3 << 20)
		for b := want; len(b) > 0; {
			n := min(len(b), maxFrame-300)
			send(id, n == len(b), b[:n], 100)
			b = b[n:]
		}
		r.answer(id, want)
	}
	// Padding alone comes back too.
	left[7] = streamWindow
	r.headers(7, false, r.request(bothPath))
	for range 3 * streamWindow / 256 {
		send(7, false, nil, 255)
	}
	// Nobody waits for this, and the connection's window must not shrink by it.
	r.headers(9, false, r.request("/none"))
	left[9] = 1 << 40
	for range 2 * connWindow / maxFrame {
		send(9, false, make([]byte, maxFrame), 0)
	}
	require.NoError(t, r.fr.WriteRSTStream(7, http2.ErrCodeCancel))
	r.call(11)
}

// Bytes of requests that nobody takes are bounded over all streams of a connection.
func TestBytesUnderWayAreBounded(t *testing.T) {
	e := &echo{}
	hold(e)
	r := rawPair(t, e, Options{MaxRequestBytes: 64 << 20})
	resets := make(chan uint32, 1000)
	go func() { // reads, so that the server may write
		defer close(resets)
		for {
			f, err := r.fr.ReadFrame()
			if err != nil {
				return
			}
			if f, ok := f.(*http2.RSTStreamFrame); ok {
				resets <- f.StreamID
			}
		}
	}()
	id := uint32(3)
	for range maxPending/streamWindow + 4 {
		r.headers(id, false, r.request(bothPath))
		for range streamWindow / maxFrame {
			r.data(id, false, make([]byte, maxFrame))
		}
		id += 2
	}
	within(t, resets, "a refusal")
	require.NoError(t, r.nc.Close())
	for range resets {
	}
}

// A client that never reads holds a bounded number of bytes, and no other connection.
func TestClientThatDoesNotRead(t *testing.T) {
	var at atomic.Int64
	e := &echo{unary: func(_ context.Context, b []byte) ([]byte, error) {
		at.Add(1)
		return make([]byte, 1<<20), nil
	}}
	srv, addr := serve(t, e, Options{})
	r := rawDial(t, addr)
	r.greet(http2.Setting{ID: http2.SettingInitialWindowSize, Val: maxWindow})
	require.NoError(t, r.fr.WriteWindowUpdate(0, 1<<30))
	for i := range 100 {
		id := uint32(2*i + 3)
		r.headers(id, false, r.request(unaryPath))
		r.data(id, true, message(1))
	}
	cc, ctx := dial(t, addr), patient(t)
	for range 5 {
		got, err := call(ctx, cc, nil)
		require.NoError(t, err)
		require.Len(t, got, 1<<20)
	}
	require.Eventually(t, func() bool { return at.Load() == 105 }, patience, time.Millisecond)
	srv.mu.Lock()
	for c := range srv.conns {
		require.NoError(t, c.w.Begin(nil, nil, true))
		require.LessOrEqual(t, len(c.w.Buf), 2<<20)
		c.w.End(false)
	}
	srv.mu.Unlock()
}

// A peer that makes us answer and does not read is cut: pings, settings, resets.
func TestFloods(t *testing.T) {
	for name, flood := range map[string]func(r *raw, i int) error{
		"settings": func(r *raw, _ int) error { return r.fr.WriteSettings() },
		"refusals": func(r *raw, i int) error {
			return r.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 3), BlockFragment: r.request("/none"), EndStream: true, EndHeaders: true})
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := rawPair(t, &echo{}, Options{})
			r.fr = http2.NewFramer(bufio.NewWriterSize(r.nc, 64<<10), r.nc)
			var err error
			for i := 0; err == nil && i < 20<<20; i++ {
				err = flood(r, i)
			}
			require.Error(t, err)
			require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
		})
	}
	t.Run("pings", func(t *testing.T) {
		r := rawPair(t, &echo{}, Options{})
		for range 4 {
			require.NoError(t, r.fr.WritePing(false, [8]byte{}))
		}
		r.away(http2.ErrCodeEnhanceYourCalm)
	})
}

// Streams that are opened and left at once do not pile up handlers.
func TestRapidResetIsBounded(t *testing.T) {
	var now, most atomic.Int64
	release := make(chan struct{})
	e := &echo{unary: func(_ context.Context, b []byte) ([]byte, error) {
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		<-release // pays no heed to its context
		now.Add(-1)
		return b, nil
	}}
	srv, addr := serve(t, e, Options{MaxStreams: 100})
	r := rawDial(t, addr)
	r.greet()
	refused := make(chan struct{})
	go func() {
		defer close(refused)
		for {
			f, err := r.fr.ReadFrame()
			if err != nil {
				return
			}
			if f, ok := f.(*http2.RSTStreamFrame); ok && f.ErrCode == http2.ErrCodeRefusedStream {
				return
			}
		}
	}()
	for i := range 2 * maxOrphans {
		id := uint32(2*i + 3)
		r.headers(id, false, r.request(unaryPath))
		r.data(id, true, message(1))
		require.NoError(t, r.fr.WriteRSTStream(id, http2.ErrCodeCancel))
	}
	within(t, refused, "a refusal")
	require.LessOrEqual(t, most.Load(), int64(maxOrphans+100))
	require.Less(t, runtime.NumGoroutine(), maxOrphans+200)
	close(release)
	r.alive() // all that was sent is read
	orphans := func() (n int) {
		srv.mu.Lock()
		defer srv.mu.Unlock()
		for c := range srv.conns {
			c.mu.Lock()
			n += c.orphans + c.pending
			c.mu.Unlock()
		}
		return n
	}
	require.Eventually(t, func() bool { return orphans() == 0 }, patience, time.Millisecond)
	r.call(4*maxOrphans + 3)
}
