package history

import (
	"fmt"
	"sort"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// Fences is the history of locks and elections by their fencing tokens, and of the
// writes that demand one. A holder may lose its token at any time, as its lease may
// end. What must not be:
//
//   - a token that is not greater than those before it,
//   - a write that succeeds under a token after a greater one was given, after it was
//     given back, or after somebody was told that it is lost,
//   - two holders at once whose leases certainly run (Tenure).
type Fences struct {
	calls
	tenures []*Tenure // calls.mu
}

// NewFences makes an empty history.
func NewFences() *Fences { return &Fences{calls: calls{start: time.Now()}} }

type fenceKind int

const (
	acquire fenceKind = iota
	guarded
	release
	look
)

type fenceIn struct {
	kind  fenceKind
	name  string
	token uint64
}

type fenceOut struct {
	token uint64 // of acquire and look; look: 0 for nobody
	ok    bool   // of guarded and release
}

// FenceOp is an operation that has been called and not answered.
type FenceOp struct {
	call
	f *Fences
}

func (f *Fences) call(client int, in fenceIn) *FenceOp { return &FenceOp{f.begin(client, in), f} }

// Acquire begins to ask for a lock, or to stand for an election.
func (f *Fences) Acquire(client int, name string) *FenceOp {
	return f.call(client, fenceIn{kind: acquire, name: name})
}

// Write begins a write that demands that token still holds.
func (f *Fences) Write(client int, name string, token uint64) *FenceOp {
	return f.call(client, fenceIn{kind: guarded, name: name, token: token})
}

// Release begins to give a token back, or to resign.
func (f *Fences) Release(client int, name string, token uint64) *FenceOp {
	return f.call(client, fenceIn{kind: release, name: name, token: token})
}

// Look begins a linearizable look at who holds or leads.
func (f *Fences) Look(client int, name string) *FenceOp {
	return f.call(client, fenceIn{kind: look, name: name})
}

func (o *FenceOp) end(out fenceOut) { o.call.end(out, false) }

// OK ends a Write that was carried out or a Release that found the token.
func (o *FenceOp) OK() { o.end(fenceOut{ok: true}) }

// Stale ends a Write or Release that was told that the token is lost.
func (o *FenceOp) Stale() { o.end(fenceOut{}) }

// Saw ends a Look with the holder's token, 0 for nobody.
func (o *FenceOp) Saw(token uint64) { o.end(fenceOut{token: token}) }

// Drop forgets an operation that failed or whose outcome is not known: what it may
// have done, a lost lease does too. Its token is another matter: that of an Acquire
// is seen by Look.
func (o *FenceOp) Drop() { o.done = true }

// Held ends an Acquire with the token. The lease that it hangs on was granted, or
// kept alive with an answer, after the operation began and has ttl; 0 when that is
// not known.
func (o *FenceOp) Held(token uint64, ttl time.Duration) *Tenure {
	in := o.op.Input.(fenceIn)
	o.end(fenceOut{token: token})
	t := &Tenure{f: o.f, name: in.name, client: o.op.ClientId, token: token, from: time.Duration(o.op.Return)}
	t.until = t.from
	if ttl > 0 {
		t.until = time.Duration(o.op.Call) + ttl
	}
	o.f.mu.Lock()
	o.f.tenures = append(o.f.tenures, t)
	o.f.mu.Unlock()
	return t
}

// Tenure is the time for which a client certainly holds: from the answer until the
// earliest moment at which its lease can end.
type Tenure struct {
	f           *Fences
	name        string
	client      int
	token       uint64
	from, until time.Duration // calls.mu
	over        bool          // calls.mu
}

// Keep begins a keep-alive of the tenure's lease, whose TTL is ttl. The function that
// it gives is called when the server has acknowledged it.
func (t *Tenure) Keep(ttl time.Duration) (ok func()) {
	call := time.Since(t.f.start)
	return func() {
		t.f.mu.Lock()
		defer t.f.mu.Unlock()
		if !t.over {
			t.until = max(t.until, call+ttl)
		}
	}
}

// Leave ends the tenure. It is called before the release or revocation is sent.
func (t *Tenure) Leave() {
	now := time.Since(t.f.start)
	t.f.mu.Lock()
	defer t.f.mu.Unlock()
	t.over, t.until = true, min(t.until, now)
}

// fence is the state of one lock or election: the greatest token that was given, and
// whether it is known to be lost.
type fence struct {
	top  uint64
	lost bool
}

func (s fence) holds(token uint64) bool {
	// A greater one is that of a claim whose answer nobody has.
	return token > s.top || token == s.top && !s.lost
}

var fenceModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		return parts(history, func(in any) string { return in.(fenceIn).name })
	},
	Init: func() any { return fence{} },
	Step: func(state, in, out any) (bool, any) {
		s, i, o := state.(fence), in.(fenceIn), out.(fenceOut)
		token := i.token
		switch {
		case i.kind == acquire:
			return o.token > s.top || o.token == s.top && !s.lost && s.top > 0, fence{top: max(o.token, s.top)}
		case i.kind == look && o.token == 0:
			return true, fence{top: s.top, lost: true}
		case i.kind == look:
			token = o.token
		case !o.ok:
			s.lost = s.lost || token == s.top // a greater one has yet to hold
			return true, s
		}
		return token > 0 && s.holds(token), fence{top: max(token, s.top), lost: i.kind == release}
	},
	DescribeOperation: func(in, out any) string {
		i, o := in.(fenceIn), out.(fenceOut)
		answer := map[bool]string{true: "ok", false: "lost"}[o.ok]
		switch i.kind {
		case acquire:
			return fmt.Sprintf("acquire(%s) = %d", i.name, o.token)
		case look:
			return fmt.Sprintf("look(%s) = %d", i.name, o.token)
		case release:
			return fmt.Sprintf("release(%s, %d) = %s", i.name, i.token, answer)
		}
		return fmt.Sprintf("write(%s, %d) = %s", i.name, i.token, answer)
	},
}

