// Package raftnode is the replica of Cluster mode: one member of a Raft group
// whose state machine is services/state. It is the only importer of
// hashicorp/raft.
//
// It owns the log stores (raft-wal or raft-boltdb behind cluster.log_store), the
// stable store, the virtual snapshots, group commit, forwarding to the leader,
// linearizable reads on every node and the leader-only loops. It knows nodes by
// id; how to reach one is the business of services/peer, which it sees as Peers.
//
// A Node is safe for concurrent use. New opens and checks the files, Bootstrap
// (first start only) writes the first configuration, Start runs the node,
// Shutdown stops it. services/peer, services/app and tests import it.
package raftnode
