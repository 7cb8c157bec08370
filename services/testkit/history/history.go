// Package history records what clients saw and judges it.
//
// Registers (Recorder), keys with revisions (Versions) and the tokens of locks and
// elections (Fences) go to porcupine, which looks for an instant of each operation
// between its call and its answer, in an order that explains all answers. Watches
// (Log and Feed) and leases (Leases) have checkers of their own, which say in words
// what is wrong.
//
// Recorders are safe for concurrent use. Times are monotonic and of the test's
// process. Only tests import the package.
package history

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

type kind int

const (
	get kind = iota
	put
	cas
)

type input struct {
	kind       kind
	key        string
	value, old string
}

type output struct {
	value   string
	ok      bool // of a cas: it took effect
	unknown bool // whether it took effect is not known
}

// Recorder holds the operations of one test.
type Recorder struct{ calls }

// New makes an empty history.
func New() *Recorder { return &Recorder{calls{start: time.Now()}} }

// Op is an operation that has been called and not answered.
type Op struct{ call }

func (r *Recorder) call(client int, in input) *Op { return &Op{r.begin(client, in)} }

// Get begins a read of key by a client; each client has one operation at a time.
func (r *Recorder) Get(client int, key string) *Op { return r.call(client, input{kind: get, key: key}) }

// Put begins a write. Values should be unique, so that a wrong answer shows.
func (r *Recorder) Put(client int, key, value string) *Op {
	return r.call(client, input{kind: put, key: key, value: value})
}

// CAS begins a compare-and-set.
func (r *Recorder) CAS(client int, key, old, value string) *Op {
	return r.call(client, input{kind: cas, key: key, old: old, value: value})
}

func (o *Op) end(out output) { o.call.end(out, out.unknown) }

// Read ends a Get with the value that was seen.
func (o *Op) Read(value string) { o.end(output{value: value}) }

// OK ends a Put, or a CAS that took effect.
func (o *Op) OK() { o.end(output{ok: true}) }

// Mismatch ends a CAS that found another value.
func (o *Op) Mismatch() { o.end(output{}) }

// Unknown ends a write whose outcome is not known.
func (o *Op) Unknown() { o.end(output{unknown: true}) }

// Drop forgets an operation that certainly did nothing, or a read that failed.
func (o *Op) Drop() { o.done = true }

var model = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		return parts(history, func(in any) string { return in.(input).key })
	},
	Init: func() any { return "" },
	Step: func(state, in, out any) (bool, any) {
		s, i, o := state.(string), in.(input), out.(output)
		switch i.kind {
		case get:
			return o.value == s, s
		case put:
			return true, i.value
		default:
			if s == i.old {
				return o.ok || o.unknown, i.value
			}
			return !o.ok || o.unknown, s
		}
	},
	DescribeOperation: func(in, out any) string {
		i, o := in.(input), out.(output)
		tail := ""
		if o.unknown {
			tail = " ?"
		}
		switch i.kind {
		case get:
			return fmt.Sprintf("get(%s) = %q", i.key, o.value)
		case put:
			return fmt.Sprintf("put(%s, %q)%s", i.key, i.value, tail)
		default:
			return fmt.Sprintf("cas(%s, %q, %q) = %v%s", i.key, i.old, i.value, o.ok, tail)
		}
	},
}

// Check fails the test unless the history is linearizable. The picture of one
// that is not goes to the file that the message names.
func (r *Recorder) Check(tb testing.TB) {
	tb.Helper()
	judge(tb, "registers", model, r.all())
}

// judge asks porcupine and fails the test unless the history is linearizable.
func judge(tb testing.TB, what string, m porcupine.Model, ops []porcupine.Operation) {
	tb.Helper()
	res, info := porcupine.CheckOperationsVerbose(m, ops, 60*time.Second)
	switch res {
	case porcupine.Ok:
	case porcupine.Unknown:
		tb.Errorf("the history of %d operations on %s could not be checked within a minute", len(ops), what)
	default:
		path := filepath.Join(os.TempDir(), fmt.Sprintf("history-%d.html", time.Now().UnixNano()))
		if err := porcupine.VisualizePath(m, info, path); err != nil {
			path = err.Error()
		}
		tb.Errorf("the history of %d operations on %s is not linearizable; see %s", len(ops), what, path)
	}
}

// parts splits a history by name, in the order of first appearance.
func parts(ops []porcupine.Operation, name func(in any) string) [][]porcupine.Operation {
	at := map[string]int{}
	var out [][]porcupine.Operation
	for _, op := range ops {
		n := name(op.Input)
		i, ok := at[n]
		if !ok {
			i = len(out)
			at[n] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], op)
	}
	return out
}
