package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/client"
	"nekoq/services/auth"
	"nekoq/services/auth/authtest"
	"nekoq/services/clock"
	"nekoq/services/errs"
	"nekoq/services/replica/local"
	"nekoq/services/state"
	"nekoq/services/watch"
	"nekoq/services/wire"
	"nekoq/warehouse/api"
	"nekoq/warehouse/native"
	"nekoq/warehouse/warehousetest"
)

// store is warehouse behind several native doors, as the nodes of a cluster are to a
// client: one state, and doors that come and go.
type store struct {
	t     *testing.T
	node  *warehousetest.Node
	open  func(ctx context.Context, dst []byte) ([]byte, error)
	doors map[string]*door
	wg    sync.WaitGroup
}

// door is one native door. asks counts what it was asked.
type door struct {
	asks   authtest.Recorder
	keeps  atomic.Int64 // questions for the writing of leases
	claims atomic.Int64 // and of locks

	mu    sync.Mutex
	srv   *wire.Server // nil while it is down
	conns []net.Conn
}

func (d *door) Allow(ctx context.Context, p auth.Principal, a auth.Action, r auth.Resource) error {
	if r.Kind == "lease" && a == auth.Write {
		d.keeps.Add(1)
	}
	if r.Kind == "lock" && a == auth.Write {
		d.claims.Add(1)
	}
	return d.asks.Allow(ctx, p, a, r)
}

func newStore(t *testing.T, names ...string) *store {
	t.Helper()
	reg := state.NewRegistry()
	warehousetest.Register(reg)
	hub := watch.NewHub(watch.Options{})
	m, err := state.Open(state.Options{Path: filepath.Join(t.TempDir(), "state.db"), Registry: reg, Events: hub, Mode: state.Volatile})
	require.NoError(t, err)
	r, err := local.New(local.Options{NodeID: "n1", Machine: m, Clock: clock.System(), Config: local.DefaultConfig()})
	require.NoError(t, err)
	s := &store{t: t, node: warehousetest.NewNode(t, r, hub, nil), doors: map[string]*door{}}
	s.open = func(ctx context.Context, dst []byte) ([]byte, error) {
		res, err := r.Propose(ctx, state.OpenSession())
		return append(dst, res.Data...), err
	}
	r.Start()
	for _, n := range names {
		s.doors[n] = &door{}
		s.start(n)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		for n := range s.doors {
			s.stop(n)
		}
		s.wg.Wait()
		err := r.Shutdown(ctx)
		hub.Close()
		require.NoError(t, errors.Join(err, m.Close()))
	})
	return s
}

func (s *store) start(name string) {
	d := s.doors[name]
	mux := wire.NewMux()
	native.Register(mux, s.node.KV, d)
	mux.Unary(wire.MethodSessionOpen, "system.session_open", func(ctx context.Context, _, dst []byte) ([]byte, error) { return s.open(ctx, dst) })
	d.mu.Lock()
	defer d.mu.Unlock()
	d.srv = wire.NewServer(mux, wire.ServerOptions{})
}

// stop ends a door as a crash would: its connections break.
func (s *store) stop(name string) {
	d := s.doors[name]
	d.mu.Lock()
	srv, conns := d.srv, d.conns
	d.srv, d.conns = nil, nil
	d.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
	if srv == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	require.NoError(s.t, srv.Shutdown(ctx))
}

func (s *store) dial(_ context.Context, name string) (net.Conn, error) {
	d := s.doors[name]
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.srv == nil {
		return nil, errors.New("connection refused")
	}
	c, far := wire.Pipe()
	d.conns = append(d.conns, c)
	srv := d.srv
	s.wg.Go(func() { srv.ServeConn(far) })
	return c, nil
}

// cut ends the connections of a door, which stays up.
func (s *store) cut(name string) {
	d := s.doors[name]
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.conns {
		c.Close()
	}
	d.conns = nil
}

