// Package fakeclock is a clock that a test moves by hand.
//
// It owns an implementation of clock.Clock with two hands, as a machine has:
// Advance lets time pass (timers fire), Step sets the wall clock forward or back
// without time passing (timers do not notice, Now does). Everything is
// deterministic: timers fire in the order of their deadlines, equal ones in the
// order in which they were set, and Now shows the deadline while they do.
//
// A Clock is safe for concurrent use. Only tests import it.
package fakeclock

import (
	"context"
	"slices"
	"sync"
	"time"

	"nekoq/services/clock"
)

// Epoch is what a Clock shows when New gets the zero time.
var Epoch = time.Date(2026, time.January, 2, 3, 4, 5, 0, time.UTC)

// Clock is a fake clock.Clock. Make one with New.
type Clock struct {
	mu      sync.Mutex
	origin  time.Time
	passed  time.Duration // by Advance: what timers go by
	stepped time.Duration // by Step: what only Now shows
	seq     uint64
	waiting []*waiter // by (when, seq)
	blocked []blocked
}

var _ clock.Clock = (*Clock)(nil)

type blocked struct {
	n    int
	done chan struct{}
}

// New makes a clock that shows start, or Epoch for the zero time.
func New(start time.Time) *Clock {
	if start.IsZero() {
		start = Epoch
	}
	return &Clock{origin: start.Round(0)}
}

// Now is the wall time. It has no monotonic reading, so a Step shows in Sub too.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now()
}

func (c *Clock) now() time.Time { return c.origin.Add(c.passed + c.stepped) }

// Elapsed is the sum of all Advance: what a monotonic clock would show.
func (c *Clock) Elapsed() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.passed
}

// Advance lets d pass and fires what falls due, each at its own deadline. A
// ticker whose reader is slow loses ticks, as a real one does.
func (c *Clock) Advance(d time.Duration) {
	if d < 0 {
		panic("fakeclock: time does not pass backwards; use Step to set the wall clock back")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	end := c.passed + d
	for len(c.waiting) > 0 && c.waiting[0].when <= end {
		w := c.waiting[0]
		c.passed = w.when
		c.remove(w)
		w.fire(c.now())
		if w.period > 0 {
			w.when += w.period
			c.insert(w)
		}
	}
	c.passed = end
}

// AdvanceToNext advances to the next deadline and tells how long that was; with
// nothing waiting it does nothing and answers false.
func (c *Clock) AdvanceToNext() (time.Duration, bool) {
	c.mu.Lock()
	if len(c.waiting) == 0 {
		c.mu.Unlock()
		return 0, false
	}
	d := c.waiting[0].when - c.passed
	c.mu.Unlock()
	c.Advance(d)
	return d, true
}

// Step sets the wall clock forward, or back for a negative d.
func (c *Clock) Step(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stepped += d
}

// Waiters is the number of running timers and tickers.
func (c *Clock) Waiters() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiting)
}

// BlockUntil waits until at least n timers and tickers run, so that a test can
// advance when the code under test has set its own. It fails with ctx's error.
func (c *Clock) BlockUntil(ctx context.Context, n int) error {
	c.mu.Lock()
	if len(c.waiting) >= n {
		c.mu.Unlock()
		return nil
	}
	b := blocked{n: n, done: make(chan struct{})}
	c.blocked = append(c.blocked, b)
	c.mu.Unlock()
	select {
	case <-b.done:
		return nil
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.blocked = slices.DeleteFunc(c.blocked, func(o blocked) bool { return o.done == b.done })
	return ctx.Err()
}

// NewTimer fires once after d of Advance; at once when d is not positive.
func (c *Clock) NewTimer(d time.Duration) clock.Timer {
	w := &waiter{clock: c, c: make(chan time.Time, 1)}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.start(w, d)
	return timer{w}
}

// NewTicker fires every d of Advance; d must be positive.
func (c *Clock) NewTicker(d time.Duration) clock.Ticker {
	if d <= 0 {
		panic("fakeclock: a ticker needs a positive period")
	}
	w := &waiter{clock: c, c: make(chan time.Time, 1), period: d}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.start(w, d)
	return ticker{w}
}

// start and what follows are called with c.mu held.
func (c *Clock) start(w *waiter, d time.Duration) {
	if d <= 0 {
		w.fire(c.now())
		return
	}
	w.when = c.passed + d
	c.insert(w)
}

func (c *Clock) insert(w *waiter) {
	c.seq++
	w.seq, w.running = c.seq, true
	i, _ := slices.BinarySearchFunc(c.waiting, w, func(a, b *waiter) int {
		if a.when != b.when {
			return int(min(max(a.when-b.when, -1), 1))
		}
		return -1 // behind all of the same deadline
	})
	c.waiting = slices.Insert(c.waiting, i, w)
	c.blocked = slices.DeleteFunc(c.blocked, func(b blocked) bool {
		if len(c.waiting) < b.n {
			return false
		}
		close(b.done)
		return true
	})
}

func (c *Clock) remove(w *waiter) {
	w.running = false
	c.waiting = slices.DeleteFunc(c.waiting, func(o *waiter) bool { return o == w })
}

type waiter struct {
	clock   *Clock
	c       chan time.Time
	when    time.Duration // of Clock.passed
	period  time.Duration // 0 for a timer
	seq     uint64
	running bool
}

func (w *waiter) fire(now time.Time) {
	select {
	case w.c <- now:
	default: // a slow reader drops the tick
	}
}

// halt stops w and takes back a value that was not received, as package time
// does since Go 1.23.
func (w *waiter) halt() bool {
	was := w.running
	if was {
		w.clock.remove(w)
	}
	select {
	case <-w.c:
		was = true
	default:
	}
	return was
}

type timer struct{ w *waiter }

func (t timer) C() <-chan time.Time { return t.w.c }

func (t timer) Stop() bool {
	t.w.clock.mu.Lock()
	defer t.w.clock.mu.Unlock()
	return t.w.halt()
}

func (t timer) Reset(d time.Duration) bool {
	t.w.clock.mu.Lock()
	defer t.w.clock.mu.Unlock()
	was := t.w.halt()
	t.w.clock.start(t.w, d)
	return was
}

type ticker struct{ w *waiter }

func (t ticker) C() <-chan time.Time { return t.w.c }

func (t ticker) Stop() {
	t.w.clock.mu.Lock()
	defer t.w.clock.mu.Unlock()
	t.w.halt()
}
