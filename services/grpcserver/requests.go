package grpcserver

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/gzip" // clients may compress their requests so
	"google.golang.org/grpc/status"

	"nekoq/services/internal/link"
)

var errPending = status.Newf(codes.ResourceExhausted, "this connection has requests of more than %d bytes under way", maxPending)

// headers begins a request.
func (c *conn) headers(f *http2.HeadersFrame, now int64) error {
	id := f.StreamID
	if c.headID != 0 {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	c.mu.Lock()
	s, idle := c.streams[id], c.idleLocked(id)
	c.mu.Unlock()
	if id%2 == 0 || s == nil && !idle {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	own := c.head.own[:0]
	c.head = head{own: own, length: -1}
	c.headOf, c.headID, c.headEnd, c.headBytes = s, id, f.StreamEnded(), 0
	return c.fragment(f.HeaderBlockFragment(), f.HeadersEnded(), now)
}

// fragment takes a piece of a header block; the framer has seen to it that the
// pieces of one block follow each other.
func (c *conn) fragment(block []byte, end bool, now int64) error {
	if c.headBytes += len(block) + fragmentCost; c.headBytes > maxHeaderBlock {
		return http2.ConnectionError(http2.ErrCodeEnhanceYourCalm)
	}
	if _, err := c.dec.Write(block); err != nil {
		return http2.ConnectionError(http2.ErrCodeCompression)
	}
	if !end {
		return nil
	}
	if err := c.dec.Close(); err != nil {
		return http2.ConnectionError(http2.ErrCodeCompression)
	}
	id, s := c.headID, c.headOf
	c.headID, c.headOf = 0, nil
	if s != nil {
		c.end(s)
		return nil
	}
	c.open(id, now)
	return nil
}

// fragmentCost is what a frame of a header block counts for beside its bytes, so that
// empty ones have an end too.
const fragmentCost = frameHead

// end takes the trailers of a request: gRPC has none, and they end it.
func (c *conn) end(s *stream) {
	switch {
	case s.ended:
		c.reset(s.id, http2.ErrCodeStreamClosed)
	case !c.headEnd || c.head.pseudo != 0 || c.head.malformed:
		c.reset(s.id, http2.ErrCodeProtocol)
	default:
		if s.ended = true; !s.declared(0) {
			c.reset(s.id, http2.ErrCodeProtocol)
		} else if s.m.stream != nil {
			s.arrived(nil, 0)
		} else {
			c.start(s)
		}
	}
}

// declared tells whether n more bytes of a body are what its content-length says.
func (s *stream) declared(n int) bool {
	if s.length < 0 {
		return true
	}
	s.length -= int64(n)
	return s.length == 0 || s.length > 0 && !s.ended
}

// open makes a stream of the header that was read, or refuses it.
func (c *conn) open(id uint32, now int64) {
	h := &c.head
	if h.malformed || h.pseudo != pseudoMethod|pseudoPath|pseudoScheme && h.pseudo != pseudoAll || c.headEnd && h.length > 0 {
		c.mu.Lock()
		c.last = id
		c.mu.Unlock()
		c.reset(id, http2.ErrCodeProtocol)
		return
	}
	s := &stream{c: c, id: id, started: now, ended: c.headEnd, inEnd: c.headEnd, encoding: h.encoding, length: h.length}
	s.recvLeft.Store(streamWindow)
	if len(h.own) > 0 {
		s.fields = append(s.ownFields[:0], h.own...)
	}
	s.m = c.srv.methods[h.path]
	switch {
	case h.timeout > 0:
		s.DeadlineAt = now + int64(h.timeout)
	case s.m != nil && s.m.limit > 0:
		s.DeadlineAt, s.limited = now+int64(s.m.limit), true
	}
	if st, http := h.check(c.srv, s.m); st != nil || http != 0 {
		if s.m == nil {
			s.m = &method{} // without a path: a client may make up any number of them
		}
		if c.enter(s) {
			if http != 0 {
				c.refuseHTTP(s, http)
			} else {
				c.refuse(s, st)
			}
		}
		return
	}
	if s.m.stream != nil {
		s.more = make(chan struct{}, 1)
	}
	if !c.enter(s) {
		return
	}
	switch {
	case s.m.stream != nil:
		c.start(s)
	case s.ended:
		c.refuse(s, errNoMessage)
	}
}

var (
	errNoMessage   = status.New(codes.Internal, "the request has no message")
	errMoreThanOne = status.New(codes.Internal, "the request is not one whole message")
)

// check says what is wrong with a request's header: a gRPC status, or an HTTP
// status for what is no gRPC.
func (h *head) check(srv *Server, m *method) (*status.Status, int) {
	switch {
	case h.bad != "":
		return status.New(codes.Internal, h.bad), 0
	case h.method != "POST":
		return nil, 405
	case h.contentType != contentType && !strings.HasPrefix(h.contentType, contentType+"+") && !strings.HasPrefix(h.contentType, contentType+";"):
		return nil, 415
	case m == nil:
		return status.New(codes.Unimplemented, srv.unknown(h.path)), 0
	case h.encoding != "" && h.encoding != encoding.Identity && encoding.GetCompressor(h.encoding) == nil:
		return status.Newf(codes.Unimplemented, "grpc: Decompressor is not installed for grpc-encoding %q", h.encoding), 0
	}
	return nil, 0
}

// enter puts s into the table.
func (c *conn) enter(s *stream) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.last = s.id
	if c.parted.Load() || len(c.streams) >= int(c.srv.opts.MaxStreams) || c.orphans >= maxOrphans || c.pending+c.headBytes > maxPending {
		// The client may take a stream that was refused so to another server. The
		// writer may end the connection, which takes our mutex.
		c.mu.Unlock()
		c.control(func(b []byte) []byte { return appendReset(b, s.id, http2.ErrCodeRefusedStream) })
		c.mu.Lock()
		return false
	}
	s.window = c.initial
	s.counted = c.headBytes
	c.pending += s.counted
	c.streams[s.id] = s
	if s.DeadlineAt != 0 {
		c.sweep.Note(s.DeadlineAt)
	}
	return true
}

// maxOrphans bounds the handlers that run though their clients left: what a client
// may have under way counts only those it waits for, so without this it could start
// any number by leaving each at once.
const maxOrphans = 4096

// leave takes s out of the table, because it is to be answered. gone says that it was
// left before; lone that no other request is under way.
func (c *conn) leave(s *stream) (gone, lone bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if gone = s.gone; gone {
		if s.begun {
			c.orphans--
		}
		return gone, len(c.streams) == 0
	}
	c.removeLocked(s)
	return gone, len(c.streams) == 0
}

// abandon takes s out of the table without an answer. gone says that it was left or
// answered before.
func (c *conn) abandon(s *stream) (gone, lone bool) {
	c.mu.Lock()
	if gone = s.gone; !gone {
		if s.begun {
			c.orphans++
		}
		c.removeLocked(s)
		c.wakeLocked()
	}
	lone = len(c.streams) == 0
	c.mu.Unlock()
	if !gone {
		s.End(context.Canceled, nil)
		if !s.begun {
			c.note(s, statusOf(s.Err()).Code())
		}
	}
	return gone, lone
}

func (c *conn) removeLocked(s *stream) {
	s.gone = true
	delete(c.streams, s.id)
	c.pending -= s.counted
	s.counted = 0
}

func (c *conn) start(s *stream) {
	c.mu.Lock()
	if s.gone || c.closed {
		c.mu.Unlock()
		return
	}
	s.begun = true
	w := c.pool.Take()
	c.mu.Unlock()
	c.pool.Start(w, s)
}

// dropped: the peer left a stream.
func (c *conn) dropped(id uint32) error {
	c.mu.Lock()
	if c.idleLocked(id) {
		c.mu.Unlock()
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	s := c.streams[id]
	c.mu.Unlock()
	if s != nil {
		_, lone := c.abandon(s)
		c.left(lone)
	}
	return nil
}

// overdue ends a request whose deadline came before all of it did; a handler sees to
// that itself.
func (c *conn) overdue(s *stream) {
	c.mu.Lock()
	begun := s.begun
	c.mu.Unlock()
	if !begun {
		c.reset(s.id, http2.ErrCodeCancel)
	}
}

// reset ends a stream that the peer used wrongly.
func (c *conn) reset(id uint32, code http2.ErrCode) {
	c.mu.Lock()
	s := c.streams[id]
	c.mu.Unlock()
	if s != nil {
		gone, lone := c.abandon(s)
		defer c.left(lone)
		if gone {
			return // the answer is on its way
		}
	}
	c.control(func(b []byte) []byte { return appendReset(b, id, code) })
}

// refuse answers a request that no handler sees.
func (c *conn) refuse(s *stream, st *status.Status) {
	gone, idle := c.leave(s)
	if !gone {
		c.control(func(b []byte) []byte { return c.appendStatus(b, s, st) })
	}
	c.note(s, st.Code())
	c.left(idle)
}

func (c *conn) refuseHTTP(s *stream, code int) {
	gone, idle := c.leave(s)
	if !gone {
		c.control(func(b []byte) []byte {
			block := appendField(c.coder.begin(nil), ":status", fmt.Sprint(code))
			b = appendHeaders(b, s.id, true, block)
			return s.appendCut(b)
		})
	}
	c.left(idle)
}

// note tells the hook that a request ended.
func (c *conn) note(s *stream, code codes.Code) {
	if f := c.srv.opts.After; f != nil {
		f(Result{Method: s.m.path, Stream: s.m.stream != nil, Code: code, Duration: durationSince(s.started)})
	}
}

// checkPrefix looks at the head of a message, as soon as it is there.
func (s *Server) checkPrefix(b []byte) *status.Status {
	if b[0] > 1 {
		return status.Newf(codes.Internal, "grpc: received unexpected payload format %d", b[0])
	}
	if n := binary.BigEndian.Uint32(b[1:]); uint64(n) > uint64(s.opts.MaxRequestBytes) {
		return status.Newf(codes.ResourceExhausted, "grpc: received message larger than max (%d vs. %d)", n, s.opts.MaxRequestBytes)
	}
	return nil
}

// message gives the bytes of the one message in s.req.
func (s *stream) message() ([]byte, error) {
	b := s.req
	if len(b) < prefixSize || uint64(len(b)-prefixSize) != uint64(binary.BigEndian.Uint32(b[1:])) {
		return nil, status.Error(codes.Internal, "the request is not one whole message")
	}
	return s.plain(b[0], b[prefixSize:])
}

func durationSince(start int64) time.Duration { return time.Duration(link.Nano() - start) }
