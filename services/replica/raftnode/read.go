package raftnode

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"nekoq/services/errs"
	"nekoq/services/replica"
	"nekoq/services/state"
	"nekoq/services/wire"
)

// Current is replica.Viewer.
func (n *Node) Current(index string) any { return n.machine.Current(index) }

// Written is replica.Viewer.
func (n *Node) Written(tables ...state.TableID) (at, revision uint64) {
	return n.machine.Written(tables...)
}

// View is replica.Viewer.
//
// A linearizable read on the leader waits until a majority has confirmed, in
// answer to calls that were sent after the read began, that the leader's term is
// still theirs. All reads that wait share one round. (raft's VerifyLeader accepts
// answers to messages sent before it was called, so a leader that was frozen
// while a successor was elected could pass it.) A follower asks the leader for
// an index found in this way and waits until its own state has reached it.
func (n *Node) View(ctx context.Context, c replica.Consistency) (*state.View, replica.Lag, error) {
	if err := ctx.Err(); err != nil {
		return nil, replica.Lag{}, errs.From(err)
	}
	if c == replica.Stale {
		v := n.machine.View()
		if v == nil {
			return nil, replica.Lag{}, errClosed()
		}
		return v, n.lag(v.Index()), nil
	}
	patience := n.firstRead(ctx)
	defer func() { patience.stop() }()
	pause := time.Millisecond
	for {
		err := n.reach(patience.ctx, c)
		if err == nil {
			v := n.machine.View()
			if v == nil {
				return nil, replica.Lag{}, errClosed()
			}
			return v, replica.Lag{Known: true}, nil
		}
		n.begin(ctx, &patience)
		if !retryRead(err) || patience.ctx.Err() != nil {
			return nil, replica.Lag{}, n.readError(ctx, err)
		}
		if err := n.pause(patience.ctx, &pause); err != nil {
			return nil, replica.Lag{}, n.readError(ctx, err)
		}
	}
}

// errClosed is the answer of a node whose state is closed already.
func errClosed() error { return errs.New(errs.ShuttingDown, "the node has stopped") }

// firstRead is the patience of a first attempt. While a leader is known, every part
// of it is bounded already, which spares a timer for each read.
func (n *Node) firstRead(ctx context.Context) patience {
	if n.leader.current() != "" {
		return patience{ctx, noStop, true}
	}
	return n.patience(ctx)
}

// reach returns when this node's view is linearizable, or recent.
func (n *Node) reach(ctx context.Context, c replica.Consistency) error {
	if err := n.usable(); err != nil {
		return err
	}
	var (
		index uint64
		err   error
	)
	switch leads := n.leader.current() == n.id; {
	case leads:
		index, err = n.leaderIndex(ctx, c)
	case c == replica.Recent:
		index, err = n.recentReads.wait(ctx)
	default:
		index, err = n.leaderReads.wait(ctx)
	}
	if err != nil {
		return err
	}
	if at, _ := n.machine.Applied(); at >= index {
		return nil
	}
	p := n.patience(ctx)
	defer p.stop()
	return n.follow(p.ctx, index)
}

// leaderIndex gives the index that a read on the leader waits for.
func (n *Node) leaderIndex(ctx context.Context, c replica.Consistency) (uint64, error) {
	if index, ok := n.confirmAlone(); ok {
		return index, nil
	}
	if c == replica.Recent {
		if index, ok := n.recentIndex(); ok {
			return index, nil
		}
	}
	return n.ownReads.wait(ctx)
}

// recentIndex spares the round when one that began less than RecentBound ago was
// confirmed: whatever another leader has committed since is younger than that. The
// next round begins before the last one is too old, and nobody waits for it.
func (n *Node) recentIndex() (uint64, bool) {
	last := n.confirmed.Load()
	if last == nil {
		return 0, false
	}
	age := time.Since(last.began)
	index, term, err := n.readIndex()
	if err != nil || age > replica.RecentBound || term != last.term || !n.leads(term) {
		return 0, false
	}
	if age > replica.RecentBound/2 {
		n.ownReads.join()
	}
	return index, true
}

