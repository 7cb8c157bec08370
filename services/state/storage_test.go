package state

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/services/errs"
)

// disk fails while full is set, before or after the rows were written.
type disk struct {
	full     atomic.Bool
	failures atomic.Int64
}

func (d *disk) check() error {
	if d.full.Load() {
		d.failures.Add(1)
		return &os.PathError{Op: "write", Path: "state.db", Err: syscall.ENOSPC}
	}
	return nil
}

func TestDiskFullSynced(t *testing.T) {
	for _, place := range []string{"before", "after"} {
		t.Run(place, func(t *testing.T) {
			var d disk
			var told []error
			opts := Options{Mode: Synced, Events: &hub{}, OnStorage: func(err error) { told = append(told, err) }}
			if place == "before" {
				opts.Faults.BeforeCommit = d.check
			} else {
				opts.Faults.AfterWrite = d.check
			}
			f := open(t, opts)
			s := openSessionOn(f)
			f.apply(with(put("a", "1"), s, 1, 1))
			before, index := f.hash(), f.index
			d.full.Store(true)
			for range 3 {
				r, err := f.try(with(put("a", "2"), s, 2, 2), OpenSession(), put("b", "1"))
				require.NoError(t, err)
				require.Len(t, r, 3)
				for _, one := range r {
					require.True(t, errs.Has(one.Err, errs.StorageFull))
				}
				require.True(t, errs.Has(f.Storage(), errs.StorageFull))
				require.Equal(t, index, f.index)
				require.Equal(t, map[string]string{"a": "1"}, f.rows())
				require.Equal(t, before, f.hash())
				require.Len(t, f.sessions.byID, 1)
				v := f.View()
				require.Equal(t, map[byte]int{'a': 1}, v.Frozen("count"))
				v.Release()
			}
			d.full.Store(false)
			r := f.apply(with(put("a", "2"), s, 2, 2), put("b", "1"))
			require.NoError(t, r[0].Err)
			require.True(t, r[0].Changed)
			require.NoError(t, f.Storage())
			require.Len(t, told, 2)
			require.Error(t, told[0])
			require.NoError(t, told[1])
			want := f.hash()
			f.reopen()
			require.Equal(t, want, f.hash())
			require.NoError(t, f.Machine.Close())
			require.NoError(t, CheckFile(f.opts.Path))

			// The refused batches have left no trace: a machine that never saw a
			// full disk has the same state.
			clean := open(t, Options{Mode: Synced})
			openSessionOn(clean)
			clean.apply(with(put("a", "1"), s, 1, 1))
			clean.apply(with(put("a", "2"), s, 2, 2), put("b", "1"))
			require.Equal(t, want, clean.hash())
		})
	}
}

func TestDiskFullLogged(t *testing.T) {
	var d disk
	full, works := make(chan error, 1), make(chan struct{}, 1)
	f := open(t, Options{Faults: Faults{AfterWrite: d.check}, OnStorage: func(err error) {
		if err != nil {
			full <- err
		} else {
			works <- struct{}{}
		}
	}})
	f.apply(put("a", "1"))
	f.flush()
	d.full.Store(true)
	f.apply(put("a", "2"))
	require.True(t, errs.Has(f.Flush(context.Background()), errs.StorageFull))
	require.True(t, errs.Has(<-full, errs.StorageFull))
	_, err := f.Snapshot()
	require.True(t, errs.Has(err, errs.StorageFull))
	// Applying and reading go on; the log makes it durable.
	f.apply(put("b", "1"))
	require.Equal(t, map[string]string{"a": "2", "b": "1"}, f.rows())
	require.Equal(t, uint64(1), f.Durable())
	require.NoError(t, f.Err())
	d.full.Store(false)
	<-works // by itself
	f.flush()
	require.NoError(t, f.Storage())
	require.Equal(t, f.index, f.Durable())
	want := f.hash()
	f.reopen()
	require.Equal(t, want, f.hash())
}

func TestCloseWithAFullDisk(t *testing.T) {
	var d disk
	cfg := lazy()
	cfg.FlushBytes, cfg.MaxLagBytes = 4<<10, 4<<10
	f := open(t, Options{Config: cfg, Faults: Faults{BeforeCommit: d.check}})
	f.apply(put("a", "1"))
	f.flush()
	d.full.Store(true)
	f.apply(put("a", string(make([]byte, 8<<10))))
	blocked := make(chan error)
	go func() {
		_, err := f.ApplyEntry(3, 1, nil)
		blocked <- err
	}()
	require.True(t, errs.Has(f.Machine.Close(), errs.StorageFull))
	require.True(t, errs.Has(<-blocked, errs.ShuttingDown))
	d.full.Store(false)
	m, err := Open(f.opts)
	require.NoError(t, err)
	f.Machine = m
	index, _ := m.Applied()
	require.Equal(t, uint64(1), index) // the log replays the rest
}

