package raftnode

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"nekoq/services/errs"
	"nekoq/services/state"
)

// snapshots is raft's snapshot store. A snapshot is virtual: a small file says up
// to which index the state file certainly covers the log, and the data are
// streamed from the state file itself when a follower needs them. They may then
// be newer than the snapshot; the entries between are skipped when they come.
//
// Only a state that is being taken over from another node is a file of its own,
// from the moment it is complete until the state machine has it.
type snapshots struct {
	dir     string
	machine *state.Machine
	m       *metrics
	sending atomic.Int64 // streams to followers that are open
	// install is told when a state begins to come in and when that has ended, well
	// or not; raft's main loop stands still between.
	install    func(begins bool)
	installing atomic.Bool
	// committed is how far the log is known to be right.
	committed func() uint64
	// follows tells whether the log has entries behind this one of the log.
	follows func(index, term uint64) bool

	mu     sync.Mutex
	newest *snapshotMeta
	opened *snapshotMeta // by the last Open, for the Restore that follows it
}

// snapshotMeta is snapshot.json.
type snapshotMeta struct {
	ID                 string `json:"id"`
	Index              uint64 `json:"index"`
	Term               uint64 `json:"term"`
	Configuration      []byte `json:"configuration"`
	ConfigurationIndex uint64 `json:"configuration_index"`
	Version            int    `json:"version"`
	// StateIndex is the index that the state had; no-ops and barriers never reach
	// it, so it may be below Index. 0 while Data is not taken over yet.
	StateIndex uint64 `json:"state_index"`
	// Data is the file with the state, "" for a virtual snapshot.
	Data string `json:"data,omitempty"`
}

const snapshotFile = "snapshot.json"

func openSnapshots(dir string, machine *state.Machine, m *metrics) (*snapshots, error) {
	s := &snapshots{dir: dir, machine: machine, m: m}
	path := filepath.Join(dir, snapshotFile)
	raw, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		meta := &snapshotMeta{}
		if err := json.Unmarshal(raw, meta); err != nil {
			return nil, errs.New(errs.Corrupt, "%s is damaged: %v; %s", path, err, wayOut).Wrap(err)
		}
		s.newest = meta
	}
	return s, s.sweep()
}

// sweep removes what an install that did not finish left.
func (s *snapshots) sweep() error {
	left, err := filepath.Glob(filepath.Join(s.dir, "install-*"))
	if err != nil {
		return err
	}
	for _, f := range left {
		if s.newest != nil && filepath.Base(f) == s.newest.Data {
			continue
		}
		if err := os.Remove(f); err != nil {
			return err
		}
	}
	return nil
}

// recover takes over a state that was complete when the node went down, and
// checks that the state file covers the snapshot.
func (s *snapshots) recover() error {
	m := s.newest
	if m == nil {
		return nil
	}
	if m.Data != "" {
		if err := s.takeOver(m); err != nil {
			return err
		}
	}
	if at, _ := s.machine.Applied(); at < m.StateIndex {
		return errs.New(errs.Corrupt, "the state file ends at index %d, but the Raft log in %s was shortened because it held %d; %s", at, s.dir, m.StateIndex, wayOut)
	}
	return nil
}

// takeOver restores the state from the file of m unless the state machine is
// that far already, and makes the snapshot virtual.
func (s *snapshots) takeOver(m *snapshotMeta) error {
	path := filepath.Join(s.dir, m.Data)
	if at, _ := s.machine.Applied(); at < m.Index {
		f, err := os.Open(path)
		if err != nil {
			return errs.New(errs.Corrupt, "the state in %s was to be taken over, but cannot be read: %v; %s", path, err, wayOut).Wrap(err)
		}
		err = s.machine.Restore(f)
		_ = f.Close()
		if err != nil {
			return err
		}
	}
	return s.settle(m)
}

// settle records that the state machine holds what m covers.
func (s *snapshots) settle(m *snapshotMeta) error {
	done := *m
	done.StateIndex, _ = s.machine.Applied()
	done.Data = ""
	if err := s.save(&done); err != nil {
		return err
	}
	_ = os.Remove(filepath.Join(s.dir, m.Data)) // or the next start does it
	return nil
}

// save makes m the newest snapshot, on the disk before in memory.
func (s *snapshots) save(m *snapshotMeta) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	path := filepath.Join(s.dir, snapshotFile)
	if err := writeSynced(path+".new", raw); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	if err := syncDir(s.dir); err != nil {
		return err
	}
	s.mu.Lock()
	s.newest = m
	s.mu.Unlock()
	return nil
}

func (s *snapshots) last() *snapshotMeta {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.newest
}

// covered is the index and term of the newest snapshot, 0 for none.
func (s *snapshots) covered() (index, term uint64) {
	if m := s.last(); m != nil {
		return m.Index, m.Term
	}
	return 0, 0
}

func (s *snapshots) setInstalling(on bool) {
	if s.installing.Swap(on) != on && s.install != nil {
		s.install(on)
	}
}

// Create is raft.SnapshotStore.
func (s *snapshots) Create(version raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	return &sink{store: s, meta: &snapshotMeta{
		ID:    fmt.Sprintf("%d-%d-%d", term, index, time.Now().UnixNano()),
		Index: index, Term: term, Version: int(version),
		Configuration: raft.EncodeConfiguration(conf), ConfigurationIndex: confIndex,
	}}, nil
}

