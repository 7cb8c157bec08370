package httpapi

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// sweep ends the requests whose time is over or whose client is gone, and the reading
// of bodies that do not come. A timer and a context of its own for each request that
// waits for the log cost as much as all else that this package does for it, so all
// share one timer, which runs only while there is something to look after.
//
// Deadlines pass on time. That a client is gone is seen with the next look: after
// soonest at first, and up to latest when nothing new has come for long.
type sweep struct {
	mu    sync.Mutex // taken after a request's own
	first *request
	timer *time.Timer
	at    time.Time // when the timer comes; zero when it does not
	pause time.Duration
}

const (
	soonest = 25 * time.Millisecond
	latest  = 400 * time.Millisecond
)

// swept is what the sweep knows of a request.
type swept struct {
	next, prev *request
	linked     bool
	over       bool      // the handler is through
	told       bool      // the context has ended
	bodyBy     time.Time // until then the body has to be in; zero when nobody reads it
}

// add looks after a request from now on.
func (s *sweep) add(r *request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !r.over {
		s.addLocked(r)
		s.armLocked(r.deadline)
	}
}

func (s *sweep) addLocked(r *request) {
	if r.linked {
		return
	}
	if r.next = s.first; r.next != nil {
		r.next.prev = r
	}
	s.first, r.linked, s.pause = r, true, soonest
}

// armLocked sees to it that the timer comes soon, and at a time that is not zero.
func (s *sweep) armLocked(by time.Time) {
	if !s.at.IsZero() && (by.IsZero() || !by.Before(s.at)) {
		return
	}
	now := time.Now()
	at := now.Add(s.pause)
	if !by.IsZero() && by.Before(at) {
		at = by
	}
	if s.at = at; s.timer == nil {
		s.timer = time.AfterFunc(at.Sub(now), s.look)
	} else {
		s.timer.Reset(at.Sub(now))
	}
}

// remove ends it, before the handler's request may be used again.
func (s *sweep) remove(r *request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.over, r.bodyBy = true, time.Time{}
	s.unlinkLocked(r)
}

func (s *sweep) unlinkLocked(r *request) {
	if !r.linked {
		return
	}
	if r.next != nil {
		r.next.prev = r.prev
	}
	if r.prev != nil {
		r.prev.next = r.next
	} else {
		s.first = r.next
	}
	r.next, r.prev, r.linked = nil, nil, false
}

// move gives a request another deadline.
func (s *sweep) move(r *request, deadline time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.deadline = deadline; r.linked {
		s.armLocked(deadline)
	}
}

// read gives the body of a request until a time; zero ends it.
func (s *sweep) read(r *request, by time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.over { // a goroutine of the handler reads on
		return
	}
	if r.bodyBy = by; !by.IsZero() {
		s.addLocked(r)
		s.armLocked(by)
	}
}

// look goes through all of them.
func (s *sweep) look() {
	var late, gone []*request
	s.mu.Lock()
	now := time.Now()
	next := now.Add(s.pause)
	s.pause = min(2*s.pause, latest)
	for r := s.first; r != nil; r = r.next {
		if passed(r.bodyBy, now) {
			r.bodyBy = time.Time{}
			_ = http.NewResponseController(r.body.w).SetReadDeadline(now) // ends the Read
		}
		next = sooner(next, r.bodyBy)
		switch {
		case r.told:
		case passed(r.deadline, now):
			late, r.told = append(late, r), true
		case r.parent.Err() != nil:
			gone, r.told = append(gone, r), true
		default:
			next = sooner(next, r.deadline)
		}
	}
	if s.at = (time.Time{}); s.first != nil {
		s.at = next
		s.timer.Reset(next.Sub(now))
	}
	s.mu.Unlock()
	for _, r := range late {
		_ = r.cut(context.DeadlineExceeded)
	}
	for _, r := range gone {
		_ = r.cut(r.parent.Err())
	}
}

func passed(t, now time.Time) bool { return !t.IsZero() && !now.Before(t) }

// sooner gives a unless b is set and before it.
func sooner(a, b time.Time) time.Time {
	if !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
