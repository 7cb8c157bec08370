package raftnode

import (
	"os"

	walfs "github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"
)

// walFiles opens the segments of raft-wal so that a sync of one writes data only.
// Space that is merely reserved becomes data with its first write, and the file
// system has to log that before a sync is over, together with what all other files
// wait to have logged. So a write that goes beyond what has been written of the
// segment writes zeros behind it, which the next ones overwrite in place.
type walFiles struct{ *walfs.FS }

// zeroStep is how far ahead zeros are written, in bytes: a sync that is a
// millisecond longer every hundred entries or so.
const zeroStep = 512 << 10

var zeros [zeroStep]byte

// Create implements types.VFS.
func (v walFiles) Create(dir, name string, size uint64) (types.WritableFile, error) {
	f, err := v.FS.Create(dir, name, size)
	if err != nil {
		return nil, err
	}
	return ahead(f, int64(size)), nil
}

// OpenWriter implements types.VFS.
func (v walFiles) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := v.FS.OpenWriter(dir, name)
	if err != nil {
		return nil, err
	}
	if file, ok := f.(*os.File); ok {
		if info, err := file.Stat(); err == nil {
			return ahead(f, info.Size()), nil
		}
	}
	return f, nil
}

func ahead(f types.WritableFile, size int64) types.WritableFile {
	if d, ok := f.(descriptor); ok {
		return &walFile{WritableFile: f, file: d, size: size}
	}
	return f
}

type descriptor interface{ Fd() uintptr }

// walFile is a segment that takes writes, of one goroutine.
type walFile struct {
	types.WritableFile
	file    descriptor
	size    int64
	written int64 // everything before has been written once, as far as is known
	synced  bool
}

// WriteAt implements io.WriterAt.
func (f *walFile) WriteAt(p []byte, at int64) (int, error) {
	n, err := f.WritableFile.WriteAt(p, at)
	if end := at + int64(n); err == nil && end > f.written {
		f.written = end
		to := min((end/zeroStep+1)*zeroStep, f.size)
		if to > end {
			// Only a help: if it fails, the next write tries again.
			if _, err := f.WritableFile.WriteAt(zeros[:to-end], end); err == nil {
				f.written = to
			}
		}
	}
	return n, err
}

// Sync implements types.WritableFile. The first one makes the file itself known too,
// name and all.
func (f *walFile) Sync() error {
	if f.synced {
		return syncData(f.file)
	}
	err := f.WritableFile.Sync()
	f.synced = err == nil
	return err
}
