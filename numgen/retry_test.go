package numgen_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"

	"nekoq/numgen"
	"nekoq/numgen/api"
	"nekoq/numgen/numgentest"
	"nekoq/services/clock"
	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/replica"
	"nekoq/services/state"
)

// A request for numbers of a sequence that is retried under its request id gets
// the same numbers, rendered with the same time; a new one gets the next.
func TestRetriedRequest(t *testing.T) {
	n := numgentest.Local(t, clock.System())
	svc, _ := numgentest.Start(t, n, clock.System(), numgen.DefaultConfig())
	res, err := n.Replica.Propose(t.Context(), state.OpenSession())
	if err != nil {
		t.Fatal(err)
	}
	session, err := state.SessionID(res.Data)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := svc.Create(t.Context(), api.CreateRequest{Name: "f", Kind: "format", Options: api.Options{Template: "{HHmmssSSS}-{n}"}}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"f", "s"} {
		if name == "s" {
			if _, _, err := svc.Create(t.Context(), api.CreateRequest{Name: "s", Kind: "sequence"}); err != nil {
				t.Fatal(err)
			}
		}
		var answers [][]string
		for i := range 6 {
			seq := uint64(len(name)) + uint64(i/3) + 1
			if name == "s" {
				seq += 10
			}
			ctx := command.NewContext(t.Context(), command.RequestID{Session: session, Seq: seq})
			ids, err := svc.IDs(ctx, name, 3)
			if err != nil {
				t.Fatal(err)
			}
			answers = append(answers, ids)
		}
		if !slices.Equal(answers[0], answers[2]) || !slices.Equal(answers[3], answers[5]) || slices.Equal(answers[0], answers[3]) {
			t.Fatal(answers)
		}
	}
}

// cut is a replica whose leader can be taken away.
type cut struct {
	numgen.Replica
	gone atomic.Bool
}

func (c *cut) Propose(ctx context.Context, cmd command.Command) (replica.Result, error) {
	if c.gone.Load() {
		return replica.Result{}, errs.New(errs.NoLeader, "no leader is known")
	}
	return c.Replica.Propose(ctx, cmd)
}

// With the majority gone, ids go on until the lease or the segment ends, and
// then fail with a clear error; sequences fail at once.
func TestWithoutMajority(t *testing.T) {
	n := numgentest.Local(t, clock.System())
	c := &cut{Replica: n.Replica}
	svc, _ := numgentest.Start(t, numgentest.Node{Replica: c, Events: n.Events}, clock.System(), numgen.DefaultConfig())
	createAll(t, svc)
	for _, name := range timed {
		if _, err := svc.IDs(t.Context(), name, 1); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := svc.IDs(t.Context(), "sequence", 1); err != nil {
		t.Fatal(err)
	}
	c.gone.Store(true)
	for _, name := range timed {
		ids, err := svc.IDs(t.Context(), name, 1000)
		if err != nil || len(ids) != 1000 {
			t.Fatal(name, err)
		}
	}
	for _, name := range []string{"sequence", "format", "segment"} {
		if _, err := svc.IDs(t.Context(), name, 5); !errs.Has(err, errs.NoLeader) {
			t.Fatal(name, err)
		}
	}
	c.gone.Store(false)
}

func BenchmarkService(b *testing.B) {
	n := numgentest.Local(b, clock.System())
	svc, _ := numgentest.Start(b, n, clock.System(), numgen.DefaultConfig())
	for name, req := range numgentest.Options() {
		req.Name = name
		if name == "segment" {
			req.Options = api.Options{}
		}
		if _, _, err := svc.Create(b.Context(), req); err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			var buf []byte
			for b.Loop() {
				_, out, err := svc.Append(b.Context(), buf[:0], name, 1000)
				if err != nil {
					b.Fatal(err)
				}
				buf = out
			}
			b.ReportMetric(1000*float64(b.N)/b.Elapsed().Seconds(), "ids/s")
		})
	}
}
