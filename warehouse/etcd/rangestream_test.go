package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"nekoq/services/app"
)

// fill writes n keys r/0000... with values of size bytes.
func fill(t *testing.T, c *clientv3.Client, n, size int) {
	t.Helper()
	ctx := within(t, time.Minute)
	value := strings.Repeat("v", size)
	for i := range n {
		if _, err := c.Put(ctx, fmt.Sprintf("r/%04d", i), value); err != nil {
			t.Fatal(err)
		}
	}
}

// streamed puts the parts of a stream together.
func streamed(t *testing.T, s pb.KV_RangeStreamClient) (*pb.RangeResponse, error) {
	t.Helper()
	out := &pb.RangeResponse{}
	for last := false; ; {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			if !last {
				t.Error("the stream ended without a last part")
			}
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		part := r.RangeResponse
		if last {
			t.Errorf("a part after the last one: %d keys", len(part.Kvs))
		}
		if last = part.Header != nil; !last && (part.More || part.Count != 0 || len(part.Kvs) == 0) {
			t.Errorf("a part that is not the last: more %v, count %d, %d keys", part.More, part.Count, len(part.Kvs))
		}
		if n := proto.Size(part); n > 320<<10 {
			t.Errorf("a part of %d bytes", n)
		}
		proto.Merge(out, part)
	}
}

