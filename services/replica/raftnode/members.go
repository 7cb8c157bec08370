package raftnode

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/hashicorp/raft"

	"nekoq/services/errs"
)

// Servers is the newest configuration that this node knows.
func (n *Node) Servers() []Server {
	r := n.raft.Load()
	if r == nil {
		return nil
	}
	f := r.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	list := f.Configuration().Servers
	out := make([]Server, 0, len(list))
	for _, s := range list {
		out = append(out, Server{ID: string(s.ID), Addr: string(s.Address), Voter: s.Suffrage == raft.Voter})
	}
	return out
}

// AddNonvoter adds a node that gets the log and has no vote, or changes its
// address. On the leader only (no_leader elsewhere). Like Promote and Remove it
// returns when the change is committed.
func (n *Node) AddNonvoter(ctx context.Context, id, addr string) error {
	return n.change(ctx, func(r *raft.Raft, limit time.Duration) raft.Future {
		return r.AddNonvoter(raft.ServerID(id), raft.ServerAddress(addr), 0, limit)
	})
}

// Promote gives a node of the configuration its vote.
func (n *Node) Promote(ctx context.Context, id string) error {
	for _, s := range n.Servers() {
		if s.ID == id {
			return n.change(ctx, func(r *raft.Raft, limit time.Duration) raft.Future {
				return r.AddVoter(raft.ServerID(id), raft.ServerAddress(s.Addr), 0, limit)
			})
		}
	}
	return errs.New(errs.NotFound, "node %s is not in the configuration", id)
}

// Remove takes a node out of the configuration; one that is not in it is no error.
func (n *Node) Remove(ctx context.Context, id string) error {
	return n.change(ctx, func(r *raft.Raft, limit time.Duration) raft.Future {
		return r.RemoveServer(raft.ServerID(id), 0, limit)
	})
}

func (n *Node) change(ctx context.Context, do func(*raft.Raft, time.Duration) raft.Future) error {
	if err := n.usable(); err != nil {
		return err
	}
	r := n.raft.Load()
	if r == nil {
		return errs.New(errs.Unavailable, "the node has not been started").Wrap(errNoRaft)
	}
	limit := n.cfg.LeaderPatience
	if at, ok := ctx.Deadline(); ok {
		limit = max(time.Until(at), time.Millisecond)
	}
	done := make(chan error, 1)
	begun := n.changes.begin(func() {
		n.helpers.Go(func() {
			defer n.changes.ended.Add(1)
			done <- do(r, limit).Error()
		})
	})
	if !begun {
		return errStopping()
	}
	select {
	case err := <-done:
		return n.changeError(err)
	case <-ctx.Done():
		return errs.New(errs.OutcomeUnknown, "the configuration change was not committed in time; it may yet be").Wrap(ctx.Err())
	}
}

func (n *Node) changeError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader):
		return errs.New(errs.NoLeader, "node %s is not the leader", n.id)
	case errors.Is(err, raft.ErrEnqueueTimeout), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return errs.New(errs.Unavailable, "another change of the configuration or of the leader is under way").Wrap(err)
	case errors.Is(err, raft.ErrLeadershipLost):
		return errs.New(errs.OutcomeUnknown, "leadership was lost during the change; it may yet be committed").Wrap(err)
	case errors.Is(err, raft.ErrRaftShutdown):
		return errs.New(errs.ShuttingDown, "the node is stopping").Wrap(err)
	default:
		return errs.New(errs.Conflict, "the configuration cannot be changed so: %v", err).Wrap(err)
	}
}

// TransferLeadership hands leadership to id, or for "" to a voter that answers, the
// most advanced one if it takes it. On the leader only. Proposals wait meanwhile.
func (n *Node) TransferLeadership(ctx context.Context, id string) error {
	r := n.raft.Load()
	if r == nil || r.State() != raft.Leader {
		return errs.New(errs.NoLeader, "node %s is not the leader", n.id)
	}
	if id == n.id {
		return nil
	}
	var err error
	if id == "" {
		err = n.handOver(ctx, r)
	} else {
		var addr string
		for _, s := range n.Servers() {
			if s.ID == id && s.Voter {
				addr = s.Addr
			}
		}
		if addr == "" {
			return errs.New(errs.NotFound, "node %s is not a voter", id)
		}
		err = wait(ctx, r.LeadershipTransferToServer(raft.ServerID(id), raft.ServerAddress(addr)))
	}
	if err != nil {
		return errs.New(errs.Unavailable, "leadership could not be handed over: %v", err).Wrap(err)
	}
	return nil
}

// Progress asks a node how far it has come.
func (n *Node) Progress(ctx context.Context, id string) (Progress, error) {
	if id == n.id {
		return n.ownProgress(), nil
	}
	answer, err := n.peers.Call(ctx, id, MethodProgress, nil)
	if err != nil {
		return Progress{}, err
	}
	var p Progress
	fields := []*uint64{&p.Term, &p.LastLog, &p.Applied, &p.Durable, &p.Chain, &p.HashedAt}
	if len(answer) < 8*len(fields) {
		return Progress{}, errs.New(errs.ProtocolViolation, "an answer of %d bytes for a node's progress", len(answer))
	}
	for i, f := range fields {
		*f = binary.BigEndian.Uint64(answer[8*i:])
	}
	n.progress.Store(id, p.Applied)
	return p, nil
}

func (n *Node) ownProgress() Progress {
	p := Progress{LastLog: n.logs.last.Load(), Durable: n.machine.Durable()}
	if r := n.raft.Load(); r != nil {
		p.Term = r.CurrentTerm()
	}
	p.Applied, _ = n.machine.Applied()
	p.HashedAt = p.Applied
	p.Chain, _ = n.machine.ChainAt(p.HashedAt)
	return p
}

func (n *Node) serveProgress(_ context.Context, _, dst []byte) ([]byte, error) {
	p := n.ownProgress()
	for _, v := range []uint64{p.Term, p.LastLog, p.Applied, p.Durable, p.Chain, p.HashedAt} {
		dst = binary.BigEndian.AppendUint64(dst, v)
	}
	return dst, nil
}

// Status is this node's view of the group.
func (n *Node) Status() Status {
	s := Status{NodeID: n.id, State: "stopped", LastContact: -1, LastLog: n.logs.last.Load(), LogBytes: n.logs.sinceSnapshot()}
	s.FirstLog, _ = n.logs.FirstIndex()
	s.Applied, _ = n.machine.Applied()
	s.Durable = n.machine.Durable()
	s.DiskFull = n.writable() != nil
	if m := n.snaps.last(); m != nil {
		s.SnapshotIndex = m.Index
	}
	r := n.raft.Load()
	if r == nil {
		return s
	}
	switch r.State() {
	case raft.Follower:
		s.State = "follower"
	case raft.Candidate:
		s.State = "candidate"
	case raft.Leader:
		s.State = "leader"
	}
	addr, id := r.LeaderWithID()
	s.LeaderAddr, s.LeaderID = string(addr), string(id)
	s.Term, s.CommitIndex = r.CurrentTerm(), r.CommitIndex()
	_, s.Ready = n.leader.serving()
	if s.State == "leader" {
		s.LastContact = 0
	} else if at := r.LastContact(); !at.IsZero() {
		s.LastContact = int64(time.Since(at))
	}
	s.Servers = n.Servers()
	return s
}