// confirmation is a round in which a majority said that term is current.
type confirmation struct {
	term  uint64
	began time.Time // before anybody was asked
}

// retryRead: a read changes nothing, so everything passing is tried again.
func retryRead(err error) bool {
	switch errs.CodeOf(err) {
	case errs.Unavailable, errs.NoLeader, errs.ShuttingDown, errs.OutcomeUnknown, errs.TooManyRequests, errs.DeadlineExceeded:
		return true
	}
	return errors.Is(err, errNotTaken)
}

func (n *Node) readError(ctx context.Context, err error) error {
	if e := n.usable(); e != nil {
		return e
	}
	if e := ctx.Err(); e != nil && errors.Is(e, context.Canceled) {
		return errs.From(e)
	}
	if !retryRead(err) && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
		return err
	}
	if n.leader.current() != "" && ctx.Err() != nil {
		return errs.New(errs.DeadlineExceeded, "the leader did not confirm in time that it still leads").Wrap(err)
	}
	return errs.New(errs.NoLeader, "no leader confirmed the read in time").Wrap(err)
}

// lag says how far a stale view at index may be behind.
func (n *Node) lag(index uint64) replica.Lag {
	r := n.raft.Load()
	if r == nil {
		return replica.Lag{}
	}
	var l replica.Lag
	if commit := r.CommitIndex(); commit > index {
		l.Entries = commit - index
		// No-ops and barriers at the end of the log never reach the state.
		if l.Entries <= n.logs.stateless() && commit >= n.logs.last.Load() {
			l.Entries = 0
		}
	}
	if r.State() == raft.Leader {
		l.Known = true
		return l
	}
	if at := r.LastContact(); !at.IsZero() {
		l.Known, l.Age = true, time.Since(at)
	}
	return l
}

// reads collects reads that wait for the same thing. While one round runs, the
// next fills; it closes before its own round begins. The rounds run in one goroutine,
// which stays.
type reads struct {
	fetch func() (uint64, error) // one round
	size  func(int)              // told how many shared it
	kick  chan struct{}          // cap 1: next was made

	mu    sync.Mutex
	next  *readBatch
	ended bool
}

type readBatch struct {
	done  chan struct{}
	n     int
	index uint64
	err   error
}

// wait joins the next round and returns the index that it found.
func (r *reads) wait(ctx context.Context) (uint64, error) {
	b := r.join()
	if b == nil {
		return 0, errStopping()
	}
	select {
	case <-b.done:
		return b.index, b.err
	case <-ctx.Done():
		return 0, errs.From(ctx.Err())
	}
}

// join joins the next round; nil when there will be none.
func (r *reads) join() *readBatch {
	r.mu.Lock()
	if r.ended {
		r.mu.Unlock()
		return nil
	}
	first := r.next == nil
	if first {
		r.next = &readBatch{done: make(chan struct{})}
	}
	b := r.next
	b.n++
	r.mu.Unlock()
	if first {
		r.kick <- struct{}{} // has room: the one before was taken with its batch
	}
	return b
}

// rounds runs until stop is closed.
func (r *reads) rounds(stop <-chan struct{}) {
	for {
		select {
		case <-r.kick:
		case <-stop:
			r.mu.Lock()
			b := r.next
			r.next, r.ended = nil, true
			r.mu.Unlock()
			if b != nil {
				b.err = errStopping()
				close(b.done)
			}
			return
		}
		r.mu.Lock()
		b := r.next
		r.next = nil
		r.mu.Unlock()
		r.size(b.n)
		b.index, b.err = r.fetch()
		close(b.done)
	}
}

// confirm is one round on the leader. The index is taken after the batch was
// closed and before the others are asked. It is the commit index and not what
// the leader has applied: a follower may have applied, and shown to a reader,
// what the leader has committed and not yet applied (Ongaro's dissertation, 6.4).
func (n *Node) confirm() (uint64, error) {
	index, term, err := n.readIndex()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	n.m.rounds.Inc()
	set := n.voterSet(term)
	need := len(set.ids)/2 + 1
	if set.self {
		need--
	}
	if need > 0 {
		if err := n.askTerms(term, set.ids, need); err != nil {
			return 0, err
		}
	}
	if !n.leads(term) {
		return 0, errNotTaken
	}
	n.confirmed.Store(&confirmation{term: term, began: start})
	n.m.roundTime.Observe(time.Since(start).Seconds())
	return index, nil
}

