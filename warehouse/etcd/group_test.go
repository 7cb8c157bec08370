package etcd_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"nekoq/services/errs"
	peerapi "nekoq/services/peer/api"
	"nekoq/services/state"
	"nekoq/services/testkit/cluster"
	"nekoq/services/testkit/faultproxy"
	"nekoq/warehouse/etcd"
	"nekoq/warehouse/warehousetest"
)

// group is a Raft group whose nodes have etcd doors. Clients reach the doors through
// links of the fault proxy, so the addresses outlive the nodes.
type group struct {
	*cluster.Cluster
	tb    testing.TB
	addrs []string
	links []*faultproxy.Link

	mu    sync.Mutex
	hubs  *cluster.Hubs
	doors map[string]*etcd.Door // of the nodes that run
	ids   []string
}

// startGroup starts three nodes; set changes the doors' configuration.
func startGroup(tb testing.TB, o cluster.Options, set ...func(*etcd.Config)) *group {
	tb.Helper()
	g := &group{tb: tb, hubs: cluster.NewHubs(tb), doors: map[string]*etcd.Door{}, ids: []string{"n1", "n2", "n3"}}
	for _, id := range g.ids {
		g.listen(id)
	}
	cfg := etcd.DefaultConfig()
	cfg.Listen, cfg.WatchProgressInterval, cfg.BcryptCost = "127.0.0.1:0", 100*time.Millisecond, 4
	for _, s := range set {
		s(&cfg)
	}
	o.Register = func(reg *state.Registry) { warehousetest.Register(reg); etcd.Register(reg) }
	o.Events = g.hubs.Events
	o.Before = func(m *cluster.Member) { g.open(m, cfg) }
	o.Down = func(m *cluster.Member) { g.shut(m.ID) }
	g.Cluster = cluster.New(tb, o)
	return g
}

// listen makes the link by which clients reach a node.
func (g *group) listen(id string) {
	g.tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		g.tb.Fatal(err)
	}
	l := faultproxy.New(func(ctx context.Context) (net.Conn, error) {
		d := g.door(id)
		if d == nil {
			return nil, errs.New(errs.Unavailable, "node %s is down", id)
		}
		var dial net.Dialer
		return dial.DialContext(ctx, "tcp", d.Addr().String())
	})
	served := make(chan struct{})
	go func() { defer close(served); l.Serve(ln) }()
	g.tb.Cleanup(func() { _ = ln.Close(); l.Close(); <-served })
	g.addrs, g.links = append(g.addrs, ln.Addr().String()), append(g.links, l)
}

func (g *group) door(id string) *etcd.Door {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.doors[id]
}

func (g *group) open(m *cluster.Member, cfg etcd.Config) {
	n := warehousetest.NewNode(g.tb, m.Replica, g.hubs.Of(m.ID), nil)
	d, err := etcd.New(etcd.Deps{
		Store: n.KV, Replica: m.Replica, Machine: m.Machine, Cluster: members(g.ids), ClusterID: func() string { return "test" },
	}, cfg)
	if err == nil {
		err = d.Start(context.Background())
	}
	if err != nil {
		g.tb.Fatal(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.doors[m.ID] = d
}

// shut ends a node's door without waiting for anything, as a kill does.
func (g *group) shut(id string) {
	g.mu.Lock()
	d := g.doors[id]
	delete(g.doors, id)
	g.mu.Unlock()
	if d == nil {
		return
	}
	now, cancel := context.WithCancel(context.Background())
	cancel()
	_ = d.Drain(now)
	_ = d.Stop(now)
}

// at is the number of a node, from 0.
func (g *group) at(m *cluster.Member) int {
	for i, o := range g.Members {
		if o == m {
			return i
		}
	}
	g.tb.Fatalf("there is no node %s", m.ID)
	return 0
}

// members is a membership that never changes.
type members []string

func (m members) Members() []peerapi.Member {
	var out []peerapi.Member
	for _, id := range m {
		out = append(out, peerapi.Member{ID: id, Role: "voter"})
	}
	return out
}

var errFixed = errs.New(errs.Unimplemented, "the members of this group do not change")

func (members) Remove(context.Context, peerapi.RemoveRequest) (peerapi.Done, error) {
	return peerapi.Done{}, errFixed
}

func (members) Promote(context.Context, peerapi.PromoteRequest) (peerapi.Done, error) {
	return peerapi.Done{}, errFixed
}

func (members) Transfer(context.Context, peerapi.TransferRequest) (peerapi.Done, error) {
	return peerapi.Done{}, errFixed
}
