package etcd_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// The transcript was recorded from etcd 3.4.23:
//
//	etcd --data-dir $(mktemp -d) & go test ./warehouse/etcd -run Transcript -etcd 127.0.0.1:2379 -update
var (
	realEtcd = flag.String("etcd", "", "address of an etcd to run the transcript against, with nothing in it")
	update   = flag.Bool("update", false, "write the transcript")
)

const goldenFile = "testdata/etcd.golden"

// differs are the requests whose answer is not that of etcd 3.4, by name.
var differs = map[string]difference{
	"unknown order":  {"InvalidArgument: etcdserver: invalid sort option", "as in 3.6; 3.4 dies of it"},
	"unknown target": {"InvalidArgument: etcdserver: invalid sort option", "as in 3.6; 3.4 dies of it"},
}

type difference struct{ want, why string }

type ask struct {
	name string
	do   func(ctx context.Context, c *grpc.ClientConn) (proto.Message, error)
}

func kv(name string, f func(ctx context.Context, c pb.KVClient) (proto.Message, error)) ask {
	return ask{name, func(ctx context.Context, c *grpc.ClientConn) (proto.Message, error) { return f(ctx, pb.NewKVClient(c)) }}
}

func put(name string, r *pb.PutRequest) ask {
	return kv(name, func(ctx context.Context, c pb.KVClient) (proto.Message, error) { return c.Put(ctx, r) })
}

func get(name string, r *pb.RangeRequest) ask {
	return kv(name, func(ctx context.Context, c pb.KVClient) (proto.Message, error) { return c.Range(ctx, r) })
}

func del(name string, r *pb.DeleteRangeRequest) ask {
	return kv(name, func(ctx context.Context, c pb.KVClient) (proto.Message, error) { return c.DeleteRange(ctx, r) })
}

func txn(name string, r *pb.TxnRequest) ask {
	return kv("txn: "+name, func(ctx context.Context, c pb.KVClient) (proto.Message, error) { return c.Txn(ctx, r) })
}

func compact(name string, rev int64) ask {
	return kv(name, func(ctx context.Context, c pb.KVClient) (proto.Message, error) {
		return c.Compact(ctx, &pb.CompactionRequest{Revision: rev})
	})
}

func leases(name string, f func(ctx context.Context, c pb.LeaseClient) (proto.Message, error)) ask {
	return ask{name, func(ctx context.Context, c *grpc.ClientConn) (proto.Message, error) {
		return f(ctx, pb.NewLeaseClient(c))
	}}
}

func users(name string, f func(ctx context.Context, c pb.AuthClient) (proto.Message, error)) ask {
	return ask{name, func(ctx context.Context, c *grpc.ClientConn) (proto.Message, error) {
		return f(ctx, pb.NewAuthClient(c))
	}}
}

func opPut(k, v string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(k), Value: []byte(v)}}}
}

func opGet(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

func opDel(k, end string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(k), RangeEnd: []byte(end), PrevKv: true}}}
}

func opTxn(t *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: t}}
}

func span(k, end string) *pb.RangeRequest {
	return &pb.RangeRequest{Key: []byte(k), RangeEnd: []byte(end)}
}

func with(r *pb.RangeRequest, f func(r *pb.RangeRequest)) *pb.RangeRequest {
	f(r)
	return r
}

func many(n int, f func(i int) *pb.RequestOp) []*pb.RequestOp {
	var out []*pb.RequestOp
	for i := range n {
		out = append(out, f(i))
	}
	return out
}

