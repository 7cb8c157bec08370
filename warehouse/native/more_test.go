package native_test

import (
	"context"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"nekoq/client"
	"nekoq/services/auth"
	"nekoq/services/errs"
	"nekoq/services/wire"
	"nekoq/warehouse/api"
)

// conn is a bare connection of the wire protocol to the door.
func (n *node) conn(t *testing.T) *wire.Conn {
	t.Helper()
	c, err := n.dial(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	w, err := wire.NewConn(t.Context(), c, wire.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

// What is damaged on its way is refused by every method, whatever it was to be, and
// nothing of it is carried out.
func TestDamagedRequests(t *testing.T) {
	n, c := open(t, nil)
	w := n.conn(t)
	good := map[wire.Method][]byte{
		api.MethodRange:       (&api.RangeRequest{Span: api.One([]byte("k"))}).Append(nil),
		api.MethodTxn:         (&api.Txn{Then: []api.Op{{Put: &api.PutOp{Key: []byte("k"), Value: []byte("value")}}}}).Append(nil),
		api.MethodLeaseGrant:  (&api.LeaseRequest{TTL: time.Minute}).Append(nil),
		api.MethodLeaseKeep:   (&api.LeaseRequest{ID: 1 << 40}).Append(nil),
		api.MethodLeaseRevoke: (&api.LeaseRequest{ID: 1 << 40}).Append(nil),
		api.MethodLeaseGet:    (&api.LeaseRequest{ID: 1 << 40, Keys: true}).Append(nil),
		api.MethodClaim:       (&api.ClaimRequest{Kind: api.TokenLock, Name: "l", Holder: "h", TTL: time.Minute}).Append(nil),
		api.MethodRelease:     (&api.ReleaseRequest{Kind: api.TokenLock, Name: "l", Lease: 5}).Append(nil),
		api.MethodLook:        (&api.LookRequest{Kind: api.TokenLock, Name: "l"}).Append(nil),
		api.MethodUpkeep:      []byte(`{"do":"space"}`),
	}
	if len(good) != int(api.MethodFolder-api.MethodRange)-1 {
		t.Errorf("%d methods are tried", len(good))
	}
	for m, req := range good {
		for cut := range req {
			if m == api.MethodTxn && cut > 0 && strings.Contains(string(req[:cut]), "value") {
				continue // what follows the last operation may be missing
			}
			if _, err := w.Call(t.Context(), m, req[:cut]); err == nil || errs.Has(err, errs.Internal) {
				t.Errorf("method %#x, %d of %d bytes: %v", m, cut, len(req), err)
			}
		}
	}
	for _, m := range []wire.Method{api.MethodObserve, api.MethodFolder} {
		s, err := w.Stream(t.Context(), m, []byte{0xff})
		if err == nil {
			_, err = s.Recv(t.Context())
			s.Close()
		}
		if !errs.Has(err, errs.ProtocolViolation) {
			t.Errorf("method %#x: %v", m, err)
		}
	}
	st, err := c.KV().Status(t.Context())
	if err != nil || st.Keys != 0 {
		t.Errorf("something was carried out: %+v %v", st, err)
	}
	if ids, err := c.Leases().List(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("leases %v %v", ids, err)
	}
}

func TestUpkeepThatIsUnknown(t *testing.T) {
	n, _ := open(t, nil)
	req, err := json.Marshal(api.UpkeepRequest{Do: "polish"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = n.conn(t).Call(t.Context(), api.MethodUpkeep, req)
	if !errs.Has(err, errs.InvalidArgument) || !strings.Contains(err.Error(), "polish") || !strings.Contains(err.Error(), "leases") {
		t.Errorf("%v", err)
	}
}

// Leases come in pages in the order of their ids; all at once, for a client that knows
// no pages, the one that ends first first.
func TestLeasePages(t *testing.T) {
	n, c := open(t, nil)
	conn := n.conn(t)
	for i, id := range []uint64{9, 7, math.MaxInt64, 8} {
		r := api.LeaseRequest{ID: id, TTL: time.Duration(20-i) * time.Minute}
		if _, err := conn.Call(t.Context(), api.MethodLeaseGrant, r.Append(nil)); err != nil {
			t.Fatal(err)
		}
	}
	list := func(from uint64, limit int) (res api.UpkeepResult, err error) {
		req, err := json.Marshal(api.UpkeepRequest{Do: api.UpkeepLeases, From: from, Limit: limit})
		if err != nil {
			t.Fatal(err)
		}
		b, err := conn.Call(t.Context(), api.MethodUpkeep, req)
		if err == nil {
			err = json.Unmarshal(b, &res)
		}
		return res, err
	}
	for _, want := range []struct {
		from  uint64
		limit int
		ids   []uint64
		more  bool
	}{
		{0, 0, []uint64{8, math.MaxInt64, 7, 9}, false},
		{0, 2, []uint64{7, 8}, true},
		{8, 2, []uint64{9, math.MaxInt64}, false},
		{7, 2, []uint64{8, 9}, true},
		{math.MaxInt64, 2, nil, false},
		{math.MaxUint64, 2, nil, false},
	} {
		if got, err := list(want.from, want.limit); err != nil || !slices.Equal(got.Leases, want.ids) || got.More != want.more {
			t.Errorf("%d after %d: %v %v %v", want.limit, want.from, got.Leases, got.More, err)
		}
	}
	for _, limit := range []int{-1, api.MaxLeasePage + 1} {
		if _, err := list(0, limit); !errs.Has(err, errs.InvalidArgument) {
			t.Errorf("limit %d: %v", limit, err)
		}
	}
	if ids, err := c.Leases().List(t.Context()); err != nil || !slices.Equal(ids, []uint64{7, 8, 9, math.MaxInt64}) {
		t.Errorf("list: %v %v", ids, err)
	}
}

// Every method asks for just what it touches, before it acts.
func TestAuthorizerIsAskedByEveryMethod(t *testing.T) {
	a := &asked{}
	_, c := open(t, a)
	ctx := t.Context()
	want := func(what string, err error, lines ...string) {
		t.Helper()
		a.mu.Lock()
		defer a.mu.Unlock()
		if strings.Join(a.got, "\n") != "native "+strings.Join(lines, "\nnative ") {
			t.Errorf("%s asked %q, want %q (%v)", what, a.got, lines, err)
		}
		a.got = nil
	}
	const all = `warehouse/kv/""-"\xff"`
	_, err := c.KV().Range(ctx, client.RangeRequest{Span: client.SpanPrefix("p")})
	want("range", err, `read warehouse/kv/"p"-"q"`)
	inner := c.KV().Txn().If(client.IfExists("i")).Then(client.OpDelete(client.SpanRange("d", "")))
	_, err = c.KV().Txn().If(client.IfMissing("k")).Holding(client.Token{Kind: api.TokenElection, Name: "e", Token: 1}).
		Then(client.OpPut("a", nil), client.OpTxn(inner)).Else(client.OpGet("g")).Commit(ctx)
	want("txn", err, `read warehouse/kv/"k"-"k\x00"`, `read warehouse/election/"e"-""`, `write warehouse/kv/"a"-""`, `read warehouse/kv/"i"-"i\x00"`,
		`delete warehouse/kv/"d"-"\xff"`, `read warehouse/kv/"g"-"g\x00"`)
	g, err := c.Leases().Grant(ctx, time.Minute)
	want("grant", err, `write warehouse/lease/""-""`)
	_, err = c.Leases().KeepAlive(ctx, g.ID)
	want("keep", err, `write warehouse/lease/""-""`)
	_, err = c.Leases().Get(ctx, g.ID)
	want("get", err, `read warehouse/lease/""-""`)
	_, err = c.Leases().List(ctx)
	want("list", err, `read warehouse/lease/""-""`)
	err = c.Leases().Revoke(ctx, g.ID)
	want("revoke", err, `write warehouse/lease/""-""`)
	s, err := c.Leases().Session(ctx, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Abandon()
	want("session", nil, `write warehouse/lease/""-""`)
	l, err := c.Locks().Acquire(ctx, s, "l/1", "h")
	want("claim", err, `write warehouse/lock/"l/1"-""`)
	_, err = c.Elections().Leader(ctx, "e")
	want("look", err, `read warehouse/election/"e"-""`)
	err = l.Release(ctx)
	want("release", err, `write warehouse/lock/"l/1"-""`)
	o, err := c.Elections().Observe(ctx, "e")
	if err == nil {
		_, err = o.Next(ctx)
		o.Close()
	}
	want("observe", err, `watch warehouse/election/"e"-""`)
	f, err := c.KV().WatchFolder(ctx, "f/")
	if err == nil {
		_, err = f.Next(ctx)
		f.Close()
	}
	want("folder", err, `watch warehouse/kv/"f/"-"f0"`)
	_, err = c.KV().Diff(ctx, client.SpanOf("k"), 1, 0, 0)
	want("diff", err, `read warehouse/kv/"k"-"k\x00"`)
	_, err = c.KV().Rollback(ctx, client.SpanPrefix("k"), 1)
	want("rollback", err, `write warehouse/kv/"k"-"l"`, `delete warehouse/kv/"k"-"l"`)
	err = c.KV().SetQuota(ctx, client.KeyQuota{Prefix: []byte("q")})
	want("set quota", err, "admin "+all)
	_, err = c.KV().Quotas(ctx)
	want("quotas", err, "read "+all)
	err = c.KV().SetStoreLimit(ctx, 0)
	want("set limit", err, "admin "+all)
	_, _, err = c.KV().Space(ctx)
	want("space", err, "read "+all)
	_, err = c.KV().Defragment(ctx)
	want("defrag", err, "admin "+all)
}

// A refusal is carried out by none of the methods.
func TestForbidden(t *testing.T) {
	deny := &asked{no: auth.Write}
	_, c := open(t, deny)
	ctx := t.Context()
	for name, err := range map[string]error{
		"txn":   second(c.KV().Txn().If(client.IfExists("k")).Then(client.OpGet("k")).Else(client.OpPut("k", nil)).Commit(ctx)),
		"grant": second(c.Leases().Grant(ctx, time.Minute)), "keep": second(c.Leases().KeepAlive(ctx, 1)), "revoke": c.Leases().Revoke(ctx, 1),
		"rollback": second(c.KV().Rollback(ctx, client.SpanPrefix("k"), 1)),
		"session":  second(c.Leases().Session(ctx, time.Minute)),
	} {
		if !errs.Has(err, errs.Forbidden) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if st, err := c.KV().Status(context.WithoutCancel(ctx)); err != nil || st.Keys != 0 || st.StoreRevision > 1 {
		t.Errorf("%+v %v", st, err)
	}
}
