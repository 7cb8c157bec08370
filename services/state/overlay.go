package state

import (
	"bytes"

	"github.com/tidwall/btree"
)

// row is one change of an overlay. A nil value is a tombstone; an empty value
// is empty and not nil.
type row struct{ key, value []byte }

type tree = btree.BTreeG[row]

// rowOverhead is the estimated memory of a row beside its key and value: two
// slice headers in a tree node that is three quarters full.
const rowOverhead = 64

// treeDegree is small, since every batch copies the nodes that it touches: a
// node of 23 rows at most is 1.1 KiB. Measured best of 8 to 32 for scattered keys.
const treeDegree = 12

func rowLess(a, b row) bool { return bytes.Compare(a.key, b.key) < 0 }

func newTree() *tree {
	return btree.NewBTreeGOptions(rowLess, btree.Options{NoLocks: true, Degree: treeDegree})
}

// layer is an immutable set of trees, one slot a table, nil where unchanged.
type layer []*tree

// overlay is what was changed since it was begun. It is owned by the apply
// goroutine; readers get layers made by publish. Copying a tree is O(1): the
// next write to either copy clones only the nodes on its path.
type overlay struct {
	trees     layer
	hints     []btree.PathHint // by slot: where the last row was put
	dirty     []bool           // changed since the last publish
	anyDirty  bool
	published layer
	bytes     int64
}

func newOverlay(tables int) *overlay {
	return &overlay{
		trees:     make(layer, tables),
		hints:     make([]btree.PathHint, tables),
		dirty:     make([]bool, tables),
		published: make(layer, tables),
	}
}

func (o *overlay) put(slot int, key, value []byte) {
	t := o.trees[slot]
	if t == nil {
		t = newTree()
		o.trees[slot] = t
	}
	old, replaced := t.SetHint(row{key, value}, &o.hints[slot])
	o.bytes += int64(len(value))
	if replaced {
		o.bytes -= int64(len(old.value))
	} else {
		o.bytes += int64(len(key)) + rowOverhead
	}
	o.dirty[slot], o.anyDirty = true, true
}

// publish returns a layer of the present content.
func (o *overlay) publish() layer {
	if !o.anyDirty {
		return o.published
	}
	next := make(layer, len(o.trees))
	copy(next, o.published)
	for i, d := range o.dirty {
		if d {
			next[i] = o.trees[i].Copy()
			o.dirty[i] = false
		}
	}
	o.anyDirty = false
	o.published = next
	return next
}

// emptyLayer has no changes.
func emptyLayer(tables int) layer { return make(layer, tables) }
