package peer_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/services/clock"
	"nekoq/services/errs"
	"nekoq/services/peer"
	"nekoq/services/peer/api"
	"nekoq/services/replica"
	"nekoq/services/replica/raftnode"
	"nekoq/services/state"
	"nekoq/services/testkit/cluster"
	"nekoq/services/testkit/register"
)

// realNode is a node as services/app builds it: state, Raft and the real port.
type realNode struct {
	t    *testing.T
	id   string
	dir  string
	addr string
	m    *state.Machine
	raft *raftnode.Node
	svc  *peer.Service
	up   bool
}

func quick() peer.Config {
	c := peer.DefaultConfig()
	c.PingInterval, c.DeadAfter = 50*time.Millisecond, 600*time.Millisecond
	c.RedialMin, c.RedialMax = 10*time.Millisecond, 200*time.Millisecond
	c.BootstrapWait, c.CatchUpHold, c.HashInterval = 2*time.Second, 100*time.Millisecond, 0
	return c
}

func listenAt(t *testing.T, addr string) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	return ln
}

// run starts a node on its folder; ln decides its address.
func run(t *testing.T, id, dir string, ln net.Listener, cfg peer.Config) *realNode {
	t.Helper()
	reg := state.NewRegistry()
	peer.Register(reg)
	register.Register(reg)
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})).With("node", id)
	m, err := state.Open(state.Options{
		Path: filepath.Join(dir, "state.db"), Registry: reg, Mode: state.Logged, Config: state.Config{MmapBytes: 1 << 28},
	})
	require.NoError(t, err)
	svc, err := peer.New(peer.Deps{NodeID: id, DataDir: dir, Listener: ln, Logger: log, HTTP: id + ":http", Native: id + ":native"}, cfg)
	require.NoError(t, err)
	node, err := raftnode.New(raftnode.Options{
		NodeID: id, Addr: id, DataDir: dir, Machine: m, Peers: svc, Clock: clock.System(), Logger: log, Config: cluster.DefaultConfig(),
	})
	require.NoError(t, err)
	node.Register(svc.Mux())
	svc.Attach(peer.Attached{Store: m, Replica: node, Raft: peer.Adapt[raftnode.Server](node)})
	require.NoError(t, svc.Start(t.Context()))
	n := &realNode{t: t, id: id, dir: dir, addr: svc.Address(), m: m, raft: node, svc: svc, up: true}
	t.Cleanup(func() { n.stop(true) })
	return n
}

// stop ends the node, in good order or as if it died.
func (n *realNode) stop(orderly bool) {
	if !n.up {
		return
	}
	n.up = false
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err := n.svc.Drain(ctx)
	if orderly {
		err = errors.Join(err, n.raft.Shutdown(ctx))
	} else {
		n.raft.Abort()
	}
	if err := errors.Join(err, n.svc.Stop(ctx), n.m.Close()); err != nil {
		n.t.Errorf("stop of %s: %v", n.id, err)
	}
}

func poll(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not in time: %v", err)
		}
	}
}

func (n *realNode) status() api.Cluster {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := n.svc.Status(ctx)
	require.NoError(n.t, err)
	return c
}

// voters waits until this node sees exactly ids as live, ready voters.
func (n *realNode) voters(ids ...string) {
	n.t.Helper()
	poll(n.t, func() error {
		c := n.status()
		var got []string
		for _, m := range c.Nodes {
			if m.Role != "voter" || !m.Alive || !m.Ready || m.Version == 0 {
				return fmt.Errorf("%+v", m)
			}
			got = append(got, m.ID)
		}
		if strings.Join(got, ",") != strings.Join(ids, ",") || c.LeaderID == "" {
			return fmt.Errorf("%s sees %v under leader %q", n.id, got, c.LeaderID)
		}
		return nil
	})
}

func (n *realNode) put(key, value string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err := n.raft.Propose(ctx, register.Put(key, value))
	return err
}

func (n *realNode) get(key string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	v, _, err := n.raft.View(ctx, replica.Linearizable)
	if err != nil {
		return "", err
	}
	defer v.Release()
	return register.Get(v, key), nil
}

func startThree(t *testing.T) ([]*realNode, []string) {
	t.Helper()
	var lns []net.Listener
	var peers []string
	for i := range 3 {
		ln := listenAt(t, "127.0.0.1:0")
		lns = append(lns, ln)
		peers = append(peers, fmt.Sprintf("n%d=%s", i+1, ln.Addr()))
	}
	var nodes []*realNode
	for i, ln := range lns {
		cfg := quick()
		cfg.Peers = peers
		nodes = append(nodes, run(t, fmt.Sprintf("n%d", i+1), t.TempDir(), ln, cfg))
	}
	for _, n := range nodes {
		n.voters("n1", "n2", "n3")
	}
	return nodes, peers
}

func byID(nodes []*realNode, id string) *realNode {
	for _, n := range nodes {
		if n.id == id {
			return n
		}
	}
	return nil
}

