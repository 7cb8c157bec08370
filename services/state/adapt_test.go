package state

import "testing"

// Commits whose rows cost many pages become smaller, those whose rows share pages
// larger, within the bounds.
func TestFlushAdaptsToThePagesOfACommit(t *testing.T) {
	m := &Machine{cfg: (&Config{FlushBytes: 32 << 20, MaxLagBytes: 96 << 20}).withDefaults()}
	m.flushAt.Store(8 << 20)
	m.adapt(8<<20, 4*maxCommitPages)
	if got := m.flushAt.Load(); got != 2<<20 {
		t.Errorf("after a commit of four times the pages: %d bytes, want a quarter", got)
	}
	m.adapt(2<<20, 100*maxCommitPages)
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
	if got := m.flushAt.Load(); got > maxCommitPages/32 && got != minFlushBytes {
		t.Errorf("after small commits of scattered rows: %d bytes, want the least", got)
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
