package raftnode

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// hints tells followers at once that an entry has been committed, when no entry
// follows that would carry the news: raft tells them with its next message, which
// on a quiet cluster is one commit timeout later, and until then watches on
// followers are silent and linearizable reads wait.
//
// A hint is a message of Raft without entries: it names the committed entry as the
// one before, so a follower that does not have it refuses, and one that has it also
// has everything before. The leader of that term could have sent it at that time,
// so nothing new has to be proved.
type hints struct {
	send    func(to raft.Server, h hint) (taken bool)
	servers func() []raft.Server
	leads   func(term uint64) bool // whether this node does
	self    raft.ServerID
	life    context.Context
	run     func(func())

	mu     sync.Mutex
	latest hint
	busy   map[raft.ServerID]bool
}

// hint is a committed entry.
type hint struct{ index, term uint64 }

// A follower outside the majority may get the entry a moment later, so it is told
// again, after pauses that double. One that lags keeps the long pause over newer
// hints: each that it refuses is work and a line in its log, and raft repeats what it
// needs to know anyway.
const (
	hintPause    = 500 * time.Microsecond
	maxHintPause = time.Second
)

func newHints(life context.Context, run func(func()), self string) *hints {
	return &hints{life: life, run: run, self: raft.ServerID(self), busy: map[raft.ServerID]bool{}}
}

// committed tells of an entry that this node has committed as leader. It does not
// wait.
func (h *hints) committed(index, term uint64) {
	if h.life.Err() != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.latest = hint{index, term}
	for _, s := range h.servers() {
		if s.ID == h.self || h.busy[s.ID] {
			continue
		}
		h.busy[s.ID] = true
		h.run(func() { h.tell(s) })
	}
}

// tell sends the newest hint until there is no newer one. It ends with the
// leadership: a follower that heard of a former leader again would refuse its vote to
// others. It also ends when the follower leaves the configuration.
func (h *hints) tell(to raft.Server) {
	var last hint
	pause := hintPause
	for {
		h.mu.Lock()
		next := h.latest
		if next == last || h.life.Err() != nil || !h.leads(next.term) || !h.member(to) {
			delete(h.busy, to.ID)
			h.mu.Unlock()
			return
		}
		h.mu.Unlock()
		if h.send(to, next) {
			last, pause = next, hintPause
			continue
		}
		select {
		case <-time.After(pause):
		case <-h.life.Done():
		}
		pause = min(2*pause, maxHintPause)
	}
}

func (h *hints) member(s raft.Server) bool {
	return slices.ContainsFunc(h.servers(), func(o raft.Server) bool { return o.ID == s.ID && o.Address == s.Address })
}

// sender is how the leader of a term presents itself, taken from raft's own messages.
type sender struct {
	term   uint64
	header raft.RPCHeader
}

// remember notes the sender of a message of raft.
func (t *transport) remember(req *raft.AppendEntriesRequest) {
	if s := t.sender.Load(); s == nil || s.term != req.Term {
		t.sender.Store(&sender{term: req.Term, header: req.RPCHeader})
	}
}

// hint sends one. An answer says nothing that raft does not learn itself.
func (t *transport) hint(to raft.Server, h hint) bool {
	s := t.sender.Load()
	if s == nil || s.term != h.term {
		return true // another term has begun: nothing more to say
	}
	req := raft.AppendEntriesRequest{
		RPCHeader: s.header, Term: h.term,
		PrevLogEntry: h.index, PrevLogTerm: h.term, LeaderCommitIndex: h.index,
	}
	var resp raft.AppendEntriesResponse
	if err := t.NetworkTransport.AppendEntries(to.ID, to.Address, &req, &resp); err != nil {
		return true // it is away; raft looks after it
	}
	return resp.Success || resp.Term > h.term
}
