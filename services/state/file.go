package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"nekoq/services/errs"
)

// The bucket that carries the file's own data beside the tables.
var (
	metaBucket = []byte("_meta")
	metaKey    = []byte("state")
	confKey    = []byte("raft_configuration")
)

// meta is the position of the state. One is written with every commit.
type meta struct {
	index, term, revision uint64
	time                  int64
	chain                 uint64
	configIndex           uint64
	config                []byte
}

const (
	fileMagic   = "NQSTATE\x00"
	fileVersion = 3
	metaBytes   = 8 + 2 + 6*8
)

func (m *meta) encode() []byte {
	b := make([]byte, 0, metaBytes)
	b = append(b, fileMagic...)
	b = binary.BigEndian.AppendUint16(b, fileVersion)
	for _, v := range []uint64{m.index, m.term, m.revision, uint64(m.time), m.chain, m.configIndex} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}

func readMeta(tx *bolt.Tx) (meta, error) {
	b := tx.Bucket(metaBucket)
	if b == nil {
		return meta{}, errors.New("it has no format marker")
	}
	v := b.Get(metaKey)
	if len(v) < 10 || string(v[:8]) != fileMagic {
		return meta{}, errors.New("its format marker is damaged")
	}
	if version := binary.BigEndian.Uint16(v[8:]); version != fileVersion {
		return meta{}, fmt.Errorf("it has format version %d; this program reads version %d", version, fileVersion)
	}
	if len(v) != metaBytes {
		return meta{}, errors.New("its position record is damaged")
	}
	n := func(i int) uint64 { return binary.BigEndian.Uint64(v[10+8*i:]) }
	m := meta{index: n(0), term: n(1), revision: n(2), time: int64(n(3)), chain: n(4), configIndex: n(5)}
	m.config = append([]byte(nil), b.Get(confKey)...)
	return m, nil
}

func writeMeta(tx *bolt.Tx, m *meta) error {
	b := tx.Bucket(metaBucket)
	if b == nil {
		return errors.New("the format marker is gone")
	}
	if err := b.Put(metaKey, m.encode()); err != nil {
		return err
	}
	return b.Put(confKey, m.config)
}

// corrupt is the error of a state file that cannot be read.
func corrupt(path string, cause error) error {
	return errs.New(errs.Corrupt, "the state file %s is damaged or not a state file (%v); "+
		"move it away and let the node join again, or restore a backup", path, cause).Wrap(cause)
}

// handle is one open bbolt file. The machine, every base and every snapshot
// hold a reference; the last one closes it.
type handle struct {
	db       *bolt.DB
	file     *os.File // bbolt's own, for its size
	mapBytes int64    // of bbolt's memory map, a lower bound that holds every page
	mapStart uintptr
	pageSize int64
	refs     atomic.Int64
	closed   chan struct{}
	err      error  // of closing; valid when closed
	onClosed func() // set before the machine's own reference goes

	sparing atomic.Bool // single rows are read past the map

	mu    sync.Mutex
	txs   map[int]int   // open read transactions by transaction id
	fewer chan struct{} // closed and replaced when one ends
}

func (h *handle) release() {
	if h.refs.Add(-1) == 0 {
		h.err = h.db.Close()
		if h.onClosed != nil {
			h.onClosed()
		}
		close(h.closed)
	}
}

// begin opens a read transaction that holds a reference.
func (h *handle) begin() (*bolt.Tx, error) {
	tx, err := h.db.Begin(false)
	if err != nil {
		return nil, err
	}
	h.refs.Add(1)
	h.mu.Lock()
	h.txs[tx.ID()]++
	h.mu.Unlock()
	return tx, nil
}

// end ends a transaction of begin.
func (h *handle) end(tx *bolt.Tx) {
	id := tx.ID()
	_ = tx.Rollback()
	h.mu.Lock()
	if h.txs[id]--; h.txs[id] == 0 {
		delete(h.txs, id)
	}
	close(h.fewer)
	h.fewer = make(chan struct{})
	h.mu.Unlock()
	h.release()
}

// opener opens the file that bbolt works on.
type opener func(name string, flag int, perm os.FileMode) (*os.File, error)

