// Package replay shows that appliers are deterministic: it replays one list of
// commands on machines that differ in everything that must not matter (batch
// splits, flush timing, durability mode, restarts, snapshot points, time zone)
// and compares results, events, chain hashes and content hashes.
//
// Only tests import it. Check changes time.Local while it runs, so a test that
// calls it must not be parallel.
package replay

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/state"
	"nekoq/services/watch"
)

// maxPrefixes bounds the snapshot points that Check tries.
const maxPrefixes = 48

// Outcome is what a replay must reproduce.
type Outcome struct {
	Results []state.Result
	Chains  []uint64 // after each command
	Events  []watch.Event
	Hash    state.Hash
}

// Check replays cmds in every way and fails tb at the first difference.
// register adds the services under test to a registry that has the state's own
// tables. It returns the straight replay's outcome for further checks.
func Check(tb testing.TB, register func(*state.Registry), cmds []command.Command) Outcome {
	tb.Helper()
	if len(cmds) == 0 {
		tb.Fatal("replay: no commands")
	}
	want := straight(tb, register, cmds)
	variants := []variant{
		{name: "one batch", mode: state.Volatile, batch: func(int) int { return command.MaxBatchCommands }},
		{name: "synced", mode: state.Synced, batch: func(int) int { return 7 }},
		{name: "flush after every batch", mode: state.Logged, batch: func(int) int { return 3 }, flush: func(int) bool { return true }},
		{name: "time zone", mode: state.Volatile, batch: func(int) int { return 5 }, zone: time.FixedZone("far", 13*3600+45*60)},
	}
	for seed := range uint64(3) {
		r := rand.New(rand.NewPCG(seed, 1))
		variants = append(variants, variant{
			name: fmt.Sprintf("random splits, flushes and restarts, seed %d", seed), mode: state.Logged,
			batch:  func(int) int { return 1 + r.IntN(40) },
			flush:  func(int) bool { return r.IntN(4) == 0 },
			reopen: func(int) bool { return r.IntN(8) == 0 },
		})
	}
	for _, v := range variants {
		v.run(tb, register, cmds, want)
	}
	prefixes(tb, register, cmds, want)
	return want
}

// straight replays cmds one entry a command, the plainest way.
func straight(tb testing.TB, register func(*state.Registry), cmds []command.Command) Outcome {
	tb.Helper()
	n := newNode(tb, register, filepath.Join(tb.TempDir(), "straight.db"), state.Volatile)
	defer n.close(tb)
	for i := range cmds {
		n.apply(tb, cmds, i, i+1)
	}
	return n.outcome(tb)
}

// variant is one other way to replay.
type variant struct {
	name          string
	mode          state.Mode
	batch         func(at int) int
	flush, reopen func(at int) bool
	zone          *time.Location
}

func (v variant) run(tb testing.TB, register func(*state.Registry), cmds []command.Command, want Outcome) {
	tb.Helper()
	if v.zone != nil {
		old := time.Local
		time.Local = v.zone
		defer func() { time.Local = old }()
	}
	n := newNode(tb, register, filepath.Join(tb.TempDir(), "variant.db"), v.mode)
	defer func() { n.close(tb) }()
	for at := 0; at < len(cmds); {
		end := min(at+min(v.batch(at), command.MaxBatchCommands), len(cmds))
		n.apply(tb, cmds, at, end)
		at = end
		if v.flush != nil && v.flush(at) {
			if err := n.m.Flush(context.Background()); err != nil {
				tb.Fatalf("replay: %s: flush: %v", v.name, err)
			}
		}
		if v.reopen != nil && v.reopen(at) {
			n.reopen(tb)
		}
	}
	compare(tb, v.name, want, n.outcome(tb))
}

// prefixes takes a snapshot after each prefix, restores it on another machine
// that held something else, and goes on there.
func prefixes(tb testing.TB, register func(*state.Registry), cmds []command.Command, want Outcome) {
	tb.Helper()
	dir := tb.TempDir()
	source := newNode(tb, register, filepath.Join(dir, "source.db"), state.Volatile)
	defer source.close(tb)
	step := max(1, len(cmds)/maxPrefixes)
	for at := 0; at < len(cmds); {
		end := min(at+step, len(cmds))
		source.apply(tb, cmds, at, end)
		at = end
		target := newNode(tb, register, filepath.Join(dir, fmt.Sprintf("at%d.db", at)), state.Volatile)
		target.apply(tb, cmds, 0, 1)
		stream := source.snapshot(tb)
		if err := target.m.Restore(bytes.NewReader(stream)); err != nil {
			tb.Fatalf("replay: restoring the snapshot after %d commands: %v", at, err)
		}
		if target.hub.resets != 1 {
			tb.Fatalf("replay: a restore reset the watchers %d times", target.hub.resets)
		}
		for rest := at; rest < len(cmds); rest += command.MaxBatchCommands {
			target.apply(tb, cmds, rest, min(rest+command.MaxBatchCommands, len(cmds)))
		}
		got := target.outcome(tb)
		target.close(tb)
		compareHash(tb, fmt.Sprintf("snapshot after %d commands", at), want.Hash, got.Hash)
		compareResults(tb, fmt.Sprintf("snapshot after %d commands", at), want.Results[at:], got.Results[1:])
	}
}

