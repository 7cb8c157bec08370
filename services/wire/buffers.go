package wire

import "sync"

// buffer is a pooled byte slice; the pool holds pointers, so that putting one
// back does not allocate.
type buffer struct{ b []byte }

var buffers = sync.Pool{New: func() any { return &buffer{b: make([]byte, 0, 1024)} }}

// keepPooled is the largest buffer that goes back to the pool.
const keepPooled = 64 << 10

func getBuffer() *buffer { return buffers.Get().(*buffer) }

func putBuffer(b *buffer) {
	if cap(b.b) <= keepPooled {
		b.b = b.b[:0]
		buffers.Put(b)
	}
}
