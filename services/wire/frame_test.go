package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"nekoq/services/command"
	"nekoq/services/errs"
)

func genError(t *rapid.T) *errs.Error {
	code := rapid.SampledFrom(errs.Table).Draw(t, "code").Code
	e := errs.New(code, "%s", rapid.StringN(0, 40, 200).Draw(t, "message"))
	str := rapid.StringN(0, 10, 40)
	for range rapid.IntRange(0, 4).Draw(t, "details") {
		e = e.With(errs.Detail{
			Field: str.Draw(t, "field"), Value: str.Draw(t, "value"), Limit: str.Draw(t, "limit"), Help: str.Draw(t, "help"),
		})
	}
	return e
}

func TestErrorsTravelWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := genError(t)
		back, err := parseError(appendErrorBody(nil, e))
		require.NoError(t, err)
		require.Equal(t, e.Code, back.Code)
		require.Equal(t, e.Message, back.Message)
		require.Equal(t, e.Details, back.Details)
	})
}

func TestHugeErrorIsCut(t *testing.T) {
	e := errs.New(errs.Internal, "%s", bytes.Repeat([]byte("x"), 1<<20))
	for range 200 {
		e = e.With(errs.Detail{Field: "f"})
	}
	body := appendErrorBody(nil, e)
	require.Less(t, len(body), maxHello)
	back, err := parseError(body)
	require.NoError(t, err)
	require.Len(t, back.Message, maxErrorText)
	require.Len(t, back.Details, maxErrorDetails)

	e = errs.New(errs.Internal, "%s", strings.Repeat("é", maxErrorText))
	huge := strings.Repeat("x", 1<<20)
	for range maxErrorDetails {
		e = e.With(errs.Detail{Field: huge, Value: huge, Limit: huge, Help: huge})
	}
	body = appendErrorBody(nil, e)
	require.Less(t, len(body), maxHello-minLength)
	back, err = parseError(body)
	require.NoError(t, err)
	require.True(t, utf8.ValidString(back.Message))
	require.NotEmpty(t, back.Details)
}

func TestRequestHeads(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := requestHead{
			method:  Method(rapid.Uint16().Draw(t, "method")),
			timeout: time.Duration(rapid.Int64Range(0, int64(maxTimeout/time.Microsecond)).Draw(t, "µs")) * time.Microsecond,
			id: command.RequestID{
				Session: rapid.Uint64().Draw(t, "session"), Seq: rapid.Uint64().Draw(t, "seq"), Acked: rapid.Uint64().Draw(t, "acked"),
			},
		}
		payload := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "payload")
		b := appendRequest(nil, frameRequest, 9, h, payload)
		require.LessOrEqual(t, len(b), lengthSize+minLength+maxRequestHead+len(payload))
		got, rest, err := parseRequest(b[headerSize:])
		require.NoError(t, err)
		require.Equal(t, h, got)
		require.True(t, bytes.Equal(payload, rest))
		for n := range len(b) - len(payload) - headerSize {
			if _, _, err := parseRequest(b[headerSize : headerSize+n]); err == nil {
				t.Fatalf("a head cut to %d bytes was taken", n)
			}
		}
	})
}

func TestTimeoutsAreRoundedUp(t *testing.T) {
	b := appendRequest(nil, frameRequest, 1, requestHead{timeout: 1}, nil)
	h, _, err := parseRequest(b[headerSize:])
	require.NoError(t, err)
	require.Equal(t, time.Microsecond, h.timeout)
}

// TestReaderSplits: however the bytes come in, the same frames come out.
func TestReaderSplits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const limit = 100 << 10
		var stream []byte
		var want []frame
		for range rapid.IntRange(0, 12).Draw(t, "frames") {
			size := rapid.OneOf(rapid.IntRange(0, 100), rapid.IntRange(0, 3*limit)).Draw(t, "size")
			f := frame{
				typ: byte(rapid.IntRange(int(frameHello), int(frameGoaway)).Draw(t, "type")), id: rapid.Uint32().Draw(t, "id"),
				body: bytes.Repeat([]byte{byte(size)}, size),
			}
			stream = appendFrame(stream, f.typ, f.id, f.body)
			if size+minLength > limit {
				f.body, f.over = nil, size
			}
			want = append(want, f)
		}
		var src io.Reader = bytes.NewReader(stream)
		switch rapid.IntRange(0, 2).Draw(t, "how") {
		case 1:
			src = iotest.OneByteReader(src)
		case 2:
			src = iotest.HalfReader(src)
		}
		r := newFrameReader(src, limit)
		for _, f := range want {
			got, err := r.next()
			require.NoError(t, err)
			require.Equal(t, f.typ, got.typ)
			require.Equal(t, f.id, got.id)
			require.Equal(t, f.over, got.over)
			require.True(t, bytes.Equal(f.body, got.body))
		}
		_, err := r.next()
		require.Equal(t, io.EOF, err)
	})
}

