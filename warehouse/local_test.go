package warehouse_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"nekoq/services/clock"
	"nekoq/services/replica"
	"nekoq/services/replica/local"
	"nekoq/services/state"
	"nekoq/services/watch"
	"nekoq/warehouse/warehousetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLocal(t *testing.T) { warehousetest.Run(t, startLocal) }

func startLocal(tb testing.TB) []*warehousetest.Node {
	return []*warehousetest.Node{localNode(tb, nil)}
}

// localNode is a LocalSwitch without its doors.
func localNode(tb testing.TB, clk clock.Clock) *warehousetest.Node {
	tb.Helper()
	return localNodeOver(tb, clk, func(r replica.Replica) replica.Replica { return r })
}

// localNodeOver is localNode whose services see the replica as over makes it.
func localNodeOver(tb testing.TB, clk clock.Clock, over func(r replica.Replica) replica.Replica) *warehousetest.Node {
	tb.Helper()
	reg := state.NewRegistry()
	warehousetest.Register(reg)
	hub := watch.NewHub(watch.Options{})
	m, err := state.Open(state.Options{Path: filepath.Join(tb.TempDir(), "state.db"), Registry: reg, Events: hub, Mode: state.Volatile})
	if err != nil {
		tb.Fatal(err)
	}
	if clk == nil {
		clk = clock.System()
	}
	r, err := local.New(local.Options{NodeID: "n1", Machine: m, Clock: clk, Config: local.DefaultConfig()})
	if err != nil {
		tb.Fatal(err)
	}
	n := warehousetest.NewNode(tb, over(r), hub, clk)
	r.Start()
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := r.Shutdown(ctx); err != nil {
			tb.Errorf("shutdown: %v", err)
		}
		hub.Close()
		if err := m.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return n
}
