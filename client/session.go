package client

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/wire"
)

const (
	// sessionWindow is how far a session's newest write may be ahead of its
	// oldest unanswered one. The server keeps 4,096 results a session.
	sessionWindow = 2048
	// maxSessions bounds the sessions of one client. Another is opened only when
	// the windows of all are full.
	maxSessions = 16
)

// sessions hands out request ids. A client has one session, opened with its
// first write, and more only when so many writes are under way, or one of them
// for so long, that the window is full.
type sessions struct {
	mu      sync.Mutex
	list    []*session
	opening *opening
	freed   chan struct{} // closed when a full window has room again; nil if none waits
}

type opening struct {
	done chan struct{}
	err  error
}

// session numbers writes from 1.
type session struct {
	owner *sessions
	id    uint64
	low   atomic.Uint64 // the oldest unanswered number: Acked
	next  uint64        // the number of the next write; owner.mu
	done  [sessionWindow / 64]uint64
}

// acked: every result below it has reached us.
func (s *session) acked() uint64 { return s.low.Load() }

// take gives an id for a new write, opening a session if none has room.
func (ss *sessions) take(ctx context.Context, c *Client, deadline time.Time) (*session, command.RequestID, error) {
	for {
		ss.mu.Lock()
		for _, s := range ss.list {
			low := s.low.Load()
			if s.next-low < sessionWindow {
				id := command.RequestID{Session: s.id, Seq: s.next, Acked: low}
				s.next++
				ss.mu.Unlock()
				return s, id, nil
			}
		}
		if len(ss.list) >= maxSessions {
			if ss.freed == nil {
				ss.freed = make(chan struct{})
			}
			freed := ss.freed
			ss.mu.Unlock()
			if err := await(ctx, c, freed, deadline); err != nil {
				return nil, command.RequestID{}, err
			}
			continue
		}
		o := ss.opening
		if o == nil {
			o = &opening{done: make(chan struct{})}
			if !c.spawn(func() { ss.open(c, o) }) {
				ss.mu.Unlock()
				return nil, command.RequestID{}, errClosed
			}
			ss.opening = o
		}
		ss.mu.Unlock()
		if err := await(ctx, c, o.done, deadline); err != nil {
			return nil, command.RequestID{}, err
		}
		if o.err != nil {
			return nil, command.RequestID{}, o.err
		}
	}
}

// await waits for ch, bounded by the caller and the client's end.
func await(ctx context.Context, c *Client, ch <-chan struct{}, deadline time.Time) error {
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		return errs.From(ctx.Err())
	case <-c.ctx.Done():
		return errClosed
	case <-timer.C:
		return c.nobody(&failures{}, context.DeadlineExceeded)
	}
}

// open asks for a session on behalf of all who wait. If an answer is lost, a
// session is left behind at the server, where it expires.
func (ss *sessions) open(c *Client, o *opening) {
	// It ends before those who began to wait with it, who then learn the reason.
	t := trial{c: c, r: wire.Request{Method: wire.MethodSessionOpen, Deadline: time.Now().Add(c.cfg.Timeout - c.cfg.Timeout/10)}}
	answer, err := t.run(c.ctx)
	if err == nil && (len(answer) != 8 || binary.BigEndian.Uint64(answer) == 0) {
		err = errs.New(errs.Internal, "the server's answer is no session (%d bytes)", len(answer))
	}
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if o.err = err; err == nil {
		s := &session{owner: ss, id: binary.BigEndian.Uint64(answer), next: 1}
		s.low.Store(1)
		ss.list = append(ss.list, s)
	}
	ss.opening = nil
	close(o.done)
}

// drop forgets an expired session; its writes under way learn it themselves.
func (ss *sessions) drop(s *session) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if i := slices.Index(ss.list, s); i >= 0 {
		ss.list = slices.Delete(ss.list, i, i+1)
	}
	ss.wakeLocked()
}

func (ss *sessions) wakeLocked() {
	if ss.freed != nil {
		close(ss.freed)
		ss.freed = nil
	}
}

// finish notes that write seq needs no answer any more.
func (s *session) finish(seq uint64) {
	s.owner.mu.Lock()
	defer s.owner.mu.Unlock()
	bit := func(n uint64) (*uint64, uint64) {
		n %= sessionWindow
		return &s.done[n/64], 1 << (n % 64)
	}
	w, m := bit(seq)
	*w |= m
	low := s.low.Load()
	for low < s.next {
		w, m := bit(low)
		if *w&m == 0 {
			break
		}
		*w &^= m
		low++
	}
	if low != s.low.Load() {
		s.low.Store(low)
		s.owner.wakeLocked()
	}
}
