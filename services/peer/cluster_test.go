package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/services/errs"
	"nekoq/services/peer/api"
	"nekoq/services/peer/internal/handshake"
	"nekoq/services/peer/internal/identity"
)

func (n *fakeNode) failure(t *testing.T) error {
	t.Helper()
	select {
	case err := <-n.svc.Failed():
		return err
	case <-time.After(10 * time.Second):
		t.Fatalf("node %s did not fail", n.id)
		return nil
	}
}

func (n *fakeNode) status(t *testing.T) api.Cluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	c, err := n.svc.Status(ctx)
	require.NoError(t, err)
	return c
}

func find(t *testing.T, c api.Cluster, id string) api.Node {
	t.Helper()
	for _, n := range c.Nodes {
		if n.ID == id {
			return n
		}
	}
	t.Fatalf("no node %s in %+v", id, c)
	return api.Node{}
}

func TestFirstStart(t *testing.T) {
	g := newGroup(t)
	nodes, _ := g.three()
	cluster := nodes[0].svc.ClusterID()
	require.Len(t, cluster, 32)
	for _, n := range nodes {
		require.Equal(t, cluster, n.svc.ClusterID())
		eventually(t, func() string {
			c := n.status(t)
			for _, m := range c.Nodes {
				if !m.Alive || !m.Ready || m.HTTPAddress != m.ID+":http" || m.Role != "voter" || m.Version != SupportedVersion {
					return fmt.Sprintf("%+v", m)
				}
			}
			if c.Quorum != (api.Quorum{Voters: 3, Needed: 2, Alive: 3, MayFail: 1, State: api.QuorumHealthy}) || c.LeaderID == "" {
				return fmt.Sprintf("%+v", c)
			}
			return ""
		})
		eventually(t, func() string {
			if id := n.svc.id.Get(); id.ClusterID != cluster || id.Phase != identity.Member || len(id.Peers) != 0 {
				return fmt.Sprintf("%+v", id)
			}
			return ""
		})
	}
}

func TestFirstStartWaitsForAMajority(t *testing.T) {
	g := newGroup(t)
	ln1, ln2, dead := listener(t), listener(t), listener(t)
	dead.Close()
	cfg := testConfig()
	cfg.Peers = []string{"n1=" + ln1.Addr().String(), "n2=" + ln2.Addr().String(), "n3=" + dead.Addr().String()}
	ln2.Close()
	n1 := g.start(setup{id: "n1", ln: ln1, cfg: cfg})
	eventually(t, func() string {
		err := n1.svc.Ready(t.Context())
		if err == nil || !strings.Contains(err.Error(), "waiting for n2, n3 (have 1 of 3 nodes") &&
			!strings.Contains(err.Error(), "waiting for n3, n2 (have 1 of 3 nodes") {
			return fmt.Sprint(err)
		}
		return ""
	})
	require.Empty(t, g.servers, "alone it must not start a cluster")
	ln2, err := net.Listen("tcp", ln2.Addr().String())
	require.NoError(t, err)
	n2 := g.start(setup{id: "n2", ln: ln2, cfg: cfg})
	for _, n := range []*fakeNode{n1, n2} {
		eventually(t, func() string {
			if err := n.svc.Ready(t.Context()); err != nil {
				return err.Error()
			}
			if len(n.svc.refresh().Members) != 3 {
				return "no member table"
			}
			return ""
		})
	}
	st := n1.status(t)
	n3 := find(t, st, "n3")
	require.False(t, n3.Alive)
	require.Contains(t, n3.Reason, "has not been heard of")
	require.Equal(t, api.QuorumDegraded, st.Quorum.State)
}

func TestPeersListsThatDiffer(t *testing.T) {
	g := newGroup(t)
	ln1, ln2 := listener(t), listener(t)
	a, b := testConfig(), testConfig()
	a.Peers = []string{"n1=" + ln1.Addr().String(), "n2=" + ln2.Addr().String()}
	b.Peers = append([]string{"n3=127.0.0.1:1"}, a.Peers...)
	n1 := g.start(setup{id: "n1", ln: ln1, cfg: a})
	n2 := g.start(setup{id: "n2", ln: ln2, cfg: b})
	for _, n := range []*fakeNode{n1, n2} {
		err := n.failure(t)
		require.ErrorContains(t, err, "the list must be the same on every node")
		require.ErrorContains(t, err, "n1,n2,n3")
	}
}

