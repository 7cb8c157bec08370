package wire

import (
	"context"
	"encoding/binary"
	"sync"
	"sync/atomic"

	"nekoq/services/command"
	"nekoq/services/errs"
)

// Stream is read by one goroutine; Close may come from any. Recv gives io.EOF at
// the orderly end.
type Stream struct {
	c      *Conn
	id     uint32
	offset atomic.Int64 // end of the opening frame in the outgoing stream
	window int64

	mu    sync.Mutex
	queue []byte        // messages not yet taken: uvarint length, bytes
	held  int64         // bytes of credit that queue holds
	guess int           // how large queue will get: as the last one
	err   error         // how it ended; given after the queue is empty
	stop  func() bool   // leaves the context of Conn.Stream alone
	wake  chan struct{} // something changed, cap 1

	// Of the reading goroutine:
	batch []byte // a queue that was taken whole
	eaten int64  // bytes consumed and not yet given back as credit
}

// Stream opens a stream. Errors of the server, even a refusal, come from Recv.
// ctx ends the stream when it ends. Call Close when done, however it ended.
func (c *Conn) Stream(ctx context.Context, m Method, req []byte) (*Stream, error) {
	r := Request{Method: m, Payload: req, RequestID: command.RequestIDFrom(ctx)}
	head, _, err := c.head(ctx, r)
	if err != nil {
		return nil, err
	}
	s := &Stream{c: c, window: c.opts.Limits.WindowBytes, wake: make(chan struct{}, 1)}
	if s.id, _, err = c.enter(nil, s); err != nil {
		return nil, err
	}
	if err := c.w.Begin(ctx.Done(), nil, false); err != nil {
		c.forget(s)
		return nil, c.notSent(ctx, err)
	}
	c.w.Buf = appendRequest(c.w.Buf, frameOpen, s.id, head, req)
	s.offset.Store(c.w.End(false))
	s.follow(ctx)
	return s, nil
}

// follow ends the stream when ctx ends.
func (s *Stream) follow(ctx context.Context) {
	if ctx.Done() == nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { s.abandon(errs.From(ctx.Err())) })
	s.mu.Lock()
	over := s.err != nil
	s.stop = stop
	s.mu.Unlock()
	if over {
		stop()
	}
}

// Recv gives the next message, which stays valid. When the stream is over it
// gives io.EOF or the error that ended it, again and again. ctx ends the wait
// and not the stream.
func (s *Stream) Recv(ctx context.Context) ([]byte, error) {
	for {
		if len(s.batch) > 0 {
			return s.pop(), nil
		}
		s.mu.Lock()
		if len(s.queue) > 0 {
			s.batch, s.queue = s.queue, nil
			s.guess = len(s.batch)
			s.mu.Unlock()
			continue
		}
		err := s.err
		s.mu.Unlock()
		if err != nil {
			return nil, err
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return nil, errs.From(ctx.Err())
		}
	}
}

// pop takes a message off the batch and returns credit by the half window, so
// that the sender never runs dry while the reader keeps up.
func (s *Stream) pop() []byte {
	n, k := binary.Uvarint(s.batch)
	end := k + int(n)
	msg := s.batch[k:end:end]
	s.batch = s.batch[end:]
	s.eaten += headerSize + int64(n)
	if s.eaten >= s.window/2 {
		s.mu.Lock()
		s.held -= s.eaten
		over := s.err != nil
		s.mu.Unlock()
		if !over {
			var b [binary.MaxVarintLen64]byte
			sendControl(s.c.w, frameCredit, s.id, b[:binary.PutUvarint(b[:], uint64(s.eaten))])
		}
		s.eaten = 0
	}
	return msg
}

// Close ends the stream; the server's handler sees its context end. Messages
// that were not read are dropped.
func (s *Stream) Close() { s.abandon(errStreamClosed) }

var errStreamClosed = errs.New(errs.Canceled, "the stream was closed")

func (s *Stream) abandon(err error) {
	if s.c.forget(s) {
		sendControl(s.c.w, frameCancel, s.id, nil)
	}
	s.end(err)
}

// end notes how the stream ended and wakes the reader; the first call counts.
func (s *Stream) end(err error) {
	s.mu.Lock()
	if s.err == nil {
		s.err = err
	}
	stop := s.stop
	s.mu.Unlock()
	if stop != nil {
		stop()
	}
	s.signal()
}

func (s *Stream) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// forget takes s out of the table; false if it is gone already.
func (c *Conn) forget(s *Stream) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.streams[s.id] != s {
		return false
	}
	delete(c.streams, s.id)
	c.leaveLocked()
	return true
}

func (c *Conn) findStream(id uint32) *Stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streams[id]
}

// message queues a message of the server. Credit bounds the queue.
func (c *Conn) message(fr frame) error {
	s := c.findStream(fr.id)
	if s == nil {
		return nil // given up meanwhile
	}
	if fr.over > 0 {
		if c.forget(s) {
			sendControl(c.w, frameCancel, s.id, nil)
		}
		s.end(tooLarge("message", fr.over+minLength, c.fr.limit))
		return nil
	}
	s.mu.Lock()
	if s.held >= s.window {
		s.mu.Unlock()
		return violation("the server sent more on a stream than its credit of %d bytes", s.window)
	}
	s.held += int64(headerSize + len(fr.body))
	if s.queue == nil {
		s.queue = make([]byte, 0, max(s.guess, binary.MaxVarintLen32+len(fr.body)))
	}
	s.queue = binary.AppendUvarint(s.queue, uint64(len(fr.body)))
	s.queue = append(s.queue, fr.body...)
	s.mu.Unlock()
	s.signal()
	return nil
}

func (c *Conn) endStream(id uint32, err error) {
	if s := c.findStream(id); s != nil && c.forget(s) {
		s.end(err)
	}
}
