package peer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"nekoq/services/errs"
	"nekoq/services/peer/api"
	"nekoq/services/wire"
)

func TestHashesAreComparedAndDivergenceIsLoud(t *testing.T) {
	g := newGroup(t)
	nodes, _ := g.three()
	rep, err := nodes[1].svc.CompareHashes(t.Context(), api.HashRequest{Content: true})
	require.NoError(t, err)
	require.True(t, rep.Equal)
	for _, n := range rep.Nodes {
		require.Equal(t, api.HashEqual, n.Verdict)
		require.Len(t, n.Chain, 16)
		require.Len(t, n.Content, 16)
	}

	// One node gets another command at the same index.
	leader, _ := nodes[0].Leader()
	var bad *fakeNode
	for _, n := range nodes {
		if n.id != leader {
			bad = n
		}
	}
	g.mu.Lock()
	entry := g.log[len(g.log)-1]
	g.log = append(g.log, entry)
	index := uint64(len(g.log))
	for _, n := range g.nodes {
		e := entry
		if n == bad {
			e = otherEntry()
		}
		_, err := n.m.ApplyEntry(index, g.term, e)
		require.NoError(t, err)
	}
	g.mu.Unlock()

	rep, err = nodes[0].svc.CompareHashes(t.Context(), api.HashRequest{})
	require.NoError(t, err)
	require.False(t, rep.Equal)
	for _, n := range rep.Nodes {
		want := api.HashEqual
		if n.ID == bad.id {
			want = api.HashDiverged
		}
		require.Equal(t, want, n.Verdict, n.ID)
	}
	require.ErrorContains(t, bad.svc.Ready(t.Context()), "differs from the other nodes'")
	for _, n := range nodes {
		st := find(t, n.status(t), bad.id)
		require.Equal(t, api.HashDiverged, st.State, "seen from %s", n.id)
		if n != bad {
			require.NoError(t, n.svc.Ready(t.Context()))
		}
	}
}

func TestCallsGoOnAfterThePeerRestarts(t *testing.T) {
	g := newGroup(t)
	nodes, peers := g.three()
	call := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		b, err := nodes[0].svc.Call(ctx, "n3", methodPing, []byte("{}"))
		if err != nil {
			return err
		}
		var r api.Report
		return json.Unmarshal(b, &r)
	}
	require.NoError(t, call())
	addr := nodes[2].addr
	nodes[2].stop()
	err := call()
	require.Equal(t, errs.Unavailable, errs.CodeOf(err), "%v", err)
	require.ErrorContains(t, err, "n3")
	ln, lerr := net.Listen("tcp", addr)
	require.NoError(t, lerr)
	cfg := testConfig()
	cfg.Peers = peers
	g.start(setup{id: "n3", dir: nodes[2].dir, ln: ln, cfg: cfg})
	eventually(t, func() string {
		if err := call(); err != nil {
			return err.Error()
		}
		return ""
	})
	_, err = nodes[0].svc.Call(t.Context(), "n8", methodPing, nil)
	require.ErrorContains(t, err, "its address is not known")
	_, err = nodes[0].svc.Call(t.Context(), "n2", wire.Method(0x0f5f), nil)
	require.Error(t, err, "an unknown method")
}

func TestRaftStreams(t *testing.T) {
	g := newGroup(t)
	nodes, _ := g.three()
	for _, addr := range []string{"n2", nodes[1].addr} {
		c, err := nodes[0].svc.DialRaft(t.Context(), addr)
		require.NoError(t, err)
		in, err := nodes[1].svc.RaftListener().Accept()
		require.NoError(t, err)
		_, err = c.Write([]byte("raft"))
		require.NoError(t, err)
		buf := make([]byte, 4)
		_, err = in.Read(buf)
		require.NoError(t, err)
		require.Equal(t, "raft", string(buf))
		require.NoError(t, c.Close())
		require.NoError(t, in.Close())
	}
	require.Equal(t, "n2", nodes[1].svc.RaftListener().Addr().String())

	// Removing a node cuts its streams.
	c, err := nodes[0].svc.DialRaft(t.Context(), "n2")
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, nodes[1].svc.RaftListener().Close())
	_, err = nodes[2].svc.Remove(t.Context(), api.RemoveRequest{ID: "n2"})
	require.NoError(t, err)
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = nodes[1].svc.RaftListener().Accept()
	require.ErrorIs(t, err, net.ErrClosed)
}