func TestRestartKeepsIdentity(t *testing.T) {
	g := newGroup(t)
	nodes, peers := g.three()
	n3 := nodes[2]
	inc := n3.svc.id.Incarnation()
	addr := n3.addr
	n3.stop()
	ln, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	cfg := testConfig()
	cfg.Peers = peers
	again := g.start(setup{id: "n3", dir: n3.dir, ln: ln, cfg: cfg})
	again.waitMembers(3)
	require.Equal(t, inc, again.svc.id.Incarnation())

	// It may also come back at another address: the others learn it.
	again.stop()
	moved := g.start(setup{id: "n3", dir: n3.dir, ln: listener(t), cfg: cfg})
	eventually(t, func() string {
		if got := nodes[0].svc.refresh().Members["n3"].Address; got != moved.addr {
			return got
		}
		return ""
	})
	eventually(t, func() string {
		if n := find(t, nodes[0].status(t), "n3"); !n.Alive || n.Address != moved.addr {
			return fmt.Sprintf("%+v", n)
		}
		return ""
	})
}

// A node that lost its disk must not be let in under its old id: not at its
// start, and not by nodes that it reaches later.
func TestEmptyDiskUnderAnOldID(t *testing.T) {
	g := newGroup(t)
	nodes, peers := g.three()
	addr := nodes[2].addr
	nodes[2].stop()
	cfg := testConfig()
	cfg.Peers = peers

	ln, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	lost := g.start(setup{id: "n3", ln: ln, cfg: cfg})
	err = lost.failure(t)
	require.Equal(t, errs.IdentityRefused, errs.CodeOf(err))
	require.ErrorContains(t, err, "its data folder was lost or replaced")
	require.ErrorContains(t, err, "nekoq cluster remove n3")
	require.ErrorContains(t, err, "cluster.join")
	require.ErrorContains(t, lost.svc.Ready(t.Context()), "nekoq cluster remove n3")
	require.False(t, lost.HasState())

	// Raft streams are refused in both directions, before a message counts.
	_, err = lost.svc.DialRaft(t.Context(), "n1")
	require.Equal(t, errs.IdentityRefused, errs.CodeOf(err))
	r, ok := errors.AsType[*handshake.Refused](err)
	require.True(t, ok)
	require.True(t, r.ByPeer)
	require.Equal(t, handshake.OtherLife, r.Verdict.Reason)
	_, err = nodes[0].svc.DialRaft(t.Context(), "n3")
	r, ok = errors.AsType[*handshake.Refused](err)
	require.True(t, ok, "%v", err)
	require.False(t, r.ByPeer)
	require.Equal(t, handshake.OtherLife, r.Verdict.Reason)
	require.NoError(t, nodes[0].svc.Ready(t.Context()), "the node that refuses is well")
	lost.stop()

	// The way out, as the message says.
	_, err = nodes[0].svc.Remove(t.Context(), api.RemoveRequest{ID: "n3"})
	require.NoError(t, err)
	cfg = testConfig()
	cfg.Join = []string{nodes[1].addr}
	back := g.start(setup{id: "n3", ln: listener(t), cfg: cfg})
	back.waitMembers(3)
	eventually(t, func() string { return notYet(find(t, nodes[0].status(t), "n3"), "voter") })
}

func notYet(n api.Node, role string) string {
	if n.Role != role || !n.Alive || !n.Ready {
		return fmt.Sprintf("%+v", n)
	}
	return ""
}

