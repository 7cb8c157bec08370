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

// past walks the rows of hist key by key.
type past struct {
	r    state.Reader
	c    *state.Cursor
	row  []byte // the row under the cursor; nil at the end
	held []byte // its value
	err  error

	// patience is how many rows that nobody asks for are stepped over: fewer and fewer
	// while keys have more.
	patience int

	own []byte // the key with its terminator, as its rows begin; nil at the end
	key []byte // the same without escapes

	after []byte // room for a row's key
}

// openPast stands on the first key of [start, end).
func openPast(r state.Reader, start, end []byte) *past {
	p := &past{r: r, patience: mostPatience, c: r.Cursor(TableHist, histStart(start), histEnd(end))}
	p.next()
	p.enter()
	return p
}

func (p *past) close() { p.c.Close() }

func (p *past) next() {
	var ok bool
	if p.row, p.held, ok = p.c.Next(); !ok {
		p.row = nil
	}
}

// enter takes the key of the row under the cursor for the present one.
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

// pass goes behind the rows of the present key, and gives what it was at the revisions
// lo and hi.
func (p *past) pass(lo, hi uint64) (then, now version) {
	var thenRow, thenHeld, nowRow, nowHeld []byte
	rows, newer := 0, 0
	for ; p.here(); p.next() {
		mod := binary.BigEndian.Uint64(p.row[len(p.own):])
		if mod <= lo {
			thenRow, thenHeld = p.row, p.held
		}
		if mod <= hi {
			nowRow, nowHeld = p.row, p.held
		}
		if rows++; mod > lo && mod > hi {
			newer++
		}
		if rows < leapRows && newer < p.patience {
			continue
		}
		if mod < lo {
			thenRow, thenHeld = p.last(lo)
		}
		if mod < hi {
			nowRow, nowHeld = p.last(hi)
		}
		p.after = append(p.after[:0], p.own...)
		p.after[len(p.after)-1]++ // the terminator 0x00 0x01 becomes 0x00 0x02, below any 0x00 0xff
		p.c.Seek(p.after)
		p.next()
		p.patience = max(p.patience/2, 1)
		return p.version(thenRow, thenHeld, lo), p.version(nowRow, nowHeld, hi)
	}
	p.patience = min(2*p.patience, mostPatience)
	return p.version(thenRow, thenHeld, lo), p.version(nowRow, nowHeld, hi)
}

// last gives the present key's last row from the one under the cursor to rev.
func (p *past) last(rev uint64) (row, held []byte) {
	end := binary.BigEndian.AppendUint64(bytes.Clone(p.own), rev+1)
	p.r.ScanReverse(TableHist, p.row, end, func(k, v []byte) bool {
		row, held = k, v
		return false
	})
	return row, held
}

// version makes of a key's last row up to rev what the key was then.
func (p *past) version(row, held []byte, rev uint64) version {
	if row == nil {
		return version{}
	}
	mod, at, err := decodePlace(row, held)
	if err != nil {
		p.err = err
	}
	if err != nil || at.revision <= rev { // a delete superseded it
		return version{}
	}
	return version{mod: mod, at: at}
}

// versions calls fn with the keys of [start, end) that were there at one of the
// revisions lo and hi, lo <= hi, in order, with what they were at both. It walks kv and
// hist side by side, once. Keys stay valid as all slices of r. False ends it.
func versions(r state.Reader, start, end []byte, lo, hi uint64, fn func(key []byte, then, now version) bool) error {
	p := openPast(r, start, end)
	defer p.close()
	more := true
	tell := func(key []byte, then, now version) bool {
		more = p.err == nil && (then.mod == 0 && now.mod == 0 || fn(key, then, now))
		return more
	}
	only := func() { // a key that only hist has
		key := p.key
		then, now := p.pass(lo, hi)
		p.enter()
		tell(key, then, now)
	}
	r.Scan(TableKV, start, end, func(k, v []byte) bool {
		for more && p.own != nil && bytes.Compare(p.key, k) < 0 {
			only()
		}
		if !more || p.err != nil {
			return false
		}
		latest := version{mod: modRevision(v), row: v}
		var then, now version
		if bytes.Equal(p.key, k) && p.own != nil {
			// What kv tells is not looked up: nothing was there at revision 0.
			from, to := lo, hi
			if latest.mod <= lo {
				from = 0
			}
			if latest.mod <= hi {
				to = 0
			}
			then, now = p.pass(from, to)
			p.enter()
		}
		if latest.mod <= lo {
			then = latest
		}
		if latest.mod <= hi {
			now = latest
		}
		return tell(k, then, now)
	})
	for more && p.own != nil {
		only()
	}
	return p.err
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
	reads []*version
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
				b.reads = append(b.reads, v)
			}
		}
	}
	b.err = readPlaces(b.r, b.reads)
	for i := 0; i < len(b.keys) && b.more && b.err == nil; i++ {
		b.more, b.err = b.fn(&b.keys[i])
	}
	b.keys = b.keys[:0]
}

// readPlaces reads the rows of versions from log.
func readPlaces(r state.Reader, vs []*version) error {
	if len(vs) == 0 {
		return nil
	}
	before := func(a, b *version) int {
		if c := cmp.Compare(a.at.revision, b.at.revision); c != 0 {
			return c
		}
		return cmp.Compare(a.at.sub, b.at.sub)
	}
	if !slices.IsSortedFunc(vs, before) {
		slices.SortFunc(vs, before)
	}
	f := finder{r: r, t: TableLog}
	defer f.close()
	var key []byte
	for _, want := range vs {
		key = appendLogKey(key[:0], want.at.revision, want.at.sub)
		row, ok := f.find(key)
		if !ok {
			return ErrRecord
		}
		l, err := decodeLog(key, row)
		if err != nil {
			return err
		}
		if len(l.old) == 0 {
			return ErrRecord
		}
		want.row = l.old
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
	err = versions(r, start, end, rev, rev, func([]byte, version, version) bool { n++; return true })
	return n, err
}
