package grpcserver

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// raw is a client that speaks in frames, so that it can break the rules.
type raw struct {
	t    *testing.T
	nc   net.Conn
	fr   *http2.Framer
	text bytes.Buffer
	enc  *hpack.Encoder
	dec  *hpack.Decoder
}

// rawDial connects and says nothing.
func rawDial(t *testing.T, addr string) *raw {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = nc.Close() })
	require.NoError(t, nc.SetDeadline(time.Now().Add(patience)))
	return newRaw(t, nc)
}

func newRaw(t *testing.T, nc net.Conn) *raw {
	t.Helper()
	r := &raw{t: t, nc: nc, fr: http2.NewFramer(nc, nc), dec: hpack.NewDecoder(4096, nil)}
	r.fr.AllowIllegalWrites = true
	r.fr.AllowIllegalReads = true
	r.enc = hpack.NewEncoder(&r.text)
	return r
}

// rawPair is a server and a raw client of it that has said its preface.
func rawPair(t *testing.T, e *echo, o Options, settings ...http2.Setting) *raw {
	t.Helper()
	_, addr := serve(t, e, o)
	r := rawDial(t, addr)
	r.greet(settings...)
	return r
}

func (r *raw) bytes(b string) {
	_, err := io.WriteString(r.nc, b)
	require.NoError(r.t, err)
}

func (r *raw) greet(settings ...http2.Setting) {
	r.t.Helper()
	r.bytes(http2.ClientPreface)
	require.NoError(r.t, r.fr.WriteSettings(settings...))
	f, err := r.fr.ReadFrame()
	require.NoError(r.t, err)
	require.Equal(r.t, http2.FrameSettings, f.Header().Type, "the first frame")
	require.False(r.t, f.(*http2.SettingsFrame).IsAck())
	require.NoError(r.t, r.fr.WriteSettingsAck())
	r.until(http2.FrameSettings)
}

// until reads up to a frame of that type.
func (r *raw) until(typ http2.FrameType) http2.Frame {
	r.t.Helper()
	for {
		f, err := r.fr.ReadFrame()
		require.NoError(r.t, err, "waiting for %s", typ)
		if away, ok := f.(*http2.GoAwayFrame); ok && typ != http2.FrameGoAway {
			r.t.Fatalf("sent away while waiting for %s: %s %s", typ, away.ErrCode, away.DebugData())
		}
		if f.Header().Type == typ {
			return f
		}
		if h, ok := f.(*http2.HeadersFrame); ok {
			_, err := r.dec.DecodeFull(h.HeaderBlockFragment())
			require.NoError(r.t, err)
		}
	}
}

// block encodes a header.
func (r *raw) block(fields ...string) []byte {
	r.text.Reset()
	for i := 0; i < len(fields); i += 2 {
		require.NoError(r.t, r.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}))
	}
	return bytes.Clone(r.text.Bytes())
}

// request is the header of a request, with more fields at its end.
func (r *raw) request(path string, more ...string) []byte {
	return r.block(append([]string{
		":method", "POST", ":scheme", "http", ":path", path, ":authority", "x", "content-type", "application/grpc", "te", "trailers",
	}, more...)...)
}

func (r *raw) headers(id uint32, end bool, block []byte) {
	require.NoError(r.t, r.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true, EndStream: end}))
}

func (r *raw) data(id uint32, end bool, b []byte) {
	for ; len(b) > maxFrame; b = b[maxFrame:] {
		require.NoError(r.t, r.fr.WriteData(id, false, b[:maxFrame]))
	}
	require.NoError(r.t, r.fr.WriteData(id, end, b))
}

// message frames a message of n bytes.
func message(n int) []byte {
	b, _ := proto.Marshal(wrapperspb.Bytes(pattern(n)))
	return append([]byte{0, byte(len(b) >> 24), byte(len(b) >> 16), byte(len(b) >> 8), byte(len(b))}, b...)
}

// call makes a call on a stream and checks that it goes well.
func (r *raw) call(id uint32) {
	r.t.Helper()
	r.headers(id, false, r.request(unaryPath))
	r.data(id, true, message(100))
	r.answer(id, message(100))
}

// answer reads the answer on a stream.
func (r *raw) answer(id uint32, want []byte) {
	r.t.Helper()
	var got []byte
	for {
		f, err := r.fr.ReadFrame()
		require.NoError(r.t, err, "waiting for the answer on stream %d", id)
		switch f := f.(type) {
		case *http2.HeadersFrame:
			fields, err := r.dec.DecodeFull(f.HeaderBlockFragment())
			require.NoError(r.t, err)
			if f.StreamID == id && f.StreamEnded() {
				require.Equal(r.t, hpack.HeaderField{Name: "grpc-status", Value: "0"}, fields[len(fields)-1])
				require.Equal(r.t, want, got)
				return
			}
		case *http2.DataFrame:
			if f.StreamID == id {
				got = append(got, f.Data()...)
			}
		case *http2.GoAwayFrame:
			r.t.Fatalf("sent away: %s %s", f.ErrCode, f.DebugData())
		case *http2.RSTStreamFrame:
			require.NotEqual(r.t, id, f.StreamID, f.ErrCode)
		}
	}
}

// status reads the grpc-status of a stream that fails, or the HTTP status.
func (r *raw) status(id uint32) string {
	r.t.Helper()
	for {
		f := r.fr
		fr, err := f.ReadFrame()
		require.NoError(r.t, err)
		h, ok := fr.(*http2.HeadersFrame)
		if !ok {
			continue
		}
		fields, err := r.dec.DecodeFull(h.HeaderBlockFragment())
		require.NoError(r.t, err)
		if h.StreamID == id && h.StreamEnded() {
			if v, ok := value(fields, "grpc-status"); ok {
				return v
			}
			v, _ := value(fields, ":status")
			return "http " + v
		}
	}
}

// reset reads up to the end of a stream by the server, with that reason.
func (r *raw) reset(id uint32, code http2.ErrCode) {
	r.t.Helper()
	for {
		f := r.until(http2.FrameRSTStream).(*http2.RSTStreamFrame)
		if f.StreamID == id {
			require.Equal(r.t, code, f.ErrCode)
			return
		}
	}
}

// away reads up to the server's farewell, and the end of the connection.
func (r *raw) away(code http2.ErrCode) {
	r.t.Helper()
	f := r.until(http2.FrameGoAway).(*http2.GoAwayFrame)
	require.Equal(r.t, code, f.ErrCode, "%s", f.DebugData())
	r.closed()
}

// closed waits for the end of the connection.
func (r *raw) closed() {
	r.t.Helper()
	for {
		_, err := r.fr.ReadFrame()
		if err == nil {
			continue
		}
		var late net.Error
		require.False(r.t, errors.As(err, &late) && late.Timeout(), "the connection stays open")
		return
	}
}

// alive checks that the connection still serves.
func (r *raw) alive() {
	r.t.Helper()
	require.NoError(r.t, r.fr.WritePing(false, [8]byte{7}))
	for {
		f := r.until(http2.FramePing).(*http2.PingFrame)
		if f.IsAck() && f.Data == [8]byte{7} {
			return
		}
	}
}