// A lost node that finds only another empty one starts a cluster with it; the
// member that remembers refuses it later.
func TestMemberRefusesAnotherClusterOfTheSameNames(t *testing.T) {
	g := newGroup(t)
	nodes, peers := g.three()
	cfg := testConfig()
	cfg.Peers = peers
	nodes[1].stop()
	nodes[2].stop()
	other := newGroup(t)
	// n1 cannot be reached while the two empty nodes start.
	cfg.Peers = []string{"n1=127.0.0.1:1", peers[1], peers[2]}
	var again []*fakeNode
	for i, n := range nodes[1:] {
		ln, err := net.Listen("tcp", n.addr)
		require.NoError(t, err)
		again = append(again, other.start(setup{id: fmt.Sprintf("n%d", i+2), ln: ln, cfg: cfg}))
	}
	for _, n := range again {
		eventually(t, func() string {
			if err := n.svc.Ready(t.Context()); err != nil {
				return err.Error()
			}
			return map[bool]string{true: "no cluster id"}[n.svc.ClusterID() == ""]
		})
	}
	require.NotEqual(t, nodes[0].svc.ClusterID(), again[0].svc.ClusterID())
	_, err := nodes[0].svc.DialRaft(t.Context(), "n2")
	r, ok := errors.AsType[*handshake.Refused](err)
	require.True(t, ok, "%v", err)
	require.True(t, r.ByPeer)
	require.Equal(t, handshake.OtherCluster, r.Verdict.Reason)
}

func TestLostLogIsRefusedLocally(t *testing.T) {
	g := newGroup(t)
	nodes, peers := g.three()
	n3 := nodes[2]
	n3.stop()
	cfg := testConfig()
	cfg.Peers = peers
	raft := setup{id: "n3", dir: n3.dir, ln: listener(t), cfg: cfg}
	require.NoError(t, removeFile(n3.marker()))
	_, err := g.try(raft)
	require.Equal(t, errs.Corrupt, errs.CodeOf(err))
	require.ErrorContains(t, err, "its Raft log is gone")
	require.ErrorContains(t, err, n3.dir)

	n3.keep()
	require.NoError(t, removeFile(n3.dir+"/"+identity.FileName))
	_, err = g.try(raft)
	require.Equal(t, errs.Corrupt, errs.CodeOf(err))
	require.ErrorContains(t, err, "has a Raft log and no node.json")

	_, err = g.try(setup{id: "n9", ln: listener(t), cfg: testConfig()})
	require.ErrorContains(t, err, "cluster.peers is empty and so is cluster.join")
	require.Equal(t, errs.InvalidArgument, errs.CodeOf(err))
}

