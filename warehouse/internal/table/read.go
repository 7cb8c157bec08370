package table

import (
	"encoding/binary"

	"nekoq/services/state"
)

// ReadMeta gives the meta row; an empty store is at revision 1.
func ReadMeta(r state.Reader) (Meta, error) {
	row, ok := r.Get(TableMeta, metaKey)
	if !ok {
		return Meta{Revision: 1}, nil
	}
	return decodeMeta(row)
}

// Latest gives a key's newest record.
func Latest(r state.Reader, key []byte) (rec Record, ok bool, err error) {
	row, ok := r.Get(TableKV, key)
	if !ok {
		return Record{}, false, nil
	}
	rec, err = DecodeRecord(row)
	return rec, err == nil, err
}

// CheckRevision tells whether the history at rev can be read.
func (m Meta) CheckRevision(rev uint64) error {
	if rev > m.Revision {
		return FutureRevision(rev, m.Revision)
	}
	if rev < m.Compact {
		return CompactedError(rev, m.Compact)
	}
	return nil
}

// At gives the record that a key had at revision rev, tombstones included (ok,
// Deleted). The caller has checked rev.
func At(r state.Reader, key []byte, rev uint64) (rec Record, ok bool, err error) {
	rec, ok, err = Latest(r, key)
	if err != nil || ok && rec.ModRevision <= rev {
		return rec, ok, err
	}
	if ok {
		t := rec.trail()
		if v, found := t.to(rev); found || t.err != nil {
			return v.found(r, key, t.err)
		}
	}
	return histAt(r, key, rev)
}

// histAt finds the record by the marks about rev: the trail of the one after it leads
// there, or the key was deleted in between.
func histAt(r state.Reader, key []byte, rev uint64) (rec Record, ok bool, err error) {
	m, ok, err := firstMark(r, key, rev+1)
	if err != nil {
		return Record{}, false, err
	}
	if ok {
		t := m.trail()
		if v, found := t.to(rev); found || t.err != nil {
			return v.found(r, key, t.err)
		}
	}
	if m, ok, err = lastMark(r, key, rev+1); err != nil || !ok {
		return Record{}, false, err
	}
	if m.at.revision > rev {
		return m.at.record(r, key, m.mod)
	}
	l, ok, err := m.at.log(r, key, m.mod)
	switch {
	case err != nil || !ok:
		return Record{}, false, err
	case l.Kind != Delete:
		return Record{}, false, ErrRecord
	}
	return l.Written(r)
}

// found gives the record that a trail has led to.
func (v *version) found(r state.Reader, key []byte, err error) (Record, bool, error) {
	if err != nil {
		return Record{}, false, err
	}
	return v.at.record(r, key, v.mod)
}

// Version gives the record that the change (key, rev) wrote: the newest one or a
// superseded one.
func Version(r state.Reader, key []byte, rev uint64) (rec Record, ok bool, err error) {
	rec, ok, err = At(r, key, rev)
	if ok && rec.ModRevision != rev {
		return Record{}, false, nil
	}
	return rec, ok, err
}

// Superseded gives the record that the change (rev, sub) superseded; not ok: there was
// none, or a compaction has taken it.
func Superseded(r state.Reader, rev uint64, sub uint32) (rec Record, ok bool, err error) {
	k := logKey(rev, sub)
	v, found := r.Get(TableLog, k)
	if !found {
		return Record{}, false, nil
	}
	l, err := decodeLog(k, v)
	if err != nil {
		return Record{}, false, err
	}
	return l.Superseded()
}

// Visit takes a key and its record, both valid during the call only. False ends the
// range.
type Visit func(key []byte, rec *Record) bool

// Range calls fn with the keys in [start, end) as they were at revision rev, in
// order; end nil means to the last key. The caller has checked rev; meta is the
// reader's own.
func Range(r state.Reader, m Meta, start, end []byte, rev uint64, fn Visit) error {
	if rev >= m.Revision {
		return rangeLatest(r, start, end, fn)
	}
	return rangeAt(r, start, end, rev, fn)
}

func rangeLatest(r state.Reader, start, end []byte, fn Visit) error {
	var err error
	var rec Record // one for all: fn keeps none
	r.Scan(TableKV, start, end, func(k, v []byte) bool {
		if rec, err = DecodeRecord(v); err != nil {
			return false
		}
		return fn(k, &rec)
	})
	return err
}

// histStart and histEnd turn a bound of keys into one of hist rows. The key's rows
// start with its escaped form and terminator.
func histStart(key []byte) []byte {
	if len(key) == 0 {
		return nil
	}
	return appendEscaped(nil, key)
}

func histEnd(key []byte) []byte {
	if key == nil {
		return nil
	}
	return appendEscaped(nil, key)
}

