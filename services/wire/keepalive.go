package wire

import (
	"sync"
	"sync/atomic"
	"time"

	"nekoq/services/errs"
	"nekoq/services/internal/link"
)

// keeper finds dead peers: it pings one that has been silent, and reports one
// that doesn't answer or doesn't take what is written to it. It costs one timer
// a connection and one atomic store a read.
type keeper struct {
	w        *link.Writer
	interval time.Duration // silence before a ping
	timeout  time.Duration // for the answer
	stall    time.Duration // for one write
	fail     func(error)
	// While busy reports true, the shorter pair holds: a caller that waits wants
	// to know sooner. busy may be nil.
	busy                      func() bool
	busyInterval, busyTimeout time.Duration

	onTick func() // runs now and then while the connection lives; may be nil

	heard      atomic.Bool // since the last tick
	mu         sync.Mutex
	timer      *time.Timer
	closed     bool
	silent     time.Duration // since anything was heard, counted in ticks
	pinged     bool          // and unanswered for so long:
	unanswered time.Duration
	pingAt     int64 // where the ping stands in the outgoing stream
}

func (k *keeper) period() time.Duration {
	p := min(k.interval, k.timeout, k.stall)
	if k.busy != nil {
		p = min(p, k.busyInterval, k.busyTimeout)
	}
	return max(p/2, time.Millisecond)
}

func (k *keeper) start() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.closed {
		k.timer = time.AfterFunc(k.period(), k.tick)
	}
}

func (k *keeper) stop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	if k.timer != nil {
		k.timer.Stop()
	}
}

// noteHeard runs on every read.
func (k *keeper) noteHeard() {
	if !k.heard.Load() {
		k.heard.Store(true)
	}
	k.w.Heard()
}

func (k *keeper) tick() {
	if k.onTick != nil {
		k.onTick()
	}
	if k.w.Stalled(k.stall) {
		k.fail(errs.New(errs.Unavailable, "the peer took nothing of what was sent for %s", k.stall))
		return
	}
	ping, interval, timeout := false, k.interval, k.timeout
	if k.busy != nil && k.busy() {
		interval, timeout = min(interval, k.busyInterval), min(timeout, k.busyTimeout)
	}
	k.mu.Lock()
	switch {
	case k.closed:
		k.mu.Unlock()
		return
	case k.heard.Swap(false):
		k.silent, k.pinged, k.unanswered = 0, false, 0
	case k.pinged:
		// Not before the ping is out: it may wait behind a large frame.
		if k.w.Sent(k.pingAt) {
			k.unanswered += k.period()
		}
	default:
		k.silent += k.period()
	}
	dead := k.pinged && k.unanswered >= timeout
	if !k.pinged && k.silent >= interval {
		k.pinged, ping = true, true
	}
	k.timer.Reset(k.period())
	k.mu.Unlock()
	if dead {
		k.fail(errs.New(errs.Unavailable, "the peer did not answer a ping within %s", timeout))
		return
	}
	if ping {
		var body [8]byte
		at := sendControl(k.w, framePing, 0, body[:])
		k.mu.Lock()
		k.pingAt = at
		k.mu.Unlock()
	}
}

// sendControl sends a small frame without waiting for room. A failure shows in
// the connection's own end. It gives the offset as Writer.End does.
func sendControl(w *link.Writer, typ byte, id uint32, body []byte) int64 {
	if w.Begin(nil, nil, true) != nil {
		return 0
	}
	w.Buf = appendFrame(w.Buf, typ, id, body)
	return w.End(false)
}
