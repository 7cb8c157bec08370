package leasetable

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/state"
	"nekoq/services/watch"
)

// Kinds of commands.
const (
	KindStep   command.Kind = 0x0200
	KindExpire command.Kind = 0x0201
	KindGrant  command.Kind = 0x0202
	KindRenew  command.Kind = 0x0203
	KindRevoke command.Kind = 0x0204
)

// MaxExpire bounds the index rows that one expire command looks at, and
// maxExpireKeys the attached keys it takes away (the last lease it begins is always
// finished).
const (
	MaxExpire     = 512
	maxExpireKeys = 1024
)

// End tells an owner that a lease has ended.
type End struct {
	Lease   uint64
	Expired bool  // false: revoked
	Time    int64 // of the command, Unix nanoseconds
	Actor   string
	Keys    [][]byte // this owner's attached keys in order; they may be kept
}

// Hook takes an ended lease's keys away. It cannot refuse: an error stops the node.
// The attachments are gone already.
type Hook func(tx *state.Tx, e End) error

// Ended is the event of watch.TopicLease (key: the id, 8 bytes big-endian).
type Ended struct {
	Lease   uint64
	Expired bool
}

// Owners holds the hooks. It is filled while the registry is set up and only read
// afterwards.
type Owners struct{ hooks map[Owner]Hook }

// Register declares the tables and appliers. Services add their hooks to what it
// returns before the machine opens.
func Register(reg *state.Registry) *Owners {
	o := &Owners{hooks: make(map[Owner]Hook)}
	reg.Table(TableLeases, "lease_leases")
	reg.Table(TableDeadlines, "lease_deadlines")
	reg.Table(TableAttached, "lease_attached")
	reg.Table(TableClock, "lease_clock")
	reg.Handle(KindStep, "lease_step", 1, applyStep)
	reg.Handle(KindExpire, "lease_expire", 1, o.applyExpire)
	reg.Handle(KindGrant, "lease_grant", 1, applyGrant)
	reg.Handle(KindRenew, "lease_renew", 1, applyRenew)
	reg.Handle(KindRevoke, "lease_revoke", 1, o.applyRevoke)
	return o
}

// OnRevoke sets the hook of one owner. A second one panics.
func (o *Owners) OnRevoke(owner Owner, h Hook) {
	if _, dup := o.hooks[owner]; dup {
		panic(fmt.Sprintf("leasetable: owner %d has a hook already", owner))
	}
	o.hooks[owner] = h
}

// Revoke ends a lease and takes its keys away.
func (o *Owners) Revoke(tx *state.Tx, id uint64, cmd *command.Command) error {
	l, ok := Find(tx, id)
	if !ok {
		return ErrNotFound(id)
	}
	_, err := o.end(tx, l, false, cmd)
	return err
}

// end removes the lease and its attachments, then tells the owners in the order of
// their numbers. It returns the number of keys.
func (o *Owners) end(tx *state.Tx, l Lease, expired bool, cmd *command.Command) (int, error) {
	var keys [][]byte
	var owners []Owner
	Keys(tx, l.ID, func(ow Owner, key []byte) bool {
		owners = append(owners, ow)
		keys = append(keys, append([]byte(nil), key...))
		return true
	})
	remove(tx, l)
	for i, k := range keys {
		tx.DeleteFound(TableAttached, attachKey(l.ID, owners[i], k))
	}
	for i := 0; i < len(keys); {
		j := i + 1
		for j < len(keys) && owners[j] == owners[i] {
			j++
		}
		if h := o.hooks[owners[i]]; h != nil {
			e := End{Lease: l.ID, Expired: expired, Time: cmd.Time, Actor: cmd.Actor, Keys: keys[i:j:j]}
			if err := h(tx, e); err != nil {
				return 0, fmt.Errorf("lease: the end of lease %d: %w", l.ID, err)
			}
		}
		i = j
	}
	tx.Emit(watch.TopicLease, idKey(l.ID), Ended{Lease: l.ID, Expired: expired})
	return len(keys), nil
}

// Step payload: the step before, and the milliseconds measured since.

// AppendStep encodes the payload of KindStep.
func AppendStep(b []byte, after, elapsed uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, after), elapsed)
}

func applyStep(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	var after, elapsed uint64
	if err := fields(cmd, &after, &elapsed); err != nil {
		return nil, err
	}
	c := readClock(tx)
	if after != c.step {
		return nil, errs.New(errs.Conflict, "lease clock: step %d came first, want to follow %d", c.step, after)
	}
	c.step++
	c.now += min(elapsed, MaxStep)
	c.write(tx)
	return nil, nil
}

// AppendExpire encodes the payload of KindExpire: the most index rows to look at.
func AppendExpire(b []byte, most int) []byte { return binary.AppendUvarint(b, uint64(most)) }

