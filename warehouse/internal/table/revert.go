package table

import (
	"bytes"
	"encoding/binary"
	"strconv"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/state"
	"nekoq/warehouse/api"
)

// MaxRevert bounds the keys that one rollback changes.
const MaxRevert = 100_000

// RevertCommand is the payload of KindRevert: the keys of a span become what they
// were at a revision, as one ordinary new revision.
type RevertCommand struct {
	api.Span
	Revision uint64
}

// Encode gives the payload.
func (c *RevertCommand) Encode() []byte {
	b := binary.AppendUvarint(nil, c.Revision)
	b = append(binary.AppendUvarint(b, uint64(len(c.Key))), c.Key...)
	return append(b, c.End...)
}

// Reverted is the result.
type Reverted struct {
	Revision     uint64 // key revision afterwards
	Put, Deleted uint64
}

func (r Reverted) encode() []byte {
	b := binary.AppendUvarint(make([]byte, 0, 12), r.Revision)
	return binary.AppendUvarint(binary.AppendUvarint(b, r.Put), r.Deleted)
}

// DecodeReverted reads it.
func DecodeReverted(b []byte) (r Reverted, err error) {
	d := decoder{b: b}
	r = Reverted{Revision: d.uvarint(), Put: d.uvarint(), Deleted: d.uvarint()}
	return r, d.err("result")
}

// Difference is a key that is not the same at two revisions. A record that is nil
// means that the key was not there.
type Difference struct {
	Key       []byte
	Then, Now *Record
}

// Diff calls fn with the keys of [start, end) whose values differ between the
// revisions from and to, in key order, until it returns false. Keys are copies;
// records belong to the state.
func Diff(r state.Reader, start, end []byte, from, to uint64, fn func(d Difference) bool) error {
	if from == to {
		return nil
	}
	return visible(start, end, func(start, end []byte) error {
		return diffPart(r, start, end, from, to, fn)
	})
}

func diffPart(r state.Reader, start, end []byte, from, to uint64, fn func(d Difference) bool) error {
	return eachPast(r, start, end, min(from, to), max(from, to), func(k *pastKey) (more bool, err error) {
		if from > to {
			k.then, k.now = k.now, k.then
		}
		d := Difference{}
		if d.Then, err = k.then.record(); err != nil {
			return false, err
		}
		if d.Now, err = k.now.record(); err != nil {
			return false, err
		}
		if d.Then != nil && d.Now != nil && bytes.Equal(d.Then.Value, d.Now.Value) {
			return true, nil
		}
		d.Key = bytes.Clone(k.key)
		if !fn(d) {
			return false, errStop
		}
		return true, nil
	})
}

func applyRevert(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	d := decoder{b: cmd.Payload}
	c := RevertCommand{Revision: d.uvarint()}
	c.Key = d.bytes()
	c.End = d.b
	if err := d.err("revert"); err != nil {
		return nil, err
	}
	w, err := newWriter(tx, cmd.Time, cmd.Actor)
	if err != nil {
		return nil, err
	}
	m := w.meta
	m.Revision--
	if err := m.CheckRevision(c.Revision); err != nil {
		return nil, err
	}
	var todo []Difference
	g := growth{w: &w}
	start, end := c.Bounds()
	err = Diff(tx, start, end, c.Revision, m.Revision, func(d Difference) bool {
		switch {
		case d.Then == nil:
			g.remove(d.Key, len(d.Now.Value))
		case d.Now == nil:
			g.put(d.Key, len(d.Then.Value), false, 0)
		default:
			g.put(d.Key, len(d.Then.Value), true, len(d.Now.Value))
		}
		todo = append(todo, d)
		return len(todo) <= MaxRevert
	})
	if err != nil {
		return nil, err
	}
	if len(todo) > MaxRevert {
		return nil, errs.New(errs.TooLarge, "prefix: the rollback would change more than %d keys; roll parts of it back", MaxRevert).
			With(errs.Detail{Field: "prefix", Value: string(c.Key), Limit: strconv.Itoa(MaxRevert) + " keys"})
	}
	if err := g.check(); err != nil {
		return nil, err
	}
	out := Reverted{}
	for _, d := range todo {
		old, prev, err := latest(tx, d.Key)
		if err != nil {
			return nil, err
		}
		if d.Then == nil {
			w.remove(d.Key, old, &prev)
			w.untie(d.Key, prev.Lease)
			out.Deleted++
			continue
		}
		var before *Record
		if old != nil {
			before = &prev
		}
		w.put(d.Key, d.Then.Value, prev.Lease, old, before)
		out.Put++
	}
	out.Revision = w.revision()
	if w.sub > 0 {
		w.finish()
	}
	return out.encode(), nil
}
