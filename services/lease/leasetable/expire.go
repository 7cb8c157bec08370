package leasetable

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"nekoq/services/command"
	"nekoq/services/state"
	"nekoq/services/watch"
)

// MaxExpire bounds the index rows that one expire command looks at, and
// maxExpireKeys the attached keys it takes away (the last lease it begins is always
// finished). They bound the time for which other writes wait behind it: some 10 ms.
const (
	MaxExpire     = 1024
	maxExpireKeys = 1024
)

// AppendExpire encodes the payload of KindExpire: the most index rows to look at.
func AppendExpire(b []byte, most int) []byte { return binary.AppendUvarint(b, uint64(most)) }

// Expired is the result of KindExpire.
type Expired struct {
	Leases, Keys, Moved uint64
	More                bool // rows that have come up are left
}

// DecodeExpired decodes it.
func DecodeExpired(b []byte) (Expired, error) {
	var e Expired
	var more uint64
	err := uvarints(b, &e.Leases, &e.Keys, &e.Moved, &more)
	e.More = more != 0
	return e, err
}

// ending is a lease on its way out, or, with moved, one that was renewed since its
// index row was written. Its slices belong to the state.
type ending struct {
	id, at uint64   // at is its index row's deadline
	row    []byte   // key of its index row; nil when the index was not scanned
	keys   [][]byte // keys of its rows in TableAttached, in order
	moved  bool
	lease  Lease // of a moved one
}

// applyExpire looks at the index rows that have come up: a lease that was renewed
// since moves to its true deadline, the others end. It reads everything before it
// writes, since rows that are written beside an open scan are copied.
func (o *Owners) applyExpire(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	var most uint64
	if err := fields(cmd, &most); err != nil {
		return nil, err
	}
	c := readClock(tx)
	due, more, err := come(tx, &c, min(most, MaxExpire))
	if err != nil || len(due) == 0 {
		return []byte{0, 0, 0, 0}, err
	}
	n, keys := takeKeys(tx, due)
	if n < len(due) {
		due, more = due[:n], true
	}
	var moved uint64
	for i := range due {
		if e := &due[i]; e.moved {
			reindex(tx, &e.lease)
			putLease(tx, e.lease)
			moved++
		} else {
			e.remove(tx, e.at)
		}
	}
	last := &due[len(due)-1]
	c.doneAt, c.doneLast = last.at, last.id
	c.write(tx)
	if err := o.tell(tx, due, true, cmd); err != nil {
		return nil, err
	}
	left := uint64(0)
	if more {
		left = 1
	}
	b := make([]byte, 0, 16)
	for _, v := range [...]uint64{uint64(len(due)) - moved, keys, moved, left} {
		b = binary.AppendUvarint(b, v)
	}
	return b, nil
}

// come gives the leases of the first index rows that have come up, in the order of
// the index.
func come(tx *state.Tx, c *clockRow, most uint64) (due []ending, more bool, err error) {
	tx.Scan(TableDeadlines, c.first(), deadlineKey(c.now+1, 0), func(k, _ []byte) bool {
		if uint64(len(due)) == most {
			more = true
			return false
		}
		due = append(due, ending{at: binary.BigEndian.Uint64(k), id: binary.BigEndian.Uint64(k[8:]), row: k})
		return true
	})
	for i := range due {
		e := &due[i]
		l, ok := get(tx, e.id)
		if !ok {
			return nil, false, fmt.Errorf("lease: deadline of lease %d without a readable lease", e.id)
		}
		if l.Deadline > c.now {
			e.moved, e.lease = true, l
		}
	}
	return due, more, nil
}

// takeKeys finds the keys of the leases that end, and tells how many of due this
// command finishes and how many keys those have.
func takeKeys(tx *state.Tx, due []ending) (n int, keys uint64) {
	if keys, ok := sweepKeys(tx, due); ok {
		return len(due), keys
	}
	for i := range due {
		if keys >= maxExpireKeys {
			return i, keys
		}
		if e := &due[i]; !e.moved {
			e.keys = attached(tx, e.id)
			keys += uint64(len(e.keys))
		}
	}
	return len(due), keys
}

// maxBetween is the number of other leases that a sweep passes over rather than seek
// its next one, which costs about as much. They need not have rows any more: what
// commands before this one took away is still there to be stepped over.
const maxBetween = 16

