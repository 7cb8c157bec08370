package grpcserver

import (
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
)

func hold(e *echo) chan struct{} {
	began := make(chan struct{}, 100)
	e.stream = func(ss grpc.ServerStream) error {
		began <- struct{}{}
		<-ss.Context().Done()
		return ss.Context().Err()
	}
	return began
}

// What ends the connection, and the reason that is given (RFC 9113).
func TestViolationsEndTheConnection(t *testing.T) {
	frame := func(typ http2.FrameType, flags http2.Flags, id uint32, b []byte) func(r *raw) {
		return func(r *raw) { require.NoError(r.t, r.fr.WriteRawFrame(typ, flags, id, b)) }
	}
	setting := func(id http2.SettingID, v uint32) func(r *raw) {
		return func(r *raw) { require.NoError(r.t, r.fr.WriteSettings(http2.Setting{ID: id, Val: v})) }
	}
	for name, c := range map[string]struct {
		code http2.ErrCode
		do   func(r *raw)
	}{
		"settings with a stream":               {http2.ErrCodeProtocol, frame(http2.FrameSettings, 0, 1, nil)},
		"settings of 5 bytes":                  {http2.ErrCodeFrameSize, frame(http2.FrameSettings, 0, 0, make([]byte, 5))},
		"settings ack with bytes":              {http2.ErrCodeFrameSize, frame(http2.FrameSettings, http2.FlagSettingsAck, 0, make([]byte, 6))},
		"enable push 2":                        {http2.ErrCodeProtocol, setting(http2.SettingEnablePush, 2)},
		"window of 2^31":                       {http2.ErrCodeFlowControl, setting(http2.SettingInitialWindowSize, 1<<31)},
		"frame size too small":                 {http2.ErrCodeProtocol, setting(http2.SettingMaxFrameSize, 16383)},
		"frame size too large":                 {http2.ErrCodeProtocol, setting(http2.SettingMaxFrameSize, 1<<24)},
		"ping with a stream":                   {http2.ErrCodeProtocol, frame(http2.FramePing, 0, 1, make([]byte, 8))},
		"ping of 7 bytes":                      {http2.ErrCodeFrameSize, frame(http2.FramePing, 0, 0, make([]byte, 7))},
		"goaway with a stream":                 {http2.ErrCodeProtocol, frame(http2.FrameGoAway, 0, 1, make([]byte, 8))},
		"window update of 0":                   {http2.ErrCodeProtocol, frame(http2.FrameWindowUpdate, 0, 0, make([]byte, 4))},
		"window update of 3 bytes":             {http2.ErrCodeFrameSize, frame(http2.FrameWindowUpdate, 0, 0, make([]byte, 3))},
		"window update on an idle stream":      {http2.ErrCodeProtocol, frame(http2.FrameWindowUpdate, 0, 9, []byte{0, 0, 0, 1})},
		"window update of 0 on an idle stream": {http2.ErrCodeProtocol, frame(http2.FrameWindowUpdate, 0, 9, make([]byte, 4))},
		"window update on an even stream":      {http2.ErrCodeProtocol, frame(http2.FrameWindowUpdate, 0, 2, []byte{0, 0, 0, 1})},
		"window of the connection overflows":   {http2.ErrCodeFlowControl, frame(http2.FrameWindowUpdate, 0, 0, []byte{0x7f, 255, 255, 255})},
		"window of a stream overflows": {http2.ErrCodeFlowControl, func(r *raw) {
			r.headers(5, false, r.request(bothPath))
			require.NoError(r.t, r.fr.WriteWindowUpdate(5, maxWindow))
		}},
		"window of a stream overflows by settings": {http2.ErrCodeFlowControl, func(r *raw) {
			r.headers(5, false, r.request(bothPath))
			require.NoError(r.t, r.fr.WriteWindowUpdate(5, maxWindow-firstWindow))
			setting(http2.SettingInitialWindowSize, firstWindow+1)(r)
		}},
		"reset on an idle stream":    {http2.ErrCodeProtocol, frame(http2.FrameRSTStream, 0, 9, make([]byte, 4))},
		"reset on an even stream":    {http2.ErrCodeProtocol, frame(http2.FrameRSTStream, 0, 2, make([]byte, 4))},
		"reset on no stream":         {http2.ErrCodeProtocol, frame(http2.FrameRSTStream, 0, 0, make([]byte, 4))},
		"reset of 3 bytes":           {http2.ErrCodeFrameSize, frame(http2.FrameRSTStream, 0, 3, make([]byte, 3))},
		"data on an idle stream":     {http2.ErrCodeProtocol, frame(http2.FrameData, 0, 9, nil)},
		"data on an even stream":     {http2.ErrCodeProtocol, frame(http2.FrameData, 0, 2, nil)},
		"data on no stream":          {http2.ErrCodeProtocol, frame(http2.FrameData, 0, 0, nil)},
		"data with too much pad":     {http2.ErrCodeProtocol, frame(http2.FrameData, http2.FlagDataPadded, 3, []byte{5, 0})},
		"data without its pad":       {http2.ErrCodeFrameSize, frame(http2.FrameData, http2.FlagDataPadded, 3, nil)},
		"push promise":               {http2.ErrCodeProtocol, frame(http2.FramePushPromise, http2.FlagPushPromiseEndHeaders, 3, make([]byte, 4))},
		"priority on no stream":      {http2.ErrCodeProtocol, frame(http2.FramePriority, 0, 0, make([]byte, 5))},
		"priority of 4 bytes":        {http2.ErrCodeFrameSize, frame(http2.FramePriority, 0, 5, make([]byte, 4))},
		"a frame too large":          {http2.ErrCodeFrameSize, frame(http2.FrameData, 0, 3, make([]byte, maxFrame+1))},
		"an unknown frame too large": {http2.ErrCodeFrameSize, frame(99, 0, 3, make([]byte, maxFrame+1))},
		"headers on no stream":       {http2.ErrCodeProtocol, frame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 0, nil)},
		"headers on an even stream":  {http2.ErrCodeProtocol, func(r *raw) { r.headers(4, true, r.request(unaryPath)) }},
		"headers on a lower stream":  {http2.ErrCodeProtocol, func(r *raw) { r.headers(1, true, r.request(unaryPath)) }},
		"headers with too much pad": {http2.ErrCodeProtocol, func(r *raw) {
			frame(http2.FrameHeaders, http2.FlagHeadersPadded, 5, []byte{200, 0})(r)
			frame(http2.FrameContinuation, http2.FlagContinuationEndHeaders, 5, r.request(unaryPath))(r)
		}},
		"headers without their pad":      {http2.ErrCodeFrameSize, frame(http2.FrameHeaders, http2.FlagHeadersPadded, 5, nil)},
		"headers that cannot be decoded": {http2.ErrCodeCompression, func(r *raw) { r.headers(5, true, []byte{0xff, 0xff, 0xff}) }},
		"headers that end in a field":    {http2.ErrCodeCompression, func(r *raw) { r.headers(5, true, []byte{0x40, 5, 'a'}) }},
		"a table larger than allowed":    {http2.ErrCodeCompression, func(r *raw) { r.headers(5, true, []byte{0x3f, 0xe2, 0x1f}) }},
		"trailers that cannot be decoded": {http2.ErrCodeCompression, func(r *raw) {
			r.headers(5, false, r.request(bothPath))
			r.headers(5, true, []byte{0xff, 0xff, 0xff})
		}},
		"continuation of nothing": {http2.ErrCodeProtocol, frame(http2.FrameContinuation, http2.FlagContinuationEndHeaders, 3, nil)},
		"continuation after the end": {http2.ErrCodeProtocol, func(r *raw) {
			r.headers(5, false, r.request(bothPath))
			frame(http2.FrameContinuation, http2.FlagContinuationEndHeaders, 5, nil)(r)
		}},
		"continuation of another stream": {http2.ErrCodeProtocol, func(r *raw) {
			frame(http2.FrameHeaders, 0, 5, r.request(unaryPath))(r)
			frame(http2.FrameContinuation, http2.FlagContinuationEndHeaders, 7, nil)(r)
		}},
		"data within a header": {http2.ErrCodeProtocol, func(r *raw) {
			frame(http2.FrameHeaders, 0, 5, r.request(unaryPath))(r)
			frame(http2.FrameData, 0, 3, nil)(r)
		}},
		"an unknown frame within a header": {http2.ErrCodeProtocol, func(r *raw) {
			frame(http2.FrameHeaders, 0, 5, r.request(unaryPath))(r)
			frame(99, 0, 3, nil)(r)
		}},
		"headers within a header": {http2.ErrCodeProtocol, func(r *raw) {
			b := r.request(unaryPath)
			frame(http2.FrameHeaders, 0, 5, b)(r)
			frame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 5, b)(r)
		}},
		"a header without an end": {http2.ErrCodeEnhanceYourCalm, func(r *raw) {
			frame(http2.FrameHeaders, 0, 5, r.request(unaryPath))(r)
			for range 8 {
				frame(http2.FrameContinuation, 0, 5, r.block("x", strings.Repeat("\"", 10000)))(r)
			}
		}},
		"a header of empty frames": {http2.ErrCodeEnhanceYourCalm, func(r *raw) {
			frame(http2.FrameHeaders, 0, 5, r.request(unaryPath))(r)
			for range maxHeaderBlock/fragmentCost + 1 {
				frame(http2.FrameContinuation, 0, 5, nil)(r)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			e := &echo{}
			hold(e)
			r := rawPair(t, e, Options{})
			r.call(3)
			c.do(r)
			r.away(c.code)
		})
	}
}

