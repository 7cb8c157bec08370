package peer

import (
	"testing"

	"github.com/stretchr/testify/require"

	"nekoq/services/errs"
	"nekoq/services/peer/internal/handshake"
	"nekoq/services/peer/internal/table"
)

func life(n byte) table.Incarnation { return table.Incarnation{n} }

// established is what a member of a three-node cluster knows at revision 100.
func established() *knowledge {
	snap := tableWith(map[string]table.Member{
		"n1": {ID: "n1", Incarnation: life(1), State: table.Voter},
		"n2": {ID: "n2", Incarnation: life(2), State: table.Voter},
		"n3": {ID: "n3", State: table.Voter}, // not seen yet
	})
	snap.ClusterID, snap.Revision, snap.ClusterVersion = "c1", 100, 1
	return &knowledge{
		self:   handshake.Hello{NodeID: "n1", Incarnation: life(1), ClusterID: "c1", Address: "10.0.0.1:9311", Peers: "n1,n2,n3"},
		table:  snap,
		pinned: func(string) (table.Incarnation, bool) { return table.Incarnation{}, false },
		static: map[string]bool{"n2": true, "n3": true},
	}
}

func tableWith(m map[string]table.Member) *table.Snapshot { return &table.Snapshot{Members: m} }

// fresh is what a node of the first start knows.
func fresh() *knowledge {
	k := established()
	k.table = &table.Snapshot{}
	k.self.ClusterID = ""
	return k
}

func from(id string, n byte) handshake.Hello {
	return handshake.Hello{
		Protocol: 1, NodeID: id, Incarnation: life(n), ClusterID: "c1", Version: 1, Target: "n1", Peers: "n1,n2,n3", Address: "10.0.0.9:9311",
	}
}

