package raftnode

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"nekoq/services/errs"
	"nekoq/services/replica"
	"nekoq/services/replica/internal/group"
	"nekoq/services/state"
)

// fsm hands committed entries to the state machine. It decodes nothing. Results
// of entries that this node proposed go from here straight to their callers,
// which spares them two goroutine switches.
type fsm struct {
	machine *state.Machine
	snaps   *snapshots
	m       *metrics
	fail    func(error)
	hints   *hints
	halted  atomic.Bool // nothing is applied or answered any more

	mu       sync.Mutex
	inflight map[*byte]*flight // by the first byte of the entry
}

// flight is an entry on its way through the log.
type flight struct {
	batch    []*group.Proposal
	answered atomic.Bool
}

var (
	_ raft.BatchingFSM        = (*fsm)(nil)
	_ raft.ConfigurationStore = (*fsm)(nil)
)

var errHalted = errors.New("the state machine has halted")

func (f *fsm) track(entry []byte, fl *flight) {
	f.mu.Lock()
	f.inflight[&entry[0]] = fl
	f.mu.Unlock()
}

func (f *fsm) untrack(entry []byte) {
	f.mu.Lock()
	delete(f.inflight, &entry[0])
	f.mu.Unlock()
}

// abandon answers what is on its way after raft has stopped.
func (f *fsm) abandon() {
	f.halted.Store(true)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, fl := range f.inflight {
		if fl.answered.Swap(true) {
			continue
		}
		for _, p := range fl.batch {
			p.Finish(replica.Result{}, group.Unknown(raft.ErrRaftShutdown))
		}
	}
}

// ApplyBatch is raft.BatchingFSM.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	out := make([]any, len(logs))
	for i, l := range logs {
		out[i] = f.Apply(l)
	}
	return out
}

// Apply applies one entry. It returns nil or the error that stopped the node.
func (f *fsm) Apply(l *raft.Log) any {
	if f.halted.Load() {
		return errHalted
	}
	switch l.Type {
	case raft.LogCommand:
		results, err := f.machine.ApplyEntry(l.Index, l.Term, l.Data)
		if err != nil {
			f.halted.Store(true)
			f.fail(err)
			return err
		}
		f.answer(l, results)
	case raft.LogConfiguration:
		f.configuration(l.Index, l.Data)
		f.machine.Advance(l.Index, l.Term)
	}
	return nil
}

func (f *fsm) configuration(index uint64, encoded []byte) {
	if have, _ := f.machine.Configuration(); index > have {
		f.machine.SetConfiguration(index, encoded)
	}
}

func (f *fsm) answer(l *raft.Log, results []state.Result) {
	if len(l.Data) == 0 {
		return
	}
	f.mu.Lock()
	fl := f.inflight[&l.Data[0]]
	delete(f.inflight, &l.Data[0]) // now: entries of one batch are untracked after all of it
	last := len(f.inflight) == 0
	f.mu.Unlock()
	if fl != nil && last && f.hints != nil {
		f.hints.committed(l.Index, l.Term)
	}
	if fl == nil || len(results) != len(fl.batch) || fl.answered.Swap(true) {
		return
	}
	for i, p := range fl.batch {
		if r := &results[i]; r.Err != nil {
			p.Finish(replica.Result{}, r.Err)
		} else {
			p.Finish(replica.Result{Index: l.Index, Revision: r.Revision, Changed: r.Changed, Data: r.Data}, nil)
		}
	}
}

// StoreConfiguration is raft.ConfigurationStore; with ApplyBatch raft sends
// configurations there.
func (f *fsm) StoreConfiguration(index uint64, c raft.Configuration) {
	f.configuration(index, raft.EncodeConfiguration(c))
}

// Snapshot makes everything applied so far durable. It is quick: the node has
// flushed just before it asked for the snapshot.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	if f.halted.Load() {
		return nil, errHalted
	}
	if err := f.machine.Flush(context.Background()); err != nil {
		return nil, err
	}
	return virtualSnapshot(f.machine.Durable()), nil
}

type virtualSnapshot uint64

func (v virtualSnapshot) Persist(to raft.SnapshotSink) error {
	k, ok := to.(*sink)
	if !ok {
		return errs.New(errs.Internal, "a snapshot sink of another store: %T", to)
	}
	k.covers(uint64(v))
	return k.Close()
}

func (v virtualSnapshot) Release() {}

// Restore takes over the state that another node sent. When this node's state
// covers it already, there is nothing to do: both are states of the same log.
func (f *fsm) Restore(r io.ReadCloser) error {
	defer f.snaps.setInstalling(false)
	f.snaps.mu.Lock()
	m := f.snaps.opened
	f.snaps.mu.Unlock()
	if m == nil || m.Data == "" {
		return errs.New(errs.Internal, "raft restores a snapshot that was not received")
	}
	start := time.Now()
	if at, _ := f.machine.Applied(); at < m.Index {
		if err := f.machine.Restore(r); err != nil {
			return err
		}
	}
	if err := f.snaps.settle(m); err != nil {
		return err
	}
	f.m.installs.Observe(time.Since(start).Seconds())
	return nil
}
