package history

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// Leases is the history of leases: grants, keep-alives, revocations, and what was
// seen of them. A lease must not end before its TTL has passed since the last
// acknowledged grant or keep-alive was sent; not come back; never show more than its
// TTL nor less than it certainly has; and end at last, unless Check is told
// otherwise.
type Leases struct {
	// Grain is how much less than the truth the time left may be that a look shows:
	// the grain of the server's clock. Set before use.
	Grain time.Duration

	start time.Time
	mu    sync.Mutex
	bad   []string
	all   map[uint64]*leaseLife
}

// leaseLife is one lease. Times are since the start of the history.
type leaseLife struct {
	ttl      time.Duration
	least    time.Duration // it does not end before
	most     time.Duration // without trouble it has ended by then
	revoking bool          // a revocation was sent
	gone     time.Duration // first seen to be gone, 0 for never
	how      string        // what saw it
	found    bool          // when nobody had watched
}

// NewLeases makes an empty history.
func NewLeases() *Leases { return &Leases{start: time.Now(), all: map[uint64]*leaseLife{}} }

func (h *Leases) now() time.Duration { return time.Since(h.start) }

func (h *Leases) fail(id uint64, form string, args ...any) {
	h.bad = append(h.bad, fmt.Sprintf("lease %d: ", id)+fmt.Sprintf(form, args...))
}

// LeaseOp is a grant, keep-alive or look that has been sent and not answered. Of it
// one method is called, or none when it was refused or its outcome is not known.
type LeaseOp struct {
	h     *Leases
	call  time.Duration
	least time.Duration // of a look: what was certain when it began
}

// Begin begins a grant or keep-alive.
func (h *Leases) Begin() *LeaseOp { return &LeaseOp{h: h, call: h.now()} }

// Look begins a linearizable look at the time that a lease has left.
func (h *Leases) Look(id uint64) *LeaseOp {
	h.mu.Lock()
	defer h.mu.Unlock()
	o := &LeaseOp{h: h, call: h.now()}
	if l := h.all[id]; l != nil {
		o.least = l.least
	}
	return o
}

// Granted ends a grant.
func (o *LeaseOp) Granted(id uint64, ttl time.Duration) {
	h := o.h
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.all[id] != nil {
		h.fail(id, "granted twice")
		return
	}
	h.all[id] = &leaseLife{ttl: ttl, least: o.call + ttl, most: h.now() + ttl}
}

// Kept ends a keep-alive that was acknowledged.
func (o *LeaseOp) Kept(id uint64) {
	o.alive(id, "kept alive", func(l *leaseLife) {
		l.least = max(l.least, o.call+l.ttl)
		l.most = max(l.most, o.h.now()+l.ttl)
		if l.gone != 0 && !l.revoking && l.gone < l.least {
			o.h.fail(id, "%s at %s, after a keep-alive of %s that was acknowledged", l.how, l.gone, o.call)
		}
	})
}

// Maybe ends a keep-alive whose outcome is not known: the lease may end later for it.
func (o *LeaseOp) Maybe(id uint64) {
	h := o.h
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.all[id]; l != nil {
		l.most = max(l.most, h.now()+l.ttl)
	}
}

// Remaining ends a look that found the lease with a time left.
func (o *LeaseOp) Remaining(id uint64, left time.Duration) {
	o.alive(id, "seen alive", func(l *leaseLife) {
		if left > l.ttl {
			o.h.fail(id, "%s left of a TTL of %s", left, l.ttl)
		}
		// It was read before now, so it cannot be less than is certainly left now.
		if now := o.h.now(); now+left+o.h.Grain < o.least {
			o.h.fail(id, "%s left at %s, and by its keep-alives it runs until %s at least", left, now, o.least)
		}
	})
}

// alive notes that the lease was there at some time between call and answer.
func (o *LeaseOp) alive(id uint64, how string, then func(l *leaseLife)) {
	h := o.h
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.all[id]
	if l == nil {
		h.fail(id, "%s, and never granted", how)
		return
	}
	if l.gone != 0 && l.gone < o.call {
		h.fail(id, "%s by what began at %s, and %s at %s", how, o.call, l.how, l.gone)
		return
	}
	then(l)
}

// Revoking notes that a revocation is about to be sent; the lease may end from now on.
func (h *Leases) Revoking(id uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.all[id]; l != nil {
		l.revoking = true
	}
}

// Gone notes that the lease, or a key on it, has just been seen to be gone, by
// somebody who watches it; how says by what. It may be noted any number of times; the
// first one counts.
func (h *Leases) Gone(id uint64, how string) { h.ended(id, how, true) }

// Found notes that the lease was found to be gone by somebody who looked now and then:
// it may have ended long ago.
func (h *Leases) Found(id uint64, how string) { h.ended(id, how, false) }

func (h *Leases) ended(id uint64, how string, watched bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.all[id]
	if l == nil {
		return
	}
	now := h.now()
	if !l.revoking && now < l.least {
		h.fail(id, "%s at %s, %s early: by its keep-alives it runs until %s at least", how, now, l.least-now, l.least)
	}
	if l.gone == 0 {
		l.gone, l.how, l.found = now, how, !watched
	}
}

// TTLOf is the TTL of a lease, 0 for none.
func (h *Leases) TTLOf(id uint64) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.all[id]; l != nil {
		return l.ttl
	}
	return 0
}

// Open gives the leases that have not been seen to be gone.
func (h *Leases) Open() (ids []uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, l := range h.all {
		if l.gone == 0 {
			ids = append(ids, id)
		}
	}
	return ids
}

// Len is the number of leases.
func (h *Leases) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.all)
}

// verdict gives every violation. late bounds how much later than without trouble a
// lease may have ended: the time without a leader, and what a slow machine needs.
func (h *Leases) verdict(late time.Duration) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := append([]string(nil), h.bad...)
	now := h.now()
	for id, l := range h.all {
		end := l.gone
		if end == 0 {
			end = now
		}
		if !l.found && end > l.most+late {
			out = append(out, fmt.Sprintf("lease %d: there until %s, %s after the end of its time", id, end, end-l.most))
		}
	}
	return out
}

// Check fails the test unless all leases were what they must be. late bounds how much
// later than without trouble one may end.
func (h *Leases) Check(tb testing.TB, late time.Duration) {
	tb.Helper()
	for _, v := range h.verdict(late) {
		tb.Error(v)
	}
}
