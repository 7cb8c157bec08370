package raftnode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"

	"nekoq/services/errs"
)

// rawLog is a log store of a library.
type rawLog interface {
	raft.LogStore
	io.Closer
}

// logEngine opens and knows one kind of log store.
type logEngine interface {
	// open opens the files; check reads all of them and reports damage that is
	// not the torn tail of the last, unacknowledged write.
	open() (rawLog, error)
	check() error
	// trimStep gives the last index to delete in one step that frees some files
	// or pages without holding up a writer for long, at most upto; 0 for nothing
	// worth doing.
	trimStep(first, upto uint64) uint64
	files() string // what an error message names
}

// logStore is what raft sees of a log store. Around the library's it
//
//   - puts a checksum into every entry and verifies what it reads;
//   - keeps recent entries in memory, bounded by bytes (raft's own cache counts
//     entries);
//   - drops the head a little at a time in the background, and keeps some bytes of
//     log behind a snapshot;
//   - never starts a write that the disk may not hold, and reopens the files after
//     a write that failed all the same: raft-wal cannot append after one.
//
// raft's main loop writes; any goroutine reads.
type logStore struct {
	before   func()                      // runs before each write; nil but in tests
	first    func() error                // called when the empty log got entries, before they count
	snapshot func() (index, term uint64) // the newest one's; 0 for none

	engine logEngine
	disk   *diskGuard
	log    *slog.Logger
	m      *metrics
	fail   func(error) // stops the node

	mu     sync.RWMutex // held to reopen raw
	raw    rawLog
	broken error       // why raw must be reopened before the next write
	full   atomic.Bool // no space for the last write; stays until one succeeds

	last    atomic.Uint64 // last index that is certainly there
	ghost   atomic.Uint64 // raft may believe in entries up to here; 0 for none (see ghosts.go)
	written atomic.Int64  // bytes of entries since New
	cache   entryCache

	marksMu  sync.Mutex
	marks    []mark // every markBytes, ascending
	tailFree uint64 // entries at the end that never reach the state (no-ops, barriers)

	trailing int64
	trimMu   sync.Mutex    // one deletion at a time
	trimTo   atomic.Uint64 // the head may go up to here
	trimWake chan struct{}
	grown    chan struct{} // poked when limit bytes were written since the last snapshot
	limit    int64
	snapAt   atomic.Int64 // written when the last snapshot was taken
}

// mark says how many bytes had been written when index was.
type mark struct {
	index uint64
	bytes int64
}

const (
	markBytes     = 256 << 10
	entryOverhead = 64 // bytes an entry takes in a log beside its data, about
)

var (
	_ raft.LogStore          = (*logStore)(nil)
	_ raft.MonotonicLogStore = (*logStore)(nil)
)

func openLog(engine logEngine, cfg Config, disk *diskGuard, log *slog.Logger, m *metrics, fail func(error)) (*logStore, error) {
	if err := engine.check(); err != nil {
		return nil, err
	}
	raw, err := engine.open()
	if err != nil {
		return nil, corruptLog(engine.files(), err)
	}
	s := &logStore{
		engine: engine, disk: disk, log: log, m: m, fail: fail, raw: raw,
		cache:    entryCache{limit: cfg.CacheBytes},
		trailing: cfg.TrailingLogBytes, limit: cfg.SnapshotLogBytes,
		trimWake: make(chan struct{}, 1), grown: make(chan struct{}, 1),
		snapshot: func() (index, term uint64) { return 0, 0 },
	}
	if err := s.scan(); err != nil {
		_ = raw.Close()
		return nil, err
	}
	return s, nil
}

func corruptLog(files string, cause error) error {
	if isNoSpace(cause) {
		return errStorageFull(cause)
	}
	return errs.New(errs.Corrupt, "the Raft log in %s is damaged: %v; %s", files, cause, wayOut).Wrap(cause)
}

// scan reads every entry once: it verifies the checksums and counts the bytes.
func (s *logStore) scan() (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // a file that ends too early
	defer func() {
		if r := recover(); r != nil {
			err = corruptLog(s.engine.files(), fmt.Errorf("%v", r))
		}
	}()
	first, err := s.raw.FirstIndex()
	if err != nil {
		return corruptLog(s.engine.files(), err)
	}
	last, err := s.raw.LastIndex()
	if err != nil {
		return corruptLog(s.engine.files(), err)
	}
	for i := first; i <= last && first > 0; i++ {
		var l raft.Log
		if err := s.raw.GetLog(i, &l); err != nil {
			return corruptLog(s.engine.files(), fmt.Errorf("entry %d of %d to %d: %w", i, first, last, err))
		}
		if err := verifyEntry(i, &l); err != nil {
			return corruptLog(s.engine.files(), err)
		}
		s.account(&l)
	}
	s.last.Store(last)
	return nil
}

