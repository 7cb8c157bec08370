package grpcserver

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"nekoq/services/wire"
)

// frames makes frames of bytes: most are nearly right, so that they get far.
func frames(in []byte) []byte {
	var out, text bytes.Buffer
	fr := http2.NewFramer(&out, nil)
	fr.AllowIllegalWrites = true
	enc := hpack.NewEncoder(&text)
	next := func() byte {
		if len(in) == 0 {
			return 0
		}
		b := in[0]
		in = in[1:]
		return b
	}
	paths := []string{unaryPath, bothPath, upPath, "/none", ""}
	for id := uint32(1); len(in) > 0; {
		op, at := next(), next()
		on := uint32(at % 32)
		switch op % 14 {
		case 0, 1, 2:
			text.Reset()
			for _, f := range [][2]string{
				{":method", "POST"},
				{":scheme", "http"},
				{":path", paths[int(at)%len(paths)]},
				{"content-type", "application/grpc"},
				{"x", strings.Repeat("y", int(next())*int(at))},
			} {
				_ = enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
			}
			if at&64 != 0 {
				_ = enc.WriteField(hpack.HeaderField{Name: "grpc-timeout", Value: string('0'+at%10) + "m"})
			}
			block := text.Bytes()
			cut := len(block)
			if at&32 != 0 {
				cut /= 2
			}
			cut = min(cut, maxFrame)
			_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block[:cut], EndHeaders: cut == len(block), EndStream: at&128 != 0})
			for block = block[cut:]; len(block) > 0; {
				n := min(len(block), maxFrame)
				_ = fr.WriteContinuation(id, n == len(block), block[:n])
				block = block[n:]
			}
			id += 2
		case 3, 4:
			_ = fr.WriteData(id-2, at&1 != 0, message(int(next())*int(at)/8))
		case 5:
			_ = fr.WriteData(on, at&128 != 0, pattern(int(next())))
		case 6:
			_ = fr.WriteRSTStream(on, http2.ErrCode(next()))
		case 7:
			_ = fr.WriteWindowUpdate(on, uint32(next())<<(at%24))
		case 8:
			_ = fr.WriteSettings(http2.Setting{ID: http2.SettingID(at % 8), Val: uint32(next()) << (op % 25)})
		case 9:
			_ = fr.WritePing(at&1 != 0, [8]byte{'p', 'a', 'r', 't', 'i', 'n', 'g'})
		case 10:
			_ = fr.WriteDataPadded(id-2, at&1 != 0, message(int(at)), make([]byte, next()))
		case 11:
			_ = fr.WriteRSTStream(id-2, http2.ErrCodeCancel)
		case 12:
			n := min(int(next()), len(in))
			_ = fr.WriteRawFrame(http2.FrameType(at%12), http2.Flags(next()), on, in[:min(n, len(in))])
		case 13:
			_ = fr.WritePriority(on, http2.PriorityParam{StreamDep: uint32(next())})
		}
	}
	return out.Bytes()
}

// Whatever a client sends after its preface: nothing panics, and the connection ends
// with it, and with all of its handlers.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{0, 0, 0, 3, 1, 100})
	f.Add([]byte{0, 1, 9, 3, 8, 9, 11, 1, 0, 96, 250, 9, 1, 1})
	f.Add([]byte{8, 4, 0, 0, 64, 200, 4, 3, 250, 8, 4, 99, 7, 1, 255, 10, 9, 200})
	f.Add([]byte{0, 33, 200, 12, 9, 4, 4, 3, 2, 1, 5, 1, 200, 6, 3, 8})
	f.Add(pattern(300))
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 4096 {
			return
		}
		srv := New(Options{MaxRequestBytes: 30000, MaxStreams: 8, PingTimeout: time.Minute})
		srv.RegisterService(&echoDesc, &echo{})
		p := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
		done := make(chan error, 1)
		go func() { done <- srv.Serve(p) }()
		client, server := wire.Pipe()
		p.conns <- server
		read := make(chan struct{})
		go func() {
			defer close(read)
			_, _ = io.Copy(io.Discard, client)
		}()
		_ = client.SetWriteDeadline(time.Now().Add(patience))
		_, err := client.Write(append([]byte(http2.ClientPreface), appendSettings(nil)...))
		if err == nil {
			_, err = client.Write(frames(in))
		}
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			if err == nil && len(in)%3 == 0 {
				srv.GracefulStop()
			}
		}()
		_ = client.Close()
		<-stopped
		srv.Stop()
		require.NoError(t, <-done)
		<-read
		require.Zero(t, srv.Conns())
	})
}
