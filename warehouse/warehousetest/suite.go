// Package warehousetest is the conformance suite of warehouse over any set of
// replicas: LocalSwitch, Raft with one node, Raft with three.
//
// Only tests import it. A caller registers Registry's services in its machines,
// makes a Node of every replica before it starts, and runs Run.
package warehousetest

import (
	"context"
	"testing"
	"time"

	"nekoq/services/clock"
	"nekoq/services/lease"
	"nekoq/services/replica"
	"nekoq/services/state"
	"nekoq/services/watch"
	"nekoq/warehouse"
)

// Register adds what the suite needs to a registry.
func Register(reg *state.Registry) { warehouse.Register(reg, lease.Register(reg)) }

// Node is warehouse on one node.
type Node struct {
	Replica replica.Replica
	KV      *warehouse.Service
	Leases  *lease.Service

	sess sessions
}

// NewNode makes the services of one node. It is called before the replica starts.
// clk nil is the system's.
func NewNode(tb testing.TB, r replica.Replica, events watch.Source, clk clock.Clock) *Node {
	tb.Helper()
	cfg := warehouse.DefaultConfig()
	cfg.WatchBuffer = 64 // so that slow watchers and catching up are part of every run
	cfg.WatchProgress = 50 * time.Millisecond
	cfg.SweepPollInterval = 20 * time.Millisecond
	cfg.SweepRows = 50
	leases, err := lease.New(lease.Deps{Replica: r, Clock: clk}, lease.DefaultConfig())
	if err != nil {
		tb.Fatalf("lease: %v", err)
	}
	kv, err := warehouse.New(warehouse.Deps{Replica: r, Events: events, Leases: leases, Clock: clk}, cfg)
	if err != nil {
		tb.Fatalf("warehouse: %v", err)
	}
	return &Node{Replica: r, KV: kv, Leases: leases}
}

// Start gives the nodes of a started cluster with a leader, and ends it with the
// test.
type Start func(tb testing.TB) []*Node

// Run runs the suite. Each test starts a cluster of its own.
func Run(t *testing.T, start Start) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, nodes []*Node)
	}{
		{"Writes", testWrites},
		{"Refusals", testRefusals},
		{"CompareAndSet", testCompareAndSet},
		{"Lists", testLists},
		{"History", testHistory},
		{"Watches", testWatches},
		{"WatchLargeValues", testWatchLargeValues},
		{"WatchRefusals", testWatchRefusals},
		{"WaitForKey", testWaitForKey},
		{"TTL", testTTL},
		{"Leases", testLeases},
		{"KeepAlives", testKeepAlives},
		{"MassExpiry", testMassExpiry},
		{"Compaction", testCompaction},
		{"Transactions", testTransactions},
		{"Locks", testLocks},
		{"Acquire", testAcquire},
		{"Folder", testFolder},
		{"ManyWatches", testManyWatches},
		{"Quotas", testQuotas},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, start(t)) })
	}
}

// patience bounds every wait of the suite.
const patience = 30 * time.Second

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// eventually polls until cond is true.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("never came true: %s", what)
		}
		<-tick.C
	}
}
