package state

import (
	"fmt"

	"github.com/zeebo/xxh3"

	"nekoq/services/watch"
)

// Tx is one command's transaction over the newest state. It is valid until the
// applier returns and used by the applier's goroutine only.
type Tx struct {
	m       *Machine
	base    stack // active unused: the overlay's own trees are newer
	active  *overlay
	wrote   bool
	events  []watch.Event
	changed []bool // by index: changed since its last Freeze
}

// Get returns the value of key, this command's own writes included.
func (tx *Tx) Get(t TableID, key []byte) ([]byte, bool) {
	return tx.get(tx.m.reg.slot(t), key)
}

func (tx *Tx) get(slot int, key []byte) ([]byte, bool) {
	s := stack{active: tx.active.trees, flushing: tx.base.flushing, base: tx.base.base}
	return s.get(slot, key)
}

// Scan calls fn for start <= key < end in key order until it returns false. fn
// may write: it goes on over the rows as they were when Scan began.
func (tx *Tx) Scan(t TableID, start, end []byte, fn func(k, v []byte) bool) {
	tx.scan(t, start, end, false, fn)
}

// ScanReverse is Scan from the greatest key down.
func (tx *Tx) ScanReverse(t TableID, start, end []byte, fn func(k, v []byte) bool) {
	tx.scan(t, start, end, true, fn)
}

// Cursor is Scan that the caller steps through. It must be closed before the applier
// returns.
func (tx *Tx) Cursor(t TableID, start, end []byte) *Cursor {
	c := new(Cursor)
	tx.begin(&c.m, t, start, end, false)
	return c
}

func (tx *Tx) scan(t TableID, start, end []byte, reverse bool, fn func(k, v []byte) bool) {
	var m merge
	tx.begin(&m, t, start, end, reverse)
	m.scan(fn)
}

func (tx *Tx) begin(m *merge, t TableID, start, end []byte, reverse bool) {
	slot := tx.m.reg.slot(t)
	active := tx.active.trees[slot]
	if active != nil {
		active = active.Copy() // so that the command's writes do not move the nodes under the iterator
	}
	m.begin(active, tx.base.flushing[slot], tx.base.base, slot, start, end, reverse)
}

// Revision is the store revision of the last finished command.
func (tx *Tx) Revision() uint64 { return tx.m.meta.revision }

// Time is the command's time in Unix nanoseconds; it never goes back.
func (tx *Tx) Time() int64 { return tx.m.meta.time }

// ClusterVersion is the replicated cluster version.
func (tx *Tx) ClusterVersion() uint32 { return tx.m.version }

// Next is the store revision that this command has if it changes something.
func (tx *Tx) Next() uint64 { return tx.m.meta.revision + 1 }

// Index returns the named in-memory index, up to date with this command's writes.
func (tx *Tx) Index(name string) Index { return tx.m.indexes[tx.m.reg.index(name)] }

// bbolt's limits of a row; breaking one is a defect of the applier.
const (
	maxKeyBytes   = 32768
	maxValueBytes = 1 << 30
)

// Put writes a row. Key and value are kept: the caller must not change them
// afterwards (cmd.Payload may be sliced: it is immutable; slices from Get and
// Scan may be put again). A key has 1 to 32,768 bytes; another length stops the
// node.
func (tx *Tx) Put(t TableID, key, value []byte) {
	if len(key) == 0 || len(key) > maxKeyBytes || len(value) > maxValueBytes {
		panic(fmt.Sprintf("state: a row of %d + %d bytes in table %#x", len(key), len(value), t))
	}
	if value == nil {
		value = []byte{}
	}
	tx.write(t, tx.m.reg.slot(t), key, value)
}

// Delete removes a row; a missing row is no change. key is kept.
func (tx *Tx) Delete(t TableID, key []byte) {
	slot := tx.m.reg.slot(t)
	if _, ok := tx.get(slot, key); ok {
		tx.write(t, slot, key, nil)
	}
}

// DeleteFound is Delete of a row that this command has read and not deleted since,
// which spares the look whether it is there. key is kept.
func (tx *Tx) DeleteFound(t TableID, key []byte) { tx.write(t, tx.m.reg.slot(t), key, nil) }

func (tx *Tx) write(t TableID, slot int, key, value []byte) {
	tx.wrote = true
	key, value = tx.base.base.h.own(key), tx.base.base.h.own(value)
	tx.active.put(slot, key, value)
	tx.m.wrote[slot] = true
	tx.m.chainChange(t, key, value)
	for _, i := range tx.m.reg.tables[slot].indexes {
		if x, ok := tx.m.indexes[i].(RowIndex); ok {
			x.ChangeRow(tx, t, key, value)
		} else {
			tx.m.indexes[i].Change(t, key, value)
		}
		tx.changed[i] = true
	}
}

// Emit publishes an event with this command's revision once the batch is
// visible. Emitting counts as a change. key and data are kept and immutable;
// data must not hold slices from Get or Scan.
func (tx *Tx) Emit(topic watch.Topic, key []byte, data any) {
	tx.wrote = true
	tx.events = append(tx.events, watch.Event{
		Topic: topic, Revision: tx.Next(), Key: tx.base.base.h.own(key), Data: data,
	})
}

// chainChange mixes one change into the chain hash. It depends on the table,
// the row and the command's revision only, so batch splits do not matter.
func (m *Machine) chainChange(t TableID, key, value []byte) {
	h := xxh3.HashSeed(key, m.meta.chain+uint64(t))
	if value == nil {
		h = ^h
	} else {
		h = xxh3.HashSeed(value, h)
	}
	const odd = 0x9e3779b97f4a7c15 // 2^64 / golden ratio: spreads neighbouring revisions
	m.meta.chain = h ^ (m.meta.revision+1)*odd
}