func TestTranscript(t *testing.T) {
	addr := *realEtcd
	if addr == "" {
		addr = node(t).EtcdAddr().String()
	}
	c := wire(t, addr)
	ctx := within(t, time.Minute)
	var out bytes.Buffer
	seen := map[string]bool{}
	for _, a := range slices.Concat(kvAsks(), txnAsks(), leaseAsks(), watchAsks(), userAsks()) {
		if seen[a.name] {
			t.Fatalf("two requests are named %q", a.name)
		}
		seen[a.name] = true
		if _, skip := differs[a.name]; skip && *update {
			continue
		}
		m, err := a.do(ctx, c)
		fmt.Fprintf(&out, "# %s\n%s\n", a.name, said(m, err))
	}
	if *update {
		if *realEtcd == "" {
			t.Fatal("-update needs -etcd: the transcript is etcd's, not ours")
		}
		if err := os.WriteFile(goldenFile, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, split(string(want)), split(out.String()))
}

func split(s string) map[string]string {
	out := map[string]string{}
	for _, part := range strings.Split("\n"+s, "\n# ")[1:] {
		name, body, _ := strings.Cut(part, "\n")
		out[name] = strings.TrimSpace(body)
	}
	return out
}

func compare(t *testing.T, want, got map[string]string) {
	t.Helper()
	for name, g := range got {
		if d, ok := differs[name]; ok {
			if g != d.want {
				t.Errorf("%s (%s):\n  want: %s\n  here: %s", name, d.why, d.want, g)
			}
		} else if w, ok := want[name]; !ok {
			t.Errorf("%s: not in the transcript; record it anew", name)
		} else if g != w {
			t.Errorf("%s:\n  etcd: %s\n  here: %s", name, w, g)
		}
	}
}

// said is an answer without what differs between clusters.
func said(m proto.Message, err error) string {
	if err != nil {
		return fmt.Sprintf("%s: %s", status.Code(err), status.Convert(err).Message())
	}
	anonymous(m.ProtoReflect())
	return strings.Join(strings.Fields(prototext.MarshalOptions{}.Format(m)), " ")
}

func anonymous(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Name() == "cluster_id" || f.Name() == "member_id" || f.Name() == "raft_term":
			m.Clear(f)
		case f.Message() != nil && f.IsList():
			for i := range v.List().Len() {
				anonymous(v.List().Get(i).Message())
			}
		case f.Message() != nil && !f.IsMap():
			anonymous(v.Message())
		}
		return true
	})
}

