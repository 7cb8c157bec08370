package link

import (
	"errors"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"nekoq/services/errs"
)

const (
	// HighWater is how many bytes wait for a write before senders wait too.
	HighWater = 1 << 20
	// hardWater ends a connection whose peer makes us answer and doesn't read.
	hardWater = 16 << 20
	// inlineBytes bounds what a sender writes itself, and inlineWindow how much
	// may have been written since the peer was last heard: within both, the
	// socket's buffer has room, so the write does not block.
	inlineBytes  = 16 << 10
	inlineWindow = 64 << 10
	// writePiece bounds one system call, so that a large frame on a slow link
	// shows progress (see Stalled).
	writePiece = 256 << 10
	// keepSmall is the size of a buffer that is always kept for reuse, and
	// keepBurst the largest that is kept while it is used.
	keepSmall = 64 << 10
	keepBurst = 1 << 20
)

// Writer combines the frames of many senders into few system calls. A sender
// appends its frame to Buf under mu. A lone one then writes it at once, with no
// hop to another goroutine; otherwise the flusher takes all that has come
// together. Writes never overlap: writing is the baton.
type Writer struct {
	conn net.Conn

	mu      sync.Mutex
	Buf     []byte // not yet handed to a write
	spare   []byte // the other buffer, nil while it is being written
	handed  int64  // bytes handed to writes since the start
	trimmed int64  // handed at the last Trim
	short   int64  // of those, not written by a failed write
	writing bool
	err     error         // why Begin refuses
	broken  bool          // a write failed; nothing more is written
	closing bool          // write what is pending, then close the connection
	parting time.Duration // how long the peer may take to close it instead, 0 for not
	space   chan struct{} // closed when Buf falls below HighWater; nil if none waits

	wake    chan struct{}
	stopped chan struct{}

	unheard    atomic.Int64 // bytes written since the peer was last heard
	writeStart atomic.Int64 // Nano() of the write under way, 0 for none
	onError    func(error)
}

// NewWriter makes a writer to conn. onError is told of a write that failed, and of a
// peer that does not read; it is called without the writer's mutex.
func NewWriter(conn net.Conn, onError func(error)) *Writer {
	return &Writer{conn: conn, onError: onError, wake: make(chan struct{}, 1), stopped: make(chan struct{})}
}

// Begin locks the writer for one frame; the caller appends to w.Buf and calls
// End. It waits while too much is pending, unless it is urgent (control frames
// of a reader, which must not wait for its own peer). done is the caller's
// context, late its other reason to give up; both may be nil.
func (w *Writer) Begin(done, late <-chan struct{}, urgent bool) error {
	w.mu.Lock()
	for {
		if w.err != nil {
			err := w.err
			w.mu.Unlock()
			return err
		}
		if urgent && len(w.Buf) < hardWater {
			return nil
		}
		if urgent {
			w.mu.Unlock()
			err := errs.New(errs.ProtocolViolation, "the peer does not read: %d bytes wait for it", hardWater)
			w.onError(err)
			return err
		}
		if len(w.Buf) < HighWater {
			return nil
		}
		if w.space == nil {
			w.space = make(chan struct{})
		}
		space := w.space
		w.mu.Unlock()
		select {
		case <-space:
		case <-w.stopped:
		case <-done:
			return ErrGaveUp
		case <-late:
			return ErrLate
		}
		w.mu.Lock()
	}
}

// ErrLate: the sender's other reason to give up came first.
var ErrLate = errors.New("link: the deadline passed")

// ErrGaveUp: the sender's context ended first.
var ErrGaveUp = errs.New(errs.Canceled, "the caller gave up before the request was sent")

// End unlocks, and sees to it that what was appended gets written. lone says
// that no other sender is likely to follow at once. It gives the offset of the
// end of the appended bytes in the outgoing stream (see Sent).
func (w *Writer) End(lone bool) int64 {
	offset := w.handed + int64(len(w.Buf))
	if w.writing {
		w.mu.Unlock()
		return offset
	}
	w.writing = true
	if !lone || len(w.Buf) > inlineBytes || w.unheard.Load() > inlineWindow {
		w.mu.Unlock()
		w.wake <- struct{}{} // has room: only the holder of the baton sends
		return offset
	}
	w.writeOnce()
	more := len(w.Buf) > 0 || w.closing
	w.writing = more
	w.mu.Unlock()
	if more {
		w.wake <- struct{}{}
	}
	return offset
}

// Hold unlocks as End does, and leaves it to a later End to have written what was
// appended, unless so much waits that it is worth a system call.
func (w *Writer) Hold() {
	if len(w.Buf) >= inlineBytes {
		w.End(false)
		return
	}
	w.mu.Unlock()
}

