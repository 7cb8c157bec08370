package raftnode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// Framing of a raft-wal segment: a header of 32 bytes, then frames of 8 bytes of
// header (type, 3 zero bytes, length or checksum) and a body padded to 8. A commit
// frame carries the checksum of everything since the one before it.
const (
	walHeader      = 32
	walFrame       = 8
	walFrameEntry  = 1
	walFrameIndex  = 2
	walFrameCommit = 3
)

// check reads all segments. raft-wal itself verifies only the last write of the
// last segment, and takes damage anywhere in that segment for the torn end of an
// unfinished write, which would silently drop acknowledged entries.
func (e *walEngine) check() error {
	if _, err := os.Stat(filepath.Join(e.dir, metadb.FileName)); errors.Is(err, fs.ErrNotExist) {
		names, _ := filepath.Glob(filepath.Join(e.dir, "*.wal"))
		if len(names) > 0 {
			return corruptLog(e.dir, fmt.Errorf("%s is missing beside %d segments", metadb.FileName, len(names)))
		}
		return nil
	}
	meta := &metadb.BoltMetaDB{}
	list, err := meta.Load(e.dir)
	if cerr := meta.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return corruptLog(filepath.Join(e.dir, metadb.FileName), err)
	}
	for i, info := range list.Segments {
		path := filepath.Join(e.dir, segment.FileName(info))
		isTail := i == len(list.Segments)-1 && info.SealTime.IsZero()
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) && isTail {
			continue // the list is written first; raft-wal makes the file
		}
		if err == nil {
			err = checkSegment(data, info, isTail)
		}
		if err != nil {
			return corruptLog(path, err)
		}
	}
	return nil
}

func checkSegment(data []byte, info types.SegmentInfo, isTail bool) error {
	good, entries := walkCommits(data, 0, walHeader)
	if isTail {
		return tornTail(data, good)
	}
	if good == 0 || binary.LittleEndian.Uint64(data[8:]) != info.BaseIndex || binary.LittleEndian.Uint64(data[16:]) != info.ID {
		return errors.New("its header is not that of the segment")
	}
	if want := info.MaxIndex + 1 - info.BaseIndex; uint64(entries) < want {
		return fmt.Errorf("%d of %d entries are whole; the damage begins at byte %d", entries, want, good)
	}
	return nil
}

// walkCommits goes through the frames from pos and verifies every commit, whose
// checksum begins at from. It gives the end of the last good commit (0 for none)
// and the entries up to it.
func walkCommits(data []byte, from, pos int) (good, entries int) {
	seen := 0
	for pos+walFrame <= len(data) {
		kind, n := data[pos], int(binary.LittleEndian.Uint32(data[pos+4:]))
		if data[pos+1]|data[pos+2]|data[pos+3] != 0 {
			return good, entries
		}
		switch kind {
		case walFrameEntry, walFrameIndex:
			if kind == walFrameEntry {
				seen++
			}
			if n > segment.MaxEntrySize || pos+walFrame+n > len(data) {
				return good, entries
			}
			pos += walFrame + (n+7)&^7
		case walFrameCommit:
			if crc32.Checksum(data[from:pos], castagnoli) != uint32(n) {
				return good, entries
			}
			pos += walFrame
			good, entries, from = pos, seen, pos
		default:
			return good, entries
		}
	}
	return good, entries
}

// tornTail tells an unfinished last write from damage: behind damage there are
// whole writes, behind an unfinished one there are none. A write that was torn
// was never acknowledged, and the next begins only after it.
func tornTail(data []byte, good int) error {
	for pos := max(good, walHeader) &^ 7; pos+walFrame <= len(data); pos += 8 {
		if data[pos] != walFrameCommit || data[pos+1]|data[pos+2]|data[pos+3] != 0 {
			continue
		}
		if next, n := walkCommits(data, pos+walFrame, pos+walFrame); next > 0 && n > 0 {
			return fmt.Errorf("the write at byte %d is damaged, and whole ones follow it up to byte %d", good, next)
		}
	}
	return nil
}