func kvAsks() []ask {
	b := func(s string) []byte { return []byte(s) }
	return []ask{
		get("range of an empty store", span("a", "")),
		put("put", &pb.PutRequest{Key: b("a"), Value: b("1")}),
		put("put again with prev", &pb.PutRequest{Key: b("a"), Value: b("2"), PrevKv: true}),
		put("put of a new key with prev", &pb.PutRequest{Key: b("b"), Value: b("x"), PrevKv: true}),
		put("put without key", &pb.PutRequest{Value: b("x")}),
		put("put of an empty value", &pb.PutRequest{Key: b("c")}),
		put("ignore_value", &pb.PutRequest{Key: b("a"), IgnoreValue: true, PrevKv: true}),
		put("ignore_value of a missing key", &pb.PutRequest{Key: b("none"), IgnoreValue: true}),
		put("ignore_value with a value", &pb.PutRequest{Key: b("a"), Value: b("1"), IgnoreValue: true}),
		put("ignore_lease of a missing key", &pb.PutRequest{Key: b("none"), IgnoreLease: true}),
		put("ignore_lease with a lease", &pb.PutRequest{Key: b("a"), Lease: 5, IgnoreLease: true}),
		put("put with an unknown lease", &pb.PutRequest{Key: b("a"), Value: b("1"), Lease: 12345}),
		put("put that is too large", &pb.PutRequest{Key: b("big"), Value: make([]byte, 1600<<10)}),
		get("one key", span("a", "")),
		get("missing key", span("zz", "")),
		get("range without key", span("", "")),
		get("everything", span("\x00", "\x00")),
		get("from key", span("b", "\x00")),
		get("range", span("a", "c")),
		get("empty range", span("c", "a")),
		get("limit", with(span("a", "z"), func(r *pb.RangeRequest) { r.Limit = 2 })),
		get("limit that is met", with(span("a", "z"), func(r *pb.RangeRequest) { r.Limit = 3 })),
		get("limit below 0", with(span("a", "z"), func(r *pb.RangeRequest) { r.Limit = -1 })),
		get("count only", with(span("a", "z"), func(r *pb.RangeRequest) { r.CountOnly = true })),
		get("count only with limit", with(span("a", "z"), func(r *pb.RangeRequest) { r.CountOnly, r.Limit = true, 1 })),
		get("keys only", with(span("a", "z"), func(r *pb.RangeRequest) { r.KeysOnly = true })),
		get("serializable", with(span("a", "z"), func(r *pb.RangeRequest) { r.Serializable = true })),
		get("descending", with(span("a", "z"), func(r *pb.RangeRequest) { r.SortOrder = pb.RangeRequest_DESCEND })),
		get("descending with limit", with(span("a", "z"), func(r *pb.RangeRequest) { r.SortOrder, r.Limit = pb.RangeRequest_DESCEND, 1 })),
		get("by version", with(span("a", "z"), func(r *pb.RangeRequest) {
			r.SortTarget, r.SortOrder = pb.RangeRequest_VERSION, pb.RangeRequest_DESCEND
		})),
		get("by create", with(span("a", "z"), func(r *pb.RangeRequest) {
			r.SortTarget, r.SortOrder = pb.RangeRequest_CREATE, pb.RangeRequest_DESCEND
		})),
		get("by mod", with(span("a", "z"), func(r *pb.RangeRequest) {
			r.SortTarget, r.SortOrder, r.Limit = pb.RangeRequest_MOD, pb.RangeRequest_ASCEND, 2
		})),
		get("by value", with(span("a", "z"), func(r *pb.RangeRequest) {
			r.SortTarget, r.SortOrder = pb.RangeRequest_VALUE, pb.RangeRequest_ASCEND
		})),
		get("by value, no order", with(span("a", "z"), func(r *pb.RangeRequest) { r.SortTarget = pb.RangeRequest_VALUE })),
		get("unknown order", with(span("a", "z"), func(r *pb.RangeRequest) { r.SortOrder = 9 })),
		get("unknown target", with(span("a", "z"), func(r *pb.RangeRequest) { r.SortTarget = 9 })),
		get("min mod revision", with(span("a", "z"), func(r *pb.RangeRequest) { r.MinModRevision = 4 })),
		get("max mod revision", with(span("a", "z"), func(r *pb.RangeRequest) { r.MaxModRevision = 4 })),
		get("min create revision", with(span("a", "z"), func(r *pb.RangeRequest) { r.MinCreateRevision = 4 })),
		get("max create revision and limit", with(span("a", "z"), func(r *pb.RangeRequest) { r.MaxCreateRevision, r.Limit = 4, 1 })),
		get("negative max mod revision", with(span("a", "z"), func(r *pb.RangeRequest) { r.MaxModRevision = -1 })),
		get("negative min mod revision", with(span("a", "z"), func(r *pb.RangeRequest) { r.MinModRevision = -1 })),
		get("at a revision", with(span("a", "z"), func(r *pb.RangeRequest) { r.Revision = 3 })),
		get("at a negative revision", with(span("a", ""), func(r *pb.RangeRequest) { r.Revision = -5 })),
		get("at a future revision", with(span("a", ""), func(r *pb.RangeRequest) { r.Revision = 1000 })),
		del("delete", &pb.DeleteRangeRequest{Key: b("c")}),
		del("delete nothing", &pb.DeleteRangeRequest{Key: b("c")}),
		del("delete nothing with prev", &pb.DeleteRangeRequest{Key: b("c"), PrevKv: true}),
		del("delete without key", &pb.DeleteRangeRequest{}),
		put("put for a range delete", &pb.PutRequest{Key: b("d/1"), Value: b("1")}),
		put("and another", &pb.PutRequest{Key: b("d/2"), Value: b("2")}),
		del("delete a range with prev", &pb.DeleteRangeRequest{Key: b("d/"), RangeEnd: b("d0"), PrevKv: true}),
		get("deleted", span("d/", "d0")),
		get("before it was deleted", with(span("d/", "d0"), func(r *pb.RangeRequest) { r.Revision = 8 })),
		put("made anew", &pb.PutRequest{Key: b("c"), Value: b("again")}),
		get("version begins again", span("c", "")),
		compact("compaction at 0", 0),
		compact("compaction in the future", 1000),
		compact("compaction", 5),
		compact("compaction again", 5),
		compact("compaction below", 3),
		get("below the compaction", with(span("a", ""), func(r *pb.RangeRequest) { r.Revision = 4 })),
		get("at the compaction", with(span("a", ""), func(r *pb.RangeRequest) { r.Revision = 5 })),
	}
}

