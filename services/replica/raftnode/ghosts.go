package raftnode

import (
	"errors"
	"slices"

	"github.com/hashicorp/raft"
)

// raft 1.7.3 remembers in memory which entry is its last, and moves that only when
// entries are stored. After the end of a follower's log was cut it believes in
// entries that are gone: for a moment in the ordinary case, where the leader's
// entries follow at once; but until the next start when they could not be stored
// (a full disk), or when the log was cleared behind a snapshot from the leader that
// ends before the log did. Reading one of them fails, raft answers the leader with a
// refusal, and this goes on for ever.
//
// So the entries that raft still believes in are given to it as entries of no term,
// which the leader's own replace, as they replace any other entry of a wrong term.
// Their type is unknown to raft: applying one would end the process. The last entry
// of the snapshot has its term, so that the leader can go on behind it.

const ghostType raft.LogType = 0xff

// errGhosts refuses entries that would leave a gap where raft believes in entries.
// Raft then looks further back, or gives up leadership.
var errGhosts = errors.New("the end of the log was cut, and what is to come in its place is not there yet")

// ghosts tells whether a message rests on such entries: a node that was elected
// all the same may try, before raft's first write as leader fails.
func ghosts(req *raft.AppendEntriesRequest) bool {
	return req.PrevLogEntry > 0 && req.PrevLogTerm == 0 ||
		slices.ContainsFunc(req.Entries, func(l *raft.Log) bool { return l.Type == ghostType })
}

// noteGhosts is told the last entry from before a cut of the end.
func (s *logStore) noteGhosts(last uint64) {
	if covered, _ := s.snapshot(); last > covered && last > s.ghost.Load() {
		s.ghost.Store(last)
	}
}

// ghostLog reads an entry behind the end of the log.
func (s *logStore) ghostLog(index uint64, l *raft.Log) error {
	if index > s.ghost.Load() {
		return raft.ErrLogNotFound
	}
	covered, term := s.snapshot()
	switch {
	case index < covered:
		return raft.ErrLogNotFound
	case index > covered:
		term = 0
	}
	*l = raft.Log{Index: index, Term: term, Type: ghostType}
	return nil
}

// follows tells whether the log has the entry, or begins right behind it, and goes on.
// Then whatever is behind it may have been acknowledged.
func (s *logStore) follows(index, term uint64) bool {
	if s.last.Load() <= index {
		return false
	}
	if covered, t := s.snapshot(); covered == index {
		return t == term
	}
	var l raft.Log
	return s.GetLog(index, &l) == nil && l.Term == term
}
