package etcd_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"nekoq/configs"
)

// talk is a watch stream spoken by hand.
type talk struct {
	t *testing.T
	s pb.Watch_WatchClient
}

func newTalk(t *testing.T, addr string) *talk {
	t.Helper()
	s, err := pb.NewWatchClient(wire(t, addr)).Watch(within(t, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	return &talk{t, s}
}

func (k *talk) create(r *pb.WatchCreateRequest) {
	k.t.Helper()
	if err := k.s.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}}); err != nil {
		k.t.Fatal(err)
	}
}

func (k *talk) next() *pb.WatchResponse {
	k.t.Helper()
	r, err := k.s.Recv()
	if err != nil {
		k.t.Fatal(err)
	}
	return r
}

// trap: progress notifications never overtake events. Every event up to the
// revision of a notification has been seen when it comes.
func TestProgressNeverOvertakesEvents(t *testing.T) {
	n := node(t)
	c := client(t, n)
	ctx := within(t, time.Minute)
	k := newTalk(t, n.EtcdAddr().String())
	const watches, writes = 20, 300
	for i := range watches {
		k.create(&pb.WatchCreateRequest{Key: fmt.Appendf(nil, "p/%02d", i), ProgressNotify: true})
		if r := k.next(); !r.Created || r.WatchId != int64(i) {
			t.Fatalf("%v", r)
		}
	}
	first, err := c.Get(ctx, "none")
	if err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() {
		for i := range writes {
			if _, err := c.Put(ctx, fmt.Sprintf("p/%02d", i%watches), "x"); err != nil {
				written <- err
				return
			}
			if i%7 == 0 {
				_ = k.s.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
			}
		}
		written <- nil
	}()
	// Nothing but these writes moves the revision, so all revisions are seen as events.
	told, got := 0, map[int64]bool{}
	for len(got) < writes || told == 0 {
		r := k.next()
		for _, e := range r.Events {
			got[e.Kv.ModRevision] = true
		}
		if len(r.Events) > 0 || r.WatchId != -1 {
			continue
		}
		told++
		for rev := first.Header.Revision + 1; rev <= r.Header.Revision; rev++ {
			if !got[rev] {
				t.Fatalf("progress says %d, but the event of %d has not come", r.Header.Revision, rev)
			}
		}
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
}

func TestProgressOfOneQuietWatch(t *testing.T) {
	n := node(t, func(c *configs.Config) { c.Etcd.WatchProgressInterval = 100 * time.Millisecond })
	c := client(t, n)
	ctx := within(t, time.Minute)
	w := c.Watch(ctx, "quiet", clientv3.WithProgressNotify())
	if _, err := c.Put(ctx, "other", "x"); err != nil {
		t.Fatal(err)
	}
	for r := range w {
		if r.IsProgressNotify() && r.Header.Revision >= 2 {
			return
		}
	}
	t.Fatal("no progress")
}

func TestTenThousandWatchersOnOneStream(t *testing.T) {
	n := node(t)
	c := client(t, n)
	ctx := within(t, time.Minute)
	k := newTalk(t, n.EtcdAddr().String())
	const watches = 10_000
	go func() {
		for range watches {
			if err := k.s.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("same")}}}); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for i := range watches {
		if r := k.next(); !r.Created || r.WatchId != int64(i) {
			t.Fatalf("%d: %v", i, r)
		}
	}
	const puts = 3
	for i := range puts {
		if _, err := c.Put(ctx, "same", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	seen := make([]int, watches)
	for left := watches * puts; left > 0; {
		r := k.next()
		for _, e := range r.Events {
			if want := fmt.Sprint(seen[r.WatchId]); string(e.Kv.Value) != want {
				t.Fatalf("watch %d got %q, want %q", r.WatchId, e.Kv.Value, want)
			}
			seen[r.WatchId]++
			left--
		}
	}
}

func TestFragments(t *testing.T) {
	n := node(t, func(c *configs.Config) { c.Etcd.MaxRequestBytes = 200 << 10 })
	c := client(t, n)
	ctx := within(t, time.Minute)
	var ops []clientv3.Op
	for i := range 20 {
		ops = append(ops, clientv3.OpPut(fmt.Sprintf("f/%02d", i), strings.Repeat("v", 9<<10)))
	}
	var rev int64
	for i := range 10 { // one revision each
		res, err := c.Txn(ctx).Then(ops...).Commit()
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			rev = res.Header.Revision
		}
	}
	k := newTalk(t, n.EtcdAddr().String())
	k.create(&pb.WatchCreateRequest{Key: []byte("f/"), RangeEnd: []byte("f0"), StartRevision: rev, Fragment: true})
	k.next()
	total, pieces := 0, 0
	for total < 200 {
		r := k.next()
		total += len(r.Events)
		if r.Fragment {
			pieces++
		}
	}
	if pieces == 0 {
		t.Error("1.8 MiB of events came in one piece")
	}
	// The Go client puts them together again.
	whole := 0
	for r := range c.Watch(ctx, "f/", clientv3.WithPrefix(), clientv3.WithRev(rev), clientv3.WithFragment()) {
		if err := r.Err(); err != nil {
			t.Fatal(err)
		}
		if whole += len(r.Events); whole == 200 {
			break
		}
	}
}

