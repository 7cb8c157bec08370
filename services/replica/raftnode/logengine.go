package raftnode

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	wal "github.com/hashicorp/raft-wal"
	walfs "github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
	"go.etcd.io/bbolt"
)

func newEngine(cfg Config, dir string, log hclog.Logger) logEngine {
	if cfg.LogStore == LogStoreBolt {
		return &boltEngine{path: filepath.Join(dir, "log.db")}
	}
	return &walEngine{dir: filepath.Join(dir, "wal"), segment: cfg.SegmentBytes, log: log}
}

// walEngine is raft-wal: append-only segments, and a small bbolt file that lists
// them.
type walEngine struct {
	dir     string
	segment int64
	log     hclog.Logger
}

func (e *walEngine) files() string { return e.dir }

func (e *walEngine) open() (rawLog, error) {
	if err := os.MkdirAll(e.dir, 0o700); err != nil {
		return nil, err
	}
	meta := &metadb.BoltMetaDB{}
	filer := segment.NewFiler(e.dir, walFiles{walfs.New()})
	err := e.finishSeal(meta, filer)
	var w *wal.WAL
	if err == nil {
		w, err = wal.Open(e.dir,
			wal.WithLogger(e.log), wal.WithMetaStore(meta), wal.WithSegmentSize(int(e.segment)),
			wal.WithSegmentFiler(&resealFiler{Filer: filer}))
	}
	if err != nil {
		_ = meta.Close()
		return nil, err
	}
	return &walLog{WAL: w, meta: meta}, nil
}

// walLog closes the list of segments too, which raft-wal leaves open.
type walLog struct {
	*wal.WAL
	meta *metadb.BoltMetaDB
}

func (w *walLog) Close() error { return errors.Join(w.WAL.Close(), w.meta.Close()) }

// resealFiler repairs a fault of raft-wal 0.4.0: cutting the end of the log seals
// the last segment without writing its index, and after a restart none of its
// entries can be read. Such a segment is opened by reading through it, as the
// unsealed one is.
type resealFiler struct{ *segment.Filer }

func (f *resealFiler) Open(info types.SegmentInfo) (types.SegmentReader, error) {
	if info.IndexStart == 0 {
		return f.RecoverTail(info)
	}
	return f.Filer.Open(info)
}

// trimStep is one whole segment: removing less would write the list of segments
// for nothing.
func (e *walEngine) trimStep(first, upto uint64) uint64 {
	bases, err := segmentBases(e.dir)
	if err != nil {
		return 0
	}
	for _, b := range bases {
		if b > first {
			if b-1 <= upto {
				return b - 1
			}
			return 0
		}
	}
	return 0
}

// segmentBases lists the first index of every segment file, ascending.
func segmentBases(dir string) ([]uint64, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if err != nil {
		return nil, err
	}
	bases := make([]uint64, 0, len(names))
	for _, n := range names {
		var base, id uint64
		if _, err := fmt.Sscanf(filepath.Base(n), "%020d-%016x.wal", &base, &id); err == nil {
			bases = append(bases, base)
		}
	}
	slices.Sort(bases)
	return bases, nil
}

// boltEngine is raft-boltdb: one bbolt file.
type boltEngine struct{ path string }

func (e *boltEngine) files() string { return e.path }

func (e *boltEngine) open() (rawLog, error) {
	return raftboltdb.New(raftboltdb.Options{
		Path: e.path,
		BoltOptions: &bbolt.Options{
			Timeout:      5 * time.Second,
			FreelistType: bbolt.FreelistMapType,
			// The list of free pages stays in the file: without it bbolt looks for them
			// in a goroutine of its own, where a damaged page ends the process.
		},
		MsgpackUseNewTimeFormat: true,
	})
}

// boltTrimStep keeps one deletion's transaction to about a millisecond.
const boltTrimStep = 512

func (e *boltEngine) trimStep(first, upto uint64) uint64 { return min(upto, first+boltTrimStep-1) }

// check lets bbolt verify its pages. A damaged file may make bbolt panic or fault.
func (e *boltEngine) check() (err error) {
	if _, err := os.Stat(e.path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = corruptLog(e.path, fmt.Errorf("%v", r))
		}
	}()
	raw, err := e.open()
	if err != nil {
		return corruptLog(e.path, err)
	}
	defer func() { err = errors.Join(err, raw.Close()) }()
	first, err := raw.FirstIndex()
	if err != nil {
		return corruptLog(e.path, err)
	}
	last, err := raw.LastIndex()
	if err != nil {
		return corruptLog(e.path, err)
	}
	if first > last {
		return corruptLog(e.path, fmt.Errorf("it begins at %d and ends at %d", first, last))
	}
	return nil
}
