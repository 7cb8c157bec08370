package grpcserver

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"io"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"nekoq/services/auth"
	"nekoq/services/internal/link"
)

// stream is one request under way, and the context of its handler.
type stream struct {
	link.Context
	c         *conn
	m         *method
	id        uint32
	started   int64 // link.Nano()
	limited   bool  // the deadline is ours
	encoding  string
	fields    []hpack.HeaderField // the client's own
	ownFields [2]hpack.HeaderField

	// Of the reading goroutine, until the handler starts.
	req     []byte // of a method with one answer: prefix and message
	checked bool   // the prefix of req
	ended   bool   // the client sends no more
	back    int64  // of req: received, and not yet given back
	length  int64  // what is left of content-length, negative for none

	recvLeft atomic.Int64 // what the client may still send

	// Under conn.mu.
	window  int64 // what may be sent
	counted int   // bytes in conn.pending
	gone    bool  // answered, or the client left
	begun   bool  // a worker has it

	mu     sync.Mutex
	in     []byte // of a stream: received, not yet taken
	inOff  int
	inEnd  bool
	credit int64         // received and not yet given back
	more   chan struct{} // something arrived, cap 1

	opened   bool // the opening headers are out; of the handler
	headers  metadata.MD
	trailers metadata.MD
}

// limitedKey finds whether the deadline of a request is ours.
type limitedKey struct{}

// Limited tells whether the deadline of a request is that of Options.Limits.
func Limited(ctx context.Context) bool {
	limited, _ := ctx.Value(limitedKey{}).(bool)
	return limited
}

// streamKey finds the stream in a context made of it.
type streamKey struct{}

// The keys under which grpc keeps the metadata of a request, its stream and the address
// of its client.
var (
	mdKey        = link.KeyOf(func(ctx context.Context) { metadata.FromIncomingContext(ctx) })
	transportKey = link.KeyOf(func(ctx context.Context) { grpc.ServerTransportStreamFromContext(ctx) })
	peerKey      = link.KeyOf(func(ctx context.Context) { peer.FromContext(ctx) })
)

// Value implements context.Context.
func (s *stream) Value(key any) any {
	switch key {
	case streamKey{}:
		return s
	case auth.ContextKey:
		return &s.c.principal
	case mdKey:
		return mdOf(s.fields)
	case transportKey:
		return transportStream{s}
	case limitedKey{}:
		return s.limited
	case peerKey:
		return &peer.Peer{Addr: s.c.nc.RemoteAddr(), LocalAddr: s.c.nc.LocalAddr()}
	}
	return nil
}

// Header gives the first value of a header of the request whose context ctx is, or
// is made of. It costs less than grpc's metadata, and works for requests of grpc-go
// as well.
func Header(ctx context.Context, name string) (string, bool) {
	if s, ok := ctx.Value(streamKey{}).(*stream); ok {
		return value(s.fields, name)
	}
	if v := metadata.ValueFromIncomingContext(ctx, name); len(v) > 0 {
		return v[0], true
	}
	return "", false
}

// serve runs the handler in a worker.
func (s *stream) serve() {
	var err error
	if s.m.stream != nil {
		err = s.guard(func() error { return s.m.stream.Handler(s.m.impl, serverStream{s}) })
		s.finish(err)
		return
	}
	s.serveUnary()
}

// answers keeps buffers for answers.
var answers = sync.Pool{New: func() any { return &answer{b: make([]byte, 0, 512)} }}

type answer struct{ b []byte }

// keepAnswer is the largest buffer that goes back to the pool.
const keepAnswer = 64 << 10

func (s *stream) serveUnary() {
	a := answers.Get().(*answer)
	out := append(a.b[:0], 0, 0, 0, 0, 0)
	err := s.guard(func() (err error) {
		out, err = s.handle(out)
		return err
	})
	if err == nil && len(out)-prefixSize > maxMessage {
		err = status.Errorf(codes.ResourceExhausted, "grpc: trying to send message larger than max (%d vs. %d)", len(out)-prefixSize, maxMessage)
	}
	if err != nil {
		s.finish(err)
	} else {
		binary.BigEndian.PutUint32(out[1:], uint32(len(out)-prefixSize))
		s.reply(out)
	}
	if cap(out) <= keepAnswer {
		a.b = out
		answers.Put(a)
	}
}

