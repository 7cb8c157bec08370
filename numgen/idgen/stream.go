package idgen

import (
	crand "crypto/rand"
	"math/rand/v2"
	"sync"
	"time"

	"nekoq/services/errs"
)

// Stream hands out the places in time of one generator on one holder. Its times
// never repeat and never go back, whatever the clock does: when the clock
// stands still or steps back, slots go on under the last time and then on to
// later ones.
type Stream struct {
	layout Layout
	multi  bool // several worker numbers share a millisecond

	mu    sync.Mutex
	last  int64  // Unix ms of the last id
	slot  uint64 // next slot in last
	wall  int64  // furthest that the clock has been seen, or the lease's floor
	grant *grant // the grant that last and slot belong to
	rnd   *rand.ChaCha8
	// retired streams make no more ids, whoever still holds an old grant.
	retired bool
}

// NewStream makes the stream of a layout.
func NewStream(l Layout) *Stream {
	s := &Stream{layout: l, multi: l.Kind == Snowflake}
	if l.shared() {
		var seed [32]byte
		if _, err := crand.Read(seed[:]); err != nil {
			panic(err) // the runtime ends the program before that
		}
		s.rnd = rand.NewChaCha8(seed)
	}
	return s
}

// Layout is what the stream's ids look like.
func (s *Stream) Layout() Layout { return s.layout }

// verdict of one attempt to claim.
type verdict int

const (
	claimed   verdict = iota
	needGrant         // no grant, or its high-water time does not reach far enough
	tooFast           // logical time ran ahead of the clock by the whole of max_ahead
	wentBack          // the clock stands too far behind the last time
	exhausted         // the layout's time bits are used up
)

// claim takes n places in time and packs their ids onto dst. wait is how long
// until it may succeed, for tooFast; back is how far the clock stands behind, for wentBack.
func (s *Stream) claim(dst []byte, g *grant, now int64, n int, lim Limits) (out []byte, v verdict, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g == nil || s.retired {
		return dst, needGrant, 0
	}
	workers := g.numbers
	if !s.multi {
		workers = workers[:1]
	}
	per := s.layout.slots()
	perMS := per * uint64(len(workers))
	last, slot := s.last, s.slot
	if s.grant != g && (s.grant == nil || s.grant.generation != g.generation) {
		last, slot = max(last, g.floor), perMS // the next id is after both
	}
	wall := max(s.wall, now, g.floor)
	if back := wall - now; back > lim.MaxDrift.Milliseconds() {
		return dst, wentBack, time.Duration(back) * time.Millisecond
	}
	if now > last {
		last, slot = now, 0
	} else if slot >= perMS {
		last, slot = last+1, 0
	}
	if first := s.layout.firstMS(); last < first {
		return dst, wentBack, time.Duration(first-now) * time.Millisecond
	}
	end := last + int64((slot+uint64(n)-1)/perMS)
	switch {
	case end > s.layout.lastMS():
		return dst, exhausted, 0
	case end-wall > lim.MaxAhead.Milliseconds():
		return dst, tooFast, time.Duration(end-now)*time.Millisecond - lim.MaxAhead
	case end > g.high:
		return dst, needGrant, 0
	}
	dst = s.layout.Append(dst, Span{MS: last, Slot: slot, N: n, Workers: workers, Slots: per}, s.rnd)
	s.grant, s.wall = g, wall
	s.last, s.slot = end, (slot+uint64(n)-1)%perMS+1
	return dst, claimed, 0
}

// chunk is how many ids may be claimed at once, so that one claim spans no more
// than half of max_ahead and can always succeed after a wait.
func (s *Stream) chunk(n int, lim Limits) int {
	most := s.layout.slots() * uint64(max(lim.MaxAhead.Milliseconds()/2, 1))
	return int(min(uint64(n), most))
}

// reach is the time from which the next ids are made: the clock, or where the
// stream stands ahead of it.
func (s *Stream) reach(g *grant, now int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	now = max(now, s.last)
	if g != nil {
		now = max(now, g.floor)
	}
	return now
}

// retire ends the stream and gives the time of its last id in Unix ms, 0 for none.
func (s *Stream) retire() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired = true
	return s.last
}

// Limits say how far logical time may stand from the clock.
type Limits struct {
	// MaxDrift is how far back the clock may step before ids are refused.
	MaxDrift time.Duration
	// MaxAhead is how far demand may push logical time ahead of the clock.
	MaxAhead time.Duration
}

func clockMovedBack(back, limit time.Duration) error {
	return errs.New(errs.ClockMovedBack,
		"the clock stands %s behind the last time that ids were made for, more than numgen.max_clock_drift = %s; ids go on when it has caught up",
		back, limit).
		With(errs.Detail{Field: "numgen.max_clock_drift", Value: back.String(), Limit: limit.String()})
}
