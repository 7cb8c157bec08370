package grpcserver

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"nekoq/services/auth"
	"nekoq/services/errs"
	"nekoq/services/internal/link"
)

const (
	// What a peer may send ahead of us: on one stream, and on all of a connection.
	streamWindow = 1 << 20
	connWindow   = 16 << 20
	// firstWindow is HTTP/2's before anything was said.
	firstWindow = 65535
	maxWindow   = math.MaxInt32

	// handshakeTimeout bounds the wait for the first frames of a connection.
	handshakeTimeout = 10 * time.Second
	// drainPause is how long a drained client may go on opening streams that
	// crossed our farewell.
	drainPause = time.Second
	// maxPending bounds the bytes of requests that have not been answered.
	maxPending = 64 << 20
	// idlePing is the pause between pings that a client without requests must keep,
	// pingStrikes how many may come too soon. Both are grpc-go's.
	idlePing    = 2 * time.Hour
	pingStrikes = 2
)

// conn is one connection: one goroutine reads it and hands requests to workers.
type conn struct {
	srv       *Server
	nc        net.Conn
	principal auth.Principal
	w         *link.Writer
	coder     coder // under w
	in        *reader
	fr        *http2.Framer
	dec       *hpack.Decoder

	// Of the reading goroutine.
	head      head
	headID    uint32  // stream whose header block is being read, 0 for none
	headOf    *stream // whose trailers that block is, nil for a new stream
	headEnd   bool    // that block ends the stream
	headBytes int
	recvLeft  int64 // what the peer may still send
	settled   bool  // the peer's first settings came
	lastPing  int64 // link.Nano()
	strikes   int

	// Of the ticks.
	unanswered, quiet time.Duration
	pingSent          bool

	silent atomic.Bool // nothing was sent since the last ping
	heard  atomic.Bool // since the last tick
	parted atomic.Bool // drained, and the last stream id was told; set under mu

	mu       sync.Mutex
	streams  map[uint32]*stream
	last     uint32 // highest stream id taken
	pending  int    // bytes of requests under way
	window   int64  // what we may send
	initial  int64  // what a new stream may send
	room     chan struct{}
	sweep    link.Sweeper
	pool     link.Pool[*stream]
	greeted  bool // both sides know that this is HTTP/2
	orphans  int  // handlers that run and whose clients left
	draining bool
	closed   bool
	timer    *time.Timer
	parting  *time.Timer
}

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{
		srv: s, nc: nc, streams: map[uint32]*stream{}, window: firstWindow, initial: firstWindow, recvLeft: connWindow,
	}
	c.w = link.NewWriter(nc, c.fail)
	c.in = newReader(nc, c.noteHeard)
	c.fr = http2.NewFramer(io.Discard, c.in) // reads only: we write with append
	c.fr.SetReuseFrames()
	c.fr.SetMaxReadFrameSize(maxFrame)
	c.dec = newDecoder(c.head.emit)
	c.sweep.Run = c.expire
	c.pool.Mu, c.pool.Serve = &c.mu, (*stream).serve
	return c
}

func (c *conn) noteHeard() {
	if !c.heard.Load() {
		c.heard.Store(true)
	}
	c.w.Heard()
}

func (c *conn) serve() {
	_ = c.nc.SetDeadline(time.Now().Add(handshakeTimeout))
	flushed := make(chan struct{})
	go func() {
		defer close(flushed)
		c.w.Run()
	}()
	err := c.greet()
	if err != nil {
		c.srv.log.Debug("connection refused", "peer", c.nc.RemoteAddr().String(), "error", err)
	} else {
		c.principal = c.srv.opts.Principal(c.nc)
		c.startTicks()
		err = c.read()
		c.part(err)
	}
	c.fail(err)
	c.pool.Wait()
	<-flushed
}