func (s *store) client(endpoints ...string) *client.Client {
	s.t.Helper()
	c, err := client.New(client.Config{Endpoints: endpoints, Dialer: s.dial, BackoffMin: time.Millisecond, BackoffMax: 20 * time.Millisecond, Timeout: time.Minute})
	require.NoError(s.t, err)
	s.t.Cleanup(func() { require.NoError(s.t, c.Close()) })
	return c
}

func (s *store) until(what string, cond func() bool) {
	s.t.Helper()
	require.Eventually(s.t, cond, time.Minute, 2*time.Millisecond, what)
}

func (s *store) session(c *client.Client, ttl time.Duration) *client.Session {
	s.t.Helper()
	on, err := c.Leases().Session(s.t.Context(), ttl)
	require.NoError(s.t, err)
	s.t.Cleanup(on.Abandon)
	return on
}

func TestTxn(t *testing.T) {
	s := newStore(t, "a")
	kv, ctx := s.client("a").KV(), t.Context()
	res, err := kv.Txn().If(client.IfMissing("k")).
		Then(client.OpPut("k", []byte("1")), client.OpPut("t", nil, client.WithTTL(time.Hour))).
		Else(client.OpGet("k")).Commit(ctx)
	require.NoError(t, err)
	require.True(t, res.Succeeded)
	require.EqualValues(t, 2, res.Revision)
	require.EqualValues(t, 1, res.Ops[0].Put.Version)
	require.NotZero(t, res.Ops[1].Put.Lease)
	require.Nil(t, res.Ops[0].Put.Prev)
	for name, c := range map[string]struct {
		cond  client.TxnIf
		holds bool
	}{
		"missing": {client.IfMissing("k"), false}, "exists": {client.IfExists("k"), true}, "exists not": {client.IfExists("none"), false},
		"mod": {client.IfModRevision("k", 2), true}, "other mod": {client.IfModRevision("k", 3), false},
		"value": {client.IfValue("k", []byte("1")), true}, "other value": {client.IfValue("k", []byte("2")), false},
	} {
		res, err := kv.Txn().If(c.cond).Commit(ctx)
		require.NoError(t, err, name)
		require.Equal(t, c.holds, res.Succeeded, name)
		require.EqualValues(t, 2, res.Revision, "a transaction without writes takes no revision")
	}
	inner := kv.Txn().If(client.IfExists("none")).Then(client.OpPut("no", nil)).Else(client.OpDelete(client.SpanPrefix("t")), client.OpPut("k", []byte("2")))
	res, err = kv.Txn().Then(client.OpTxn(inner), client.OpRange(client.RangeRequest{Span: client.SpanRange("a", "z"), Limit: 1})).Commit(ctx)
	require.NoError(t, err)
	require.False(t, res.Ops[0].Txn.Succeeded)
	require.EqualValues(t, 1, res.Ops[0].Txn.Ops[0].Delete.Deleted)
	require.Equal(t, []byte("1"), res.Ops[0].Txn.Ops[1].Put.Prev.Value)
	require.EqualValues(t, 1, res.Ops[1].Range.Count)
	for i := range 5 {
		_, err := kv.Put(ctx, fmt.Sprintf("p/%d", i), nil)
		require.NoError(t, err)
	}
	r, err := kv.Range(ctx, client.RangeRequest{Span: client.SpanRange("p/1", ""), Limit: 2, KeysOnly: true})
	require.NoError(t, err)
	require.True(t, r.More)
	require.EqualValues(t, 4, r.Count)
	n, rev, err := kv.DeletePrefix(ctx, "p/")
	require.NoError(t, err)
	require.EqualValues(t, 5, n)
	require.EqualValues(t, 9, rev)
	n, rev, err = kv.DeletePrefix(ctx, "p/")
	require.NoError(t, err)
	require.Zero(t, n)
	require.EqualValues(t, 9, rev, "deleting nothing takes no revision")
}

