package raftnode

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"nekoq/services/clock"
	"nekoq/services/command"
	"nekoq/services/replica"
	"nekoq/services/state"
	"nekoq/services/wire"
)

// Options of New.
type Options struct {
	NodeID  string
	Addr    string // of this node's cluster port, as other nodes dial it
	DataDir string // the Raft files live in DataDir/raft
	Machine *state.Machine
	Peers   Peers
	Clock   clock.Clock
	Logger  *slog.Logger
	Metrics prometheus.Registerer // nil for none
	Config  Config
}

// Node is one member of the Raft group.
type Node struct{}

var _ replica.Replica = (*Node)(nil)

// New opens the log and checks it against the state; nothing runs yet. A damaged
// log is refused with corrupt.
func New(opts Options) (*Node, error) { panic("being built") }

// Register adds the peer calls of this package to the cluster port's table.
func (n *Node) Register(mux *wire.Mux) { panic("being built") }

// HasState tells whether this node has ever been part of a cluster.
func (n *Node) HasState() bool { panic("being built") }

// Bootstrap writes the first configuration. Only for the first start of a
// cluster, between New and Start, with the same servers on every node.
func (n *Node) Bootstrap(servers []Server) error { panic("being built") }

// Start joins the group. It returns at once; WaitReady waits for a leader.
func (n *Node) Start() error { panic("being built") }

// WaitReady returns when a linearizable read succeeds.
func (n *Node) WaitReady(ctx context.Context) error { panic("being built") }

// Shutdown refuses new work, hands leadership over, waits for the leader loops
// and stops. The machine is the caller's to close.
func (n *Node) Shutdown(ctx context.Context) error { panic("being built") }

// Failed is closed when the node cannot go on; Err says why.
func (n *Node) Failed() <-chan struct{} { panic("being built") }
func (n *Node) Err() error              { panic("being built") }

// Servers is the newest configuration that this node knows.
func (n *Node) Servers() []Server { panic("being built") }

// AddNonvoter, Promote and Remove change the configuration. On the leader only
// (no_leader elsewhere); they return when the change is committed.
func (n *Node) AddNonvoter(ctx context.Context, id, addr string) error { panic("being built") }
func (n *Node) Promote(ctx context.Context, id string) error           { panic("being built") }
func (n *Node) Remove(ctx context.Context, id string) error            { panic("being built") }

// TransferLeadership hands leadership to id, or to the most advanced voter for "".
// On the leader only.
func (n *Node) TransferLeadership(ctx context.Context, id string) error { panic("being built") }

// Progress asks a node how far it has come.
func (n *Node) Progress(ctx context.Context, id string) (Progress, error) { panic("being built") }

// Status is this node's view of the group.
func (n *Node) Status() Status { panic("being built") }

// Propose, View, Leader, IsLeader, OnLeader and NodeID are replica.Replica.
func (n *Node) Propose(ctx context.Context, cmd command.Command) (replica.Result, error) {
	panic("being built")
}

func (n *Node) View(ctx context.Context, c replica.Consistency) (*state.View, replica.Lag, error) {
	panic("being built")
}
func (n *Node) Leader() (string, uint64) { panic("being built") }
func (n *Node) IsLeader() bool           { panic("being built") }
func (n *Node) OnLeader(name string, fn func(ctx context.Context, term uint64)) {
	panic("being built")
}
func (n *Node) NodeID() string { panic("being built") }
