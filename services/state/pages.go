package state

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sort"
	"sync"
	"sync/atomic"
)

// Reading pages past the memory map. The map costs a fault for each page that is
// touched first, and the system maps 64 KiB with it, so whoever reads single rows
// all over a large file, or all rows once, has the whole file counted as resident
// memory. A read of one page into a buffer costs less than the fault, and leaves
// nothing behind. Pages that a read transaction can reach are not written while it
// lasts, and the map and the file show the same.
//
// The format is bbolt's, format version 2: a header of 16 bytes (id 8, flags 2,
// count 2, overflow 4), then an element for each row. Numbers are in the machine's order.
const (
	pageHeader  = 16
	elementSize = 16
	branchPage  = 0x01
	leafPage    = 0x02
	bucketRow   = 0x01
	maxDepth    = 32 // of a tree; deeper is damage
)

// page is one page with its overflow pages. In a leaf an element is flags 4, pos 4,
// key size 4, value size 4; in a branch pos 4, key size 4, page id 8. pos counts from the
// start of the element.
type page []byte

func (p page) flags() uint16 { return binary.NativeEndian.Uint16(p[8:]) }
func (p page) count() int    { return int(binary.NativeEndian.Uint16(p[10:])) }

func (p page) element(i int) []byte { return p[pageHeader+i*elementSize:] }

func (p page) child(i int) (key []byte, id uint64) {
	e := p.element(i)
	pos, n := binary.NativeEndian.Uint32(e), binary.NativeEndian.Uint32(e[4:])
	return e[pos : pos+n : pos+n], binary.NativeEndian.Uint64(e[8:])
}

func (p page) row(i int) (key, value []byte) {
	e := p.element(i)
	if binary.NativeEndian.Uint32(e)&bucketRow != 0 {
		panic(fmt.Errorf("page %d has a bucket among rows", binary.NativeEndian.Uint64(p)))
	}
	pos, k, v := binary.NativeEndian.Uint32(e[4:]), binary.NativeEndian.Uint32(e[8:]), binary.NativeEndian.Uint32(e[12:])
	return e[pos : pos+k : pos+k], e[pos+k : pos+k+v : pos+k+v]
}

// checked panics unless p is the page of that number and of a known kind.
func (p page) checked(id uint64) page {
	if at := binary.NativeEndian.Uint64(p); at != id {
		panic(fmt.Errorf("page %d says that it is page %d", id, at))
	}
	if f := p.flags(); f != branchPage && f != leafPage {
		panic(fmt.Errorf("page %d is of kind %#x", id, f))
	}
	return p
}

// pageBuffer is room for a page; it grows when there are overflow pages.
type pageBuffer struct{ b []byte }

var pageBuffers = sync.Pool{New: func() any { return new(pageBuffer) }}

// put gives the buffer back, unless it has grown for one large value.
func (buf *pageBuffer) put() {
	if len(buf.b) <= 256<<10 {
		pageBuffers.Put(buf)
	}
}

// readPage reads page id into buf. Damage and failures of the disk are panics, as
// in bbolt.
func (h *handle) readPage(id uint64, buf *pageBuffer) page {
	size := int(h.pageSize)
	if len(buf.b) < size {
		buf.b = make([]byte, size)
	}
	at := int64(id) * int64(size)
	if _, err := h.file.ReadAt(buf.b[:size], at); err != nil {
		panic(fmt.Errorf("reading page %d: %w", id, err))
	}
	p := page(buf.b[:size]).checked(id)
	over := int64(binary.NativeEndian.Uint32(p[12:]))
	if over == 0 {
		return p
	}
	whole := (over + 1) * int64(size)
	if at+whole > h.mapBytes {
		panic(fmt.Errorf("page %d has %d overflow pages", id, over))
	}
	if int64(len(buf.b)) < whole {
		buf.b = append(make([]byte, 0, whole), p...)[:whole]
	}
	if _, err := h.file.ReadAt(buf.b[size:whole], at+int64(size)); err != nil {
		panic(fmt.Errorf("reading page %d: %w", id, err))
	}
	return page(buf.b[:whole])
}

// branchSlots is how many branches a base keeps, 8 MiB at most: those of two million
// small rows. Lookups read them again and again.
const branchSlots = 2048

type branch struct {
	id   uint64
	page page
}

