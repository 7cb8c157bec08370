package leasetable

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"

	"nekoq/services/errs"
	"nekoq/services/state"
)

// Tables. 25 was one.
const (
	TableLeases   state.TableID = 24 // lease id -> row
	TableAttached state.TableID = 26 // lease id, owner, key -> nothing: keys that do not stand in the lease's row
	TableClock    state.TableID = 27 // one row: step number and lease clock
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

	// held is a key that hangs on it, its Key nil for none. Most leases have one, and
	// then it costs no row of its own.
	held hung
	// more: there may be others, in TableAttached.
	more bool
}

// hung is a key that hangs on a lease.
type hung struct {
	Owner Owner
	Key   []byte
}

func (h hung) compare(o Owner, key []byte) int {
	return cmp.Or(cmp.Compare(h.Owner, o), bytes.Compare(h.Key, key))
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
	putLease(tx, l)
	index(tx).add(deadline{l.Deadline, id})
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
	l.move(tx, now+Slack+l.TTL+Headroom(l.TTL))
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
	l.TTL = ttl
	l.move(tx, now+Slack+ttl)
	return l
}

// maxHeld is the longest key, in bytes, that stands in its lease's row, which every
// renewal writes.
const maxHeld = 256

// Attach ties a key to a lease that the caller has found. The key is not kept.
func Attach(tx *state.Tx, id uint64, o Owner, key []byte) {
	l, ok := get(tx, id)
	switch {
	case ok && l.held.Key == nil && !l.more && len(key) > 0 && len(key) <= maxHeld:
		l.held = hung{o, key}
		putLease(tx, l)
		return
	case ok && l.held.Key != nil && l.held.compare(o, key) == 0:
		return
	case ok && !l.more:
		l.more = true
		putLease(tx, l)
	}
	tx.Put(TableAttached, attachKey(id, o, key), none)
}

// Detach unties a key. idle: that was the last one of an Auto lease, which CloseIdle
// ends when the command has tied all that it ties.
func Detach(tx *state.Tx, id uint64, o Owner, key []byte) (idle bool) {
	l, ok := get(tx, id)
	switch {
	case ok && l.held.Key != nil && l.held.compare(o, key) == 0:
		l.held = hung{}
		putLease(tx, l)
	case !ok || l.more:
		tx.Delete(TableAttached, attachKey(id, o, key))
	}
	return ok && l.idle(tx)
}

// CloseIdle ends an Auto lease that nothing hangs on.
func CloseIdle(tx *state.Tx, id uint64) {
	if l, ok := get(tx, id); ok && l.idle(tx) {
		tx.DeleteFound(TableLeases, idKey(l.ID))
		index(tx).remove(deadline{l.Deadline, l.ID})
	}
}

func (l *Lease) idle(r state.Reader) bool {
	return l.Auto && l.held.Key == nil && !(l.more && anyAttached(r, l.ID))
}

func anyAttached(r state.Reader, id uint64) (found bool) {
	r.Scan(TableAttached, idKey(id), idKey(id+1), func(_, _ []byte) bool {
		found = true
		return false
	})
	return found
}

// Keys calls fn with each key attached to a lease, by owner and key, until it
// returns false. The key belongs to the state.
func Keys(r state.Reader, id uint64, fn func(o Owner, key []byte) bool) {
	if l, ok := get(r, id); ok {
		l.keys(r, func(_ []byte, h hung) bool { return fn(h.Owner, h.Key) })
	}
}

// keys calls fn with each key of the lease, in order, until it returns false. row is
// that of TableAttached, nil for the key that stands in the lease's.
func (l *Lease) keys(r state.Reader, fn func(row []byte, h hung) bool) {
	waits, on := l.held.Key != nil, true
	if l.more {
		r.Scan(TableAttached, idKey(l.ID), idKey(l.ID+1), func(k, _ []byte) bool {
			h := hung{Owner(k[8]), k[9:]}
			if waits && l.held.compare(h.Owner, h.Key) < 0 {
				waits = false
				if on = fn(nil, l.held); !on {
					return false
				}
			}
			on = fn(k, h)
			return on
		})
	}
	if waits && on {
		fn(nil, l.held)
	}
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

// Clock gives the number of the last step and the lease clock in milliseconds.
func Clock(r state.Reader) (step, now uint64) {
	c := readClock(r)
	return c.step, c.now
}

// clockRow is the one row of TableClock.
type clockRow struct{ step, now uint64 }

func readClock(r state.Reader) clockRow {
	v, ok := r.Get(TableClock, clockKey)
	if !ok || len(v) < 16 {
		return clockRow{}
	}
	return clockRow{binary.BigEndian.Uint64(v), binary.BigEndian.Uint64(v[8:])}
}

func (c clockRow) write(tx *state.Tx) {
	row := binary.BigEndian.AppendUint64(make([]byte, 0, 16), c.step)
	tx.Put(TableClock, clockKey, binary.BigEndian.AppendUint64(row, c.now))
}

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

// move gives a lease as it stands in the state another deadline.
func (l *Lease) move(tx *state.Tx, to uint64) {
	x := index(tx)
	x.remove(deadline{l.Deadline, l.ID})
	l.Deadline = to
	x.add(deadline{l.Deadline, l.ID})
	putLease(tx, *l)
}

func idKey(id uint64) []byte { return binary.BigEndian.AppendUint64(make([]byte, 0, 8), id) }

func attachKey(id uint64, o Owner, key []byte) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 9+len(key)), id)
	return append(append(b, byte(o)), key...)
}

const rowFormat = 2

const (
	flagAuto = 1 << iota
	flagHeld
	flagMore
)

// encode lays out a row: format, flags, owner, then varints, then, with flagHeld, the
// key's owner, length and bytes, then the metadata.
func (l Lease) encode() []byte {
	b := make([]byte, 0, 3+3*binary.MaxVarintLen64+1+binary.MaxVarintLen16+len(l.held.Key)+len(l.Meta))
	flags := byte(0)
	if l.Auto {
		flags |= flagAuto
	}
	if l.held.Key != nil {
		flags |= flagHeld
	}
	if l.more {
		flags |= flagMore
	}
	b = append(b, rowFormat, flags, byte(l.Owner))
	b = binary.AppendUvarint(b, l.TTL)
	b = binary.AppendUvarint(b, l.Deadline)
	b = binary.AppendUvarint(b, l.Granted)
	if l.held.Key != nil {
		b = binary.AppendUvarint(append(b, byte(l.held.Owner)), uint64(len(l.held.Key)))
		b = append(b, l.held.Key...)
	}
	return append(b, l.Meta...)
}

var errRow = errors.New("lease: damaged row")

func decode(id uint64, b []byte) (Lease, error) {
	if len(b) < 3 || b[0] != rowFormat {
		return Lease{}, errRow
	}
	flags := b[1]
	l := Lease{ID: id, Auto: flags&flagAuto != 0, Owner: Owner(b[2]), more: flags&flagMore != 0}
	b = b[3:]
	for _, f := range [...]*uint64{&l.TTL, &l.Deadline, &l.Granted} {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return Lease{}, errRow
		}
		*f, b = v, b[n:]
	}
	if flags&flagHeld != 0 {
		if len(b) < 2 {
			return Lease{}, errRow
		}
		size, n := binary.Uvarint(b[1:])
		if n <= 0 || size > uint64(len(b)-1-n) {
			return Lease{}, errRow
		}
		at := 1 + n
		l.held = hung{Owner(b[0]), b[at : at+int(size) : at+int(size)]}
		b = b[at+int(size):]
	}
	if len(b) > 0 {
		l.Meta = b
	}
	return l, nil
}
