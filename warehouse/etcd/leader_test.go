package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"nekoq/services/replica/raftnode"
	"nekoq/services/testkit/cluster"
	"nekoq/services/testkit/etcdload"
	"nekoq/warehouse/etcd"
	"nekoq/warehouse/etcd/electionpb"
)

// isNoLeader wants etcd's error of a node without a leader, code and text.
func isNoLeader(t *testing.T, what string, err error) {
	t.Helper()
	if s := status.Convert(err); s.Code() != codes.Unavailable || s.Message() != "etcdserver: no leader" {
		t.Errorf("%s on a node without a leader: %v", what, err)
	}
}

// A node that is cut off from the others ends the streams that require a leader,
// refuses what needs the quorum in bounded time, and goes on with what does not.
func TestNodeCutOffFromTheQuorum(t *testing.T) {
	g := startGroup(t, cluster.Options{Config: func(_ string, c *raftnode.Config) { c.LeaderPatience = 2 * time.Second }})
	ctx := within(t, 2*time.Minute)
	off := g.Followers()[0]
	addr := g.addrs[g.at(off)]
	c, rest := etcdload.Client(t, addr), etcdload.Client(t, g.addrs[g.at(g.Others(off)[0])])
	if _, err := c.Put(ctx, "a", "1"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	conn := wire(t, addr)
	need := clientv3.WithRequireLeader(ctx)
	watch, err := pb.NewWatchClient(conn).Watch(need)
	if err != nil {
		t.Fatal(err)
	}
	beats, err := pb.NewLeaseClient(conn).LeaseKeepAlive(need)
	if err != nil {
		t.Fatal(err)
	}
	observed, err := electionpb.NewElectionClient(conn).Observe(need, &electionpb.LeaderRequest{Name: []byte("e")})
	if err != nil {
		t.Fatal(err)
	}
	create := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("a")}}}
	if err := watch.Send(create); err != nil {
		t.Fatal(err)
	}
	if r, err := watch.Recv(); err != nil || !r.Created {
		t.Fatalf("%v %v", r, err)
	}
	strict := c.Watch(need, "a", clientv3.WithCreatedNotify())
	patient := c.Watch(ctx, "a", clientv3.WithCreatedNotify())
	<-strict
	<-patient

	g.Isolate(off)
	_, err = watch.Recv()
	isNoLeader(t, "a watch stream", err)
	_, err = beats.Recv()
	isNoLeader(t, "a stream of keep-alives", err)
	_, err = observed.Recv()
	isNoLeader(t, "an observed election", err)
	last := clientv3.WatchResponse{}
	for r := range strict {
		last = r
	}
	if !errors.Is(last.Err(), rpctypes.ErrNoLeader) {
		t.Errorf("the client's watch ended with %v", last.Err())
	}
	again, err := pb.NewWatchClient(conn).Watch(need)
	if err == nil {
		_, err = again.Recv()
	}
	isNoLeader(t, "another watch stream", err)

	kv := pb.NewKVClient(conn)
	r, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("a"), Serializable: true})
	if err != nil || len(r.Kvs) != 1 || string(r.Kvs[0].Value) != "1" {
		t.Errorf("serializable: %v %v", r, err)
	}
	_, err = kv.Range(need, &pb.RangeRequest{Key: []byte("a"), Serializable: true})
	isNoLeader(t, "a serializable read that requires a leader", err)
	streamed := func(ctx context.Context, r *pb.RangeRequest) (*pb.RangeStreamResponse, error) {
		s, err := kv.RangeStream(ctx, r)
		if err != nil {
			return nil, err
		}
		return s.Recv()
	}
	if s, err := streamed(ctx, &pb.RangeRequest{Key: []byte("a"), Serializable: true}); err != nil || s.RangeResponse.Count != 1 {
		t.Errorf("serializable stream: %v %v", s, err)
	}
	_, err = streamed(need, &pb.RangeRequest{Key: []byte("a"), Serializable: true})
	isNoLeader(t, "a serializable stream that requires a leader", err)
	var refused sync.WaitGroup
	for what, do := range map[string]func() error{
		"a linearizable read": func() error { _, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("a")}); return err },
		"a streamed range": func() error {
			_, err := streamed(ctx, &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("b")})
			return err
		},
		"a put":    func() error { _, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("a")}); return err },
		"a delete": func() error { _, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte("a")}); return err },
		"a transaction": func() error {
			_, err := kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("a")}}}}})
			return err
		},
		"a compaction": func() error { _, err := kv.Compact(ctx, &pb.CompactionRequest{Revision: 1}); return err },
		"a lease": func() error {
			_, err := pb.NewLeaseClient(conn).LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 10})
			return err
		},
	} {
		refused.Go(func() {
			began := time.Now()
			isNoLeader(t, what, do()) // ctx is much longer
			if d := time.Since(began); d > 30*time.Second {
				t.Errorf("%s was refused after %s", what, d)
			}
		})
	}
	refused.Wait()

	put, err := rest.Put(ctx, "a", "2")
	if err != nil {
		t.Fatal(err)
	}
	g.Heal()
	// The watch that does not require a leader has gone on.
	if r := <-patient; r.Err() != nil || len(r.Events) != 1 || r.Events[0].Kv.ModRevision != put.Header.Revision {
		t.Errorf("%+v %v", r, r.Err())
	}
	if r, err := c.Get(ctx, "a"); err != nil || string(r.Kvs[0].Value) != "2" {
		t.Errorf("after it: %v %v", r, err)
	}
	if r := <-c.Watch(need, "a", clientv3.WithRev(put.Header.Revision)); len(r.Events) != 1 {
		t.Errorf("after it: %+v", r)
	}
}