// Check fails the test unless the history is linearizable and no two tenures of a
// name overlap.
func (f *Fences) Check(tb testing.TB) {
	tb.Helper()
	f.mu.Lock()
	err := overlap(f.tenures)
	f.mu.Unlock()
	if err != nil {
		tb.Error(err)
	}
	judge(tb, "locks and elections", fenceModel, f.all())
}

// overlap looks for two holders at once.
func overlap(all []*Tenure) error {
	var real []*Tenure
	for _, t := range all {
		if t.until > t.from {
			real = append(real, t)
		}
	}
	sort.Slice(real, func(i, j int) bool { return real[i].from < real[j].from })
	longest := map[string]*Tenure{}
	for _, t := range real {
		if l := longest[t.name]; l != nil && t.from < l.until && t.token != l.token {
			return fmt.Errorf("%s has two holders at once: client %d with token %d from %s to %s, client %d with token %d from %s to %s",
				t.name, l.client, l.token, l.from, l.until, t.client, t.token, t.from, t.until)
		}
		if l := longest[t.name]; l == nil || t.until > l.until {
			longest[t.name] = t
		}
	}
	return nil
}

// TokensGrow checks the history of a key whose every value says under which token it
// was written, in the order of revisions: no write of a deposed holder comes after
// one of its successor, answered or not.
func TokensGrow(writes []Event, token func(value string) uint64) error {
	last := Event{}
	for _, e := range writes {
		if e.Delete {
			continue
		}
		if last.Revision != 0 && token(e.Value) < token(last.Value) {
			return fmt.Errorf("%s under token %d at revision %d comes after token %d at revision %d",
				e.Key, token(e.Value), e.Revision, token(last.Value), last.Revision)
		}
		last = e
	}
	return nil
}
