package state

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// samePages checks that reading past the memory map gives what the map gives: every
// row, keys between rows, before the first and after the last.
func samePages(t require.TestingT, f *fixture) {
	v := f.View()
	defer v.Release()
	g := v.gen()
	for slot := range g.reg.tables {
		var want, got []string
		c := g.base.bucket(slot).Cursor()
		for k, val := c.First(); k != nil; k, val = c.Next() {
			want = append(want, string(k)+"="+string(val))
			for _, key := range [][]byte{k, append(bytes.Clone(k), 0), k[:len(k)-1]} {
				if len(key) == 0 {
					continue
				}
				value, found, ok := g.base.read(slot, key)
				if !ok {
					continue // within another page
				}
				k2, v2 := g.base.bucket(slot).Cursor().Seek(key)
				there := bytes.Equal(k2, key)
				require.Equal(t, there, found, "%q", key)
				if there {
					require.True(t, bytes.Equal(v2, value), "%q", key)
					require.NotNil(t, value, "an empty value is no tombstone")
				}
			}
		}
		g.base.walk(slot, func(k, val []byte) bool {
			got = append(got, string(k)+"="+string(val))
			return true
		})
		require.Equal(t, want, got)
	}
}

func TestPagesPastTheMap(t *testing.T) {
	f := open(t, Options{})
	samePages(t, f) // tables within another page
	for i := range 6000 {
		size := i % 700
		if i%500 == 0 {
			size = 20_000 // overflow pages
		}
		f.apply(put(fmt.Sprintf("%05d", i*7919%6000), strings.Repeat("v", size)))
	}
	f.flush()
	v := f.View()
	s := v.gen().base.shapeOf(v.gen().reg.slot(tblKV))
	require.GreaterOrEqual(t, s.depth, 1)
	v.Release()
	samePages(t, f)
	for i := 0; i < 6000; i += 2 {
		f.apply(del(fmt.Sprintf("%05d", i)))
	}
	f.flush()
	samePages(t, f)
	require.NoError(t, f.Machine.Defragment(t.Context()))
	samePages(t, f)
	f.reopen()
	samePages(t, f)
}

func TestPagesPastTheMapOfAnyRows(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		require.NoError(rt, err)
		f := open(t, Options{Path: filepath.Join(dir, "state.db")})
		for range rapid.IntRange(1, 4).Draw(rt, "commits") {
			for range rapid.IntRange(1, 120).Draw(rt, "rows") {
				key := rapid.StringMatching(`[a-c]{1,5}`).Draw(rt, "key")
				if rapid.IntRange(0, 3).Draw(rt, "kind") == 0 {
					f.apply(del(key))
				} else {
					f.apply(put(key, strings.Repeat("x", rapid.IntRange(0, 5000).Draw(rt, "size"))))
				}
			}
			f.flush()
			samePages(rt, f)
		}
		require.NoError(rt, f.Machine.Close())
	})
}

// A view reads the rows of its own time while commits write the file under it and
// the machine changes between reading through the map and past it.
func TestViewsReadPastTheMapUnderCommits(t *testing.T) {
	f := open(t, Options{})
	const rows = 400
	write := func(round int) {
		for i := range rows {
			f.apply(put(fmt.Sprintf("%04d", i), fmt.Sprintf("%d %s", round, strings.Repeat("v", 200))))
		}
		f.flush()
	}
	write(0)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	read := func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			v := f.View()
			at := ""
			bad := false
			for i := range rows {
				value, ok := v.Get(tblKV, fmt.Appendf(nil, "%04d", i))
				if !ok {
					bad = true
					break
				}
				round, _, _ := strings.Cut(string(value), " ")
				if i > 0 && len(round) > 0 && at != "" && round > at && len(round) == len(at) {
					bad = true // a later row of an older round was written first
					break
				}
				at = round
			}
			v.Release()
			if bad {
				t.Error("a view read rows of another time")
				return
			}
		}
	}
	for range 3 {
		wg.Go(read)
	}
	for round := 1; round < 10; round++ {
		f.Machine.spare(round%2 == 1)
		write(round)
	}
	close(stop)
	wg.Wait()
}

// Damage of a page is a panic that names it, which loading and applying turn into the
// error of a damaged file; it is never another row.
func TestDamagedPagesPastTheMap(t *testing.T) {
	good := page(make([]byte, 4096))
	binary.NativeEndian.PutUint64(good, 7)
	binary.NativeEndian.PutUint16(good[8:], leafPage)
	require.NotPanics(t, func() { good.checked(7) })
	require.Panics(t, func() { good.checked(8) })
	binary.NativeEndian.PutUint16(good[8:], 0x10)
	require.Panics(t, func() { good.checked(7) })
	binary.NativeEndian.PutUint16(good[8:], leafPage)
	binary.NativeEndian.PutUint32(good[pageHeader:], bucketRow)
	require.Panics(t, func() { good.row(0) })
	binary.NativeEndian.PutUint32(good[pageHeader:], 0)
	binary.NativeEndian.PutUint32(good[pageHeader+4:], 1<<31)
	require.Panics(t, func() { good.row(0) })
}

func TestScanOnceSeesOverlays(t *testing.T) {
	f := open(t, Options{})
	f.apply(put("a", "1"), put("b", "2"))
	scan := func() (out []string) {
		v := f.View()
		defer v.Release()
		ScanOnce(v, tblKV, func(k, val []byte) bool {
			out = append(out, string(k)+string(val))
			return len(out) < 2
		})
		return out
	}
	require.Equal(t, []string{"a1", "b2"}, scan())
	f.flush()
	require.Equal(t, []string{"a1", "b2"}, scan())
	f.apply(put("0", "0"))
	require.Equal(t, []string{"00", "a1"}, scan())
}
