package main

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// doorSide is one server seen through etcd's own Go client.
type doorSide struct {
	name    string
	clients []*clientv3.Client
	addr    string // of the first node
	cpu     func() time.Duration
}

func dialDoor(name string, addrs []string, conns int, cpu func() time.Duration) (*doorSide, error) {
	s := &doorSide{name: name, cpu: cpu, addr: addrs[0]}
	for range conns {
		c, err := clientv3.New(clientv3.Config{Endpoints: addrs, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
		if err != nil {
			s.close()
			return nil, err
		}
		s.clients = append(s.clients, c)
	}
	return s, nil
}

func (s *doorSide) close() {
	for _, c := range s.clients {
		_ = c.Close()
	}
}

func (s *doorSide) of(worker int) *clientv3.Client { return s.clients[worker%len(s.clients)] }

func (s *doorSide) op(f func(ctx context.Context, c *clientv3.Client, worker, n int) error) side {
	return side{s.name, func(ctx context.Context, worker, n int) error { return f(ctx, s.of(worker), worker, n) }, s.cpu}
}

// etcdDoor compares the etcd door with etcd, both driven by etcd's own Go client.
func (s *settings) etcdDoor(ctx context.Context) error {
	for _, nodes := range s.nodes {
		if err := s.etcdDoorNodes(ctx, nodes); err != nil {
			return fmt.Errorf("%d nodes: %w", nodes, err)
		}
	}
	return nil
}

func (s *settings) etcdDoorNodes(ctx context.Context, nodes int) error {
	neko, err := s.cluster(ctx, fmt.Sprintf("door%d", nodes), nodes)
	if err != nil {
		return err
	}
	defer neko.close()
	etcd, err := startEtcd(ctx, s.etcd, s.etcdConn, nodes)
	if err != nil {
		return err
	}
	defer etcd.close()
	var doors []string
	for _, n := range neko.nodes {
		doors = append(doors, n.Etcd)
	}
	a, err := dialDoor("nekoq", doors, s.etcdConn, neko.cpu)
	if err != nil {
		return err
	}
	defer a.close()
	b := &doorSide{name: "etcd", clients: etcd.clients, cpu: etcd.cpu, addr: etcd.clients[0].Endpoints()[0]}
	head(fmt.Sprintf("etcd door, %d node(s), 256 B values, etcd's Go client on both sides; writes synced on a majority before the answer", nodes))
	if err := s.doorOps(ctx, a, b); err != nil {
		return err
	}
	if err := s.doorLimited(ctx, a, b); err != nil {
		return err
	}
	if err := s.doorBeats(ctx, a, b); err != nil {
		return err
	}
	return s.doorWatches(ctx, a, b)
}

func (s *settings) doorOps(ctx context.Context, a, b *doorSide) error {
	value := string(bytes.Repeat([]byte("v"), 256))
	put := func(ctx context.Context, c *clientv3.Client, worker, n int) error {
		_, err := c.Put(ctx, key(worker, n), value)
		return err
	}
	for _, x := range []*doorSide{a, b} {
		if err := fill(ctx, 0, keySpace, func(ctx context.Context, i int) error { return put(ctx, x.of(i), 0, i) }); err != nil {
			return err
		}
	}
	get := func(o ...clientv3.OpOption) func(ctx context.Context, c *clientv3.Client, worker, n int) error {
		return func(ctx context.Context, c *clientv3.Client, worker, n int) error {
			r, err := c.Get(ctx, key(worker, n), o...)
			if err == nil && len(r.Kvs) != 1 {
				return fmt.Errorf("%d keys", len(r.Kvs))
			}
			return err
		}
	}
	for _, x := range []struct {
		what string
		op   func(ctx context.Context, c *clientv3.Client, worker, n int) error
	}{
		{"put", put},
		{"linearizable range", get()},
		{"serializable range", get(clientv3.WithSerializable())},
		{"txn with compare", func(ctx context.Context, c *clientv3.Client, worker, n int) error {
			k := key(worker, n)
			_, err := c.Txn(ctx).If(clientv3.Compare(clientv3.Version(k), ">", 0)).Then(clientv3.OpPut(k, value)).Else(clientv3.OpGet(k)).Commit()
			return err
		}},
	} {
		for _, clients := range s.clients {
			if err := s.compare(ctx, x.what, clients, a.op(x.op), b.op(x.op)); err != nil {
				return err
			}
		}
	}
	return nil
}

// manyKeys is the size of the range that limited reads look into.
const manyKeys = 100_000

func (s *settings) doorLimited(ctx context.Context, a, b *doorSide) error {
	const what = "range, 100 of 100,000 keys"
	if !s.wants(what) {
		return nil
	}
	value := string(bytes.Repeat([]byte("v"), 256))
	for _, x := range []*doorSide{a, b} {
		err := fill(ctx, 0, manyKeys, func(ctx context.Context, i int) error {
			_, err := x.of(i).Put(ctx, fmt.Sprintf("many/%08d", i), value)
			return err
		})
		if err != nil {
			return err
		}
	}
	read := func(ctx context.Context, c *clientv3.Client, _, _ int) error {
		r, err := c.Get(ctx, "many/", clientv3.WithPrefix(), clientv3.WithLimit(100))
		if err == nil && (len(r.Kvs) != 100 || r.Count != manyKeys) {
			return fmt.Errorf("%d keys of %d", len(r.Kvs), r.Count)
		}
		return err
	}
	for _, clients := range s.clients {
		if err := s.compare(ctx, what, min(clients, 64), a.op(read), b.op(read)); err != nil {
			return err
		}
		if clients >= 64 {
			break
		}
	}
	return nil
}

// doorBeats keeps leases alive, each client on a stream of its own.
func (s *settings) doorBeats(ctx context.Context, a, b *doorSide) error {
	for _, clients := range s.clients {
		clients = min(clients, 256)
		var sides []side
		for _, x := range []*doorSide{a, b} {
			conn, err := grpc.NewClient("passthrough:///"+trimScheme(x.addr), grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				return err
			}
			defer conn.Close()
			ids, streams := make([]int64, clients), make([]pb.Lease_LeaseKeepAliveClient, clients)
			for i := range clients {
				l, err := x.clients[0].Grant(ctx, 600)
				if err != nil {
					return err
				}
				ids[i] = int64(l.ID)
				if streams[i], err = pb.NewLeaseClient(conn).LeaseKeepAlive(ctx); err != nil {
					return err
				}
			}
			sides = append(sides, side{x.name, func(_ context.Context, worker, _ int) error {
				if err := streams[worker].Send(&pb.LeaseKeepAliveRequest{ID: ids[worker]}); err != nil {
					return err
				}
				r, err := streams[worker].Recv()
				if err == nil && r.TTL != 600 {
					return fmt.Errorf("TTL %d", r.TTL)
				}
				return err
			}, x.cpu})
		}
		if err := s.compare(ctx, "lease keep-alive", clients, sides[0], sides[1]); err != nil {
			return err
		}
	}
	return nil
}

func trimScheme(addr string) string {
	if len(addr) > 7 && addr[:7] == "http://" {
		return addr[7:]
	}
	return addr
}

// doorWatches has many watchers of one key on one connection, and measures from a
// put until all of them have it.
func (s *settings) doorWatches(ctx context.Context, a, b *doorSide) error {
	for _, watchers := range []int{1, 100, 10_000} {
		what := fmt.Sprintf("put seen by %d watchers", watchers)
		if !s.wants(what) {
			continue
		}
		var sides []side
		for _, x := range []*doorSide{a, b} {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			f, err := newFanOut(ctx, x, watchers)
			if err != nil {
				return err
			}
			sides = append(sides, side{x.name, f.round, x.cpu})
		}
		if err := s.compare(ctx, what, 1, sides[0], sides[1]); err != nil {
			return err
		}
	}
	return nil
}

type fanOut struct {
	c    *clientv3.Client
	s    pb.Watch_WatchClient
	n    int
	seen chan struct{}
	mu   sync.Mutex
	err  error
}

func newFanOut(ctx context.Context, x *doorSide, n int) (*fanOut, error) {
	conn, err := grpc.NewClient("passthrough:///"+trimScheme(x.addr), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { _ = conn.Close() })
	f := &fanOut{c: x.clients[0], n: n, seen: make(chan struct{}, 1)}
	if f.s, err = pb.NewWatchClient(conn).Watch(ctx); err != nil {
		return nil, err
	}
	go func() {
		for range n {
			_ = f.s.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("fan")}}})
		}
	}()
	for range n {
		if _, err := f.s.Recv(); err != nil {
			return nil, err
		}
	}
	go f.read()
	return f, nil
}

func (f *fanOut) read() {
	for got := 0; ; {
		r, err := f.s.Recv()
		if err != nil {
			f.mu.Lock()
			f.err = err
			f.mu.Unlock()
			close(f.seen)
			return
		}
		if got += len(r.Events); got >= f.n {
			got -= f.n
			f.seen <- struct{}{}
		}
	}
}

func (f *fanOut) round(ctx context.Context, _, _ int) error {
	if _, err := f.c.Put(ctx, "fan", "v"); err != nil {
		return err
	}
	select {
	case _, ok := <-f.seen:
		if !ok {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.err
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
