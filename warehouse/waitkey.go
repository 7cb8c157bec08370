package warehouse

import (
	"bytes"
	"context"

	"nekoq/warehouse/api"
	"nekoq/warehouse/internal/table"
)

// KeyWait waits for one key to change.
type KeyWait struct {
	// Changed says that the key has changed already; then there is no wait.
	Changed bool
	w       *Watcher
}

// WatchKey tells whether a key has changed after revision after, and otherwise lets
// the caller wait for it. With now it waits for the next change. It reads the key's
// own history, never that of others, so an old revision costs nothing.
func (s *Service) WatchKey(ctx context.Context, key []byte, after uint64, now bool) (*KeyWait, error) {
	if err := s.checkKey(key); err != nil {
		return nil, err
	}
	w, err := s.Watch(ctx, &api.WatchRequest{Start: key, Exact: true, Now: true})
	if err != nil {
		return nil, err
	}
	k := &KeyWait{w: w}
	if now {
		return k, nil
	}
	if k.Changed, err = s.changedAfter(ctx, bytes.Clone(key), after, w.From()); err != nil {
		w.Close()
		return nil, err
	}
	return k, nil
}

// changedAfter looks at the key's newest version or tombstone. seen is the revision
// at which the watch began: what came later the watch will tell.
func (s *Service) changedAfter(ctx context.Context, key []byte, after, seen uint64) (bool, error) {
	v, err := s.view(ctx, true)
	if err != nil {
		return false, err
	}
	defer v.Release()
	if after > max(seen, v.meta.Revision) {
		return false, table.FutureRevision(after, seen)
	}
	changed, any := false, false
	err = table.History(v, key, ^uint64(0), func(rec *table.Record) bool {
		any = true
		changed = rec.ModRevision > after
		return false
	})
	if err != nil {
		return false, damaged(err)
	}
	if !any && after < v.meta.Compact {
		return false, table.CompactedError(after, v.meta.Compact)
	}
	return changed, nil
}

// Wait blocks until the key changes.
func (k *KeyWait) Wait(ctx context.Context) error {
	_, err := k.w.NextEvents(ctx)
	return err
}

// Close ends the wait.
func (k *KeyWait) Close() { k.w.Close() }
