package link

import "time"

// Epoch is the zero of Nano.
var Epoch = time.Now()

// Nano reads the monotonic clock, in nanoseconds: steps of the wall clock do not
// move deadlines, and it costs half of time.Now.
func Nano() int64 { return int64(time.Since(Epoch)) }

// SweepGrain is how much later than asked a deadline may fire, so that the
// deadlines of many calls share one timer.
const SweepGrain = 2 * time.Millisecond

// Sweeper fires Run no later than SweepGrain after the earliest noted deadline.
// One timer serves a whole connection, and it is touched only when a deadline
// comes that is earlier than all before. It is guarded by its owner's mutex; Run
// is called without it.
type Sweeper struct {
	Run   func()
	timer *time.Timer
	armed int64 // Nano() of the next firing, 0 for none
}

// Note makes sure that a sweep follows deadline (of Nano).
func (s *Sweeper) Note(deadline int64) {
	if s.armed != 0 && s.armed <= deadline+int64(SweepGrain) {
		return
	}
	s.armed = deadline + int64(SweepGrain)/2
	wait := time.Duration(max(s.armed-Nano(), 0))
	if s.timer == nil {
		s.timer = time.AfterFunc(wait, s.Run)
		return
	}
	s.timer.Reset(wait)
}

// Stop ends the timer.
func (s *Sweeper) Stop() {
	if s.timer != nil {
		s.timer.Stop()
	}
}

// Expire is what Run does: it hands late those of all whose deadline (of Nano, 0 for
// none) has passed, and sees to it that a sweep follows the next. The owner's mutex is
// held; late may delete from all.
func Expire[K comparable, T any](s *Sweeper, all map[K]T, deadline func(T) int64, late func(K, T)) {
	s.armed = 0
	now, next := Nano(), int64(0)
	for k, t := range all {
		switch at := deadline(t); {
		case at == 0:
		case at <= now:
			late(k, t)
		case next == 0 || at < next:
			next = at
		}
	}
	if next != 0 {
		s.Note(next)
	}
}
