package native_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"nekoq/client"
	"nekoq/services/auth"
	"nekoq/services/clock"
	"nekoq/services/errs"
	"nekoq/services/replica/local"
	"nekoq/services/state"
	"nekoq/services/watch"
	"nekoq/services/wire"
	"nekoq/warehouse/native"
	"nekoq/warehouse/warehousetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is warehouse behind the native door, whose connections the test can cut.
type node struct {
	node *warehousetest.Node
	hub  *watch.Hub
	srv  *wire.Server

	mu    sync.Mutex
	conns []net.Conn
	wg    sync.WaitGroup
}

func open(tb testing.TB, authz auth.Authorizer) (*node, *client.Client) {
	tb.Helper()
	reg := state.NewRegistry()
	warehousetest.Register(reg)
	n := &node{hub: watch.NewHub(watch.Options{})}
	m, err := state.Open(state.Options{Path: filepath.Join(tb.TempDir(), "state.db"), Registry: reg, Events: n.hub, Mode: state.Volatile})
	if err != nil {
		tb.Fatal(err)
	}
	r, err := local.New(local.Options{NodeID: "n1", Machine: m, Clock: clock.System(), Config: local.DefaultConfig()})
	if err != nil {
		tb.Fatal(err)
	}
	n.node = warehousetest.NewNode(tb, r, n.hub, nil)
	r.Start()
	mux := wire.NewMux()
	native.Register(mux, n.node.KV, authz)
	mux.Unary(wire.MethodSessionOpen, "system.session_open", func(ctx context.Context, _, dst []byte) ([]byte, error) {
		res, err := r.Propose(ctx, state.OpenSession())
		return append(dst, res.Data...), err
	})
	n.srv = wire.NewServer(mux, wire.ServerOptions{})
	c, err := client.New(client.Config{Endpoints: []string{"here"}, Dialer: n.dial, BackoffMin: time.Millisecond, Timeout: 30 * time.Second})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		err := errors.Join(c.Close(), n.srv.Shutdown(ctx))
		n.wg.Wait()
		err = errors.Join(err, r.Shutdown(ctx))
		n.hub.Close()
		if err = errors.Join(err, m.Close()); err != nil {
			tb.Errorf("stop: %v", err)
		}
	})
	return n, c
}

func (n *node) dial(context.Context, string) (net.Conn, error) {
	c, s := wire.Pipe()
	n.mu.Lock()
	n.conns = append(n.conns, c)
	n.mu.Unlock()
	n.wg.Go(func() { n.srv.ServeConn(s) })
	return c, nil
}

// cut ends all connections there are.
func (n *node) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.conns {
		c.Close()
	}
	n.conns = nil
}

