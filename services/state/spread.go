package state

import (
	"bytes"
	"hash/maphash"
	"maps"
	"sort"
)

// spread tells over how many leaves the rows of commits lie. Leaves are known by the
// keys where they begin and end, since each commit moves them to other pages. Of a leaf
// that was split both halves are known.
type spread struct {
	most       int // leaves that are remembered
	seed       maphash.Seed
	known, now leaves // of the commits since it was begun anew, and of this one
}

// leaves are hashes of where leaves begin and end.
type leaves struct{ first, end map[uint64]struct{} }

func newLeaves() leaves { return leaves{map[uint64]struct{}{}, map[uint64]struct{}{}} }

// reach is which leaves a commit touches.
type reach struct {
	leaves int // that were there before
	again  int // of them, known ones
	known  int // leaves that were remembered until then
}

// of gives the reach of rows that are about to be written over b. It reads branches only.
func (s *spread) of(b *base, rows layer) reach {
	if s.now.first == nil {
		s.most = int(mostPages / b.h.pageSize)
		s.seed, s.known, s.now = maphash.MakeSeed(), newLeaves(), newLeaves()
	}
	clear(s.now.first)
	clear(s.now.end)
	r := reach{known: len(s.known.first)}
	for slot, t := range rows {
		if t != nil && b.shapeOf(slot).root != 0 {
			r.again += s.table(b, slot, t)
		}
	}
	r.leaves = len(s.now.first)
	// What a large commit tells about all leaves is not mixed with ever older ones.
	if r.known+r.leaves-r.again > s.most || r.leaves > r.known/2 && r.again > r.leaves*7/8 {
		s.known, s.now = s.now, s.known
		return r
	}
	maps.Copy(s.known.first, s.now.first)
	maps.Copy(s.known.end, s.now.end)
	return r
}

// table adds the leaves that t's rows touch to now, and gives how many are known.
func (s *spread) table(b *base, slot int, t *tree) (again int) {
	var end []byte // where the leaf of the row before ends; nil is the end of the table
	begun := false
	t.Scan(func(r row) bool {
		if begun && (end == nil || bytes.Compare(r.key, end) < 0) {
			return true
		}
		begun = true
		var first []byte
		_, first, end = b.leafOf(slot, r.key)
		// The slot tells tables apart whose keys are alike.
		from := maphash.Bytes(s.seed, first) + uint64(slot)
		to := maphash.Bytes(s.seed, end) + uint64(slot)
		_, begins := s.known.first[from]
		_, ends := s.known.end[to]
		if begins || ends {
			again++
		}
		s.now.first[from], s.now.end[to] = struct{}{}, struct{}{}
		return true
	})
	return again
}

// leafOf gives the leaf of key, the key that leads to it, and the one that leads to the
// next leaf: nil for the last one. A table of one leaf has neither.
func (b *base) leafOf(slot int, key []byte) (id uint64, first, end []byte) {
	s := b.shapeOf(slot)
	id = s.root
	for range s.depth {
		p := b.branch(id)
		// The first child whose first key is greater; the one before it leads on, and
		// the first one also where a smaller key led to this branch.
		i := max(1, sort.Search(p.count(), func(i int) bool {
			k, _ := p.child(i)
			return bytes.Compare(k, key) > 0
		}))
		if i < p.count() {
			end, _ = p.child(i)
		}
		first, id = p.child(i - 1)
	}
	return id, first, end
}
