package state

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"

	"nekoq/services/errs"
)

// Defragmenting copies the file into a new one while the node goes on, lets the
// commits that came meanwhile follow, and swaps the two between two commits.

const (
	// defragSuffix marks the new file; one found at start is of an attempt that did
	// not finish and is removed.
	defragSuffix = ".defrag"
	// defragStep is how many bytes of rows one transaction of the copy takes, which
	// bounds the memory it needs.
	defragStep = 8 << 20
	// maxDefragPending bounds the bytes of rows that were committed during the copy
	// and wait to follow.
	maxDefragPending = 512 << 20
	// fewPending is how many commits may be left to follow while commits wait.
	fewPending = 1
)

// defragging records the commits that the copy has yet to take. commitMu guards it.
type defragging struct {
	h       *handle // the file that is copied; another one ends the attempt
	pending []*batch
	bytes   int64
}

// record notes a batch that was written. The caller holds commitMu.
func (m *Machine) record(b *batch) {
	d := m.defrag
	if d == nil || d.h != m.base.h {
		return
	}
	if d.bytes += b.bytes; d.bytes > maxDefragPending {
		d.h, d.pending = nil, nil // too many writes: give up, keep no memory
		return
	}
	d.pending = append(d.pending, b)
}

// Sizes gives the bytes of the state file on the disk and those of them that hold
// data; the rest is free and will be used again.
func (m *Machine) Sizes() (file, inUse int64) {
	m.pub.Lock()
	b := m.base
	if b == nil {
		m.pub.Unlock()
		return 0, 0
	}
	b.refs.Add(1)
	m.pub.Unlock()
	defer b.release()
	file = b.tx.Size()
	if info, err := b.h.file.Stat(); err == nil {
		file = max(file, info.Size())
	}
	stats := b.h.db.Stats()
	free := int64(stats.FreePageN+stats.PendingPageN) * int64(b.h.db.Info().PageSize)
	return file, max(b.tx.Size()-free, 0)
}

// Defragment rewrites the state file without its free pages and gives them back to
// the disk. Reads and writes go on; commits wait only while the last of them follow.
// A failure or a crash leaves the old file. One runs at a time.
func (m *Machine) Defragment(ctx context.Context) error {
	if !m.defragMu.TryLock() {
		return errs.New(errs.Conflict, "the state file is being defragmented already")
	}
	defer m.defragMu.Unlock()
	if err := m.Flush(ctx); err != nil {
		return err
	}
	m.commitMu.Lock()
	if m.haltedNow() {
		m.commitMu.Unlock()
		return m.err
	}
	d := &defragging{h: m.base.h}
	from, err := newBase(m.base.h, m.reg)
	if err == nil {
		m.defrag = d
	}
	m.commitMu.Unlock()
	if err != nil {
		return errs.New(errs.Internal, "state file %s: %v", m.opts.Path, err).Wrap(err)
	}
	tmp := m.opts.Path + defragSuffix
	err = m.defragment(ctx, d, from, tmp)
	from.release()
	m.commitMu.Lock()
	m.defrag = nil
	m.commitMu.Unlock()
	if err != nil {
		_ = os.Remove(tmp)
	}
	return err
}

func (m *Machine) defragment(ctx context.Context, d *defragging, from *base, tmp string) error {
	_ = os.Remove(tmp)
	if err := m.fault("defrag create"); err != nil {
		return err
	}
	h, _, err := openFile(tmp, m.reg, &m.cfg, Volatile, nil) // synced once, at the end
	if err != nil {
		return err
	}
	swapped := false
	defer func() {
		if !swapped {
			h.release()
		}
	}()
	if err := copyRows(ctx, h.db, from.tx); err != nil {
		return defragError(tmp, err)
	}
	for {
		rest, err := m.takePending(d, false)
		if err != nil {
			return err
		}
		if len(rest) <= fewPending {
			if err := m.follow(ctx, h, rest); err != nil {
				return defragError(tmp, err)
			}
			break
		}
		if err := m.follow(ctx, h, rest); err != nil {
			return defragError(tmp, err)
		}
	}
	if m.opts.Mode != Volatile {
		if err := h.db.Sync(); err != nil { // most of it, before commits wait
			return defragError(tmp, err)
		}
	}
	swapped, err = m.swap(ctx, d, h, tmp)
	return err
}

