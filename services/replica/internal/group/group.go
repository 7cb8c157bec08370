// Package group is the queue in which proposals wait for a log entry, so that
// all that wait share the next one (group commit).
//
// It owns the bounds of the queue and the hand-over of a proposal between its
// caller and the goroutine that forms entries: a caller whose deadline passes
// learns for certain whether its command was still waiting or is on its way.
// Safe for concurrent use. Only services/replica/local and raftnode import it.
package group

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/replica"
)

// MaxCommandBytes is the most bytes of one command. With what is around it, it
// fits into one frame to the leader (16 MiB), so the limit is the same on every
// node; the log stores would take 64 MiB.
const MaxCommandBytes = 15 << 20

// The life of a proposal.
const (
	waiting int32 = iota // may still be given up by its caller
	taken                // is in an entry
	givenUp              // its caller is gone
)

// Proposal is one command on its way.
type Proposal struct {
	Cmd   command.Command
	size  int
	state atomic.Int32
	taker *Taker
	done  chan struct{}
	res   replica.Result
	err   error
}

var pool = sync.Pool{New: func() any { return &Proposal{done: make(chan struct{}, 1)} }}

// Finish answers the proposal. Called exactly once for each one that Take gave.
func (p *Proposal) Finish(res replica.Result, err error) {
	p.res, p.err = res, err
	p.done <- struct{}{}
}

// Queue holds the waiting proposals.
type Queue struct {
	maxCount int
	maxBytes int64
	hold     time.Duration

	mu     sync.Mutex
	cond   sync.Cond
	items  []*Proposal // ring
	head   int
	count  int
	bytes  int64
	closed error
	out    int         // entries whose takers have not come back
	last   int         // commands of the last entry
	due    bool        // what waits has waited for hold
	timer  *time.Timer // makes it so
	armed  bool
}

const (
	// A second entry goes while another is under way once so much waits for it,
	enoughCommands = 64
	enoughBytes    = 64 << 10
	// or if the last entry had fewer commands: two clients in turn would only wait for
	// each other.
	severalCommands = 2
)

// New makes a queue of at most maxCount commands and maxBytes bytes. Few commands that
// come while an entry is under way wait for its end, for at most hold: an entry costs
// much more than a command, and clients that wait for answers bring more meanwhile.
func New(maxCount int, maxBytes int64, hold time.Duration) *Queue {
	q := &Queue{maxCount: maxCount, maxBytes: maxBytes, hold: hold, items: make([]*Proposal, 64)}
	q.cond.L = &q.mu
	return q
}

// wakeLocked wakes a taker if there is something for it, and sees to it that what has
// to wait is not forgotten.
func (q *Queue) wakeLocked() {
	switch {
	case q.readyLocked():
		q.cond.Signal()
	case q.count > 0 && !q.armed:
		q.armed = true
		if q.timer == nil {
			q.timer = time.AfterFunc(q.hold, q.heldEnough)
		} else {
			q.timer.Reset(q.hold)
		}
	}
}

// readyLocked says whether what waits is to go now.
func (q *Queue) readyLocked() bool {
	return q.count > 0 && (q.out == 0 || q.last < severalCommands || q.due || q.hold <= 0 || q.closed != nil ||
		q.count >= enoughCommands || q.bytes >= enoughBytes)
}

func (q *Queue) heldEnough() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.armed = false
	q.due = q.count > 0
	q.wakeLocked()
}

// Len is the number of waiting commands.
func (q *Queue) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.count
}

// Check refuses a command that could not be encoded or stored.
func Check(cmd *command.Command) error {
	switch {
	case cmd.Kind == 0:
		return errs.New(errs.Internal, "a command of kind 0 was proposed")
	case len(cmd.Actor) > command.MaxActorBytes:
		return errs.Invalid("actor", len(cmd.Actor), "at most 255 bytes")
	case len(cmd.Payload) > MaxCommandBytes:
		return errs.New(errs.TooLarge, "the command has %d bytes; the limit is %d", len(cmd.Payload), MaxCommandBytes).
			With(errs.Detail{Field: "payload", Limit: "15728640 bytes"})
	}
	return nil
}

// Do queues cmd and waits for its outcome. sent tells whether it may have been
// put into an entry; when ctx ends before that, the error is deadline_exceeded or
// canceled and sent is false, otherwise outcome_unknown. Do keeps nothing of cmd
// once it has returned.
func (q *Queue) Do(ctx context.Context, cmd *command.Command) (res replica.Result, sent bool, err error) {
	if err := Check(cmd); err != nil {
		return res, false, err
	}
	if err := ctx.Err(); err != nil {
		return res, false, errs.From(err)
	}
	p := pool.Get().(*Proposal)
	p.Cmd, p.size = *cmd, command.Size(cmd)
	p.state.Store(waiting)
	if err := q.push(p); err != nil {
		p.recycle()
		return res, false, err
	}
	select {
	case <-p.done:
		return p.outcome()
	case <-ctx.Done():
	}
	if p.state.CompareAndSwap(waiting, givenUp) {
		return res, false, errs.From(ctx.Err())
	}
	// The entry may still be read from the caller's memory.
	p.taker.wait()
	select {
	case <-p.done:
		return p.outcome()
	default:
		return res, true, Unknown(ctx.Err())
	}
}

// Unknown is the error of a write whose fate is not known.
func Unknown(cause error) error {
	return errs.New(errs.OutcomeUnknown, "the write was sent, but its outcome is not known").Wrap(cause)
}

func (p *Proposal) outcome() (replica.Result, bool, error) {
	res, err := p.res, p.err
	p.recycle()
	return res, true, err
}

