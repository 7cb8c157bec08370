package state

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"nekoq/services/errs"
)

// donor gives a snapshot stream and the hash of its state.
func donor(t *testing.T) ([]byte, Hash) {
	f := open(t, Options{})
	s := openSessionOn(f)
	f.apply(with(put("new", "state"), s, 1, 1), put("other", "row"))
	f.SetConfiguration(1, []byte("conf"))
	h := f.hash()
	return f.snapshot(), h
}

func TestRestore(t *testing.T) {
	stream, want := donor(t)
	modes(t, func(t *testing.T, mode Mode) {
		h := &hub{}
		f := open(t, Options{Mode: mode, Events: h})
		f.apply(put("old", "state"))
		f.flush()
		f.apply(put("older", "in the overlay"))
		old := f.View()
		require.NoError(t, f.Restore(newReader(stream)))
		f.index, _ = f.Applied()
		require.Equal(t, 1, h.resets)
		require.Equal(t, want, f.hash())
		require.Equal(t, want.Index, f.Durable())
		require.Equal(t, map[string]string{"new": "state", "other": "row"}, f.rows())
		require.Equal(t, map[string]string{"old": "state", "older": "in the overlay"}, rowsOf(old))
		old.Release()
		v := f.View()
		require.Equal(t, map[byte]int{'n': 1, 'o': 1}, v.Frozen("count"))
		v.Release()
		_, conf := f.Configuration()
		require.Equal(t, "conf", string(conf))
		require.Len(t, f.sessions.byID, 1)
		f.apply(put("after", "1"))
		after := f.hash()
		f.reopen()
		require.Equal(t, after, f.hash())
		require.NoFileExists(t, f.opts.Path+restoreSuffix)
	})
}

func TestSnapshotHeader(t *testing.T) {
	stream, want := donor(t)
	info, err := ReadSnapshotInfo(newReader(stream))
	require.NoError(t, err)
	require.Equal(t, SnapshotInfo{
		Index: want.Index, Term: 1, Revision: want.Revision, ConfigurationIndex: 1, Chain: want.Chain,
		FileBytes: int64(len(stream) - snapshotHeaderBytes - snapshotTrailer),
	}, info)
}

func TestSnapshotIsOneIndexWhateverHappensMeanwhile(t *testing.T) {
	f := open(t, Options{})
	f.apply(put("a", "1"))
	s, err := f.Snapshot()
	require.NoError(t, err)
	for i := range 50 {
		f.apply(put("a", string(make([]byte, 1000+i))), put("b", "2"))
		f.flush()
	}
	require.Equal(t, uint64(1), s.Index())
	require.Equal(t, uint64(1), s.Revision())
	require.Equal(t, uint64(1), s.Term())
	var buf bytes.Buffer
	_, err = s.WriteTo(&buf)
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	other := open(t, Options{})
	require.NoError(t, other.Restore(&buf))
	require.Equal(t, map[string]string{"a": "1"}, other.rows())
}

func TestDamagedSnapshotsChangeNothing(t *testing.T) {
	stream, _ := donor(t)
	h := &hub{}
	f := open(t, Options{Events: h})
	f.apply(put("mine", "1"))
	want := f.hash()
	bad := map[string]func() io.Reader{
		"empty":   func() io.Reader { return newReader(nil) },
		"garbage": func() io.Reader { return newReader(bytes.Repeat([]byte("x"), 1000)) },
		"reader":  func() io.Reader { return io.MultiReader(newReader(stream[:500]), errReader{}) },
	}
	for _, n := range []int{10, snapshotHeaderBytes, snapshotHeaderBytes + 1, len(stream) / 2, len(stream) - 8, len(stream) - 1} {
		bad["cut"+string(rune('a'+n%26))+string(rune('a'+n/26%26))] = func() io.Reader { return newReader(stream[:n]) }
	}
	for _, at := range []int{0, 7, 9, 40, 63, 100, 5000, len(stream) - 1} {
		flipped := bytes.Clone(stream)
		flipped[at] ^= 1
		bad["bit"+string(rune('a'+at%26))] = func() io.Reader { return newReader(flipped) }
	}
	for name, r := range bad {
		err := f.Restore(r())
		require.Error(t, err, name)
		require.NoFileExists(t, f.opts.Path+restoreSuffix)
		require.Equal(t, want, f.hash(), name)
	}
	require.Zero(t, h.resets)
	f.apply(put("mine", "2"))
	f.reopen()
	require.Equal(t, map[string]string{"mine": "2"}, f.rows())
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errors.New("connection lost") }

