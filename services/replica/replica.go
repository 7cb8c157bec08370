// Package replica is what services see of the replicated state: propose a
// command, take a view, know who leads. Interfaces only; the implementations
// are replica/local (LocalSwitch) and replica/raftnode (Cluster), and one
// conformance suite runs over both.
package replica

import (
	"context"
	"time"

	"nekoq/services/command"
	"nekoq/services/state"
)

// Consistency of a read.
type Consistency int

const (
	// Linearizable sees every write acknowledged before the read began, on
	// whatever node it is asked. The default.
	Linearizable Consistency = iota
	// Stale is answered at once from this node's own state.
	Stale
	// Recent sees every write acknowledged RecentBound or more before the read began,
	// on whatever node it is asked. It spares the leader a round to the followers for
	// each read, for those who can make up for the difference.
	Recent
)

// RecentBound is how old what a Recent read sees may be. It is measured on one node,
// by its monotonic clock.
const RecentBound = 500 * time.Millisecond

// Result of a proposal.
type Result struct {
	Index    uint64 // log index of the entry; 0 when answered from the session's window
	Revision uint64 // store revision after the command
	Changed  bool
	Data     []byte
}

// Lag says how far behind a stale view may be.
type Lag struct {
	// Entries is the leader's last known commit index minus the view's index.
	Entries uint64
	// Age is the time since the leader was last heard of; 0 on the leader.
	Age time.Duration
	// Known is false when no leader has been heard of since start.
	Known bool
}

// Proposer proposes commands. cmd.Time is ignored: the leader stamps it.
// Errors: an *errs.Error of the applier (nothing was written); no_leader or
// too_many_requests (nothing was sent); outcome_unknown (it may yet take
// effect); deadline_exceeded (nothing was sent).
type Proposer interface {
	Propose(ctx context.Context, cmd command.Command) (Result, error)
}

type essentialKey struct{}

// Essential marks what the cluster needs to get out of trouble, such as the removal
// of a member: it may use the disk space that is kept in reserve, where other
// commands are refused with storage_full.
func Essential(ctx context.Context) context.Context {
	return context.WithValue(ctx, essentialKey{}, true)
}

// IsEssential tells whether Essential marked ctx.
func IsEssential(ctx context.Context) bool { return ctx.Value(essentialKey{}) != nil }

// Viewer gives read views. The caller releases the view.
type Viewer interface {
	View(ctx context.Context, c Consistency) (*state.View, Lag, error)
	// Current gives the frozen copy of an index of state.Registry.Current as this node
	// has it: what a Stale view would give, and cheaper.
	Current(index string) any
	// Written tells whether a Stale view of some tables would show anything new; see
	// state.Machine.Written.
	Written(tables ...state.TableID) (at, revision uint64)
}

// Leadership tells who leads and runs work on the leader only.
type Leadership interface {
	// Leader is the leader's node id and term as this node knows them; id "" for none.
	Leader() (id string, term uint64)
	IsLeader() bool
	// OnLeader runs fn in its own goroutine whenever this node has become
	// leader and its state is up to date; ctx ends with the leadership. fn is
	// waited for before the node stops or leads again. Called before Start.
	OnLeader(name string, fn func(ctx context.Context, term uint64))
}

// Replica is all of it.
type Replica interface {
	Proposer
	Viewer
	Leadership
	// NodeID is this node's configured id.
	NodeID() string
}
