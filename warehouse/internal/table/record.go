package table

import (
	"encoding/binary"
	"errors"

	"nekoq/services/state"
)

// Record is one version of a key. Byte slices of a decoded record alias the row.
type Record struct {
	CreateRevision uint64 // key revision of the put that created the key
	ModRevision    uint64 // key revision of this version
	Version        uint64 // 1 at creation, one more with each put; 0 in a tombstone
	Lease          uint64 // 0 for none
	StoreRevision  uint64 // store revision of the command
	Created        int64  // Unix nanoseconds of the leader's clock
	Modified       int64
	Deleted        bool   // a tombstone: only ModRevision, StoreRevision, Modified and Actor count
	Actor          []byte // "door:principal" of the last write
	Value          []byte

	links []byte // of its trail
}

const (
	recordFormat = 1

	flagDeleted   = 1 << 0
	flagExtension = 1 << 1 // a length-prefixed block that later versions add stands before the value
	flagLinks     = 1 << 2 // the links of the trail, length-prefixed, stand after the create revision

	// recordOverhead bounds a record's bytes beyond links, actor and value.
	recordOverhead = 2 + 10*binary.MaxVarintLen64
)

// appendRecord lays out: format, flags, mod and create revision, links, other varints,
// actor, value. Revisions and times that are mostly equal are stored as differences.
func appendRecord(b []byte, r *Record) []byte {
	flags := byte(0)
	if r.Deleted {
		flags |= flagDeleted
	}
	if len(r.links) > 0 {
		flags |= flagLinks
	}
	b = append(b, recordFormat, flags)
	b = binary.AppendUvarint(b, r.ModRevision)
	b = binary.AppendUvarint(b, r.ModRevision-r.CreateRevision)
	if len(r.links) > 0 {
		b = append(binary.AppendUvarint(b, uint64(len(r.links))), r.links...)
	}
	b = binary.AppendUvarint(b, r.Version)
	b = binary.AppendUvarint(b, r.Lease)
	b = binary.AppendUvarint(b, uint64(r.Modified))
	b = binary.AppendVarint(b, r.Modified-r.Created)
	b = binary.AppendVarint(b, int64(r.StoreRevision-r.ModRevision))
	b = binary.AppendUvarint(b, uint64(len(r.Actor)))
	b = append(b, r.Actor...)
	return append(b, r.Value...)
}

// ErrRecord is a row that cannot be decoded.
var ErrRecord = errors.New("warehouse: damaged record")

// DecodeRecord reads a row of kv, or a superseded one.
func DecodeRecord(b []byte) (r Record, err error) {
	if len(b) < 10 || b[0] != recordFormat {
		return Record{}, ErrRecord
	}
	flags := b[1]
	d := decoder{b: b[2:]}
	r.Deleted = flags&flagDeleted != 0
	r.ModRevision = d.uvarint()
	r.CreateRevision = r.ModRevision - d.uvarint()
	if flags&flagLinks != 0 {
		r.links = d.bytes()
	}
	r.Version = d.uvarint()
	r.Lease = d.uvarint()
	r.Modified = int64(d.uvarint())
	r.Created = r.Modified - unzigzag(d.uvarint())
	r.StoreRevision = r.ModRevision + uint64(unzigzag(d.uvarint()))
	r.Actor = d.bytes()
	if flags&flagExtension != 0 {
		d.bytes()
	}
	if d.bad {
		return Record{}, ErrRecord
	}
	r.Value = d.b
	return r, nil
}

func (r *Record) trail() trail { return trail{mod: r.ModRevision, links: r.links} }

// revisions reads only a row's mod and create revision and its links.
func revisions(row []byte) (mod, create uint64, links []byte, err error) {
	if len(row) < 10 || row[0] != recordFormat {
		return 0, 0, nil, ErrRecord
	}
	d := decoder{b: row[2:]}
	mod = d.uvarint()
	create = mod - d.uvarint()
	if row[1]&flagLinks != 0 {
		links = d.bytes()
	}
	if d.bad || create > mod {
		err = ErrRecord
	}
	return mod, create, links, err
}