func TestJoinCatchUpPromoteRemove(t *testing.T) {
	g := newGroup(t)
	nodes, _ := g.three()
	cfg := testConfig()
	cfg.Join = []string{"127.0.0.1:1", nodes[2].addr}
	cfg.CatchUpEntries = 1
	n4, err := g.try(setup{id: "n4", ln: listener(t), cfg: cfg})
	require.NoError(t, err)
	n4.hold(true)
	eventually(t, func() string {
		c := nodes[1].status(t)
		if len(c.Nodes) != 4 {
			return "not admitted"
		}
		if n := find(t, c, "n4"); n.Role != "joining" {
			return fmt.Sprintf("%+v", n)
		}
		if c.Quorum.Voters != 3 {
			return "a joining node counts"
		}
		return ""
	})

	// Leader changes do not stop it, nor start it twice.
	leader, _ := nodes[0].Leader()
	to := map[string]string{"n1": "n2", "n2": "n3", "n3": "n1"}[leader]
	done, err := nodes[0].svc.Transfer(t.Context(), api.TransferRequest{To: to})
	require.NoError(t, err)
	require.Equal(t, to, done.LeaderID)
	n4.hold(false)
	n4.waitMembers(4)
	eventually(t, func() string { return notYet(find(t, nodes[0].status(t), "n4"), "voter") })
	eventually(t, func() string {
		if c := n4.status(t); c.Quorum.Voters != 4 || c.Quorum.Needed != 3 {
			return fmt.Sprintf("%+v", c.Quorum)
		}
		return ""
	})

	want := nodes[0].svc.Members()
	require.Equal(t, "n4", want[3].ID)
	require.Equal(t, "voter", want[3].Role)
	require.Equal(t, n4.addr, want[3].Address)
	require.Greater(t, want[3].Joined, want[2].Joined)
	eventually(t, func() string {
		if got := n4.svc.Members(); !slices.Equal(got, want) {
			return fmt.Sprintf("%+v, want %+v", got, want)
		}
		return ""
	})

	// Remove the leader, through another node: leadership goes first.
	leader, _ = nodes[0].Leader()
	var gone *fakeNode
	var rest []*fakeNode
	for _, n := range append(nodes, n4) {
		if n.id == leader {
			gone = n
		} else {
			rest = append(rest, n)
		}
	}
	_, err = rest[0].svc.Remove(t.Context(), api.RemoveRequest{ID: leader})
	require.NoError(t, err)
	for _, n := range rest {
		n.waitMembers(3)
	}
	eventually(t, func() string {
		err := gone.svc.Ready(t.Context())
		if err == nil || !strings.Contains(err.Error(), "was removed from cluster") {
			return fmt.Sprint(err)
		}
		return ""
	})
	_, err = gone.svc.Call(t.Context(), rest[0].id, methodPing, []byte("{}"))
	require.Equal(t, errs.Unavailable, errs.CodeOf(err), "nothing was sent")
	require.ErrorContains(t, err, "refuse")
	_, err = rest[0].svc.Remove(t.Context(), api.RemoveRequest{ID: leader})
	require.NoError(t, err, "a removal may be repeated")
	_, err = rest[0].svc.Remove(t.Context(), api.RemoveRequest{ID: "n99"})
	require.Equal(t, errs.NotFound, errs.CodeOf(err))
	require.ErrorContains(t, err, "its members are")

	// Its folder does not come back, either.
	dir := gone.dir
	gone.stop()
	cfg.Join = []string{rest[0].addr}
	back := g.start(setup{id: gone.id, dir: dir, ln: listener(t), cfg: cfg})
	eventually(t, func() string {
		err := back.svc.Ready(t.Context())
		if err == nil || !strings.Contains(err.Error(), "was removed") {
			return fmt.Sprint(err)
		}
		return ""
	})
}

// Nodes that are asked to remove themselves, a follower and then the leader, say that
// it was done, also when they are asked again; of other nodes they know nothing more.
func TestNodesThatRemoveThemselves(t *testing.T) {
	g := newGroup(t)
	nodes, _ := g.three()
	leader, _ := nodes[0].Leader()
	var led, follower, last *fakeNode
	for _, n := range nodes {
		switch {
		case n.id == leader:
			led = n
		case follower == nil:
			follower = n
		default:
			last = n
		}
	}
	for i, n := range []*fakeNode{follower, led} {
		for range 2 {
			_, err := n.svc.Remove(t.Context(), api.RemoveRequest{ID: n.id})
			require.NoError(t, err, "%s", n.id)
		}
		require.ErrorContains(t, n.svc.Ready(t.Context()), "was removed from cluster")
		last.waitMembers(2 - i)
		_, err := n.svc.Promote(t.Context(), api.PromoteRequest{ID: last.id})
		require.ErrorContains(t, err, "was removed from cluster")
		_, err = n.svc.Remove(t.Context(), api.RemoveRequest{ID: last.id})
		require.ErrorContains(t, err, "was removed from cluster")
	}
	_, err := last.svc.Remove(t.Context(), api.RemoveRequest{ID: last.id})
	require.Equal(t, errs.Conflict, errs.CodeOf(err), "the last voter stays")
}