// IsMonotonic makes raft clear the log after it installed a snapshot.
func (s *logStore) IsMonotonic() bool { return true }

func (s *logStore) FirstIndex() (uint64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.raw.FirstIndex()
}

func (s *logStore) LastIndex() (uint64, error) { return s.last.Load(), nil }

func (s *logStore) GetLog(index uint64, l *raft.Log) error {
	if s.cache.get(index, l) {
		return nil
	}
	if index > s.last.Load() {
		return s.ghostLog(index, l)
	}
	s.mu.RLock()
	err := s.raw.GetLog(index, l)
	s.mu.RUnlock()
	if err != nil {
		return err // raft compares with ErrLogNotFound
	}
	if err := verifyEntry(index, l); err != nil {
		err = corruptLog(s.engine.files(), err)
		s.fail(err)
		return err
	}
	return nil
}

func (s *logStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs returns when the entries are on the disk.
func (s *logStore) StoreLogs(logs []*raft.Log) error {
	if s.disk.out.Load() {
		s.full.Store(true)
		return errStorageFull(nil)
	}
	if g := s.ghost.Load(); g != 0 && logs[0].Index > g {
		return errGhosts
	}
	for _, l := range logs {
		if len(l.Extensions) == 0 {
			l.Extensions = checksum(l) // the leader's; followers store what they were sent
		} else if err := verifyEntry(l.Index, l); err != nil {
			return err
		}
	}
	start := time.Now()
	if s.before != nil {
		s.before()
	}
	if err := s.append(logs); err != nil {
		return err
	}
	s.m.logSync.Observe(time.Since(start).Seconds())
	if s.full.Load() {
		s.full.Store(false)
		s.log.Info("the Raft log is written again", "index", logs[0].Index)
	}
	if s.last.Load() == 0 && s.first != nil {
		if err := s.first(); err != nil {
			return err
		}
	}
	s.last.Store(logs[len(logs)-1].Index)
	s.ghost.Store(0)
	for _, l := range logs {
		s.cache.put(l)
		s.account(l)
	}
	if s.written.Load()-s.snapAt.Load() >= s.limit {
		poke(s.grown)
	}
	return nil
}

func (s *logStore) append(logs []*raft.Log) error {
	if err := s.repair(); err != nil {
		return err
	}
	s.mu.RLock()
	err := s.raw.StoreLogs(logs)
	s.mu.RUnlock()
	if err == nil {
		return nil
	}
	return s.broke(err)
}

// errHalfWritten marks a write that failed on the way: after a crash some of it may
// be found whole in the log.
var errHalfWritten = errors.New("the write may be in the log")

// broke decides what a failed write means. A full disk passes: the files are
// reopened before the next write. After any other failure nobody knows what the
// disk holds, so the node stops.
func (s *logStore) broke(err error) error {
	s.mu.Lock()
	s.broken = err
	s.mu.Unlock()
	// raft-wal only logs a failure to begin a segment; the write after it then
	// finds the old one sealed.
	if isNoSpace(err) || errors.Is(err, wal.ErrSealed) {
		s.full.Store(true)
		s.disk.look()
		return errStorageFull(errors.Join(errHalfWritten, err))
	}
	err = fmt.Errorf("the Raft log in %s cannot be written: %w", s.engine.files(), err)
	s.fail(err)
	return err
}

// repair reopens the files after a failed write and cuts what that write left
// behind its last acknowledged entry.
func (s *logStore) repair() error {
	s.mu.RLock()
	broken := s.broken
	s.mu.RUnlock()
	if broken == nil {
		return nil
	}
	s.trimMu.Lock()
	defer s.trimMu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.raw.Close()
	raw, err := s.engine.open()
	if err != nil {
		if !isNoSpace(err) {
			s.fail(corruptLog(s.engine.files(), err))
		}
		s.raw = closedLog{}
		return errStorageFull(err)
	}
	s.raw = raw
	want := s.last.Load()
	have, err := raw.LastIndex()
	if err == nil && have < want {
		err = corruptLog(s.engine.files(), fmt.Errorf("it ends at %d, but %d was acknowledged", have, want))
		s.fail(err)
	}
	if err == nil && have > want {
		err = raw.DeleteRange(want+1, have)
	}
	if err != nil {
		return errStorageFull(err)
	}
	s.broken = nil
	return nil
}

// closedLog stands in while the files cannot be opened.
type closedLog struct{}

var errLogClosed = errors.New("the Raft log is not open")

func (closedLog) FirstIndex() (uint64, error)      { return 0, errLogClosed }
func (closedLog) LastIndex() (uint64, error)       { return 0, errLogClosed }
func (closedLog) GetLog(uint64, *raft.Log) error   { return errLogClosed }
func (closedLog) StoreLog(*raft.Log) error         { return errLogClosed }
func (closedLog) StoreLogs([]*raft.Log) error      { return errLogClosed }
func (closedLog) DeleteRange(uint64, uint64) error { return errLogClosed }
func (closedLog) Close() error                     { return nil }

func (s *logStore) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.raw.Close()
	s.raw = closedLog{}
	return err
}