// valueLen reads only how long a row's value is. A damaged row panics, which halts
// an applier and fails the loading of a file.
func valueLen(row []byte) int {
	if len(row) < 10 || row[0] != recordFormat {
		panic(ErrRecord)
	}
	at := skipVarints(row, 2, 2) // the revisions
	if row[1]&flagLinks != 0 {
		at = skipBlock(row, at)
	}
	at = skipBlock(row, skipVarints(row, at, 5)) // up to the actor
	if row[1]&flagExtension != 0 {
		at = skipBlock(row, at)
	}
	return len(row) - at
}

func skipVarints(row []byte, at, n int) int {
	for range n {
		for row[at] >= 0x80 {
			at++
		}
		at++
	}
	return at
}

func skipBlock(row []byte, at int) int {
	u, n := binary.Uvarint(row[at:])
	if n <= 0 || u > uint64(len(row)-at-n) {
		panic(ErrRecord)
	}
	return at + n + int(u)
}

func unzigzag(u uint64) int64 { return int64(u>>1) ^ -int64(u&1) }

// Escaping keeps the order of keys and ends each with 0x00 0x01, so that the rows
// of one key stand together: 0x00 becomes 0x00 0xff.

// appendEscaped appends the escaped key with its terminator.
func appendEscaped(b, key []byte) []byte {
	for _, c := range key {
		b = append(b, c)
		if c == 0 {
			b = append(b, 0xff)
		}
	}
	return append(b, 0, 1)
}

// escapedLen is the length of what appendEscaped adds.
func escapedLen(key []byte) int {
	n := len(key) + 2
	for _, c := range key {
		if c == 0 {
			n++
		}
	}
	return n
}

// splitHist takes a hist row's key apart: it appends the key to dst, and gives the mod
// revision.
func splitHist(dst, row []byte) (key []byte, rev uint64, err error) {
	if len(row) < 10 {
		return nil, 0, ErrRecord
	}
	body, rev := row[:len(row)-8], binary.BigEndian.Uint64(row[len(row)-8:])
	key = dst
	for i := 0; i < len(body); i++ {
		c := body[i]
		key = append(key, c)
		if c != 0 {
			continue
		}
		i++
		switch {
		case i == len(body):
			return nil, 0, ErrRecord
		case body[i] == 0xff:
		case body[i] == 1 && i == len(body)-1:
			return key[:len(key)-1], rev, nil
		default:
			return nil, 0, ErrRecord
		}
	}
	return nil, 0, ErrRecord
}

func appendHistKey(b, key []byte, rev uint64) []byte {
	return binary.BigEndian.AppendUint64(appendEscaped(b, key), rev)
}

func histKey(key []byte, rev uint64) []byte {
	return appendHistKey(make([]byte, 0, escapedLen(key)+8), key, rev)
}

// Kind of a change.
type ChangeKind byte

const (
	Put    ChangeKind = 1
	Delete ChangeKind = 2
)

func appendLogKey(b []byte, rev uint64, sub uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(b, rev), sub)
}

func logKey(rev uint64, sub uint32) []byte { return appendLogKey(make([]byte, 0, 12), rev, sub) }

// Log is one row of log: a change, and the record that it superseded. Its slices
// belong to the state.
type Log struct {
	Revision uint64
	Sub      uint32
	Kind     ChangeKind
	Key      []byte
	Prev     uint64 // mod revision before; 0: the change created the key

	tombstone []byte // row of a delete
	old       []byte // superseded row; empty where there was none or a compaction took it
}

