package grpcserver

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"time"

	"golang.org/x/net/http2"

	"nekoq/services/internal/link"
)

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
	if !c.greeted { // nobody was promised anything yet
		c.mu.Unlock()
		c.fail(net.ErrClosed)
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

// lingerTime is the pause between looks at a connection that is drained and idle: an
// answer may be on its way to the writer.
const lingerTime = 20 * time.Millisecond

// left ends a connection that is drained when no request is left.
func (c *conn) left(idle bool) {
	if !idle || !c.parted.Load() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.parting.Stop()
		c.parting = time.AfterFunc(lingerTime, c.depart)
	}
}

// depart ends a connection once no worker has anything to say on it.
func (c *conn) depart() {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	if c.pool.Busy() > 0 {
		c.parting = time.AfterFunc(lingerTime, c.depart)
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	// A peer that takes nothing is cut by the tick.
	c.w.Part(net.ErrClosed, link.FinalWrite)
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
	} else if errors.Is(err, io.ErrUnexpectedEOF) && !c.in.failed {
		code = http2.ErrCodeFrameSize // too short for its fields, and all of it is here
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
	_ = c.nc.SetDeadline(time.Now().Add(link.FinalWrite))
	c.w.Part(err, link.FinalWrite)
	// Closing over unread bytes resets the connection, and the reason would be lost.
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
