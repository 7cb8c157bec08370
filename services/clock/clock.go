// Package clock is the one source of time outside the state machine, so that
// tests can own it (the fake lives in services/testkit).
//
// A Clock is safe for concurrent use. Every package may import it. Appliers
// (*/internal/table) must not: their time is stamped into the command.
package clock

import "time"

// Clock tells the time and waits.
type Clock interface {
	Now() time.Time
	// NewTimer and NewTicker work as in package time; d must be positive for a ticker.
	NewTimer(d time.Duration) Timer
	NewTicker(d time.Duration) Ticker
}

// Timer fires once on C. Stop tells whether it stopped it in time.
type Timer interface {
	C() <-chan time.Time
	Stop() bool
	Reset(d time.Duration) bool
}

// Ticker fires on C every period and drops ticks for a slow reader.
type Ticker interface {
	C() <-chan time.Time
	Stop()
}

// System is the machine's clock.
func System() Clock { return system{} }

type system struct{}

func (system) Now() time.Time                   { return time.Now() }
func (system) NewTimer(d time.Duration) Timer   { return sysTimer{time.NewTimer(d)} }
func (system) NewTicker(d time.Duration) Ticker { return sysTicker{time.NewTicker(d)} }

type sysTimer struct{ t *time.Timer }

func (t sysTimer) C() <-chan time.Time        { return t.t.C }
func (t sysTimer) Stop() bool                 { return t.t.Stop() }
func (t sysTimer) Reset(d time.Duration) bool { return t.t.Reset(d) }

type sysTicker struct{ t *time.Ticker }

func (t sysTicker) C() <-chan time.Time { return t.t.C }
func (t sysTicker) Stop()               { t.t.Stop() }
