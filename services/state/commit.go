package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"nekoq/services/errs"
)

// batch is an overlay that was handed to the committer, with the position that
// the file has once it is written.
type batch struct {
	rows    layer
	meta    meta
	seq     uint64
	bytes   int64
	changed bool
}

// commitLoop writes overlays in the background: when one is large, old, or a
// Flush asks.
func (m *Machine) commitLoop() {
	debug.SetPanicOnFault(true) // a file that is cut under us halts with an error
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	defer timer.Stop()
	for {
		select {
		case <-m.stop:
			return
		case <-m.kick:
			m.commitOnce()
			continue
		case <-m.dirty:
		}
		timer.Reset(m.cfg.FlushInterval)
		select {
		case <-m.stop:
			return
		case <-m.kick:
			timer.Stop()
		case <-timer.C:
		}
		m.commitOnce()
	}
}

// signal sets a flag that the committer waits for.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// Backoff between attempts while the disk is full.
const (
	firstRetry = 50 * time.Millisecond
	lastRetry  = 2 * time.Second
)

// commitOnce hands the active overlay over and writes it, however often it
// takes. It returns early when the machine stops, halts or is restored.
func (m *Machine) commitOnce() {
	pause := firstRetry
	for b := m.rotate(); b != nil; {
		err := m.commitBatch(b)
		if err == nil || m.haltedNow() {
			return
		}
		timer := time.NewTimer(pause)
		select {
		case <-m.stop:
			timer.Stop()
			return
		case <-m.done:
			timer.Stop()
			return
		case <-m.kick: // a Flush wants to know at once
			timer.Stop()
		case <-timer.C:
		}
		pause = min(2*pause, lastRetry)
		if !m.isFlushing(b) {
			signal(m.kick) // the one that was taken above may be about newer rows
			return
		}
	}
}

func (m *Machine) isFlushing(b *batch) bool {
	m.pub.Lock()
	defer m.pub.Unlock()
	return m.flushing == b
}

// rotate makes the active overlay the flushing one and begins a new one. It
// returns nil when there is nothing to write, and the waiting batch when one
// is there already.
func (m *Machine) rotate() *batch {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pub.Lock()
	waiting := m.flushing
	m.pub.Unlock()
	if waiting != nil {
		return waiting
	}
	m.wait.Lock()
	clean := m.durSeq >= m.seq
	m.wait.Unlock()
	if clean || m.haltedNow() {
		return nil
	}
	b := m.cut()
	select {
	case <-m.kick: // it asked for what was cut: who kicks has applied before
	default:
	}
	m.pub.Lock()
	defer m.pub.Unlock()
	if m.base == nil {
		return nil // closed
	}
	m.flushing, m.layer = b, m.active.published
	m.flushBytes.Store(b.bytes)
	m.activeBytes.Store(0)
	m.publishApplied()
	return b
}

// cut takes the active overlay out, with the sessions' rows, and begins a new
// one. The caller holds mu.
func (m *Machine) cut() *batch {
	m.sessions.materialize(m.active, m.reg.slot(tableSessions))
	b := &batch{rows: m.active.trees, meta: m.meta, seq: m.seq, bytes: m.active.bytes, changed: m.changed}
	m.active = newOverlay(len(m.reg.tables))
	m.changed = false
	return b
}

// commitBatch writes b and makes the file's new state the base of views. Only a
// full disk is survived; any other failure halts.
func (m *Machine) commitBatch(b *batch) error {
	m.commitMu.Lock()
	defer m.commitMu.Unlock()
	if !m.isFlushing(b) {
		return nil // a restore has replaced the state meanwhile
	}
	if err := m.write(b); err != nil {
		return err
	}
	next, err := newBase(m.base.h, m.reg)
	if err != nil {
		return m.halt(fmt.Errorf("state file %s: %w", m.opts.Path, err))
	}
	m.pub.Lock()
	old := m.base
	m.base, m.flushing = next, nil
	m.publishLocked()
	m.pub.Unlock()
	old.release()
	m.flushBytes.Store(0)
	m.durable.Store(b.meta.index)
	m.setDurable(b.seq)
	return nil
}