// trap: a watch at a future revision waits, and gives nothing from before it.
func TestWatchOfTheFuture(t *testing.T) {
	n := node(t)
	c := client(t, n)
	ctx := within(t, time.Minute)
	w := c.Watch(ctx, "k", clientv3.WithRev(5), clientv3.WithCreatedNotify())
	if r := <-w; !r.Created {
		t.Fatalf("%+v", r)
	}
	for i := 2; i <= 6; i++ {
		if _, err := c.Put(ctx, "k", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for len(got) < 2 {
		for _, e := range (<-w).Events {
			got = append(got, string(e.Kv.Value))
		}
	}
	if strings.Join(got, " ") != "5 6" {
		t.Errorf("%q", got)
	}
}

// trap: a watch below the compaction gets compact_revision and is cancelled.
func TestWatchBelowCompaction(t *testing.T) {
	n := node(t)
	c := client(t, n)
	ctx := within(t, time.Minute)
	for range 5 {
		if _, err := c.Put(ctx, "k", "v"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Compact(ctx, 4); err != nil {
		t.Fatal(err)
	}
	r := <-c.Watch(ctx, "k", clientv3.WithRev(2))
	if r.CompactRevision != 4 || !r.Canceled || r.Err() != rpctypes.ErrCompacted {
		t.Errorf("%+v: %v", r, r.Err())
	}
	r = <-c.Watch(ctx, "k", clientv3.WithRev(4))
	if len(r.Events) == 0 || r.Events[0].Kv.ModRevision != 4 {
		t.Errorf("%+v", r)
	}
}

func TestWatchCancelLeavesOthers(t *testing.T) {
	n := node(t)
	c := client(t, n)
	ctx := within(t, time.Minute)
	one, cancel := context.WithCancel(ctx)
	a, b := c.Watch(one, "k", clientv3.WithCreatedNotify()), c.Watch(ctx, "k", clientv3.WithCreatedNotify())
	<-a
	<-b
	cancel()
	for range a { //nolint:revive // until it is closed
	}
	if _, err := c.Put(ctx, "k", "v"); err != nil {
		t.Fatal(err)
	}
	if r := <-b; len(r.Events) != 1 {
		t.Errorf("%+v", r)
	}
}

func TestWatchEvents(t *testing.T) {
	n := node(t)
	c := client(t, n)
	ctx := within(t, time.Minute)
	w := c.Watch(ctx, "w/", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithCreatedNotify())
	<-w
	if _, err := c.Put(ctx, "w/a", "1"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Txn(ctx).Then(clientv3.OpPut("w/a", "2"), clientv3.OpPut("w/b", "3")).Commit(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Delete(ctx, "w/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	var got []string
	for len(got) < 5 {
		r := <-w
		if err := r.Err(); err != nil {
			t.Fatal(err)
		}
		for _, e := range r.Events {
			s := fmt.Sprintf("%s %s=%s@%d", e.Type, e.Kv.Key, e.Kv.Value, e.Kv.ModRevision)
			if e.PrevKv != nil {
				s += " was " + string(e.PrevKv.Value)
			}
			if e.Type == mvccpb.DELETE && (e.Kv.CreateRevision != 0 || !bytes.Equal(e.Kv.Value, nil)) {
				t.Errorf("a delete says more than key and revision: %v", e)
			}
			got = append(got, s)
		}
	}
	want := "PUT w/a=1@2, PUT w/a=2@3 was 1, PUT w/b=3@3, DELETE w/a=@4 was 2, DELETE w/b=@4 was 3"
	if s := strings.Join(got, ", "); s != want {
		t.Errorf("%s\nwant %s", s, want)
	}
}

// A watch of what comes next begins right after the revision of its header, while others
// write: whoever reads at that revision and then follows the watch misses nothing.
func TestWatchBeginsAfterItsHeader(t *testing.T) {
	nodes := three(t)
	conn := wire(t, nodes[0].EtcdAddr().String())
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	writing, stop := context.WithCancel(ctx)
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for writing.Err() == nil {
				_, _ = pb.NewKVClient(conn).Put(writing, &pb.PutRequest{Key: []byte("k"), Value: []byte("v")})
			}
		})
	}
	defer writers.Wait()
	defer stop()
	for _, n := range nodes { // two of them follow, and apply a little later
		beginsAfterHeader(ctx, t, pb.NewWatchClient(wire(t, n.EtcdAddr().String())))
	}
}

func beginsAfterHeader(ctx context.Context, t *testing.T, c pb.WatchClient) {
	t.Helper()
	s, err := c.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	create := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("k")}}}
	begins := map[int64]int64{} // by watch: the revision of its header, 0 once its first event came
	for seen := 0; seen < 100; {
		if len(begins) == seen {
			if err := s.Send(create); err != nil {
				t.Fatal(err)
			}
		}
		r, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if r.Created {
			begins[r.WatchId] = r.Header.Revision
			continue
		}
		if at := begins[r.WatchId]; at != 0 {
			if first := r.Events[0].Kv.ModRevision; first != at+1 {
				t.Fatalf("watch %d was made at revision %d and begins with %d", r.WatchId, at, first)
			}
			begins[r.WatchId], seen = 0, seen+1
		}
	}
}
