package raftnode

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/replica"
	"nekoq/services/replica/internal/group"
)

// errNotTaken is the outcome of a command that certainly was not sent, because
// the node asked was not the leader or is handing leadership over.
var errNotTaken = errors.New("not taken by a leader")

// Propose is replica.Proposer. On the leader the command joins the next entry;
// elsewhere it travels to the leader together with what else waits.
//
// What certainly was not sent is tried again until ctx ends. So is what may have
// been sent, if the command has a session: the state then answers the second
// attempt with the result of the first.
func (n *Node) Propose(ctx context.Context, cmd command.Command) (replica.Result, error) {
	if err := group.Check(&cmd); err != nil {
		return replica.Result{}, err
	}
	if err := ctx.Err(); err != nil {
		return replica.Result{}, errs.From(err) // whoever leads, and if nobody does
	}
	var (
		maybeSent bool
		patience  = n.firstTry(ctx)
		pause     = time.Millisecond
	)
	defer func() { patience.stop() }()
	for {
		res, err := n.proposeOnce(patience.ctx, &cmd)
		if err == nil {
			return res, nil
		}
		n.begin(ctx, &patience)
		again, err := afterAttempt(err, &maybeSent, cmd.Session != 0)
		if !again {
			return replica.Result{}, n.refusal(ctx, err)
		}
		if err := n.pause(patience.ctx, &pause); err != nil {
			if maybeSent {
				return replica.Result{}, group.Unknown(err)
			}
			return replica.Result{}, n.gaveUp(ctx, err)
		}
	}
}

// afterAttempt says whether another attempt is right after err, or which error the
// caller gets. maybeSent is whether an attempt may have been carried out.
func afterAttempt(err error, maybeSent *bool, session bool) (again bool, _ error) {
	switch {
	case errors.Is(err, errNotTaken):
		return true, err
	case errs.Has(err, errs.OutcomeUnknown):
		*maybeSent = true
		return session, err
	case *maybeSent && isTransient(err):
		return true, err
	case *maybeSent && errs.Has(err, errs.SessionExpired):
		// The first attempt may have been carried out before the session went.
		return false, group.Unknown(err)
	}
	return false, err
}

// isTransient tells errors of the way to the state from answers of the state.
func isTransient(err error) bool {
	switch errs.CodeOf(err) {
	case errs.TooManyRequests, errs.NoLeader, errs.DeadlineExceeded, errs.Canceled, errs.Unavailable,
		errs.ShuttingDown, errs.StorageFull:
		return true
	}
	return false
}

// refusal turns the end of this node's own patience into no_leader.
func (n *Node) refusal(ctx context.Context, err error) error {
	if errs.Has(err, errs.DeadlineExceeded) && ctx.Err() == nil {
		return n.gaveUp(ctx, err)
	}
	return err
}

// gaveUp is the error of a request that was never sent.
func (n *Node) gaveUp(ctx context.Context, err error) error {
	if e := ctx.Err(); e != nil && !errors.Is(e, context.DeadlineExceeded) {
		return errs.From(e)
	}
	if errs.Has(err, errs.ShuttingDown) || errs.Has(err, errs.Unavailable) {
		return err
	}
	return errs.New(errs.NoLeader, "no leader was found in time; nothing was done").Wrap(err)
}

// patience bounds a request without an earlier deadline of its own.
type patience struct {
	ctx  context.Context
	stop context.CancelFunc
	lazy bool // ctx is the caller's as yet
}

func noStop() {}

func (n *Node) patience(ctx context.Context) patience {
	if at, ok := ctx.Deadline(); ok && time.Until(at) <= n.cfg.LeaderPatience {
		return patience{ctx, noStop, false}
	}
	c, cancel := context.WithTimeout(ctx, n.cfg.LeaderPatience)
	return patience{c, cancel, false}
}

// firstTry is the patience of a first attempt: while a leader is known, a caller
// with a deadline needs none beside it, which spares a timer for each request.
func (n *Node) firstTry(ctx context.Context) patience {
	if _, ok := ctx.Deadline(); ok && n.leader.current() != "" {
		return patience{ctx, noStop, true}
	}
	return n.patience(ctx)
}