func (s *logStore) account(l *raft.Log) {
	n := s.written.Add(int64(len(l.Data)) + entryOverhead)
	s.marksMu.Lock()
	defer s.marksMu.Unlock()
	if l.Type == raft.LogNoop || l.Type == raft.LogBarrier {
		s.tailFree++
	} else {
		s.tailFree = 0
	}
	if k := len(s.marks); k == 0 || n-s.marks[k-1].bytes >= markBytes {
		s.marks = append(s.marks, mark{l.Index, n})
	}
}

// sinceSnapshot is the bytes of log written since the last snapshot.
func (s *logStore) sinceSnapshot() int64 { return s.written.Load() - s.snapAt.Load() }

// snapshotTaken starts the count anew, from index.
func (s *logStore) snapshotTaken(index uint64) {
	s.marksMu.Lock()
	defer s.marksMu.Unlock()
	at := s.written.Load()
	for _, m := range s.marks {
		if m.index > index {
			at = m.bytes
			break
		}
	}
	s.snapAt.Store(at)
}

// stateless is how many entries at the end of the log never reach the state.
func (s *logStore) stateless() uint64 {
	s.marksMu.Lock()
	defer s.marksMu.Unlock()
	return s.tailFree
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// The checksum covers everything of an entry that decides what it does. It goes
// into raft's Extensions, so it travels to the followers and is verified there.
func checksum(l *raft.Log) []byte {
	var head [17]byte
	binary.BigEndian.PutUint64(head[:], l.Index)
	binary.BigEndian.PutUint64(head[8:], l.Term)
	head[16] = byte(l.Type)
	crc := crc32.Update(crc32.Checksum(head[:], castagnoli), castagnoli, l.Data)
	return binary.BigEndian.AppendUint32(nil, crc)
}

func verifyEntry(index uint64, l *raft.Log) error {
	if l.Index != index {
		return fmt.Errorf("entry %d says that it is %d", index, l.Index)
	}
	if string(checksum(l)) != string(l.Extensions) {
		return fmt.Errorf("entry %d does not match its checksum", index)
	}
	return nil
}

// entryCache is the newest entries of the log without a gap, bounded by bytes.
type entryCache struct {
	limit int64

	mu    sync.RWMutex
	ring  []*raft.Log
	head  int
	count int
	first uint64 // index of ring[head]
	bytes int64
}

func (c *entryCache) get(index uint64, l *raft.Log) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if index < c.first || index >= c.first+uint64(c.count) {
		return false
	}
	*l = *c.ring[(c.head+int(index-c.first))%len(c.ring)]
	return true
}

func (c *entryCache) put(l *raft.Log) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count > 0 && l.Index != c.first+uint64(c.count) {
		c.dropTail(0)
	}
	if c.count == 0 {
		c.first = l.Index
	}
	if c.count == len(c.ring) {
		grown := make([]*raft.Log, max(256, 2*len(c.ring)))
		for i := range c.count {
			grown[i] = c.ring[(c.head+i)%len(c.ring)]
		}
		c.ring, c.head = grown, 0
	}
	c.ring[(c.head+c.count)%len(c.ring)] = l
	c.count++
	c.bytes += int64(len(l.Data)) + entryOverhead
	for c.bytes > c.limit && c.count > 0 {
		c.bytes -= int64(len(c.ring[c.head].Data)) + entryOverhead
		c.ring[c.head] = nil
		c.head = (c.head + 1) % len(c.ring)
		c.first++
		c.count--
	}
}

// cut forgets the entries from index on.
func (c *entryCache) cut(index uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	keep := 0
	if index > c.first {
		keep = min(int(index-c.first), c.count)
	}
	c.dropTail(keep)
}

func (c *entryCache) dropTail(keep int) {
	for c.count > keep {
		c.count--
		i := (c.head + c.count) % len(c.ring)
		c.bytes -= int64(len(c.ring[i].Data)) + entryOverhead
		c.ring[i] = nil
	}
}
