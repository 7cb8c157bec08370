package leasetable

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/state"
)

// Kinds of commands.
const (
	KindStep   command.Kind = 0x0200
	KindExpire command.Kind = 0x0201
	KindGrant  command.Kind = 0x0202
	KindRenew  command.Kind = 0x0203
	KindRevoke command.Kind = 0x0204
)

// End tells an owner that a lease has ended.
type End struct {
	Lease   uint64
	Expired bool  // false: revoked
	Time    int64 // of the command, Unix nanoseconds
	Actor   string
	Keys    [][]byte // this owner's attached keys in order; they belong to the state
}

// Hook takes away the keys of leases that ended in one command, in the order of
// ends, none of which is without keys. It cannot refuse: an error stops the node.
// The leases and attachments are gone already.
type Hook func(tx *state.Tx, ends []End) error

// Ended is the event of watch.TopicLease (key: the id, 8 bytes big-endian).
type Ended struct {
	Lease   uint64
	Expired bool
}

// Owners holds the hooks. It is filled while the registry is set up and only read
// afterwards.
type Owners struct {
	hooks map[Owner]Hook
	order []Owner // those with a hook, in the order of their numbers
}

// Register declares the tables and appliers. Services add their hooks to what it
// returns before the machine opens.
func Register(reg *state.Registry) *Owners {
	o := &Owners{hooks: make(map[Owner]Hook)}
	reg.Table(TableLeases, "lease_leases")
	reg.Table(TableAttached, "lease_attached")
	reg.Table(TableClock, "lease_clock")
	reg.AddIndex(IndexDeadlines, []state.TableID{TableLeases}, newDeadlines)
	reg.Handle(KindStep, "lease_step", 1, applyStep)
	reg.Handle(KindExpire, "lease_expire", 1, o.applyExpire)
	reg.Handle(KindGrant, "lease_grant", 1, applyGrant)
	reg.Handle(KindRenew, "lease_renew", 1, o.applyRenew)
	reg.Handle(KindRevoke, "lease_revoke", 1, o.applyRevoke)
	return o
}

// OnRevoke sets the hook of one owner. A second one panics.
func (o *Owners) OnRevoke(owner Owner, h Hook) {
	if _, dup := o.hooks[owner]; dup {
		panic(fmt.Sprintf("leasetable: owner %d has a hook already", owner))
	}
	o.hooks[owner] = h
	o.order = append(o.order, owner)
	slices.Sort(o.order)
}

// Revoke ends a lease, though its end may wait in line already, and takes its keys away.
func (o *Owners) Revoke(tx *state.Tx, id uint64, cmd *command.Command) error {
	l, ok := get(tx, id)
	if !ok {
		return ErrNotFound(id)
	}
	return o.end(tx, l, false, cmd)
}

func (o *Owners) end(tx *state.Tx, l Lease, expired bool, cmd *command.Command) error {
	e := ending{leases: []Lease{l}}
	e.takeKeys(tx, math.MaxInt)
	e.remove(tx)
	index(tx).remove(deadline{l.Deadline, l.ID})
	return o.tell(tx, &e, expired, cmd)
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

// AppendID encodes the payload of KindRevoke, and one lease of that of KindRenew.
func AppendID(b []byte, id uint64) []byte { return binary.AppendUvarint(b, id) }

// MaxRenew is the number of leases that one renewal should name, so that it takes no
// longer than other commands.
const MaxRenew = 256

// applyRenew renews the leases that it names. It refuses none: the result tells of
// each what became of it. One that comes too late, while its end waits in line, ends
// here: who is told that a lease is gone finds its keys gone too.
func (o *Owners) applyRenew(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	b := make([]byte, 0, len(cmd.Payload)+16)
	for rest := cmd.Payload; len(rest) > 0; {
		id, n := binary.Uvarint(rest)
		if n <= 0 {
			return nil, fmt.Errorf("lease: command %#x: %w", cmd.Kind, errFields)
		}
		rest = rest[n:]
		l, ok := Renew(tx, id)
		if !ok {
			if late, there := get(tx, id); there {
				if err := o.end(tx, late, true, cmd); err != nil {
					return nil, err
				}
			}
		}
		b = binary.AppendUvarint(binary.AppendUvarint(b, l.TTL), l.Granted)
	}
	return b, nil
}

// NextRenewed takes the outcome of the next lease off the result of KindRenew: its TTL
// and the store revision of its grant, both 0 when it is unknown or has ended.
func NextRenewed(b []byte) (ttl, granted uint64, rest []byte, err error) {
	rest, err = uvarintsRest(b, &ttl, &granted)
	return ttl, granted, rest, err
}

func (o *Owners) applyRevoke(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	var id uint64
	if err := fields(cmd, &id); err != nil {
		return nil, err
	}
	return nil, o.Revoke(tx, id, cmd)
}

// appendResult is the result of a grant: id, TTL, grant revision.
func appendResult(l Lease) []byte {
	b := binary.AppendUvarint(make([]byte, 0, 24), l.ID)
	return binary.AppendUvarint(binary.AppendUvarint(b, l.TTL), l.Granted)
}

// DecodeResult decodes the result of KindGrant: ID, TTL and Granted.
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