func txnAsks() []ask {
	cmp := func(key string, target pb.Compare_CompareTarget, res pb.Compare_CompareResult, v int64) *pb.Compare {
		c := &pb.Compare{Key: []byte(key), Target: target, Result: res}
		switch target {
		case pb.Compare_VERSION:
			c.TargetUnion = &pb.Compare_Version{Version: v}
		case pb.Compare_CREATE:
			c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: v}
		case pb.Compare_MOD:
			c.TargetUnion = &pb.Compare_ModRevision{ModRevision: v}
		case pb.Compare_LEASE:
			c.TargetUnion = &pb.Compare_Lease{Lease: v}
		}
		return c
	}
	value := func(key, v string, res pb.Compare_CompareResult) *pb.Compare {
		return &pb.Compare{Key: []byte(key), Target: pb.Compare_VALUE, Result: res, TargetUnion: &pb.Compare_Value{Value: []byte(v)}}
	}
	over := func(c *pb.Compare, end string) *pb.Compare {
		c.RangeEnd = []byte(end)
		return c
	}
	if1 := func(c ...*pb.Compare) *pb.TxnRequest { return &pb.TxnRequest{Compare: c} }
	all := func(n int) *pb.TxnRequest {
		return &pb.TxnRequest{Success: many(n, func(i int) *pb.RequestOp { return opGet(span(fmt.Sprint("k", i), "")) })}
	}
	return []ask{
		txn("empty transaction", &pb.TxnRequest{}),
		txn("put and read in one", &pb.TxnRequest{Success: []*pb.RequestOp{
			opGet(span("t/", "t0")), opPut("t/1", "one"), opPut("t/2", "two"), opGet(span("t/", "t0")),
		}}),
		txn("read-only takes no revision", &pb.TxnRequest{Success: []*pb.RequestOp{opGet(span("t/", "t0"))}}),
		txn("delete nothing takes no revision", &pb.TxnRequest{Success: []*pb.RequestOp{opDel("none", "")}}),
		txn("version equal", if1(cmp("t/1", pb.Compare_VERSION, pb.Compare_EQUAL, 1))),
		txn("version greater", if1(cmp("t/1", pb.Compare_VERSION, pb.Compare_GREATER, 1))),
		txn("version of a missing key", if1(cmp("none", pb.Compare_VERSION, pb.Compare_EQUAL, 0))),
		txn("create less", if1(cmp("t/1", pb.Compare_CREATE, pb.Compare_LESS, 1000))),
		txn("create of a missing key", if1(cmp("none", pb.Compare_CREATE, pb.Compare_EQUAL, 0))),
		txn("mod not equal", if1(cmp("t/1", pb.Compare_MOD, pb.Compare_NOT_EQUAL, 0))),
		txn("lease equal", if1(cmp("t/1", pb.Compare_LEASE, pb.Compare_EQUAL, 0))),
		txn("lease of a missing key", if1(cmp("none", pb.Compare_LEASE, pb.Compare_EQUAL, 0))),
		txn("value equal", if1(value("t/1", "one", pb.Compare_EQUAL))),
		txn("value less", if1(value("t/1", "p", pb.Compare_LESS))),
		txn("value of a missing key", if1(value("none", "", pb.Compare_EQUAL))),
		txn("value of a missing key differs", if1(value("none", "x", pb.Compare_NOT_EQUAL))),
		txn("over a range", if1(over(cmp("t/", pb.Compare_VERSION, pb.Compare_EQUAL, 1), "t0"))),
		txn("over a range, one fails", if1(over(value("t/", "one", pb.Compare_EQUAL), "t0"))),
		txn("over an empty range", if1(over(cmp("none/", pb.Compare_VERSION, pb.Compare_EQUAL, 0), "none0"))),
		txn("over an empty range, greater", if1(over(cmp("none/", pb.Compare_VERSION, pb.Compare_GREATER, 0), "none0"))),
		txn("over an empty range, value", if1(over(value("none/", "", pb.Compare_EQUAL), "none0"))),
		txn("two conditions", if1(cmp("t/1", pb.Compare_VERSION, pb.Compare_EQUAL, 1), cmp("t/2", pb.Compare_VERSION, pb.Compare_EQUAL, 7))),
		txn("else", &pb.TxnRequest{
			Compare: []*pb.Compare{cmp("t/1", pb.Compare_VERSION, pb.Compare_EQUAL, 7)},
			Success: []*pb.RequestOp{opPut("t/1", "no")}, Failure: []*pb.RequestOp{opDel("t/2", ""), opPut("t/3", "three")},
		}),
		txn("compare without key", if1(cmp("", pb.Compare_VERSION, pb.Compare_EQUAL, 1))),
		txn("put without key", &pb.TxnRequest{Success: []*pb.RequestOp{opPut("", "x")}}),
		txn("empty operation", &pb.TxnRequest{Success: []*pb.RequestOp{{}}}),
		txn("same key twice", &pb.TxnRequest{Success: []*pb.RequestOp{opPut("d", "1"), opPut("d", "2")}}),
		txn("put and delete", &pb.TxnRequest{Success: []*pb.RequestOp{opPut("d", "1"), opDel("d", "")}}),
		txn("put and delete a range", &pb.TxnRequest{Success: []*pb.RequestOp{opDel("c", "e"), opPut("d", "1")}}),
		txn("delete twice", &pb.TxnRequest{Success: []*pb.RequestOp{opDel("d", ""), opDel("d", "")}}),
		txn("delete overlapping", &pb.TxnRequest{Success: []*pb.RequestOp{opDel("t/", "t0"), opDel("t/1", "")}}),
		txn("same key in both branches", &pb.TxnRequest{Success: []*pb.RequestOp{opPut("d", "1")}, Failure: []*pb.RequestOp{opPut("d", "2")}}),
		txn("nested", &pb.TxnRequest{Success: []*pb.RequestOp{
			opPut("n/1", "1"), opTxn(&pb.TxnRequest{
				Compare: []*pb.Compare{cmp("n/1", pb.Compare_VERSION, pb.Compare_EQUAL, 0)},
				Success: []*pb.RequestOp{opPut("n/2", "2"), opGet(span("n/", "n0"))}, Failure: []*pb.RequestOp{opPut("n/3", "3")},
			}), opGet(span("n/", "n0")),
		}}),
		txn("nested duplicate", &pb.TxnRequest{Success: []*pb.RequestOp{opPut("n/1", "1"), opTxn(&pb.TxnRequest{Failure: []*pb.RequestOp{opPut("n/1", "2")}})}}),
		txn("nested delete of a key put outside", &pb.TxnRequest{Success: []*pb.RequestOp{opPut("n/1", "1"), opTxn(&pb.TxnRequest{Failure: []*pb.RequestOp{opDel("n/", "n0")}})}}),
		txn("nested branches put the same", &pb.TxnRequest{Success: []*pb.RequestOp{opTxn(&pb.TxnRequest{Success: []*pb.RequestOp{opPut("n/4", "1")}, Failure: []*pb.RequestOp{opPut("n/4", "2")}})}}),
		txn("128 operations", all(128)),
		txn("129 operations", all(129)),
		txn("nested operations count", &pb.TxnRequest{Success: append(many(100, func(i int) *pb.RequestOp { return opGet(span(fmt.Sprint("k", i), "")) }), opTxn(all(28)))}),
		txn("future revision", &pb.TxnRequest{Success: []*pb.RequestOp{opGet(with(span("a", ""), func(r *pb.RangeRequest) { r.Revision = 1000 }))}}),
		txn("compacted revision", &pb.TxnRequest{Success: []*pb.RequestOp{opGet(with(span("a", ""), func(r *pb.RangeRequest) { r.Revision = 2 }))}}),
		txn("future revision beside a put", &pb.TxnRequest{Success: []*pb.RequestOp{opPut("p", "1"), opGet(with(span("a", ""), func(r *pb.RangeRequest) { r.Revision = 1000 }))}}),
		txn("unknown lease", &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("p"), Lease: 777}}}}}),
		get("nothing was written", span("p", "")),
		txn("serializable", &pb.TxnRequest{Success: []*pb.RequestOp{opGet(with(span("a", ""), func(r *pb.RangeRequest) { r.Serializable = true }))}}),
	}
}

