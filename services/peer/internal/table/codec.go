package table

import (
	"encoding/binary"
	"fmt"
)

// The codec of rows and payloads: a format byte, then fields in a fixed order.
// Fields are only ever appended; a decoder ignores what follows the fields it
// knows, and takes zero for those that an older writer did not have.
const format = 1

type writer struct{ b []byte }

func newWriter() *writer { return &writer{b: append(make([]byte, 0, 128), format)} }

func (w *writer) uint(v uint64)  { w.b = binary.AppendUvarint(w.b, v) }
func (w *writer) str(s string)   { w.uint(uint64(len(s))); w.b = append(w.b, s...) }
func (w *writer) bytes(p []byte) { w.uint(uint64(len(p))); w.b = append(w.b, p...) }

type reader struct {
	b   []byte
	bad bool
}

func newReader(b []byte) *reader {
	r := &reader{b: b}
	if len(b) == 0 || b[0] != format {
		r.bad = true
		return r
	}
	r.b = b[1:]
	return r
}

// uint gives 0 at the end of the input: the field is newer than the writer.
func (r *reader) uint() uint64 {
	if r.bad || len(r.b) == 0 {
		return 0
	}
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes() []byte {
	n := r.uint()
	if r.bad || n > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	p := r.b[:n:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) str() string { return string(r.bytes()) }

// err is deliberately no *errs.Error: an applier that returns it stops the node.
func (r *reader) err(what string) error {
	if r.bad {
		return fmt.Errorf("peer: %s cannot be decoded", what)
	}
	return nil
}