// Changes calls fn with the log rows from revision from to revision to, both
// included, in order, until it returns false.
func Changes(r state.Reader, from, to uint64, fn func(l Log) bool) error {
	return ChangesFrom(r, from, 0, to, fn)
}

// ChangesFrom is Changes that starts within a revision.
func ChangesFrom(r state.Reader, from uint64, sub uint32, to uint64, fn func(l Log) bool) error {
	var err error
	r.Scan(TableLog, logKey(from, sub), binary.BigEndian.AppendUint64(nil, to+1), func(k, v []byte) bool {
		var l Log
		if l, err = decodeLog(k, v); err != nil {
			return false
		}
		return fn(l)
	})
	return err
}

// History calls fn with the versions of a key before revision before, newest first,
// tombstones included, until it returns false.
func History(r state.Reader, key []byte, before uint64, fn func(rec *Record) bool) error {
	h := history{r: r, key: key, before: before, fn: fn}
	rec, ok, err := Latest(r, key)
	switch {
	case err != nil:
		return err
	case ok && rec.ModRevision < before:
		if !fn(&rec) {
			return nil
		}
	default: // from the next mark on, not all that came after before
		m, found, err := firstMark(r, key, before)
		if err != nil {
			return err
		}
		if found {
			ok, rec = true, Record{ModRevision: m.mod, CreateRevision: m.create, links: m.links}
		}
	}
	if ok {
		h.from, h.create = rec.trail(), rec.CreateRevision
		if more, err := h.follow(); !more || err != nil {
			return err
		}
	}
	for {
		m, ok, err := h.mark()
		if err != nil || !ok {
			return err
		}
		h.from, h.create = m.trail(), m.create
		if more, err := h.follow(); !more || err != nil {
			return err
		}
	}
}

// history walks the versions of a key back.
type history struct {
	r      state.Reader
	key    []byte
	before uint64
	fn     func(rec *Record) bool

	from   trail
	create uint64 // where the trail's key was created; 0 before the first trail
	end    place  // where the record at which the trail has ended was superseded
}

// tell gives the record of mod, which was superseded at a place, to fn. A compaction has
// taken everything before what it has taken.
func (h *history) tell(at place, mod uint64) (more bool, err error) {
	rec, ok, err := at.record(h.r, h.key, mod)
	return err == nil && ok && h.fn(&rec), err
}

// follow tells what lies along the trail.
func (h *history) follow() (more bool, err error) {
	for {
		at, ok := h.from.back()
		if !ok {
			return h.from.err == nil, h.from.err
		}
		if h.end = at; h.from.mod >= h.before {
			continue
		}
		if more, err = h.tell(at, h.from.mod); !more || err != nil {
			return false, err
		}
	}
}

// mark gives the mark from which on the walk continues: that of the record at which the
// trail has ended, or, when that created the key, the last one before the key was
// deleted, which it tells.
func (h *history) mark() (m mark, ok bool, err error) {
	if h.create != 0 && h.from.mod != h.create {
		m, ok, err = lastMark(h.r, h.key, h.from.mod+1)
		if ok = ok && m.mod == h.from.mod; !ok && err == nil {
			err = h.end.gone(h.r)
		}
		return m, ok, err
	}
	end := h.before
	if h.create != 0 {
		end = min(end, h.create)
	}
	if m, ok, err = lastMark(h.r, h.key, end); err != nil || !ok {
		return m, false, err
	}
	l, ok, err := m.at.log(h.r, h.key, m.mod)
	switch {
	case err != nil || !ok:
		return m, false, err
	case l.Kind != Delete:
		return m, false, ErrRecord
	}
	if l.Revision < h.before {
		rec, _, err := l.Written(h.r)
		if err != nil || !h.fn(&rec) {
			return m, false, err
		}
	}
	ok, err = h.tell(m.at, m.mod)
	return m, ok, err
}

// StoreRevision gives the store revision of the newest key revision; not ok: its log
// row is gone.
func StoreRevision(r state.Reader, m Meta) (rev uint64, ok bool, err error) {
	var l Log
	r.ScanReverse(TableLog, logKey(m.Revision, 0), nil, func(k, v []byte) bool {
		l, err = decodeLog(k, v)
		ok = err == nil && l.Revision == m.Revision
		return false
	})
	if !ok || err != nil {
		return 0, false, err
	}
	rec, ok, err := l.Written(r)
	return rec.StoreRevision, ok, err
}

// TimeOf gives when revision rev was made, in Unix nanoseconds. The history at rev
// must be there.
func TimeOf(r state.Reader, rev uint64) (at int64, err error) {
	found := false
	err = Changes(r, rev, rev, func(l Log) bool {
		rec, ok, e := l.Written(r)
		if e == nil && ok {
			at, found = rec.Modified, true
		}
		return false
	})
	if err == nil && !found {
		err = ErrRecord
	}
	return at, err
}