// What ends one stream, after which the connection goes on.
func TestViolationsEndTheStream(t *testing.T) {
	bad := func(fields ...string) func(r *raw) { return func(r *raw) { r.headers(5, false, r.block(fields...)) } }
	more := func(fields ...string) func(r *raw) {
		return func(r *raw) { r.headers(5, false, r.request(unaryPath, fields...)) }
	}
	for name, c := range map[string]struct {
		code http2.ErrCode
		do   func(r *raw)
	}{
		"data after the end": {http2.ErrCodeStreamClosed, func(r *raw) {
			r.headers(5, true, r.request(bothPath))
			r.data(5, false, message(1))
		}},
		"headers after the end": {http2.ErrCodeStreamClosed, func(r *raw) {
			r.headers(5, true, r.request(bothPath))
			r.headers(5, true, r.block("a", "b"))
		}},
		"trailers that end nothing": {http2.ErrCodeProtocol, func(r *raw) {
			r.headers(5, false, r.request(bothPath))
			r.headers(5, false, r.block("a", "b"))
		}},
		"trailers with a pseudo header": {http2.ErrCodeProtocol, func(r *raw) {
			r.headers(5, false, r.request(bothPath))
			r.headers(5, true, r.block(":path", "b"))
		}},
		"window update of 0": {http2.ErrCodeProtocol, func(r *raw) {
			r.headers(5, false, r.request(bothPath))
			require.NoError(r.t, r.fr.WriteRawFrame(http2.FrameWindowUpdate, 0, 5, make([]byte, 4)))
		}},
		"more data than the window": {http2.ErrCodeFlowControl, func(r *raw) {
			r.headers(5, false, r.request(bothPath))
			for range streamWindow/maxFrame + 1 {
				r.data(5, false, make([]byte, maxFrame))
			}
		}},
		"more padding than the window": {http2.ErrCodeFlowControl, func(r *raw) {
			r.headers(5, false, r.request(bothPath))
			for range streamWindow/256 + 1 {
				require.NoError(r.t, r.fr.WriteDataPadded(5, false, nil, make([]byte, 255)))
			}
		}},
		"no path":                        {http2.ErrCodeProtocol, bad(":method", "POST", ":scheme", "http")},
		"an empty path":                  {http2.ErrCodeProtocol, bad(":method", "POST", ":scheme", "http", ":path", "")},
		"no method":                      {http2.ErrCodeProtocol, bad(":path", "/", ":scheme", "http")},
		"no scheme":                      {http2.ErrCodeProtocol, bad(":method", "POST", ":path", "/")},
		"two paths":                      {http2.ErrCodeProtocol, bad(":method", "POST", ":scheme", "http", ":path", "/", ":path", "/")},
		"a pseudo header too late":       {http2.ErrCodeProtocol, bad(":method", "POST", ":scheme", "http", "te", "trailers", ":path", "/")},
		"the pseudo header of an answer": {http2.ErrCodeProtocol, more(":status", "200")},
		"an unknown pseudo header":       {http2.ErrCodeProtocol, bad(":method", "POST", ":scheme", "http", ":path", "/", ":x", "y")},
		"an upper case name":             {http2.ErrCodeProtocol, more("Upper", "x")},
		"a name with a blank":            {http2.ErrCodeProtocol, more("a b", "x")},
		"an empty name":                  {http2.ErrCodeProtocol, more("", "x")},
		"a value with a line end":        {http2.ErrCodeProtocol, more("a", "x\r\ny")},
		"connection":                     {http2.ErrCodeProtocol, more("connection", "close")},
		"transfer-encoding":              {http2.ErrCodeProtocol, more("transfer-encoding", "chunked")},
		"te":                             {http2.ErrCodeProtocol, more("te", "gzip")},
		"content-length of words":        {http2.ErrCodeProtocol, more("content-length", "x")},
		"two content-lengths":            {http2.ErrCodeProtocol, more("content-length", "1", "content-length", "2")},
		"content-length too small": {http2.ErrCodeProtocol, func(r *raw) {
			more("content-length", "5")(r)
			r.data(5, false, message(1))
		}},
		"content-length too large": {http2.ErrCodeProtocol, func(r *raw) {
			more("content-length", "50")(r)
			r.data(5, true, message(1))
		}},
		"content-length and no body": {http2.ErrCodeProtocol, func(r *raw) { r.headers(5, true, r.request(unaryPath, "content-length", "50")) }},
	} {
		t.Run(name, func(t *testing.T) {
			e := &echo{}
			hold(e)
			r := rawPair(t, e, Options{})
			r.call(3)
			c.do(r)
			r.reset(5, c.code)
			r.alive()
			r.call(7)
		})
	}
}