// Expired is the result of KindExpire.
type Expired struct {
	Leases, Keys, Moved uint64
	More                bool // rows that have come up are left
}

// DecodeExpired decodes it.
func DecodeExpired(b []byte) (Expired, error) {
	var e Expired
	var more uint64
	err := uvarints(b, &e.Leases, &e.Keys, &e.Moved, &more)
	e.More = more != 0
	return e, err
}

// applyExpire looks at the index rows that have come up: a lease that was renewed
// since moves to its true deadline, the others end.
func (o *Owners) applyExpire(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	var most uint64
	if err := fields(cmd, &most); err != nil {
		return nil, err
	}
	most = min(most, MaxExpire)
	c := readClock(tx)
	now := c.now
	var due [][2]uint64 // deadline and id
	more := uint64(0)
	tx.Scan(TableDeadlines, c.first(), deadlineKey(now+1, 0), func(k, _ []byte) bool {
		if uint64(len(due)) == most {
			more = 1
			return false
		}
		due = append(due, [2]uint64{binary.BigEndian.Uint64(k), binary.BigEndian.Uint64(k[8:])})
		return true
	})
	var ended, keys, moved uint64
	for _, row := range due {
		id := row[1]
		if keys >= maxExpireKeys {
			more = 1
			break
		}
		l, ok := get(tx, id)
		if !ok {
			return nil, fmt.Errorf("lease: deadline of lease %d without a readable lease", id)
		}
		c.doneAt, c.doneLast = row[0], id
		if l.Deadline > now {
			reindex(tx, &l)
			putLease(tx, l)
			moved++
			continue
		}
		n, err := o.end(tx, l, true, cmd)
		if err != nil {
			return nil, err
		}
		keys += uint64(n)
		ended++
	}
	if ended+moved == 0 {
		return []byte{0, 0, 0, 0}, nil
	}
	c.write(tx)
	b := make([]byte, 0, 16)
	for _, v := range []uint64{ended, keys, moved, more} {
		b = binary.AppendUvarint(b, v)
	}
	return b, nil
}

// AppendGrant encodes the payload of KindGrant.
func AppendGrant(b []byte, g Grant) []byte {
	auto := uint64(0)
	if g.Auto {
		auto = 1
	}
	for _, v := range []uint64{g.ID, g.TTL, uint64(g.Owner), auto} {
		b = binary.AppendUvarint(b, v)
	}
	return append(b, g.Meta...)
}

func applyGrant(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	var g Grant
	var owner, auto uint64
	rest, err := uvarintsRest(cmd.Payload, &g.ID, &g.TTL, &owner, &auto)
	if err != nil {
		return nil, fmt.Errorf("lease: command %#x: %w", cmd.Kind, err)
	}
	g.Owner, g.Auto, g.Meta = Owner(owner), auto != 0, rest
	if err := CheckGrant(tx, g); err != nil {
		return nil, err
	}
	l := g.Apply(tx)
	return appendResult(l), nil
}

// AppendID encodes the payload of KindRenew and KindRevoke.
func AppendID(b []byte, id uint64) []byte { return binary.AppendUvarint(b, id) }

func applyRenew(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	var id uint64
	if err := fields(cmd, &id); err != nil {
		return nil, err
	}
	l, err := Renew(tx, id)
	if err != nil {
		return nil, err
	}
	return appendResult(l), nil
}

func (o *Owners) applyRevoke(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	var id uint64
	if err := fields(cmd, &id); err != nil {
		return nil, err
	}
	return nil, o.Revoke(tx, id, cmd)
}

// appendResult is the result of a grant or renewal: id, TTL, grant revision.
func appendResult(l Lease) []byte {
	b := binary.AppendUvarint(make([]byte, 0, 24), l.ID)
	return binary.AppendUvarint(binary.AppendUvarint(b, l.TTL), l.Granted)
}

// DecodeResult decodes the result of KindGrant and KindRenew: ID, TTL and Granted.
func DecodeResult(b []byte) (Lease, error) {
	var l Lease
	err := uvarints(b, &l.ID, &l.TTL, &l.Granted)
	return l, err
}

var errFields = errors.New("damaged payload")

func fields(cmd *command.Command, into ...*uint64) error {
	if err := uvarints(cmd.Payload, into...); err != nil {
		return fmt.Errorf("lease: command %#x: %w", cmd.Kind, err)
	}
	return nil
}

func uvarints(b []byte, into ...*uint64) error {
	_, err := uvarintsRest(b, into...)
	return err
}

func uvarintsRest(b []byte, into ...*uint64) ([]byte, error) {
	for _, f := range into {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, errFields
		}
		*f, b = v, b[n:]
	}
	return b, nil
}

func milliseconds(ms uint64) string {
	if ms > MaxTTL {
		return fmt.Sprintf("%dms", ms)
	}
	return (time.Duration(ms) * time.Millisecond).String()
}