// greet reads the client's preface and sends our settings.
func (c *conn) greet() error {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c.in, preface); err != nil {
		return err
	}
	if string(preface) != http2.ClientPreface {
		return errs.New(errs.ProtocolViolation, "the connection does not begin as HTTP/2")
	}
	out := appendSettings(nil,
		http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: c.srv.opts.MaxStreams},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: streamWindow},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: maxHeaderBlock})
	// The reading goroutine never writes itself: on a pipe without a buffer the client
	// may have to write first.
	c.control(func(b []byte) []byte { return append(b, appendWindowUpdate(out, 0, connWindow-firstWindow)...) })
	c.mu.Lock()
	defer c.mu.Unlock()
	c.greeted = true
	return nil
}

// read takes frames until the connection ends. An http2.ConnectionError is a
// violation by the peer.
func (c *conn) read() error {
	var now int64
	fresh := false // now belongs to what one read brought
	for {
		fh, err := c.fr.ReadFrameHeader()
		if err != nil {
			return err
		}
		f, err := c.fr.ReadFrameForHeader(fh)
		if se, ok := errors.AsType[http2.StreamError](err); ok && c.settled {
			if err := c.misused(fh, se); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if !c.settled {
			if fh.Type != http2.FrameSettings || fh.Flags.Has(http2.FlagSettingsAck) {
				return http2.ConnectionError(http2.ErrCodeProtocol)
			}
			c.settled = true
			_ = c.nc.SetDeadline(time.Time{})
		}
		if !fresh {
			now = link.Nano()
		}
		fresh = c.in.buffered()
		if err := c.take(f, now); err != nil {
			return err
		}
	}
}

// misused ends the stream of a frame that is wrong.
func (c *conn) misused(fh http2.FrameHeader, se http2.StreamError) error {
	// A header block that was not decoded leaves the compression out of step.
	if fh.Type == http2.FrameHeaders || c.idle(se.StreamID) {
		return http2.ConnectionError(se.Code)
	}
	c.reset(se.StreamID, se.Code)
	return nil
}

// idle tells whether the client never opened that stream.
func (c *conn) idle(id uint32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.idleLocked(id)
}

func (c *conn) idleLocked(id uint32) bool { return id > c.last || id%2 == 0 }

func (c *conn) take(f http2.Frame, now int64) error {
	switch f := f.(type) {
	case *http2.DataFrame:
		return c.data(f)
	case *http2.HeadersFrame:
		return c.headers(f, now)
	case *http2.ContinuationFrame:
		return c.fragment(f.HeaderBlockFragment(), f.HeadersEnded(), now)
	case *http2.WindowUpdateFrame:
		return c.widen(f.StreamID, int64(f.Increment))
	case *http2.RSTStreamFrame:
		return c.dropped(f.StreamID)
	case *http2.SettingsFrame:
		return c.settings(f)
	case *http2.PingFrame:
		return c.ping(f, now)
	case *http2.PushPromiseFrame:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	return nil // priority, the peer's farewell, and what is unknown
}

// control appends small frames without waiting for room.
func (c *conn) control(frames func(b []byte) []byte) {
	if c.w.Begin(nil, nil, true) == nil {
		c.w.Buf = frames(c.w.Buf)
		c.w.End(false)
	}
}

func (c *conn) settings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	table := uint32(math.MaxUint32)
	err := f.ForeachSetting(func(s http2.Setting) error {
		if err := s.Valid(); err != nil {
			return err
		}
		switch s.ID {
		case http2.SettingInitialWindowSize:
			return c.resize(int64(s.Val))
		case http2.SettingHeaderTableSize:
			table = min(table, s.Val)
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.control(func(b []byte) []byte {
		c.coder.allow(table)
		return appendFrameHead(b, 0, http2.FrameSettings, http2.FlagSettingsAck, 0)
	})
	return nil
}

// resize changes the window that streams start with, and those of open streams by
// as much.
func (c *conn) resize(size int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delta := size - c.initial
	c.initial = size
	for _, s := range c.streams {
		if s.window += delta; s.window > maxWindow {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
	}
	c.wakeLocked()
	return nil
}

// widen takes a window update.
func (c *conn) widen(id uint32, n int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	window := &c.window
	if id != 0 {
		if c.idleLocked(id) {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		s := c.streams[id]
		if s == nil {
			return nil // it ended while this was on its way
		}
		window = &s.window
	}
	// More than RFC 9113 allows on one stream ends the connection, which is simpler
	// and as good: no client does it.
	if *window += n; *window > maxWindow {
		return http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	c.wakeLocked()
	return nil
}

func (c *conn) wakeLocked() {
	if c.room != nil {
		close(c.room)
		c.room = nil
	}
}

// takeWindow waits until something may be sent on s and takes up to want bytes of
// it.
func (c *conn) takeWindow(s *stream, want int) (int, error) {
	for {
		c.mu.Lock()
		if s.gone || c.closed {
			c.mu.Unlock()
			return 0, context.Canceled
		}
		if n := min(int64(want), s.window, c.window); n > 0 {
			s.window -= n
			c.window -= n
			c.mu.Unlock()
			return int(n), nil
		}
		if c.room == nil {
			c.room = make(chan struct{})
		}
		room := c.room
		c.mu.Unlock()
		c.w.Flush(false) // the peer makes room when it has what was held back
		select {
		case <-room:
		case <-s.Done():
			return 0, s.Err()
		}
	}
}

// returnWindow gives the connection back what was taken for a stream that has ended
// since: the client, which never gets those bytes, would not make room for them again.
func (c *conn) returnWindow(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.window += int64(n)
	c.wakeLocked()
}

// data takes bytes of a message.
func (c *conn) data(f *http2.DataFrame) error {
	n := int64(f.Length)
	if c.recvLeft -= n; c.recvLeft < 0 {
		return http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	if back := connWindow - c.recvLeft; back >= connWindow/4 {
		c.recvLeft = connWindow
		c.control(func(b []byte) []byte { return appendWindowUpdate(b, 0, uint32(back)) })
	}
	c.mu.Lock()
	s, idle, over := c.streams[f.StreamID], c.idleLocked(f.StreamID), false
	if s != nil {
		s.counted += len(f.Data())
		c.pending += len(f.Data())
		over = c.pending > maxPending
	}
	c.mu.Unlock()
	if s == nil {
		if idle {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		return nil // it ended while this was on its way
	}
	if s.ended {
		c.reset(s.id, http2.ErrCodeStreamClosed)
		return nil
	}
	if s.recvLeft.Add(-n) < 0 {
		c.reset(s.id, http2.ErrCodeFlowControl)
		return nil
	}
	s.ended = f.StreamEnded()
	if !s.declared(len(f.Data())) {
		c.reset(s.id, http2.ErrCodeProtocol)
		return nil
	}
	if s.m.stream != nil {
		if over {
			c.reset(s.id, http2.ErrCodeEnhanceYourCalm)
			return nil
		}
		s.arrived(f.Data(), n)
		return nil
	}
	if over {
		c.refuse(s, errPending)
		return nil
	}
	c.collect(s, f.Data(), n)
	return nil
}

// collect gathers the request of a method with one answer, and starts it when it is
// whole.
func (c *conn) collect(s *stream, data []byte, n int64) {
	s.req = append(s.req, data...)
	if len(s.req) >= prefixSize && !s.checked {
		s.checked = true
		if st := c.srv.checkPrefix(s.req); st != nil {
			c.refuse(s, st)
			return
		}
	}
	if s.ended {
		c.start(s)
		return
	}
	if s.checked && len(s.req) > prefixSize+int(binary.BigEndian.Uint32(s.req[1:])) {
		c.refuse(s, errMoreThanOne)
		return
	}
	if s.back += n; s.back >= streamWindow/2 {
		back := s.back
		s.back = 0
		s.recvLeft.Add(back)
		c.control(func(b []byte) []byte { return appendWindowUpdate(b, s.id, uint32(back)) })
	}
}

// taken: n bytes of a stream's messages wait no more.
func (c *conn) taken(s *stream, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.gone {
		c.pending -= n
		s.counted -= n
	}
}