func rangeStream(ctx context.Context, t *testing.T, n *app.App, r *pb.RangeRequest) (pb.KV_RangeStreamClient, pb.KVClient) {
	t.Helper()
	kv := pb.NewKVClient(wire(t, n.EtcdAddr().String()))
	s, err := kv.RangeStream(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	return s, kv
}

// The parts of a stream are together what Range answers.
func TestRangeStream(t *testing.T) {
	n := node(t)
	c := client(t, n)
	ctx := within(t, time.Minute)
	fill(t, c, 300, 8<<10)
	if _, err := c.Delete(ctx, "r/0100", clientv3.WithRange("r/0150")); err != nil {
		t.Fatal(err)
	}
	in := func(f func(r *pb.RangeRequest)) *pb.RangeRequest { return with(span("r/", "r0"), f) }
	for name, r := range map[string]*pb.RangeRequest{
		"range":              span("r/", "r0"),
		"everything":         span("\x00", "\x00"),
		"from key":           span("r/0200", "\x00"),
		"one key":            span("r/0007", ""),
		"missing key":        span("none", ""),
		"nothing":            span("s", "t"),
		"empty range":        span("z", "a"),
		"limit":              in(func(r *pb.RangeRequest) { r.Limit = 3 }),
		"limit over parts":   in(func(r *pb.RangeRequest) { r.Limit = 120 }),
		"limit that is met":  in(func(r *pb.RangeRequest) { r.Limit = 250 }),
		"limit beyond":       in(func(r *pb.RangeRequest) { r.Limit = 1000 }),
		"limit below 0":      in(func(r *pb.RangeRequest) { r.Limit = -1 }),
		"count only":         in(func(r *pb.RangeRequest) { r.CountOnly = true }),
		"keys only":          in(func(r *pb.RangeRequest) { r.KeysOnly = true }),
		"serializable":       in(func(r *pb.RangeRequest) { r.Serializable = true }),
		"old":                in(func(r *pb.RangeRequest) { r.Revision = 200 }),
		"old with limit":     in(func(r *pb.RangeRequest) { r.Revision, r.Limit = 301, 110 }),
		"by key":             in(func(r *pb.RangeRequest) { r.SortOrder = pb.RangeRequest_ASCEND }),
		"target, no order":   in(func(r *pb.RangeRequest) { r.SortTarget = pb.RangeRequest_KEY }),
		"negative revision":  in(func(r *pb.RangeRequest) { r.Revision = -3 }),
		"one key with limit": with(span("r/0007", ""), func(r *pb.RangeRequest) { r.Limit = 1 }),
	} {
		s, kv := rangeStream(ctx, t, n, r)
		got, err := streamed(t, s)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		want, err := kv.Range(ctx, r)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !proto.Equal(want, got) {
			t.Errorf("%s: %d keys of %d, more %v, %v; Range: %d keys of %d, more %v, %v",
				name, len(got.Kvs), got.Count, got.More, got.Header, len(want.Kvs), want.Count, want.More, want.Header)
		}
	}
	// The client library.
	ch, err := c.GetStream(ctx, "r/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	got, err := clientv3.GetStreamToGetResponse(ch)
	if err != nil || got.Count != 250 || len(got.Kvs) != 250 {
		t.Errorf("%v %v", got, err)
	}
}

// What is not streamed is refused as etcd does it, and clients take Range.
func TestRangeStreamRefusals(t *testing.T) {
	n := node(t)
	c := client(t, n)
	ctx := within(t, time.Minute)
	fill(t, c, 5, 1)
	if _, err := c.Compact(ctx, 4); err != nil {
		t.Fatal(err)
	}
	in := func(f func(r *pb.RangeRequest)) *pb.RangeRequest { return with(span("r/", "r0"), f) }
	const sorts, filters = "RangeStream does not support custom sort orders", "RangeStream does not support revision filters"
	for name, o := range map[string]struct {
		r    *pb.RangeRequest
		code codes.Code
		text string
	}{
		"no key":         {&pb.RangeRequest{}, codes.InvalidArgument, "etcdserver: key is not provided"},
		"unknown order":  {in(func(r *pb.RangeRequest) { r.SortOrder = 9 }), codes.InvalidArgument, "etcdserver: invalid sort option"},
		"unknown target": {in(func(r *pb.RangeRequest) { r.SortTarget = 9 }), codes.InvalidArgument, "etcdserver: invalid sort option"},
		"descending":     {in(func(r *pb.RangeRequest) { r.SortOrder = pb.RangeRequest_DESCEND }), codes.Unimplemented, sorts},
		"by mod":         {in(func(r *pb.RangeRequest) { r.SortOrder, r.SortTarget = pb.RangeRequest_ASCEND, pb.RangeRequest_MOD }), codes.Unimplemented, sorts},
		"min mod":        {in(func(r *pb.RangeRequest) { r.MinModRevision = 1 }), codes.Unimplemented, filters},
		"max mod":        {in(func(r *pb.RangeRequest) { r.MaxModRevision = -1 }), codes.Unimplemented, filters},
		"min create":     {in(func(r *pb.RangeRequest) { r.MinCreateRevision = 1 }), codes.Unimplemented, filters},
		"max create":     {in(func(r *pb.RangeRequest) { r.MaxCreateRevision = 1 }), codes.Unimplemented, filters},
		"future":         {in(func(r *pb.RangeRequest) { r.Revision = 1000 }), codes.OutOfRange, "etcdserver: mvcc: required revision is a future revision"},
		"compacted":      {in(func(r *pb.RangeRequest) { r.Revision = 2 }), codes.OutOfRange, "etcdserver: mvcc: required revision has been compacted"},
	} {
		s, _ := rangeStream(ctx, t, n, o.r)
		if r, err := s.Recv(); status.Code(err) != o.code || status.Convert(err).Message() != o.text {
			t.Errorf("%s: %v %v, want %v %q", name, r, err, o.code, o.text)
		}
	}
}

// All parts show the revision of the first, whatever is written before a slow client
// takes the others.
func TestRangeStreamIsOfOneRevision(t *testing.T) {
	n := node(t)
	c := client(t, n)
	ctx := within(t, time.Minute)
	fill(t, c, 128, 32<<10)
	want, err := c.Get(ctx, "r/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	s, _ := rangeStream(ctx, t, n, span("r/", "r0"))
	first, err := s.Recv()
	if err != nil || len(first.RangeResponse.Kvs) == 128 {
		t.Fatalf("%v %v", first, err)
	}
	if _, err := c.Delete(ctx, "r/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Put(ctx, "r/0127x", "later"); err != nil {
		t.Fatal(err)
	}
	rest, err := streamed(t, s)
	if err != nil {
		t.Fatal(err)
	}
	got := proto.CloneOf(first.RangeResponse)
	proto.Merge(got, rest)
	if !proto.Equal((*pb.RangeResponse)(want), got) {
		t.Errorf("%d keys of %d at %v, want %d at %v", len(got.Kvs), got.Count, got.Header, want.Count, want.Header)
	}
}

// begun is a stream whose client has taken one part of many, so that the server
// waits for it.
func begun(ctx context.Context, t *testing.T, n *app.App) pb.KV_RangeStreamClient {
	t.Helper()
	s, _ := rangeStream(ctx, t, n, span("r/", "r0"))
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	return s
}

// A stream whose revision is compacted away while its client is slow ends with that.
func TestRangeStreamOverACompaction(t *testing.T) {
	n := node(t)
	c := client(t, n)
	ctx := within(t, time.Minute)
	fill(t, c, 128, 32<<10)
	s := begun(ctx, t, n)
	r, err := c.Put(ctx, "k", "v")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Compact(ctx, r.Header.Revision); err != nil {
		t.Fatal(err)
	}
	_, err = streamed(t, s)
	if status.Code(err) != codes.OutOfRange || status.Convert(err).Message() != "etcdserver: mvcc: required revision has been compacted" {
		t.Error(err)
	}
}

// Permissions are those of Range, and are judged again for each part.
func TestRangeStreamPermissions(t *testing.T) {
	n := node(t)
	fill(t, client(t, n), 128, 32<<10)
	root, alice := guarded(t, n)
	ctx := within(t, time.Minute)
	stream := func(c *clientv3.Client, end string) error {
		ch, err := c.GetStream(ctx, "r/", clientv3.WithRange(end))
		if err != nil {
			return err
		}
		_, err = clientv3.GetStreamToGetResponse(ch)
		return err
	}
	says := func(what string, err error, text string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v, want %q", what, err, text)
		}
	}
	says("nobody", stream(client(t, n), "r0"), "etcdserver: user name is empty")
	says("no permission", stream(alice, "r0"), "etcdserver: permission denied")
	if _, err := root.RoleGrantPermission(ctx, "own", "r/", "r0", clientv3.PermissionType(clientv3.PermRead)); err != nil {
		t.Fatal(err)
	}
	if err := stream(alice, "r0"); err != nil {
		t.Error(err)
	}
	says("an end beyond", stream(alice, "\x00"), "etcdserver: permission denied")
	ch, err := alice.GetStream(ctx, "r/", clientv3.WithRange("r0"))
	if err != nil {
		t.Fatal(err)
	}
	if r := <-ch; r.Err() != nil {
		t.Fatal(r.Err())
	}
	if _, err := root.RoleRevokePermission(ctx, "own", "r/", "r0"); err != nil {
		t.Fatal(err)
	}
	_, err = clientv3.GetStreamToGetResponse(ch)
	says("revoked meanwhile", err, "etcdserver: permission denied")
}

// Clients that take their streams slowly cost a part each, not the range.
func TestRangeStreamOfSlowClients(t *testing.T) {
	n := node(t)
	c := client(t, n)
	ctx := within(t, time.Minute)
	const keys, size, slow = 256, 128 << 10, 12
	fill(t, c, keys, size)
	before := heap()
	var streams []pb.KV_RangeStreamClient
	for range slow {
		streams = append(streams, begun(ctx, t, n))
	}
	const bound = 24 << 20
	eventually(t, fmt.Sprintf("memory is bounded while %d clients wait for %d MiB each", slow, keys*size>>20), func() bool {
		return heap() < before+bound
	})
	for i, s := range streams {
		if r, err := streamed(t, s); err != nil || r.Count != keys {
			t.Errorf("stream %d: %v keys, %v", i, r.GetCount(), err)
		}
	}
}

// Every node streams, and a linearizable stream has what was written before it.
func TestRangeStreamOfEveryNode(t *testing.T) {
	nodes := three(t)
	ctx := within(t, time.Minute)
	for i, n := range nodes {
		other := client(t, nodes[(i+1)%len(nodes)])
		for j := range 20 {
			if _, err := other.Put(ctx, fmt.Sprintf("r/%d/%d", i, j), strings.Repeat("v", 64<<10)); err != nil {
				t.Fatal(err)
			}
		}
		s, _ := rangeStream(ctx, t, n, span("r/", "r0"))
		if r, err := streamed(t, s); err != nil || r.Count != int64(20*(i+1)) {
			t.Errorf("node %d: %d keys, %v", i, r.GetCount(), err)
		}
	}
}
