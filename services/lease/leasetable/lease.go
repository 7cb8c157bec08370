package leasetable

import (
	"encoding/binary"
	"errors"

	"nekoq/services/errs"
	"nekoq/services/state"
)

// Tables.
const (
	TableLeases    state.TableID = 24 // lease id -> row
	TableDeadlines state.TableID = 25 // deadline, lease id -> nothing
	TableAttached  state.TableID = 26 // lease id, owner, key -> nothing
	TableClock     state.TableID = 27 // one row: step number and lease clock
)

// The lease clock's constants, in milliseconds. They decide outcomes, so they are
// the same on every node and not configurable.
const (
	MaxStep = 400
	Slack   = 2 * MaxStep
)

// TTL bounds in milliseconds: 1 s to 9,000,000,000 s (etcd's greatest).
const (
	MinTTL = 1_000
	MaxTTL = 9_000_000_000_000
)

// MaxMeta is the most metadata a lease carries, in bytes.
const MaxMeta = 4 << 10

// Owner says whose keys are attached. Numbers are only ever appended.
type Owner uint8

const (
	OwnerNone       Owner = 0
	OwnerWarehouse  Owner = 1
	OwnerNaming     Owner = 2
	OwnerScheduling Owner = 3
	OwnerNumgen     Owner = 4
)

// Lease is one row.
type Lease struct {
	ID uint64
	// TTL in milliseconds, as granted.
	TTL uint64
	// Deadline in lease-clock milliseconds.
	Deadline uint64
	// Owner is the service that granted it, OwnerNone for a user's own.
	Owner Owner
	// Auto leases belong to their keys and go with the last of them.
	Auto bool
	// Granted is the store revision of the grant: a fencing token.
	Granted uint64
	// Meta is opaque to leases. It belongs to the state when read from it.
	Meta []byte

	// indexed is the deadline under which the row stands in TableDeadlines, at or
	// before Deadline: a renewal writes only the lease's row, and the index row
	// follows when it comes up.
	indexed uint64
}

// Remaining is the time left at lease-clock now, in milliseconds: at most TTL.
func (l Lease) Remaining(now uint64) uint64 {
	if l.Deadline <= now+Slack {
		return 0
	}
	return min(l.Deadline-now-Slack, l.TTL)
}

// Grant asks for a lease.
type Grant struct {
	ID    uint64 // 0 lets the state choose
	TTL   uint64 // milliseconds
	Owner Owner
	Auto  bool
	Meta  []byte
}

// CheckTTL tells whether ms is within the bounds.
func CheckTTL(ms uint64) error {
	if ms < MinTTL || ms > MaxTTL {
		return errs.Invalid("ttl", milliseconds(ms), "1s to 9000000000s")
	}
	return nil
}

// CheckGrant tells whether Apply would refuse g. It writes nothing.
func CheckGrant(r state.Reader, g Grant) error {
	if err := CheckTTL(g.TTL); err != nil {
		return err
	}
	if len(g.Meta) > MaxMeta {
		return errs.New(errs.TooLarge, "metadata: %d bytes, over the limit of %d", len(g.Meta), MaxMeta)
	}
	if g.ID == 0 {
		return nil
	}
	if g.ID > 1<<63-1 {
		return errs.Invalid("id", g.ID, "1 to 9223372036854775807")
	}
	if _, ok := r.Get(TableLeases, idKey(g.ID)); ok {
		return errs.New(errs.AlreadyExists, "lease %d exists already", g.ID)
	}
	return nil
}

// Apply grants a lease that CheckGrant passed.
func (g Grant) Apply(tx *state.Tx) Lease {
	_, now := Clock(tx)
	id := g.ID
	if id == 0 {
		id = freeID(tx)
	}
	l := Lease{
		ID: id, TTL: g.TTL, Deadline: now + Slack + g.TTL, Owner: g.Owner, Auto: g.Auto,
		Granted: tx.Next(), Meta: g.Meta,
	}
	l.indexed = l.Deadline
	putLease(tx, l)
	tx.Put(TableDeadlines, deadlineKey(l.indexed, id), none)
	return l
}

// autoBit keeps the ids that the state chooses away from small numbers that a
// user would type. Their steps are 1<<autoShift a store revision.
const (
	autoBit   = 1 << 62
	autoShift = 10
)