// mapSize rounds n up to a size that bbolt maps as it is: a power of two from
// 32 KiB, whole GiB above one GiB.
func mapSize(n int64) int64 {
	for size := int64(32 << 10); size <= 1<<30; size *= 2 {
		if n <= size {
			return size
		}
	}
	return (n + 1<<30 - 1) >> 30 << 30
}

// openFile opens path, creates what is missing and reads its position. Every
// failure, panics of bbolt on damaged pages included, is an *errs.Error.
func openFile(path string, reg *Registry, cfg *Config, mode Mode, open opener) (h *handle, m meta, err error) {
	// A page beyond the end of a cut file is a fault of the memory map; as a
	// panic it can be told from a crash.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	if open == nil {
		open = os.OpenFile
	}
	n := &handle{closed: make(chan struct{}), txs: make(map[int]int), fewer: make(chan struct{})}
	n.refs.Store(1)
	defer func() {
		if p := recover(); p != nil {
			err = corrupt(path, panicError(p))
		}
		if err != nil {
			h = nil
			closeQuietly(n)
		}
	}()
	n.mapBytes = mapSize(cfg.MmapBytes)
	if info, serr := os.Stat(path); serr == nil {
		n.mapBytes = max(n.mapBytes, mapSize(info.Size()))
	}
	n.db, err = bolt.Open(path, 0o600, &bolt.Options{
		Timeout:         cfg.LockTimeout,
		FreelistType:    bolt.FreelistMapType,
		InitialMmapSize: int(n.mapBytes),
		NoSync:          mode == Volatile,
		NoGrowSync:      mode == Volatile,
		OpenFile: func(name string, flag int, perm os.FileMode) (*os.File, error) {
			f, err := open(name, flag, perm)
			n.file = f
			return f, err
		},
	})
	if err != nil {
		return nil, meta{}, openError(path, err)
	}
	if mode == Volatile {
		n.db.AllocSize = 1 << 20
	}
	if err := n.createMissing(path, reg); err != nil {
		return nil, meta{}, err
	}
	if err := n.db.View(func(tx *bolt.Tx) error {
		n.mapBytes = max(n.mapBytes, mapSize(tx.Size())) // createMissing may have grown it
		var err error
		m, err = readMeta(tx)
		return err
	}); err != nil {
		return nil, meta{}, corrupt(path, err)
	}
	n.mapStart, n.pageSize = n.db.Info().Data, int64(n.db.Info().PageSize)
	n.limit(cfg)
	return n, m, nil
}

// own returns b, copied when it lies in the memory map and so does not outlive
// the transaction that gave it.
func (h *handle) own(b []byte) []byte {
	at := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	if at >= h.mapStart && at-h.mapStart < uintptr(h.mapBytes) {
		return append(make([]byte, 0, len(b)), b...)
	}
	return b
}

// limit makes bbolt refuse to grow the file to the end of its memory map, where
// it would wait for all readers, or beyond the configured size.
func (h *handle) limit(cfg *Config) {
	h.db.MaxSize = int(h.mapBytes - 1)
	if cfg.MaxFileBytes > 0 {
		h.db.MaxSize = int(min(cfg.MaxFileBytes, h.mapBytes-1))
	}
}

func openError(path string, err error) error {
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return errs.New(errs.Conflict, "the state file %s is in use by another process; "+
			"stop it, or give this node its own node.data_dir", path).Wrap(err)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch), errors.Is(err, berrors.ErrChecksum):
		return corrupt(path, err)
	case isFull(err):
		return errs.New(errs.StorageFull, "the disk of the state file %s is full; make room and start again", path).Wrap(err)
	}
	if at, ok := errors.AsType[*fs.PathError](err); ok {
		// The system's word about the path says nothing about what the file holds.
		return errs.New(errs.Unavailable, "the state file %s cannot be opened: %v; make it readable and writable for this user, "+
			"or set node.data_dir to another folder", path, at.Err).Wrap(err)
	}
	if info, serr := os.Stat(path); serr == nil && info.Mode().IsRegular() {
		return corrupt(path, err)
	}
	return errs.New(errs.Unavailable, "the state file %s cannot be opened: %v", path, err).Wrap(err)
}

