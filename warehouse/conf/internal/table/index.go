package table

import (
	"cmp"
	"slices"

	"github.com/tidwall/btree"

	"nekoq/services/state"
	"nekoq/warehouse/conf/api"
)

// IndexName is the index in memory; a view's frozen copy of it is an *Index.
const IndexName = "conf"

// Index is all items without their bytes, the groups and the scopes, as of one
// revision. It is immutable and may outlive the view that it came from.
type Index struct {
	Counters Counters
	items    *btree.Map[string, *Row] // by key in conf_items
	groups   *btree.Map[string, api.Group]
	scopes   []api.Scope // first asked first; never changed in place
}

// Item gives an item that is not deleted.
func (x *Index) Item(a api.Address) (*Row, bool) {
	r, ok := x.items.Get(string(ItemKey(a)))
	return r, ok && !r.Deleted
}

// Ascend calls fn with the items, deleted ones too, from key on until it returns
// false.
func (x *Index) Ascend(from string, fn func(key string, r *Row) bool) { x.items.Ascend(from, fn) }

// Group gives the settings of a group.
func (x *Index) Group(name string) (api.Group, bool) { return x.groups.Get(name) }

// Groups gives all groups that have settings.
func (x *Index) Groups() []api.Group { return x.groups.Values() }

// Scopes gives all scopes, first asked first. The slice is shared.
func (x *Index) Scopes() []api.Scope { return x.scopes }

type index struct{ x Index }

func newIndex() *index {
	i := &index{}
	i.clear()
	return i
}

func (i *index) clear() {
	i.x = Index{items: btree.NewMap[string, *Row](0), groups: btree.NewMap[string, api.Group](0)}
}

// Rebuild starts anew from the tables.
func (i *index) Rebuild(r state.Reader) {
	i.clear()
	for _, t := range []state.TableID{Items, Groups, Scopes, Meta} {
		r.Scan(t, nil, nil, func(k, v []byte) bool {
			i.Change(t, k, v)
			return true
		})
	}
}

// Change follows one row. A row that cannot be read is left as it was: the applier
// of the next command on it reports it.
func (i *index) Change(t state.TableID, key, value []byte) {
	name := string(key)
	switch t {
	case Items:
		row := new(Row)
		if value == nil {
			i.x.items.Delete(name)
		} else if decode("item row", value, row) == nil {
			i.x.items.Set(name, row)
		}
	case Groups:
		var g api.Group
		if value == nil {
			i.x.groups.Delete(name)
		} else if decode("group row", value, &g) == nil {
			i.x.groups.Set(name, g)
		}
	case Scopes:
		i.scope(name, value)
	case Meta:
		var c Counters
		if decode("meta row", value, &c) == nil {
			i.x.Counters = c
		}
	}
}

// scope copies the list, which frozen copies share.
func (i *index) scope(name string, value []byte) {
	list := slices.DeleteFunc(slices.Clone(i.x.scopes), func(s api.Scope) bool { return s.Name == name })
	var s api.Scope
	if value != nil && decode("scope row", value, &s) == nil {
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b api.Scope) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.Name, b.Name))
	})
	i.x.scopes = list
}

// Freeze shares the nodes until one side writes.
func (i *index) Freeze() any {
	return &Index{Counters: i.x.Counters, items: i.x.items.Copy(), groups: i.x.groups.Copy(), scopes: i.x.scopes}
}
