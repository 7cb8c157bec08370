package etcd_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/client/v3/leasing"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	"go.etcd.io/etcd/client/v3/naming/resolver"
	"go.etcd.io/etcd/client/v3/ordering"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"nekoq/warehouse/etcd/electionpb"
	"nekoq/warehouse/etcd/lockpb"
)

func TestConcurrencyPackage(t *testing.T) {
	n := node(t)
	ctx := within(t, time.Minute)
	t.Run("mutex", func(t *testing.T) {
		var wg sync.WaitGroup
		holders, most, total := 0, 0, 0
		var mu sync.Mutex
		for range 5 {
			c := client(t, n)
			wg.Go(func() {
				s, err := concurrency.NewSession(c, concurrency.WithTTL(20))
				if err != nil {
					t.Error(err)
					return
				}
				defer s.Close()
				m := concurrency.NewMutex(s, "lock")
				for range 4 {
					if err := m.Lock(ctx); err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					holders++
					most, total = max(most, holders), total+1
					mu.Unlock()
					mu.Lock()
					holders--
					mu.Unlock()
					if err := m.Unlock(ctx); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		if most != 1 || total != 20 {
			t.Errorf("%d holders at once, %d turns", most, total)
		}
	})
	t.Run("try lock", func(t *testing.T) {
		c := client(t, n)
		s1, err := concurrency.NewSession(c)
		if err != nil {
			t.Fatal(err)
		}
		defer s1.Close()
		s2, err := concurrency.NewSession(c)
		if err != nil {
			t.Fatal(err)
		}
		defer s2.Close()
		a, b := concurrency.NewMutex(s1, "try"), concurrency.NewMutex(s2, "try")
		if err := a.TryLock(ctx); err != nil {
			t.Fatal(err)
		}
		if err := b.TryLock(ctx); err != concurrency.ErrLocked {
			t.Errorf("%v", err)
		}
	})
	t.Run("election", func(t *testing.T) {
		c := client(t, n)
		s, err := concurrency.NewSession(c)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		e := concurrency.NewElection(s, "elect")
		watch := concurrency.NewElection(s, "elect").Observe(ctx)
		if err := e.Campaign(ctx, "one"); err != nil {
			t.Fatal(err)
		}
		if r := <-watch; string(r.Kvs[0].Value) != "one" {
			t.Errorf("%v", r)
		}
		if err := e.Proclaim(ctx, "two"); err != nil {
			t.Fatal(err)
		}
		if r := <-watch; string(r.Kvs[0].Value) != "two" {
			t.Errorf("%v", r)
		}
		if err := e.Resign(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := e.Leader(ctx); err != concurrency.ErrElectionNoLeader {
			t.Errorf("%v", err)
		}
	})
	t.Run("stm", func(t *testing.T) {
		c := client(t, n)
		if _, err := c.Put(ctx, "sum", "0"); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				for range 5 {
					_, err := concurrency.NewSTM(c, func(s concurrency.STM) error {
						var v int
						fmt.Sscan(s.Get("sum"), &v)
						s.Put("sum", fmt.Sprint(v+1))
						return nil
					}, concurrency.WithAbortContext(ctx))
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if r, err := c.Get(ctx, "sum"); err != nil || string(r.Kvs[0].Value) != "25" {
			t.Errorf("%v %v", r, err)
		}
	})
}

func TestOtherClientPackages(t *testing.T) {
	n := node(t)
	c := client(t, n)
	ctx := within(t, time.Minute)
	t.Run("mirror", func(t *testing.T) {
		for i := range 2500 { // more than the 1,000 keys of one of its reads
			if _, err := c.Put(ctx, fmt.Sprintf("m/%04d", i), "v"); err != nil {
				t.Fatal(err)
			}
		}
		s := mirror.NewSyncer(c, "m/", 0)
		got, errc := s.SyncBase(ctx)
		keys := 0
		for r := range got {
			keys += len(r.Kvs)
		}
		if err := <-errc; err != nil || keys != 2500 {
			t.Fatalf("%d keys, %v", keys, err)
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		updates := s.SyncUpdates(ctx)
		if _, err := c.Put(ctx, "m/new", "v"); err != nil {
			t.Fatal(err)
		}
		if r := <-updates; len(r.Events) != 1 || string(r.Events[0].Kv.Key) != "m/new" {
			t.Errorf("%+v", r)
		}
	})
	t.Run("namespace", func(t *testing.T) {
		kv := namespace.NewKV(c.KV, "ns/")
		w := namespace.NewWatcher(c.Watcher, "ns/").Watch(ctx, "", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
		<-w
		if _, err := kv.Put(ctx, "a", "1"); err != nil {
			t.Fatal(err)
		}
		if r := <-w; string(r.Events[0].Kv.Key) != "a" {
			t.Errorf("%+v", r)
		}
		if r, err := kv.Get(ctx, "", clientv3.WithFromKey()); err != nil || r.Count != 1 || string(r.Kvs[0].Key) != "a" {
			t.Errorf("%v %v", r, err)
		}
		if r, err := c.Get(ctx, "ns/a"); err != nil || r.Count != 1 {
			t.Errorf("%v %v", r, err)
		}
	})
	t.Run("ordering", func(t *testing.T) {
		kv := ordering.NewKV(c.KV, func(clientv3.Op, clientv3.OpResponse, int64) error { return fmt.Errorf("went back") })
		for i := range 20 {
			if _, err := kv.Put(ctx, "o", fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
			if _, err := kv.Get(ctx, "o", clientv3.WithSerializable()); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("leasing", func(t *testing.T) {
		a, closeA, err := leasing.NewKV(c, "leasing/")
		if err != nil {
			t.Fatal(err)
		}
		defer closeA()
		b, closeB, err := leasing.NewKV(client(t, n), "leasing/")
		if err != nil {
			t.Fatal(err)
		}
		defer closeB()
		if _, err := a.Put(ctx, "k", "1"); err != nil {
			t.Fatal(err)
		}
		for i := range 5 {
			if _, err := a.Get(ctx, "k"); err != nil {
				t.Fatal(err)
			}
			v := fmt.Sprint("v", i)
			if _, err := b.Put(ctx, "k", v); err != nil {
				t.Fatal(err)
			}
			if r, err := a.Get(ctx, "k"); err != nil || string(r.Kvs[0].Value) != v {
				t.Fatalf("%v %v, want %s", r, err, v)
			}
		}
	})
	t.Run("naming", func(t *testing.T) {
		m, err := endpoints.NewManager(c, "service")
		if err != nil {
			t.Fatal(err)
		}
		addr := n.EtcdAddr().String()
		if err := m.AddEndpoint(ctx, "service/one", endpoints.Endpoint{Addr: addr}); err != nil {
			t.Fatal(err)
		}
		list, err := m.List(ctx)
		if err != nil || len(list) != 1 || list["service/one"].Addr != addr {
			t.Errorf("%v %v", list, err)
		}
		build, err := resolver.NewBuilder(c)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := grpc.NewClient("etcd:///service", grpc.WithResolvers(build), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("a")}, grpc.WaitForReady(true)); err != nil {
			t.Error(err)
		}
	})
}

func TestLockService(t *testing.T) {
	n := node(t)
	conn := wire(t, n.EtcdAddr().String())
	l := lockpb.NewLockClient(conn)
	ctx := within(t, time.Minute)
	c := client(t, n)
	grant := func() int64 {
		t.Helper()
		g, err := c.Grant(ctx, 60)
		if err != nil {
			t.Fatal(err)
		}
		return int64(g.ID)
	}
	first, second := grant(), grant()
	a, err := l.Lock(ctx, &lockpb.LockRequest{Name: []byte("x"), Lease: first})
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("x/%x", first); string(a.Key) != want {
		t.Errorf("key %q, want %q as the client library names it", a.Key, want)
	}
	again, err := l.Lock(ctx, &lockpb.LockRequest{Name: []byte("x"), Lease: first})
	if err != nil || !bytes.Equal(again.Key, a.Key) {
		t.Errorf("%v %v", again, err)
	}
	// Who gives up leaves nothing behind.
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	_, err = l.Lock(short, &lockpb.LockRequest{Name: []byte("x"), Lease: second})
	cancel()
	if err == nil {
		t.Fatal("two have the lock")
	}
	eventually(t, "the key of who gave up is gone", func() bool {
		r, err := c.Get(ctx, "x/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		return err == nil && r.Count == 1
	})
	got := make(chan error, 1)
	go func() {
		_, err := l.Lock(ctx, &lockpb.LockRequest{Name: []byte("x"), Lease: second})
		got <- err
	}()
	eventually(t, "the second waits", func() bool {
		r, err := c.Get(ctx, "x/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		return err == nil && r.Count == 2
	})
	if _, err := l.Unlock(ctx, &lockpb.UnlockRequest{Key: a.Key}); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	// The end of a lease is the end of its lock.
	go func() {
		_, err := l.Lock(ctx, &lockpb.LockRequest{Name: []byte("x")})
		got <- err
	}()
	if _, err := c.Revoke(ctx, clientv3.LeaseID(second)); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	if _, err := l.Lock(ctx, &lockpb.LockRequest{Name: []byte("y"), Lease: 4711}); rpctypes.ErrorDesc(err) != rpctypes.ErrorDesc(rpctypes.ErrGRPCLeaseNotFound) {
		t.Errorf("%v", err)
	}
}

func TestElectionService(t *testing.T) {
	n := node(t)
	e := electionpb.NewElectionClient(wire(t, n.EtcdAddr().String()))
	ctx := within(t, time.Minute)
	name := []byte("e")
	if _, err := e.Leader(ctx, &electionpb.LeaderRequest{Name: name}); status.Convert(err).Message() != "election: no leader" {
		t.Errorf("%v", err)
	}
	watch, err := e.Observe(ctx, &electionpb.LeaderRequest{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	see := func() {
		t.Helper()
		r, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, string(r.Kv.Value))
	}
	a, err := e.Campaign(ctx, &electionpb.CampaignRequest{Name: name, Value: []byte("a")})
	if err != nil {
		t.Fatal(err)
	}
	see()
	got := make(chan *electionpb.CampaignResponse, 1)
	go func() {
		b, err := e.Campaign(ctx, &electionpb.CampaignRequest{Name: name, Value: []byte("b")})
		if err != nil {
			t.Error(err)
		}
		got <- b
	}()
	if _, err := e.Proclaim(ctx, &electionpb.ProclaimRequest{Leader: a.Leader, Value: []byte("a2")}); err != nil {
		t.Fatal(err)
	}
	see()
	if _, err := e.Resign(ctx, &electionpb.ResignRequest{Leader: a.Leader}); err != nil {
		t.Fatal(err)
	}
	b := <-got
	see()
	if s := strings.Join(seen, " "); s != "a a2 b" {
		t.Errorf("observed %q", s)
	}
	if b.Leader.Rev <= a.Leader.Rev {
		t.Errorf("the fencing token went from %d to %d", a.Leader.Rev, b.Leader.Rev)
	}
	if _, err := e.Proclaim(ctx, &electionpb.ProclaimRequest{Leader: a.Leader, Value: []byte("late")}); status.Convert(err).Message() != "election: not leader" {
		t.Errorf("%v", err)
	}
	if _, err := e.Proclaim(ctx, &electionpb.ProclaimRequest{}); err == nil {
		t.Error("no leader key was needed")
	}
}

// Every node answers every request; members, leader and hashes agree.
func TestThreeNodes(t *testing.T) {
	nodes := three(t)
	ctx := within(t, time.Minute)
	all := client(t, nodes...)
	for i, n := range nodes {
		if _, err := client(t, n).Put(ctx, fmt.Sprint("n", i), "v"); err != nil {
			t.Fatal(err)
		}
	}
	var leader, hash, id uint64
	for i, n := range nodes {
		c := client(t, n)
		if r, err := c.Get(ctx, "n", clientv3.WithPrefix()); err != nil || r.Count != 3 {
			t.Fatalf("%v %v", r, err)
		}
		// trap: the member list gives addresses that the caller can reach.
		eventually(t, "all members have told their address", func() bool {
			r, err := c.MemberList(ctx)
			return err == nil && !slices.ContainsFunc(r.Members, func(m *pb.Member) bool { return len(m.ClientURLs) == 0 })
		})
		r, err := c.MemberList(ctx)
		if err != nil || len(r.Members) != 3 {
			t.Fatalf("%v %v", r, err)
		}
		for _, m := range r.Members {
			s, err := c.Status(ctx, m.ClientURLs[0])
			if err != nil || s.Header.MemberId != m.ID {
				t.Errorf("%s at %v: %v %v", m.Name, m.ClientURLs, s, err)
			}
		}
		s, err := c.Status(ctx, n.EtcdAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		h, err := c.HashKV(ctx, n.EtcdAddr().String(), 4)
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 && (s.Leader != leader || uint64(h.Hash) != hash || s.Header.ClusterId != id) {
			t.Errorf("node %d: leader %x, hash %d, cluster %x; node 0: %x, %d, %x", i, s.Leader, h.Hash, s.Header.ClusterId, leader, hash, id)
		}
		leader, hash, id = s.Leader, uint64(h.Hash), s.Header.ClusterId
		if s.RaftTerm == 0 || s.RaftIndex < s.RaftAppliedIndex || s.DbSize == 0 {
			t.Errorf("%+v", s)
		}
	}
	if err := all.Sync(ctx); err != nil { // takes the member list for its endpoints
		t.Fatal(err)
	}
	w := all.Watch(clientv3.WithRequireLeader(ctx), "moved", clientv3.WithCreatedNotify())
	if r := <-w; r.Err() != nil {
		t.Fatal(r.Err())
	}
	for _, n := range nodes {
		c := client(t, n)
		s, err := c.Status(ctx, n.EtcdAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		m, err := c.MemberList(ctx)
		if err != nil {
			t.Fatal(err)
		}
		other := m.Members[0].ID
		if other == s.Leader {
			other = m.Members[1].ID
		}
		_, err = c.MoveLeader(ctx, other)
		if s.Header.MemberId != s.Leader {
			wants(t, "move-leader asked of a follower", err, rpctypes.ErrNotLeader)
			continue
		}
		wants(t, "move-leader to nobody", second(c.MoveLeader(ctx, 12345)), rpctypes.ErrNotLeader)
		if err != nil {
			t.Fatal(err)
		}
		break
	}
	eventually(t, "a write after the leader has moved", func() bool {
		_, err := all.Put(ctx, "moved", "v")
		return err == nil
	})
	if r := <-w; len(r.Events) == 0 {
		t.Errorf("%+v %v", r, r.Err())
	}
}

func second(_ any, err error) error { return err }

func TestMaintenance(t *testing.T) {
	n := node(t)
	c := client(t, n)
	ctx := within(t, time.Minute)
	addr := n.EtcdAddr().String()
	if _, err := c.Put(ctx, "k", "v"); err != nil {
		t.Fatal(err)
	}
	if r, err := c.AlarmList(ctx); err != nil || len(r.Alarms) != 0 {
		t.Errorf("%v %v", r, err)
	}
	if _, err := c.AlarmDisarm(ctx, &clientv3.AlarmMember{}); err != nil {
		t.Error(err)
	}
	if _, err := c.Defragment(ctx, addr); err != nil {
		t.Error(err)
	}
	r, err := c.SnapshotWithVersion(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := b.ReadFrom(r.Snapshot); err != nil || b.Len()%512 != 32 {
		t.Errorf("%d bytes: want whole blocks of 512 and a checksum of 32; %v", b.Len(), err)
	}
	_ = r.Snapshot.Close()
	for v, want := range map[string]error{"x": rpctypes.ErrWrongDowngradeVersionFormat, "3.5": rpctypes.ErrInvalidDowngradeTargetVersion} {
		_, err := c.Downgrade(ctx, clientv3.DowngradeValidate, v)
		wants(t, "downgrade to "+v, err, want)
	}
}