// createMissing makes the marker of a new file and the tables that it lacks. A
// file with other buckets and no marker is not ours and is left alone.
func (h *handle) createMissing(path string, reg *Registry) error {
	fresh, missing := false, false
	err := h.db.View(func(tx *bolt.Tx) error {
		info, err := h.file.Stat()
		if err != nil {
			return err
		}
		if tx.Size() > info.Size() {
			return fmt.Errorf("it was cut to %d of %d bytes", info.Size(), tx.Size())
		}
		if k, _ := tx.Cursor().First(); k == nil {
			fresh = true
		} else if _, err := readMeta(tx); err != nil {
			return err
		}
		for _, t := range reg.tables {
			missing = missing || tx.Bucket(t.bucket) == nil
		}
		return nil
	})
	if err != nil {
		return corrupt(path, err)
	}
	if !fresh && !missing {
		return nil
	}
	if err := h.db.Update(func(tx *bolt.Tx) error { return createBuckets(tx, reg) }); err != nil {
		return openError(path, err)
	}
	return nil
}

func createBuckets(tx *bolt.Tx, reg *Registry) error {
	if tx.Bucket(metaBucket) == nil {
		if _, err := tx.CreateBucket(metaBucket); err != nil {
			return err
		}
		if err := writeMeta(tx, &meta{}); err != nil {
			return err
		}
	}
	for _, t := range reg.tables {
		if _, err := tx.CreateBucketIfNotExists(t.bucket); err != nil {
			return err
		}
	}
	return nil
}

// closeQuietly closes a file that failed to open fully. After a panic inside
// bbolt its locks may be held and Close would wait for ever; then only the lock
// of the file is let go (its memory map would keep it) and the descriptor closed.
func closeQuietly(h *handle) {
	if h.db == nil {
		if h.file != nil {
			_ = unlockFile(h.file)
			_ = h.file.Close()
		}
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { _ = recover() }()
		_ = h.db.Close()
	}()
	select {
	case <-done:
	case <-time.After(time.Second):
		_ = unlockFile(h.file)
		_ = h.file.Close()
	}
}

// base is a read transaction of the file, shared by generations and counted.
// bbolt's Bucket.Get and Cursor only read on a read-only transaction (their
// counters are atomic), so any number of goroutines may share it.
type base struct {
	h        *handle
	tx       *bolt.Tx
	reg      *Registry
	buckets  []atomic.Pointer[bolt.Bucket]
	cursors  []sync.Pool // of *bolt.Cursor, by table: a Get or Scan costs no allocation of one
	shapes   []atomic.Pointer[shape]
	branches atomic.Pointer[[branchSlots]atomic.Pointer[branch]]
	refs     atomic.Int64
}

// newBase begins a read transaction; it has one reference.
func newBase(h *handle, reg *Registry) (*base, error) {
	tx, err := h.begin()
	if err != nil {
		return nil, err
	}
	n := len(reg.tables)
	b := &base{h: h, tx: tx, reg: reg, buckets: make([]atomic.Pointer[bolt.Bucket], n), cursors: make([]sync.Pool, n), shapes: make([]atomic.Pointer[shape], n)}
	b.refs.Store(1)
	return b, nil
}

// bucket returns the table's bucket, looked up once.
func (b *base) bucket(slot int) *bolt.Bucket {
	if p := b.buckets[slot].Load(); p != nil {
		return p
	}
	p := b.tx.Bucket(b.reg.tables[slot].bucket)
	b.buckets[slot].Store(p)
	return p
}

// cursor gives a cursor of the table, which goes back to cursors.
func (b *base) cursor(slot int) *bolt.Cursor {
	if c, _ := b.cursors[slot].Get().(*bolt.Cursor); c != nil {
		return c
	}
	return b.bucket(slot).Cursor()
}

// get looks one key up.
func (b *base) get(slot int, key []byte) ([]byte, bool) {
	if b.h.sparing.Load() {
		if v, found, ok := b.read(slot, key); ok {
			return v, found
		}
	}
	c := b.cursor(slot)
	k, v := c.Seek(key)
	b.cursors[slot].Put(c)
	if k == nil || !bytes.Equal(k, key) {
		return nil, false
	}
	return v, true
}

func (b *base) release() {
	if b.refs.Add(-1) == 0 {
		b.h.end(b.tx)
	}
}
