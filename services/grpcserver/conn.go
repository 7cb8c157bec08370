package grpcserver

import (
	"context"
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
	head       head
	headID     uint32 // stream whose header block is being read, 0 for none
	headEnd    bool   // that block ends the stream
	headBytes  int
	recvLeft   int64 // what the peer may still send
	settled    bool  // the peer's first settings came
	lastPing   int64 // link.Nano()
	strikes    int
	silent     atomic.Bool // nothing was sent since the last ping
	heard      atomic.Bool // since the last tick
	pingSent   atomic.Bool
	parted     atomic.Bool   // drained, and the last stream id was told; set under mu
	unanswered time.Duration // of the ticks
	quiet      time.Duration

	mu       sync.Mutex
	streams  map[uint32]*stream
	last     uint32 // highest stream id taken
	pending  int    // bytes of requests under way
	window   int64  // what we may send
	initial  int64  // what a new stream may send
	room     chan struct{}
	sweep    link.Sweeper
	pool     link.Pool[*stream]
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
	if err := c.greet(); err != nil {
		c.srv.log.Debug("connection refused", "peer", c.nc.RemoteAddr().String(), "error", err)
		_ = c.nc.Close()
		return
	}
	c.principal = c.srv.opts.Principal(c.nc)
	flushed := make(chan struct{})
	go func() {
		defer close(flushed)
		c.w.Run()
	}()
	c.startTicks()
	err := c.read()
	c.part(err)
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
	_, err := c.nc.Write(appendWindowUpdate(out, 0, connWindow-firstWindow))
	return err
}