// maxMessage is the longest answer in bytes.
const maxMessage = 1<<31 - 1

// handle appends the answer to out.
func (s *stream) handle(out []byte) ([]byte, error) {
	msg, err := s.message()
	if err != nil {
		return out, err
	}
	if s.m.raw != nil {
		return s.m.raw(s, msg, out)
	}
	reply, err := s.m.unary.Handler(s.m.impl, s, func(v any) error { return s.c.srv.decode(msg, v) }, nil)
	if err != nil {
		return out, err
	}
	return s.c.srv.encode(out, reply)
}

func (s *Server) decode(b []byte, v any) error {
	if s.opts.Decode != nil && s.opts.Decode(b, v) {
		return nil
	}
	m, ok := v.(proto.Message)
	if !ok {
		return status.Errorf(codes.Internal, "grpc: %T is no message", v)
	}
	if err := proto.Unmarshal(b, m); err != nil {
		return status.Errorf(codes.Internal, "grpc: error unmarshalling request: %v", err)
	}
	return nil
}

// Raw is an encoded message, for SendMsg.
type Raw []byte

func (s *Server) encode(out []byte, v any) ([]byte, error) {
	if s.opts.Encode != nil {
		if b, ok := s.opts.Encode(out, v); ok {
			return b, nil
		}
	}
	switch m := v.(type) {
	case Raw:
		return append(out, m...), nil
	case proto.Message:
		b, err := proto.MarshalOptions{}.MarshalAppend(out, m)
		if err != nil {
			return out, status.Errorf(codes.Internal, "grpc: error while marshaling: %v", err)
		}
		return b, nil
	}
	return out, status.Errorf(codes.Internal, "grpc: %T is no message", v)
}

// plain undoes the compression of a message.
func (s *stream) plain(compressed byte, b []byte) ([]byte, error) {
	if compressed == 0 {
		return b, nil
	}
	z := encoding.GetCompressor(s.encoding)
	if z == nil {
		return nil, status.Errorf(codes.Internal, "grpc: compressed flag set with identity or empty encoding")
	}
	r, err := z.Decompress(bytes.NewReader(b))
	if err != nil {
		return nil, status.Errorf(codes.Internal, "grpc: failed to decompress the received message: %v", err)
	}
	most := s.c.srv.opts.MaxRequestBytes
	out, err := io.ReadAll(io.LimitReader(r, int64(most)+1))
	switch {
	case err != nil:
		return nil, status.Errorf(codes.Internal, "grpc: failed to decompress the received message: %v", err)
	case len(out) > most:
		return nil, status.Errorf(codes.ResourceExhausted, "grpc: message after decompression larger than max %d", most)
	}
	return out, nil
}

// guard runs a handler; a panic ends the request and not the server.
func (s *stream) guard(handler func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.c.srv.log.Error("a handler panicked", "method", s.m.path, "panic", p, "stack", string(debug.Stack()))
			err = status.Error(codes.Internal, "the server has a defect here; its log has the details")
		}
	}()
	return handler()
}

// reply sends the answer of a method that has one: prefix and message.
func (s *stream) reply(msg []byte) {
	c := s.c
	c.mu.Lock()
	n := int64(len(msg))
	if s.gone || n > maxFrame || n > s.window || n > c.window || s.headers != nil || s.opened {
		c.mu.Unlock()
		s.replySlowly(msg)
		return
	}
	s.window -= n
	c.window -= n
	s.gone = true
	delete(c.streams, s.id)
	c.pending -= s.counted
	lone := len(c.streams) == 0
	c.mu.Unlock()
	s.End(context.Canceled, nil)
	if c.w.Begin(nil, nil, false) == nil {
		b := s.appendOpening(c.w.Buf)
		b = append(appendFrameHead(b, len(msg), http2.FrameData, 0, s.id), msg...)
		c.w.Buf = s.appendEnding(b)
		c.voice()
		c.w.End(lone)
	}
	c.note(s, codes.OK)
	c.left(lone)
}

