package raftnode

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// leaderView is who leads, as this node knows it, and whether this node serves as
// leader.
type leaderView struct {
	mu      sync.Mutex
	id      string
	term    uint64
	changed chan struct{} // closed and replaced on every change
	ctx     context.Context
	cancel  context.CancelFunc // ends calls to a leader that was superseded
	life    context.Context
	now     atomic.Pointer[string]
	served  atomic.Uint64 // term in which this node serves; 0 for none
	barrier atomic.Uint64 // index of that term's barrier; all before it is applied
}

func newLeaderView(life context.Context) *leaderView {
	v := &leaderView{changed: make(chan struct{}), life: life}
	v.ctx, v.cancel = context.WithCancel(life)
	v.now.Store(new(string))
	return v
}

// set notes the leader of term. Calls under way to the former leader end only
// when another one is known: losing sight of a leader is no proof.
func (v *leaderView) set(id string, term uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if *v.now.Load() == id && v.term == term {
		return
	}
	if id != "" && (id != v.id || term != v.term) {
		v.cancel()
		v.ctx, v.cancel = context.WithCancel(v.life)
		v.id, v.term = id, term
	}
	v.now.Store(&id)
	v.bump()
}

func (v *leaderView) bump() {
	close(v.changed)
	v.changed = make(chan struct{})
}

// current is the leader's id, "" for none.
func (v *leaderView) current() string { return *v.now.Load() }

// epoch is the leader and a context that ends when it is superseded.
func (v *leaderView) epoch() (string, context.Context) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return *v.now.Load(), v.ctx
}

// watch gives a channel that is closed at the next change.
func (v *leaderView) watch() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.changed
}

// serving is the term in which this node leads with its state up to date.
func (v *leaderView) serving() (uint64, bool) {
	t := v.served.Load()
	return t, t != 0
}

func (v *leaderView) serve(term uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.served.Store(term)
	v.bump()
}

// leaderPoll is how often the leader is read from raft beside its observations,
// which it drops when nobody takes them at once.
const leaderPoll = 50 * time.Millisecond

// runObserve keeps leaderView up to date.
func (n *Node) runObserve(r *raft.Raft, seen <-chan raft.Observation) {
	t := time.NewTicker(leaderPoll)
	defer t.Stop()
	for {
		_, id := r.LeaderWithID()
		n.leader.set(string(id), r.CurrentTerm())
		select {
		case <-seen:
		case <-t.C:
		case <-n.life.Done():
			n.leader.set("", r.CurrentTerm())
			return
		}
	}
}

// runLeadership follows raft's notices of leadership gained and lost. It never
// makes raft wait.
func (n *Node) runLeadership(r *raft.Raft, notify <-chan bool) {
	var (
		stop func()
		wg   sync.WaitGroup
	)
	end := func() {
		if stop != nil {
			stop()
			stop = nil
		}
	}
	defer wg.Wait()
	defer end()
	var turn sync.Mutex // one leadership at a time
	for {
		select {
		case up := <-notify:
			n.m.transitions.Inc()
			n.leader.serve(0)
			end()
			n.loops.Cancel()
			if !up {
				continue
			}
			ctx, cancel := context.WithCancel(n.life)
			stop = cancel
			wg.Go(func() {
				turn.Lock()
				defer turn.Unlock()
				n.lead(ctx, r)
			})
		case <-n.life.Done():
			return
		}
	}
}

// lead brings the state up to date, serves, and runs the leader loops until ctx
// ends.
func (n *Node) lead(ctx context.Context, r *raft.Raft) {
	term := r.CurrentTerm()
	for ctx.Err() == nil {
		f := r.Barrier(n.cfg.ElectionTimeout)
		err := f.Error()
		if err == nil {
			n.leader.barrier.Store(f.(raft.IndexFuture).Index())
			break
		}
		if errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipLost) || errors.Is(err, raft.ErrRaftShutdown) {
			return
		}
		n.log.Warn("the new leader could not commit its first entry yet", "error", err)
		select {
		case <-n.clock.NewTimer(20 * time.Millisecond).C():
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil || r.State() != raft.Leader || r.CurrentTerm() != term {
		return
	}
	n.log.Info("leading", "term", term)
	n.leader.serve(term)
	if ctx.Err() != nil {
		// Lost meanwhile: take back what may have come after the notice of it.
		n.leader.served.CompareAndSwap(term, 0)
		return
	}
	n.loops.Begin(term)
	<-ctx.Done()
	n.loops.Cancel()
	// The next leadership of this node waits for its loops, however long they take.
	_ = n.loops.End(context.Background(), n.log)
}