// A node that was admitted and stopped before anything reached it goes on where
// it was.
func TestInterruptedJoin(t *testing.T) {
	g := newGroup(t)
	nodes, _ := g.three()
	cfg := testConfig()
	cfg.Join = []string{nodes[0].addr}
	g.heldAtStart = true
	n4 := g.start(setup{id: "n4", ln: listener(t), cfg: cfg})
	eventually(t, func() string {
		if p := n4.svc.id.Get().Phase; p != identity.Joining || !n4.svc.formed.Load() {
			return string(p)
		}
		return ""
	})
	eventually(t, func() string {
		if _, ok := nodes[0].svc.refresh().Members["n4"]; !ok {
			return "no member yet"
		}
		_, err := nodes[1].svc.Promote(t.Context(), api.PromoteRequest{ID: "n4", CaughtUp: true})
		if errs.Has(err, errs.Conflict) { // it is not in the log's configuration yet
			return err.Error()
		}
		require.Equal(t, errs.FailedPrecond, errs.CodeOf(err), "%v", err)
		require.ErrorContains(t, err, "votes by itself once it has caught up")
		return ""
	})
	n4.stop()
	require.False(t, n4.HasState())
	last := g.start(setup{id: "n4", dir: n4.dir, ln: listener(t), cfg: cfg}) // at another address, which the members must learn
	eventually(t, func() string {
		if m := nodes[0].svc.refresh().Members["n4"]; m.Address != last.addr {
			return m.Address
		}
		return ""
	})
	last.stop()
	cfg.Join = nil // the leader comes by itself
	ln, err := net.Listen("tcp", last.addr)
	require.NoError(t, err)
	g.heldAtStart = false
	back := g.start(setup{id: "n4", dir: n4.dir, ln: ln, cfg: cfg})
	back.waitMembers(4)
	require.Equal(t, n4.svc.id.Incarnation(), back.svc.id.Incarnation())
	eventually(t, func() string { return notYet(find(t, nodes[0].status(t), "n4"), "voter") })
}

// Two of three are removed while they are down. When they come back they are a
// majority of what they remember, and yet must not go on.
func TestRemovedMajorityDoesNotGoOn(t *testing.T) {
	g := newGroup(t)
	nodes, peers := g.three()
	leader, _ := nodes[0].Leader()
	l := g.nodes[leader]
	old := newGroup(t) // what the removed nodes remember
	old.servers = l.Servers()
	for i, n := range nodes {
		if n == l {
			continue
		}
		n.stop()
		_, err := l.svc.Remove(t.Context(), api.RemoveRequest{ID: n.id, Force: true})
		require.NoError(t, err)
		cfg := testConfig()
		cfg.Peers = peers
		ln, err := net.Listen("tcp", n.addr)
		require.NoError(t, err)
		nodes[i] = old.start(setup{id: n.id, dir: n.dir, ln: ln, cfg: cfg})
	}
	for _, n := range nodes {
		if n == l {
			continue
		}
		eventually(t, func() string {
			err := n.svc.Ready(t.Context())
			if err == nil || !strings.Contains(err.Error(), "was removed from cluster") {
				return fmt.Sprint(err)
			}
			return ""
		})
		for _, o := range nodes {
			_, err := n.svc.DialRaft(t.Context(), o.id)
			require.Error(t, err, "%s to %s", n.id, o.id)
		}
	}
	require.NoError(t, l.svc.Ready(t.Context()))
}

func TestJoinRefusals(t *testing.T) {
	g := newGroup(t)
	nodes, _ := g.three()
	for _, n := range nodes {
		n.svc.cfg.JoinToken = "the secret"
	}
	join := func(id string, change func(*Config)) *fakeNode {
		cfg := testConfig()
		cfg.Join, cfg.JoinToken = []string{nodes[0].addr, nodes[1].addr}, "the secret"
		change(&cfg)
		return g.start(setup{id: id, ln: listener(t), cfg: cfg})
	}
	err := join("n5", func(c *Config) { c.JoinToken = "wrong" }).failure(t)
	require.Equal(t, errs.Unauthenticated, errs.CodeOf(err))
	require.ErrorContains(t, err, "cluster.join_token")
	require.NotContains(t, err.Error(), "secret")

	err = join("n5", func(*Config) {}).fine(t, 4)
	require.NoError(t, err)

	taken := newGroup(t) // so that the id's fake Raft state is its own
	cfg := testConfig()
	cfg.Join, cfg.JoinToken = []string{nodes[0].addr}, "the secret"
	err = taken.start(setup{id: "n5", ln: listener(t), cfg: cfg}).failure(t)
	require.Equal(t, errs.IdentityRefused, errs.CodeOf(err))
	require.ErrorContains(t, err, "nekoq cluster remove n5")

	unreachable := join("n6", func(c *Config) { c.Advertise = "127.0.0.1:1" })
	eventually(t, func() string {
		err := unreachable.svc.Ready(t.Context())
		if err == nil || !strings.Contains(err.Error(), "cannot reach node n6 at 127.0.0.1:1, its cluster.advertise") {
			return fmt.Sprint(err)
		}
		return ""
	})
	require.NotContains(t, nodes[0].svc.refresh().Members, "n6")
}

