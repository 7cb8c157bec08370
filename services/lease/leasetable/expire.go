package leasetable

import (
	"encoding/binary"
	"fmt"
	"slices"

	"nekoq/services/command"
	"nekoq/services/state"
	"nekoq/services/watch"
)

// MaxExpire bounds the leases that one expire command looks at, and maxExpireKeys the
// keys it takes away (the last lease it begins is always finished). They bound the time
// for which other writes wait behind it: some 10 ms.
const (
	MaxExpire     = 1024
	maxExpireKeys = 1024
)

// AppendExpire encodes the payload of KindExpire: the most leases to end.
func AppendExpire(b []byte, most int) []byte { return binary.AppendUvarint(b, uint64(most)) }

// Expired is the result of KindExpire.
type Expired struct {
	Leases, Keys uint64
	More         bool // leases that have come up are left
}

// DecodeExpired decodes it.
func DecodeExpired(b []byte) (Expired, error) {
	var e Expired
	var more uint64
	err := uvarints(b, &e.Leases, &e.Keys, &more)
	e.More = more != 0
	return e, err
}

// ending is leases on their way out, and their keys. Slices belong to the state.
type ending struct {
	leases []Lease
	upTo   []int    // by lease: where its keys end
	keys   [][]byte // of all leases, those of each by owner and key
	owners []Owner  // by key
	rows   [][]byte // of TableAttached
}

// applyExpire ends the leases that have come up. It reads everything before it writes,
// since rows that are written beside an open scan are copied.
func (o *Owners) applyExpire(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	var most uint64
	if err := fields(cmd, &most); err != nil {
		return nil, err
	}
	x := index(tx)
	due, more := x.come(readClock(tx).now, min(most, MaxExpire))
	if len(due) == 0 {
		return []byte{0, 0, 0}, nil
	}
	leases, err := readAll(tx, due)
	if err != nil {
		return nil, err
	}
	e := ending{leases: leases}
	if n := e.takeKeys(tx, maxExpireKeys); n < len(leases) {
		e.leases, more = leases[:n], true
	}
	keys := len(e.keys)
	e.remove(tx)
	x.drop(len(e.leases))
	if err := o.tell(tx, &e, true, cmd); err != nil {
		return nil, err
	}
	left := uint64(0)
	if more {
		left = 1
	}
	b := binary.AppendUvarint(make([]byte, 0, 16), uint64(len(e.leases)))
	return binary.AppendUvarint(binary.AppendUvarint(b, uint64(keys)), left), nil
}

// maxBetween is the number of other leases that a read passes over rather than seek
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

// readAll gives the leases, in the order of due. It reads them in the order of their
// ids, those that lie close to each other in one go.
func readAll(r state.Reader, due []deadline) ([]Lease, error) {
	leases := make([]Lease, len(due))
	byID := make([]int, len(due))
	for i := range byID {
		byID[i] = i
	}
	slices.SortFunc(byID, func(a, b int) int {
		if due[a].id < due[b].id {
			return -1
		}
		return 1
	})
	for len(byID) > 0 {
		n := 1
		for n < len(byID) && near(due[byID[n-1]].id, due[byID[n]].id) {
			n++
		}
		run := byID[:n]
		byID = byID[n:]
		if n == 1 {
			leases[run[0]], _ = get(r, due[run[0]].id)
			continue
		}
		others := 0 // in a row: users choose ids too, with no regard for near
		r.Scan(TableLeases, idKey(due[run[0]].id), idKey(due[run[n-1]].id+1), func(k, v []byte) bool {
			id := binary.BigEndian.Uint64(k)
			for len(run) > 0 && due[run[0]].id < id {
				run = run[1:]
			}
			if len(run) > 0 && due[run[0]].id == id {
				leases[run[0]], _ = decode(id, v)
				run, others = run[1:], 0
				return len(run) > 0
			}
			others++
			return others <= maxBetween
		})
		for _, i := range run {
			leases[i], _ = get(r, due[i].id)
		}
	}
	for i := range leases {
		if leases[i].ID == 0 || leases[i].Deadline != due[i].at {
			return nil, fmt.Errorf("lease: deadline %d of lease %d without such a lease", due[i].at, due[i].id)
		}
	}
	return leases, nil
}

// takeKeys finds the keys of the leases, until there are at least most, and tells how
// many leases those are of.
func (e *ending) takeKeys(r state.Reader, most int) (leases int) {
	e.upTo = make([]int, 0, len(e.leases))
	e.keys, e.owners = make([][]byte, 0, len(e.leases)), make([]Owner, 0, len(e.leases))
	for i := range e.leases {
		if len(e.keys) >= most {
			return i
		}
		e.leases[i].keys(r, func(row []byte, h hung) bool {
			e.keys, e.owners = append(e.keys, h.Key), append(e.owners, h.Owner)
			if row != nil {
				e.rows = append(e.rows, row)
			}
			return true
		})
		e.upTo = append(e.upTo, len(e.keys))
	}
	return len(e.leases)
}

// remove deletes the leases' rows.
func (e *ending) remove(tx *state.Tx) {
	b := make([]byte, 0, 8*len(e.leases))
	for i := range e.leases {
		b = binary.BigEndian.AppendUint64(b, e.leases[i].ID)
		tx.DeleteFound(TableLeases, b[8*i:8*i+8:8*i+8])
	}
	for _, row := range e.rows {
		tx.DeleteFound(TableAttached, row)
	}
}

// tell hands the keys of the ended leases to their owners, in the order of the
// owners' numbers, and publishes the ends.
func (o *Owners) tell(tx *state.Tx, e *ending, expired bool, cmd *command.Command) error {
	for _, owner := range o.order {
		var ends []End
		from := 0
		for i, to := range e.upTo {
			keys := e.ownedBy(owner, from, to)
			from = to
			if len(keys) == 0 {
				continue
			}
			if ends == nil {
				ends = make([]End, 0, len(e.upTo)-i)
			}
			ends = append(ends, End{Lease: e.leases[i].ID, Expired: expired, Time: cmd.Time, Actor: cmd.Actor, Keys: keys})
		}
		if len(ends) == 0 {
			continue
		}
		if err := o.hooks[owner](tx, ends); err != nil {
			return fmt.Errorf("lease: the end of lease %d and %d more: %w", ends[0].Lease, len(ends)-1, err)
		}
	}
	for i := range e.leases {
		id := e.leases[i].ID
		tx.Emit(watch.TopicLease, idKey(id), Ended{Lease: id, Expired: expired})
	}
	return nil
}

// ownedBy gives the owner's part of the keys from from to to.
func (e *ending) ownedBy(owner Owner, from, to int) [][]byte {
	for from < to && e.owners[from] < owner {
		from++
	}
	end := from
	for end < to && e.owners[end] == owner {
		end++
	}
	return e.keys[from:end:end]
}