func (s *stream) replySlowly(msg []byte) {
	if err := s.send(msg, false); err != nil {
		s.finish(err)
		return
	}
	s.finish(nil)
}

// voice notes that the peer hears from us (see ping).
func (c *conn) voice() {
	if c.silent.Load() {
		c.silent.Store(false)
	}
}

// appendOpening appends the headers that come before the first message.
func (s *stream) appendOpening(b []byte) []byte {
	start := len(b)
	b = appendFrameHead(b, 0, http2.FrameHeaders, http2.FlagHeadersEndHeaders, s.id)
	b = s.c.coder.opening(b)
	if len(s.headers) > 0 {
		block := appendMD(slices.Clone(b[start+frameHead:]), s.headers)
		return appendHeaders(b[:start], s.id, false, block)
	}
	b[start+2] = byte(len(b) - start - frameHead) // a few bytes
	return b
}

// appendEnding appends the trailers of success.
func (s *stream) appendEnding(b []byte) []byte {
	start := len(b)
	b = appendFrameHead(b, 0, http2.FrameHeaders, http2.FlagHeadersEndHeaders|http2.FlagHeadersEndStream, s.id)
	b = s.c.coder.ending(b)
	if len(s.trailers) > 0 {
		block := appendMD(slices.Clone(b[start+frameHead:]), s.trailers)
		return appendHeaders(b[:start], s.id, true, block)
	}
	b[start+2] = byte(len(b) - start - frameHead)
	return b
}

// appendStatus appends what ends a stream that did not go well.
func (c *conn) appendStatus(b []byte, s *stream, st *status.Status) []byte {
	var block []byte
	switch {
	case s.opened:
		block = c.coder.begin(nil)
	case len(s.headers) > 0: // they are no trailers
		b = s.appendOpening(b)
		block = c.coder.begin(nil)
	default: // one block for both
		block = c.coder.opening(nil)
	}
	block = appendField(block, "grpc-status", strconv.Itoa(int(st.Code())))
	block = appendField(block, "grpc-message", percent(st.Message()))
	if p := st.Proto(); p != nil && len(p.Details) > 0 {
		if details, err := proto.Marshal(p); err == nil {
			block = appendField(block, "grpc-status-details-bin", base64.RawStdEncoding.EncodeToString(details))
		}
	}
	block = appendMD(block, s.trailers)
	return s.appendCut(appendHeaders(b, s.id, true, block))
}

// appendCut tells a client that still sends to stop: the stream has been answered.
func (s *stream) appendCut(b []byte) []byte {
	if s.halfClosed() {
		return b
	}
	return appendReset(b, s.id, http2.ErrCodeNo)
}

