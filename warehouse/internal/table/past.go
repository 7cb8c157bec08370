package table

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"

	"nekoq/services/state"
)

// version is what a key was at a revision: its row of kv, or the place of its record in
// log.
type version struct {
	mod uint64 // mod revision; 0: the key was not there
	row []byte // nil until it is read from log
	at  place
}

// record gives the record of the row, nil when the key was not there.
func (v *version) record() (*Record, error) {
	if v.mod == 0 {
		return nil, nil
	}
	rec, err := DecodeRecord(v.row)
	return &rec, err
}

// leapRows is how many rows of one key pass walks through before it looks the rest up,
// which costs as much as some 20 to 40 steps.
const leapRows = 32

// mostPatience is how many rows pass steps over that nobody asks for before it searches
// the next key.
const mostPatience = 8

// past walks the keys of kv and hist side by side, and the marks of each.
type past struct {
	r    state.Reader
	c    *state.Cursor
	row  []byte // the mark under the cursor; nil at the end
	held []byte // its value
	err  error

	// patience is how many rows that nobody asks for are stepped over: fewer and fewer
	// while keys have more.
	patience int

	own    []byte // the key with its terminator, as its marks begin; nil at the end
	key    []byte // the same without escapes
	marked bool   // the key that is visited has marks, which nobody has looked at

	after []byte // room for a row's key
}

// walkPast calls fn with the keys of [start, end) that kv or hist has, in order, and
// their rows of kv (nil for none), until it returns false. p.about tells of the key's
// marks, once. Keys stay valid as all slices of r.
func walkPast(r state.Reader, start, end []byte, fn func(p *past, key, row []byte) bool) error {
	p := past{r: r, patience: mostPatience, c: r.Cursor(TableHist, histStart(start), histEnd(end))}
	defer p.c.Close()
	p.next()
	p.enter()
	more := true
	visit := func(key, row []byte, marked bool) {
		p.marked = marked
		more = fn(&p, key, row)
		if !marked {
			return
		}
		if p.marked {
			p.about(0, 0)
		}
		p.enter()
	}
	r.Scan(TableKV, start, end, func(k, v []byte) bool {
		for more && p.own != nil && bytes.Compare(p.key, k) < 0 {
			visit(p.key, nil, true)
		}
		if more && p.err == nil {
			visit(k, v, p.own != nil && bytes.Equal(p.key, k))
		}
		return more && p.err == nil
	})
	for more && p.own != nil {
		visit(p.key, nil, true)
	}
	return p.err
}

func (p *past) next() {
	var ok bool
	if p.row, p.held, ok = p.c.Next(); !ok {
		p.row = nil
	}
}

// enter takes the key of the row under the cursor for the next one that has marks.
func (p *past) enter() {
	p.own, p.key = nil, nil
	if p.row == nil || p.err != nil {
		return
	}
	n := len(p.row) - 8
	if n >= 2 && bytes.IndexByte(p.row[:n], 0) == n-2 && p.row[n-1] == 1 {
		p.own, p.key = p.row[:n], p.row[:n-2] // nothing is escaped
		return
	}
	if p.key, _, p.err = splitHist(nil, p.row); p.err == nil {
		p.own = p.row[:n]
	}
}

// here tells whether the row under the cursor is of the present key.
func (p *past) here() bool {
	return len(p.row) == len(p.own)+8 && bytes.HasPrefix(p.row, p.own)
}

// marks are the rows of hist about a revision: the last one of the key at or before it,
// and the first one after it.
type marks struct{ below, above struct{ row, held []byte } }

func (m *marks) note(p *past, mod, rev uint64) {
	if mod <= rev {
		m.below.row, m.below.held = p.row, p.held
	} else if m.above.row == nil {
		m.above.row, m.above.held = p.row, p.held
	}
}

