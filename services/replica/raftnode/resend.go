package raftnode

import (
	"time"

	"github.com/hashicorp/raft"
)

// A follower that could not store entries, since its disk is full, refuses the
// message. raft then looks one entry further back each time, with pauses that grow to
// ten seconds and that have to pass when space has returned. So the same message is
// sent again, a few times a second, until it is taken or the term is over; raft
// waits for its answer meanwhile. Heartbeats are messages of their own and go on.

const storePause = 200 * time.Millisecond

// notStored tells a follower that could not write from one whose log is another: of
// that one raft asks for no pause.
func notStored(req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) bool {
	return len(req.Entries) > 0 && !resp.Success && !resp.NoRetryBackoff && resp.Term == req.Term
}

// patientStores is how often the same message is sent, five seconds long, before raft
// may look one entry further back, once in a term: a follower that believes in entries
// that it has cut (see ghosts.go) refuses in the same way, and takes entries only
// together with those that are missing.
const patientStores = 25

// store sends entries until the follower has an answer other than that it could not
// write.
func (t *transport) store(id raft.ServerID, target raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	for tries := 1; ; tries++ {
		err := t.NetworkTransport.AppendEntries(id, target, req, resp)
		if err != nil || !notStored(req, resp) || t.again == nil {
			return err
		}
		if tries > patientStores && t.goBack(id, req.Term) {
			resp.NoRetryBackoff = true
			return nil
		}
		if !t.again(req.Term) {
			return nil
		}
		*resp = raft.AppendEntriesResponse{}
	}
}

// goBack tells whether raft may look further back now.
func (t *transport) goBack(id raft.ServerID, term uint64) bool {
	last, _ := t.backs.Swap(id, term)
	return last != term
}

// waitInTerm pauses; false when this node does not lead that term any more.
func (n *Node) waitInTerm(term uint64) bool {
	t := n.clock.NewTimer(storePause)
	defer t.Stop()
	select {
	case <-t.C():
	case <-n.life.Done():
		return false
	case <-n.stopping:
		return false
	}
	r := n.raft.Load()
	return r != nil && r.State() == raft.Leader && r.CurrentTerm() == term
}
