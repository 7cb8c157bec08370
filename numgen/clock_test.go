package numgen_test

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"nekoq/numgen"
	"nekoq/numgen/api"
	"nekoq/numgen/numgentest"
	"nekoq/services/errs"
	"nekoq/services/testkit/fakeclock"
)

var timed = []string{"id128", "snowflake", "uuidv7", "ulid"}

func createAll(t testing.TB, svc *numgen.Service) {
	t.Helper()
	for name, req := range numgentest.Options() {
		req.Name = name
		if _, _, err := svc.Create(t.Context(), req); err != nil {
			t.Fatal(name, err)
		}
	}
}

// row: nekoq 2: a clock set back further than the drift gives an error, never
// ids that repeat and never an empty success.
func TestClockSetBack(t *testing.T) {
	clk := fakeclock.New(time.Time{})
	cfg := numgen.DefaultConfig()
	svc, _ := numgentest.Start(t, numgentest.Local(t, clk), clk, cfg)
	createAll(t, svc)
	for _, name := range timed {
		var j numgentest.Judge
		take := func(n int) error {
			ids, err := svc.IDs(t.Context(), name, n)
			if err == nil && len(ids) != n {
				t.Fatalf("%s: %d ids and no error", name, len(ids))
			}
			j.Add(t, name, ids)
			return err
		}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(name, err)
			}
		}
		must(take(100))
		clk.Step(-cfg.MaxClockDrift) // ridden out on the high-water time
		must(take(10_000))
		clk.Step(-time.Second)
		err := take(1)
		if !errs.Has(err, errs.ClockMovedBack) || !strings.Contains(err.Error(), "11s") || !strings.Contains(err.Error(), "10s") {
			t.Fatalf("%s: %v", name, err)
		}
		clk.Step(time.Second)
		must(take(100))
		clk.Step(time.Hour) // far ahead, and back
		must(take(100))
		clk.Step(-time.Hour)
		if err := take(1); !errs.Has(err, errs.ClockMovedBack) {
			t.Fatalf("%s: %v", name, err)
		}
		clk.Step(time.Hour + cfg.MaxClockDrift)
		must(take(100))
	}
}

// A restart after a clock that was an hour ahead must not repeat its ids, even
// under another worker number.
func TestClockSetBackOverRestart(t *testing.T) {
	clk := fakeclock.New(time.Time{})
	cfg := numgen.DefaultConfig()
	n := numgentest.Local(t, clk)
	var j numgentest.Judge
	svc, stop := numgentest.Start(t, n, clk, cfg)
	createAll(t, svc)
	clk.Step(time.Hour)
	for _, name := range timed {
		ids, err := svc.IDs(t.Context(), name, 10)
		if err != nil {
			t.Fatal(err)
		}
		j.Add(t, name, ids)
	}
	stop()
	clk.Step(-time.Hour)
	// Another node takes the numbers that are free now, and must be fine.
	other, _ := numgentest.Start(t, numgentest.Node{Replica: numgentest.Named{Replica: n.Replica, ID: "other"}, Events: n.Events}, clk, cfg)
	svc, _ = numgentest.Start(t, n, clk, cfg)
	for _, name := range timed {
		ids, err := other.IDs(t.Context(), name, 10)
		if err != nil {
			t.Fatal(name, err)
		}
		j.Add(t, "other "+name, ids)
		if _, err := svc.IDs(t.Context(), name, 1); !errs.Has(err, errs.ClockMovedBack) {
			t.Fatal(name, err)
		}
	}
	clk.Step(time.Hour)
	for _, name := range timed {
		ids, err := svc.IDs(t.Context(), name, 10)
		if err != nil {
			t.Fatal(name, err)
		}
		j.Add(t, name, ids)
	}
}

