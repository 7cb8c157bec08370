package state

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/zeebo/xxh3"

	"nekoq/services/errs"
)

// restoreSuffix marks a file that a restore is writing. One that is found at
// start is of a restore that did not finish and is removed.
const restoreSuffix = ".restore"

func removeLeftovers(path string) {
	_ = os.Remove(path + restoreSuffix)
	_ = os.Remove(path + defragSuffix)
}

// Restore replaces the state by a stream that Snapshot.WriteTo made: new file,
// sync, rename, sync folder, swap, rebuild what is derived, reset the watchers.
// A damaged stream or a full disk changes nothing. After a crash at any step the
// file is either the old or the new one. Views taken before stay valid.
func (m *Machine) Restore(r io.Reader) error {
	tmp := m.opts.Path + restoreSuffix
	info, err := m.receive(r, tmp)
	if err != nil {
		_ = os.Remove(tmp)
		return err
	}
	m.commitMu.Lock()
	defer m.commitMu.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.haltedNow() {
		_ = os.Remove(tmp)
		return m.err
	}
	m.show() // views need not wait until the new file is there
	h, mt, err := openFile(tmp, m.reg, &m.cfg, m.opts.Mode, m.opts.Faults.OpenFile)
	if err == nil && (mt.index != info.Index || mt.revision != info.Revision || mt.chain != info.Chain) {
		err = badSnapshot(fmt.Errorf("%w: header and content differ", errSnapshot))
		h.release()
	}
	if err != nil {
		_ = os.Remove(tmp)
		return err
	}
	if err := m.install(h, mt, tmp); err != nil {
		return err
	}
	if m.opts.Events != nil {
		m.opts.Events.Reset()
	}
	return nil
}

// install puts the opened new file in the old one's place. The caller holds
// commitMu and mu.
func (m *Machine) install(h *handle, mt meta, tmp string) error {
	old := m.base.h
	if err := m.fault("rename"); err != nil {
		h.release()
		_ = os.Remove(tmp)
		return err
	}
	if err := os.Rename(tmp, m.opts.Path); err != nil {
		h.release()
		_ = os.Remove(tmp)
		return errs.New(errs.Internal, "restoring the state file %s: %v", m.opts.Path, err).Wrap(err)
	}
	// From here on the new file is the state; going on with the old one would
	// lose it, so every failure halts.
	err := m.fault("sync folder")
	if err == nil && m.opts.Mode != Volatile {
		err = syncDir(filepath.Dir(m.opts.Path))
	}
	if err == nil {
		err = m.fault("swap")
	}
	if err == nil {
		err = m.adopt(h, mt)
	}
	if err != nil {
		h.release()
		return m.halt(fmt.Errorf("restoring the state file %s: %w", m.opts.Path, err))
	}
	old.release()
	m.setStorage(nil)
	return nil
}

// receive writes the stream's file to tmp, checks its hash and syncs it.
func (m *Machine) receive(r io.Reader, tmp string) (SnapshotInfo, error) {
	sum := xxh3.New()
	info, err := ReadSnapshotInfo(io.TeeReader(r, sum))
	if err != nil {
		return info, err
	}
	if err := m.fault("create"); err != nil {
		return info, err
	}
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return info, writeError(tmp, err)
	}
	defer func() { _ = f.Close() }() // closed below; this is for the failures
	if n, err := io.Copy(f, io.TeeReader(io.LimitReader(r, info.FileBytes), sum)); err != nil {
		return info, writeError(tmp, err)
	} else if n < info.FileBytes {
		return info, badSnapshot(fmt.Errorf("%w: %d of %d bytes", errSnapshot, n, info.FileBytes))
	}
	var trailer [snapshotTrailer]byte
	if _, err := io.ReadFull(r, trailer[:]); err != nil {
		return info, badSnapshot(fmt.Errorf("%w: its hash: %w", errSnapshot, err))
	}
	if binary.BigEndian.Uint64(trailer[:]) != sum.Sum64() {
		return info, badSnapshot(fmt.Errorf("%w: its hash does not match", errSnapshot))
	}
	if err := m.fault("sync"); err != nil {
		return info, err
	}
	if m.opts.Mode != Volatile {
		if err := f.Sync(); err != nil {
			return info, writeError(tmp, err)
		}
	}
	if err := f.Close(); err != nil {
		return info, writeError(tmp, err)
	}
	return info, nil
}

func (m *Machine) fault(step string) error {
	if m.opts.Faults.Restore == nil {
		return nil
	}
	return m.opts.Faults.Restore(step)
}

func writeError(path string, err error) error {
	if isFull(err) {
		return errs.New(errs.StorageFull, "the disk of %s is full; make room and try again", path).Wrap(err)
	}
	return errs.New(errs.Unavailable, "restoring to %s: %v", path, err).Wrap(err)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return d.Sync()
}
