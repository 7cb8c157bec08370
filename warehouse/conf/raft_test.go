package conf_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"nekoq/services/clock"
	"nekoq/services/errs"
	"nekoq/services/state"
	"nekoq/services/testkit/cluster"
	"nekoq/warehouse/areas"
	"nekoq/warehouse/conf"
	"nekoq/warehouse/conf/api"
)

// nodes is the configuration centre over a Raft group.
type nodes struct {
	*cluster.Cluster
	mu   sync.Mutex
	hubs *cluster.Hubs
	svcs map[string]*conf.Service // the newest of each id
	all  []*conf.Service
}

func startNodes(t *testing.T, n int) *nodes {
	t.Helper()
	g := &nodes{hubs: cluster.NewHubs(t), svcs: map[string]*conf.Service{}}
	t.Cleanup(func() { // runs after the cluster's own
		for _, s := range g.all {
			_ = s.Stop(context.Background())
		}
	})
	cfg := conf.DefaultConfig()
	cfg.ReportInterval = 50 * time.Millisecond
	g.Cluster = cluster.New(t, cluster.Options{
		Nodes:    n,
		Register: func(reg *state.Registry) { conf.Register(reg, areas.Register(reg)) },
		Events:   g.hubs.Events,
		Before: func(m *cluster.Member) {
			g.mu.Lock()
			defer g.mu.Unlock()
			s, err := conf.New(conf.Deps{Replica: m.Replica, Events: g.hubs.Of(m.ID), Clock: clock.System()}, cfg)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			g.svcs[m.ID], g.all = s, append(g.all, s)
		},
	})
	return g
}

func (g *nodes) node(id string) *conf.Service {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.svcs[id]
}

// Contents that are due while the leader is killed are each published exactly once,
// not early, and listeners of every node get them.
func TestScheduleOverLeaderKill(t *testing.T) {
	g := startNodes(t, 3)
	l := g.WaitLeader()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	const items = 30
	began := time.Now()
	address := func(i int) api.Address { return api.Address{Area: "default", Group: "app", Key: fmt.Sprint("k", i)} }
	for i := range items {
		due := began.Add(time.Second + time.Duration(i)*40*time.Millisecond)
		_, err := g.node(l.ID).Publish(ctx, api.PublishRequest{
			Direct: true, At: &due, WriteRequest: api.WriteRequest{Address: address(i), Bytes: []byte(due.Format(time.RFC3339Nano))},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	l.Kill()
	now := g.WaitLeaderBut(l)
	l.Start()
	var other *cluster.Member
	for _, m := range g.Members {
		if m != l && m != now {
			other = m
		}
	}
	w, err := g.node(other.ID).Listen(ctx, api.EffectiveRequest{Group: "app", Client: "c"}, conf.Peer{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for have := 0; have < items; {
		e, err := w.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if len(e.Values) < have {
			t.Fatalf("%d values after %d", len(e.Values), have)
		}
		have = len(e.Values)
	}
	g.WaitLeader()
	for i := range items {
		h, err := g.node(now.ID).History(ctx, api.HistoryRequest{Address: address(i)})
		if err != nil {
			t.Fatal(err)
		}
		c, err := g.node(now.ID).Item(ctx, api.ItemRequest{Address: address(i)})
		if err != nil {
			t.Fatal(err)
		}
		due, _ := time.Parse(time.RFC3339Nano, string(c.Bytes))
		if len(h.Releases) != 1 || h.Releases[0].By != api.BySchedule || h.Releases[0].Time.Before(due) || c.Scheduled != nil {
			t.Fatalf("%d: due %s: %+v", i, due, h.Releases)
		}
	}
}

// Who listens at one node is seen at the others, and no longer once the node is
// gone.
func TestListenersOfAllNodes(t *testing.T) {
	g := startNodes(t, 3)
	g.WaitLeader()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	for _, m := range g.Members {
		w, err := g.node(m.ID).Listen(ctx, api.EffectiveRequest{Group: "app", Client: "at-" + m.ID}, conf.Peer{})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		if _, err := w.Next(ctx); err != nil {
			t.Fatal(err)
		}
	}
	seen := func(id string, want int) {
		t.Helper()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			l, err := g.node(id).Listeners(ctx, api.ListenersRequest{Group: "app"})
			if err != nil {
				t.Fatal(err)
			}
			versions := map[string]bool{}
			for _, x := range l.Listeners {
				versions[x.Hash] = true
			}
			if len(l.Listeners) == want && len(versions) == 1 && !versions[""] {
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Fatalf("%s sees %+v, want %d", id, l, want)
			}
		}
	}
	for _, m := range g.Members {
		seen(m.ID, 3)
	}
	gone := g.Members[2]
	if err := g.node(gone.ID).Stop(ctx); err != nil { // withdraws its report
		t.Fatal(err)
	}
	seen(g.Members[0].ID, 2)
	dead := g.Members[1] // has no time to
	dead.Kill()
	seen(g.Members[0].ID, 1)
}

// Without a majority what is there can be read and listened to; nothing is written.
func TestNoQuorum(t *testing.T) {
	g := startNodes(t, 3)
	g.WaitLeader()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	w := api.WriteRequest{Address: api.Address{Area: "default", Group: "app", Key: "k"}, Bytes: []byte("v")}
	if _, err := g.node("n1").Publish(ctx, api.PublishRequest{Direct: true, WriteRequest: w}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.node("n3").Effective(ctx, api.EffectiveRequest{Group: "app"}); err != nil { // linearizable: n3 has it
		t.Fatal(err)
	}
	g.Members[0].Stop()
	g.Members[1].Stop()
	s := g.node("n3")
	e, err := s.Effective(ctx, api.EffectiveRequest{Group: "app", Stale: true})
	if err != nil || string(e.Values[0].Bytes) != "v" {
		t.Fatal(e, err)
	}
	l, err := s.Listen(ctx, api.EffectiveRequest{Group: "app"}, conf.Peer{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if e, err = l.Next(ctx); err != nil || string(e.Values[0].Bytes) != "v" {
		t.Fatal(e, err)
	}
	// A client that has something newer from another node gets nothing older here.
	for _, c := range []struct {
		ahead uint64
		older bool
	}{{0, true}, {1, false}} {
		back, err := s.Listen(ctx, api.EffectiveRequest{Group: "app", Hash: "other", Revision: e.Revision + c.ahead}, conf.Peer{})
		if err != nil {
			t.Fatal(err)
		}
		wait, stop := context.WithTimeout(ctx, 3*time.Second)
		_, err = back.Next(wait)
		stop()
		back.Close()
		if (err == nil) != c.older {
			t.Fatalf("ahead by %d: %v", c.ahead, err)
		}
	}
	short, stop := context.WithTimeout(ctx, time.Second)
	defer stop()
	_, err = s.Publish(short, api.PublishRequest{Direct: true, WriteRequest: w})
	switch errs.CodeOf(err) {
	case errs.NoLeader, errs.OutcomeUnknown, errs.DeadlineExceeded, errs.Unavailable:
	case "":
		t.Log("the same content is no change, and that was known") // still goes through the log
		t.Fatal("a write without a majority")
	default:
		t.Fatal(err)
	}
}
