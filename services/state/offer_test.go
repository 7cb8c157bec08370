package state

import (
	"encoding/binary"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/services/command"
)

// Batches that nobody looked at are there for the view that comes at last: rows,
// indexes, metadata and the sum over rows alike, before and after the file is written.
func TestViewsSeeBatchesThatNobodyLookedAt(t *testing.T) {
	modes(t, func(t *testing.T, mode Mode) {
		f := open(t, Options{Mode: mode, Config: lazy()})
		for round := range 4 {
			for i := range 10 {
				f.apply(put(fmt.Sprintf("k%d", i), fmt.Sprint(round, i)))
			}
			switch round {
			case 1:
				f.flush()
			case 2:
				require.NoError(t, f.Restore(newReader(f.snapshot())))
			case 3:
				last, term := f.Applied()
				f.Advance(last+1, term)
			}
			at, _ := f.Applied()
			v := f.View()
			require.Equal(t, at, v.Index())
			for i := range 10 {
				got, ok := v.Get(tblKV, fmt.Appendf(nil, "k%d", i))
				require.True(t, ok)
				require.Equal(t, fmt.Sprint(round, i), string(got))
			}
			require.Equal(t, map[byte]int{'k': 10}, v.Frozen("count"))
			v.Release()
		}
	})
}

// Current shows an index after each batch though nobody takes a view, after a restore
// too, and not what could not be written.
func TestCurrentIndex(t *testing.T) {
	modes(t, func(t *testing.T, mode Mode) {
		full := false
		f := open(t, Options{Mode: mode, Config: lazy(), Faults: Faults{BeforeCommit: func() error {
			if full {
				return syscall.ENOSPC
			}
			return nil
		}}})
		require.Empty(t, f.Current("count"))
		f.apply(put("a", ""))
		before := f.Current("count")
		f.apply(put("b", ""))
		want := map[byte]int{'a': 1, 'b': 1}
		require.Equal(t, map[byte]int{'a': 1}, before)
		require.Equal(t, want, f.Current("count"))
		s := f.snapshot()
		f.apply(put("c", ""))
		require.NoError(t, f.Restore(newReader(s)))
		require.Equal(t, want, f.Current("count"))
		if mode == Synced {
			full = true
			at, term := f.Applied()
			_, err := f.ApplyEntry(at+1, term, command.AppendBatch(nil, []command.Command{put("d", "")}))
			require.NoError(t, err)
			require.Equal(t, want, f.Current("count"))
			failed, _ := f.Written(tblKV)
			full = false
			f.apply(put("e", ""))
			require.Equal(t, map[byte]int{'a': 1, 'b': 1, 'e': 1}, f.Current("count"))
			later, _ := f.Written(tblKV)
			require.NotEqual(t, failed, later)
		}
	})
}

// Written moves with the rows of a table, with a restore and with the cluster version, and
// tells the revision at which it stands.
func TestWritten(t *testing.T) {
	modes(t, func(t *testing.T, mode Mode) {
		f := open(t, Options{Mode: mode, Config: lazy()})
		moved := func(do func()) bool {
			before, _ := f.Written(tblKV)
			do()
			after, rev := f.Written(tblKV)
			v := f.View()
			defer v.Release()
			require.Equal(t, v.Revision(), rev)
			return after != before
		}
		require.True(t, moved(func() { f.apply(put("a", "1")) }))
		require.False(t, moved(f.flush))
		other, _ := f.Written()
		require.True(t, moved(func() { f.apply(put("a", "1"), put("b", "2")) }))
		same, _ := f.Written()
		require.Equal(t, other, same)
		require.True(t, moved(func() { require.NoError(t, f.Restore(newReader(f.snapshot()))) }))
		require.False(t, moved(func() { f.apply(SetClusterVersion(1)) }))
	})
}

// A restore keeps nobody waiting who looks what is new, or takes a view, until the new
// state is there: large ones take long to load.
func TestWrittenDuringARestore(t *testing.T) {
	var f *fixture
	asked := false
	f = open(t, Options{Faults: Faults{Restore: func(step string) error {
		if step != "swap" {
			return nil
		}
		asked = true
		done := make(chan struct{})
		go func() {
			defer close(done)
			f.Written(tblKV)
			f.View().Release()
		}()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Error("it waits for the restore")
		}
		return nil
	}}})
	f.apply(put("a", "1"))
	before, _ := f.Written(tblKV)
	require.NoError(t, f.Restore(newReader(f.snapshot())))
	require.True(t, asked)
	after, _ := f.Written(tblKV)
	require.NotEqual(t, before, after)
}

// Whoever hears that an entry was applied sees it, however views and batches meet.
func TestViewsAreNeverOlderThanApplied(t *testing.T) {
	f := open(t, Options{Config: lazy()})
	f.apply(put("n", string(make([]byte, 8))))
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			seen := uint64(0)
			for {
				select {
				case <-stop:
					return
				default:
				}
				at, _ := f.Applied()
				v := f.View()
				n, _ := v.Get(tblKV, []byte("n"))
				now := binary.BigEndian.Uint64(n)
				if v.Index() < at || now < seen {
					t.Errorf("a view is at entry %d and value %d, after entry %d was applied and %d seen", v.Index(), now, at, seen)
				}
				seen = now
				v.Release()
			}
		})
	}
	for n := uint64(1); n <= 3000; n++ {
		f.apply(put("n", string(binary.BigEndian.AppendUint64(nil, n))))
		if n%500 == 0 {
			f.flush()
		}
	}
	close(stop)
	readers.Wait()
}
