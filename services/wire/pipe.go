package wire

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// pipeBuffer is how many bytes wait in one direction of a Pipe before a write
// blocks: as a socket, and above inlineWindow, so a lone request never blocks.
const pipeBuffer = 256 << 10

// Pipe is an in-process connection pair, buffered, with deadlines. Like TCP, and
// unlike net.Pipe, a write returns before it is read, and what was written
// before a Close can still be read.
func Pipe() (client, server net.Conn) {
	up, down := newHalf(), newHalf()
	return &pipeEnd{in: down, out: up}, &pipeEnd{in: up, out: down}
}

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "in-process" }

type pipeEnd struct{ in, out *half }

func (p *pipeEnd) Read(b []byte) (int, error)  { return p.in.read(b) }
func (p *pipeEnd) Write(b []byte) (int, error) { return p.out.write(b) }
func (p *pipeEnd) LocalAddr() net.Addr         { return pipeAddr{} }
func (p *pipeEnd) RemoteAddr() net.Addr        { return pipeAddr{} }

func (p *pipeEnd) Close() error {
	p.in.closeReader()
	p.out.closeWriter()
	return nil
}

func (p *pipeEnd) SetDeadline(t time.Time) error {
	p.in.readBy.set(p.in, t)
	p.out.writeBy.set(p.out, t)
	return nil
}

func (p *pipeEnd) SetReadDeadline(t time.Time) error {
	p.in.readBy.set(p.in, t)
	return nil
}

func (p *pipeEnd) SetWriteDeadline(t time.Time) error {
	p.out.writeBy.set(p.out, t)
	return nil
}

// half is one direction: bytes between r and the end of buf are unread.
type half struct {
	mu              sync.Mutex
	readers         sync.Cond
	writers         sync.Cond
	buf             []byte
	r               int
	readBy, writeBy limit
	noReader        bool // the reading end closed
	noWriter        bool // the writing end closed
}

func newHalf() *half {
	h := &half{}
	h.readers.L, h.writers.L = &h.mu, &h.mu
	return h
}

// limit is a deadline under half.mu.
type limit struct {
	at    time.Time
	timer *time.Timer
}

func (l *limit) passed() bool { return !l.at.IsZero() && !time.Now().Before(l.at) }

func (l *limit) set(h *half, t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l.at = t
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	if !t.IsZero() && time.Until(t) > 0 {
		l.timer = time.AfterFunc(time.Until(t), h.wakeAll)
	}
	h.readers.Broadcast()
	h.writers.Broadcast()
}

func (l *limit) stop() {
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
}

func (h *half) wakeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.readers.Broadcast()
	h.writers.Broadcast()
}

func (h *half) read(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.noReader:
			return 0, net.ErrClosed
		case h.readBy.passed():
			return 0, os.ErrDeadlineExceeded
		case len(b) == 0:
			return 0, nil
		case h.r < len(h.buf):
			n := copy(b, h.buf[h.r:])
			if h.r += n; h.r == len(h.buf) {
				h.buf, h.r = h.buf[:0], 0
			}
			h.writers.Broadcast()
			return n, nil
		case h.noWriter:
			return 0, io.EOF
		}
		h.readers.Wait()
	}
}

func (h *half) write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	written := 0
	for {
		switch {
		case h.noWriter:
			return written, net.ErrClosed
		case h.writeBy.passed():
			return written, os.ErrDeadlineExceeded
		case h.noReader:
			return written, io.ErrClosedPipe
		}
		if room := pipeBuffer - (len(h.buf) - h.r); room > 0 && len(b) > 0 {
			n := min(room, len(b))
			if h.r > 0 && len(h.buf)+n > cap(h.buf) {
				h.buf, h.r = h.buf[:copy(h.buf, h.buf[h.r:])], 0
			}
			h.buf = append(h.buf, b[:n]...)
			b = b[n:]
			written += n
			h.readers.Signal()
		}
		if len(b) == 0 {
			return written, nil
		}
		h.writers.Wait()
	}
}

func (h *half) closeReader() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.noReader = true
	h.buf, h.r = nil, 0
	h.readBy.stop()
	h.readers.Broadcast()
	h.writers.Broadcast()
}

func (h *half) closeWriter() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.noWriter = true
	h.writeBy.stop()
	h.readers.Broadcast()
	h.writers.Broadcast()
}