// A request without a deadline does not wait for ever on a node that is cut off: it
// ends as with etcd.
func TestRequestTimeout(t *testing.T) {
	g := startGroup(t, cluster.Options{Config: func(_ string, c *raftnode.Config) { c.LeaderPatience = time.Minute }},
		func(c *etcd.Config) { c.RequestTimeout = 300 * time.Millisecond })
	off := g.Followers()[0]
	kv := pb.NewKVClient(wire(t, g.addrs[g.at(off)]))
	if _, err := kv.Put(within(t, time.Minute), &pb.PutRequest{Key: []byte("a")}); err != nil {
		t.Fatal(err)
	}
	g.Isolate(off)
	ctx := t.Context() // no deadline
	for what, do := range map[string]func() error{
		"a put":  func() error { _, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("a")}); return err },
		"a read": func() error { _, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("a")}); return err },
	} {
		if s := status.Convert(do()); s.Code() != codes.Unavailable || s.Message() != "etcdserver: request timed out" {
			t.Errorf("%s on a node that is cut off: %v", what, s)
		}
	}
}

// What is left of a lease survives the leader, and a restart of all: it is neither
// given anew nor cut short.
func TestLeaseTimeOverLeaders(t *testing.T) {
	g := startGroup(t, cluster.Options{})
	ctx := within(t, 2*time.Minute)
	c := etcdload.Client(t, g.addrs...)
	const ttl = 100
	began := time.Now()
	l, err := c.Grant(ctx, ttl)
	if err != nil {
		t.Fatal(err)
	}
	left := func() int64 {
		t.Helper()
		one, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		r, err := c.TimeToLive(one, l.ID)
		if err != nil {
			t.Fatal(err)
		}
		return r.TTL
	}
	var before int64
	check := func(after string) {
		t.Helper()
		now := left()
		if now > before {
			t.Errorf("%d s are left after %s, and %d before it", now, after, before)
		}
		// Less by whole seconds, and by the step of the lease clock.
		if least := ttl - int64(time.Since(began).Seconds()) - 3; now < least {
			t.Errorf("%d s are left after %s, and %d at least should be", now, after, least)
		}
		before = now
	}
	eventually(t, "three seconds pass", func() bool { before = left(); return before <= ttl-4 })
	leader := g.WaitLeader()
	leader.Kill()
	g.WaitLeaderBut(leader)
	check("a kill of the leader")
	leader.Start()
	for _, m := range g.Members {
		m.Kill()
	}
	for _, m := range g.Members {
		m.Start()
	}
	g.WaitLeader()
	check("a restart of all")
}

// Leases that end while leaders are killed take all their keys with them, and none
// ends early.
func TestLeasesEndOverLeaders(t *testing.T) {
	g := startGroup(t, cluster.Options{})
	ctx := within(t, 2*time.Minute)
	c := etcdload.Client(t, g.addrs...)
	const leases, ttl = 200, 3
	began := time.Now()
	for i := range leases {
		l, err := c.Grant(ctx, ttl)
		if err != nil {
			t.Fatal(err)
		}
		for k := range 2 {
			if _, err := c.Put(ctx, fmt.Sprintf("l/%d/%d", i, k), "x", clientv3.WithLease(l.ID)); err != nil {
				t.Fatal(err)
			}
		}
	}
	count := func() int64 {
		one, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		r, err := c.Get(one, "l/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil {
			return 2 * leases // asked again
		}
		return r.Count
	}
	eventually(t, "the first lease ends", func() bool { return count() < 2*leases })
	if d := time.Since(began); d < ttl*time.Second {
		t.Errorf("a lease of %d s has ended after %s", ttl, d)
	}
	l := g.WaitLeader()
	l.Kill()
	g.WaitLeaderBut(l)
	l.Start()
	eventually(t, "all leases end", func() bool {
		one, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		r, err := c.Leases(one)
		return err == nil && len(r.Leases) == 0
	})
	if n := count(); n != 0 {
		t.Errorf("%d keys have outlived their leases", n)
	}
	g.WaitEqual()
}