func (p *Proposal) recycle() {
	p.Cmd, p.res, p.err, p.taker = command.Command{}, replica.Result{}, nil, nil
	pool.Put(p)
}

func (q *Queue) push(p *Proposal) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	err := q.addLocked(p)
	if err == nil {
		q.wakeLocked()
	}
	return err
}

func (q *Queue) addLocked(p *Proposal) error {
	if q.closed != nil {
		return q.closed
	}
	if q.count >= q.maxCount || (q.bytes+int64(p.size) > q.maxBytes && q.count > 0) {
		return errs.New(errs.TooManyRequests, "%d commands (%d bytes) already wait to be written", q.count, q.bytes)
	}
	if q.count == len(q.items) {
		grown := make([]*Proposal, 2*len(q.items))
		n := copy(grown, q.items[q.head:])
		copy(grown[n:], q.items[:q.head])
		q.items, q.head = grown, 0
	}
	q.items[(q.head+q.count)%len(q.items)] = p
	q.count++
	q.bytes += int64(p.size)
	return nil
}

// Close makes the queue refuse new commands with err. Take goes on to give what
// waits and then reports the end.
func (q *Queue) Close(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed == nil {
		q.closed = err
	}
	q.cond.Broadcast()
}

// FailWaiting answers everything that waits with err.
func (q *Queue) FailWaiting(err error) {
	var t Taker
	for {
		q.mu.Lock()
		if q.count == 0 {
			q.mu.Unlock()
			return
		}
		batch := q.takeLocked(&t, nil)
		q.mu.Unlock()
		for _, p := range batch {
			p.Finish(replica.Result{}, err)
		}
	}
}

// Taker forms entries. Each goroutine that does so has its own.
type Taker struct {
	encode sync.Mutex // held while commands are read into an entry
	cmds   []command.Command
	out    bool // it has an entry under way; guarded by the queue's mutex
}

// wait returns when no command is being read.
func (t *Taker) wait() {
	t.encode.Lock()
	defer t.encode.Unlock()
}

// Take waits for commands, and returns what waits up to the limits of an entry,
// encoded with the time that now gives. ok is false when the queue is closed and
// empty. The entry is newly allocated; batch reuses buf. The entry is under way until
// the next Take.
func (t *Taker) Take(q *Queue, buf []*Proposal, now func() int64) (batch []*Proposal, entry []byte, ok bool) {
	for {
		q.mu.Lock()
		if t.out {
			t.out = false
			q.out--
		}
		for !q.readyLocked() && q.closed == nil {
			q.cond.Wait()
		}
		if q.count == 0 {
			q.mu.Unlock()
			return nil, nil, false
		}
		t.encode.Lock()
		batch, q.due = q.takeLocked(t, buf[:0]), false
		if t.out = len(batch) > 0; t.out {
			q.out++
			q.last = len(batch)
		}
		q.wakeLocked() // what did not fit is for another taker
		q.mu.Unlock()
		if t.out {
			break
		}
		t.encode.Unlock()
	}
	defer t.encode.Unlock()
	stamp, size := now(), 32
	t.cmds = t.cmds[:0]
	for _, p := range batch {
		p.Cmd.Time = stamp
		t.cmds = append(t.cmds, p.Cmd)
		size += p.size
	}
	entry = command.AppendBatch(make([]byte, 0, size), t.cmds)
	clear(t.cmds)
	for _, p := range batch {
		p.Cmd.Payload = nil
	}
	return batch, entry, true
}

func (q *Queue) takeLocked(t *Taker, batch []*Proposal) []*Proposal {
	bytes := 0
	for q.count > 0 && len(batch) < command.MaxBatchCommands {
		p := q.items[q.head]
		if len(batch) > 0 && bytes+p.size > command.MaxBatchBytes {
			break
		}
		q.items[q.head] = nil
		q.head = (q.head + 1) % len(q.items)
		q.count--
		q.bytes -= int64(p.size)
		p.taker = t
		if p.state.CompareAndSwap(waiting, taken) {
			batch = append(batch, p)
			bytes += p.size
		}
	}
	return batch
}

// DoAll queues cmds together, to share an entry, and calls answer with the outcome of
// each, in order. The memory of cmds must never change. ctx ends the waiting as in Do.
func (q *Queue) DoAll(ctx context.Context, cmds []command.Command, answer func(replica.Result, error)) {
	type queued struct {
		p   *Proposal
		err error
	}
	all := make([]queued, len(cmds))
	for i := range cmds {
		if err := Check(&cmds[i]); err != nil {
			all[i].err = err
			continue
		}
		p := pool.Get().(*Proposal)
		p.Cmd, p.size = cmds[i], command.Size(&cmds[i])
		p.state.Store(waiting)
		all[i].p = p
	}
	q.mu.Lock()
	for i := range all {
		w := &all[i]
		if w.err == nil {
			if w.err = q.addLocked(w.p); w.err != nil {
				w.p.recycle()
			}
		}
	}
	q.wakeLocked()
	q.mu.Unlock()
	for _, w := range all {
		if w.err != nil {
			answer(replica.Result{}, w.err)
			continue
		}
		select {
		case <-w.p.done:
		case <-ctx.Done():
			if w.p.state.CompareAndSwap(waiting, givenUp) {
				answer(replica.Result{}, errs.From(ctx.Err()))
				continue
			}
			select {
			case <-w.p.done:
			default:
				answer(replica.Result{}, Unknown(ctx.Err()))
				continue
			}
		}
		res, _, err := w.p.outcome()
		answer(res, err)
	}
}
