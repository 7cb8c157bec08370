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
	if got := m.maxLag(); got != 3*minFlushBytes {
		t.Errorf("lag of %d bytes, want three commits", got)
	}
	for range 100 {
		m.adapt(1<<20, 1<<20)
	}
	if got := m.flushAt.Load(); got != 32<<20 {
		t.Errorf("after cheap commits: %d bytes, want the configured most", got)
	}
	if got := m.maxLag(); got != 96<<20 {
		t.Errorf("lag of %d bytes, want the configured one", got)
	}
	at := m.flushAt.Load()
	m.adapt(1<<20, maxCommitPages*3/4)
	if got := m.flushAt.Load(); got != at {
		t.Errorf("%d bytes after a commit of the right size, want no change", got)
	}
}
