package table

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"

	"nekoq/services/state"
)

// finder looks rows of a table up whose keys come in order.
type finder struct {
	r          state.Reader
	t          state.TableID
	c          *state.Cursor
	key, value []byte // the row at hand
	end        bool   // there is none
}

func (f *finder) find(key []byte) (value []byte, ok bool) {
	f.seek(key)
	return f.value, !f.end && bytes.Equal(f.key, key)
}

// seek stands on the first row that is not before key.
func (f *finder) seek(key []byte) {
	switch {
	case f.c == nil:
		f.c = f.r.Cursor(f.t, key, nil)
		f.next()
	case !f.end && bytes.Compare(f.key, key) < 0:
		f.c.Seek(key)
		f.next()
	}
}

func (f *finder) next() {
	var ok bool
	f.key, f.value, ok = f.c.Next()
	f.end = !ok
}

func (f *finder) close() {
	if f.c != nil {
		f.c.Close()
	}
}

// readChange is a change whose record has yet to be read.
type readChange struct {
	log     Log
	wanted  bool
	written version
}

// ReadChanges calls fn with the log rows from revision from to revision to, both
// included, in order, until it returns false: with the records that those wrote which
// want accepts, a tombstone for a delete, and nil for others. Both are valid during the
// call only, their slices as all of r. It reads ahead, in the order in which records
// stand.
func ReadChanges(r state.Reader, from, to uint64, want func(l *Log) bool, fn func(l *Log, rec *Record) bool) error {
	c := r.Cursor(TableLog, logKey(from, 0), binary.BigEndian.AppendUint64(nil, to+1))
	defer c.Close()
	var changes []readChange
	var rec Record // one for all: fn keeps none
	old := false   // most changes of the last batch were superseded
	for most := firstBatch; ; most = min(2*most, mostChanges) {
		changes = changes[:0]
		for len(changes) < most {
			k, v, ok := c.Next()
			if !ok {
				break
			}
			l, err := decodeLog(k, v)
			if err != nil {
				return err
			}
			changes = append(changes, readChange{log: l, wanted: want(&l)})
		}
		var err error
		if old, err = readWritten(r, changes, old); err != nil {
			return err
		}
		for i := range changes {
			ch := &changes[i]
			var show *Record
			if ch.wanted {
				if rec, err = DecodeRecord(ch.written.row); err != nil {
					return err
				}
				show = &rec
			}
			if !fn(&ch.log, show) {
				return nil
			}
		}
		if len(changes) < most {
			return nil
		}
	}
}

// mostChanges bounds how many changes ReadChanges reads ahead: about what fills a step
// of a watch with small values.
const mostChanges = 1024

// readWritten reads the rows that changes wrote. Those that were superseded lie in
// log, where hist says, the others in kv. It looks first where old says that most are,
// and tells where most were.
func readWritten(r state.Reader, changes []readChange, old bool) (mostOld bool, err error) {
	var puts []*readChange
	for i := range changes {
		ch := &changes[i]
		switch {
		case !ch.wanted:
		case ch.log.Kind == Delete:
			ch.written = version{mod: ch.log.Revision, row: ch.log.tombstone}
		default:
			puts = append(puts, ch)
		}
	}
	if len(puts) == 0 {
		return old, nil
	}
	before := func(a, b *readChange) int {
		return cmp.Or(bytes.Compare(a.log.Key, b.log.Key), cmp.Compare(a.log.Revision, b.log.Revision))
	}
	if !slices.IsSortedFunc(puts, before) {
		slices.SortFunc(puts, before)
	}
	w := writtenRows{kv: finder{r: r, t: TableKV}, hist: finder{r: r, t: TableHist}}
	defer w.kv.close()
	defer w.hist.close()
	var places []wanted
	for _, ch := range puts {
		ch.written.mod = ch.log.Revision
		found := w.find(ch, old) || w.find(ch, !old)
		if w.err != nil || !found {
			return false, cmp.Or(w.err, ErrRecord)
		}
		if ch.written.row == nil {
			places = append(places, wanted{ch.log.Key, &ch.written})
		}
	}
	return len(places) > len(puts)/2, readPlaces(r, places)
}

// writtenRows looks rows up that changes wrote.
type writtenRows struct {
	kv, hist finder
	key      []byte // room for one
	err      error
}

// find finds the row that a change wrote, or its place: by the key's row of kv, or by
// the first mark that is not before it.
func (w *writtenRows) find(ch *readChange, old bool) bool {
	want := ch.written.mod
	if !old {
		row, ok := w.kv.find(ch.log.Key)
		if !ok || w.err != nil {
			return false
		}
		mod, _, links, err := revisions(row)
		if err == nil && mod == want {
			ch.written.row = row
			return true
		}
		return w.follow(trail{mod: mod, links: links, err: err}, ch)
	}
	w.key = appendHistKey(w.key[:0], ch.log.Key, want)
	w.hist.seek(w.key)
	own := w.key[:len(w.key)-8]
	if w.hist.end || w.err != nil || len(w.hist.key) != len(w.key) || !bytes.HasPrefix(w.hist.key, own) {
		return false
	}
	m, err := decodeMark(w.hist.key, w.hist.value)
	if err == nil && m.mod == want {
		ch.written.at = m.at
		return true
	}
	t := m.trail()
	t.err = err
	return w.follow(t, ch)
}

// follow finds the change along a trail.
func (w *writtenRows) follow(t trail, ch *readChange) bool {
	v, ok := t.to(ch.written.mod)
	if w.err = t.err; !ok || v.mod != ch.written.mod {
		return false
	}
	ch.written.at = v.at
	return true
}
