package raftnode

import (
	"context"
	"net"

	"nekoq/services/wire"
)

// Peers is what a Node needs of the node-to-node port (services/peer).
type Peers interface {
	// RaftListener accepts the connections that other nodes opened with DialRaft.
	// The node closes it when it stops.
	RaftListener() net.Listener
	// DialRaft opens a Raft connection to the node that serves addr.
	DialRaft(ctx context.Context, addr string) (net.Conn, error)
	// Call sends one peer call to a node. Errors are as those of wire.Conn.Call:
	// unavailable when the request certainly was not sent, outcome_unknown when
	// it may have been; an *errs.Error of the other side comes whole.
	Call(ctx context.Context, nodeID string, m wire.Method, req []byte) ([]byte, error)
}

// The peer calls of this package, range 0x0f00-0x0f1f.
const (
	MethodForward          wire.Method = 0x0f00 // commands for the leader
	MethodReadIndex        wire.Method = 0x0f01 // an index that a linearizable read may use
	MethodConfirmTerm      wire.Method = 0x0f02 // the node's current term
	MethodProgress         wire.Method = 0x0f03 // applied and durable index of the node
	MethodForwardRest      wire.Method = 0x0f04 // the next part of an answer to MethodForward
	MethodForwardEssential wire.Method = 0x0f05 // as MethodForward, for commands that may use the reserve of disk space
)

// Server is one member of the Raft configuration.
type Server struct {
	ID    string
	Addr  string // of its cluster port, as other nodes dial it
	Voter bool
}

// Progress is how far a node has come, as it says itself.
type Progress struct {
	Term     uint64
	LastLog  uint64 // last index in its log
	Applied  uint64 // last index that its readers see
	Durable  uint64 // last index in its state file
	Chain    uint64 // hash over every change up to HashedAt
	HashedAt uint64
}

// Status is the node's own view of the group.
type Status struct {
	NodeID        string
	State         string // follower, candidate, leader or stopped
	Term          uint64
	LeaderID      string // "" for none
	LeaderAddr    string
	CommitIndex   uint64
	LastLog       uint64
	FirstLog      uint64
	Applied       uint64
	Durable       uint64
	SnapshotIndex uint64
	LogBytes      int64 // written since the last snapshot
	LastContact   int64 // nanoseconds since the leader was heard of; -1 for never
	DiskFull      bool
	Ready         bool // leader: its state is up to date and it serves
	Servers       []Server
}