// branch gives a page above the leaves. It is the base's: a later one may have other
// content under the same number.
func (b *base) branch(id uint64) page {
	kept := b.branches.Load()
	if kept == nil {
		kept = new([branchSlots]atomic.Pointer[branch])
		if !b.branches.CompareAndSwap(nil, kept) {
			kept = b.branches.Load()
		}
	}
	slot := &kept[id%branchSlots]
	if k := slot.Load(); k != nil && k.id == id {
		return k.page
	}
	p := b.h.readPage(id, new(pageBuffer))
	if p.flags() != branchPage || p.count() == 0 {
		panic(fmt.Errorf("page %d is no branch", id))
	}
	slot.Store(&branch{id: id, page: p})
	return p
}

// shape is a table's root and the number of branches above a leaf; root 0 is a table
// so small that it lies within another page.
type shape struct {
	root  uint64
	depth int
}

// shapeOf finds out, once for each base.
func (b *base) shapeOf(slot int) shape {
	if s := b.shapes[slot].Load(); s != nil {
		return *s
	}
	s := shape{root: uint64(b.bucket(slot).Root())}
	if s.root != 0 {
		buf := pageBuffers.Get().(*pageBuffer)
		defer buf.put()
		for id := s.root; ; s.depth++ {
			p := b.h.readPage(id, buf)
			if p.flags() == leafPage {
				break
			}
			if s.depth == maxDepth || p.count() == 0 {
				panic(fmt.Errorf("page %d is a branch that leads nowhere", id))
			}
			_, id = p.child(0)
		}
	}
	b.shapes[slot].Store(&s)
	return s
}

// read looks one key up with a read of its leaf. The value is the caller's. ok is
// false when the table lies within another page.
func (b *base) read(slot int, key []byte) (value []byte, found, ok bool) {
	s := b.shapeOf(slot)
	if s.root == 0 {
		return nil, false, false
	}
	id := s.root
	for range s.depth {
		p := b.branch(id)
		// The last child whose first key is not greater.
		i := sort.Search(p.count(), func(i int) bool {
			k, _ := p.child(i)
			return bytes.Compare(k, key) > 0
		})
		_, id = p.child(max(i-1, 0))
	}
	buf := pageBuffers.Get().(*pageBuffer)
	defer buf.put()
	v, found := b.h.readLeaf(id, buf).find(key)
	if !found {
		return nil, false, true
	}
	return append(make([]byte, 0, len(v)), v...), true, true
}

func (h *handle) readLeaf(id uint64, buf *pageBuffer) page {
	p := h.readPage(id, buf)
	if p.flags() != leafPage {
		panic(fmt.Errorf("page %d is no leaf", id))
	}
	return p
}

// find looks a key up in a leaf.
func (p page) find(key []byte) (value []byte, found bool) {
	i := sort.Search(p.count(), func(i int) bool {
		k, _ := p.row(i)
		return bytes.Compare(k, key) >= 0
	})
	if i == p.count() {
		return nil, false
	}
	k, v := p.row(i)
	return v, bytes.Equal(k, key)
}

// walk calls fn for every row of a table in key order until it returns false. Rows
// are valid until fn returns.
func (b *base) walk(slot int, fn func(key, value []byte) bool) {
	s := b.shapeOf(slot)
	if s.root == 0 {
		c := b.bucket(slot).Cursor()
		for k, v := c.First(); k != nil && fn(k, v); k, v = c.Next() {
		}
		return
	}
	w := walker{h: b.h, fn: fn, bufs: make([]pageBuffer, s.depth+1)}
	w.page(s.root, 0)
}

type walker struct {
	h    *handle
	fn   func(key, value []byte) bool
	bufs []pageBuffer // by level
}

func (w *walker) page(id uint64, level int) bool {
	if level == len(w.bufs) {
		panic(fmt.Errorf("page %d lies deeper than others", id))
	}
	p := w.h.readPage(id, &w.bufs[level])
	for i := range p.count() {
		if p.flags() == leafPage {
			if !w.fn(p.row(i)) {
				return false
			}
			continue
		}
		if _, child := p.child(i); !w.page(child, level+1) {
			return false
		}
	}
	return true
}

// ScanOnce calls fn for every row of t in key order until it returns false, and
// leaves none of it in memory: for an Index that is made anew. Unlike those of
// Reader.Scan, the slices are valid until fn returns only.
func ScanOnce(r Reader, t TableID, fn func(key, value []byte) bool) {
	if v, ok := r.(*View); ok {
		g := v.gen()
		slot := g.reg.slot(t)
		if g.active[slot] == nil && g.flushing[slot] == nil {
			g.base.walk(slot, fn)
			return
		}
	}
	r.Scan(t, nil, nil, fn)
}