// Flush writes what Hold has left; lone is as for End.
func (w *Writer) Flush(lone bool) {
	w.mu.Lock()
	if len(w.Buf) == 0 || w.err != nil {
		w.mu.Unlock()
		return
	}
	w.End(lone)
}

// writeOnce writes what is pending. mu is held on entry and on return, and
// released meanwhile.
func (w *Writer) writeOnce() {
	out := w.Buf
	w.Buf, w.spare = w.spare[:0], nil
	w.handed += int64(len(out))
	if w.space != nil && len(w.Buf) < HighWater {
		close(w.space)
		w.space = nil
	}
	w.mu.Unlock()
	w.unheard.Add(int64(len(out)))
	n, err := w.writeAll(out)
	if err != nil {
		w.onError(err)
	}
	w.mu.Lock()
	if err != nil {
		w.short += int64(len(out) - n)
		w.broken = true
		if w.err == nil {
			w.err = err
		}
	}
	// A buffer that a burst made large is let go once little is written.
	if cap(out) <= keepSmall || cap(out) <= keepBurst && len(out) > cap(out)/8 {
		w.spare = out
	}
}

func (w *Writer) writeAll(out []byte) (n int, err error) {
	for n < len(out) && err == nil {
		w.writeStart.Store(Nano())
		var k int
		k, err = w.conn.Write(out[n:min(len(out), n+writePiece)])
		n += k
	}
	w.writeStart.Store(0)
	return n, err
}

// Run is the flusher. It ends with Stop.
func (w *Writer) Run() {
	for {
		select {
		case <-w.wake:
		case <-w.stopped:
			return
		}
		// Let the senders that are ready to run append first: one system call
		// for all of them. With none ready this costs some 100 ns.
		runtime.Gosched()
		w.mu.Lock()
		for len(w.Buf) > 0 && !w.broken {
			w.writeOnce()
		}
		w.writing = false
		closing, parting := w.closing, w.parting
		w.mu.Unlock()
		if closing {
			w.close(parting) // the reader sees it and ends the rest
			return
		}
	}
}

// FinalWrite bounds the last write of a connection that is being closed.
const FinalWrite = time.Second

// Finish writes what is pending and then closes the connection. err is what
// later senders get.
func (w *Writer) Finish(err error) {
	_ = w.conn.SetWriteDeadline(time.Now().Add(FinalWrite))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.finish(err)
}

func (w *Writer) finish(err error) {
	if w.closing {
		return
	}
	w.closing = true
	if w.err == nil {
		w.err = err
	}
	if !w.writing {
		w.writing = true
		w.wake <- struct{}{}
	}
}

// Part is Finish for a connection that somebody goes on reading: the peer sees the end
// of what it is sent and has the limit to close. To close before what it sent meanwhile
// is read would make the kernel take back what the peer has not read yet. How long the
// last write may take is the caller's affair.
func (w *Writer) Part(err error, limit time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.parting = limit
	w.finish(err)
}

func (w *Writer) close(parting time.Duration) {
	if parting == 0 {
		_ = w.conn.Close()
		return
	}
	_ = w.conn.SetReadDeadline(time.Now().Add(parting))
	if half, ok := w.conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

// Sent tells whether the peer may have got the whole frame that ends at offset.
// A frame that was cut short is never acted on.
func (w *Writer) Sent(offset int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return offset != 0 && offset <= w.handed-w.short
}

// NeverSent tells whether the frame that ends at offset certainly does not reach
// the peer, neither now nor later.
func (w *Writer) NeverSent(offset int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return offset == 0 || w.broken && offset > w.handed-w.short
}

// Stop makes Begin fail with err and ends the flusher. It may be called again.
func (w *Writer) Stop(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	select {
	case <-w.stopped:
	default:
		close(w.stopped)
	}
}

// Trim lets the buffers go when nothing was written since the last Trim: most
// connections are idle most of the time.
func (w *Writer) Trim() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.handed == w.trimmed && !w.writing && len(w.Buf) == 0 {
		w.Buf, w.spare = nil, nil
	}
	w.trimmed = w.handed
}

// Heard notes that the peer reads and answers.
func (w *Writer) Heard() {
	if w.unheard.Load() != 0 {
		w.unheard.Store(0)
	}
}

// Stalled tells whether a write has been under way for longer than limit.
func (w *Writer) Stalled(limit time.Duration) bool {
	start := w.writeStart.Load()
	return start != 0 && Nano()-start > int64(limit)
}
