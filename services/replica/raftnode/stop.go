package raftnode

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"nekoq/services/errs"
)

// stopGrace is how long the node's goroutines get after Raft has stopped.
const stopGrace = 3 * time.Second

// Shutdown hands leadership over, waits for the leader loops and for what is on
// its way, and stops. What waits and was not sent gets shutting_down. The machine
// is the caller's to close.
func (n *Node) Shutdown(ctx context.Context) error {
	n.stopOnce.Do(func() {
		r := n.raft.Load()
		if r != nil && n.cfg.ShutdownTransfer && r.State() == raft.Leader && n.otherVoters() > 0 {
			if err := n.handOver(ctx, r); err != nil {
				n.log.Warn("leadership could not be handed over", "error", err)
			}
		}
		n.loops.Cancel()
		close(n.stopping)
		n.changes.stop()
		stopped := errStopping()
		n.queue.Close(stopped)
		n.forward.Close(stopped)
		if r != nil {
			// What is in the log already gets a moment to be answered.
			drained, cancel := context.WithTimeout(ctx, n.cfg.ElectionTimeout)
			_ = waitGroup(drained, &n.workers)
			cancel()
		}
		n.end()
		n.unregister()
		go func() {
			if r != nil {
				if err := r.Shutdown().Error(); err != nil {
					n.log.Warn("stopping Raft", "error", err)
				}
			}
			// raft may forget an entry or a barrier that was between its loops when it
			// stopped; whoever waits for one is answered here.
			n.fsm.abandon()
			late, cancel := context.WithTimeout(context.Background(), stopGrace)
			defer cancel()
			if waitGroup(late, &n.workers) != nil || waitGroup(late, &n.helpers) != nil {
				n.log.Warn("a goroutine still waits for Raft, which has stopped")
			}
			n.closeFiles()
			close(n.closed)
		}()
	})
	select {
	case <-n.closed:
		return nil
	case <-ctx.Done():
		return errs.New(errs.DeadlineExceeded, "the Raft node has not stopped in time").Wrap(ctx.Err())
	}
}

// Abort stops without handing anything over or waiting for what is on its way, as
// a test does that makes a node die. Files are closed; nothing more is written.
func (n *Node) Abort() {
	n.cfg.ShutdownTransfer = false
	n.fsm.halted.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = n.Shutdown(ctx)
}

func (n *Node) otherVoters() int {
	ids, self := n.voters()
	if self {
		return len(ids) - 1
	}
	return len(ids)
}

// wait waits for a future, which knows no context.
func wait(ctx context.Context, f raft.Future) error {
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func waitGroup(ctx context.Context, wg *sync.WaitGroup) error {
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