func TestTxnRefusals(t *testing.T) {
	s := newStore(t, "a")
	c, ctx := s.client("a"), t.Context()
	many := make([]client.TxnOp, 129)
	for i := range many {
		many[i] = client.OpGet("k")
	}
	for name, w := range map[string]struct {
		txn   *client.Txn
		code  errs.Code
		field string
	}{
		"twice":       {c.KV().Txn().Then(client.OpPut("k", nil), client.OpPut("k", nil)), errs.DuplicateKey, "key"},
		"many":        {c.KV().Txn().Then(many...), errs.TooManyOps, ""},
		"empty key":   {c.KV().Txn().Then(client.OpPut("", nil)), errs.InvalidArgument, "key"},
		"long key":    {c.KV().Txn().Then(client.OpPut(strings.Repeat("k", 4097), nil)), errs.TooLarge, "key"},
		"long value":  {c.KV().Txn().Then(client.OpPut("k", make([]byte, 3<<19+1))), errs.TooLarge, "value"},
		"system":      {c.KV().Txn().Then(client.OpPut("/_sys/x", nil)), errs.Forbidden, "key"},
		"lease":       {c.KV().Txn().Then(client.OpPut("k", nil, client.WithLease(99))), errs.LeaseNotFound, ""},
		"ttl":         {c.KV().Txn().Then(client.OpPut("k", nil, client.WithTTL(time.Millisecond))), errs.InvalidArgument, "ttl"},
		"future":      {c.KV().Txn().Then(client.OpRange(client.RangeRequest{Span: client.SpanOf("k"), Revision: 99})), errs.FutureRevision, "revision"},
		"no op":       {c.KV().Txn().Then(client.TxnOp{}), errs.InvalidArgument, "operation"},
		"option":      {c.KV().Txn().Then(client.OpTxn(c.KV().Txn().Else(client.OpPut("k", nil, client.Stale())))), errs.InvalidArgument, "operation"},
		"stale token": {c.KV().Txn().Holding(client.Token{Kind: api.TokenLock, Name: "l", Token: 7}).Then(client.OpPut("k", nil)), errs.StaleToken, "token"},
		"no token":    {c.KV().Txn().Holding(client.Token{Kind: api.TokenLock, Name: "l"}), errs.InvalidArgument, "token"},
	} {
		_, err := w.txn.Commit(ctx)
		require.True(t, errs.Has(err, w.code), "%s: %v", name, err)
		if w.field != "" {
			require.NotEmpty(t, errs.From(err).Details, name)
			require.Equal(t, w.field, errs.From(err).Details[0].Field, "%s: %v", name, err)
		}
	}
	st, err := c.KV().Status(ctx)
	require.NoError(t, err)
	require.Zero(t, st.Keys, "a refused transaction wrote")
}

// Counters that many clients raise with compare-and-set over cut connections and doors
// that stop lose and double nothing.
func TestTxnOnceOverLostConnections(t *testing.T) {
	s := newStore(t, "a", "b")
	const clients, each = 4, 25
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range clients {
		kv := s.client("a", "b").KV()
		wg.Go(func() {
			for done := 0; done < each; {
				v, err := kv.Read(t.Context(), "n")
				if err != nil {
					t.Error(err)
					return
				}
				n, _ := strconv.Atoi(string(v.KV.Value))
				cond := client.IfMissing("n")
				if v.Found {
					cond = client.IfModRevision("n", v.KV.ModRevision)
				}
				res, err := kv.Txn().If(cond).Then(client.OpPut("n", []byte(strconv.Itoa(n+1)))).Commit(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				if res.Succeeded {
					done++
				}
			}
		})
	}
	var trouble sync.WaitGroup
	trouble.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			switch i % 8 {
			case 3:
				s.stop("a")
			case 5:
				s.start("a")
			default:
				s.cut([]string{"a", "b"}[i%2])
			}
		}
	})
	wg.Wait()
	close(stop)
	trouble.Wait()
	v, err := s.client("b").KV().Get(t.Context(), "n")
	require.NoError(t, err)
	require.Equal(t, strconv.Itoa(clients*each), string(v.Value))
	require.EqualValues(t, clients*each, v.Version)
}

