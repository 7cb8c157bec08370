package wire

import (
	"encoding/binary"
	"io"
)

const (
	// A connection starts with a small buffer, since many are idle, and gets the
	// full one when a read fills it.
	firstReadBuffer = 4 << 10
	readBufferSize  = 64 << 10
	// keepBuffer is the largest buffer that is kept for reuse; one grown for a
	// huge frame is given back when it is empty.
	keepBuffer = 1 << 20
)

// frame is one decoded frame. body is valid until the next call of next.
type frame struct {
	typ  byte
	id   uint32
	body []byte
	// over is the size of a body beyond the limit, which is being skipped; body
	// is then empty.
	over int
}

// frameReader decodes frames in place from a large buffer: one system call may
// bring hundreds of small frames.
type frameReader struct {
	src    io.Reader
	limit  int // bytes of type, id and body
	buf    []byte
	r, w   int
	skip   int    // bytes of an oversized frame still to be dropped
	full   bool   // the last read filled the buffer
	onRead func() // runs after each read that brought something; may be nil
}

func newFrameReader(src io.Reader, limit int) *frameReader {
	return &frameReader{src: src, limit: limit, buf: make([]byte, firstReadBuffer)}
}

// next returns the next frame, io.EOF at a clean end between frames, or a
// protocol_violation.
func (f *frameReader) next() (frame, error) {
	if err := f.drop(); err != nil {
		return frame{}, err
	}
	if err := f.fill(headerSize); err != nil {
		return frame{}, err
	}
	head := f.buf[f.r:]
	length := int(binary.BigEndian.Uint32(head))
	fr := frame{typ: head[lengthSize], id: binary.BigEndian.Uint32(head[lengthSize+1:])}
	if length < minLength {
		return frame{}, violation("a frame announces %d bytes, less than its own head", length)
	}
	if fr.typ < frameHello || fr.typ > frameGoaway {
		return frame{}, violation("unknown frame type %d", fr.typ)
	}
	if length > f.limit {
		if length > skipFactor*f.limit {
			return frame{}, violation("a frame announces %d bytes; the limit is %d bytes", length, f.limit)
		}
		f.r += headerSize
		f.skip = length - minLength
		fr.over = f.skip
		return fr, nil
	}
	total := lengthSize + length
	if err := f.fill(total); err != nil {
		return frame{}, err
	}
	fr.body = f.buf[f.r+headerSize : f.r+total : f.r+total]
	f.r += total
	return fr, nil
}

// buffered tells whether a whole frame is at hand without a read.
func (f *frameReader) buffered() bool {
	n := f.w - f.r
	return n >= headerSize && n >= lengthSize+int(binary.BigEndian.Uint32(f.buf[f.r:]))
}

// drop discards what is left of an oversized frame.
func (f *frameReader) drop() error {
	for f.skip > 0 {
		if f.r == f.w {
			if err := f.read(); err != nil {
				return eofInside(err)
			}
		}
		n := min(f.skip, f.w-f.r)
		f.skip -= n
		f.r += n
	}
	return nil
}

// fill makes sure that n bytes stand at buf[r:]. The buffer at most doubles
// before its bytes have come, so a peer cannot make it large with a header.
func (f *frameReader) fill(n int) error {
	for f.w-f.r < n {
		if f.r == f.w {
			f.r, f.w = 0, 0
			if f.full && len(f.buf) < readBufferSize || len(f.buf) > keepBuffer && n <= readBufferSize {
				f.buf, f.full = make([]byte, readBufferSize), false
			}
		}
		if len(f.buf)-f.r < n && f.r > 0 {
			f.w = copy(f.buf, f.buf[f.r:f.w])
			f.r = 0
		}
		if f.w == len(f.buf) {
			grown := make([]byte, max(min(2*len(f.buf), n), f.w+1))
			f.w = copy(grown, f.buf[:f.w])
			f.buf = grown
		}
		had := f.w > f.r
		if err := f.read(); err != nil {
			if had {
				return eofInside(err)
			}
			return err
		}
	}
	return nil
}

func (f *frameReader) read() error {
	if f.r == f.w {
		f.r, f.w = 0, 0
	}
	n, err := f.src.Read(f.buf[f.w:])
	f.w += n
	f.full = f.w == len(f.buf)
	if n > 0 {
		if f.onRead != nil {
			f.onRead()
		}
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

func eofInside(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