// TestFileLimit fills the file to max_file_bytes, so that bbolt itself refuses
// in the middle of a commit.
func TestFileLimit(t *testing.T) {
	for _, mode := range []Mode{Logged, Synced} {
		cfg := lazy()
		cfg.MaxFileBytes = 1 << 20
		f := open(t, Options{Mode: mode, Config: cfg})
		value := string(make([]byte, 64<<10))
		var err error
		n := 0
		for ; err == nil; n++ {
			var r []Result
			r, err = f.try(put(fmt.Sprintf("%04d", n), value))
			require.NoError(t, err)
			if mode == Synced {
				err = r[0].Err
			} else {
				err = f.Flush(context.Background())
			}
			require.Less(t, n, 100)
		}
		require.True(t, errs.Has(err, errs.StorageFull))
		require.NoError(t, f.Err())
		// Every row but the last, which Logged shows from memory.
		require.GreaterOrEqual(t, len(f.rows()), n-1)
		if mode == Synced {
			require.Len(t, f.rows(), n-1)
		}
		path := f.opts.Path
		_ = f.Machine.Close()
		require.NoError(t, CheckFile(path))
		f.opts.Config.MaxFileBytes = 0
		m, err := Open(f.opts)
		require.NoError(t, err)
		f.Machine = m
		require.Len(t, f.rows(), n-1)
	}
}

func TestOtherWriteErrorsHalt(t *testing.T) {
	for _, mode := range []Mode{Logged, Synced} {
		var broken atomic.Bool
		f := open(t, Options{Mode: mode, Faults: Faults{BeforeCommit: func() error {
			if broken.Load() {
				return syscall.EIO
			}
			return nil
		}}})
		f.apply(put("a", "1"))
		f.flush()
		broken.Store(true)
		_, err := f.try(put("a", "2"))
		if mode == Logged {
			require.NoError(t, err)
			err = f.Flush(context.Background())
		}
		require.ErrorIs(t, err, syscall.EIO)
		require.ErrorContains(t, err, f.opts.Path)
		<-f.Done()
		broken.Store(false)
		f.reopen()
		require.Equal(t, map[string]string{"a": "1"}, f.rows())
	}
}

// TestTinyMap grows the file far beyond its memory map while readers hold views
// and snapshots.
func TestTinyMap(t *testing.T) {
	modes(t, func(t *testing.T, mode Mode) {
		cfg := lazy()
		cfg.MmapBytes = 32 << 10
		f := open(t, Options{Mode: mode, Config: cfg})
		value := string(make([]byte, 4<<10))
		var newest *View
		for i := range 150 {
			f.apply(put(fmt.Sprintf("%04d", i), value))
			f.flush()
			if newest != nil {
				require.Len(t, rowsOf(newest), i)
				newest.Release()
			}
			// A view of the newest transaction does not hold the writer up.
			newest = f.View()
		}
		newest.Release()
		require.Greater(t, f.base.h.mapBytes, int64(1<<20))
		want := f.hash()
		_, err := Open(Options{Path: f.opts.Path, Registry: testRegistry(), Config: Config{LockTimeout: time.Millisecond}})
		require.True(t, errs.Has(err, errs.Conflict), "the lock must outlive a remap: %v", err)
		f.reopen()
		require.Equal(t, want, f.hash())
	})
}

// TestTinyMapWaitsForOldViews shows that an old view delays the commit that
// needs a larger map, and nothing else.
func TestTinyMapWaitsForOldViews(t *testing.T) {
	cfg := lazy()
	cfg.MmapBytes = 32 << 10
	f := open(t, Options{Config: cfg})
	f.apply(put("a", "1"))
	f.flush()
	old := f.View()
	f.apply(put("a", "2"))
	f.flush()
	f.apply(put("big", string(make([]byte, 256<<10))))
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	require.True(t, errs.Has(f.Flush(ctx), errs.DeadlineExceeded))
	f.apply(put("a", "3"))
	require.Equal(t, map[string]string{"a": "1"}, rowsOf(old))
	require.Len(t, f.rows(), 2)
	old.Release()
	f.flush()
	require.Len(t, f.rows(), 2)
	require.Equal(t, f.index, f.Durable())
}

func TestIsFull(t *testing.T) {
	require.True(t, isFull(fmt.Errorf("file resize error: %s", syscall.ENOSPC)))
	require.True(t, isFull(fmt.Errorf("x: %w", syscall.EDQUOT)))
	require.False(t, isFull(errors.New("disk on fire")))
}
