package client

import (
	"context"
	"io"
	"sync"
	"time"

	"nekoq/services/errs"
	"nekoq/services/wire"
)

// stream is a stream of the server that survives the loss of a connection or of
// a server. It is read by one goroutine.
type stream struct {
	c      *Client
	m      wire.Method
	open   func() ([]byte, error)
	ctx    context.Context
	cancel context.CancelFunc

	mu     sync.Mutex
	cur    *wire.Stream
	closed bool

	failed failures
	last   error // why it broke last
	pause  time.Duration
	over   error // told again and again once it is set

	// told, unless nil, hears from the reader why the stream is broken, and nil when
	// a server has taken it again.
	told func(error)
}

func (s *stream) tell(err error) {
	if s.told != nil {
		s.told(err)
	}
}

// stream opens a stream that survives the loss of a connection or server. open
// builds the request, first now and again inside recv whenever the stream has
// to be opened anew, so it can ask for what comes after the last message
// received. ctx bounds the whole stream's life. The first connection is waited
// for no longer than the default deadline; after that the stream keeps trying.
func (c *Client) stream(ctx context.Context, m wire.Method, open func() ([]byte, error)) (*stream, error) {
	s := &stream{c: c, m: m, open: open}
	s.ctx, s.cancel = context.WithCancel(ctx)
	t := trial{c: c}
	t.bound(ctx)
	for {
		ep := c.pool.pick(&t.failed)
		if ep != nil {
			err := s.connect(ep, t.r.Deadline)
			if err == nil {
				return s, nil
			}
			if !t.again(ep, err) {
				s.cancel()
				return nil, t.explain(ctx, err)
			}
		}
		if err := t.wait(ctx, ep == nil); err != nil {
			s.cancel()
			return nil, t.explain(ctx, err)
		}
	}
}

var errStreamClosed = errs.New(errs.Canceled, "the stream is closed")

// connect opens the stream at ep.
func (s *stream) connect(ep *endpoint, deadline time.Time) error {
	req, err := s.open()
	if err != nil {
		return errs.From(err)
	}
	slot, conn, err := ep.get(s.ctx, deadline)
	if err != nil {
		return err
	}
	ws, err := conn.Stream(s.ctx, s.m, req)
	if err != nil {
		slot.check(conn)
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		ws.Close()
		return errStreamClosed
	}
	s.cur = ws
	return nil
}

// recv gives the next message, which stays valid, io.EOF at the orderly end, and
// an *errs.Error that a new attempt would not cure. ctx ends the wait and not the
// stream.
func (s *stream) recv(ctx context.Context) ([]byte, error) {
	for s.over == nil {
		s.mu.Lock()
		cur := s.cur
		s.mu.Unlock()
		if cur == nil {
			if err := s.reopen(ctx); err != nil {
				return nil, err
			}
			continue
		}
		msg, err := cur.Recv(ctx)
		if err == nil {
			s.pause = 0
			s.failed = failures{}
			s.last = nil
			return msg, nil
		}
		if ctx.Err() != nil {
			return nil, errs.From(ctx.Err())
		}
		cur.Close()
		s.mu.Lock()
		s.cur = nil
		closed := s.closed
		s.mu.Unlock()
		switch code := errs.CodeOf(err); {
		case closed:
			s.over = errStreamClosed
		case s.c.closed.Load():
			s.over = errClosed
		case s.ctx.Err() != nil:
			s.over = errs.From(s.ctx.Err())
		case err == io.EOF:
			s.over = io.EOF
		case !tryElsewhere(code) && code != errs.WatcherTooSlow:
			s.over = err
		default:
			s.last = err
			s.tell(err)
			s.c.cfg.Logger.Debug("a stream broke; opening it anew", "error", err)
		}
	}
	s.cancel()
	return nil, s.over
}

// unanswered is the error of a stream that gave nothing in its first while.
func (s *stream) unanswered(limit time.Duration) error {
	if errs.Has(s.last, errs.NoLeader) {
		return s.last
	}
	e := errs.New(errs.Unavailable, "nothing began within %s", limit)
	if s.last != nil {
		e = errs.New(errs.Unavailable, "nothing began within %s: %s", limit, errs.From(s.last).Message)
	}
	return e.Wrap(s.last)
}

// reopen finds a server that takes the stream, with pauses. An error that is not
// ctx's ends the stream.
func (s *stream) reopen(ctx context.Context) error {
	if s.pause > 0 {
		if err := s.rest(ctx, jitter(s.pause)); err != nil {
			return err
		}
	}
	s.pause = min(max(2*s.pause, retryMin), s.c.cfg.BackoffMax)
	ep := s.c.pool.pick(&s.failed)
	if ep == nil {
		s.failed.newRound()
		return s.rest(ctx, s.c.pool.untilReady())
	}
	err := s.connect(ep, time.Now().Add(s.c.cfg.DialTimeout))
	switch {
	case err == nil:
		// Not yet well: a server may take the stream and refuse it at once.
		s.failed.note(ep, nil)
		s.tell(nil)
	case s.ctx.Err() != nil || s.c.closed.Load():
		return s.rest(ctx, 0)
	case tryElsewhere(errs.CodeOf(err)):
		s.failed.note(ep, err)
		s.tell(err)
	default:
		s.over = err
	}
	return nil
}

// rest sleeps; it sets over when the stream or the client ended.
func (s *stream) rest(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return errs.From(ctx.Err())
	case <-s.c.ctx.Done():
		s.over = errClosed
	case <-s.ctx.Done():
		s.over = errs.From(s.ctx.Err())
	case <-timer.C:
	}
	return nil
}

// close may be called at any time, from any goroutine.
func (s *stream) close() {
	s.mu.Lock()
	s.closed = true
	cur := s.cur
	s.mu.Unlock()
	s.cancel()
	if cur != nil {
		cur.Close()
	}
}