// What looks odd and is allowed.
func TestWhatIsAllowed(t *testing.T) {
	ping := [8]byte{1, 2, 3}
	for name, do := range map[string]func(r *raw){
		"unknown frames": func(r *raw) {
			for typ := http2.FrameType(20); typ < 40; typ++ {
				require.NoError(r.t, r.fr.WriteRawFrame(typ, 0xff, uint32(typ), pattern(int(typ))))
			}
			r.call(3)
		},
		"unknown settings": func(r *raw) {
			require.NoError(r.t, r.fr.WriteSettings(http2.Setting{ID: 99, Val: 1}))
			require.True(r.t, r.until(http2.FrameSettings).(*http2.SettingsFrame).IsAck())
			r.call(3)
		},
		"unknown flags": func(r *raw) {
			require.NoError(r.t, r.fr.WriteRawFrame(http2.FramePing, 0xfe, 0, ping[:]))
			require.Equal(r.t, ping, r.until(http2.FramePing).(*http2.PingFrame).Data)
			r.call(3)
		},
		"pings are answered": func(r *raw) {
			require.NoError(r.t, r.fr.WritePing(false, ping))
			f := r.until(http2.FramePing).(*http2.PingFrame)
			require.True(r.t, f.IsAck())
			require.Equal(r.t, ping, f.Data)
			require.NoError(r.t, r.fr.WritePing(true, ping)) // an answer to nothing
			r.call(3)
		},
		"priority of any stream": func(r *raw) {
			for _, id := range []uint32{1, 2, 99} {
				require.NoError(r.t, r.fr.WritePriority(id, http2.PriorityParam{StreamDep: 7, Weight: 3}))
			}
			r.call(3)
			require.NoError(r.t, r.fr.WritePriority(3, http2.PriorityParam{}))
			r.call(5)
		},
		"padding": func(r *raw) {
			block := r.request(unaryPath)
			require.NoError(r.t, r.fr.WriteHeaders(http2.HeadersFrameParam{
				StreamID: 3, BlockFragment: block, EndHeaders: true, PadLength: 200, Priority: http2.PriorityParam{StreamDep: 1, Weight: 9},
			}))
			m := message(1000)
			require.NoError(r.t, r.fr.WriteDataPadded(3, false, m[:3], make([]byte, 255)))
			require.NoError(r.t, r.fr.WriteDataPadded(3, false, nil, []byte{}))
			require.NoError(r.t, r.fr.WriteDataPadded(3, true, m[3:], make([]byte, 1)))
			r.answer(3, m)
		},
		"a header in many frames": func(r *raw) {
			block := r.request(unaryPath, "some", strings.Repeat("\"", 30<<10))
			require.NoError(r.t, r.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: block[:1]}))
			block = block[1:]
			for ; len(block) > 1000; block = block[1000:] {
				require.NoError(r.t, r.fr.WriteContinuation(3, false, block[:1000]))
			}
			require.NoError(r.t, r.fr.WriteContinuation(3, true, block))
			r.data(3, true, message(5))
			r.answer(3, message(5))
		},
		"trailers of a request": func(r *raw) {
			for id, path := range map[uint32]string{3: unaryPath} {
				r.headers(id, false, r.request(path))
				r.data(id, false, message(5))
				r.headers(id, true, r.block("some", "thing"))
				r.answer(id, message(5))
			}
			r.headers(5, false, r.request(bothPath))
			r.data(5, false, message(5))
			r.headers(5, true, r.block("some", "thing"))
			r.answer(5, message(5))
		},
		"frames on streams that ended": func(r *raw) {
			r.call(3)
			require.NoError(r.t, r.fr.WriteWindowUpdate(3, 1000))
			require.NoError(r.t, r.fr.WriteRSTStream(3, http2.ErrCodeCancel))
			r.data(3, true, message(9))
			r.call(5)
		},
		"an exact content-length": func(r *raw) {
			r.headers(3, false, r.request(unaryPath, "content-length", "107"))
			require.Len(r.t, message(100), 107)
			r.data(3, true, message(100))
			r.answer(3, message(100))
		},
		"a farewell": func(r *raw) {
			require.NoError(r.t, r.fr.WriteGoAway(0, http2.ErrCodeNo, nil))
			r.call(3)
		},
		"stream numbers with gaps": func(r *raw) { r.call(7); r.call(1<<30 + 1); r.call(1<<31 - 1) },
		"the end in a frame of its own": func(r *raw) {
			r.headers(3, false, r.request(unaryPath))
			for _, b := range message(50) {
				r.data(3, false, []byte{b})
			}
			r.data(3, true, nil)
			r.answer(3, message(50))
		},
	} {
		t.Run(name, func(t *testing.T) { do(rawPair(t, &echo{}, Options{})) })
	}
}

