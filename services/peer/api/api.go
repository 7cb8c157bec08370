// Package api holds the types in which the cluster speaks of itself: to other
// nodes, to REST and to the command line. Plain data with JSON names; durations
// are Go-style strings, 64-bit hashes hex strings, times RFC 3339. Everyone may import it.
package api

import "time"

// Cluster is the answer of the cluster status.
type Cluster struct {
	ClusterID string `json:"cluster_id"`
	// SeenFrom is the node that made this answer: alive and last_seen are its own.
	SeenFrom string `json:"seen_from"`
	LeaderID string `json:"leader_id"`
	Term     uint64 `json:"term"`
	Version  uint32 `json:"cluster_version"`
	Quorum   Quorum `json:"quorum"`
	Nodes    []Node `json:"nodes"`
	// Hashes is the leader's last comparison of state hashes, nil before the first.
	Hashes *HashReport `json:"hashes,omitempty"`
}

// Quorum says whether writes are possible, and how many more nodes may fail.
type Quorum struct {
	Voters int `json:"voters"`
	Needed int `json:"needed"`
	Alive  int `json:"alive"`
	// State is "healthy", "degraded" (a voter is dead, writes go on) or "lost".
	State string `json:"state"`
	// MayFail is how many more voters may fail before writes stop.
	MayFail int `json:"may_fail"`
}

// Node is one member.
type Node struct {
	ID            string `json:"id"`
	Incarnation   string `json:"incarnation,omitempty"`
	Address       string `json:"address"`
	HTTPAddress   string `json:"http_address,omitempty"`
	NativeAddress string `json:"native_address,omitempty"`
	// Role is "voter", "joining" or "leaving".
	Role   string `json:"role"`
	Leader bool   `json:"leader"`
	Alive  bool   `json:"alive"`
	// LastSeen is when SeenFrom last heard of it; nil for never.
	LastSeen     *time.Time `json:"last_seen,omitempty"`
	AppliedIndex uint64     `json:"applied_index"`
	// Lag is how many log entries it is behind the most advanced node.
	Lag uint64 `json:"lag"`
	// State is "equal", "diverged" or "unknown": the last comparison of its state hash.
	State    string `json:"state_hash"`
	Version  uint32 `json:"supported_version"`
	Software string `json:"software,omitempty"`
	Ready    bool   `json:"ready"`
	// Reason says why it is not alive or not ready, or would refuse writes.
	Reason string `json:"reason,omitempty"`
	// Disk is its room, nil when it is not known.
	Disk *Disk `json:"disk,omitempty"`
}

// Member is what the replicated member table says of a node.
type Member struct {
	ID string `json:"id"`
	// Address is where the other nodes reach it; "" in LocalSwitch.
	Address string `json:"address"`
	// Role is that of Node.
	Role string `json:"role"`
	// Joined is the store revision at which it entered the table. A node that was
	// removed and joins again has another one.
	Joined uint64 `json:"joined"`
}

// Disk is the room on the disk of a node's data folder.
type Disk struct {
	FreeBytes int64 `json:"free_bytes"`
	// ReserveBytes is the free space below which it refuses writes while it leads; 0 is none.
	ReserveBytes int64 `json:"reserve_bytes"`
	// Full: it would refuse writes, for the reason given.
	Full   bool   `json:"full"`
	Reason string `json:"reason,omitempty"`
}

// Report is what a node says of itself.
type Report struct {
	ID            string      `json:"id"`
	Incarnation   string      `json:"incarnation"`
	ClusterID     string      `json:"cluster_id"`
	Address       string      `json:"address"`
	HTTPAddress   string      `json:"http_address"`
	NativeAddress string      `json:"native_address"`
	Version       uint32      `json:"supported_version"`
	Software      string      `json:"software"`
	AppliedIndex  uint64      `json:"applied_index"`
	Term          uint64      `json:"term"`
	LeaderID      string      `json:"leader_id"`
	Ready         bool        `json:"ready"`
	Reason        string      `json:"reason,omitempty"`
	Hashes        *HashReport `json:"hashes,omitempty"`
	Disk          *Disk       `json:"disk,omitempty"`
}

// HashReport is one comparison of state hashes.
type HashReport struct {
	At       time.Time `json:"at"`
	LeaderID string    `json:"leader_id"`
	// Index is the log index at which the hashes were taken.
	Index uint64     `json:"index"`
	Equal bool       `json:"equal"`
	Nodes []NodeHash `json:"nodes"`
}

// The verdicts of NodeHash.
const (
	HashEqual    = "equal"
	HashDiverged = "diverged"
	HashUnknown  = "unknown"
)

// NodeHash is one node's part of a comparison.
type NodeHash struct {
	ID      string `json:"id"`
	Verdict string `json:"verdict"`
	Index   uint64 `json:"index,omitempty"`
	Chain   string `json:"chain,omitempty"`
	Content string `json:"content,omitempty"`
	// Reason says why the verdict is unknown.
	Reason string `json:"reason,omitempty"`
}

// RemoveRequest removes a node. Force removes it even when the rest has no
// quorum of live nodes.
type RemoveRequest struct {
	ID    string `json:"id"`
	Force bool   `json:"force,omitempty"`
}

// TransferRequest hands leadership to a voter, to the most advanced one for "".
type TransferRequest struct {
	To string `json:"to,omitempty"`
}

// PromoteRequest makes a joining node a voter now.
type PromoteRequest struct {
	ID string `json:"id"`
	// CaughtUp refuses a member that lags by more than cluster.catch_up_entries.
	CaughtUp bool `json:"caught_up,omitempty"`
}

// HashRequest compares the state hashes now; Content also compares the hash
// over all rows, which reads the whole state on every node.
type HashRequest struct {
	Content bool `json:"content,omitempty"`
}

// Done is the answer of what has nothing else to say.
type Done struct {
	LeaderID string `json:"leader_id"`
}

// The states of a Quorum.
const (
	QuorumHealthy  = "healthy"
	QuorumDegraded = "degraded"
	QuorumLost     = "lost"
)

// Judge fills in what follows from the counts of voters.
func (q *Quorum) Judge() {
	q.Needed = q.Voters/2 + 1
	q.MayFail = max(q.Alive-q.Needed, 0)
	switch {
	case q.Alive < q.Needed:
		q.State = QuorumLost
	case q.Alive < q.Voters:
		q.State = QuorumDegraded
	default:
		q.State = QuorumHealthy
	}
}
