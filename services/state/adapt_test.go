package state

import (
	"bytes"
	"fmt"
	"math"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"
)

const pageSize = 4 << 10

// Commits whose rows cost many pages become smaller, those whose rows share pages
// larger, within the bounds.
func TestFlushAdaptsToThePagesOfACommit(t *testing.T) {
	m := &Machine{cfg: (&Config{FlushBytes: 32 << 20, MaxLagBytes: 96 << 20}).withDefaults()}
	m.flushAt.Store(8 << 20)
	m.adapt(8<<20, 8*densePages, reach{leaves: 60_000}, pageSize)
	if got := m.flushAt.Load(); got != minFlushBytes {
		t.Errorf("after a commit of many pages: %d bytes, want the least", got)
	}
	m.adapt(2<<20, 100*densePages, reach{leaves: 800_000}, pageSize)
	if got := m.flushAt.Load(); got != minFlushBytes {
		t.Errorf("%d bytes, want the least", got)
	}
	if got := m.maxLag(); got != 2*minFlushBytes {
		t.Errorf("lag of %d bytes, want two commits", got)
	}
	// A commit that was asked for early and is small says the same of its rows.
	for range 10 {
		m.adapt(32<<10, 1<<20, reach{leaves: 250}, pageSize)
	}
	if got := m.flushAt.Load(); got != minFlushBytes {
		t.Errorf("after small commits of scattered rows: %d bytes, want the least pages at their cost", got)
	}
	for range 100 {
		m.adapt(1<<20, 1<<20, reach{leaves: 1}, pageSize)
	}
	if got := m.flushAt.Load(); got != 32<<20 {
		t.Errorf("after cheap commits: %d bytes, want the configured most", got)
	}
	if got := m.maxLag(); got != 64<<20 {
		t.Errorf("lag of %d bytes, want two commits", got)
	}
	at := m.flushAt.Load()
	m.adapt(0, 16<<10, reach{}, pageSize)
	if got := m.flushAt.Load(); got != at {
		t.Errorf("%d bytes after a commit without rows, want no change", got)
	}
}

// Commits of rows that have a page each stay small, however many there are; those whose
// rows come back to the same pages grow, and shrink again when that ends.
func TestPace(t *testing.T) {
	var p pacer
	rows := int64(minFlushBytes)
	known, most := 0, mostPages/pageSize
	// run writes rows of 400 B, each to one of so many leaves.
	run := func(population int) (large int) {
		for range 200 {
			n := float64(rows) / 400
			leaves := int(float64(population) * -math.Expm1(-n/float64(population)))
			r := reach{leaves: leaves, again: leaves * known / population, known: known}
			if known = known + leaves - r.again; known > most {
				known = min(leaves, population)
			}
			pages := int64(leaves)*pageSize + rows
			next := p.next(rows, pages, r, pageSize)
			rows = max(minFlushBytes, min(next, 4*rows, 32<<20))
			if pages > 2*leastPages {
				large++
			}
		}
		return large
	}
	if n := run(1_000_000); n != 0 {
		t.Errorf("%d of 200 commits were large, though they gain nothing by it", n)
	}
	if n := run(10_000); n < 190 {
		t.Errorf("%d of 200 commits were large, though rows share pages", n)
	}
	if n := run(1_000_000); n > 2 {
		t.Errorf("%d of 200 commits were large after the rows had gone apart", n)
	}
}

// The leaves that a commit touches are counted before it, and known ones are told from
// new ones though each commit moves them, and though they are split.
func TestReach(t *testing.T) {
	f := open(t, Options{})
	key := func(i int) string { return fmt.Sprintf("%08d", i*10) }
	value := string(bytes.Repeat([]byte("v"), 200))
	const keys = 20_000
	for i := range keys {
		f.apply(put(key(i), value))
	}
	f.flush()
	leaves := func() (n int) {
		v := f.View()
		defer v.Release()
		b, slot := v.gen().base, v.gen().reg.slot(tblKV)
		var end []byte
		for at := []byte("0"); at != nil; at, n = end, n+1 {
			_, first, next := b.leafOf(slot, at)
			require.True(t, n == 0 || bytes.Equal(first, at))
			end = next
		}
		return n
	}
	var s spread
	of := func(keys ...string) reach {
		v := f.View()
		defer v.Release()
		rows := make(layer, len(v.gen().reg.tables))
		tr := newTree()
		for _, k := range keys {
			tr.Set(row{key: []byte(k)})
		}
		rows[v.gen().reg.slot(tblKV)] = tr
		return s.of(v.gen().base, rows)
	}
	all := make([]string, keys)
	for i := range all {
		all[i] = key(i)
	}
	n := leaves()
	require.Greater(t, n, 1000)
	require.Equal(t, reach{leaves: n}, of(all...), "each leaf once")
	require.Equal(t, reach{leaves: n, again: n, known: n}, of(all...))
	require.Equal(t, reach{leaves: 1, again: 1, known: n}, of(key(77), key(77)+"a"))

	rng := rand.New(rand.NewSource(1))
	for range keys { // between the others: leaves split
		f.apply(put(key(rng.Intn(keys))+fmt.Sprint(rng.Intn(1000)), value))
	}
	f.flush()
	after := leaves()
	require.Greater(t, after, n*4/3)
	r := of(all...)
	require.Equal(t, after, r.leaves)
	require.Greater(t, r.again, after*9/10, "halves of known leaves are known")

	s = spread{}
	of(all[:keys/2]...)
	r = of(all[keys/2:]...)
	require.LessOrEqual(t, r.again, 1, "the other half of the keys")
}

// What an idle node writes, such as a row of a clock now and then, says nothing of what
// comes next: the size of commits is that of a node that has just started.
func TestSmallCommitsTellNothing(t *testing.T) {
	f := open(t, Options{Config: lazy()})
	start := f.flushAt.Load()
	f.apply(put("clock", "1"))
	f.flush()
	require.Equal(t, start, f.flushAt.Load())
	f.flushAt.Store(2 * start)
	f.apply(put("clock", "2"))
	f.flush()
	require.Equal(t, start, f.flushAt.Load())
}
