package history

import (
	"fmt"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// Versions is the history of keys whose writes are numbered by the revisions of one
// store: puts, deletes, reads, and writes on the condition of a mod revision. A
// condition may name only a revision that an operation of this history has shown.
type Versions struct{ calls }

// NewVersions makes an empty history.
func NewVersions() *Versions { return &Versions{calls{start: time.Now()}} }

type versionIn struct {
	kind  kind // get, put or cas
	key   string
	value string
	gone  bool // of a write: a delete
	rev   uint64
}

type versionOut struct {
	value   string
	rev     uint64 // of a read: 0 for no key; of a write: its own
	missed  bool   // of a conditional write
	unknown bool
}

// VersionOp is an operation that has been called and not answered.
type VersionOp struct{ call }

func (v *Versions) call(client int, in versionIn) *VersionOp { return &VersionOp{v.begin(client, in)} }

// Get begins a linearizable read.
func (v *Versions) Get(client int, key string) *VersionOp {
	return v.call(client, versionIn{kind: get, key: key})
}

// Put begins a write. Values should be unique.
func (v *Versions) Put(client int, key, value string) *VersionOp {
	return v.call(client, versionIn{kind: put, key: key, value: value})
}

// Delete begins a delete.
func (v *Versions) Delete(client int, key string) *VersionOp {
	return v.call(client, versionIn{kind: put, key: key, gone: true})
}

// PutIf begins a put that demands the mod revision rev, 0 for no key.
func (v *Versions) PutIf(client int, key, value string, rev uint64) *VersionOp {
	return v.call(client, versionIn{kind: cas, key: key, value: value, rev: rev})
}

// DeleteIf begins a delete that demands the mod revision rev.
func (v *Versions) DeleteIf(client int, key string, rev uint64) *VersionOp {
	return v.call(client, versionIn{kind: cas, key: key, gone: true, rev: rev})
}

func (o *VersionOp) end(out versionOut) { o.call.end(out, out.unknown) }

// Read ends a Get with the value and its mod revision.
func (o *VersionOp) Read(value string, rev uint64) { o.end(versionOut{value: value, rev: rev}) }

// Missing ends a Get that found no key, and a Delete that deleted none.
func (o *VersionOp) Missing() { o.end(versionOut{missed: o.op.Input.(versionIn).kind == put}) }

// OK ends a write that took effect with the store's revision of it.
func (o *VersionOp) OK(rev uint64) { o.end(versionOut{rev: rev}) }

// Mismatch ends a conditional write that found another revision.
func (o *VersionOp) Mismatch() { o.end(versionOut{missed: true}) }

// Unknown ends a write whose outcome is not known.
func (o *VersionOp) Unknown() { o.end(versionOut{unknown: true}) }

// Drop forgets an operation that certainly did nothing, or a read that failed.
func (o *VersionOp) Drop() { o.done = true }

// version is the state of one key. Of a write without an answer the revision is not
// known: rev is then the newest that is, and the key's own is greater.
type version struct {
	value string
	there bool
	rev   uint64
	vague bool
}

func (s version) write(i versionIn, o versionOut) (bool, any) {
	next := version{value: i.value, there: !i.gone, rev: o.rev}
	if o.unknown {
		next.rev, next.vague = s.rev, true
		return true, next
	}
	return o.rev > s.rev, next
}

// holds tells whether the condition holds. While the key's revision is vague nobody
// has seen it, so no condition can name it.
func (s version) holds(rev uint64) bool {
	if rev == 0 || !s.there {
		return rev == 0 && !s.there
	}
	return !s.vague && s.rev == rev
}

func (s version) read(o versionOut) (bool, any) {
	if !s.there || o.rev == 0 {
		return !s.there && o.rev == 0, s
	}
	ok := o.value == s.value && (o.rev == s.rev && !s.vague || o.rev > s.rev && s.vague)
	s.rev, s.vague = o.rev, false
	return ok, s
}

var versionModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		return parts(history, func(in any) string { return in.(versionIn).key })
	},
	Init: func() any { return version{} },
	Step: func(state, in, out any) (bool, any) {
		s, i, o := state.(version), in.(versionIn), out.(versionOut)
		switch {
		case i.kind == get:
			return s.read(o)
		case i.kind == put && i.gone && !s.there: // deleting nothing
			return o.missed || o.unknown, s
		case i.kind == put:
			if o.missed {
				return false, s
			}
			return s.write(i, o)
		case !s.holds(i.rev):
			return o.missed || o.unknown, s
		case o.missed:
			return false, s
		}
		return s.write(i, o)
	},
	DescribeOperation: func(in, out any) string {
		i, o := in.(versionIn), out.(versionOut)
		if i.kind == get {
			return fmt.Sprintf("get(%s) = %q at %d", i.key, o.value, o.rev)
		}
		what := fmt.Sprintf("put(%s, %q)", i.key, i.value)
		if i.gone {
			what = fmt.Sprintf("delete(%s)", i.key)
		}
		if i.kind == cas {
			what += fmt.Sprintf(" if %d", i.rev)
		}
		switch {
		case o.unknown:
			return what + " ?"
		case o.missed:
			return what + " no"
		}
		return fmt.Sprintf("%s at %d", what, o.rev)
	},
}

// Check fails the test unless the history is linearizable, and unless the revisions
// of writes to any keys are unique and in the order of time.
func (v *Versions) Check(tb testing.TB) {
	tb.Helper()
	ops := v.all()
	if err := revisionsInTime(ops); err != nil {
		tb.Errorf("the history of %d operations on keys: %v", len(ops), err)
	}
	judge(tb, "keys", versionModel, ops)
}

// revisionsInTime: a write that was called after another one's answer has a greater
// revision, and no two have the same.
func revisionsInTime(ops []porcupine.Operation) error {
	var byRev []porcupine.Operation
	for _, op := range ops {
		if o := op.Output.(versionOut); op.Input.(versionIn).kind != get && !o.missed && !o.unknown {
			byRev = append(byRev, op)
		}
	}
	rev := func(i int) uint64 { return byRev[i].Output.(versionOut).rev }
	sort.Slice(byRev, func(i, j int) bool { return rev(i) < rev(j) })
	say := func(i int) string { return versionModel.DescribeOperation(byRev[i].Input, byRev[i].Output) }
	latest := 0 // of all before, the one that was called last
	for i := 1; i < len(byRev); i++ {
		if rev(i) == rev(i-1) {
			return fmt.Errorf("one revision of two writes: %s and %s", say(i-1), say(i))
		}
		if byRev[i].Return < byRev[latest].Call {
			return fmt.Errorf("%s was answered before %s was called", say(i), say(latest))
		}
		if byRev[i].Call > byRev[latest].Call {
			latest = i
		}
	}
	return nil
}

// Acked gives the writes that were acknowledged, as events without what a writer is
// not told. Deletes are among them.
func (v *Versions) Acked() []Event {
	var out []Event
	for _, op := range v.all() {
		i, o := op.Input.(versionIn), op.Output.(versionOut)
		if i.kind != get && !o.missed && !o.unknown {
			out = append(out, Event{Key: i.key, Value: i.value, Delete: i.gone, Revision: o.rev})
		}
	}
	return out
}

// quoteShort shows a value in a message.
func quoteShort(s string) string {
	if len(s) > 40 {
		s = s[:40] + "..."
	}
	return fmt.Sprintf("%q", strings.ToValidUTF8(s, "?"))
}
