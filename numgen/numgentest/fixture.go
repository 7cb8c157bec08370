// Package numgentest is numgen's conformance suite, to be run over every kind
// of replica, and a fixture over the local one.
//
// It owns Suite and Local. A fixture belongs to one test. Only tests import it.
package numgentest

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"nekoq/numgen"
	"nekoq/services/clock"
	"nekoq/services/replica/local"
	"nekoq/services/state"
	"nekoq/services/watch"
)

// Node is one node's side of the replicated state.
type Node struct {
	Replica numgen.Replica
	Events  watch.Source
}

// Local makes one node over a local replica without sync, whose commands are
// stamped by clk. It is torn down with the test.
func Local(tb testing.TB, clk clock.Clock) Node {
	tb.Helper()
	return At(tb, clk, filepath.Join(tb.TempDir(), "state.db"), state.Volatile)
}

// At is Local over a named state file.
func At(tb testing.TB, clk clock.Clock, path string, mode state.Mode) Node {
	tb.Helper()
	reg := state.NewRegistry()
	numgen.Register(reg)
	hub := watch.NewHub(watch.Options{})
	m, err := state.Open(state.Options{Path: path, Registry: reg, Events: hub, Mode: mode, Config: state.DefaultConfig()})
	if err != nil {
		tb.Fatal(err)
	}
	r, err := local.New(local.Options{NodeID: "n1", Machine: m, Clock: clk, Config: local.DefaultConfig()})
	if err != nil {
		tb.Fatal(err)
	}
	r.Start()
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := r.Shutdown(ctx); err != nil {
			tb.Error(err)
		}
		hub.Close()
		if err := m.Close(); err != nil {
			tb.Error(err)
		}
	})
	return Node{Replica: r, Events: hub}
}

// Start runs a service on a node. stop stops it, once, and is called at the end
// of the test if not before.
func Start(tb testing.TB, n Node, clk clock.Clock, cfg numgen.Config) (svc *numgen.Service, stop func()) {
	tb.Helper()
	svc, err := numgen.New(numgen.Deps{Replica: n.Replica, Events: n.Events, Clock: clk}, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	if err := svc.Start(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	done := false
	stop = func() {
		if done {
			return
		}
		done = true
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := svc.Stop(ctx); err != nil {
			tb.Error(err)
		}
	}
	tb.Cleanup(stop)
	return svc, stop
}

// Named is a node's replica under another node id, so that one state can serve
// several nodes in a test.
type Named struct {
	numgen.Replica
	ID string
}

// NodeID is the id.
func (n Named) NodeID() string { return n.ID }
