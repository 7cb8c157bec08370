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
	if row, found := r.Get(TableKV, key); found && modRevision(row) <= rev {
		rec, err = DecodeRecord(row)
		return rec, err == nil, err
	}
	return histAt(r, key, rev)
}

// histAt finds the record among those that were superseded after rev. When the last
// one up to rev was superseded by rev, a delete did it.
func histAt(r state.Reader, key []byte, rev uint64) (rec Record, ok bool, err error) {
	r.ScanReverse(TableHist, histKey(key, 0), histKey(key, rev+1), func(k, v []byte) bool {
		var l Log
		if l, err = superseding(r, k, v); err != nil {
			return false
		}
		switch {
		case l.Revision > rev:
			rec, ok, err = l.Superseded()
		case l.Kind == Delete:
			rec, ok, err = l.Written(r)
		default:
			err = ErrRecord
		}
		return false
	})
	return rec, ok, err
}

// superseding gives the change that superseded the record of a hist row.
func superseding(r state.Reader, k, v []byte) (Log, error) {
	_, p, err := decodePlace(k, v)
	if err != nil {
		return Log{}, err
	}
	return p.log(r)
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
	rec, ok, err := Latest(r, key)
	if err != nil || (ok && rec.ModRevision < before && !fn(&rec)) {
		return err
	}
	r.ScanReverse(TableHist, histKey(key, 0), histKey(key, before), func(k, v []byte) bool {
		var l Log
		if l, err = superseding(r, k, v); err != nil {
			return false
		}
		if l.Kind == Delete && l.Revision < before {
			if rec, _, err = l.Written(r); err != nil || !fn(&rec) {
				return false
			}
		}
		rec, ok, err = l.Superseded()
		return ok && fn(&rec)
	})
	return err
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
