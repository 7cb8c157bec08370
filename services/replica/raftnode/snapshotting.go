package raftnode

import (
	"errors"
	"time"

	"github.com/hashicorp/raft"
)

// maxHold bounds, in snapshot thresholds, how much log is kept for a follower
// that is being sent the state.
const maxHold = 8

// runSnapshots records a snapshot whenever enough log was written.
func (n *Node) runSnapshots(r *raft.Raft) {
	retry := n.clock.NewTimer(time.Hour)
	defer retry.Stop()
	for {
		select {
		case <-n.logs.grown:
		case <-retry.C():
		case <-n.life.Done():
			return
		}
		if n.logs.sinceSnapshot() < n.logs.limit || n.fsm.halted.Load() {
			continue
		}
		if err := n.snapshot(r); err != nil {
			n.log.Warn("no snapshot was recorded; the log grows until one is", "error", err)
			retry.Reset(time.Second)
		}
	}
}

// snapshot makes the state durable and lets raft shorten the log.
func (n *Node) snapshot(r *raft.Raft) error {
	start := time.Now()
	// Outside of raft's apply goroutine first, so that the flush inside it is short.
	if err := n.machine.Flush(n.life); err != nil {
		return err
	}
	if err := r.Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return err
	}
	if m := n.snaps.last(); m != nil {
		n.logs.snapshotTaken(m.Index)
	}
	n.m.snapshots.Observe(time.Since(start).Seconds())
	return nil
}

// Snapshot records a snapshot now.
func (n *Node) Snapshot() error {
	r := n.raft.Load()
	if r == nil {
		return errNoRaft
	}
	return n.snapshot(r)
}

// holdLog tells whether the log must not be shortened: a follower that is being
// sent the state goes on from the log.
func (n *Node) holdLog() bool {
	return n.snaps.sending.Load() > 0 && n.logs.sinceSnapshot() < maxHold*n.logs.limit
}