// row: nekoq 2: several nodes, restarts with and without notice, and clocks that
// step by up to an hour each: no id twice, none zero, each node's increasing.
func TestNoDuplicatesWhateverTheClock(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		base := fakeclock.New(time.Time{})
		shared := numgentest.Local(t, base)
		cfg := numgen.DefaultConfig()
		cfg.WorkerTTL = 10 * time.Second
		type node struct {
			id   string
			clk  *fakeclock.Clock
			svc  *numgen.Service
			stop func()
		}
		nodes := make([]*node, 3)
		boot := func(n *node) {
			n.svc, n.stop = numgentest.Start(t, numgentest.Node{Replica: numgentest.Named{Replica: shared.Replica, ID: n.id}, Events: shared.Events}, n.clk, cfg)
		}
		for i := range nodes {
			nodes[i] = &node{id: string(rune('a' + i)), clk: fakeclock.New(time.Time{})}
			boot(nodes[i])
		}
		defer func() {
			for _, n := range nodes {
				n.stop()
			}
		}()
		createAll(t, nodes[0].svc)
		judges := map[string]*numgentest.Judge{}
		for _, name := range timed {
			judges[name] = &numgentest.Judge{}
		}
		steps := rapid.SampledFrom([]time.Duration{-time.Hour, time.Hour, -8 * time.Second, 8 * time.Second, -time.Millisecond, time.Millisecond, 30 * time.Minute, -30 * time.Minute})
		for range rapid.IntRange(5, 40).Draw(rt, "steps") {
			n := nodes[rapid.IntRange(0, 2).Draw(rt, "node")]
			switch rapid.IntRange(0, 9).Draw(rt, "action") {
			case 0:
				n.clk.Step(steps.Draw(rt, "step"))
			case 1: // with notice
				n.stop()
				boot(n)
			case 2: // without: the old life is still there, and is never asked again
				old := n.stop
				t.Cleanup(old)
				boot(n)
			case 3:
				d := time.Duration(rapid.Int64Range(1, 20_000).Draw(rt, "ms")) * time.Millisecond
				base.Advance(d)
				for _, o := range nodes {
					o.clk.Advance(d)
				}
			default:
				name := rapid.SampledFrom(timed).Draw(rt, "generator")
				count := rapid.SampledFrom([]int{1, 5, 4096, 10_000}).Draw(rt, "count")
				ids, err := n.svc.IDs(t.Context(), name, count)
				if err != nil && !errs.Has(err, errs.ClockMovedBack) {
					rt.Fatal(err)
				}
				if err == nil && len(ids) != count {
					rt.Fatalf("%d ids of %d and no error", len(ids), count)
				}
				judges[name].Add(t, n.id, ids)
			}
		}
	})
}

// Formatted numbers that start again each day: the date is that of the number's
// period, also on a node whose clock is behind, and a period never comes back.
func TestFormatPeriods(t *testing.T) {
	start := time.Date(2026, 12, 31, 23, 59, 58, 0, time.UTC)
	ahead, behind := fakeclock.New(start), fakeclock.New(start)
	n := numgentest.Local(t, ahead)
	cfg := numgen.DefaultConfig()
	a, _ := numgentest.Start(t, n, ahead, cfg)
	b, _ := numgentest.Start(t, numgentest.Node{Replica: numgentest.Named{Replica: n.Replica, ID: "n2"}, Events: n.Events}, behind, cfg)
	if _, _, err := a.Create(t.Context(), api.CreateRequest{Name: "bill", Kind: "format", Options: api.Options{Template: "{yyyyMMdd}-{n:4}", Reset: "day"}}); err != nil {
		t.Fatal(err)
	}
	want := func(svc *numgen.Service, id string) {
		t.Helper()
		ids, err := svc.IDs(t.Context(), "bill", 1)
		if err != nil || ids[0] != id {
			t.Fatalf("%v %v, want %s", ids, err, id)
		}
	}
	want(a, "20261231-0001")
	want(b, "20261231-0002")
	ahead.Step(3 * time.Second)
	want(a, "20270101-0001")
	want(b, "20270101-0002") // its own clock still shows the old year
	ahead.Step(-3 * time.Second)
	want(a, "20270101-0003")
	behind.Step(25 * time.Hour)
	want(b, "20270102-0001")
	behind.Step(100 * 24 * time.Hour) // nonsense, and refused: it would spoil the period for as long
	if ids, err := b.IDs(t.Context(), "bill", 1); !errs.Has(err, errs.Unavailable) {
		t.Fatal(ids, err)
	}
}
