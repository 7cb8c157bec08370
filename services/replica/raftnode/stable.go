package raftnode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"nekoq/services/errs"
)

// stableStore keeps the term and the vote. It is a file of two slots, both
// written in full (one after the other, each synced) on every change: a torn
// write leaves one good slot, a damaged sector too, and since the blocks are
// there from the beginning a full disk never stops an election. (hashicorp/raft
// panics when it cannot save its term.)
type stableStore struct {
	mu     sync.Mutex
	f      *os.File
	path   string
	seq    uint64
	values map[string][]byte
}

const (
	stableSlot  = 4096
	stableMagic = 0x4e51564f // "NQVO"
	stableHead  = 4 + 4 + 8  // magic, length, sequence
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func openStable(dir string) (*stableStore, error) {
	s := &stableStore{path: filepath.Join(dir, "vote"), values: map[string][]byte{}}
	if _, err := os.Stat(s.path); errors.Is(err, fs.ErrNotExist) {
		if err := s.create(dir); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(s.path, os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	s.f = f
	if err := s.load(); err != nil {
		_ = f.Close()
		return nil, err
	}
	return s, nil
}

func (s *stableStore) create(dir string) error {
	slot, err := s.encode(1, nil)
	if err != nil {
		return err
	}
	tmp := s.path + ".new"
	if err := writeSynced(tmp, slices.Concat(slot, slot)); err != nil {
		return err
	}
	if err := os.Rename(tmp, s.path); err != nil {
		return err
	}
	return syncDir(dir)
}

func (s *stableStore) load() error {
	var buf [2 * stableSlot]byte
	if _, err := s.f.ReadAt(buf[:], 0); err != nil {
		return errs.New(errs.Corrupt, "%s cannot be read as the node's vote; %s", s.path, wayOut).Wrap(err)
	}
	for _, slot := range [][]byte{buf[:stableSlot], buf[stableSlot:]} {
		seq, values, err := decodeSlot(slot)
		if err == nil && seq > s.seq {
			s.seq, s.values = seq, values
		}
	}
	if s.seq == 0 {
		return errs.New(errs.Corrupt, "both copies of the node's vote in %s are damaged; %s", s.path, wayOut)
	}
	return nil
}

// wayOut is what an operator does about a damaged Raft file.
const wayOut = "if the cluster has a healthy majority, remove this node from it, move its data folder away and let it join anew; otherwise restore a backup"

func (s *stableStore) encode(seq uint64, values map[string][]byte) ([]byte, error) {
	body := binary.AppendUvarint(nil, uint64(len(values)))
	for _, k := range slices.Sorted(maps.Keys(values)) {
		body = binary.AppendUvarint(body, uint64(len(k)))
		body = append(body, k...)
		body = binary.AppendUvarint(body, uint64(len(values[k])))
		body = append(body, values[k]...)
	}
	if stableHead+len(body)+4 > stableSlot {
		return nil, fmt.Errorf("the stable store holds %d bytes; the limit is %d", len(body), stableSlot-stableHead-4)
	}
	slot := make([]byte, stableHead, stableSlot)
	binary.BigEndian.PutUint32(slot, stableMagic)
	binary.BigEndian.PutUint32(slot[4:], uint32(len(body)))
	binary.BigEndian.PutUint64(slot[8:], seq)
	slot = append(slot, body...)
	slot = binary.BigEndian.AppendUint32(slot, crc32.Checksum(slot, castagnoli))
	return slot[:stableSlot], nil
}

func decodeSlot(slot []byte) (seq uint64, values map[string][]byte, err error) {
	damaged := errors.New("damaged slot")
	n := int(binary.BigEndian.Uint32(slot[4:]))
	if binary.BigEndian.Uint32(slot) != stableMagic || n > stableSlot-stableHead-4 {
		return 0, nil, damaged
	}
	end := stableHead + n
	if crc32.Checksum(slot[:end], castagnoli) != binary.BigEndian.Uint32(slot[end:]) {
		return 0, nil, damaged
	}
	body := slot[stableHead:end]
	field := func() []byte {
		size, k := binary.Uvarint(body)
		if k <= 0 || size > uint64(len(body)-k) {
			err = damaged
			return nil
		}
		b := slices.Clone(body[k : k+int(size)])
		body = body[k+int(size):]
		return b
	}
	count, k := binary.Uvarint(body)
	if k <= 0 {
		return 0, nil, damaged
	}
	body = body[k:]
	values = map[string][]byte{}
	for range count {
		key := field()
		values[string(key)] = field()
		if err != nil {
			return 0, nil, err
		}
	}
	return binary.BigEndian.Uint64(slot[8:]), values, nil
}

// Set is raft.StableStore. It returns when both copies are on the disk.
func (s *stableStore) Set(key, val []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := maps.Clone(s.values)
	next[string(key)] = slices.Clone(val)
	slot, err := s.encode(s.seq+1, next)
	if err != nil {
		return err
	}
	for i := range int64(2) {
		if _, err := s.f.WriteAt(slot, i*stableSlot); err != nil {
			return err
		}
		if err := s.f.Sync(); err != nil {
			return err
		}
	}
	s.seq++
	s.values = next
	return nil
}

// Get is raft.StableStore; nil for a key that was never set.
func (s *stableStore) Get(key []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.values[string(key)]), nil
}

// SetUint64 is raft.StableStore. Setting what is there already costs nothing.
func (s *stableStore) SetUint64(key []byte, val uint64) error {
	if old, _ := s.GetUint64(key); old == val && old != 0 {
		return nil
	}
	return s.Set(key, binary.BigEndian.AppendUint64(nil, val))
}

// GetUint64 is raft.StableStore; 0 for a key that was never set.
func (s *stableStore) GetUint64(key []byte) (uint64, error) {
	v, _ := s.Get(key)
	if len(v) == 0 {
		return 0, nil
	}
	if len(v) != 8 {
		return 0, fmt.Errorf("%q is not a number", key)
	}
	return binary.BigEndian.Uint64(v), nil
}

func (s *stableStore) Close() error { return s.f.Close() }

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}
