package raftnode

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	walfs "github.com/hashicorp/raft-wal/fs"
	"github.com/stretchr/testify/require"
)

// What is written stays as it was written, over the steps of the zeros and the end of
// the file, and what was not is zero: in a new file and in one that is opened again.
func TestZerosAheadOfTheLogHarmNothing(t *testing.T) {
	dir := t.TempDir()
	const size = 3*zeroStep + 100
	files := walFiles{walfs.New()}
	f, err := files.Create(dir, "a.wal", size)
	require.NoError(t, err)
	var want []byte
	write := func(n int) {
		t.Helper()
		p := bytes.Repeat([]byte{byte(len(want)%255 + 1)}, n)
		k, err := f.WriteAt(p, int64(len(want)))
		require.NoError(t, err)
		require.Equal(t, n, k)
		want = append(want, p...)
		require.NoError(t, f.Sync())
		got, err := os.ReadFile(filepath.Join(dir, "a.wal"))
		require.NoError(t, err)
		require.Len(t, got, max(size, len(want)))
		require.True(t, bytes.Equal(want, got[:len(want)]))
		require.Empty(t, bytes.Trim(got[len(want):], "\x00"))
	}
	for _, n := range []int{1, 7, zeroStep - 8, 1, zeroStep - 1, 5} {
		write(n)
	}
	require.NoError(t, f.Close())
	f, err = files.OpenWriter(dir, "a.wal")
	require.NoError(t, err)
	for _, n := range []int{3, zeroStep, 200, 4096} { // beyond the end of the file too
		write(n)
	}
	require.NoError(t, f.Close())

	_, err = files.Create(dir, "a.wal", size)
	require.ErrorIs(t, err, os.ErrExist)
	_, err = files.OpenWriter(dir, "none.wal")
	require.ErrorIs(t, err, os.ErrNotExist)
}