// List is raft.SnapshotStore: the newest one is all there is.
func (s *snapshots) List() ([]*raft.SnapshotMeta, error) {
	m := s.last()
	if m == nil {
		return nil, nil
	}
	return []*raft.SnapshotMeta{m.raft(0)}, nil
}

func (m *snapshotMeta) raft(size int64) *raft.SnapshotMeta {
	return &raft.SnapshotMeta{
		Version: raft.SnapshotVersion(m.Version), ID: m.ID, Index: m.Index, Term: m.Term,
		Configuration: raft.DecodeConfiguration(m.Configuration), ConfigurationIndex: m.ConfigurationIndex,
		Size: size,
	}
}

// Open is raft.SnapshotStore: to send the state to a follower, or to restore one
// that was received.
func (s *snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	m := s.last()
	if m == nil || m.ID != id {
		s.setInstalling(false)
		return nil, nil, fmt.Errorf("snapshot %s is not there any more", id)
	}
	s.mu.Lock()
	s.opened = m
	s.mu.Unlock()
	if m.Data == "" {
		return s.stream(m)
	}
	f, err := os.Open(filepath.Join(s.dir, m.Data))
	if err != nil {
		s.setInstalling(false)
		return nil, nil, err
	}
	st, err := f.Stat()
	if err != nil {
		s.setInstalling(false)
		_ = f.Close()
		return nil, nil, err
	}
	return m.raft(st.Size()), f, nil
}

// stream sends the state as it is now, which includes everything that m covers.
func (s *snapshots) stream(m *snapshotMeta) (*raft.SnapshotMeta, io.ReadCloser, error) {
	snap, err := s.machine.Snapshot()
	if err != nil {
		return nil, nil, err
	}
	if snap.Index() < m.StateIndex {
		_ = snap.Close()
		return nil, nil, fmt.Errorf("the state is at %d, behind the snapshot's %d", snap.Index(), m.StateIndex)
	}
	s.sending.Add(1)
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := snap.WriteTo(w)
		w.CloseWithError(err)
	}()
	return m.raft(snap.Size()), &stateStream{PipeReader: r, store: s, snap: snap, written: done, start: time.Now()}, nil
}

type stateStream struct {
	*io.PipeReader
	store   *snapshots
	snap    *state.Snapshot
	written chan struct{}
	start   time.Time
	once    sync.Once
}

func (r *stateStream) Close() error {
	r.once.Do(func() {
		_ = r.PipeReader.Close()
		<-r.written
		_ = r.snap.Close()
		r.store.sending.Add(-1)
		r.store.m.sent.Observe(time.Since(r.start).Seconds())
	})
	return nil
}

// sink takes a snapshot: a virtual one, for which covers is called, or the data
// of one from another node.
type sink struct {
	store *snapshots
	meta  *snapshotMeta
	f     *os.File
	ended bool
}

func (k *sink) ID() string { return k.meta.ID }

// covers makes the snapshot virtual: the state file holds everything up to at.
func (k *sink) covers(at uint64) { k.meta.StateIndex = at }

func (k *sink) Write(p []byte) (int, error) {
	if k.f == nil {
		// raft clears the whole log behind a state that it took over. One that ends
		// before what is committed comes late, from a message that its sender had
		// given up, and this node may have acknowledged entries since.
		if at := k.store.committed(); at > k.meta.Index {
			return 0, fmt.Errorf("the state ends at %d, and %d is committed here", k.meta.Index, at)
		}
		if k.store.follows(k.meta.Index, k.meta.Term) {
			return 0, fmt.Errorf("the state ends at %d, and the log here goes on from there", k.meta.Index)
		}
		f, err := os.OpenFile(filepath.Join(k.store.dir, "install-"+k.meta.ID+".part"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return 0, err
		}
		k.f = f
		k.store.setInstalling(true)
	}
	return k.f.Write(p)
}

func (k *sink) Close() (err error) {
	if k.ended {
		return nil
	}
	k.ended = true
	if k.f != nil {
		defer func() {
			if err != nil {
				k.store.setInstalling(false)
			}
		}()
		err := k.f.Sync()
		if cerr := k.f.Close(); err == nil {
			err = cerr
		}
		k.meta.Data = "install-" + k.meta.ID
		if err == nil {
			err = os.Rename(k.f.Name(), filepath.Join(k.store.dir, k.meta.Data))
		}
		if err == nil {
			err = syncDir(k.store.dir)
		}
		if err != nil {
			_ = os.Remove(k.f.Name())
			return err
		}
	}
	old := k.store.last()
	if old != nil && old.Index > k.meta.Index {
		return k.discard(fmt.Errorf("snapshot %s is older than %s", k.meta.ID, old.ID))
	}
	if err := k.store.save(k.meta); err != nil {
		return err
	}
	if old != nil && old.Data != "" {
		// It could not be taken over, perhaps because it filled the disk.
		_ = os.Remove(filepath.Join(k.store.dir, old.Data))
	}
	return nil
}

func (k *sink) discard(err error) error {
	if k.meta.Data != "" {
		_ = os.Remove(filepath.Join(k.store.dir, k.meta.Data))
	}
	return err
}

func (k *sink) Cancel() error {
	if k.ended {
		return nil
	}
	k.ended = true
	if k.f == nil {
		return nil
	}
	k.store.setInstalling(false)
	_ = k.f.Close()
	return os.Remove(k.f.Name())
}
