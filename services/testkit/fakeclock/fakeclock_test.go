package fakeclock

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func fired(c <-chan time.Time) (time.Time, bool) {
	select {
	case at := <-c:
		return at, true
	default:
		return time.Time{}, false
	}
}

func TestTimerFiresAtItsDeadline(t *testing.T) {
	c := New(time.Time{})
	late, early := c.NewTimer(3*time.Second), c.NewTimer(time.Second)
	c.Advance(time.Second - 1)
	_, ok := fired(early.C())
	require.False(t, ok)
	c.Advance(time.Hour)
	at, ok := fired(early.C())
	require.True(t, ok)
	require.Equal(t, Epoch.Add(time.Second), at)
	at, _ = fired(late.C())
	require.Equal(t, Epoch.Add(3*time.Second), at)
	require.Equal(t, Epoch.Add(time.Hour+time.Second-1), c.Now())
	require.Zero(t, c.Waiters())
}

func TestEqualDeadlinesFireInTheOrderSet(t *testing.T) {
	c := New(time.Time{})
	var timers []*waiter
	for range 5 {
		timers = append(timers, c.NewTimer(time.Second).(timer).w)
	}
	require.Equal(t, timers, c.waiting)
}

func TestStopAndResetTakeBackTheValue(t *testing.T) {
	c := New(time.Time{})
	tm := c.NewTimer(time.Second)
	c.Advance(time.Second)
	require.True(t, tm.Reset(time.Second), "the value was not received, so the timer had not fired for its reader")
	_, ok := fired(tm.C())
	require.False(t, ok)
	require.True(t, tm.Stop())
	require.False(t, tm.Stop())
	c.Advance(time.Hour)
	_, ok = fired(tm.C())
	require.False(t, ok)
	tm.Reset(0)
	_, ok = fired(tm.C())
	require.True(t, ok)
}

func TestTickerDropsTicksForASlowReader(t *testing.T) {
	c := New(time.Time{})
	tk := c.NewTicker(time.Second)
	c.Advance(2500 * time.Millisecond)
	at, ok := fired(tk.C())
	require.True(t, ok)
	require.Equal(t, Epoch.Add(time.Second), at)
	_, ok = fired(tk.C())
	require.False(t, ok)
	d, ok := c.AdvanceToNext()
	require.True(t, ok)
	require.Equal(t, 500*time.Millisecond, d)
	_, ok = fired(tk.C())
	require.True(t, ok)
	tk.Stop()
	_, ok = c.AdvanceToNext()
	require.False(t, ok)
	require.Panics(t, func() { c.NewTicker(0) })
}

func TestStepMovesTheWallClockOnly(t *testing.T) {
	c := New(time.Time{})
	tm := c.NewTimer(time.Minute)
	c.Step(time.Hour)
	_, ok := fired(tm.C())
	require.False(t, ok)
	c.Step(-2 * time.Hour)
	require.Equal(t, Epoch.Add(-time.Hour), c.Now())
	require.Zero(t, c.Elapsed())
	c.Advance(time.Minute)
	at, ok := fired(tm.C())
	require.True(t, ok)
	require.Equal(t, Epoch.Add(time.Minute-time.Hour), at)
	require.Panics(t, func() { c.Advance(-1) })
}

func TestBlockUntil(t *testing.T) {
	c := New(time.Time{})
	woke := make(chan time.Time)
	go func() {
		tm := c.NewTimer(time.Second)
		woke <- <-tm.C()
	}()
	require.NoError(t, c.BlockUntil(context.Background(), 1))
	c.Advance(time.Second)
	require.Equal(t, Epoch.Add(time.Second), <-woke)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorIs(t, c.BlockUntil(ctx, 1), context.Canceled)
	require.Empty(t, c.blocked)
}