// begin makes p a patience from now on, after a first attempt that failed.
func (n *Node) begin(ctx context.Context, p *patience) {
	if p.lazy {
		*p = n.patience(ctx)
	}
}

// pause waits before the next attempt: until the leader changes, at most d, which
// it doubles up to 100 ms.
func (n *Node) pause(ctx context.Context, d *time.Duration) error {
	if err := n.usable(); err != nil {
		return err
	}
	changed := n.leader.watch()
	t := n.clock.NewTimer(*d)
	defer t.Stop()
	*d = min(2**d, 100*time.Millisecond)
	select {
	case <-changed:
	case <-t.C():
	case <-n.stopping:
	case <-ctx.Done():
		return ctx.Err()
	}
	return n.usable()
}

func errStopping() error { return errs.New(errs.ShuttingDown, "the node is stopping") }

// usable refuses requests to a node that stops or cannot go on.
func (n *Node) usable() error {
	select {
	case <-n.stopping:
		return errStopping()
	case <-n.failed:
		return errs.New(errs.Unavailable, "the node cannot go on; see its log").Wrap(n.err)
	default:
		return nil
	}
}

func (n *Node) proposeOnce(ctx context.Context, cmd *command.Command) (replica.Result, error) {
	if err := n.usable(); err != nil {
		return replica.Result{}, err
	}
	leader := n.leader.current()
	if leader == n.id {
		return n.proposeHere(ctx, cmd)
	}
	if leader == "" {
		return replica.Result{}, errNotTaken
	}
	res, _, err := n.forward.Do(ctx, cmd)
	if errs.Has(err, errs.StorageFull) && replica.IsEssential(ctx) { // not written as yet
		return n.forwardEssential(ctx, cmd)
	}
	return res, err
}

// proposeHere queues cmd on the leader.
func (n *Node) proposeHere(ctx context.Context, cmd *command.Command) (replica.Result, error) {
	full := n.writable
	if n.disk.low.Load() && replica.IsEssential(ctx) {
		full = n.machine.Storage // what the reserve is kept for
	}
	if err := full(); err != nil {
		return replica.Result{}, err
	}
	res, _, err := n.queue.Do(ctx, cmd)
	return res, err
}

// writable refuses writes while the disk is full.
func (n *Node) writable() error {
	if n.disk.low.Load() {
		return errStorageFull(nil)
	}
	return n.machine.Storage()
}

// runEntries forms log entries of what waits. Some of these goroutines run at the
// same time, which is how many entries are in flight; while all wait for the log,
// the next entries fill up.
func (n *Node) runEntries() {
	var (
		taker group.Taker
		batch []*group.Proposal
		entry []byte
		ok    bool
	)
	now := func() int64 { return n.clock.Now().UnixNano() }
	for {
		batch, entry, ok = taker.Take(n.queue, batch, now)
		if !ok {
			return
		}
		n.m.perEntry.Observe(float64(len(batch)))
		n.m.entries.Inc()
		fl := &flight{batch: batch}
		n.fsm.track(entry, fl)
		err := n.raft.Load().Apply(entry, 0).Error()
		n.fsm.untrack(entry)
		if fl.answered.Swap(true) {
			// The state machine may still be answering: it has the slice.
			batch = nil
			continue
		}
		err = entryError(err)
		for _, p := range batch {
			p.Finish(replica.Result{}, err)
		}
	}
}

// entryError says whether an entry that failed may yet take effect.
func entryError(err error) error {
	switch {
	case err == nil:
		return group.Unknown(errHalted) // committed, but the state did not answer
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return errNotTaken
	case errors.Is(err, errHalfWritten):
		return group.Unknown(err)
	case errs.Has(err, errs.StorageFull):
		// Refused before anything was written. It was never replicated either: raft
		// wakes the followers only after its own write.
		return errs.From(err)
	default:
		// ErrLeadershipLost, errors of the log store, shutdown.
		return group.Unknown(err)
	}
}
