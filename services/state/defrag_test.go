package state

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"nekoq/services/command"
	"nekoq/services/errs"
)

// Defragmenting under writes changes nothing but the size of the file, and readers
// from before keep their view.
func TestDefragment(t *testing.T) {
	modes(t, func(t *testing.T, mode Mode) {
		f := open(t, Options{Mode: mode})
		big := strings.Repeat("x", 100_000) // the file grows in steps of 16 MiB
		var all, most []command.Command
		for i := range 400 {
			all = append(all, put(fmt.Sprintf("k%03d", i), big))
			if i < 390 {
				most = append(most, del(fmt.Sprintf("k%03d", i)))
			}
		}
		f.apply(all...)
		f.flush()
		f.apply(most...)
		f.flush()
		before, _ := f.Sizes()
		old := f.View()
		var wg sync.WaitGroup
		stop := make(chan struct{})
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					f.apply(put(fmt.Sprintf("w%d", i%50), fmt.Sprint(i)))
				}
			}
		})
		for range 3 {
			require.NoError(t, f.Defragment(t.Context()))
		}
		close(stop)
		wg.Wait()
		require.Len(t, rowsOf(old), 10)
		old.Release()
		f.flush()
		after, inUse := f.Sizes()
		require.Less(t, after, before)
		require.LessOrEqual(t, inUse, after)
		want := f.hash()
		rows := f.rows()
		f.reopen()
		require.Equal(t, want, f.hash())
		require.Equal(t, rows, f.rows())
		require.NoFileExists(t, f.opts.Path+defragSuffix)
		f.apply(put("after", "1"))
		f.flush()
	})
}

// A failure before the rename leaves the old file, and a restore in between ends the
// attempt.
func TestDefragmentFails(t *testing.T) {
	stream, want := donor(t)
	for _, step := range []string{"defrag create", "defrag rename"} {
		t.Run(step, func(t *testing.T) {
			broken := errors.New("no such disk")
			fail := true
			f := open(t, Options{Mode: Logged, Faults: Faults{Restore: func(s string) error {
				if fail && s == step {
					return broken
				}
				return nil
			}}})
			f.apply(put("a", "1"))
			require.ErrorIs(t, f.Defragment(t.Context()), broken)
			require.NoFileExists(t, f.opts.Path+defragSuffix)
			f.apply(put("b", "2"))
			fail = false
			require.NoError(t, f.Defragment(t.Context()))
			require.Equal(t, map[string]string{"a": "1", "b": "2"}, f.rows())
		})
	}
	t.Run("restored meanwhile", func(t *testing.T) {
		var f *fixture
		f = open(t, Options{Mode: Logged, Faults: Faults{Restore: func(s string) error {
			if s == "defrag create" {
				return f.Restore(newReader(stream))
			}
			return nil
		}}})
		f.apply(put("a", "1"))
		require.True(t, errs.Has(f.Defragment(t.Context()), errs.Unavailable))
		require.Equal(t, want, f.hash())
	})
	t.Run("cancelled", func(t *testing.T) {
		f := open(t, Options{Mode: Logged})
		f.apply(put("a", "1"))
		f.flush()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.True(t, errs.Has(f.Defragment(ctx), errs.Canceled))
		_, err := os.Stat(f.opts.Path + defragSuffix)
		require.ErrorIs(t, err, os.ErrNotExist)
	})
}
