package table

import (
	"bytes"
	"encoding/binary"
	"math"

	"nekoq/services/state"
)

// markEvery is how many versions of a key share a row of hist. The records between two
// of them are found by the trail of the one that follows.
const markEvery = 8

// place is where a record was superseded: the row of log that holds it.
type place struct {
	revision uint64
	sub      uint32
}

// log gives the row, of the change that superseded the record (key, mod); not ok: a
// compaction has taken it.
func (p place) log(r state.Reader, key []byte, mod uint64) (l Log, ok bool, err error) {
	k := logKey(p.revision, p.sub)
	v, found := r.Get(TableLog, k)
	if !found {
		return Log{}, false, p.gone(r)
	}
	if l, err = decodeLog(k, v); err == nil && !l.supersedes(key, mod) {
		err = ErrRecord
	}
	return l, err == nil, err
}

// supersedes tells whether the change superseded the record (key, mod). A damaged trail
// or mark could lead to another.
func (l *Log) supersedes(key []byte, mod uint64) bool {
	return l.Prev == mod && bytes.Equal(l.Key, key)
}

// record gives the record (key, mod) that was superseded there; not ok: a compaction has
// taken it.
func (p place) record(r state.Reader, key []byte, mod uint64) (rec Record, ok bool, err error) {
	l, ok, err := p.log(r, key, mod)
	if err != nil || !ok {
		return Record{}, false, err
	}
	if rec, ok, err = l.Superseded(); err == nil && !ok {
		err = p.gone(r)
	}
	return rec, ok, err
}

// gone is nil where a compaction may have taken the record.
func (p place) gone(r state.Reader) error {
	m, err := ReadMeta(r)
	if err == nil && p.revision > m.Compact {
		err = ErrRecord
	}
	return err
}

// trail walks from a record to the ones before it, back to the last that has a mark, or
// to the first of the key. A record's trail has one link for each change on the way,
// the newest first: how far back the record lies that it superseded, with a bit that
// tells whether its sub follows.
type trail struct {
	mod   uint64 // of the record at hand
	links []byte
	err   error
}

// mostLink bounds the bytes of a link.
const mostLink = binary.MaxVarintLen64 + binary.MaxVarintLen32

func appendLink(b []byte, back uint64, sub uint32) []byte {
	if sub == 0 {
		return binary.AppendUvarint(b, back<<1)
	}
	return binary.AppendUvarint(binary.AppendUvarint(b, back<<1|1), uint64(sub))
}

// back goes to the record before, and gives where that was superseded.
func (t *trail) back() (at place, ok bool) {
	if len(t.links) == 0 || t.err != nil {
		return place{}, false
	}
	back, n := binary.Uvarint(t.links)
	sub, m := uint64(0), 0
	if n > 0 && back&1 != 0 {
		sub, m = binary.Uvarint(t.links[n:])
		if m <= 0 {
			n = 0
		}
	}
	if back >>= 1; n <= 0 || back == 0 || back >= t.mod || sub > math.MaxUint32 {
		t.err = ErrRecord
		return place{}, false
	}
	at = place{t.mod, uint32(sub)}
	t.links, t.mod = t.links[n+m:], t.mod-back
	return at, true
}

// to goes back to the newest record at or before rev; not ok: the trail ends before it.
func (t *trail) to(rev uint64) (v version, ok bool) {
	for t.mod > rev {
		if v.at, ok = t.back(); !ok {
			return version{}, false
		}
	}
	v.mod = t.mod
	return v, ok
}

// mark is a row of hist: a superseded record, which is the last one of the key before
// it was deleted, or has a version that is a multiple of markEvery.
type mark struct {
	mod    uint64
	create uint64
	at     place
	links  []byte // of the record's trail
}

func (m *mark) trail() trail { return trail{mod: m.mod, links: m.links} }

// append lays out the value.
func (m *mark) append(b []byte) []byte {
	b = binary.AppendUvarint(b, m.at.revision-m.mod)
	b = binary.AppendUvarint(b, uint64(m.at.sub))
	b = binary.AppendUvarint(b, m.mod-m.create)
	return append(b, m.links...)
}

// markSize bounds the bytes of a row of hist.
func markSize(key, links []byte) int {
	return escapedLen(key) + 8 + 2*binary.MaxVarintLen64 + binary.MaxVarintLen32 + len(links)
}

// decodeMark reads a row of hist, whose key is at least 10 bytes long. Only the first
// record of a life has no links.
func decodeMark(k, v []byte) (m mark, err error) {
	if len(k) < 10 {
		return mark{}, ErrRecord
	}
	m.mod = binary.BigEndian.Uint64(k[len(k)-8:])
	d := decoder{b: v}
	m.at.revision = m.mod + d.uvarint()
	sub, old := d.uvarint(), d.uvarint()
	if d.bad || sub > math.MaxUint32 || m.at.revision < m.mod || old >= m.mod || (old == 0) != (len(d.b) == 0) {
		return mark{}, ErrRecord
	}
	m.at.sub, m.create, m.links = uint32(sub), m.mod-old, d.b
	return m, nil
}

// firstMark gives the key's first mark at or after rev.
func firstMark(r state.Reader, key []byte, rev uint64) (m mark, ok bool, err error) {
	r.Scan(TableHist, histKey(key, rev), histKey(key, math.MaxUint64), func(k, v []byte) bool {
		m, err = decodeMark(k, v)
		ok = err == nil
		return false
	})
	return m, ok, err
}

// lastMark gives the key's last mark before rev.
func lastMark(r state.Reader, key []byte, rev uint64) (m mark, ok bool, err error) {
	r.ScanReverse(TableHist, histKey(key, 0), histKey(key, rev), func(k, v []byte) bool {
		m, err = decodeMark(k, v)
		ok = err == nil
		return false
	})
	return m, ok, err
}