// write carries out one transaction. The caller holds commitMu, so m.base does
// not change. A full disk is reported through Storage and returned; everything
// else halts.
func (m *Machine) write(b *batch) error {
	began := time.Now()
	m.reading.Add(1)
	defer m.reading.Add(-1)
	m.trimBefore()
	m.touch()
	err := m.writeTx(m.base.h.db, b)
	for errors.Is(err, berrors.ErrMaxSizeReached) && m.mapLimits() {
		if err = m.remap(); err == nil {
			err = m.writeTx(m.base.h.db, b)
		}
	}
	if err == nil {
		m.metrics.committed(time.Since(began), b.bytes)
		m.setStorage(nil)
		m.record(b)
		return nil
	}
	if m.haltedNow() {
		return m.err
	}
	m.metrics.failed()
	if isFull(err) {
		full := errs.New(errs.StorageFull, "the disk of the state file %s is full; make room, and writes go on by themselves",
			m.opts.Path).Wrap(err)
		m.setStorage(full)
		return full
	}
	return m.halt(errs.New(errs.Corrupt, "the state file %s cannot be written (%v); check the disk, and start again; "+
		"if it does not start, move the file away and let the node join again, or restore a backup",
		m.opts.Path, err).Wrap(err))
}

// fillPercent is how full bbolt leaves a page that it splits. Overlays come in
// key order and most tables grow at their end, so fuller than bbolt's half.
const fillPercent = 0.8

// writeTx puts b's rows in key order and commits. When it fails, the file's
// last good state stays: bbolt writes to free pages first and the meta page
// last. Even when only the final sync failed and the new meta page is visible,
// writing b again is right, since it rewrites every page that b touches.
func (m *Machine) writeTx(db *bolt.DB, b *batch) (err error) {
	if hook := m.opts.Faults.BeforeCommit; hook != nil {
		if err := hook(); err != nil {
			return err
		}
	}
	tx, err := db.Begin(true)
	if err != nil {
		return err
	}
	defer func() {
		if p := recover(); p != nil {
			_ = tx.Rollback() // for its locks; the caller halts
			err = panicError(p)
		}
	}()
	reach := m.spread.of(m.base, b.rows)
	if err = m.putRows(tx, b); err == nil {
		if hook := m.opts.Faults.AfterWrite; hook != nil {
			err = hook()
		}
	}
	if err != nil {
		_ = tx.Rollback()
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	stats := tx.Stats()
	m.adapt(b.bytes, stats.GetPageAlloc(), reach, m.base.h.pageSize)
	return nil
}

// adapt sets the bytes of changes for the next commits from what a row of this one
// cost. What matters is pages by row, since a small commit costs few in any case.
func (m *Machine) adapt(rows, pages int64, r reach, pageSize int64) {
	if rows <= 0 || pages <= 0 {
		return
	}
	if rows < minFlushBytes && r.leaves < telling { // on an idle node it writes next to nothing and tells nothing
		m.flushAt.Store(min(m.flushAt.Load(), m.startAt()))
		return
	}
	next := min(m.pace.next(rows, pages, r, pageSize), 4*m.flushAt.Load(), m.cfg.FlushBytes)
	m.flushAt.Store(max(next, min(minFlushBytes, m.cfg.FlushBytes)))
}

// startAt is the bytes of changes for a commit as long as nothing is known of their cost.
func (m *Machine) startAt() int64 { return m.cfg.FlushBytes / 4 }

// maxLag is the bytes of unsaved changes at which applying waits: one commit that is
// being written and one that gathers.
func (m *Machine) maxLag() int64 { return min(m.cfg.MaxLagBytes, 2*m.flushAt.Load()) }

func (m *Machine) putRows(tx *bolt.Tx, b *batch) error {
	n := 0
	for i, t := range b.rows {
		if t == nil {
			continue
		}
		bucket := tx.Bucket(m.reg.tables[i].bucket)
		bucket.FillPercent = fillPercent
		c := bucket.Cursor() // Bucket.Delete makes one for each row
		var err error
		t.Scan(func(r row) bool {
			if n++; n%trimRows == 0 {
				m.trimPaced()
				runtime.Gosched() // requests wait for a processor, the file does not
			}
			if r.value == nil {
				if k, _ := c.Seek(r.key); bytes.Equal(k, r.key) {
					err = c.Delete()
				}
			} else {
				err = bucket.Put(r.key, r.value)
			}
			return err == nil
		})
		if err != nil {
			return err
		}
	}
	return writeMeta(tx, &b.meta)
}

// isFull tells whether err means that the disk, the quota or the file's limit
// is used up. bbolt flattens some errors of growing the file into text, hence
// the search for the system's own words.
func isFull(err error) bool {
	for _, full := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		if errors.Is(err, full) || strings.Contains(err.Error(), full.Error()) {
			return true
		}
	}
	return errors.Is(err, berrors.ErrMaxSizeReached) || errs.Has(err, errs.StorageFull)
}