// about goes behind the present key's marks, and gives those about the revisions lo and
// hi, lo <= hi; 0 where nothing is asked.
func (p *past) about(lo, hi uint64) (then, now marks) {
	p.marked = false
	rows, newer := 0, 0
	for ; p.here(); p.next() {
		mod := binary.BigEndian.Uint64(p.row[len(p.own):])
		then.note(p, mod, lo)
		now.note(p, mod, hi)
		if rows++; mod > max(lo, hi) {
			newer++
		}
		if rows < leapRows && newer < p.patience {
			continue
		}
		p.after = append(p.after[:0], p.own...)
		p.after[len(p.after)-1]++ // the terminator 0x00 0x01 becomes 0x00 0x02, below any 0x00 0xff
		if mod <= lo {
			p.find(&then, lo)
		}
		if mod <= hi {
			p.find(&now, hi)
		}
		p.c.Seek(p.after)
		p.next()
		p.patience = max(p.patience/2, 1)
		return then, now
	}
	p.patience = min(2*p.patience, mostPatience)
	return then, now
}

// find looks the marks about rev up, which is not before the row under the cursor.
func (p *past) find(m *marks, rev uint64) {
	next := binary.BigEndian.AppendUint64(bytes.Clone(p.own), rev+1)
	p.r.ScanReverse(TableHist, p.row, next, func(k, v []byte) bool {
		m.below.row, m.below.held = k, v
		return false
	})
	p.r.Scan(TableHist, next, p.after, func(k, v []byte) bool {
		m.above.row, m.above.held = k, v
		return false
	})
}

// at gives what the key was at rev, where its row of kv does not tell.
func (m *marks) at(rev uint64) (version, error) {
	if m.above.row != nil {
		above, err := decodeMark(m.above.row, m.above.held)
		if err != nil {
			return version{}, err
		}
		t := above.trail()
		if v, ok := t.to(rev); ok || t.err != nil {
			return v, t.err
		}
	}
	if m.below.row == nil {
		return version{}, nil
	}
	below, err := decodeMark(m.below.row, m.below.held)
	if err != nil || below.at.revision <= rev { // it was deleted
		return version{}, err
	}
	return version{mod: below.mod, at: below.at}, nil
}

// there tells whether the key was there at rev, where its row of kv does not tell.
func (m *marks) there(rev uint64) (bool, error) {
	if m.above.row != nil {
		if above, err := decodeMark(m.above.row, m.above.held); err != nil || above.create <= rev {
			return true, err
		}
	}
	if m.below.row == nil {
		return false, nil
	}
	below, err := decodeMark(m.below.row, m.below.held)
	return below.at.revision > rev, err
}

// versions calls fn with the keys of [start, end) that were there at one of the
// revisions lo and hi, lo <= hi, in order, with what they were at both. It walks kv and
// hist side by side, once. False ends it.
func versions(r state.Reader, start, end []byte, lo, hi uint64, fn func(key []byte, then, now version) bool) error {
	return walkPast(r, start, end, func(p *past, key, row []byte) bool {
		var then, now version
		from, to := lo, hi // what is not known yet; nothing was there at revision 0
		if row != nil {
			var err error
			if then, now, err = recent(row, lo, hi); err != nil {
				p.err = err
				return false
			}
			if then.mod != 0 {
				from = 0
			}
			if now.mod != 0 {
				to = 0
			}
		}
		if p.marked && (from != 0 || to != 0) {
			before, after := p.about(from, to)
			if from != 0 && p.err == nil {
				then, p.err = before.at(from)
			}
			if to != 0 && p.err == nil {
				now, p.err = after.at(to)
			}
		}
		return p.err == nil && (then.mod == 0 && now.mod == 0 || fn(key, then, now))
	})
}

// recent gives what a key was at the revisions lo and hi, lo <= hi, as far as its row of
// kv tells.
func recent(row []byte, lo, hi uint64) (then, now version, err error) {
	mod, _, links, err := revisions(row)
	if err != nil {
		return then, now, err
	}
	latest := version{mod: mod, row: row}
	if mod <= lo {
		return latest, latest, nil
	}
	t := trail{mod: mod, links: links}
	if now = latest; mod > hi {
		now, _ = t.to(hi)
	}
	if then = now; t.mod > lo {
		then, _ = t.to(lo)
	}
	return then, now, t.err
}

