// Package system is what a node says of itself and of its cluster, and the
// operator's verbs on membership: over REST (rest.go) and over the native door
// (native.go), which also opens client sessions here.
//
// A Service is safe for concurrent use. Only services/app makes one.
package system

import (
	"context"
	"encoding/binary"
	"runtime"
	"time"

	"nekoq/services/auth"
	"nekoq/services/clock"
	"nekoq/services/errs"
	"nekoq/services/lifecycle"
	"nekoq/services/peer/api"
	"nekoq/services/replica"
	"nekoq/services/state"
)

// Cluster is the membership of the cluster: services/peer, or Alone in
// LocalSwitch. Every verb may be asked on every node.
type Cluster interface {
	// Members are the nodes as this node's own state has them, not older than any view
	// of it that was taken before. It asks nobody.
	Members() []api.Member
	Status(ctx context.Context) (api.Cluster, error)
	Remove(ctx context.Context, r api.RemoveRequest) (api.Done, error)
	Promote(ctx context.Context, r api.PromoteRequest) (api.Done, error)
	Transfer(ctx context.Context, r api.TransferRequest) (api.Done, error)
	CompareHashes(ctx context.Context, r api.HashRequest) (api.HashReport, error)
}

// Deps is what a Service is made of.
type Deps struct {
	NodeID   string
	Mode     string
	Version  string
	Insecure bool
	Started  time.Time
	Clock    clock.Clock
	Graph    *lifecycle.Graph
	Replica  replica.Replica
	Cluster  Cluster
	Auth     auth.Authorizer
	State    Store
}

// Store is what the service reads of the state machine.
type Store interface {
	Applied() (index, term uint64)
	Durable() uint64
	View() *state.View
	Storage() error
}

// Service answers for the node.
type Service struct{ Deps }

// New makes a Service.
func New(d Deps) *Service { return &Service{d} }

// Self is what one node says of itself.
type Self struct {
	ID           string `json:"id" doc:"Configured id of the node that answers."`
	Mode         string `json:"mode" doc:"localswitch or cluster."`
	Version      string `json:"version" doc:"Version of the program."`
	Go           string `json:"go" doc:"Version of the Go toolchain that built it."`
	Insecure     bool   `json:"insecure" doc:"True when the node runs without identities and TLS."`
	Uptime       string `json:"uptime" doc:"Time since start, as a Go duration."`
	LeaderID     string `json:"leader_id" doc:"The leader as this node knows it; empty for none."`
	Term         uint64 `json:"term" doc:"Raft term."`
	AppliedIndex uint64 `json:"applied_index" doc:"Last log index that readers see here."`
	DurableIndex uint64 `json:"durable_index" doc:"Last log index that the state file holds; the log holds the rest."`
	Revision     uint64 `json:"revision" doc:"Store revision."`
	Cluster      uint32 `json:"cluster_version" doc:"Replicated cluster version."`
	Storage      string `json:"storage,omitempty" doc:"What is wrong with the state file's disk; absent when nothing is."`
}

// Services is the dependency graph with its states.
type Services struct {
	Ready    bool               `json:"ready" doc:"True when every component that is on serves."`
	Reason   string             `json:"reason,omitempty" doc:"Why not, when not."`
	Services []lifecycle.Status `json:"services" doc:"Every component in start order; those that are off stand last."`
}

// Self answers for this node, from what it knows without asking others.
func (s *Service) Self(context.Context) (*Self, error) {
	leader, term := s.Replica.Leader()
	view := s.State.View()
	defer view.Release()
	n := &Self{
		ID: s.NodeID, Mode: s.Mode, Version: s.Version, Go: runtime.Version(), Insecure: s.Insecure,
		Uptime:   s.Clock.Now().Sub(s.Started).Truncate(time.Millisecond).String(),
		LeaderID: leader, Term: term, AppliedIndex: view.Index(), DurableIndex: s.State.Durable(),
		Revision: view.Revision(), Cluster: view.ClusterVersion(),
	}
	if err := s.State.Storage(); err != nil {
		n.Storage = errs.From(err).Message
	}
	return n, nil
}

// Services gives the graph and asks every component whether it serves.
func (s *Service) Services(ctx context.Context) (*Services, error) {
	out := &Services{Ready: true, Services: s.Graph.Snapshot()}
	if err := s.Graph.Ready(ctx); err != nil {
		out.Ready, out.Reason = false, errs.From(err).Message
	}
	return out, nil
}

// OpenSession makes a client session and gives its 8-byte id.
func (s *Service) OpenSession(ctx context.Context, dst []byte) ([]byte, error) {
	if err := s.allow(ctx, auth.Write, "session", ""); err != nil {
		return nil, err
	}
	cmd := state.OpenSession()
	cmd.Actor = auth.FromContext(ctx).Actor()
	r, err := s.Replica.Propose(ctx, cmd)
	if err != nil {
		return nil, err
	}
	id, err := state.SessionID(r.Data)
	if err != nil {
		return nil, err
	}
	return binary.BigEndian.AppendUint64(dst, id), nil
}

func (s *Service) allow(ctx context.Context, a auth.Action, kind, name string) error {
	return s.Auth.Allow(ctx, auth.FromContext(ctx), a, auth.Resource{Service: "system", Kind: kind, Name: name})
}
