package peer

import (
	"context"
	"log/slog"
	"net"

	"github.com/prometheus/client_golang/prometheus"

	"nekoq/services/clock"
	"nekoq/services/replica"
	"nekoq/services/state"
)

// SupportedVersion is the newest cluster version that this binary supports.
const SupportedVersion = state.MaxClusterVersion

// Deps is what a Service is made of. Clock, Logger, Metrics, Listener, Dial and
// Secure may be left out.
type Deps struct {
	NodeID  string
	DataDir string
	// HTTP and Native are the addresses at which clients reach this node.
	HTTP, Native string
	// Software is the version of the binary, for people.
	Software string
	Clock    clock.Clock
	Logger   *slog.Logger
	Metrics  prometheus.Registerer
	// Listener replaces the listening on Config.Listen, and Dial the dialling over TCP.
	Listener net.Listener
	Dial     func(ctx context.Context, addr string) (net.Conn, error)
	// Secure wraps connections before the handshake; the zero value leaves them plain.
	Secure Secure
	// Version is SupportedVersion unless a test says otherwise.
	Version uint32
}

// Secure is where transport security comes in. The functions return the
// connection to use, which owns the one given.
type Secure struct {
	Client func(ctx context.Context, c net.Conn, nodeID string) (net.Conn, error)
	Server func(ctx context.Context, c net.Conn) (net.Conn, error)
}

// Server is one entry of the Raft configuration. Addr is the node's id: it is
// resolved at every dial.
type Server struct {
	ID    string
	Addr  string
	Voter bool
}

// Starter is the Raft node before it runs.
type Starter interface {
	// HasState tells whether the data folder has ever been part of a cluster.
	HasState() bool
	// Bootstrap writes the first configuration, before Start.
	Bootstrap(servers []Server) error
	Start() error
}

// Group is the configuration of the running Raft group. What changes it works
// on the leader only and returns when the change is committed.
type Group interface {
	Servers() []Server
	Changer
}

// Raft is both.
type Raft interface {
	Starter
	Group
}

// Adapt turns a Raft node with a server type of its own into a Raft:
//
//	peer.Adapt[raftnode.Server](node)
func Adapt[S ~struct {
	ID    string
	Addr  string
	Voter bool
}](n RaftOf[S]) Raft {
	return adapted[S]{n}
}

// RaftOf is Raft with another server type.
type RaftOf[S any] interface {
	HasState() bool
	Bootstrap(servers []S) error
	Start() error
	Servers() []S
	Changer
}

// Changer is the part of Group that changes the configuration.
type Changer interface {
	AddNonvoter(ctx context.Context, id, addr string) error
	Promote(ctx context.Context, id string) error
	Remove(ctx context.Context, id string) error
	TransferLeadership(ctx context.Context, id string) error
}

type adapted[S ~struct {
	ID    string
	Addr  string
	Voter bool
}] struct{ RaftOf[S] }

func (a adapted[S]) Bootstrap(servers []Server) error {
	out := make([]S, len(servers))
	for i, s := range servers {
		out[i] = S(s)
	}
	return a.RaftOf.Bootstrap(out)
}

func (a adapted[S]) Servers() []Server {
	in := a.RaftOf.Servers()
	out := make([]Server, len(in))
	for i, s := range in {
		out[i] = Server(s)
	}
	return out
}

// Store is what a Service reads of this node's state machine.
type Store interface {
	View() *state.View
	Written(tables ...state.TableID) (at, revision uint64)
	Applied() (index, term uint64)
	WaitApplied(ctx context.Context, index uint64) error
	Hash(ctx context.Context, content bool) (state.Hash, error)
	// ChainAt gives the chain hash at a recent index; false when the index is
	// too old, or ahead.
	ChainAt(index uint64) (chain uint64, ok bool)
}

// Attached is what is made after the Service, with it as its way to other nodes.
type Attached struct {
	Store   Store
	Replica replica.Replica
	Raft    Raft
	// Disk gives the free bytes of this node's data folder, how many of them are kept
	// in reserve, and why it would refuse writes for want of space. Nil for none.
	Disk func() (free, reserve int64, full error)
}
