package leasetable

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/tidwall/btree"

	"nekoq/services/state"
)

// IndexDeadlines names the index of leases by the time of their end. It takes some 25
// bytes a lease and is made anew at every start: as rows, deadlines would cost each
// grant and each end one more.
const IndexDeadlines = "lease_deadlines"

// deadline is when a lease ends, in lease-clock milliseconds.
type deadline struct{ at, id uint64 }

func (d deadline) compare(e deadline) int {
	return cmp.Or(cmp.Compare(d.at, e.at), cmp.Compare(d.id, e.id))
}

// deadlines holds all leases, in the order in which they end.
type deadlines struct{ tree *btree.BTreeG[deadline] }

// deadlineDegree makes nodes of 63 deadlines at most, 1 KiB, which is what a change
// copies of each node that views share.
const deadlineDegree = 32

func newDeadlines() state.Index {
	less := func(a, b deadline) bool { return a.at < b.at || a.at == b.at && a.id < b.id }
	return &deadlines{btree.NewBTreeGOptions(less, btree.Options{NoLocks: true, Degree: deadlineDegree})}
}

// Rebuild reads all leases. A damaged row panics, which fails the loading of a file.
func (x *deadlines) Rebuild(r state.Reader) {
	var all []deadline
	state.ScanOnce(r, TableLeases, func(k, v []byte) bool {
		l, err := decode(binary.BigEndian.Uint64(k), v)
		if err != nil {
			panic(err)
		}
		all = append(all, deadline{l.Deadline, l.ID})
		return true
	})
	slices.SortFunc(all, deadline.compare)
	x.tree.Clear()
	for _, d := range all {
		x.tree.Load(d)
	}
}

// Change does nothing: a row does not tell the deadline before, so who writes one moves
// it here.
func (x *deadlines) Change(state.TableID, []byte, []byte) {}

// Freeze shares the nodes; the next change copies those that it touches.
func (x *deadlines) Freeze() any { return &deadlines{x.tree.Copy()} }

func (x *deadlines) add(d deadline)    { x.tree.Set(d) }
func (x *deadlines) remove(d deadline) { x.tree.Delete(d) }

// come gives the first leases whose deadline is at or before now, at most so many, and
// whether there are more.
func (x *deadlines) come(now, most uint64) (due []deadline, more bool) {
	x.tree.Scan(func(d deadline) bool {
		if more = d.at <= now && uint64(len(due)) == most; more || d.at > now {
			return false
		}
		due = append(due, d)
		return true
	})
	return due, more
}

// drop takes the first n away.
func (x *deadlines) drop(n int) {
	for range n {
		x.tree.PopMin()
	}
}

// index gives the deadlines that a command changes.
func index(tx *state.Tx) *deadlines { return tx.Index(IndexDeadlines).(*deadlines) }

// frozen gives those of a view.
func frozen(v *state.View) *deadlines { return v.Frozen(IndexDeadlines).(*deadlines) }

// Any tells whether a lease exists, so whether the clock must go on.
func Any(v *state.View) bool { return frozen(v).tree.Len() > 0 }

// Due tells whether a lease has come up.
func Due(v *state.View) bool {
	d, ok := frozen(v).tree.Min()
	_, now := Clock(v)
	return ok && d.at <= now
}