func (n *fakeNode) fine(t *testing.T, members int) error {
	n.waitMembers(members)
	return n.svc.Ready(t.Context())
}

func TestRemovalThatLosesTheQuorum(t *testing.T) {
	g := newGroup(t)
	nodes, _ := g.three()
	leader, _ := nodes[0].Leader()
	var dead, other *fakeNode
	for _, n := range nodes {
		if n.id != leader {
			dead, other = n, dead
			if other == nil {
				other = n
			}
		}
	}
	l := g.nodes[leader]
	dead.stop()
	eventually(t, func() string {
		if find(t, l.status(t), dead.id).Alive {
			return "still alive"
		}
		if l.svc.alive(dead.id) {
			return "heard of lately"
		}
		return ""
	})
	st := find(t, l.status(t), dead.id)
	require.NotNil(t, st.LastSeen)
	require.Contains(t, st.Reason, "does not answer")
	require.Equal(t, "voter", st.Role, "a dead node is reported, never dropped")

	_, err := l.svc.Remove(t.Context(), api.RemoveRequest{ID: other.id})
	require.Equal(t, errs.Conflict, errs.CodeOf(err))
	require.ErrorContains(t, err, "would leave 2 voters of which 1 are alive (dead: "+dead.id+")")
	_, err = other.svc.Remove(t.Context(), api.RemoveRequest{ID: dead.id})
	require.NoError(t, err, "the dead one may go")
	_, err = l.svc.Remove(t.Context(), api.RemoveRequest{ID: "No"})
	require.Equal(t, errs.InvalidArgument, errs.CodeOf(err))
}

func TestTransferRefusals(t *testing.T) {
	g := newGroup(t)
	nodes, _ := g.three()
	_, err := nodes[0].svc.Transfer(t.Context(), api.TransferRequest{To: "n9"})
	require.Equal(t, errs.InvalidArgument, errs.CodeOf(err))
	require.ErrorContains(t, err, "n1, n2, n3")
	before, _ := nodes[0].Leader()
	done, err := nodes[0].svc.Transfer(t.Context(), api.TransferRequest{})
	require.NoError(t, err)
	require.NotEqual(t, before, done.LeaderID)
	done, err = nodes[0].svc.Transfer(t.Context(), api.TransferRequest{To: done.LeaderID})
	require.NoError(t, err, "to the leader itself is no change")
}

// A folder may be emptied as long as no cluster has been started with it.
func TestFolderMayBeReplacedBeforeTheFirstStart(t *testing.T) {
	g := newGroup(t)
	lns := []net.Listener{listener(t), listener(t), listener(t)}
	var peers []string
	for i, ln := range lns {
		peers = append(peers, fmt.Sprintf("n%d=%s", i+1, ln.Addr()))
	}
	cfg := testConfig()
	cfg.Peers, cfg.BootstrapWait = peers, time.Minute
	lns[2].Close()
	n1 := g.start(setup{id: "n1", ln: lns[0], cfg: cfg})
	n2 := g.start(setup{id: "n2", ln: lns[1], cfg: cfg})
	eventually(t, func() string {
		err := n1.svc.Ready(t.Context())
		if err == nil || !strings.Contains(err.Error(), "have 2 of 3 nodes") {
			return fmt.Sprint(err)
		}
		return ""
	})
	n2.stop()
	for i, n := range []string{"n2", "n3"} {
		ln, err := net.Listen("tcp", lns[i+1].Addr().String())
		require.NoError(t, err)
		g.start(setup{id: n, ln: ln, cfg: cfg})
	}
	n1.waitMembers(3)
}
