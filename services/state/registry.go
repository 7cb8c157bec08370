package state

import (
	"fmt"

	"nekoq/services/command"
)

// TableID numbers a table (a bbolt bucket). Only ever appended:
// 1-15 state, 16-31 peer and lease, 0x40- numgen, 0x80- warehouse, 0xc0- naming,
// 0x100- scheduling, 0x140- mq.
type TableID uint16

// maxTableID bounds the dense table of slots.
const maxTableID = 0x0fff

// Applier carries out one kind of command. It is pure: it reads only tx and
// cmd. It checks first and writes last: when it returns an *errs.Error it must
// have written nothing. Any other error stops the node. The returned bytes are
// the command's result and are kept for retries, so they are small. cmd is
// valid until the applier returns; its Payload stays valid and is immutable.
type Applier func(tx *Tx, cmd *command.Command) ([]byte, error)

// Registry holds the tables, appliers and indexes of all services. Every node
// registers all of them, whatever services it serves. Duplicates panic. It is
// filled before the first Open and not changed afterwards.
type Registry struct {
	tables  []table
	slots   []int16 // by TableID: 1 + index in tables; 0 for none
	kinds   map[command.Kind]*kind
	indexes []indexDef
	current []int // of indexes: those of Current
}

type table struct {
	id      TableID
	name    string
	bucket  []byte
	indexes []int // those that follow this table
}

type kind struct {
	kind  command.Kind
	name  string
	since uint32
	apply Applier
	guard bool // HandleGuard's
}

type indexDef struct {
	name string
	make func() Index
}

// Index is an in-memory structure derived from tables, for questions that rows
// in key order cannot answer quickly. It has one Rebuild; a test must show that
// rebuilt equals incremental. All methods are called by the apply goroutine.
type Index interface {
	// Rebuild starts anew from the rows that r reads.
	Rebuild(r Reader)
	// Change follows a row that was put, or deleted when value is nil. Key and
	// value are immutable.
	Change(t TableID, key, value []byte)
	// Freeze gives an immutable copy for views. It is called after every batch
	// that changed the index, so it must be cheap (copy on write).
	Freeze() any
}

// RowIndex is an Index that reads the tables when it follows a row, which lets it
// hold less than every row. ChangeRow is called in place of Change; r shows the
// row as it is after the write.
type RowIndex interface {
	Index
	ChangeRow(r Reader, t TableID, key, value []byte)
}

// NewRegistry returns a registry with the state's own tables and commands.
func NewRegistry() *Registry {
	r := &Registry{slots: make([]int16, maxTableID+1), kinds: make(map[command.Kind]*kind)}
	registerOwn(r)
	return r
}

// Table declares a table.
func (r *Registry) Table(id TableID, name string) {
	if id == 0 || id > maxTableID {
		panic(fmt.Sprintf("state: table id %#x of %q; want 1 to %#x", id, name, maxTableID))
	}
	if name == "" || name[0] == '_' {
		panic(fmt.Sprintf("state: table %#x has the reserved name %q", id, name))
	}
	for _, t := range r.tables {
		if t.id == id || t.name == name {
			panic(fmt.Sprintf("state: table %#x %q is declared already as %#x %q", id, name, t.id, t.name))
		}
	}
	r.tables = append(r.tables, table{id: id, name: name, bucket: []byte(name)})
	r.slots[id] = int16(len(r.tables))
}

// Handle declares the applier of k. since is the cluster version from which
// the kind may be proposed (1 at first); below it the command is refused.
func (r *Registry) Handle(k command.Kind, name string, since uint32, a Applier) {
	if k == 0 || a == nil {
		panic(fmt.Sprintf("state: kind %#x %q needs a number and an applier", k, name))
	}
	if old := r.kinds[k]; old != nil {
		panic(fmt.Sprintf("state: kind %#x %q is handled already by %q", k, name, old.name))
	}
	r.kinds[k] = &kind{kind: k, name: name, since: since, apply: a}
}

// AddIndex declares an in-memory index over tables, which must be declared
// before. Each Machine makes its own.
func (r *Registry) AddIndex(name string, tables []TableID, mk func() Index) {
	for _, d := range r.indexes {
		if d.name == name {
			panic(fmt.Sprintf("state: index %q is declared already", name))
		}
	}
	r.indexes = append(r.indexes, indexDef{name: name, make: mk})
	for _, id := range tables {
		t := &r.tables[r.slot(id)]
		t.indexes = append(t.indexes, len(r.indexes)-1)
	}
}

// Current lets Machine.Current give the named index, which is declared already. It is
// for what each request asks and few commands change: the index is frozen as soon as it
// has changed, whether somebody takes a view or not.
func (r *Registry) Current(name string) { r.current = append(r.current, r.index(name)) }

// KindName is the name of k for logs and metrics, its number when unknown.
func (r *Registry) KindName(k command.Kind) string {
	if h := r.kinds[k]; h != nil {
		return h.name
	}
	return fmt.Sprintf("%#x", uint16(k))
}

func (r *Registry) slot(id TableID) int {
	if id > maxTableID || r.slots[id] == 0 {
		panic(fmt.Sprintf("state: table %#x is not declared", id))
	}
	return int(r.slots[id] - 1)
}

func (r *Registry) index(name string) int {
	for i, d := range r.indexes {
		if d.name == name {
			return i
		}
	}
	panic(fmt.Sprintf("state: index %q is not declared", name))
}