// row: nekoq 8
func TestClient(t *testing.T) {
	_, c := open(t, auth.AllowAll{})
	ctx, kv := t.Context(), c.KV()
	w, err := kv.Put(ctx, "a\x00\xff", []byte("1"), client.IfAbsent())
	if err != nil || w.Revision != 2 || w.Version != 1 {
		t.Fatalf("put: %+v %v", w, err)
	}
	if _, err = kv.Put(ctx, "a\x00\xff", []byte("1"), client.IfAbsent()); !errs.Has(err, errs.RevisionMismatch) {
		t.Fatalf("set if absent: %v", err)
	}
	if w, err = kv.CompareAndSet(ctx, "a\x00\xff", 2, []byte("2")); err != nil || w.PrevRevision != 2 {
		t.Fatalf("compare and set: %+v %v", w, err)
	}
	v, err := kv.Get(ctx, "a\x00\xff")
	if err != nil || string(v.Value) != "2" || v.Version != 2 || v.CreateRevision != 2 || v.Actor != "native:anonymous" || string(v.Key) != "a\x00\xff" {
		t.Fatalf("get: %+v %v", v, err)
	}
	if v, err = kv.Get(ctx, "a\x00\xff", client.AtRevision(2)); err != nil || string(v.Value) != "1" {
		t.Fatalf("get at 2: %+v %v", v, err)
	}
	if _, err = kv.Get(ctx, "none"); !errs.Has(err, errs.NotFound) {
		t.Fatalf("nothing: %v", err)
	}
	if r, err := kv.Read(ctx, "none", client.Stale()); err != nil || r.Found || !r.Stale || r.Revision != 3 {
		t.Fatalf("stale: %+v %v", r, err)
	}
	for i := range 25 {
		if _, err := kv.Put(ctx, fmt.Sprintf("l/%02d", i), []byte{byte(i)}, client.WithTTL(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	for item, err := range kv.All(ctx, "l/", client.WithLimit(7)) {
		if err != nil || string(item.Key) != fmt.Sprintf("l/%02d", n) || item.Value[0] != byte(n) || item.Lease == 0 {
			t.Fatalf("item %d: %+v %v", n, item, err)
		}
		n++
	}
	page, err := kv.List(ctx, "l/", client.KeysOnly(), client.WithCount(), client.WithLimit(3))
	if err != nil || n != 25 || page.Count != 25 || len(page.Items) != 3 || page.Items[0].Value != nil {
		t.Fatalf("%d items; page %+v %v", n, page, err)
	}
	if d, err := kv.Delete(ctx, "a\x00\xff", client.IfRevision(3)); err != nil || d.PrevRevision != 3 {
		t.Fatalf("delete: %+v %v", d, err)
	}
	h, err := kv.History(ctx, "a\x00\xff")
	if err != nil || len(h.Items) != 3 || !h.Items[0].Deleted || string(h.Items[2].Value) != "1" {
		t.Fatalf("history: %+v %v", h, err)
	}
	if rev, err := kv.Compact(ctx, 20); err != nil || rev != 20 {
		t.Fatalf("compact: %d %v", rev, err)
	}
	if st, err := kv.Status(ctx); err != nil || st.Keys != 25 || st.CompactRevision != 20 {
		t.Fatalf("status: %+v %v", st, err)
	}
	for name, err := range map[string]error{
		"Put Stale":     second(kv.Put(ctx, "k", nil, client.Stale())),
		"Get TTL":       second(kv.Get(ctx, "k", client.WithTTL(time.Hour))),
		"List Prev":     second(kv.List(ctx, "k", client.WithPrev())),
		"Delete Limit":  second(kv.Delete(ctx, "k", client.WithLimit(1))),
		"Watch Limit":   second(kv.Watch(ctx, "k", client.WithLimit(1))),
		"Status Prev":   second(kv.Status(ctx, client.WithPrev())),
		"History Count": second(kv.History(ctx, "k", client.WithCount())),
		"TTL 0":         second(kv.Put(ctx, "k", nil, client.WithTTL(0))),
		"limit":         second(kv.List(ctx, "k", client.WithLimit(-5))),
	} {
		if !errs.Has(err, errs.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// A watch goes on over cut connections and resets of the event hub, with every
// event once and in order.
func TestWatchSurvives(t *testing.T) {
	n, c := open(t, nil)
	ctx, kv := t.Context(), c.KV()
	w, err := kv.Watch(ctx, "w/")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	const total = 600
	go func() {
		for i := range total {
			if _, err := kv.Put(ctx, fmt.Sprintf("w/%d", i%5), fmt.Append(nil, i)); err != nil {
				t.Errorf("put: %v", err)
				return
			}
			switch {
			case i%97 == 50:
				n.cut()
			case i%151 == 70:
				n.hub.Reset()
			}
		}
	}()
	last := uint64(0)
	for i := 0; i < total; {
		evs, err := w.Next(ctx)
		if err != nil {
			t.Fatalf("after %d events: %v", i, err)
		}
		for _, e := range evs {
			if string(e.KV.Value) != fmt.Sprint(i) || e.KV.ModRevision <= last {
				t.Fatalf("event %d is %s=%s at %d after %d", i, e.KV.Key, e.KV.Value, e.KV.ModRevision, last)
			}
			last = e.KV.ModRevision
			i++
		}
	}
	if w.Revision() != last {
		t.Fatalf("the watch stands at %d, not %d", w.Revision(), last)
	}
	// From the past, and over a compaction.
	past, err := kv.WatchKey(ctx, "w/3", client.AfterRevision(1), client.WithPrev())
	if err != nil {
		t.Fatal(err)
	}
	defer past.Close()
	if evs, err := past.Next(ctx); err != nil || string(evs[0].KV.Value) != "3" || string(evs[1].Prev.Value) != "3" {
		t.Fatalf("the past: %+v %v", evs, err)
	}
	if _, err := kv.Compact(ctx, last); err != nil {
		t.Fatal(err)
	}
	if w, err := kv.WatchKey(ctx, "w/3", client.AfterRevision(1)); !errs.Has(err, errs.Compacted) {
		t.Fatalf("a compacted past: %v %v", w, err)
	}
}

// asked records what the door asks.
type asked struct {
	mu  sync.Mutex
	got []string
	no  auth.Action
}

func (a *asked) Allow(_ context.Context, p auth.Principal, act auth.Action, r auth.Resource) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.got = append(a.got, fmt.Sprintf("%s %s %s/%s/%q-%q", p.Door, act, r.Service, r.Kind, r.Name, r.End))
	if act == a.no {
		return errs.New(errs.Forbidden, "no")
	}
	return nil
}

func TestAuthorizerIsAsked(t *testing.T) {
	a := &asked{no: auth.Delete}
	_, c := open(t, a)
	ctx, kv := t.Context(), c.KV()
	_, _ = kv.Put(ctx, "k", nil)
	_, _ = kv.Get(ctx, "k")
	if _, err := kv.Delete(ctx, "k"); !errs.Has(err, errs.Forbidden) {
		t.Errorf("a forbidden delete: %v", err)
	}
	_, _ = kv.List(ctx, "p")
	_, _ = kv.History(ctx, "k")
	_, _ = kv.Status(ctx)
	_, _ = kv.Compact(ctx, 1)
	if w, err := kv.WatchKey(ctx, "k"); err == nil {
		w.Close()
	}
	want := []string{
		`native write warehouse/kv/"k"-""`, `native read warehouse/kv/"k"-""`, `native delete warehouse/kv/"k"-""`,
		`native read warehouse/kv/"p"-"q"`, `native read warehouse/kv/"k"-""`, `native read warehouse/kv/""-"\xff"`,
		`native admin warehouse/kv/""-"\xff"`, `native watch warehouse/kv/"k"-"k\x00"`,
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, w := range want {
		if i >= len(a.got) || a.got[i] != w {
			t.Fatalf("asked %q, want %q", a.got, want)
		}
	}
}