// near tells whether at most maxBetween leases can have ids between a and b, a < b.
func near(a, b uint64) bool {
	if a&autoBit != 0 {
		return (b-a)>>autoShift <= maxBetween
	}
	return b-a <= maxBetween
}

// sweepKeys reads TableAttached in the order of the ids, leases that lie close to each
// other in one go. ok is false when there are more than maxExpireKeys.
func sweepKeys(tx *state.Tx, due []ending) (keys uint64, ok bool) {
	byID := make([]*ending, 0, len(due))
	for i := range due {
		if !due[i].moved {
			byID = append(byID, &due[i])
		}
	}
	slices.SortFunc(byID, func(a, b *ending) int { return cmp.Compare(a.id, b.id) })
	rows := make([][]byte, 0, len(byID))
	for len(byID) > 0 && keys <= maxExpireKeys {
		n := 1
		for n < len(byID) && near(byID[n-1].id, byID[n].id) {
			n++
		}
		run := byID[:n]
		byID = byID[n:]
		tx.Scan(TableAttached, idKey(run[0].id), idKey(run[n-1].id+1), func(k, _ []byte) bool {
			id := binary.BigEndian.Uint64(k)
			for run[0].id < id { // ends, since the last one's id bounds the scan
				run = run[1:]
			}
			if run[0].id > id {
				return true
			}
			// One lease's rows follow each other, so all leases' stand in one slice.
			rows = append(rows, k)
			e := run[0]
			e.keys = rows[len(rows)-1-len(e.keys) : len(rows) : len(rows)]
			keys++
			return keys <= maxExpireKeys
		})
	}
	if keys <= maxExpireKeys {
		return keys, true
	}
	for i := range due {
		due[i].keys = nil
	}
	return 0, false
}

// attached gives the keys of a lease's rows in TableAttached.
func attached(tx *state.Tx, id uint64) (rows [][]byte) {
	tx.Scan(TableAttached, idKey(id), idKey(id+1), func(k, _ []byte) bool {
		rows = append(rows, k)
		return true
	})
	return rows
}

// remove deletes the lease's rows; at is the deadline of its index row.
func (e *ending) remove(tx *state.Tx, at uint64) {
	if e.row == nil {
		e.row = deadlineKey(at, e.id)
	}
	tx.DeleteFound(TableLeases, e.row[8:16:16])
	tx.DeleteFound(TableDeadlines, e.row) // each lease has one
	for _, k := range e.keys {
		tx.DeleteFound(TableAttached, k)
	}
}

// tell hands the keys of the ended leases to their owners, in the order of the
// owners' numbers, and publishes the ends.
func (o *Owners) tell(tx *state.Tx, ended []ending, expired bool, cmd *command.Command) error {
	for _, owner := range o.order {
		var ends []End
		for i := range ended {
			keys := ended[i].ownedBy(owner)
			if len(keys) == 0 {
				continue
			}
			if ends == nil {
				ends = make([]End, 0, len(ended)-i)
			}
			ends = append(ends, End{Lease: ended[i].id, Expired: expired, Time: cmd.Time, Actor: cmd.Actor, Keys: keys})
		}
		if len(ends) == 0 {
			continue
		}
		if err := o.hooks[owner](tx, ends); err != nil {
			return fmt.Errorf("lease: the end of lease %d and %d more: %w", ends[0].Lease, len(ends)-1, err)
		}
	}
	for i := range ended {
		if e := &ended[i]; !e.moved {
			tx.Emit(watch.TopicLease, e.row[8:16:16], Ended{Lease: e.id, Expired: expired})
		}
	}
	return nil
}

// ownedBy takes the rows of owner, and of those before it, off e.keys, and gives
// owner's keys. Owners come in the order of their numbers.
func (e *ending) ownedBy(owner Owner) [][]byte {
	from := 0
	for from < len(e.keys) && Owner(e.keys[from][8]) < owner {
		from++
	}
	to := from
	for ; to < len(e.keys) && Owner(e.keys[to][8]) == owner; to++ {
		e.keys[to] = e.keys[to][9:]
	}
	own := e.keys[from:to:to]
	e.keys = e.keys[to:]
	return own
}
