package grpcserver

import (
	"context"
	"time"

	"golang.org/x/net/http2"

	"nekoq/services/errs"
	"nekoq/services/internal/link"
)

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
// sent, and lets go what an idle connection does not need.
func (c *conn) tick() {
	o := &c.srv.opts
	c.w.Trim()
	if c.w.Stalled(o.PingTimeout) {
		c.fail(errs.New(errs.Unavailable, "the peer took nothing of what was sent for %s", o.PingTimeout))
		return
	}
	if c.heard.Swap(false) {
		c.quiet, c.unanswered, c.pingSent = 0, 0, false
	} else if c.quiet += c.period(); c.pingSent {
		c.unanswered += c.period()
	}
	if c.pingSent && c.unanswered >= o.PingTimeout {
		c.fail(errs.New(errs.Unavailable, "the peer did not answer a ping within %s", o.PingTimeout))
		return
	}
	if c.quiet >= o.PingInterval && !c.pingSent {
		c.pingSent, c.unanswered = true, 0
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
	var late []*stream
	c.mu.Lock()
	if !c.closed {
		link.Expire(&c.sweep, c.streams, func(s *stream) int64 { return s.DeadlineAt },
			func(_ uint32, s *stream) { late = append(late, s) })
	}
	c.mu.Unlock()
	for _, s := range late {
		s.End(context.DeadlineExceeded, nil)
		if !s.limited { // its client waits for an answer
			c.overdue(s)
		}
	}
}
