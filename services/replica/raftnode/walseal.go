package raftnode

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// finishSeal repairs a fault of raft-wal 0.4.0. The write that fills a segment
// seals it, and the list of segments learns of it afterwards, together with the
// next segment. A crash or a full disk in between leaves a segment that takes no
// more writes as the one to write to, and raft-wal begins the next segment only
// after a write: that log would refuse every write for ever. The same follows
// from a write that was torn after its mark of the seal.
//
// The segment is listed as sealed here, to be read through (see resealFiler),
// since the index at its end may be torn, and the next one is listed behind it;
// raft-wal makes the file of a listed tail that is not there.
func (e *walEngine) finishSeal(meta *metadb.BoltMetaDB, filer *segment.Filer) error {
	list, err := meta.Load(e.dir)
	if err != nil || len(list.Segments) == 0 {
		return err
	}
	tail := &list.Segments[len(list.Segments)-1]
	if !tail.SealTime.IsZero() {
		return nil
	}
	w, err := filer.RecoverTail(*tail)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	sealed, _, err := w.Sealed()
	last := w.LastIndex()
	if err = errors.Join(err, w.Close()); err != nil || !sealed {
		return err
	}
	if last == 0 { // its only write is torn
		return os.Remove(filepath.Join(e.dir, segment.FileName(*tail)))
	}
	tail.SealTime, tail.MaxIndex, tail.IndexStart = time.Now(), last, 0
	list.Segments = append(list.Segments, types.SegmentInfo{
		ID: list.NextSegmentID, BaseIndex: last + 1, MinIndex: last + 1,
		SizeLimit: uint32(e.segment), Codec: wal.CodecBinaryV1, CreateTime: time.Now(),
	})
	list.NextSegmentID++
	return meta.CommitState(list)
}
