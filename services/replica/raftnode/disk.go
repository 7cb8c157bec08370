package raftnode

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"syscall"
	"time"

	"nekoq/services/errs"
)

// diskGuard watches the free space of the data folder, so that writes are
// refused while every file can still be written: neither raft nor a log store
// takes half a failure well.
//
// Proposals stop below the reserve. The log itself stops only below a quarter of
// it, so that elections and membership changes go on.
type diskGuard struct {
	dir     string
	reserve int64
	log     *slog.Logger
	free    func(dir string) (int64, error) // replaced in tests
	low     atomic.Bool                     // below the reserve
	out     atomic.Bool                     // below a quarter of it
	last    atomic.Int64                    // free bytes at the last look
}

func newDiskGuard(dir string, reserve int64, log *slog.Logger) *diskGuard {
	return &diskGuard{dir: dir, reserve: reserve, log: log, free: FreeBytes}
}

// look measures. A failing measurement changes nothing.
func (d *diskGuard) look() {
	free, err := d.free(d.dir)
	if err != nil {
		d.log.Warn("cannot tell the free space", "dir", d.dir, "error", err)
		return
	}
	d.last.Store(free)
	low := free < d.reserve
	if d.low.Swap(low) != low {
		if low {
			d.log.Error("disk almost full: writes are refused until space returns", "dir", d.dir, "free_bytes", free, "reserve_bytes", d.reserve)
		} else {
			d.log.Info("disk has space again: writes go on", "dir", d.dir, "free_bytes", free)
		}
	}
	d.out.Store(free < d.reserve/4)
}

func (d *diskGuard) run(interval time.Duration, stop <-chan struct{}) {
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			d.look()
		case <-stop:
			return
		}
	}
}

// Storage is nil, or says with the code storage_full that this node has no space
// for its log or its state. A follower then falls behind the others.
func (n *Node) Storage() error {
	if n.logs.full.Load() {
		return errStorageFull(nil)
	}
	return n.machine.Storage()
}

// Disk gives the free bytes of the data folder at the last look, the reserve, and
// why this node would refuse writes for want of space.
func (n *Node) Disk() (free, reserve int64, full error) {
	return n.disk.last.Load(), n.disk.reserve, n.writable()
}

// followWait is how long a linearizable read waits for a node that has no space
// for what it must read.
const followWait = 500 * time.Millisecond

// follow waits until this node's state has reached index. A node without space
// may not get there before space returns: the caller is told soon, since another
// node can answer.
func (n *Node) follow(ctx context.Context, index uint64) error {
	if n.Storage() == nil {
		return n.machine.WaitApplied(ctx, index)
	}
	short, cancel := context.WithTimeout(ctx, followWait)
	defer cancel()
	err := n.machine.WaitApplied(short, index)
	full := n.Storage()
	if err == nil || ctx.Err() != nil || full == nil {
		return err
	}
	return errs.New(errs.StorageFull, "node %s has no disk space and is behind the others; ask another node, or read stale", n.id).Wrap(full)
}

func errStorageFull(cause error) error {
	return errs.New(errs.StorageFull, "the disk of the data folder is full; reads go on, writes go on when space returns").Wrap(cause)
}

// isNoSpace tells a full disk or quota from a broken one.
func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG) || errs.Has(err, errs.StorageFull)
}

// FreeBytes is what may still be written to the disk of a folder.
func FreeBytes(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}
