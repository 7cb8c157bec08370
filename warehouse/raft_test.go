package warehouse_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"nekoq/services/errs"
	"nekoq/services/replica/raftnode"
	"nekoq/services/state"
	"nekoq/services/testkit/cluster"
	"nekoq/services/watch"
	"nekoq/warehouse/api"
	"nekoq/warehouse/warehousetest"
)

func TestRaftOne(t *testing.T) {
	warehousetest.Run(t, func(tb testing.TB) []*warehousetest.Node { return startRaft(tb, 1).all() })
}

func TestRaftThree(t *testing.T) {
	warehousetest.Run(t, func(tb testing.TB) []*warehousetest.Node { return startRaft(tb, 3).all() })
}

// group is warehouse over a Raft group.
type group struct {
	*cluster.Cluster
	mu    sync.Mutex
	hubs  *cluster.Hubs
	nodes map[string]*warehousetest.Node // the newest of each id

	resets atomic.Int64 // snapshots that were installed
}

type countResets struct {
	watch.Publisher
	n *atomic.Int64
}

func (c countResets) Reset() {
	c.n.Add(1)
	c.Publisher.Reset()
}

func startRaft(tb testing.TB, nodes int) *group { return startRaftWith(tb, nodes, nil) }

func startRaftWith(tb testing.TB, nodes int, config func(id string, c *raftnode.Config)) *group {
	tb.Helper()
	g := &group{hubs: cluster.NewHubs(tb), nodes: map[string]*warehousetest.Node{}}
	g.Cluster = cluster.New(tb, cluster.Options{
		Nodes:    nodes,
		Config:   config,
		Register: func(reg *state.Registry) { warehousetest.Register(reg) },
		Events:   func(id string) watch.Publisher { return countResets{g.hubs.Events(id), &g.resets} },
		Before: func(m *cluster.Member) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.nodes[m.ID] = warehousetest.NewNode(tb, m.Replica, g.hubs.Of(m.ID), nil)
		},
	})
	return g
}

func (g *group) node(id string) *warehousetest.Node {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.nodes[id]
}

func (g *group) all() []*warehousetest.Node {
	var out []*warehousetest.Node
	for _, m := range g.Members {
		out = append(out, g.node(m.ID))
	}
	return out
}

// row: nekoq 8, with kills of the leader and a restart of all. What was
// acknowledged is there; watches that resume by revision see each change once and
// in order; a TTL is neither cut short nor given anew.
func TestLeaderKills(t *testing.T) {
	g := startRaft(t, 3)
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	const ttl = 4 * time.Second
	granted := time.Now()
	if _, err := g.node("n1").KV.Put(ctx, &api.PutRequest{Key: []byte("ttl"), TTL: ttl}); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	acked := make([]map[string]string, 4)
	var writers sync.WaitGroup
	for w := range acked {
		acked[w] = map[string]string{}
		writers.Go(func() { g.write(ctx, w, acked[w], stop) })
	}
	for range 2 {
		l := g.WaitLeader()
		l.Kill()
		g.WaitLeaderBut(l)
		l.Start()
	}
	g.WaitLeader()
	gone := g.waitGone(ctx, t, "ttl")
	close(stop)
	writers.Wait()
	if d := gone.Sub(granted); d < ttl {
		t.Errorf("a key with a TTL of %s ended after %s", ttl, d)
	}
	for _, m := range g.Members {
		m.Stop()
	}
	for _, m := range g.Members {
		m.Start()
	}
	g.WaitLeader()
	total := 0
	for _, n := range g.all() {
		for _, keys := range acked {
			total += len(keys)
			for k, v := range keys {
				r, err := n.KV.Get(ctx, &api.GetRequest{Key: []byte(k)})
				if err != nil || string(r.KV.Value) != v {
					t.Fatalf("acknowledged %s=%s; read %+v %v", k, v, r, err)
				}
			}
		}
		g.checkWatch(ctx, t, n)
	}
	if total == 0 {
		t.Fatal("nothing was acknowledged")
	}
}

// write puts keys of its own, each once, and remembers what was acknowledged.
func (g *group) write(ctx context.Context, w int, acked map[string]string, stop <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		m := g.Members[(i+w)%len(g.Members)]
		k, v := fmt.Sprintf("w%d/%06d", w, i), fmt.Sprint(i)
		one, cancel := context.WithTimeout(ctx, time.Second)
		_, err := g.node(m.ID).KV.Put(one, &api.PutRequest{Key: []byte(k), Value: []byte(v)})
		cancel()
		if err == nil {
			acked[k] = v
		}
	}
}

func (g *group) waitGone(ctx context.Context, t *testing.T, key string) time.Time {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		for _, n := range g.all() {
			r, err := n.KV.Get(ctx, &api.GetRequest{Key: []byte(key)})
			if err == nil && !r.Found {
				return time.Now()
			}
			if ctx.Err() != nil {
				t.Fatalf("%s never ended: %v", key, err)
			}
		}
		<-tick.C
	}
}

// checkWatch replays all history on a node and compares it with its keys.
func (g *group) checkWatch(ctx context.Context, t *testing.T, n *warehousetest.Node) {
	t.Helper()
	st, err := n.KV.Status(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	w, err := n.KV.Watch(ctx, &api.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	keys := map[string]bool{}
	for next := uint64(2); next <= st.Revision; {
		b, err := w.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range b.Events {
			if e.KV.ModRevision != next {
				t.Fatalf("event at revision %d, want %d", e.KV.ModRevision, next)
			}
			next++
			if e.Kind == api.EventPut {
				keys[string(e.KV.Key)] = true
			} else {
				delete(keys, string(e.KV.Key))
			}
		}
	}
	if uint64(len(keys)) != st.Keys {
		t.Fatalf("the history leads to %d keys, the store has %d", len(keys), st.Keys)
	}
}

// With the majority gone, stale reads go on with their lag, and writes and
// linearizable reads are refused within their deadline.
func TestNoQuorum(t *testing.T) {
	g := startRaft(t, 3)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	if _, err := g.node("n1").KV.Put(ctx, &api.PutRequest{Key: []byte("k"), Value: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	// All nodes have it before two of them go.
	for _, n := range g.all() {
		if _, err := n.KV.Get(ctx, &api.GetRequest{Key: []byte("k")}); err != nil {
			t.Fatal(err)
		}
	}
	g.Members[0].Stop()
	g.Members[1].Stop()
	n := g.node("n3")
	r, err := n.KV.Get(ctx, &api.GetRequest{Key: []byte("k"), Stale: true})
	if err != nil || string(r.KV.Value) != "v" || !r.Stale {
		t.Fatalf("a stale read: %+v %v", r, err)
	}
	for what, do := range map[string]func(ctx context.Context) error{
		"put": func(ctx context.Context) error {
			_, err := n.KV.Put(ctx, &api.PutRequest{Key: []byte("k")})
			return err
		},
		"get": func(ctx context.Context) error {
			_, err := n.KV.Get(ctx, &api.GetRequest{Key: []byte("k")})
			return err
		},
	} {
		short, stop := context.WithTimeout(ctx, 2*time.Second)
		began := time.Now()
		err := do(short)
		stop()
		switch errs.CodeOf(err) {
		case errs.NoLeader, errs.OutcomeUnknown, errs.DeadlineExceeded, errs.Unavailable:
		default:
			t.Errorf("%s without a quorum: %v", what, err)
		}
		if d := time.Since(began); d > 4*time.Second {
			t.Errorf("%s without a quorum took %s", what, d)
		}
	}
}
