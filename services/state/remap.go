package state

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// bbolt enlarges its memory map only while no read transaction is open, and the
// newest generation always holds one. So the map is made large at the start, and
// should the file still reach its end, the same file is opened a second time with
// a larger map, next to the first, which lives until its last reader is done.

// mapLimits tells whether bbolt's refusal to grow is about the map and not
// about the configured size of the file.
func (m *Machine) mapLimits() bool {
	return m.cfg.MaxFileBytes == 0 || m.base.h.mapBytes-1 < m.cfg.MaxFileBytes
}

// remap moves the machine to a larger map of the same file. The caller holds
// commitMu, so nothing is written meanwhile.
//
// A second opening knows nothing of the readers of the first, and could reuse
// pages that they see. Readers of the newest transaction are kept safe by a
// read transaction of the second opening that lasts as long as the first one;
// older readers are waited for. They hold up only the writing of the file.
func (m *Machine) remap() error {
	old := m.base.h
	if err := m.awaitOlder(old, m.base.tx.ID()); err != nil {
		return err
	}
	cfg := m.cfg
	cfg.MmapBytes = 2 * old.mapBytes
	again := func(string, int, os.FileMode) (*os.File, error) { return dupFile(old.file) }
	h, _, err := openFile(m.opts.Path, m.reg, &cfg, m.opts.Mode, again)
	if err != nil {
		if lerr := lockFile(old.file); lerr != nil { // the failed opening unlocked it
			return errors.Join(err, lerr)
		}
		return err
	}
	pin, err := newBase(h, m.reg)
	if err != nil {
		h.release()
		return err
	}
	next, err := newBase(h, m.reg)
	if err != nil {
		pin.release()
		h.release()
		return err
	}
	old.onClosed = func() {
		// Closing the first descriptor unlocked the file for both.
		if err := lockFile(h.file); err != nil {
			_ = m.halt(fmt.Errorf("the state file %s was taken by another process: %w", m.opts.Path, err))
		}
		pin.release()
	}
	m.pub.Lock()
	oldBase := m.base
	m.base = next
	m.publishLocked()
	m.pub.Unlock()
	oldBase.release()
	old.release()
	m.log.Info("the state file has a larger memory map", "file", m.opts.Path, "bytes", h.mapBytes)
	return nil
}

// awaitOlder waits until h has no read transaction older than newest.
func (m *Machine) awaitOlder(h *handle, newest int) error {
	warn := time.NewTimer(time.Second)
	defer warn.Stop()
	for {
		older := 0
		h.mu.Lock()
		for id, n := range h.txs {
			if id < newest {
				older += n
			}
		}
		fewer := h.fewer
		h.mu.Unlock()
		if older == 0 {
			return nil
		}
		select {
		case <-fewer:
		case <-warn.C:
			m.log.Warn("writing the state file waits for old read views or snapshots to end; raise mmap_bytes",
				"file", m.opts.Path, "readers", older, "mmap_bytes", h.mapBytes)
		case <-m.done:
			return m.err
		}
	}
}