// awaitLag waits until the overlays are small enough for another batch.
func (m *Machine) awaitLag() error {
	for m.activeBytes.Load()+m.flushBytes.Load() > m.maxLag() {
		signal(m.kick)
		m.wait.Lock()
		progress := m.progress
		m.wait.Unlock()
		if m.activeBytes.Load()+m.flushBytes.Load() <= m.maxLag() {
			return nil
		}
		select {
		case <-progress:
		case <-m.done:
			return m.err
		}
	}
	return nil
}

// Flush commits and syncs everything applied so far. With a full disk it fails
// with storage_full after the next attempt, and what was applied is kept.
func (m *Machine) Flush(ctx context.Context) error {
	m.mu.Lock()
	want := m.seq
	m.mu.Unlock()
	if m.haltedNow() {
		return m.err
	}
	if m.opts.Mode == Synced {
		return m.flushSynced(want)
	}
	m.wait.Lock()
	for m.durSeq < want {
		progress := m.progress
		m.wait.Unlock()
		signal(m.kick)
		select {
		case <-progress:
		case <-ctx.Done():
			return errs.From(ctx.Err())
		case <-m.done:
			return m.err
		}
		m.wait.Lock()
		if m.durSeq < want && m.storage != nil {
			err := m.storage
			m.wait.Unlock()
			return err
		}
	}
	m.wait.Unlock()
	return nil
}

// close commits the rest, stops the committer and lets go of the file.
func (m *Machine) close() error {
	var flushErr error
	if !m.haltedNow() {
		ctx, cancel := context.WithTimeout(context.Background(), m.cfg.CloseTimeout)
		flushErr = m.Flush(ctx)
		cancel()
	}
	halted := m.Err()
	_ = m.halt(errs.New(errs.ShuttingDown, "the state machine is closed"))
	close(m.stop)
	m.stopped.Wait()
	m.metrics.unregister(m.opts.Metrics)
	m.commitMu.Lock()
	defer m.commitMu.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pub.Lock()
	h := m.base.h
	m.pub.Unlock()
	m.dropCurrent()
	h.release()
	timer := time.NewTimer(m.cfg.CloseTimeout)
	defer timer.Stop()
	select {
	case <-h.closed:
		if h.err != nil {
			return errs.New(errs.Internal, "closing the state file %s: %v", m.opts.Path, h.err).Wrap(h.err)
		}
	case <-timer.C:
		return errs.New(errs.Internal, "the state file %s stays open: %d read views or snapshots were not released",
			m.opts.Path, m.openViews.Load())
	}
	if halted != nil {
		return nil // reported by Err already
	}
	return flushErr
}
