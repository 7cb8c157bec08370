package state

import (
	"bytes"

	"github.com/tidwall/btree"
	bolt "go.etcd.io/bbolt"
)

// Lookup reads single rows of one table, as a command sees them at the moment. When
// the keys come in order it costs a third of Tx.Get: each search begins where the last
// one ended. It must be closed before the applier returns.
type Lookup struct {
	tx    *Tx
	slot  int
	hints [2]btree.PathHint // of the active and the flushing overlay

	cursor     *bolt.Cursor
	key, value []byte // where the cursor stands; nil at the end

	// While rows are read past the map: the last leaf, and where it begins and ends.
	leaf       page
	buf        *pageBuffer
	first, end []byte
}

// Lookup gives a Lookup.
func (tx *Tx) Lookup(t TableID) *Lookup { return &Lookup{tx: tx, slot: tx.m.reg.slot(t)} }

// Get is Tx.Get.
func (l *Lookup) Get(key []byte) ([]byte, bool) {
	for i, t := range [2]*tree{l.tx.active.trees[l.slot], l.tx.base.flushing[l.slot]} {
		if t == nil {
			continue
		}
		if r, ok := t.GetHint(row{key: key}, &l.hints[i]); ok {
			return r.value, r.value != nil
		}
	}
	b := l.tx.base.base
	if b.h.sparing.Load() && b.shapeOf(l.slot).root != 0 {
		return l.read(b, key)
	}
	return l.walk(b, key)
}

// read finds the row in its leaf, which it reads unless it is the last one. The value is
// the caller's.
func (l *Lookup) read(b *base, key []byte) ([]byte, bool) {
	if l.leaf == nil || bytes.Compare(key, l.first) < 0 || l.end != nil && bytes.Compare(key, l.end) >= 0 {
		if l.buf == nil {
			l.buf = pageBuffers.Get().(*pageBuffer)
		}
		var id uint64
		id, l.first, l.end = b.leafOf(l.slot, key)
		l.leaf = b.h.readLeaf(id, l.buf)
	}
	v, found := l.leaf.find(key)
	if !found {
		return nil, false
	}
	return append(make([]byte, 0, len(v)), v...), true
}

// walk moves the cursor to the row, or to the first one after it.
func (l *Lookup) walk(b *base, key []byte) ([]byte, bool) {
	if l.cursor == nil {
		l.cursor = b.cursor(l.slot)
	}
	for steps := 0; l.key != nil && steps <= nearRows; steps++ {
		switch c := bytes.Compare(l.key, key); {
		case c == 0:
			return l.value, true
		case c > 0 && steps > 0:
			return nil, false // the row before is less
		case c > 0:
			steps = nearRows // it may be behind
		default:
			l.key, l.value = l.cursor.Next()
		}
	}
	if l.key, l.value = l.cursor.Seek(key); !bytes.Equal(l.key, key) {
		return nil, false
	}
	return l.value, true
}

// Close gives back what the Lookup took.
func (l *Lookup) Close() {
	if l.cursor != nil {
		l.tx.base.base.cursors[l.slot].Put(l.cursor)
	}
	if l.buf != nil {
		l.buf.put()
	}
}
