package table

import (
	"strings"

	"github.com/tidwall/btree"

	"nekoq/services/state"
	"nekoq/warehouse/areas/api"
)

// IndexName is the tree in memory; a view's frozen copy of it is a *Tree.
const IndexName = "areas"

// Tree is the whole tree at one revision. It is immutable and may outlive the
// view that it came from.
type Tree struct {
	revision uint64
	byName   *btree.Map[string, api.Area]
	byParent *btree.Map[string, struct{}] // parent, 0, name
}

// Revision is that of the last change to the tree, 0 when there was none.
func (t *Tree) Revision() uint64 { return t.revision }

// Len is the number of areas.
func (t *Tree) Len() int { return t.byName.Len() }

// Get gives an area.
func (t *Tree) Get(name string) (api.Area, bool) { return t.byName.Get(name) }

// Levels gives the area and those above it up to the root, nil for an unknown one.
func (t *Tree) Levels(name string) []string {
	var out []string
	for len(out) < api.MaxDepth {
		a, ok := t.byName.Get(name)
		if !ok {
			return nil
		}
		out = append(out, name)
		if name == api.Root {
			break
		}
		name = a.Parent
	}
	return out
}

// Ascend calls fn with the areas from name on, in the order of names, until it
// returns false.
func (t *Tree) Ascend(from string, fn func(a api.Area) bool) {
	t.byName.Ascend(from, func(_ string, a api.Area) bool { return fn(a) })
}

// Children calls fn with the areas right below parent from the name from on.
func (t *Tree) Children(parent, from string, fn func(a api.Area) bool) {
	prefix := string(childKey(parent, ""))
	t.byParent.Ascend(prefix+from, func(k string, _ struct{}) bool {
		name, ok := strings.CutPrefix(k, prefix)
		if !ok {
			return false
		}
		a, _ := t.byName.Get(name)
		return fn(a)
	})
}

// index is the Tree that follows the tables.
type index struct{ t Tree }

func newIndex() *index {
	x := &index{}
	x.clear()
	return x
}

func (x *index) clear() {
	x.t = Tree{byName: btree.NewMap[string, api.Area](0), byParent: btree.NewMap[string, struct{}](0)}
	x.t.byName.Set(api.Root, api.Area{Name: api.Root})
}

// Rebuild starts anew from the tables.
func (x *index) Rebuild(r state.Reader) {
	x.clear()
	for _, t := range []state.TableID{Areas, Meta} {
		r.Scan(t, nil, nil, func(k, v []byte) bool {
			x.Change(t, k, v)
			return true
		})
	}
}

// Change follows one row. A row that cannot be read is a defect that the applier
// of the next command on it reports; the tree leaves it as it was.
func (x *index) Change(t state.TableID, key, value []byte) {
	if t == Meta {
		if m, err := decodeMeta(value); err == nil {
			x.t.revision = m.revision
		}
		return
	}
	name := string(key)
	old, had := x.t.byName.Get(name)
	if had && name != api.Root {
		x.t.byParent.Delete(string(childKey(old.Parent, name)))
	}
	if value == nil {
		x.t.byName.Delete(name)
		return
	}
	a, err := DecodeArea(value)
	if err != nil {
		return
	}
	x.t.byName.Set(name, a)
	if name != api.Root {
		x.t.byParent.Set(string(childKey(a.Parent, name)), struct{}{})
	}
}

// Freeze shares the nodes until one side writes.
func (x *index) Freeze() any {
	return &Tree{revision: x.t.revision, byName: x.t.byName.Copy(), byParent: x.t.byParent.Copy()}
}
