// Package peer is the node-to-node port and the membership of a cluster.
//
// It owns one TCP listener (cluster.listen) on which Raft streams and peer calls
// arrive; the handshake by which every connection is judged in both directions;
// one multiplexed connection to each peer; who the node is (DataDir/node.json);
// the replicated member table; first start, join, removal and transfer of
// leadership; and the comparison of state hashes between nodes.
//
// How it fits together. New opens the identity. Attach hands in the state and
// the Raft node, which were made with the Service as their way to other nodes.
// Start listens, and in the background forms the cluster: a node with an empty
// disk asks its peers whether there is a cluster, bootstraps or joins, and only
// then is Raft started. A leader-only loop moves the member table and the Raft
// configuration towards each other, so a join or a removal goes on whoever leads.
//
// Raft's server addresses are node ids: they are resolved to network addresses
// at every dial, so a node may move to another address without a change of the
// Raft configuration.
//
// A Service is safe for concurrent use. Lock order: a link's mutex is taken
// alone; links.mu, conns.mu and health.mu are never held while calling out.
// services/app and tests import it; it must not import raftnode.
package peer
