package raftnode

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	wal "github.com/hashicorp/raft-wal"
	walfs "github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
	"github.com/stretchr/testify/require"
)

// sealTail appends entries from index on straight to the last segment until it
// is sealed, as raft-wal does before the list of segments learns of it. It gives
// the file and the last index, and the index before the write that sealed it.
func sealTail(t *testing.T, dir string, index uint64) (path string, before, last uint64) {
	t.Helper()
	meta := &metadb.BoltMetaDB{}
	list, err := meta.Load(dir)
	require.NoError(t, err)
	require.NoError(t, meta.Close())
	info := list.Segments[len(list.Segments)-1]
	w, err := segment.NewFiler(dir, walfs.New()).RecoverTail(info)
	require.NoError(t, err)
	for sealed := false; !sealed; {
		before, last = last, index+1
		var batch []types.LogEntry
		for _, l := range entries(index, last, 1) {
			l.Extensions = checksum(l)
			var b bytes.Buffer
			require.NoError(t, (&wal.BinaryCodec{}).Encode(l, &b))
			batch = append(batch, types.LogEntry{Index: l.Index, Data: b.Bytes()})
		}
		require.NoError(t, w.Append(batch))
		index = last + 1
		sealed, _, err = w.Sealed()
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return filepath.Join(dir, segment.FileName(info)), before, last
}

// A node that died, or whose disk was full, after the write that filled a
// segment and before the next one was listed goes on writing.
func TestSegmentSealedBeforeTheListKnows(t *testing.T) {
	for name, tear := range map[string]bool{"whole": false, "the last write torn": true} {
		t.Run(name, func(t *testing.T) {
			cfg := DefaultConfig()
			cfg.SegmentBytes = 64 << 10
			dir := t.TempDir()
			s := mustOpen(t, dir, cfg)
			require.NoError(t, s.StoreLogs(entries(1, 10, 1)))
			require.NoError(t, s.Close())
			path, before, last := sealTail(t, filepath.Join(dir, "wal"), 11)
			if tear {
				data, err := os.ReadFile(path)
				require.NoError(t, err)
				good, _ := walkCommits(data, 0, walHeader)
				require.NoError(t, os.WriteFile(path, append(data[:good-walFrame:good-walFrame], make([]byte, walFrame)...), 0o600))
				last = before
			}
			for range 2 {
				s = mustOpen(t, dir, cfg)
				requireLog(t, s, 1, last, 1)
				require.NoError(t, s.StoreLogs(entries(last+1, last+40, 1)))
				last += 40
				requireLog(t, s, 1, last, 1)
				require.NoError(t, s.Close())
			}
		})
	}
}

// The only write of a segment is torn behind its mark of the seal: nothing of it
// was acknowledged, and the segment is begun anew.
func TestOnlyWriteOfASealedSegmentTorn(t *testing.T) {
	cfg := DefaultConfig()
	cfg.SegmentBytes = 64 << 10
	dir := t.TempDir()
	s := mustOpen(t, dir, cfg)
	large := entries(1, 1, 1)
	large[0].Data = bytes.Repeat([]byte("x"), 100<<10)
	require.NoError(t, s.StoreLogs(large))
	require.NoError(t, s.Close())
	bases, err := filepath.Glob(filepath.Join(dir, "wal", "*-0000000000000000.wal"))
	require.NoError(t, err)
	require.Len(t, bases, 1)
	whole, err := os.ReadFile(bases[0])
	require.NoError(t, err)

	torn := t.TempDir()
	s = mustOpen(t, torn, cfg)
	require.NoError(t, s.Close())
	path := filepath.Join(torn, "wal", filepath.Base(bases[0]))
	good, _ := walkCommits(whole, 0, walHeader)
	require.NoError(t, os.WriteFile(path, whole[:good-walFrame], 0o600))
	s = mustOpen(t, torn, cfg)
	require.NoError(t, s.StoreLogs(entries(1, 20, 1)))
	requireLog(t, s, 1, 20, 1)
	require.NoError(t, s.Close())
}
