package table

import (
	"bytes"
	"slices"
	"strconv"

	"nekoq/services/lease/leasetable"
	"nekoq/services/state"
)

// doomed is a key whose lease has ended.
type doomed struct {
	lease uint64
	key   []byte
	old   []byte // its row; nil for none
	prev  Record
	log   Log
}

// arenaSize is the size of allocations that the rows of many keys share.
const arenaSize = 4 << 10

// leaseEnded deletes the keys of ended leases, those of each lease at a revision of
// their own. It reads and deletes rows in the order of the keys, since neighbours share
// pages and nodes, and writes the log in its own order.
func leaseEnded(tx *state.Tx, ends []leasetable.End) error {
	w, err := newWriter(tx, ends[0].Time, "")
	if err != nil {
		return err
	}
	var all []doomed
	for i := range ends {
		for _, k := range ends[i].Keys {
			all = append(all, doomed{lease: ends[i].Lease, key: k})
		}
	}
	byKey, err := findDoomed(tx, all)
	if err != nil {
		return err
	}
	w.changes = make([]Change, 0, len(all))
	before := w.meta.Revision
	events, rows := arena{least: arenaSize}, arena{least: arenaSize}
	for i, from := 0, 0; i < len(ends); i++ {
		to := from + len(ends[i].Keys)
		w.end(&events, &rows, &ends[i], all[from:to])
		from = to
	}
	if w.meta.Revision == before {
		return nil
	}
	w.meta.Revision-- // none was given to the lease after the last
	for _, d := range byKey {
		if d.old != nil {
			w.take(&d.log, &d.prev)
		}
	}
	for _, d := range byKey {
		if d.old != nil {
			rows.room(markSize(d.key, d.prev.links))
			w.mark(&rows, &d.log, &d.prev)
		}
	}
	w.finish()
	return nil
}

// findDoomed reads the keys' rows, and gives the keys in order. A key that is not
// there, or hangs on another lease by now, has no row.
func findDoomed(tx *state.Tx, all []doomed) ([]*doomed, error) {
	byKey := make([]*doomed, len(all))
	for i := range all {
		byKey[i] = &all[i]
	}
	slices.SortFunc(byKey, func(a, b *doomed) int { return bytes.Compare(a.key, b.key) })
	rows := tx.Lookup(TableKV)
	defer rows.Close()
	for _, d := range byKey {
		v, ok := rows.Get(d.key)
		if !ok {
			continue
		}
		rec, err := DecodeRecord(v)
		if err != nil {
			return nil, err
		}
		if rec.Lease == d.lease {
			d.old, d.prev = v, rec
		}
	}
	return byKey, nil
}

// end logs the deletion of a lease's keys.
func (w *writer) end(events, rows *arena, e *leasetable.End, keys []doomed) {
	why := "lease-revoked:"
	if e.Expired {
		why = "lease-expired:"
	}
	w.actor, w.sub = why+strconv.FormatUint(e.Lease, 10), 0
	for i := range keys {
		d := &keys[i]
		if d.old == nil {
			continue
		}
		d.log = w.bury(events, d.key, d.old, &d.prev)
		d.log.Revision, d.log.Sub = w.meta.Revision, w.sub
		rows.room(pastSize(d.key, &d.log, nil))
		w.log(rows, &d.log)
		w.emit(&d.log, d.log.tombstone)
	}
	if w.sub > 0 {
		w.meta.Revision++
	}
}
