package state

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/zeebo/xxh3"
	bolt "go.etcd.io/bbolt"

	"nekoq/services/errs"
)

// A snapshot stream is a header, the bbolt file as one read transaction sees
// it, and the xxh3 hash (8 bytes, big-endian) of everything before:
//
//	magic "NQSNAP\x00\x01", then big-endian uint64: index, term, revision,
//	configuration index, chain, length of the file; and the xxh3 hash of these.
const (
	snapshotMagic       = "NQSNAP\x00\x01"
	snapshotHeaderBytes = 8 + 6*8 + 8
	snapshotTrailer     = 8
)

// Snapshot is the file's state at one index, streamed from a bbolt read
// transaction. While it is open, pages of the file are not reused.
type Snapshot struct {
	h     *handle
	tx    *bolt.Tx
	meta  meta
	close sync.Once
	m     *Machine
}

// Snapshot flushes, opens its read transaction and takes the index from it.
func (m *Machine) Snapshot() (*Snapshot, error) {
	if err := m.Flush(context.Background()); err != nil {
		return nil, err
	}
	m.pub.Lock()
	defer m.pub.Unlock()
	if m.base == nil {
		return nil, errs.New(errs.ShuttingDown, "the state machine is closed")
	}
	h := m.base.h
	tx, err := h.begin()
	if err != nil {
		return nil, errs.New(errs.Internal, "state file %s: %v", m.opts.Path, err).Wrap(err)
	}
	mt, err := readMeta(tx)
	if err != nil {
		h.end(tx)
		return nil, corrupt(m.opts.Path, err)
	}
	m.openViews.Add(1)
	return &Snapshot{h: h, tx: tx, meta: mt, m: m}, nil
}

// Index is the applied log index that the snapshot holds.
func (s *Snapshot) Index() uint64 { return s.meta.index }

// Term is the term of the entry at Index.
func (s *Snapshot) Term() uint64 { return s.meta.term }

// Revision is the store revision that the snapshot holds.
func (s *Snapshot) Revision() uint64 { return s.meta.revision }

// Configuration is the Raft configuration that the snapshot holds.
func (s *Snapshot) Configuration() (index uint64, encoded []byte) {
	return s.meta.configIndex, s.meta.config
}

// Size is the exact number of bytes that WriteTo writes.
func (s *Snapshot) Size() int64 {
	return snapshotHeaderBytes + s.tx.Size() + snapshotTrailer
}

// WriteTo streams the snapshot. It may be called more than once.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) {
	sum := xxh3.New()
	out := io.MultiWriter(w, sum)
	head := encodeHeader(&s.meta, s.tx.Size())
	n, err := out.Write(head)
	total := int64(n)
	if err != nil {
		return total, err
	}
	size, err := s.tx.WriteTo(out)
	total += size
	if err != nil {
		return total, err
	}
	n, err = w.Write(binary.BigEndian.AppendUint64(nil, sum.Sum64()))
	return total + int64(n), err
}

// Close ends the read transaction.
func (s *Snapshot) Close() error {
	s.close.Do(func() {
		s.m.openViews.Add(-1)
		s.h.end(s.tx)
	})
	return nil
}

func encodeHeader(m *meta, size int64) []byte {
	b := make([]byte, 0, snapshotHeaderBytes)
	b = append(b, snapshotMagic...)
	for _, v := range []uint64{m.index, m.term, m.revision, m.configIndex, m.chain, uint64(size)} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return binary.BigEndian.AppendUint64(b, xxh3.Hash(b))
}

// SnapshotInfo is what a snapshot stream's header says.
type SnapshotInfo struct {
	Index, Term, Revision, ConfigurationIndex, Chain uint64
	FileBytes                                        int64
}

var errSnapshot = errors.New("not a whole snapshot")

// ReadSnapshotInfo reads the header off the front of a snapshot stream.
func ReadSnapshotInfo(r io.Reader) (SnapshotInfo, error) {
	var b [snapshotHeaderBytes]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return SnapshotInfo{}, badSnapshot(fmt.Errorf("%w: its header: %w", errSnapshot, err))
	}
	return parseHeader(b[:])
}

func parseHeader(b []byte) (SnapshotInfo, error) {
	if !bytes.HasPrefix(b, []byte(snapshotMagic)) {
		return SnapshotInfo{}, badSnapshot(fmt.Errorf("%w: it has no snapshot marker of this version", errSnapshot))
	}
	body := b[:snapshotHeaderBytes-8]
	if binary.BigEndian.Uint64(b[len(body):]) != xxh3.Hash(body) {
		return SnapshotInfo{}, badSnapshot(fmt.Errorf("%w: its header is damaged", errSnapshot))
	}
	n := func(i int) uint64 { return binary.BigEndian.Uint64(b[8+8*i:]) }
	info := SnapshotInfo{
		Index: n(0), Term: n(1), Revision: n(2), ConfigurationIndex: n(3), Chain: n(4), FileBytes: int64(n(5)),
	}
	if info.FileBytes <= 0 || info.FileBytes > 1<<50 {
		return SnapshotInfo{}, badSnapshot(fmt.Errorf("%w: its length is %d", errSnapshot, info.FileBytes))
	}
	return info, nil
}

func badSnapshot(err error) error {
	return errs.New(errs.Corrupt, "the snapshot cannot be used (%v); nothing was changed", err).Wrap(err)
}
