package state

import (
	"sync/atomic"
)

// Reader is what a Tx and a View have in common. Returned slices belong to the
// state: never modify them; from a Tx they are valid until the applier returns,
// from a View until its Release.
type Reader interface {
	Get(t TableID, key []byte) (value []byte, ok bool)
	// Scan calls fn for start <= key < end in key order until it returns false.
	// start nil means from the beginning, end nil to the end of the table.
	Scan(t TableID, start, end []byte, fn func(key, value []byte) bool)
	// ScanReverse is Scan from the greatest key down.
	ScanReverse(t TableID, start, end []byte, fn func(key, value []byte) bool)
	// Cursor is Scan that the caller steps through. A Tx's shows the rows as they
	// were when it was made.
	Cursor(t TableID, start, end []byte) *Cursor
	// Revision is the store revision that the reader sees. In a Tx it is that
	// of the last finished command; Next() is this command's.
	Revision() uint64
	// Time is the replicated clock in Unix nanoseconds.
	Time() int64
	// ClusterVersion is the replicated cluster version.
	ClusterVersion() uint32
}

// generation is one published state. It is immutable but for its counter; the
// machine holds one reference on the newest, each view one on its own.
type generation struct {
	stack
	reg     *Registry
	meta    meta
	version uint32
	indexes []any
	refs    atomic.Int64
	open    *atomic.Int64 // the machine's count of open views
}

// acquire takes a reference, unless the last one is gone already.
func (g *generation) acquire() bool {
	for {
		n := g.refs.Load()
		if n == 0 {
			return false
		}
		if g.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (g *generation) release() {
	if g.refs.Add(-1) == 0 {
		g.base.release()
	}
}

// View is an immutable, consistent read view. It is cheap (no copy), safe for
// concurrent use, and must be released: an unreleased view keeps pages of the
// file from being reused. Using it after Release panics.
type View struct {
	g atomic.Pointer[generation]
}

func (v *View) gen() *generation {
	g := v.g.Load()
	if g == nil {
		panic("state: view used after its release")
	}
	return g
}

// Get returns the value of key.
func (v *View) Get(t TableID, key []byte) ([]byte, bool) {
	g := v.gen()
	return g.get(g.reg.slot(t), key)
}

// Scan calls fn for start <= key < end in key order until it returns false.
func (v *View) Scan(t TableID, start, end []byte, fn func(k, v []byte) bool) {
	var m merge
	v.begin(&m, t, start, end, false)
	m.scan(fn)
}

// ScanReverse is Scan from the greatest key down.
func (v *View) ScanReverse(t TableID, start, end []byte, fn func(k, v []byte) bool) {
	var m merge
	v.begin(&m, t, start, end, true)
	m.scan(fn)
}

// Cursor is Scan that the caller steps through.
func (v *View) Cursor(t TableID, start, end []byte) *Cursor {
	c := new(Cursor)
	v.begin(&c.m, t, start, end, false)
	return c
}

func (v *View) begin(m *merge, t TableID, start, end []byte, reverse bool) {
	g := v.gen()
	slot := g.reg.slot(t)
	m.begin(g.active[slot], g.flushing[slot], g.base, slot, start, end, reverse)
}

// Revision is the store revision that the view includes.
func (v *View) Revision() uint64 { return v.gen().meta.revision }

// Time is the replicated clock in Unix nanoseconds.
func (v *View) Time() int64 { return v.gen().meta.time }

// ClusterVersion is the replicated cluster version.
func (v *View) ClusterVersion() uint32 { return v.gen().version }

// Index is the applied log index that the view includes.
func (v *View) Index() uint64 { return v.gen().meta.index }

// Term is the term of the entry at Index.
func (v *View) Term() uint64 { return v.gen().meta.term }

// Frozen is the immutable copy that the named index gave for this view
// (Index.Freeze).
func (v *View) Frozen(index string) any {
	g := v.gen()
	return g.indexes[g.reg.index(index)]
}

// Release ends the view. Further calls do nothing.
func (v *View) Release() {
	if g := v.g.Swap(nil); g != nil {
		g.open.Add(-1)
		g.release()
	}
}