func TestLeases(t *testing.T) {
	s := newStore(t, "a")
	c, ctx := s.client("a"), t.Context()
	l := c.Leases()
	g, err := l.Grant(ctx, time.Minute)
	require.NoError(t, err)
	require.Equal(t, time.Minute, g.TTL)
	require.NotZero(t, g.Token)
	_, err = c.KV().Put(ctx, "k", nil, client.WithLease(g.ID))
	require.NoError(t, err)
	i, err := l.Get(ctx, g.ID)
	require.NoError(t, err)
	require.Equal(t, [][]byte{[]byte("k")}, i.Keys)
	require.Positive(t, i.Remaining)
	i, err = l.KeepAlive(ctx, g.ID)
	require.NoError(t, err)
	require.Equal(t, time.Minute, i.Remaining)
	ids, err := l.List(ctx)
	require.NoError(t, err)
	require.Equal(t, []uint64{g.ID}, ids)
	require.NoError(t, l.Revoke(ctx, g.ID))
	_, err = c.KV().Get(ctx, "k")
	require.True(t, errs.Has(err, errs.NotFound), "%v", err)
	for name, err := range map[string]error{
		"get": second(l.Get(ctx, g.ID)), "keep": second(l.KeepAlive(ctx, g.ID)), "revoke": l.Revoke(ctx, g.ID),
		"put": second(c.KV().Put(ctx, "k", nil, client.WithLease(g.ID))),
	} {
		require.True(t, errs.Has(err, errs.LeaseNotFound), "%s: %v", name, err)
	}
	for _, ttl := range []time.Duration{0, time.Millisecond, -time.Second, 9_000_000_001 * time.Second} {
		_, err := l.Grant(ctx, ttl)
		require.True(t, errs.Has(err, errs.InvalidArgument), "%s: %v", ttl, err)
		require.Contains(t, err.Error(), "1s to 9000000000s")
	}
}

// A list of leases takes as many requests as it needs.
func TestManyLeases(t *testing.T) {
	s := newStore(t, "a")
	c, ctx := s.client("a"), t.Context()
	var mu sync.Mutex
	var wg sync.WaitGroup
	var granted []uint64
	for range 20 {
		wg.Go(func() {
			for range 103 { // two pages of 1,000 and a bit
				g, err := c.Leases().Grant(ctx, time.Minute)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				granted = append(granted, g.ID)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.Sort(granted)
	ids, err := c.Leases().List(ctx)
	require.NoError(t, err)
	require.Equal(t, granted, ids)
	for id, err := range c.Leases().All(ctx) {
		require.NoError(t, err)
		require.Equal(t, granted[0], id)
		break
	}
	ended, end := context.WithCancel(ctx)
	end()
	for _, err := range c.Leases().All(ended) {
		require.True(t, errs.Has(err, errs.Canceled), "%v", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestSession(t *testing.T) {
	s := newStore(t, "a")
	c, ctx := s.client("a"), t.Context()
	on, err := c.Leases().Session(ctx, time.Second)
	require.NoError(t, err)
	s.until("it is kept alive", func() bool { return s.doors["a"].keeps.Load() >= 4 })
	require.NoError(t, on.Err())
	require.NoError(t, on.Close(ctx))
	<-on.Done()
	_, err = c.Leases().Get(ctx, on.ID())
	require.True(t, errs.Has(err, errs.LeaseNotFound), "%v", err)
	require.NoError(t, on.Close(ctx), "closed again")

	on = s.session(c, time.Second)
	require.NoError(t, c.Leases().Revoke(ctx, on.ID()))
	<-on.Done()
	require.True(t, errs.Has(on.Err(), errs.LeaseNotFound), "%v", on.Err())

	on = s.session(c, time.Minute)
	on.Abandon()
	<-on.Done()
	_, err = c.Leases().Get(ctx, on.ID())
	require.NoError(t, err, "an abandoned lease runs on")
	_, err = c.Leases().Session(ctx, time.Millisecond)
	require.True(t, errs.Has(err, errs.InvalidArgument), "%v", err)
}