func freeID(tx *state.Tx) uint64 {
	id := autoBit | (tx.Next() << autoShift & (autoBit - 1))
	for {
		if _, taken := tx.Get(TableLeases, idKey(id)); !taken {
			return id
		}
		id++
	}
}

// Find gives a lease that has not ended. A lease whose deadline has passed but
// whose expiry still waits in line counts as ended; Present gives it too.
func Find(r state.Reader, id uint64) (Lease, bool) {
	l, ok := get(r, id)
	if !ok {
		return Lease{}, false
	}
	if _, now := Clock(r); l.Deadline <= now {
		return Lease{}, false
	}
	return l, true
}

// Present gives a lease as long as its keys are there.
func Present(r state.Reader, id uint64) (Lease, bool) { return get(r, id) }

// ErrNotFound is the refusal for an unknown or ended lease.
func ErrNotFound(id uint64) error {
	return errs.New(errs.LeaseNotFound, "lease %d is unknown or has expired", id)
}

// MaxHeadroom bounds what a renewal gives beyond the TTL, in milliseconds.
const MaxHeadroom = 1_000

// Headroom is what a renewal gives beyond the TTL, so that the next ones need not be
// written: see Covered.
func Headroom(ttl uint64) uint64 { return min(ttl/4, MaxHeadroom) }

// Renew gives a lease its full time again, and some headroom; it writes when less than
// half of that is left.
func Renew(tx *state.Tx, id uint64) (Lease, bool) {
	l, spare, covered := Covered(tx, id)
	if l.ID == 0 {
		return l, false
	}
	if covered && spare >= Headroom(l.TTL)/2 {
		return l, true
	}
	_, now := Clock(tx)
	l.Deadline = now + Slack + l.TTL + Headroom(l.TTL)
	putLease(tx, l)
	return l, true
}

// Covered tells whether a lease has at least its full time left, and how many
// milliseconds beside. The lease's ID is 0 when it is unknown or has ended.
func Covered(r state.Reader, id uint64) (l Lease, spare uint64, covered bool) {
	l, ok := get(r, id)
	if !ok {
		return Lease{}, 0, false
	}
	_, now := Clock(r)
	if l.Deadline <= now {
		return Lease{}, 0, false
	}
	if full := now + Slack + l.TTL; l.Deadline >= full {
		return l, l.Deadline - full, true
	}
	return l, 0, false
}

// Retime gives a lease another TTL from now on. The caller has checked the TTL
// and found the lease.
func Retime(tx *state.Tx, l Lease, ttl uint64) Lease {
	_, now := Clock(tx)
	l.TTL, l.Deadline = ttl, now+Slack+ttl
	if l.Deadline < l.indexed {
		reindex(tx, &l)
	}
	putLease(tx, l)
	return l
}

// Attach ties a key to a lease that the caller has found. The key is not kept.
func Attach(tx *state.Tx, id uint64, o Owner, key []byte) {
	tx.Put(TableAttached, attachKey(id, o, key), none)
}

// Detach unties a key. An Auto lease ends with its last key.
func Detach(tx *state.Tx, id uint64, o Owner, key []byte) {
	tx.Delete(TableAttached, attachKey(id, o, key))
	l, ok := get(tx, id)
	if !ok || !l.Auto {
		return
	}
	empty := true
	start := idKey(id)
	tx.Scan(TableAttached, start, idKey(id+1), func(_, _ []byte) bool {
		empty = false
		return false
	})
	if empty {
		remove(tx, l)
	}
}

// Keys calls fn with each key attached to a lease, by owner and key, until it
// returns false. The key belongs to the state.
func Keys(r state.Reader, id uint64, fn func(o Owner, key []byte) bool) {
	r.Scan(TableAttached, idKey(id), idKey(id+1), func(k, _ []byte) bool {
		return fn(Owner(k[8]), k[9:])
	})
}

// List calls fn with the leases from id on that are present, in id order, until it
// returns false.
func List(r state.Reader, from uint64, fn func(l Lease) bool) {
	r.Scan(TableLeases, idKey(from), nil, func(k, v []byte) bool {
		l, err := decode(binary.BigEndian.Uint64(k), v)
		if err != nil {
			return true
		}
		return fn(l)
	})
}

// Any tells whether a lease exists, so whether the clock must go on.
func Any(r state.Reader) bool {
	found := false
	r.Scan(TableDeadlines, readClock(r).first(), nil, func(_, _ []byte) bool {
		found = true
		return false
	})
	return found
}

