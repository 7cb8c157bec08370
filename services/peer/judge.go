package peer

import (
	"fmt"

	"nekoq/services/errs"
	"nekoq/services/peer/internal/handshake"
	"nekoq/services/peer/internal/table"
)

// knowledge is what a node judges others by: who it is itself, what the
// replicated member table says, and, until that says something, what it was
// configured with and whom it has met.
type knowledge struct {
	self  handshake.Hello
	table *table.Snapshot
	// pinned gives the incarnation under which a peer was accepted before.
	pinned func(id string) (table.Incarnation, bool)
	// static are the ids of cluster.peers.
	static map[string]bool
	// joining: this node waits to be taken into a cluster that it does not know yet.
	joining bool
}

func refuse(reason handshake.Reason, code errs.Code, format string, args ...any) handshake.Verdict {
	return handshake.Refuse(reason, errs.New(code, format, args...))
}

// judge decides whether to talk to the node that says h of itself. It is pure.
//
// A node is refused when something that is known contradicts it. A node that is
// only unknown is refused too, unless it shows that it entered the cluster after
// the last thing this node has seen: a node that lags must not cut off a newer
// member, which may be the only one it can catch up from.
func (k *knowledge) judge(kind handshake.Kind, h handshake.Hello) handshake.Verdict {
	if v := k.judgeBasics(h); !v.OK() {
		return v
	}
	cluster := k.clusterID()
	if cluster != "" && h.ClusterID != "" && h.ClusterID != cluster {
		return refuse(handshake.OtherCluster, errs.IdentityRefused,
			"node %s belongs to cluster %s, and node %s to cluster %s: one of them has the wrong peers or an old data folder",
			h.NodeID, h.ClusterID, k.self.NodeID, cluster)
	}
	if rev, gone := k.table.Removed(h.NodeID, h.Incarnation); gone {
		return refuse(handshake.Removed, errs.IdentityRefused,
			"node %s (incarnation %s) was removed from cluster %s at revision %d: to bring it back, empty its data folder and start it with cluster.join",
			h.NodeID, h.Incarnation, cluster, rev)
	}
	newer := cluster != "" && h.ClusterID == cluster && h.Joined > k.table.Revision
	known, met := k.knownLife(h.NodeID)
	if k.joining && cluster == "" && kind != handshake.Guest {
		return refuse(handshake.Busy, errs.Unavailable, "node %s is not yet through with joining", k.self.NodeID)
	}
	switch {
	case met && known != h.Incarnation && !newer:
		return k.otherLife(h, known)
	case met, newer, kind == handshake.Guest:
		return k.judgePeers(h)
	}
	if _, member := k.table.Members[h.NodeID]; member {
		return k.judgePeers(h) // a first node that has not been seen yet
	}
	if k.table.ClusterID == "" && (k.static[h.NodeID] || cluster != "" && h.ClusterID == cluster) {
		return k.judgePeers(h)
	}
	return k.stranger(h)
}

func (k *knowledge) judgeBasics(h handshake.Hello) handshake.Verdict {
	switch {
	case h.Protocol < handshake.MinProtocol:
		return refuse(handshake.TooOld, errs.VersionTooOld,
			"node %q speaks version %d of the node-to-node protocol, and node %s needs at least %d: upgrade it",
			h.NodeID, h.Protocol, k.self.NodeID, handshake.MinProtocol)
	case table.CheckID("node_id", h.NodeID) != nil || h.Incarnation.IsZero():
		return refuse(handshake.Other, errs.ProtocolViolation, "the peer gives no valid node id and incarnation (%q)", h.NodeID)
	case h.NodeID == k.self.NodeID && h.Incarnation == k.self.Incarnation:
		return refuse(handshake.WrongNode, errs.IdentityRefused,
			"node %s has reached itself: an address in cluster.peers, cluster.join or cluster.advertise of another node leads back to it", h.NodeID)
	case h.NodeID == k.self.NodeID:
		return refuse(handshake.OtherLife, errs.IdentityRefused,
			"two nodes run under the id %s (incarnations %s and %s): give each its own node.id", h.NodeID, h.Incarnation, k.self.Incarnation)
	case h.Target != "" && h.Target != k.self.NodeID:
		return refuse(handshake.WrongNode, errs.IdentityRefused,
			"this is node %s at %s, not %s: the address of %s in cluster.peers or its cluster.advertise is wrong",
			k.self.NodeID, k.self.Address, h.Target, h.Target)
	case h.Version < k.table.ClusterVersion:
		return refuse(handshake.TooOld, errs.VersionTooOld,
			"node %s supports cluster version %d, and the cluster is at version %d already: upgrade the node",
			h.NodeID, h.Version, k.table.ClusterVersion)
	}
	return handshake.Verdict{}
}

// clusterID is the table's when it has one: the identity's may not be written yet.
func (k *knowledge) clusterID() string {
	if k.table.ClusterID != "" {
		return k.table.ClusterID
	}
	return k.self.ClusterID
}

// knownLife is the incarnation that a node of that id must have.
func (k *knowledge) knownLife(id string) (table.Incarnation, bool) {
	if m, ok := k.table.Members[id]; ok && !m.Incarnation.IsZero() {
		return m.Incarnation, true
	}
	if _, ok := k.table.Members[id]; !ok && k.table.ClusterID != "" {
		return table.Incarnation{}, false // no member: what was met before says nothing
	}
	return k.pinned(id)
}

// judgePeers: two nodes that are both about to start a new cluster must agree
// on who is in it, or they would make two.
func (k *knowledge) judgePeers(h handshake.Hello) handshake.Verdict {
	forming := k.clusterID() == "" && h.ClusterID == ""
	if forming && k.self.Peers != h.Peers && k.self.Peers != "" && h.Peers != "" {
		return refuse(handshake.PeersDiffer, errs.IdentityRefused,
			"cluster.peers of node %s names %s, and that of node %s names %s: the list must be the same on every node of a first start",
			h.NodeID, h.Peers, k.self.NodeID, k.self.Peers)
	}
	return handshake.Verdict{}
}

func (k *knowledge) otherLife(h handshake.Hello, known table.Incarnation) handshake.Verdict {
	return refuse(handshake.OtherLife, errs.IdentityRefused,
		"the cluster knows node %[1]s by incarnation %[2]s, and this one has incarnation %[3]s: its data folder was lost or replaced, or two nodes use the id %[1]s. "+
			"An empty node under an old id could vote twice, so it is not let in. Restore the data folder, or run `nekoq cluster remove %[1]s` on a live node and start this one with cluster.join",
		h.NodeID, known, h.Incarnation)
}

func (k *knowledge) stranger(h handshake.Hello) handshake.Verdict {
	where := "cluster " + k.clusterID()
	if k.clusterID() == "" {
		where = fmt.Sprintf("the cluster that node %s is about to start", k.self.NodeID)
	}
	return refuse(handshake.Stranger, errs.IdentityRefused,
		"node %s is not a member of %s: start it with an empty data folder and cluster.join = [%q]",
		h.NodeID, where, k.self.Address)
}