// TestRestoreFailsAtEachStep stops a restore at each of its steps, as a full
// disk and as a crash, and finds either the old or the new state, whole.
func TestRestoreFailsAtEachStep(t *testing.T) {
	stream, want := donor(t)
	for _, step := range []string{"create", "sync", "rename", "sync folder", "swap"} {
		t.Run(step, func(t *testing.T) {
			renamed := step == "sync folder" || step == "swap"
			var image string // what a crash at the step would leave
			opts := Options{Path: filepath.Join(t.TempDir(), "state.db")}
			opts.Faults.Restore = func(at string) error {
				if at != step {
					return nil
				}
				image = copyDir(t, filepath.Dir(opts.Path))
				return syscall.EIO
			}
			f := open(t, opts)
			f.apply(put("old", "1"))
			f.flush()
			before := f.hash()
			require.ErrorIs(t, f.Restore(newReader(stream)), syscall.EIO)
			if renamed {
				require.Error(t, f.Err()) // the file is the new one, the memory the old
			} else {
				require.NoError(t, f.Err())
				require.Equal(t, before, f.hash())
				f.apply(put("old", "2"))
			}
			require.NoError(t, f.Machine.Close())

			f.opts.Faults = Faults{}
			f.opts.Path = filepath.Join(image, "state.db")
			m, err := Open(f.opts)
			require.NoError(t, err)
			f.Machine = m
			if renamed {
				require.Equal(t, want, f.hash())
			} else {
				require.Equal(t, before, f.hash())
			}
			require.NoFileExists(t, f.opts.Path+restoreSuffix)
			require.NoError(t, m.Close())
			require.NoError(t, CheckFile(f.opts.Path))
		})
	}
}

// copyDir copies what is in dir now, as a power cut would leave it.
func copyDir(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(to, e.Name()), b, 0o600))
	}
	return to
}

// TestRestoreWhileTheDiskIsFull replaces a state whose commit is being retried.
func TestRestoreWhileCommitsFail(t *testing.T) {
	stream, want := donor(t)
	var d disk
	f := open(t, Options{Faults: Faults{BeforeCommit: d.check}})
	d.full.Store(true)
	f.apply(put("a", "1"))
	require.True(t, errs.Has(f.Flush(t.Context()), errs.StorageFull))
	require.NoError(t, f.Restore(newReader(stream)))
	require.NoError(t, f.Storage())
	require.Equal(t, want, f.hash())
	d.full.Store(false)
	f.index, _ = f.Applied()
	f.apply(put("b", "1"))
	f.flush()
	require.Equal(t, f.index, f.Durable())
}

func FuzzSnapshotHeader(f *testing.F) {
	f.Add(encodeHeader(&meta{index: 5, term: 2, revision: 9}, 16384))
	f.Add([]byte(snapshotMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		info, err := ReadSnapshotInfo(newReader(b))
		if err != nil {
			if !errs.Has(err, errs.Corrupt) {
				t.Fatalf("%v is not corrupt", err)
			}
			return
		}
		m := meta{
			index: info.Index, term: info.Term, revision: info.Revision,
			configIndex: info.ConfigurationIndex, chain: info.Chain,
		}
		if !bytes.HasPrefix(b, encodeHeader(&m, info.FileBytes)) {
			t.Fatalf("header %x was read as %+v", b, info)
		}
	})
}
