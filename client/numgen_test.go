package client_test

import (
	"context"
	"net"
	"strconv"
	"testing"
	"time"

	"nekoq/client"
	"nekoq/numgen"
	"nekoq/numgen/api"
	"nekoq/numgen/native"
	"nekoq/numgen/numgentest"
	"nekoq/services/clock"
	"nekoq/services/errs"
	"nekoq/services/state"
	"nekoq/services/wire"
)

// numgenClient is a client of a real numgen service over an in-process pipe.
func numgenClient(t testing.TB) client.Numgen {
	n := numgentest.Local(t, clock.System())
	svc, _ := numgentest.Start(t, n, clock.System(), numgen.DefaultConfig())
	mux := wire.NewMux()
	mux.Unary(wire.MethodSessionOpen, "session_open", func(ctx context.Context, _, dst []byte) ([]byte, error) {
		res, err := n.Replica.Propose(ctx, state.OpenSession())
		return append(dst, res.Data...), err
	})
	native.Register(mux, svc, nil)
	srv := wire.NewServer(mux, wire.ServerOptions{})
	c, err := client.New(client.Config{Endpoints: []string{"in-process:0"}, Dialer: func(context.Context, string) (net.Conn, error) {
		mine, theirs := wire.Pipe()
		go srv.ServeConn(theirs)
		return mine, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = c.Close()
		_ = srv.Shutdown(ctx)
	})
	return c.Numgen()
}

func TestNumgen(t *testing.T) {
	g := numgenClient(t)
	ctx := t.Context()
	for name, req := range numgentest.Options() {
		req.Name = name
		made, err := g.Create(ctx, req)
		if err != nil {
			t.Fatal(name, err)
		}
		var j numgentest.Judge
		for _, k := range []int{1, 10, 10_000} {
			ids, err := g.IDs(ctx, name, k)
			if err != nil || len(ids) != k {
				t.Fatal(name, len(ids), err)
			}
			j.Add(t, name, ids)
			if _, err := g.Decode(ctx, api.DecodeRequest{Name: name, ID: ids[0]}); err != nil {
				t.Fatal(name, err)
			}
		}
		if got, err := g.Get(ctx, name); err != nil || *got != *made {
			t.Fatal(got, err)
		}
	}
	if _, err := g.IDs(ctx, "id128", 10_001); !errs.Has(err, errs.InvalidArgument) {
		t.Fatal(err)
	}
	if id, err := g.Next(ctx, "first-use"); err != nil || len(id) != 32 {
		t.Fatal(id, err)
	}
	l, err := g.List(ctx, api.ListRequest{Limit: 2})
	if err != nil || len(l.Generators) != 2 || !l.More {
		t.Fatal(l, err)
	}
	if err := g.Delete(ctx, "first-use"); err != nil {
		t.Fatal(err)
	}
	if w, err := g.Workers(ctx, api.WorkersRequest{}); err != nil || len(w.Workers) < 2 {
		t.Fatal(w, err)
	}
}

// row: stardust 9: a worker id that no other instance has. Local generation, beside the server's own: no id twice, and the lease goes
// back at the end.
func TestLeaseWorker(t *testing.T) {
	g := numgenClient(t)
	ctx := t.Context()
	for _, kind := range []string{"id128", "snowflake", "uuidv7", "ulid"} {
		if _, err := g.Create(ctx, api.CreateRequest{Name: kind, Kind: kind}); err != nil {
			t.Fatal(err)
		}
		var j numgentest.Judge
		server := func() {
			ids, err := g.IDs(ctx, kind, 1000)
			if err != nil {
				t.Fatal(err)
			}
			j.Add(t, "server", ids)
		}
		server()
		for life := range 3 {
			lease := g.LeaseWorker(client.LocalOptions{})
			local, err := lease.Generator(ctx, kind)
			if err != nil {
				t.Fatal(err)
			}
			if same, err := lease.Generator(ctx, kind); err != nil || same != local {
				t.Fatal(err)
			}
			for range 5 {
				ids, err := local.IDs(ctx, 1000)
				if err != nil {
					t.Fatal(err)
				}
				j.Add(t, "client "+strconv.Itoa(life), ids)
				server()
			}
			if n := len(lease.Grants()); n != 1 {
				t.Fatal(n, "grants")
			}
			if err := lease.Close(ctx); err != nil {
				t.Fatal(err)
			}
			if _, err := local.Next(ctx); !errs.Has(err, errs.ShuttingDown) {
				t.Fatal(err)
			}
		}
	}
	l, err := g.Workers(ctx, api.WorkersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range l.Workers {
		if w.Held != (w.Holder[:5] == "node:") {
			t.Errorf("%+v", w)
		}
	}
	if _, err := g.Create(ctx, api.CreateRequest{Name: "seq", Kind: "sequence"}); err != nil {
		t.Fatal(err)
	}
	lease := g.LeaseWorker(client.LocalOptions{})
	if _, err := lease.Generator(ctx, "seq"); !errs.Has(err, errs.InvalidArgument) {
		t.Fatal(err)
	}
}

// Leased segments: what is not used goes back and is given out again.
func TestLeaseSegment(t *testing.T) {
	g := numgenClient(t)
	ctx := t.Context()
	if _, err := g.Create(ctx, api.CreateRequest{Name: "seg", Kind: "segment", Options: api.Options{MinStep: 10, MaxStep: 100}}); err != nil {
		t.Fatal(err)
	}
	next := 1
	for range 4 {
		local, err := g.LeaseSegment(ctx, "seg", client.LocalOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range []int{1, 3, 44} {
			ids, err := local.IDs(ctx, k)
			if err != nil {
				t.Fatal(err)
			}
			for _, id := range ids {
				if id != strconv.Itoa(next) {
					t.Fatalf("%s, want %d", id, next)
				}
				next++
			}
		}
		if err := local.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

func BenchmarkNumgenIDs(b *testing.B) {
	g := numgenClient(b)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, _, err := g.Packed(b.Context(), "bench", 1); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
