package table

import (
	"encoding/binary"
	"errors"
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
}

const (
	recordFormat = 1

	flagDeleted   = 1 << 0
	flagExtension = 1 << 1 // a length-prefixed block that later versions add stands before the value

	// recordOverhead bounds a record's bytes beyond actor and value.
	recordOverhead = 2 + 9*binary.MaxVarintLen64
)

// appendRecord lays out: format, flags, varints, actor, value. Revisions and times
// that are mostly equal are stored as differences.
func appendRecord(b []byte, r *Record) []byte {
	flags := byte(0)
	if r.Deleted {
		flags |= flagDeleted
	}
	b = append(b, recordFormat, flags)
	b = binary.AppendUvarint(b, r.ModRevision)
	b = binary.AppendUvarint(b, r.ModRevision-r.CreateRevision)
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

// DecodeRecord reads a row of kv or hist.
func DecodeRecord(b []byte) (r Record, err error) {
	if len(b) < 10 || b[0] != recordFormat {
		return Record{}, ErrRecord
	}
	flags := b[1]
	b = b[2:]
	r.Deleted = flags&flagDeleted != 0
	var u uint64
	ok := true
	next := func() uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			ok = false
			return 0
		}
		b = b[n:]
		return v
	}
	r.ModRevision = next()
	r.CreateRevision = r.ModRevision - next()
	r.Version = next()
	r.Lease = next()
	r.Modified = int64(next())
	r.Created = r.Modified - unzigzag(next())
	r.StoreRevision = r.ModRevision + uint64(unzigzag(next()))
	u = next()
	if !ok || u > uint64(len(b)) {
		return Record{}, ErrRecord
	}
	r.Actor, b = b[:u:u], b[u:]
	if flags&flagExtension != 0 {
		u = next()
		if !ok || u > uint64(len(b)) {
			return Record{}, ErrRecord
		}
		b = b[u:]
	}
	r.Value = b
	return r, nil
}

// valueLen reads only how long a row's value is. A damaged row panics, which halts
// an applier and fails the loading of a file.
func valueLen(row []byte) int {
	if len(row) < 10 || row[0] != recordFormat {
		panic(ErrRecord)
	}
	at := 2
	for range 7 { // the varints before the length of the actor
		for row[at] >= 0x80 {
			at++
		}
		at++
	}
	skips := 1
	if row[1]&flagExtension != 0 {
		skips = 2
	}
	for range skips {
		u, n := binary.Uvarint(row[at:])
		if n <= 0 || u > uint64(len(row)-at-n) {
			panic(ErrRecord)
		}
		at += n + int(u)
	}
	return len(row) - at
}

func unzigzag(u uint64) int64 { return int64(u>>1) ^ -int64(u&1) }

// modRevision reads only a row's mod revision, its first field.
func modRevision(row []byte) uint64 {
	if len(row) < 3 {
		return 0
	}
	v, _ := binary.Uvarint(row[2:])
	return v
}

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

// splitHist takes a hist row's key apart: key and mod revision.
func splitHist(row []byte) (key []byte, rev uint64, err error) {
	if len(row) < 10 {
		return nil, 0, ErrRecord
	}
	body, rev := row[:len(row)-8], binary.BigEndian.Uint64(row[len(row)-8:])
	key = make([]byte, 0, len(body)-2)
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

// Log is one row of log.
type Log struct {
	Revision uint64
	Sub      uint32
	Kind     ChangeKind
	Key      []byte // belongs to the state
}

func decodeLog(k, v []byte) (Log, error) {
	if len(k) != 12 || len(v) < 1 || (v[0] != byte(Put) && v[0] != byte(Delete)) {
		return Log{}, ErrRecord
	}
	return Log{
		Revision: binary.BigEndian.Uint64(k), Sub: binary.BigEndian.Uint32(k[8:]),
		Kind: ChangeKind(v[0]), Key: v[1:],
	}, nil
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