// takePending gives the commits that have not followed.
func (m *Machine) takePending(d *defragging, locked bool) ([]*batch, error) {
	if !locked {
		m.commitMu.Lock()
		defer m.commitMu.Unlock()
	}
	if d.h == nil || d.h != m.base.h {
		return nil, errs.New(errs.Unavailable, "the state file was replaced, or written too fast, while it was defragmented; nothing was changed, try again")
	}
	rest := d.pending
	d.pending, d.bytes = nil, 0
	return rest, nil
}

// follow writes commits to the new file.
func (m *Machine) follow(ctx context.Context, h *handle, batches []*batch) error {
	for _, b := range batches {
		if err := ctx.Err(); err != nil {
			return errs.From(err)
		}
		err := h.db.Update(func(tx *bolt.Tx) error { return m.putRows(tx, b) })
		if err != nil {
			return err
		}
	}
	return nil
}

// swap puts the new file in the old one's place between two commits. Once the file is
// renamed going back is not possible, so a failure after it halts.
func (m *Machine) swap(ctx context.Context, d *defragging, h *handle, tmp string) (swapped bool, err error) {
	m.commitMu.Lock()
	defer m.commitMu.Unlock()
	if m.haltedNow() {
		return false, m.err
	}
	rest, err := m.takePending(d, true)
	if err != nil {
		return false, err
	}
	if err := m.follow(ctx, h, rest); err != nil {
		return false, defragError(tmp, err)
	}
	if m.opts.Mode != Volatile {
		h.db.NoSync, h.db.NoGrowSync = false, false
		h.db.AllocSize = 16 << 20 // bbolt's own step of growing a file
		if err := h.db.Sync(); err != nil {
			return false, defragError(tmp, err)
		}
	}
	if err := m.fault("defrag rename"); err != nil {
		return false, err
	}
	next, err := newBase(h, m.reg)
	if err != nil {
		return false, defragError(tmp, err)
	}
	if err := os.Rename(tmp, m.opts.Path); err != nil {
		next.release()
		return false, defragError(tmp, err)
	}
	if m.opts.Mode != Volatile {
		if err := syncDir(filepath.Dir(m.opts.Path)); err != nil {
			next.release()
			return false, m.halt(fmt.Errorf("defragmenting the state file %s: %w", m.opts.Path, err))
		}
	}
	old := m.base
	oldFile, _ := old.h.file.Stat()
	m.pub.Lock()
	m.base = next
	m.publishLocked()
	m.pub.Unlock()
	old.release()
	old.h.release()
	if newFile, err := h.file.Stat(); err == nil && oldFile != nil {
		m.log.Info("the state file was defragmented", "file", m.opts.Path, "bytes_before", oldFile.Size(), "bytes", newFile.Size())
	}
	return true, nil
}

// copyRows writes every bucket of src to db, in key order and in bounded transactions.
func copyRows(ctx context.Context, db *bolt.DB, src *bolt.Tx) error {
	return src.ForEach(func(name []byte, b *bolt.Bucket) error {
		c := b.Cursor()
		k, v := c.First()
		for k != nil {
			if err := ctx.Err(); err != nil {
				return errs.From(err)
			}
			err := db.Update(func(tx *bolt.Tx) error {
				to, err := tx.CreateBucketIfNotExists(name)
				if err != nil {
					return err
				}
				to.FillPercent = 0.9 // some room for rows that come between
				for size := 0; k != nil && size < defragStep; k, v = c.Next() {
					size += len(k) + len(v)
					if err := to.Put(k, v); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func defragError(path string, err error) error {
	if e := errs.From(err); e.Code == errs.Canceled || e.Code == errs.DeadlineExceeded {
		return e
	}
	if isFull(err) {
		return errs.New(errs.StorageFull, "the disk has no room for %s, the defragmented copy of the state file; make room and try again", path).Wrap(err)
	}
	return errs.New(errs.Internal, "defragmenting to %s: %v", path, err).Wrap(err)
}