// confirmAlone is confirm of the only voter, which cannot be superseded without its
// own vote, so there is nobody to ask. ok is false on a node that is not.
func (n *Node) confirmAlone() (index uint64, ok bool) {
	index, term, err := n.readIndex()
	if err != nil {
		return 0, false
	}
	return index, n.voterSet(term).sole() && n.leads(term)
}

func (n *Node) leads(term uint64) bool {
	r := n.raft.Load()
	return r.State() == raft.Leader && r.CurrentTerm() == term
}

// readIndex gives the commit index of the leader, and the term in which it serves.
func (n *Node) readIndex() (index, term uint64, err error) {
	term, ok := n.leader.serving()
	r := n.raft.Load()
	if !ok || r == nil {
		return 0, 0, errNotTaken
	}
	if index = r.CommitIndex(); index <= n.leader.barrier.Load() {
		// Entries up to the barrier are applied, and the barrier itself, like a
		// no-op, never reaches the state.
		index, _ = n.machine.Applied()
	}
	return index, term, nil
}

// voterSet is the voters of a configuration.
type voterSet struct {
	term, changes uint64 // when it held
	ids           []string
	self          bool // this node is one
}

func (v *voterSet) sole() bool { return v.self && len(v.ids) == 1 }

// changes counts the changes of the configuration that this node was asked for.
type changes struct {
	begun, ended atomic.Uint64

	mu   sync.Mutex
	over bool // none begins any more
}

// begin counts a change and calls start, unless the node is stopping: whoever waits
// for the node's goroutines then waits for that of the change too.
func (c *changes) begin(start func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return false
	}
	c.begun.Add(1)
	start()
	return true
}

func (c *changes) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
}

// settled gives the number of changes, if none is under way.
func (c *changes) settled() (uint64, bool) {
	n := c.ended.Load()
	return n, c.begun.Load() == n
}

// voterSet gives the voters of the newest configuration while this node leads in
// term. To ask raft costs more than the rest of a read; but while a node leads, the
// configuration changes through change alone, so it is kept until that is called.
func (n *Node) voterSet(term uint64) *voterSet {
	count, settled := n.changes.settled()
	if v := n.voterCache.Load(); settled && v != nil && v.term == term && v.changes == count {
		return v
	}
	v := &voterSet{term: term, changes: count}
	v.ids, v.self = n.voters()
	if again, still := n.changes.settled(); settled && still && again == count && n.leads(term) {
		n.voterCache.Store(v)
	}
	return v
}

// voters lists the voters of the newest configuration, and whether this node is
// one.
func (n *Node) voters() (ids []string, self bool) {
	for _, s := range n.Servers() {
		if s.Voter {
			ids = append(ids, s.ID)
			self = self || s.ID == n.id
		}
	}
	return ids, self
}

// askTerms returns nil when need other voters have said that term is current.
func (n *Node) askTerms(term uint64, voters []string, need int) error {
	n.confirms.mu.Lock()
	n.confirms.round++
	round := n.confirms.round
	votes := make(chan bool, len(voters))
	asked := 0
	for _, id := range voters {
		if id == n.id {
			continue
		}
		asked++
		c := n.confirms.peers[id]
		if c == nil {
			c = &confirmer{kick: make(chan struct{}, 1)}
			n.confirms.peers[id] = c
			n.helpers.Go(func() { n.runConfirm(id, c) })
		}
		c.want = &confirmWant{round: round, term: term, votes: votes}
		select {
		case c.kick <- struct{}{}:
		default:
		}
	}
	n.confirms.mu.Unlock()
	limit := time.NewTimer(n.cfg.ReadConfirmTimeout)
	defer limit.Stop()
	for need > 0 {
		if asked < need {
			return errs.New(errs.NoLeader, "a majority did not confirm that node %s leads", n.id)
		}
		select {
		case yes := <-votes:
			asked--
			if yes {
				need--
			}
		case <-limit.C:
			return errs.New(errs.NoLeader, "a majority did not confirm in %s that node %s leads", n.cfg.ReadConfirmTimeout, n.id)
		case <-n.stopping:
			return errStopping()
		}
	}
	return nil
}