func TestPortInUseNamesTheSetting(t *testing.T) {
	g := newGroup(t)
	ln := listener(t)
	cfg := testConfig()
	cfg.Listen = ln.Addr().String()
	cfg.Peers = []string{"n1=" + cfg.Listen}
	_, err := g.try(setup{id: "n1", cfg: cfg})
	require.ErrorContains(t, err, "cluster.listen")
	require.ErrorContains(t, err, "another process listens there already")
}

func TestOneNodeAlone(t *testing.T) {
	g := newGroup(t)
	ln := listener(t)
	cfg := testConfig()
	cfg.Peers = []string{"n1=" + ln.Addr().String()}
	n := g.start(setup{id: "n1", ln: ln, cfg: cfg})
	n.waitMembers(1)
	_, err := n.svc.Remove(t.Context(), api.RemoveRequest{ID: "n1"})
	require.ErrorContains(t, err, "last voter")
	_, err = n.svc.Transfer(t.Context(), api.TransferRequest{})
	require.ErrorContains(t, err, "only voter")
}

func TestLeaderComparesHashesByItself(t *testing.T) {
	g := newGroup(t)
	ln := listener(t)
	cfg := testConfig()
	cfg.Peers, cfg.HashInterval = []string{"n1=" + ln.Addr().String()}, 10*time.Millisecond
	n := g.start(setup{id: "n1", ln: ln, cfg: cfg})
	n.waitMembers(1)
	eventually(t, func() string {
		r := n.svc.hashes.last()
		if r == nil || !r.Equal || len(r.Nodes) != 1 || r.Nodes[0].Verdict != api.HashEqual {
			return fmt.Sprintf("%+v", r)
		}
		return ""
	})
}

func TestSecureSeamWrapsBothSides(t *testing.T) {
	var wrapped [2]int
	g := newGroup(t)
	g.secure = func(id string) Secure {
		return Secure{
			Client: func(_ context.Context, c net.Conn, node string) (net.Conn, error) {
				g.mu.Lock()
				defer g.mu.Unlock()
				wrapped[0]++
				if node == "" {
					return nil, errors.New("a node without a name")
				}
				return c, nil
			},
			Server: func(_ context.Context, c net.Conn) (net.Conn, error) {
				g.mu.Lock()
				defer g.mu.Unlock()
				wrapped[1]++
				return c, nil
			},
		}
	}
	nodes, _ := g.three()
	g.mu.Lock()
	require.NotZero(t, wrapped[0])
	require.NotZero(t, wrapped[1])
	g.mu.Unlock()
	_, err := nodes[0].svc.DialRaft(t.Context(), nodes[1].addr)
	require.ErrorContains(t, err, "a node without a name")
}

func TestHealthMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	g := newGroup(t)
	g.metrics = func(id string) prometheus.Registerer {
		if id == "n1" {
			return reg
		}
		return nil
	}
	nodes, _ := g.three()
	_, err := nodes[0].svc.CompareHashes(t.Context(), api.HashRequest{})
	require.NoError(t, err)
	want := map[string]float64{"nekoq_peer_nodes": 2, "nekoq_peer_nodes_alive": 2, "nekoq_peer_diverged_nodes": 0}
	eventually(t, func() string {
		got, err := reg.Gather()
		require.NoError(t, err)
		seen := 0
		for _, f := range got {
			if v, ok := want[f.GetName()]; ok && f.GetMetric()[0].GetGauge().GetValue() == v {
				seen++
			}
		}
		if seen != len(want) {
			return fmt.Sprint(got)
		}
		return ""
	})
	nodes[0].stop()
	got, err := reg.Gather()
	require.NoError(t, err)
	require.Empty(t, got)
}

// BenchmarkCall is one small peer call over TCP loopback.
func BenchmarkCall(b *testing.B) {
	g := newGroup(b)
	nodes, _ := g.three()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := nodes[0].svc.Call(b.Context(), "n2", methodEcho, []byte("12345678")); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
