package state

import (
	"bytes"

	"github.com/tidwall/btree"
	bolt "go.etcd.io/bbolt"
)

// stack is one consistent state: the active and the flushing overlay over the
// file, newest first.
type stack struct {
	active, flushing layer
	base             *base
}

func (s *stack) get(slot int, key []byte) ([]byte, bool) {
	if t := s.active[slot]; t != nil {
		if r, ok := t.Get(row{key: key}); ok {
			return r.value, r.value != nil
		}
	}
	if t := s.flushing[slot]; t != nil {
		if r, ok := t.Get(row{key: key}); ok {
			return r.value, r.value != nil
		}
	}
	return s.base.get(slot, key)
}

// source is one ordered input of a merge.
type source struct {
	iter   btree.IterG[row]
	cursor *bolt.Cursor
	row    row
	valid  bool
}

func (s *source) tree(t *tree, start, end []byte, reverse bool) {
	s.iter.Init(t, false)
	switch {
	case !reverse && start == nil:
		s.valid = s.iter.First()
	case !reverse:
		s.valid = s.iter.Seek(row{key: start})
	case end != nil && s.iter.Seek(row{key: end}):
		s.valid = s.iter.Prev()
	default:
		s.valid = s.iter.Last()
	}
	if s.valid {
		s.row = s.iter.Item()
	}
}

func (s *source) bucket(c *bolt.Cursor, start, end []byte, reverse bool) {
	s.cursor = c
	var k, v []byte
	switch {
	case !reverse && start == nil:
		k, v = s.cursor.First()
	case !reverse:
		k, v = s.cursor.Seek(start)
	case end != nil:
		if k, _ = s.cursor.Seek(end); k != nil {
			k, v = s.cursor.Prev()
		} else {
			k, v = s.cursor.Last()
		}
	default:
		k, v = s.cursor.Last()
	}
	s.row, s.valid = row{k, v}, k != nil
}

// nearRows is how many rows seek steps over before it searches the tree, which costs
// as much as some ten steps.
const nearRows = 3

// seek goes on to the first row that is not before key.
func (s *source) seek(key []byte) {
	for steps := 0; ; steps++ {
		if !s.valid || bytes.Compare(s.row.key, key) >= 0 {
			return
		}
		if steps == nearRows {
			break
		}
		s.advance(false)
	}
	if s.cursor != nil {
		s.row.key, s.row.value = s.cursor.Seek(key)
		s.valid = s.row.key != nil
		return
	}
	if s.valid = s.iter.Seek(row{key: key}); s.valid {
		s.row = s.iter.Item()
	}
}

func (s *source) advance(reverse bool) {
	if s.cursor != nil {
		if reverse {
			s.row.key, s.row.value = s.cursor.Prev()
		} else {
			s.row.key, s.row.value = s.cursor.Next()
		}
		s.valid = s.row.key != nil
		return
	}
	if reverse {
		s.valid = s.iter.Prev()
	} else {
		s.valid = s.iter.Next()
	}
	if s.valid {
		s.row = s.iter.Item()
	}
}

// merge is the inputs of one scan, newest first; of equal keys the newest wins, and
// a tombstone hides the key.
type merge struct {
	src        [3]source
	n          int
	start, end []byte
	reverse    bool
	base       *base
	slot       int
}

// begin stands before the first row of a range. What it takes from the base must go
// back with close.
func (m *merge) begin(active, flushing *tree, b *base, slot int, start, end []byte, reverse bool) {
	m.start, m.end, m.reverse, m.base, m.slot = start, end, reverse, b, slot
	for _, t := range [2]*tree{active, flushing} {
		if t != nil && t.Len() > 0 {
			m.src[m.n].tree(t, start, end, reverse)
			m.n++
		}
	}
	m.src[m.n].bucket(b.cursor(slot), start, end, reverse)
	m.n++
}

func (m *merge) close() { m.base.cursors[m.slot].Put(m.src[m.n-1].cursor) }

// next gives the next row.
func (m *merge) next() (r row, ok bool) {
	in := m.src[:m.n]
	for {
		best := 0
		if len(in) > 1 {
			best = pick(in, m.reverse)
		}
		if best < 0 || !in[best].valid {
			return row{}, false
		}
		r = in[best].row
		if !m.reverse && m.end != nil && bytes.Compare(r.key, m.end) >= 0 ||
			m.reverse && m.start != nil && bytes.Compare(r.key, m.start) < 0 {
			return row{}, false
		}
		in[best].advance(m.reverse)
		// Older layers' rows of the same key are hidden. best is the newest
		// that has the key, so only later inputs can have it too.
		for i := best + 1; i < len(in); i++ {
			if in[i].valid && bytes.Equal(in[i].row.key, r.key) {
				in[i].advance(m.reverse)
			}
		}
		if r.value != nil {
			return r, true
		}
	}
}

// leap goes forward to the first row that is not before key.
func (m *merge) leap(key []byte) {
	for i := range m.src[:m.n] {
		m.src[i].seek(key)
	}
}

// scan calls fn for the rows of m until it returns false, and closes m.
func (m *merge) scan(fn func(k, v []byte) bool) {
	for {
		r, ok := m.next()
		if !ok || !fn(r.key, r.value) {
			break
		}
	}
	m.close()
}

// Cursor walks the rows of a range in key order, for who reads several tables side by
// side or passes over many rows. It is one goroutine's, and valid as long as the slices
// of its Reader; Close must be called when it is done with.
type Cursor struct{ m merge }

// Next gives the next row.
func (c *Cursor) Next() (key, value []byte, ok bool) {
	r, ok := c.m.next()
	return r.key, r.value, ok
}

// Seek passes over the rows before key. It never goes back.
func (c *Cursor) Seek(key []byte) { c.m.leap(key) }

// Close ends the walk.
func (c *Cursor) Close() { c.m.close() }

// pick returns the input whose row comes first, the newest among equals, -1 at
// the end of all.
func pick(in []source, reverse bool) int {
	best := -1
	for i := range in {
		if !in[i].valid {
			continue
		}
		if best < 0 {
			best = i
			continue
		}
		c := bytes.Compare(in[i].row.key, in[best].row.key)
		if reverse {
			c = -c
		}
		if c < 0 {
			best = i
		}
	}
	return best
}