func TestJudge(t *testing.T) {
	pin := func(k *knowledge, id string, n byte) *knowledge {
		k.pinned = func(asked string) (table.Incarnation, bool) { return life(n), asked == id }
		return k
	}
	for _, tc := range []struct {
		name   string
		k      *knowledge
		kind   handshake.Kind
		hello  func(*handshake.Hello)
		from   handshake.Hello
		reason handshake.Reason
		code   errs.Code
		text   string
	}{
		{name: "member", from: from("n2", 2)},
		{name: "member that has not stored the cluster id yet", from: from("n2", 2), hello: func(h *handshake.Hello) { h.ClusterID = "" }},
		{name: "listed member seen for the first time", from: from("n3", 3), hello: func(h *handshake.Hello) { h.ClusterID = "" }},
		{
			name: "empty disk under an old id", from: from("n2", 9), hello: func(h *handshake.Hello) { h.ClusterID = "" },
			reason: handshake.OtherLife, code: errs.IdentityRefused, text: "run `nekoq cluster remove n2` on a live node and start this one with cluster.join",
		},
		{
			name: "empty disk, as a guest", kind: handshake.Guest, from: from("n2", 9),
			reason: handshake.OtherLife, code: errs.IdentityRefused, text: "could vote twice",
		},
		{name: "a newer life than this node has seen", from: from("n2", 9), hello: func(h *handshake.Hello) { h.Joined = 101 }},
		{
			name: "empty disk of a node met before the table had it", k: pin(established(), "n3", 3), from: from("n3", 9),
			reason: handshake.OtherLife, code: errs.IdentityRefused, text: "incarnation 03000000000000000000000000000000",
		},
		{
			name: "other cluster", from: from("n2", 2), hello: func(h *handshake.Hello) { h.ClusterID = "c2" },
			reason: handshake.OtherCluster, code: errs.IdentityRefused, text: "belongs to cluster c2, and node n1 to cluster c1",
		},
		{
			name: "stranger", from: from("n7", 7),
			reason: handshake.Stranger, code: errs.IdentityRefused, text: `cluster.join = ["10.0.0.1:9311"]`,
		},
		{name: "stranger that asks to join", kind: handshake.Guest, from: from("n7", 7), hello: func(h *handshake.Hello) { h.ClusterID = "" }},
		{name: "member that joined after what this node has seen", from: from("n7", 7), hello: func(h *handshake.Hello) { h.Joined = 101 }},
		{
			name: "stranger with an old joined revision", from: from("n7", 7), hello: func(h *handshake.Hello) { h.Joined = 99 },
			reason: handshake.Stranger, code: errs.IdentityRefused, text: "node n7 is not a member of cluster c1",
		},
		{
			name: "wrong address", from: from("n2", 2), hello: func(h *handshake.Hello) { h.Target = "n3" },
			reason: handshake.WrongNode, code: errs.IdentityRefused, text: "this is node n1 at 10.0.0.1:9311, not n3",
		},
		{
			name: "itself", from: from("n1", 1),
			reason: handshake.WrongNode, code: errs.IdentityRefused, text: "has reached itself",
		},
		{
			name: "two nodes under one id", from: from("n1", 5),
			reason: handshake.OtherLife, code: errs.IdentityRefused, text: "give each its own node.id",
		},
		{
			name: "old protocol", from: from("n2", 2), hello: func(h *handshake.Hello) { h.Protocol = 0 },
			reason: handshake.TooOld, code: errs.VersionTooOld, text: "needs at least 1: upgrade it",
		},
		{
			name: "too old for the cluster version", from: from("n2", 2), hello: func(h *handshake.Hello) { h.Version = 0 },
			reason: handshake.TooOld, code: errs.VersionTooOld, text: "supports cluster version 0, and the cluster is at version 1",
		},
		{
			name: "no id", from: from("", 2),
			reason: handshake.Other, code: errs.ProtocolViolation, text: "no valid node id",
		},
		{
			name: "no incarnation", from: from("n2", 0),
			reason: handshake.Other, code: errs.ProtocolViolation, text: "incarnation",
		},
		{name: "first start", k: fresh(), from: from("n2", 2), hello: func(h *handshake.Hello) { h.ClusterID = "" }},
		{
			name: "first start with another list", k: fresh(), from: from("n2", 2),
			hello:  func(h *handshake.Hello) { h.ClusterID, h.Peers = "", "n1,n2" },
			reason: handshake.PeersDiffer, code: errs.IdentityRefused, text: "names n1,n2, and that of node n1 names n1,n2,n3",
		},
		{
			name: "first start, not on the list", k: fresh(), from: from("n7", 7), hello: func(h *handshake.Hello) { h.ClusterID, h.Peers = "", "" },
			reason: handshake.Stranger, code: errs.IdentityRefused, text: "is about to start",
		},
		{name: "first start, the others are ahead", k: fresh(), from: from("n2", 2)},
		{
			name: "first start, another life of a node that was met", k: pin(fresh(), "n2", 2), from: from("n2", 9),
			hello:  func(h *handshake.Hello) { h.ClusterID = "" },
			reason: handshake.OtherLife, code: errs.IdentityRefused, text: "its data folder was lost",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k, h, kind := tc.k, tc.from, tc.kind
			if k == nil {
				k = established()
			}
			if tc.hello != nil {
				tc.hello(&h)
			}
			if kind == 0 {
				kind = handshake.Raft
			}
			v := k.judge(kind, h)
			require.Equal(t, tc.reason, v.Reason, v.Message)
			require.Equal(t, tc.code, v.Code)
			require.Contains(t, v.Message, tc.text)
		})
	}
}

func TestJoinedNodeBeforeItsFirstEntryKnowsItsCluster(t *testing.T) {
	k := fresh()
	k.static = nil
	k.self.ClusterID, k.self.Peers = "c1", ""
	require.True(t, k.judge(handshake.Raft, from("n2", 2)).OK(), "the leader of the cluster that took it in")
	h := from("n2", 2)
	h.ClusterID = "c2"
	require.Equal(t, handshake.OtherCluster, k.judge(handshake.Raft, h).Reason)
	h.ClusterID = ""
	require.Equal(t, handshake.Stranger, k.judge(handshake.Raft, h).Reason)
}

func TestNodeThatIsStillJoiningPutsOthersOff(t *testing.T) {
	k := fresh()
	k.static, k.self.Peers, k.joining = nil, "", true
	v := k.judge(handshake.Raft, from("n2", 2))
	require.Equal(t, handshake.Busy, v.Reason)
	require.Equal(t, errs.Unavailable, v.Code)
	require.True(t, k.judge(handshake.Guest, from("n2", 2)).OK(), "the leader looks whether it can reach the node")
}