// Due tells whether an index row has come up.
func Due(r state.Reader) bool {
	c := readClock(r)
	due := false
	r.Scan(TableDeadlines, c.first(), deadlineKey(c.now+1, 0), func(_, _ []byte) bool {
		due = true
		return false
	})
	return due
}

// Clock gives the number of the last step and the lease clock in milliseconds.
func Clock(r state.Reader) (step, now uint64) {
	c := readClock(r)
	return c.step, c.now
}

// clockRow is the one row of TableClock. Every index row at or before done has been
// taken care of: new ones lie beyond now, so looks begin after it and need not step
// over what the latest expiries deleted.
type clockRow struct {
	step, now        uint64
	doneAt, doneLast uint64 // deadline and id
}

func readClock(r state.Reader) clockRow {
	v, ok := r.Get(TableClock, clockKey)
	if !ok || len(v) < 32 {
		return clockRow{}
	}
	at := func(i int) uint64 { return binary.BigEndian.Uint64(v[8*i:]) }
	return clockRow{at(0), at(1), at(2), at(3)}
}

func (c clockRow) write(tx *state.Tx) {
	row := make([]byte, 0, 32)
	for _, v := range [...]uint64{c.step, c.now, c.doneAt, c.doneLast} {
		row = binary.BigEndian.AppendUint64(row, v)
	}
	tx.Put(TableClock, clockKey, row)
}

// first is where a look at the index begins.
func (c clockRow) first() []byte { return deadlineKey(c.doneAt, c.doneLast) }

var clockKey = []byte("clock")

// none is the value of rows whose key says it all.
var none = []byte{}

func get(r state.Reader, id uint64) (Lease, bool) {
	v, ok := r.Get(TableLeases, idKey(id))
	if !ok {
		return Lease{}, false
	}
	l, err := decode(id, v)
	return l, err == nil
}

func putLease(tx *state.Tx, l Lease) { tx.Put(TableLeases, idKey(l.ID), l.encode()) }

func reindex(tx *state.Tx, l *Lease) {
	tx.DeleteFound(TableDeadlines, deadlineKey(l.indexed, l.ID))
	l.indexed = l.Deadline
	tx.Put(TableDeadlines, deadlineKey(l.indexed, l.ID), none)
}

func remove(tx *state.Tx, l Lease) {
	tx.DeleteFound(TableLeases, idKey(l.ID))
	tx.DeleteFound(TableDeadlines, deadlineKey(l.indexed, l.ID)) // each lease has one
}

func idKey(id uint64) []byte { return binary.BigEndian.AppendUint64(make([]byte, 0, 8), id) }

func deadlineKey(deadline, id uint64) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 16), deadline)
	return binary.BigEndian.AppendUint64(b, id)
}

func attachKey(id uint64, o Owner, key []byte) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 9+len(key)), id)
	return append(append(b, byte(o)), key...)
}

const rowFormat = 1

const flagAuto = 1

// encode lays out a row: format, flags, owner, then varints, then the metadata.
func (l Lease) encode() []byte {
	b := make([]byte, 0, 3+4*binary.MaxVarintLen64+len(l.Meta))
	flags := byte(0)
	if l.Auto {
		flags |= flagAuto
	}
	b = append(b, rowFormat, flags, byte(l.Owner))
	b = binary.AppendUvarint(b, l.TTL)
	b = binary.AppendUvarint(b, l.Deadline)
	b = binary.AppendUvarint(b, l.Deadline-l.indexed)
	b = binary.AppendUvarint(b, l.Granted)
	return append(b, l.Meta...)
}

var errRow = errors.New("lease: damaged row")

func decode(id uint64, b []byte) (Lease, error) {
	if len(b) < 3 || b[0] != rowFormat {
		return Lease{}, errRow
	}
	l := Lease{ID: id, Auto: b[1]&flagAuto != 0, Owner: Owner(b[2])}
	b = b[3:]
	var behind uint64
	for _, f := range []*uint64{&l.TTL, &l.Deadline, &behind, &l.Granted} {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return Lease{}, errRow
		}
		*f, b = v, b[n:]
	}
	l.indexed = l.Deadline - behind
	if len(b) > 0 {
		l.Meta = b
	}
	return l, nil
}