func TestReaderRefuses(t *testing.T) {
	head := func(length uint32, typ byte) []byte {
		b := binary.BigEndian.AppendUint32(nil, length)
		return append(b, typ, 0, 0, 0, 1)
	}
	for name, in := range map[string][]byte{
		"too short":    head(4, frameRequest),
		"no type":      head(5, 0),
		"unknown type": head(5, frameGoaway+1),
		"far too long": head(skipFactor*1000+1, frameRequest),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newFrameReader(bytes.NewReader(in), 1000).next()
			require.Equal(t, errs.ProtocolViolation, errs.CodeOf(err))
		})
	}
	for name, in := range map[string][]byte{
		"half a head":      head(100, frameRequest)[:5],
		"half a body":      append(head(100, frameRequest), 1, 2, 3),
		"half an oversize": append(head(2000, frameRequest), 1, 2, 3),
	} {
		t.Run(name, func(t *testing.T) {
			r := newFrameReader(bytes.NewReader(in), 1000)
			_, err := r.next()
			if err == nil {
				_, err = r.next()
			}
			require.Equal(t, io.ErrUnexpectedEOF, err)
		})
	}
}

// TestReaderTrustsNoHeader: a header alone must not make a peer's buffer large.
func TestReaderTrustsNoHeader(t *testing.T) {
	b := binary.BigEndian.AppendUint32(nil, 16<<20)
	b = append(b, frameRequest, 0, 0, 0, 1)
	r := newFrameReader(bytes.NewReader(b), 16<<20)
	_, err := r.next()
	require.Equal(t, io.ErrUnexpectedEOF, err)
	require.LessOrEqual(t, len(r.buf), readBufferSize)
}

func FuzzReader(f *testing.F) {
	f.Add(appendFrame(nil, framePing, 0, make([]byte, 8)))
	f.Add(appendRequest(nil, frameRequest, 1, requestHead{method: 2, timeout: time.Second, id: command.RequestID{Session: 1, Seq: 2, Acked: 3}}, []byte("payload")))
	f.Add(appendErrorFrame(nil, frameError, 3, errs.Invalid("field", "value", "limit")))
	f.Add(appendErrorFrame(appendFrame(nil, frameMessage, 1, nil), frameGoaway, 0, errs.New(errs.ShuttingDown, "")))
	f.Add([]byte{0, 0, 0, 5, frameEnd, 0, 0, 0, 1, 0, 0, 1, 0, frameCancel})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, frameRequest, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, in []byte) {
		r := newFrameReader(iotest.HalfReader(bytes.NewReader(in)), 256)
		for {
			fr, err := r.next()
			if err != nil {
				if err != io.EOF && err != io.ErrUnexpectedEOF && errs.CodeOf(err) != errs.ProtocolViolation {
					t.Fatalf("unexpected error: %v", err)
				}
				return
			}
			if h, payload, err := parseRequest(fr.body); err == nil {
				again := appendRequest(nil, fr.typ, fr.id, h, payload)
				h2, p2, err := parseRequest(again[headerSize:])
				if err != nil || h2 != h || !bytes.Equal(payload, p2) {
					t.Fatalf("a request changed: %+v, %+v, %v", h, h2, err)
				}
			}
			if e, err := parseError(fr.body); err == nil {
				e2, err := parseError(appendErrorBody(nil, e))
				if err != nil || !errors.Is(e2, e) {
					t.Fatalf("an error changed: %v, %v, %v", e, e2, err)
				}
			}
		}
	})
}

// FuzzServer throws bytes at a server after an orderly hello: it must end the
// connection or serve it, and neither panic nor hang.
func FuzzServer(f *testing.F) {
	f.Add(appendRequest(nil, frameRequest, 1, requestHead{method: mEcho}, []byte("payload")))
	f.Add(appendRequest(appendFrame(nil, frameCancel, 1, nil), frameOpen, 1, requestHead{method: mCount}, []byte{3}))
	f.Add(appendFrame(appendRequest(nil, frameOpen, 1, requestHead{method: mEndless}, nil), frameCredit, 1, []byte{0xff, 0x01}))
	f.Add(appendFrame(nil, framePing, 0, make([]byte, 8)))
	f.Add(appendFrame(nil, frameHello, 0, []byte("{}")))
	f.Fuzz(func(t *testing.T, in []byte) {
		a, b := Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			NewServer(testMux(), ServerOptions{Limits: Limits{MaxFrameBytes: maxHello}}).ServeConn(b)
		}()
		hello, err := appendHello(appendPreamble(nil), callerHello{MaxFrame: maxHello, Window: 1000})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = a.Write(append(hello, in...))
		_ = a.Close()
		<-done
	})
}

func FuzzHandshake(f *testing.F) {
	hello, err := appendHello(appendPreamble(nil), callerHello{Token: []byte("t"), MaxFrame: 1, Window: 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(hello)
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add(hello[:20])
	f.Fuzz(func(t *testing.T, in []byte) {
		a, b := Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			NewServer(testMux(), ServerOptions{}).ServeConn(b)
		}()
		_, _ = a.Write(in)
		_ = a.Close()
		<-done
	})
}