func leaseAsks() []ask {
	grant := func(name string, id, ttl int64) ask {
		return leases(name, func(ctx context.Context, c pb.LeaseClient) (proto.Message, error) {
			return c.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id, TTL: ttl})
		})
	}
	left := func(name string, id int64) ask {
		return leases(name, func(ctx context.Context, c pb.LeaseClient) (proto.Message, error) {
			r, err := c.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: id, Keys: true})
			if err == nil && r.TTL > 90 {
				r.TTL = 100 // what is left depends on how fast the test is
			}
			return r, err
		})
	}
	beat := func(name string, id int64) ask {
		return leases(name, func(ctx context.Context, c pb.LeaseClient) (proto.Message, error) {
			s, err := c.LeaseKeepAlive(ctx)
			if err != nil {
				return nil, err
			}
			if err := s.Send(&pb.LeaseKeepAliveRequest{ID: id}); err != nil {
				return nil, err
			}
			r, err := s.Recv()
			_ = s.CloseSend()
			return r, err
		})
	}
	revoke := func(name string, id int64) ask {
		return leases(name, func(ctx context.Context, c pb.LeaseClient) (proto.Message, error) {
			return c.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: id})
		})
	}
	return []ask{
		grant("grant", 77, 100),
		grant("grant of an id that exists", 77, 100),
		grant("ttl too large", 78, 9_000_000_001),
		grant("largest ttl", 79, 9_000_000_000),
		put("key on a lease", &pb.PutRequest{Key: []byte("l/1"), Value: []byte("x"), Lease: 77}),
		put("another key on it", &pb.PutRequest{Key: []byte("l/2"), Value: []byte("y"), Lease: 77}),
		get("lease of a key", span("l/1", "")),
		left("time to live", 77),
		left("time to live of an unknown lease", 4711),
		beat("keep alive", 77),
		beat("keep alive of an unknown lease", 4711),
		put("ignore_lease keeps it", &pb.PutRequest{Key: []byte("l/1"), Value: []byte("z"), IgnoreLease: true, PrevKv: true}),
		put("a put without lease takes it off", &pb.PutRequest{Key: []byte("l/2"), Value: []byte("z")}),
		left("one key left", 77),
		leases("leases", func(ctx context.Context, c pb.LeaseClient) (proto.Message, error) {
			r, err := c.LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
			if err == nil {
				slices.SortFunc(r.Leases, func(a, b *pb.LeaseStatus) int { return int(a.ID - b.ID) })
			}
			return r, err
		}),
		revoke("revoke", 77),
		revoke("revoke again", 77),
		get("the key has gone", span("l/", "l0")),
		revoke("revoke one without keys", 79),
	}
}

