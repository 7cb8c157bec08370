package state

import (
	"fmt"

	"nekoq/services/errs"
)

// applySynced applies, commits and then publishes: readers never see a batch
// that the file does not hold.
func (m *Machine) applySynced(index, term uint64, entry []byte) ([]Result, error) {
	m.commitMu.Lock()
	defer m.commitMu.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.haltedNow() {
		return nil, m.err
	}
	if index <= m.meta.index {
		return nil, nil
	}
	m.show() // what Advance left: views that a failure needs wait for nothing
	before := savepoint{meta: m.meta, version: m.version, seq: m.seq, ring: m.ring.mark(), frozen: m.frozenIx}
	results, err := m.applyBatch(index, term, entry)
	if err != nil {
		return nil, m.halt(err)
	}
	m.changed = true
	b := m.cut()
	if err := m.write(b); err != nil {
		if m.haltedNow() {
			return nil, m.err
		}
		return m.rollback(before, results, err)
	}
	if err := m.publishWritten(b); err != nil {
		return nil, err
	}
	m.publishEvents()
	return results, nil
}

// publishWritten shows the file's newest state, which is all there is. The
// caller holds commitMu and mu.
func (m *Machine) publishWritten(b *batch) error {
	next, err := newBase(m.base.h, m.reg)
	if err != nil {
		return m.halt(fmt.Errorf("state file %s: %w", m.opts.Path, err))
	}
	m.pub.Lock()
	old := m.base
	m.base, m.layer = next, m.active.published
	m.publishApplied()
	m.pub.Unlock()
	old.release()
	m.moved()
	m.durable.Store(b.meta.index)
	m.setDurable(b.seq)
	return nil
}

// savepoint is the apply state before a batch, without the sessions and the
// indexes, which are made anew from the file.
type savepoint struct {
	meta    meta
	version uint32
	seq     uint64
	ring    ringMark
	frozen  []any
}

// rollback undoes a batch that could not be written. In Synced mode the file
// holds everything before it.
func (m *Machine) rollback(s savepoint, results []Result, cause error) ([]Result, error) {
	m.meta, m.version, m.seq, m.frozenIx = s.meta, s.version, s.seq, s.frozen
	m.ring.restore(s.ring)
	m.tx.events = nil
	v := m.View()
	defer v.Release()
	if err := m.sessions.load(v); err != nil {
		return nil, m.halt(corrupt(m.opts.Path, err))
	}
	for i := range m.indexes {
		m.indexes[i].Rebuild(v)
	}
	for i := range results {
		results[i] = Result{Revision: m.meta.revision, Err: errs.From(cause)}
	}
	return results, nil
}

// flushSynced commits what Advance and SetConfiguration left.
func (m *Machine) flushSynced(want uint64) error {
	m.commitMu.Lock()
	defer m.commitMu.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.haltedNow() {
		return m.err
	}
	m.wait.Lock()
	clean := m.durSeq >= want
	m.wait.Unlock()
	if clean {
		return nil
	}
	b := m.cut()
	if err := m.write(b); err != nil {
		return err
	}
	return m.publishWritten(b)
}

// ringMark is a position of the ring to go back to.
type ringMark struct {
	next, n int
	entry   struct{ index, chain uint64 } // the one that the next add overwrites
}

func (r *chainRing) mark() ringMark {
	return ringMark{next: r.next, n: r.n, entry: r.entries[r.next]}
}

func (r *chainRing) restore(m ringMark) {
	r.next, r.n = m.next, m.n
	r.entries[m.next] = m.entry
}
