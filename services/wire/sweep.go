package wire

import "time"

// epoch is the zero of nano.
var epoch = time.Now()

// nano reads the monotonic clock, in nanoseconds: steps of the wall clock do not
// move deadlines, and it costs half of time.Now.
func nano() int64 { return int64(time.Since(epoch)) }

// sweepGrain is how much later than asked a deadline may fire, so that the
// deadlines of many calls share one timer.
const sweepGrain = 2 * time.Millisecond

// sweeper fires run no later than sweepGrain after the earliest noted deadline.
// One timer serves a whole connection, and it is touched only when a deadline
// comes that is earlier than all before. It is guarded by its owner's mutex; run
// is called without it.
type sweeper struct {
	run   func()
	timer *time.Timer
	armed int64 // nano() of the next firing, 0 for none
}

// note makes sure that a sweep follows deadline (of nano).
func (s *sweeper) note(deadline int64) {
	if s.armed != 0 && s.armed <= deadline+int64(sweepGrain) {
		return
	}
	s.armed = deadline + int64(sweepGrain)/2
	wait := time.Duration(max(s.armed-nano(), 0))
	if s.timer == nil {
		s.timer = time.AfterFunc(wait, s.run)
		return
	}
	s.timer.Reset(wait)
}

func (s *sweeper) stop() {
	if s.timer != nil {
		s.timer.Stop()
	}
}