func watchAsks() []ask {
	talk := func(name string, answers int, reqs ...*pb.WatchRequest) ask {
		return ask{name, func(ctx context.Context, c *grpc.ClientConn) (proto.Message, error) {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			s, err := pb.NewWatchClient(c).Watch(ctx)
			if err != nil {
				return nil, err
			}
			for _, r := range reqs {
				if err := s.Send(r); err != nil {
					return nil, err
				}
			}
			// All answers are folded into one: etcd may cut history into more than one.
			var out *pb.WatchResponse
			for n := 0; n < answers; {
				r, err := s.Recv()
				if err != nil {
					return nil, err
				}
				n += max(len(r.Events), 1)
				if out == nil {
					out = r
					continue
				}
				out.Events = append(out.Events, r.Events...)
				out.Canceled = out.Canceled || r.Canceled
				out.CompactRevision = max(out.CompactRevision, r.CompactRevision)
				out.CancelReason += r.CancelReason
			}
			out.Header.Revision = 0
			return out, nil
		}}
	}
	create := func(r *pb.WatchCreateRequest) *pb.WatchRequest {
		return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}}
	}
	cancel := func(id int64) *pb.WatchRequest {
		return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}}
	}
	b := func(s string) []byte { return []byte(s) }
	return []ask{
		talk("watch of history", 5, create(&pb.WatchCreateRequest{Key: b("t/"), RangeEnd: b("t0"), StartRevision: 6})),
		talk("watch with prev_kv", 5, create(&pb.WatchCreateRequest{Key: b("t/"), RangeEnd: b("t0"), StartRevision: 6, PrevKv: true})),
		talk("watch of one key", 2, create(&pb.WatchCreateRequest{Key: b("t/1"), StartRevision: 6})),
		talk("watch without puts", 2, create(&pb.WatchCreateRequest{Key: b("t/"), RangeEnd: b("t0"), StartRevision: 6, Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}})),
		talk("watch without deletes", 4, create(&pb.WatchCreateRequest{Key: b("t/"), RangeEnd: b("t0"), StartRevision: 6, Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NODELETE}})),
		talk("watch below the compaction", 2, create(&pb.WatchCreateRequest{Key: b("a"), StartRevision: 2})),
		talk("watch of an empty range", 1, create(&pb.WatchCreateRequest{Key: b("b"), RangeEnd: b("a")})),
		talk("watch with an id of its own", 1, create(&pb.WatchCreateRequest{Key: b("b"), WatchId: 55})),
		talk("watch cancelled", 2, create(&pb.WatchCreateRequest{Key: b("b"), WatchId: 55}), cancel(55)),
		talk("watch of a future revision", 1, create(&pb.WatchCreateRequest{Key: b("b"), StartRevision: 100000})),
		talk("watch with an id twice", 2, create(&pb.WatchCreateRequest{Key: b("b"), WatchId: 7}), create(&pb.WatchCreateRequest{Key: b("b"), WatchId: 7})),
		talk("watch of everything without a key", 1, create(&pb.WatchCreateRequest{RangeEnd: []byte{0}})),
	}
}

