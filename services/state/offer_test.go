package state

import (
	"encoding/binary"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
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
