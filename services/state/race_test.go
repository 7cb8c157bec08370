package state

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestConcurrentReaders reads from many goroutines while batches are applied,
// flushed, snapshotted and restored. Each batch writes the same number to every
// key, so a reader that sees two numbers has seen half a batch.
func TestConcurrentReaders(t *testing.T) {
	modes(t, func(t *testing.T, mode Mode) {
		cfg := lazy()
		cfg.FlushBytes = 8 << 10
		f := open(t, Options{Mode: mode, Config: cfg})
		const rows = 20
		write := func(n uint64) {
			keys := make([]string, rows)
			for i := range keys {
				keys[i] = fmt.Sprintf("k%02d", i)
			}
			f.apply(puts(keys, string(binary.BigEndian.AppendUint64(nil, n)))...)
		}
		write(0)
		var stop atomic.Bool
		var wg sync.WaitGroup
		var failed atomic.Pointer[string]
		for range 4 {
			wg.Go(func() {
				for !stop.Load() {
					if msg := readWhole(f.Machine, rows); msg != "" {
						failed.Store(&msg)
						return
					}
				}
			})
		}
		wg.Go(func() {
			for !stop.Load() {
				if _, err := f.Hash(context.Background(), true); err != nil {
					msg := err.Error()
					failed.Store(&msg)
				}
				index, _ := f.Applied()
				if err := f.WaitApplied(context.Background(), index); err != nil {
					msg := err.Error()
					failed.Store(&msg)
				}
			}
		})
		for n := uint64(1); n <= 150; n++ {
			write(n)
			switch {
			case n%50 == 0:
				stream := f.snapshot()
				require.NoError(t, f.Restore(newReader(stream)))
			case n%7 == 0:
				f.flush()
			}
		}
		stop.Store(true)
		wg.Wait()
		if msg := failed.Load(); msg != nil {
			t.Fatal(*msg)
		}
	})
}

func readWhole(m *Machine, rows int) string {
	v := m.View()
	defer v.Release()
	first, n, problem := uint64(0), 0, ""
	see := func(k, val []byte) bool {
		at := binary.BigEndian.Uint64(val)
		if n == 0 {
			first = at
		}
		if at != first {
			problem = fmt.Sprintf("%s has %d beside %d", k, at, first)
		}
		n++
		return true
	}
	v.Scan(tblKV, nil, nil, see)
	v.ScanReverse(tblKV, nil, nil, see)
	if val, ok := v.Get(tblKV, []byte("k07")); !ok || binary.BigEndian.Uint64(val) != first {
		problem = "Get and Scan differ"
	}
	if n != 2*rows {
		problem = fmt.Sprintf("%d rows; want %d", n, 2*rows)
	}
	return problem
}
