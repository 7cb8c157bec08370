package state

import "testing"

// Commits whose rows cost many pages become smaller, those whose rows share pages
// larger, within the bounds.
func TestFlushAdaptsToThePagesOfACommit(t *testing.T) {
	m := &Machine{cfg: (&Config{FlushBytes: 32 << 20, MaxLagBytes: 96 << 20}).withDefaults()}
	m.flushAt.Store(8 << 20)
	m.adapt(8<<20, 8*densePages)
	if got := m.flushAt.Load(); got != minFlushBytes {
		t.Errorf("after a commit of many pages: %d bytes, want the least", got)
	}
	m.adapt(2<<20, 100*densePages)
	if got := m.flushAt.Load(); got != minFlushBytes {
		t.Errorf("%d bytes, want the least", got)
	}
	if got := m.maxLag(); got != 2*minFlushBytes {
		t.Errorf("lag of %d bytes, want two commits", got)
	}
	// A commit that was asked for early and is small says the same of its rows.
	for range 10 {
		m.adapt(32<<10, 1<<20)
	}
	if got := m.flushAt.Load(); got > mostPages/32 {
		t.Errorf("after small commits of scattered rows: %d bytes, want the most pages at their cost", got)
	}
	for range 100 {
		m.adapt(1<<20, 1<<20)
	}
	if got := m.flushAt.Load(); got != 32<<20 {
		t.Errorf("after cheap commits: %d bytes, want the configured most", got)
	}
	if got := m.maxLag(); got != 64<<20 {
		t.Errorf("lag of %d bytes, want two commits", got)
	}
	at := m.flushAt.Load()
	m.adapt(0, 16<<10)
	if got := m.flushAt.Load(); got != at {
		t.Errorf("%d bytes after a commit without rows, want no change", got)
	}
}

// Commits of rows that have a page each stay small but for the probes; those whose rows
// share pages once there are many of them grow, and shrink again when that ends.
func TestPace(t *testing.T) {
	var p pacer
	rows := int64(minFlushBytes)
	run := func(room bool, pagesOf func(rows int64) int64) (large int) {
		for range 200 {
			next := p.next(rows, pagesOf(rows), room)
			rows = max(minFlushBytes, min(next, 4*rows, 32<<20))
			if pagesOf(rows) > 2*leastPages {
				large++
			}
		}
		return large
	}
	apart := func(rows int64) int64 { return 10 * rows } // ten times their size, however many
	if n := run(false, apart); n > 4 {                   // until the first probe
		t.Errorf("without room %d commits were large", n)
	}
	if n := run(true, apart); n == 0 || n > 20 {
		t.Errorf("%d of 200 commits were large, though they gain nothing by it", n)
	}
	// 10,000 keys: 40 MiB of pages at most, beside those of the rows themselves.
	if n := run(true, func(rows int64) int64 { return min(10*rows, 40<<20) + 2*rows }); n < 150 {
		t.Errorf("%d of 200 commits were large, though rows share pages", n)
	}
	if n := run(true, apart); n > 40 {
		t.Errorf("%d of 200 commits were large after the rows had gone apart", n)
	}
}