func userAsks() []ask {
	user := func(name string, r *pb.AuthUserAddRequest) ask {
		return users(name, func(ctx context.Context, c pb.AuthClient) (proto.Message, error) { return c.UserAdd(ctx, r) })
	}
	role := func(name, r string) ask {
		return users(name, func(ctx context.Context, c pb.AuthClient) (proto.Message, error) {
			return c.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: r})
		})
	}
	grant := func(name, u, r string) ask {
		return users(name, func(ctx context.Context, c pb.AuthClient) (proto.Message, error) {
			return c.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: u, Role: r})
		})
	}
	perm := func(name, r string, p *authpb.Permission) ask {
		return users(name, func(ctx context.Context, c pb.AuthClient) (proto.Message, error) {
			return c.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{Name: r, Perm: p})
		})
	}
	unperm := func(name, r, k, end string) ask {
		return users(name, func(ctx context.Context, c pb.AuthClient) (proto.Message, error) {
			return c.RoleRevokePermission(ctx, &pb.AuthRoleRevokePermissionRequest{Role: r, Key: []byte(k), RangeEnd: []byte(end)})
		})
	}
	return []ask{
		users("enable without root", func(ctx context.Context, c pb.AuthClient) (proto.Message, error) {
			return c.AuthEnable(ctx, &pb.AuthEnableRequest{})
		}),
		users("log-in with auth off", func(ctx context.Context, c pb.AuthClient) (proto.Message, error) {
			return c.Authenticate(ctx, &pb.AuthenticateRequest{Name: "a", Password: "b"})
		}),
		user("user add", &pb.AuthUserAddRequest{Name: "alice", Password: "pw"}),
		user("user add again", &pb.AuthUserAddRequest{Name: "alice", Password: "pw"}),
		user("user without name", &pb.AuthUserAddRequest{Password: "pw"}),
		user("root", &pb.AuthUserAddRequest{Name: "root", Password: "pw"}),
		users("enable without the root role", func(ctx context.Context, c pb.AuthClient) (proto.Message, error) {
			return c.AuthEnable(ctx, &pb.AuthEnableRequest{})
		}),
		role("role add", "r1"),
		role("role add again", "r1"),
		role("role without name", ""),
		grant("grant role", "alice", "r1"),
		grant("grant role again", "alice", "r1"),
		grant("grant to an unknown user", "bob", "r1"),
		grant("grant of an unknown role", "alice", "none"),
		perm("permission", "r1", &authpb.Permission{PermType: authpb.READ, Key: []byte("a"), RangeEnd: []byte("b")}),
		perm("permission changed", "r1", &authpb.Permission{PermType: authpb.READWRITE, Key: []byte("a"), RangeEnd: []byte("b")}),
		perm("permission on an unknown role", "none", &authpb.Permission{Key: []byte("a")}),
		perm("open permission", "r1", &authpb.Permission{PermType: authpb.WRITE, Key: []byte("c"), RangeEnd: []byte{0}}),
		users("role get", func(ctx context.Context, c pb.AuthClient) (proto.Message, error) {
			return c.RoleGet(ctx, &pb.AuthRoleGetRequest{Role: "r1"})
		}),
		users("role get unknown", func(ctx context.Context, c pb.AuthClient) (proto.Message, error) {
			return c.RoleGet(ctx, &pb.AuthRoleGetRequest{Role: "none"})
		}),
		users("role list", func(ctx context.Context, c pb.AuthClient) (proto.Message, error) {
			return c.RoleList(ctx, &pb.AuthRoleListRequest{})
		}),
		users("user get", func(ctx context.Context, c pb.AuthClient) (proto.Message, error) {
			return c.UserGet(ctx, &pb.AuthUserGetRequest{Name: "alice"})
		}),
		users("user get unknown", func(ctx context.Context, c pb.AuthClient) (proto.Message, error) {
			return c.UserGet(ctx, &pb.AuthUserGetRequest{Name: "bob"})
		}),
		users("user list", func(ctx context.Context, c pb.AuthClient) (proto.Message, error) {
			return c.UserList(ctx, &pb.AuthUserListRequest{})
		}),
		unperm("permission revoked", "r1", "c", "\x00"),
		unperm("permission revoked again", "r1", "c", "\x00"),
		unperm("permission of an unknown role revoked", "none", "c", ""),
		users("role revoked", func(ctx context.Context, c pb.AuthClient) (proto.Message, error) {
			return c.UserRevokeRole(ctx, &pb.AuthUserRevokeRoleRequest{Name: "alice", Role: "r1"})
		}),
		users("role revoked again", func(ctx context.Context, c pb.AuthClient) (proto.Message, error) {
			return c.UserRevokeRole(ctx, &pb.AuthUserRevokeRoleRequest{Name: "alice", Role: "r1"})
		}),
		users("password of an unknown user", func(ctx context.Context, c pb.AuthClient) (proto.Message, error) {
			return c.UserChangePassword(ctx, &pb.AuthUserChangePasswordRequest{Name: "bob", Password: "x"})
		}),
		users("password", func(ctx context.Context, c pb.AuthClient) (proto.Message, error) {
			return c.UserChangePassword(ctx, &pb.AuthUserChangePasswordRequest{Name: "alice", Password: "x"})
		}),
		users("user delete", func(ctx context.Context, c pb.AuthClient) (proto.Message, error) {
			return c.UserDelete(ctx, &pb.AuthUserDeleteRequest{Name: "alice"})
		}),
		users("user delete again", func(ctx context.Context, c pb.AuthClient) (proto.Message, error) {
			return c.UserDelete(ctx, &pb.AuthUserDeleteRequest{Name: "alice"})
		}),
		users("role delete", func(ctx context.Context, c pb.AuthClient) (proto.Message, error) {
			return c.RoleDelete(ctx, &pb.AuthRoleDeleteRequest{Role: "r1"})
		}),
		users("role delete again", func(ctx context.Context, c pb.AuthClient) (proto.Message, error) {
			return c.RoleDelete(ctx, &pb.AuthRoleDeleteRequest{Role: "r1"})
		}),
		users("disable what is off", func(ctx context.Context, c pb.AuthClient) (proto.Message, error) {
			return c.AuthDisable(ctx, &pb.AuthDisableRequest{})
		}),
	}
}
