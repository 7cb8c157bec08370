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

func (s *source) bucket(b *bolt.Bucket, start, end []byte, reverse bool) {
	s.cursor = b.Cursor()
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

// scan merges the three inputs; of equal keys the newest wins, and a tombstone
// hides the key.
func (s *stack) scan(slot int, start, end []byte, reverse bool, fn func(k, v []byte) bool) {
	var src [3]source
	n := 0
	for _, t := range [2]*tree{s.active[slot], s.flushing[slot]} {
		if t != nil && t.Len() > 0 {
			src[n].tree(t, start, end, reverse)
			n++
		}
	}
	src[n].bucket(s.base.bucket(slot), start, end, reverse)
	in := src[:n+1]
	for {
		best := pick(in, reverse)
		if best < 0 {
			return
		}
		r := in[best].row
		if !reverse && end != nil && bytes.Compare(r.key, end) >= 0 ||
			reverse && start != nil && bytes.Compare(r.key, start) < 0 {
			return
		}
		in[best].advance(reverse)
		// Older layers' rows of the same key are hidden. best is the newest
		// that has the key, so only later inputs can have it too.
		for i := best + 1; i < len(in); i++ {
			if in[i].valid && bytes.Equal(in[i].row.key, r.key) {
				in[i].advance(reverse)
			}
		}
		if r.value != nil && !fn(r.key, r.value) {
			return
		}
	}
}

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