// node is one machine and what came out of it.
type node struct {
	register func(*state.Registry)
	opts     state.Options
	m        *state.Machine
	hub      *recorder
	results  []state.Result
	chains   []uint64
}

// recorder keeps what was published.
type recorder struct {
	events []watch.Event
	resets int
}

func (r *recorder) Publish(batch []watch.Event) { r.events = append(r.events, batch...) }
func (r *recorder) Reset()                      { r.resets++ }

func newNode(tb testing.TB, register func(*state.Registry), path string, mode state.Mode) *node {
	tb.Helper()
	n := &node{register: register, hub: &recorder{}}
	n.opts = state.Options{
		Path: path, Events: n.hub, Mode: mode,
		// Small and lazy, so that overlays of every age meet the file.
		Config: state.Config{FlushBytes: 4 << 10, FlushInterval: time.Hour, MmapBytes: 16 << 20},
	}
	n.open(tb)
	return n
}

func (n *node) open(tb testing.TB) {
	tb.Helper()
	n.opts.Registry = state.NewRegistry()
	n.register(n.opts.Registry)
	m, err := state.Open(n.opts)
	if err != nil {
		tb.Fatalf("replay: %v", err)
	}
	n.m = m
}

func (n *node) close(tb testing.TB) {
	tb.Helper()
	if err := n.m.Close(); err != nil {
		tb.Fatalf("replay: close: %v", err)
	}
}

func (n *node) reopen(tb testing.TB) {
	tb.Helper()
	n.close(tb)
	n.open(tb)
}

// apply applies cmds[from:to] as one entry whose index is to, so that indexes
// agree whatever the splits.
func (n *node) apply(tb testing.TB, cmds []command.Command, from, to int) {
	tb.Helper()
	results, err := n.m.ApplyEntry(uint64(to), 1, command.AppendBatch(nil, cmds[from:to]))
	if err != nil {
		tb.Fatalf("replay: commands %d to %d: %v", from, to-1, err)
	}
	if len(results) != to-from {
		tb.Fatalf("replay: commands %d to %d gave %d results", from, to-1, len(results))
	}
	for _, r := range results {
		r.Data = bytes.Clone(r.Data)
		n.results = append(n.results, r)
	}
	chain, ok := n.m.ChainAt(uint64(to))
	if !ok {
		tb.Fatalf("replay: no chain hash at index %d", to)
	}
	for range to - from - 1 {
		n.chains = append(n.chains, 0) // inside a batch there is none
	}
	n.chains = append(n.chains, chain)
}

func (n *node) snapshot(tb testing.TB) []byte {
	tb.Helper()
	s, err := n.m.Snapshot()
	if err != nil {
		tb.Fatalf("replay: snapshot: %v", err)
	}
	defer func() { _ = s.Close() }()
	var buf bytes.Buffer
	if _, err := s.WriteTo(&buf); err != nil {
		tb.Fatalf("replay: snapshot: %v", err)
	}
	return buf.Bytes()
}

func (n *node) outcome(tb testing.TB) Outcome {
	tb.Helper()
	h, err := n.m.Hash(context.Background(), true)
	if err != nil {
		tb.Fatalf("replay: hash: %v", err)
	}
	return Outcome{Results: n.results, Chains: n.chains, Events: n.hub.events, Hash: h}
}

func compare(tb testing.TB, name string, want, got Outcome) {
	tb.Helper()
	compareResults(tb, name, want.Results, got.Results)
	for i, c := range got.Chains {
		if c != 0 && c != want.Chains[i] {
			tb.Fatalf("replay: %s: the chain hash differs after command %d", name, i)
		}
	}
	if len(want.Events) != len(got.Events) {
		tb.Fatalf("replay: %s: %d events; want %d", name, len(got.Events), len(want.Events))
	}
	for i, w := range want.Events {
		g := got.Events[i]
		if w.Topic != g.Topic || w.Revision != g.Revision || !bytes.Equal(w.Key, g.Key) {
			tb.Fatalf("replay: %s: event %d is %d/%q at revision %d; want %d/%q at %d",
				name, i, g.Topic, g.Key, g.Revision, w.Topic, w.Key, w.Revision)
		}
	}
	compareHash(tb, name, want.Hash, got.Hash)
}

func compareHash(tb testing.TB, name string, want, got state.Hash) {
	tb.Helper()
	if want != got {
		tb.Fatalf("replay: %s: the state differs: %+v; want %+v", name, got, want)
	}
}

func compareResults(tb testing.TB, name string, want, got []state.Result) {
	tb.Helper()
	if len(want) != len(got) {
		tb.Fatalf("replay: %s: %d results; want %d", name, len(got), len(want))
	}
	for i := range want {
		w, g := want[i], got[i]
		if w.Revision != g.Revision || w.Changed != g.Changed || !bytes.Equal(w.Data, g.Data) ||
			errs.CodeOf(w.Err) != errs.CodeOf(g.Err) {
			tb.Fatalf("replay: %s: result %d is %+v; want %+v", name, i, g, w)
		}
	}
}