// append lays out: kind, key, tombstone of a delete, how far back the record before
// lies (one more; 0 for none), that record.
func (l *Log) append(b []byte) []byte {
	b = append(b, byte(l.Kind))
	b = append(binary.AppendUvarint(b, uint64(len(l.Key))), l.Key...)
	if l.Kind == Delete {
		b = append(binary.AppendUvarint(b, uint64(len(l.tombstone))), l.tombstone...)
	}
	back := uint64(0)
	if l.Prev != 0 {
		back = l.Revision - l.Prev + 1
	}
	return append(binary.AppendUvarint(b, back), l.old...)
}

// logOverhead bounds a log row's bytes beyond its key, tombstone and record.
const logOverhead = 12 + 1 + 3*binary.MaxVarintLen64

func decodeLog(k, v []byte) (Log, error) {
	if len(k) != 12 || len(v) < 1 || (v[0] != byte(Put) && v[0] != byte(Delete)) {
		return Log{}, ErrRecord
	}
	l := Log{
		Revision: binary.BigEndian.Uint64(k), Sub: binary.BigEndian.Uint32(k[8:]), Kind: ChangeKind(v[0]),
	}
	d := decoder{b: v[1:]}
	l.Key = d.bytes()
	if l.Kind == Delete {
		l.tombstone = d.bytes()
	}
	if back := d.uvarint(); back > l.Revision {
		d.bad = true
	} else if back != 0 {
		l.Prev = l.Revision - back + 1
	}
	l.old = d.b
	if d.bad {
		return Log{}, ErrRecord
	}
	return l, nil
}

// Superseded gives the record before the change; not ok: there was none, or a
// compaction has taken it.
func (l *Log) Superseded() (rec Record, ok bool, err error) {
	if len(l.old) == 0 {
		return Record{}, false, nil
	}
	rec, err = DecodeRecord(l.old)
	return rec, err == nil, err
}

// Written gives the record that the change wrote, a tombstone if it deleted.
func (l *Log) Written(r state.Reader) (rec Record, ok bool, err error) {
	if l.Kind == Delete {
		rec, err = DecodeRecord(l.tombstone)
		return rec, err == nil, err
	}
	return Version(r, l.Key, l.Revision)
}

// Meta is the one row of meta.
type Meta struct {
	Revision uint64 // of the last change; 1 for the empty store
	Compact  uint64 // reads below it are refused; 0 when never compacted
	Swept    uint64 // log rows below it are gone
	Keys     uint64 // latest records
	Bytes    uint64 // their keys and values
	Past     uint64 // rows of hist and log, keys and values
	Quotas   uint64 // prefixes with a quota
	Limit    uint64 // bytes that the whole store may take; 0: DefaultLimit
	SweptSub uint64 // once Swept is at Compact: what changes of that revision below this sub superseded is gone
}

// sweptAll in SweptSub: of all changes.
const sweptAll = 1 << 32

// SweepDone tells whether nothing is left that the compaction has made superfluous.
func (m Meta) SweepDone() bool {
	return m.Swept > m.Compact || m.Swept == m.Compact && (m.Compact == 0 || m.SweptSub >= sweptAll)
}

// metaSize is that of the first format; what came later is missing in old rows.
const metaSize = 1 + 5*8

var metaKey = []byte("m")

func (m Meta) encode() []byte {
	b := append(make([]byte, 0, metaSize+4*8), 1)
	for _, v := range [...]uint64{m.Revision, m.Compact, m.Swept, m.Keys, m.Bytes, m.Past, m.Quotas, m.Limit, m.SweptSub} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}

func decodeMeta(b []byte) (Meta, error) {
	if len(b) < metaSize || b[0] != 1 {
		return Meta{}, ErrRecord
	}
	at := func(i int) uint64 {
		if len(b) < 9+8*i {
			return 0
		}
		return binary.BigEndian.Uint64(b[1+8*i:])
	}
	return Meta{
		Revision: at(0), Compact: at(1), Swept: at(2), Keys: at(3), Bytes: at(4),
		Past: at(5), Quotas: at(6), Limit: at(7), SweptSub: at(8),
	}, nil
}