// What gRPC refuses on a stream of its own.
func TestRequestsThatAreNoGRPC(t *testing.T) {
	r := rawPair(t, &echo{}, Options{})
	id := uint32(1)
	try := func(want string, block []byte, body []byte) {
		t.Helper()
		id += 2
		r.headers(id, body == nil, block)
		if body != nil {
			r.data(id, true, body)
		}
		require.Equal(t, want, r.status(id))
	}
	try("http 405", r.block(":method", "GET", ":scheme", "http", ":path", "/"), nil)
	try("http 415", r.block(":method", "POST", ":scheme", "http", ":path", unaryPath), nil)
	try("http 415", r.block(":method", "POST", ":scheme", "http", ":path", unaryPath, "content-type", "application/grpcx"), nil)
	try("12", r.request("/none"), nil)
	try("13", r.request(unaryPath), nil)
	try("13", r.request(unaryPath, "grpc-timeout", "1"), message(1))
	try("13", r.request(unaryPath, "grpc-timeout", "123456789S"), message(1))
	try("12", r.request(unaryPath, "grpc-encoding", "nonsense"), message(1))
	try("13", r.request(unaryPath), append([]byte{2}, message(1)[1:]...))
	try("13", r.request(unaryPath), append([]byte{1}, message(1)[1:]...)) // compressed by nothing
	try("13", r.request(unaryPath), message(50)[:40])
	try("13", r.request(unaryPath), append(message(1), 7))
	try("13", r.request(unaryPath), append(message(1), message(1)...))
	try("13", r.request(unaryPath), []byte{0, 0, 0, 0, 1, 0xff})
	try("13", r.request(bothPath), message(50)[:40])
	try("0", r.request(bothPath), nil)
	for _, good := range []string{"99999999H", "2562047H", "99999999M", "99999999S", "99999999m", "1S", "50000000u"} {
		try("0", r.request(unaryPath, "grpc-timeout", good), message(1))
	}
	try("0", r.block(":method", "POST", ":scheme", "http", ":path", unaryPath, "content-type", "application/grpc+proto"), message(1))
}