// Records that log holds are read a batch at a time, in the order of log: keys that
// were written at about the same time share pages.
const (
	firstBatch = 32 // keys; each is twice the one before, since a limit may end the range
	mostBatch  = 4096
)

// pastKey is a key at two revisions.
type pastKey struct {
	key       []byte
	then, now version
}

// pastKeys gives keys away once their records are read.
type pastKeys struct {
	r     state.Reader
	fn    func(k *pastKey) (more bool, err error)
	keys  []pastKey
	most  int
	reads []wanted
	more  bool
	err   error
}

// eachPast calls fn with what versions gives, and with the records of it, until it
// returns false or an error. With lo = hi now is left out, else keys that have the same
// record at both are.
func eachPast(r state.Reader, start, end []byte, lo, hi uint64, fn func(k *pastKey) (more bool, err error)) error {
	b := pastKeys{r: r, fn: fn, most: firstBatch, more: true}
	err := versions(r, start, end, lo, hi, func(key []byte, then, now version) bool {
		if lo == hi {
			now = version{}
		} else if then.mod == now.mod {
			return true
		}
		if b.keys = append(b.keys, pastKey{key, then, now}); len(b.keys) == b.most {
			b.flush()
			b.most = min(2*b.most, mostBatch)
		}
		return b.more && b.err == nil
	})
	if err == nil && b.more && b.err == nil {
		b.flush()
	}
	return cmp.Or(err, b.err)
}

func (b *pastKeys) flush() {
	b.reads = b.reads[:0]
	for i := range b.keys {
		for _, v := range [...]*version{&b.keys[i].then, &b.keys[i].now} {
			if v.mod != 0 && v.row == nil {
				b.reads = append(b.reads, wanted{b.keys[i].key, v})
			}
		}
	}
	b.err = readPlaces(b.r, b.reads)
	for i := 0; i < len(b.keys) && b.more && b.err == nil; i++ {
		b.more, b.err = b.fn(&b.keys[i])
	}
	b.keys = b.keys[:0]
}

// wanted is a version of a key whose row is to be read from log.
type wanted struct {
	key []byte
	v   *version
}

// readPlaces reads the rows of versions from log.
func readPlaces(r state.Reader, ws []wanted) error {
	if len(ws) == 0 {
		return nil
	}
	before := func(a, b wanted) int {
		if c := cmp.Compare(a.v.at.revision, b.v.at.revision); c != 0 {
			return c
		}
		return cmp.Compare(a.v.at.sub, b.v.at.sub)
	}
	if !slices.IsSortedFunc(ws, before) {
		slices.SortFunc(ws, before)
	}
	f := finder{r: r, t: TableLog}
	defer f.close()
	var key []byte
	for _, w := range ws {
		key = appendLogKey(key[:0], w.v.at.revision, w.v.at.sub)
		row, ok := f.find(key)
		if !ok {
			return ErrRecord
		}
		l, err := decodeLog(key, row)
		if err != nil {
			return err
		}
		if len(l.old) == 0 || !l.supersedes(w.key, w.v.mod) {
			return ErrRecord
		}
		w.v.row = l.old
	}
	return nil
}

// rangeAt is the range at an older revision.
func rangeAt(r state.Reader, start, end []byte, rev uint64, fn Visit) error {
	var rec Record // one for all: fn keeps none
	return eachPast(r, start, end, rev, rev, func(k *pastKey) (more bool, err error) {
		rec, err = DecodeRecord(k.then.row)
		return err == nil && fn(k.key, &rec), err
	})
}

// countAt counts the keys of rangeAt. It reads no record.
func countAt(r state.Reader, start, end []byte, rev uint64) (n uint64, err error) {
	err = walkPast(r, start, end, func(p *past, _, row []byte) bool {
		there := false
		if row != nil {
			var create uint64
			if _, create, _, p.err = revisions(row); p.err != nil {
				return false
			}
			there = create <= rev
		}
		if !there && p.marked {
			about, _ := p.about(rev, 0)
			there, p.err = about.there(rev)
		}
		if there {
			n++
		}
		return p.err == nil
	})
	return n, err
}
