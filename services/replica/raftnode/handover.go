package raftnode

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"nekoq/services/errs"
)

// Left to itself, raft hands leadership to the voter that it believes to have the
// longest log, and tries once. On a quiet cluster that may well be a voter that is
// gone: all logs are equally long. So the voters are asked first, and each that
// answers is tried.

// busyPause is the time between looks whether an earlier hand-over has ended.
const busyPause = 5 * time.Millisecond

// handOver gives leadership to another voter: to those that answer, the one with
// the longest log first, until one has taken it. That this node leads no more, for
// whatever reason, is no error.
func (n *Node) handOver(ctx context.Context, r *raft.Raft) error {
	voters := n.answering(ctx)
	if len(voters) == 0 {
		return errs.New(errs.Unavailable, "no other voter answers")
	}
	// An attempt takes up to an election timeout until the other has all of the log,
	// and another one until it has been elected.
	ctx, cancel := context.WithTimeout(ctx, time.Duration(len(voters))*2*n.cfg.ElectionTimeout)
	defer cancel()
	var failed error
	for _, v := range voters {
		err := n.transferTo(ctx, r, v)
		if err == nil || r.State() != raft.Leader {
			return nil
		}
		failed = errs.New(errs.Unavailable, "node %s has not taken it: %v", v.ID, err).Wrap(err)
		if ctx.Err() != nil {
			break
		}
		n.log.Debug("leadership was not taken", "by", v.ID, "error", err)
	}
	return failed
}

// transferTo hands leadership to one voter, behind any hand-over that still runs.
func (n *Node) transferTo(ctx context.Context, r *raft.Raft, to Server) error {
	tick := time.NewTicker(busyPause)
	defer tick.Stop()
	for {
		err := wait(ctx, r.LeadershipTransferToServer(raft.ServerID(to.ID), raft.ServerAddress(to.Addr)))
		if !errors.Is(err, raft.ErrLeadershipTransferInProgress) && !errors.Is(err, raft.ErrEnqueueTimeout) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// answering is the other voters that say within an election timeout how far they
// are, the farthest first.
func (n *Node) answering(ctx context.Context) []Server {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.ElectionTimeout)
	defer cancel()
	type answer struct {
		Server
		last uint64
	}
	var (
		mu      sync.Mutex
		answers []answer
		asked   sync.WaitGroup
	)
	for _, s := range n.Servers() {
		if !s.Voter || s.ID == n.id {
			continue
		}
		asked.Go(func() {
			if p, err := n.Progress(ctx, s.ID); err == nil {
				mu.Lock()
				defer mu.Unlock()
				answers = append(answers, answer{s, p.LastLog})
			}
		})
	}
	asked.Wait()
	slices.SortFunc(answers, func(a, b answer) int {
		return cmp.Or(cmp.Compare(b.last, a.last), cmp.Compare(a.ID, b.ID))
	})
	out := make([]Server, len(answers))
	for i, a := range answers {
		out[i] = a.Server
	}
	return out
}