// halfClosed tells whether the client has ended its side.
func (s *stream) halfClosed() bool {
	if s.more == nil {
		return s.ended
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inEnd
}

func appendMD(b []byte, md metadata.MD) []byte {
	for name, values := range md {
		if reserved(name) {
			continue
		}
		for _, v := range values {
			if len(name) > 4 && name[len(name)-4:] == "-bin" {
				v = base64.RawStdEncoding.EncodeToString([]byte(v))
			}
			if printable(name, v) { // a client may end the connection over such a trailer
				b = appendField(b, strings.ToLower(name), v)
			}
		}
	}
	return b
}

// printable tells whether a value may be sent under a name.
func printable(name, v string) bool {
	if strings.HasSuffix(name, "-bin") {
		return true // it is encoded
	}
	for i := range len(v) {
		if v[i] < ' ' || v[i] > '~' {
			return false
		}
	}
	return true
}

func reserved(name string) bool {
	switch name {
	case "", "content-type", "grpc-status", "grpc-message", "grpc-status-details-bin", "grpc-encoding", "te":
		return true
	}
	return name[0] == ':'
}

// statusOf makes a status of a handler's error as grpc-go does.
func statusOf(err error) *status.Status {
	if st, ok := status.FromError(err); ok {
		return st
	}
	return status.FromContextError(err)
}

// finish ends the stream with the status of err.
func (s *stream) finish(err error) {
	st := statusOf(err)
	c := s.c
	gone, lone := c.leave(s)
	s.End(context.Canceled, nil)
	if !gone && c.w.Begin(nil, nil, false) == nil {
		if st.Code() == codes.OK {
			b := c.w.Buf
			if !s.opened {
				b = s.appendOpening(b)
			}
			c.w.Buf = s.appendCut(s.appendEnding(b))
		} else {
			c.w.Buf = c.appendStatus(c.w.Buf, s, st)
		}
		c.voice()
		c.w.End(lone)
	}
	c.note(s, st.Code())
	c.left(lone)
}

// send sends one message with its prefix, in pieces if it must. hold leaves it to
// the next message to have it written.
func (s *stream) send(msg []byte, hold bool) error {
	c := s.c
	for len(msg) > 0 {
		n, err := c.takeWindow(s, min(len(msg), maxFrame))
		if err != nil {
			return status.FromContextError(err).Err()
		}
		if err := c.w.Begin(s.Done(), nil, false); err != nil {
			c.returnWindow(n)
			return status.FromContextError(context.Canceled).Err()
		}
		b := c.w.Buf
		if !s.opened {
			s.opened = true
			b = s.appendOpening(b)
		}
		c.w.Buf = append(appendFrameHead(b, n, http2.FrameData, 0, s.id), msg[:n]...)
		msg = msg[n:]
		c.voice()
		if hold && len(msg) == 0 {
			c.w.Hold()
		} else {
			c.w.End(false)
		}
	}
	return nil
}

// arrived takes bytes of a stream's messages; n is what they count for.
func (s *stream) arrived(data []byte, n int64) {
	s.mu.Lock()
	if s.inOff == len(s.in) {
		s.in, s.inOff = s.in[:0], 0
	} else if s.inOff > len(s.in)/2 {
		s.in, s.inOff = s.in[:copy(s.in, s.in[s.inOff:])], 0
	}
	s.in = append(s.in, data...)
	s.credit += n
	s.inEnd = s.ended
	s.mu.Unlock()
	select {
	case s.more <- struct{}{}:
	default:
	}
}

// next waits for the next message, until done is closed, which gives context.Canceled.
func (s *stream) next(done <-chan struct{}) (compressed byte, msg []byte, err error) {
	for {
		compressed, msg, ok, err := s.poll()
		if ok || err != nil {
			return compressed, msg, err
		}
		select {
		case <-s.more:
		case <-s.Done():
		case <-done:
			return 0, nil, context.Canceled
		}
	}
}

// poll gives the next message if it is there.
func (s *stream) poll() (compressed byte, msg []byte, ok bool, err error) {
	s.mu.Lock()
	in := s.in[s.inOff:]
	end := s.inEnd
	if len(in) >= prefixSize {
		if st := s.c.srv.checkPrefix(in); st != nil {
			s.mu.Unlock()
			return 0, nil, false, st.Err()
		}
		if n := prefixSize + int(binary.BigEndian.Uint32(in[1:])); len(in) >= n {
			s.inOff += n
			msg = slices.Clone(in[prefixSize:n])
			compressed = in[0]
			s.giveBack(s.credit - int64(len(s.in)-s.inOff))
			s.c.taken(s, n)
			return compressed, msg, true, nil
		}
	}
	s.giveBack(s.credit) // the rest must be able to come, however long the message is
	if err := s.Err(); err != nil {
		return 0, nil, false, status.FromContextError(err).Err()
	}
	switch {
	case end && len(in) > 0:
		return 0, nil, false, status.Error(codes.Internal, io.ErrUnexpectedEOF.Error())
	case end:
		return 0, nil, false, io.EOF
	}
	return 0, nil, false, nil
}

// giveBack lets the client send n more bytes, if that is worth a frame: what is less
// leaves it most of its window. mu is held on entry and released.
func (s *stream) giveBack(n int64) {
	if n < streamWindow/4 {
		s.mu.Unlock()
		return
	}
	s.credit -= n
	s.mu.Unlock()
	s.recvLeft.Add(n)
	s.c.control(func(b []byte) []byte { return appendWindowUpdate(b, s.id, uint32(n)) })
}
