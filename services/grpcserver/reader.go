package grpcserver

import "io"

// A connection starts with a small buffer, since many are idle, and gets the full
// one when a read fills it.
const (
	firstReadBuffer = 4 << 10
	fullReadBuffer  = 64 << 10
)

// reader buffers what a connection brings: one system call may bring hundreds of
// frames.
type reader struct {
	src    io.Reader
	onRead func() // after each read that brought something
	buf    []byte
	r, w   int
	failed bool // src gave an error
}

func newReader(src io.Reader, onRead func()) *reader {
	return &reader{src: src, onRead: onRead, buf: make([]byte, firstReadBuffer)}
}

// buffered tells whether something is at hand without a system call.
func (b *reader) buffered() bool { return b.r < b.w }

func (b *reader) Read(p []byte) (int, error) {
	if b.r == b.w {
		if b.w == len(b.buf) && len(b.buf) < fullReadBuffer {
			b.buf = make([]byte, fullReadBuffer)
		}
		b.r, b.w = 0, 0
		n, err := b.src.Read(b.buf)
		if n <= 0 {
			b.failed = b.failed || err != nil
			return 0, err
		}
		b.w = n
		b.onRead()
	}
	n := copy(p, b.buf[b.r:b.w])
	b.r += n
	return n, nil
}