func TestRealClusterGrowsAndLosesItsFirstNode(t *testing.T) {
	nodes, _ := startThree(t)
	for i := range 300 {
		require.NoError(t, nodes[i%3].put(fmt.Sprintf("k%03d", i), "v"))
	}
	cfg := quick()
	cfg.Join = []string{nodes[1].addr}
	n4 := run(t, "n4", t.TempDir(), listenAt(t, "127.0.0.1:0"), cfg)
	all := append(nodes, n4)
	for _, n := range all {
		n.voters("n1", "n2", "n3", "n4")
	}
	got, err := n4.get("k299")
	require.NoError(t, err)
	require.Equal(t, "v", got)

	// n1 leads and is removed through a follower.
	done, err := n4.svc.Transfer(t.Context(), api.TransferRequest{To: "n1"})
	require.NoError(t, err)
	require.Equal(t, "n1", done.LeaderID)
	_, err = n4.svc.Remove(t.Context(), api.RemoveRequest{ID: "n1"})
	require.NoError(t, err)
	for _, n := range all[1:] {
		n.voters("n2", "n3", "n4")
	}
	require.NoError(t, n4.put("after", "1"))
	poll(t, func() error {
		err := nodes[0].svc.Ready(t.Context())
		if err == nil || !strings.Contains(err.Error(), "was removed from cluster") {
			return fmt.Errorf("n1 is ready: %v", err)
		}
		return nil
	})
	_, err = nodes[0].get("after")
	require.Error(t, err, "a removed node answers no linearizable read")

	rep, err := n4.svc.CompareHashes(t.Context(), api.HashRequest{Content: true})
	require.NoError(t, err)
	require.True(t, rep.Equal, "%+v", rep)
	require.Len(t, rep.Nodes, 3)
	for _, h := range rep.Nodes {
		require.Equal(t, api.HashEqual, h.Verdict, "%+v", rep)
	}
}

func TestRealClusterOverADeadNode(t *testing.T) {
	nodes, peers := startThree(t)
	leader := byID(nodes, nodes[0].status().LeaderID)
	require.NoError(t, leader.put("a", "1"))
	leader.stop(false)
	var rest []*realNode
	for _, n := range nodes {
		if n != leader {
			rest = append(rest, n)
		}
	}
	poll(t, func() error { return rest[0].put("a", "2") })
	got, err := rest[1].get("a")
	require.NoError(t, err)
	require.Equal(t, "2", got)
	poll(t, func() error {
		c := rest[0].status()
		for _, n := range c.Nodes {
			if n.ID == leader.id && (n.Alive || n.Role != "voter" || n.LastSeen == nil || n.Reason == "" || n.Leader) {
				return fmt.Errorf("%+v", n)
			}
		}
		if c.Quorum.State != api.QuorumDegraded || c.Quorum.MayFail != 0 {
			return fmt.Errorf("%+v", c.Quorum)
		}
		return nil
	})

	// It comes back on its folder and takes part.
	cfg := quick()
	cfg.Peers = peers
	back := run(t, leader.id, leader.dir, listenAt(t, leader.addr), cfg)
	back.voters("n1", "n2", "n3")
	got, err = back.get("a")
	require.NoError(t, err)
	require.Equal(t, "2", got)
	back.stop(true)

	// With an empty folder it is refused, and its votes do not count.
	lost := run(t, leader.id, t.TempDir(), listenAt(t, leader.addr), cfg)
	select {
	case err := <-lost.svc.Failed():
		require.Equal(t, errs.IdentityRefused, errs.CodeOf(err))
		require.ErrorContains(t, err, "nekoq cluster remove "+leader.id)
	case <-time.After(20 * time.Second):
		t.Fatal("the lost node was not refused")
	}
	require.False(t, lost.raft.HasState())
	require.NoError(t, rest[0].put("a", "3"))
	lost.stop(true)

	_, err = rest[0].svc.Remove(t.Context(), api.RemoveRequest{ID: leader.id})
	require.NoError(t, err)
	cfg = quick()
	cfg.Join = []string{rest[1].addr, rest[0].addr}
	joined := run(t, leader.id, t.TempDir(), listenAt(t, "127.0.0.1:0"), cfg)
	joined.voters("n1", "n2", "n3")
	got, err = joined.get("a")
	require.NoError(t, err)
	require.Equal(t, "3", got)
}

func TestRealClusterRestartsWhole(t *testing.T) {
	nodes, peers := startThree(t)
	require.NoError(t, nodes[0].put("a", "1"))
	id := nodes[0].svc.ClusterID()
	for _, n := range nodes {
		n.stop(true)
	}
	var again []*realNode
	for _, n := range nodes {
		cfg := quick()
		cfg.Peers = peers
		again = append(again, run(t, n.id, n.dir, listenAt(t, n.addr), cfg))
	}
	for _, n := range again {
		n.voters("n1", "n2", "n3")
		require.Equal(t, id, n.svc.ClusterID())
		got, err := n.get("a")
		require.NoError(t, err)
		require.Equal(t, "1", got)
	}
	_, err := again[2].svc.Transfer(t.Context(), api.TransferRequest{})
	require.NoError(t, err)
}

func TestOneRealNodeGrowsToThree(t *testing.T) {
	ln := listenAt(t, "127.0.0.1:0")
	cfg := quick()
	cfg.Peers = []string{"n1=" + ln.Addr().String()}
	n1 := run(t, "n1", t.TempDir(), ln, cfg)
	n1.voters("n1")
	require.NoError(t, n1.put("a", "1"))
	cfg = quick()
	cfg.Join = []string{n1.addr}
	n2 := run(t, "n2", t.TempDir(), listenAt(t, "127.0.0.1:0"), cfg)
	n3 := run(t, "n3", t.TempDir(), listenAt(t, "127.0.0.1:0"), cfg)
	for _, n := range []*realNode{n1, n2, n3} {
		n.voters("n1", "n2", "n3")
	}
	got, err := n3.get("a")
	require.NoError(t, err)
	require.Equal(t, "1", got)
	_, err = n2.svc.Remove(t.Context(), api.RemoveRequest{ID: "n3"})
	require.NoError(t, err)
	n2.voters("n1", "n2")
}