// confirms is the calls of the rounds: one at a time to each node, so that a node
// that hangs collects no calls. A node that is late for a round takes part in
// the newest one when it is back.
type confirms struct {
	mu    sync.Mutex
	round uint64
	peers map[string]*confirmer
}

// confirmer asks one node; its goroutine stays.
type confirmer struct {
	kick chan struct{} // cap 1
	want *confirmWant  // nil when done
}

type confirmWant struct {
	round, term uint64
	votes       chan<- bool
}

func (n *Node) runConfirm(id string, c *confirmer) {
	for {
		select {
		case <-c.kick:
		case <-n.life.Done():
			return
		}
		n.confirms.mu.Lock()
		w := c.want
		c.want = nil
		n.confirms.mu.Unlock()
		if w != nil {
			w.votes <- n.askTerm(id, w.term) // buffered
		}
	}
}

func (n *Node) askTerm(id string, term uint64) bool {
	ctx, cancel := context.WithTimeout(n.life, n.cfg.ReadConfirmTimeout)
	defer cancel()
	answer, err := n.peers.Call(ctx, id, MethodConfirmTerm, nil)
	if err != nil || len(answer) != 16 {
		return false
	}
	n.progress.Store(id, binary.BigEndian.Uint64(answer[8:]))
	return binary.BigEndian.Uint64(answer) == term
}

// serveConfirmTerm is MethodConfirmTerm: the term that this node is in, on disk,
// and its applied index.
func (n *Node) serveConfirmTerm(_ context.Context, _, dst []byte) ([]byte, error) {
	r := n.raft.Load()
	if r == nil {
		return nil, errs.New(errs.Unavailable, "the node has not been started")
	}
	applied, _ := n.machine.Applied()
	dst = binary.BigEndian.AppendUint64(dst, r.CurrentTerm())
	return binary.BigEndian.AppendUint64(dst, applied), nil
}

// askRecent in the body of MethodReadIndex asks for what a Recent read needs.
var askRecent = []byte{1}

// askLeader is one round on a follower.
func (n *Node) askLeader() (uint64, error) { return n.askIndex(nil) }

func (n *Node) askLeaderRecent() (uint64, error) { return n.askIndex(askRecent) }

func (n *Node) askIndex(req []byte) (uint64, error) {
	_, answer, err := n.callLeader(MethodReadIndex, req)
	if err != nil {
		return 0, err
	}
	if len(answer) != 8 {
		return 0, errs.New(errs.ProtocolViolation, "an answer of %d bytes for a read index", len(answer))
	}
	return binary.BigEndian.Uint64(answer), nil
}

// serveReadIndex is MethodReadIndex on the leader.
func (n *Node) serveReadIndex(ctx context.Context, req, dst []byte) ([]byte, error) {
	if err := n.usable(); err != nil {
		return nil, err
	}
	if n.leader.current() != n.id {
		return nil, errs.New(errs.NoLeader, "node %s is not the leader", n.id)
	}
	c := replica.Linearizable
	if bytes.Equal(req, askRecent) {
		c = replica.Recent
	}
	index, err := n.leaderIndex(ctx, c)
	if errors.Is(err, errNotTaken) {
		return nil, errs.New(errs.NoLeader, "node %s does not serve as the leader yet", n.id)
	}
	if err != nil {
		return nil, err
	}
	return binary.BigEndian.AppendUint64(dst, index), nil
}

var _ = []wire.Unary{(*Node)(nil).serveConfirmTerm, (*Node)(nil).serveReadIndex, (*Node)(nil).serveForward}
