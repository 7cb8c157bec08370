package table

import (
	"encoding/binary"
	"fmt"

	"nekoq/services/command"
	"nekoq/services/state"
)

// Tables and kinds of commands.
const (
	TableKV   state.TableID = 0x80
	TableHist state.TableID = 0x81
	TableLog  state.TableID = 0x82
	TableMeta state.TableID = 0x83
	// TableQuota: prefix (with a byte before it) -> quota and what it uses.
	TableQuota state.TableID = 0x84

	KindPut     command.Kind = 0x2000
	KindDelete  command.Kind = 0x2001
	KindCompact command.Kind = 0x2002
	KindSweep   command.Kind = 0x2003
	KindTxn     command.Kind = 0x2004
	KindQuota   command.Kind = 0x2005
	KindLimit   command.Kind = 0x2006
	KindRevert  command.Kind = 0x2007
)

// Ceilings that no configuration lifts, so that every node refuses the same. An
// escaped key of all zero bytes must fit bbolt's key limit of 32,768 bytes.
const (
	MaxKey   = 8 << 10
	MaxValue = 32 << 20
	MaxSweep = 4096 // log rows in one sweep command
)

// AnyRevision means that a write has no precondition.
const AnyRevision = ^uint64(0)

// PutCommand is the payload of KindPut.
type PutCommand struct {
	Key, Value []byte
	IfRevision uint64 // mod revision that the key must have; 0: it must not exist
	TTL        uint64 // milliseconds; 0 for none. Excludes Lease.
	Lease      uint64 // 0 for none
}

const (
	flagIf    = 1 << 0
	flagTTL   = 1 << 1
	flagLease = 1 << 2
)

// Encode gives the payload: flags, the numbers that the flags name, key, value.
func (c *PutCommand) Encode() []byte {
	b := make([]byte, 1, 1+4*binary.MaxVarintLen64+len(c.Key)+len(c.Value))
	if c.IfRevision != AnyRevision {
		b[0] |= flagIf
		b = binary.AppendUvarint(b, c.IfRevision)
	}
	if c.TTL != 0 {
		b[0] |= flagTTL
		b = binary.AppendUvarint(b, c.TTL)
	}
	if c.Lease != 0 {
		b[0] |= flagLease
		b = binary.AppendUvarint(b, c.Lease)
	}
	b = binary.AppendUvarint(b, uint64(len(c.Key)))
	b = append(b, c.Key...)
	return append(b, c.Value...)
}

// DecodePut reads the payload of KindPut; Key and Value alias it.
func DecodePut(b []byte) (c PutCommand, err error) {
	d := decoder{b: b}
	flags := d.byte()
	if flags&^(flagIf|flagTTL|flagLease) != 0 {
		return c, fmt.Errorf("warehouse: put: unknown flags %#x", flags)
	}
	c.IfRevision = AnyRevision
	if flags&flagIf != 0 {
		c.IfRevision = d.uvarint()
	}
	if flags&flagTTL != 0 {
		c.TTL = d.uvarint()
	}
	if flags&flagLease != 0 {
		c.Lease = d.uvarint()
	}
	c.Key = d.bytes()
	c.Value = d.b
	return c, d.err("put")
}

// DeleteCommand is the payload of KindDelete.
type DeleteCommand struct {
	Key        []byte
	IfRevision uint64
}

// Encode gives the payload.
func (c *DeleteCommand) Encode() []byte {
	b := make([]byte, 1, 1+2*binary.MaxVarintLen64+len(c.Key))
	if c.IfRevision != AnyRevision {
		b[0] |= flagIf
		b = binary.AppendUvarint(b, c.IfRevision)
	}
	b = binary.AppendUvarint(b, uint64(len(c.Key)))
	return append(b, c.Key...)
}

// DecodeDelete reads the payload of KindDelete; Key aliases it.
func DecodeDelete(b []byte) (c DeleteCommand, err error) {
	d := decoder{b: b}
	flags := d.byte()
	if flags&^flagIf != 0 {
		return c, fmt.Errorf("warehouse: delete: unknown flags %#x", flags)
	}
	c.IfRevision = AnyRevision
	if flags&flagIf != 0 {
		c.IfRevision = d.uvarint()
	}
	c.Key = d.bytes()
	return c, d.err("delete")
}

// EncodeNumber is the payload of KindCompact (the revision) and KindSweep (the most
// rows).
func EncodeNumber(n uint64) []byte { return binary.AppendUvarint(nil, n) }

// Written is the result of KindPut and KindDelete.
type Written struct {
	Revision       uint64 // key revision after the command
	CreateRevision uint64 // of the put record; 0 for a delete
	Version        uint64 // of the put record; 0 for a delete
	Lease          uint64 // that the record hangs on
	PrevRevision   uint64 // mod revision that was replaced or deleted; 0 for none
}

func (w Written) encode() []byte {
	b := make([]byte, 0, 24)
	for _, v := range [...]uint64{w.Revision, w.CreateRevision, w.Version, w.Lease, w.PrevRevision} {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

// DecodeWritten reads the result of KindPut and KindDelete.
func DecodeWritten(b []byte) (w Written, err error) {
	d := decoder{b: b}
	w = Written{
		Revision: d.uvarint(), CreateRevision: d.uvarint(), Version: d.uvarint(),
		Lease: d.uvarint(), PrevRevision: d.uvarint(),
	}
	return w, d.err("result")
}

// Compacted is the result of KindCompact and KindSweep.
type Compacted struct {
	Revision uint64 // compact revision
	Rows     uint64 // rows that the sweep removed
	More     bool   // rows are left to sweep
}

func (c Compacted) encode() []byte {
	b := make([]byte, 0, 12)
	b = binary.AppendUvarint(b, c.Revision)
	b = binary.AppendUvarint(b, c.Rows)
	more := byte(0)
	if c.More {
		more = 1
	}
	return append(b, more)
}

// DecodeCompacted reads the result of KindCompact and KindSweep.
func DecodeCompacted(b []byte) (c Compacted, err error) {
	d := decoder{b: b}
	c = Compacted{Revision: d.uvarint(), Rows: d.uvarint(), More: d.byte() != 0}
	return c, d.err("result")
}

// decoder reads a payload; the first damage sticks.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.bad = true
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad = true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if d.bad || n > uint64(len(d.b)) {
		d.bad = true
		return nil
	}
	b := d.b[:n:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) err(what string) error {
	if d.bad {
		return fmt.Errorf("warehouse: %s: damaged bytes", what)
	}
	return nil
}
