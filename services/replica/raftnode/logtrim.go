package raftnode

import (
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// trimPause lets writers pass between two steps of deletion.
const trimPause = 20 * time.Millisecond

// DeleteRange is raft.LogStore. The end of the log goes at once. Its head goes in
// the background and never within trailing bytes of the end, since raft asks for
// everything that a snapshot covers.
func (s *logStore) DeleteRange(lo, hi uint64) error {
	if lo > hi {
		return nil
	}
	first, err := s.FirstIndex()
	if err != nil {
		return err
	}
	last := s.last.Load()
	switch {
	case first == 0 || hi < first || lo > last:
		return nil
	case hi >= last:
		return s.cutTail(max(lo, first), last)
	case lo <= first:
		if upto := min(hi, s.trailingIndex()); upto > s.trimTo.Load() {
			s.trimTo.Store(upto)
			poke(s.trimWake)
		}
		return nil
	default:
		return fmt.Errorf("cannot delete %d to %d from the middle of a log of %d to %d", lo, hi, first, last)
	}
}

// cutTail deletes from lo to the end, which may be everything.
func (s *logStore) cutTail(lo, last uint64) error {
	if err := s.repair(); err != nil {
		return err
	}
	s.trimMu.Lock()
	defer s.trimMu.Unlock()
	s.cache.cut(lo)
	s.mu.RLock()
	err := s.raw.DeleteRange(lo, last)
	var left uint64
	if err == nil {
		left, err = s.raw.LastIndex()
	}
	s.mu.RUnlock()
	if err != nil {
		return s.broke(err)
	}
	s.last.Store(left)
	s.noteGhosts(last)
	s.marksMu.Lock()
	for k := len(s.marks); k > 0 && s.marks[k-1].index >= lo; k-- {
		s.marks = s.marks[:k-1]
	}
	s.tailFree = 0
	s.marksMu.Unlock()
	return nil
}

// trailingIndex is the last index that lies trailing bytes or more behind the end.
func (s *logStore) trailingIndex() uint64 {
	s.marksMu.Lock()
	defer s.marksMu.Unlock()
	var index uint64
	keep := s.written.Load() - s.trailing
	n := 0
	for ; n < len(s.marks) && s.marks[n].bytes <= keep; n++ {
		index = s.marks[n].index
	}
	if n > 1 {
		s.marks = append(s.marks[:0], s.marks[n-1:]...)
	}
	return index
}

// runTrim deletes the head of the log step by step. hold keeps it from doing so
// while a follower that is being sent the state will need it.
func (s *logStore) runTrim(hold func() bool, stop <-chan struct{}) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-s.trimWake:
		case <-stop:
			return
		}
		for more := true; more; {
			pause.Reset(trimPause)
			select {
			case <-pause.C:
			case <-stop:
				return
			}
			if hold() {
				continue
			}
			more = s.trimOnce()
		}
	}
}

func (s *logStore) trimOnce() bool {
	s.trimMu.Lock()
	defer s.trimMu.Unlock()
	s.mu.RLock()
	defer s.mu.RUnlock()
	first, err := s.raw.FirstIndex()
	upto := min(s.trimTo.Load(), s.last.Load())
	if err != nil || first == 0 || first > upto || s.broken != nil {
		return false
	}
	step := s.engine.trimStep(first, upto)
	if step < first || step >= s.last.Load() {
		return false
	}
	start := time.Now()
	if err := s.raw.DeleteRange(first, step); err != nil {
		s.log.Warn("cannot shorten the Raft log", "from", first, "to", step, "error", err)
		if isNoSpace(err) {
			return false
		}
		go s.fail(fmt.Errorf("the Raft log in %s cannot be shortened: %w", s.engine.files(), err))
		return false
	}
	s.m.trimmed.Observe(time.Since(start).Seconds())
	return true
}

var _ raft.LogStore = closedLog{}