func TestFirstFrames(t *testing.T) {
	_, addr := serve(t, &echo{}, Options{})
	t.Run("no HTTP/2", func(t *testing.T) {
		r := rawDial(t, addr)
		r.bytes("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		r.closed()
	})
	for name, do := range map[string]func(r *raw) error{
		"no settings":     func(r *raw) error { return r.fr.WritePing(false, [8]byte{}) },
		"only their ack":  func(r *raw) error { return r.fr.WriteSettingsAck() },
		"headers at once": func(r *raw) error { r.headers(1, true, r.request(unaryPath)); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			r := rawDial(t, addr)
			r.bytes(http2.ClientPreface)
			require.NoError(t, do(r))
			r.away(http2.ErrCodeProtocol)
		})
	}
	t.Run("in pieces", func(t *testing.T) {
		r := rawDial(t, addr)
		for _, b := range http2.ClientPreface {
			r.bytes(string(b))
		}
		require.NoError(t, r.fr.WriteSettings())
		r.until(http2.FrameSettings)
		r.call(1)
	})
	t.Run("a client that leaves", func(t *testing.T) {
		r := rawDial(t, addr)
		r.bytes(http2.ClientPreface[:5])
		require.NoError(t, r.nc.(*net.TCPConn).CloseWrite())
		r.closed()
	})
}
