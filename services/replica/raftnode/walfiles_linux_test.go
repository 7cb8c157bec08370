package raftnode

import (
	"io"
	"testing"

	walfs "github.com/hashicorp/raft-wal/fs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The writes after the first of a step go where data is already: the file system has
// nothing to log for them.
func TestTheLogOverwritesWhatIsWritten(t *testing.T) {
	f, err := walFiles{walfs.New()}.Create(t.TempDir(), "a.wal", 4*zeroStep)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	fd := int(f.(*walFile).file.Fd())
	data := func() int64 {
		t.Helper()
		require.NoError(t, f.Sync())
		end, err := unix.Seek(fd, 0, unix.SEEK_HOLE)
		require.NoError(t, err)
		_, err = unix.Seek(fd, 0, io.SeekStart)
		require.NoError(t, err)
		return end
	}
	for i, c := range []struct{ at, data int64 }{{0, 1}, {4096, 1}, {zeroStep - 10, 2}, {2*zeroStep - 19, 3}, {3*zeroStep - 1, 4}} {
		_, err := f.WriteAt(make([]byte, 20), c.at)
		require.NoError(t, err)
		require.GreaterOrEqual(t, data(), c.data*zeroStep, "write %d", i)
	}
}