// read takes frames until the connection ends. An http2.ConnectionError is a
// violation by the peer.
func (c *conn) read() error {
	var now int64
	fresh := false // now belongs to what one read brought
	for {
		f, err := c.fr.ReadFrame()
		if err != nil {
			if se, ok := errors.AsType[http2.StreamError](err); ok && c.settled {
				c.reset(se.StreamID, se.Code)
				continue
			}
			return err
		}
		if !c.settled {
			if f.Header().Type != http2.FrameSettings {
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
	err := f.ForeachSetting(func(s http2.Setting) error {
		if err := s.Valid(); err != nil {
			return err
		}
		switch s.ID {
		case http2.SettingInitialWindowSize:
			return c.resize(int64(s.Val))
		case http2.SettingHeaderTableSize:
			c.control(func(b []byte) []byte {
				c.coder.allow(s.Val)
				return b
			})
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.control(func(b []byte) []byte { return appendFrameHead(b, 0, http2.FrameSettings, http2.FlagSettingsAck, 0) })
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
		if id > c.last {
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
		select {
		case <-room:
		case <-s.Done():
			return 0, s.Err()
		}
	}
}

// ping answers one, and sends a client away that asks too often.
func (c *conn) ping(f *http2.PingFrame, now int64) error {
	if f.IsAck() {
		if f.Data == partingPing {
			c.farewell()
		}
		return nil
	}
	c.control(func(b []byte) []byte { return appendPing(b, true, f.Data) })
	if !c.silent.Swap(true) {
		c.strikes, c.lastPing = 0, now
		return nil
	}
	c.mu.Lock()
	least := c.srv.opts.PingMinTime
	if len(c.streams) == 0 {
		least = idlePing
	}
	c.mu.Unlock()
	if c.lastPing != 0 && now-c.lastPing < int64(least) {
		c.strikes++
	}
	c.lastPing = now
	if c.strikes > pingStrikes {
		return errTooManyPings
	}
	return nil
}

var errTooManyPings = errs.New(errs.TooManyRequests, "too_many_pings")

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
	s, last := c.streams[f.StreamID], c.last
	c.mu.Unlock()
	if s == nil {
		if f.StreamID > last {
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
	if s.m.stream != nil {
		s.arrived(f.Data(), n)
		return nil
	}
	c.collect(s, f.Data(), n)
	return nil
}

// collect gathers the request of a method with one answer, and starts it when it is
// whole.
func (c *conn) collect(s *stream, data []byte, n int64) {
	if s.req = append(s.req, data...); !c.account(s, len(data)) {
		return
	}
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
	if s.back += n; s.back >= streamWindow/2 {
		back := s.back
		s.back = 0
		s.recvLeft.Add(back)
		c.control(func(b []byte) []byte { return appendWindowUpdate(b, s.id, uint32(back)) })
	}
}

// account counts the bytes of requests under way.
func (c *conn) account(s *stream, n int) bool {
	c.mu.Lock()
	c.pending += n
	s.counted += n
	over := c.pending > maxPending
	c.mu.Unlock()
	if over {
		c.refuse(s, errPending)
	}
	return !over
}

// startTicks begins to look after the connection now and then.
func (c *conn) startTicks() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.timer = time.AfterFunc(c.period(), c.tick)
	}
}

func (c *conn) period() time.Duration {
	o := &c.srv.opts
	return max(min(o.PingInterval, o.PingTimeout, 20*time.Second)/2, time.Millisecond)
}

// tick pings a silent peer, cuts off one that does not answer or take what it is
// sent, and lets idle workers go.
func (c *conn) tick() {
	o := &c.srv.opts
	if c.w.Stalled(o.PingTimeout) {
		c.fail(errs.New(errs.Unavailable, "the peer took nothing of what was sent for %s", o.PingTimeout))
		return
	}
	if c.heard.Swap(false) {
		c.quiet, c.unanswered = 0, 0
		c.pingSent.Store(false)
	} else if c.quiet += c.period(); c.pingSent.Load() {
		c.unanswered += c.period()
	}
	if c.pingSent.Load() && c.unanswered >= o.PingTimeout {
		c.fail(errs.New(errs.Unavailable, "the peer did not answer a ping within %s", o.PingTimeout))
		return
	}
	if c.quiet >= o.PingInterval && !c.pingSent.Swap(true) {
		c.unanswered = 0
		c.control(func(b []byte) []byte { return appendPing(b, false, [8]byte{'a', 'l', 'i', 'v', 'e', '?'}) })
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.pool.Trim()
		c.timer.Reset(c.period())
	}
}

// expire ends the requests whose deadline has passed.
func (c *conn) expire() {
	now := link.Nano()
	var late []*stream
	c.mu.Lock()
	c.sweep.Fired()
	next := int64(0)
	for _, s := range c.streams {
		switch at := s.DeadlineAt; {
		case at == 0:
		case at <= now:
			late = append(late, s)
		case next == 0 || at < next:
			next = at
		}
	}
	if next != 0 && !c.closed {
		c.sweep.Note(next)
	}
	c.mu.Unlock()
	for _, s := range late {
		s.End(context.DeadlineExceeded, nil)
	}
}

// partingPing comes back when the client has seen our first farewell.
var partingPing = [8]byte{'p', 'a', 'r', 't', 'i', 'n', 'g'}

// drain tells the client to open no more streams: first in words that let those
// through which crossed ours, then for good (RFC 9113, 6.8).
func (c *conn) drain() {
	c.mu.Lock()
	if c.draining || c.closed {
		c.mu.Unlock()
		return
	}
	c.draining = true
	c.parting = time.AfterFunc(drainPause, c.farewell)
	c.mu.Unlock()
	c.control(func(b []byte) []byte {
		return appendPing(appendGoAway(b, math.MaxInt32, http2.ErrCodeNo, "graceful_stop"), false, partingPing)
	})
}

func (c *conn) farewell() {
	c.mu.Lock()
	if !c.draining || c.parted.Load() || c.closed {
		c.mu.Unlock()
		return
	}
	c.parted.Store(true)
	c.parting.Stop()
	last, idle := c.last, len(c.streams) == 0
	c.mu.Unlock()
	c.control(func(b []byte) []byte { return appendGoAway(b, last, http2.ErrCodeNo, "graceful_stop") })
	c.left(idle)
}

// lingerTime is how long a connection that is drained and idle stays: an answer may
// be on its way to the writer.
const lingerTime = 50 * time.Millisecond

// left ends a connection that is drained when no request is left.
func (c *conn) left(idle bool) {
	if !idle || !c.parted.Load() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.parting.Stop()
		c.parting = time.AfterFunc(lingerTime, func() { c.w.Finish(net.ErrClosed) })
	}
}

// part tells the peer what it did wrong, if it did.
func (c *conn) part(err error) {
	code, why := http2.ErrCode(0), ""
	if ce, ok := errors.AsType[http2.ConnectionError](err); ok {
		code = http2.ErrCode(ce)
	} else if errors.Is(err, errTooManyPings) {
		code, why = http2.ErrCodeEnhanceYourCalm, errTooManyPings.Message
	} else if errors.Is(err, http2.ErrFrameTooLarge) {
		code = http2.ErrCodeFrameSize
	} else {
		return
	}
	c.srv.log.Warn("connection closed", "peer", c.principal.Addr, "error", err)
	c.mu.Lock()
	last := c.last
	c.mu.Unlock()
	if c.w.Begin(nil, nil, true) != nil {
		return
	}
	c.w.Buf = appendGoAway(c.w.Buf, last, code, why)
	c.w.End(false)
	c.w.Finish(err)
	// Closing over unread bytes resets the connection, and the reason would be lost.
	_ = c.nc.SetReadDeadline(time.Now().Add(link.FinalWrite))
	_, _ = io.Copy(io.Discard, c.nc)
}

// fail closes the connection and ends every handler's context.
func (c *conn) fail(err error) {
	if err == nil {
		err = net.ErrClosed
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.closed = true
	c.pool.End()
	c.sweep.Stop()
	for _, t := range []*time.Timer{c.timer, c.parting} {
		if t != nil {
			t.Stop()
		}
	}
	c.wakeLocked()
	open := make([]*stream, 0, len(c.streams))
	for _, s := range c.streams {
		open = append(open, s)
	}
	c.mu.Unlock()
	c.w.Stop(err)
	_ = c.nc.Close()
	for _, s := range open {
		s.End(context.Canceled, nil)
	}
}
