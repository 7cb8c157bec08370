package warehouse

import (
	"context"
	"time"

	"nekoq/services/lease"
	"nekoq/warehouse/api"
)

// Alarm is a standing warning of the whole store.
type Alarm struct {
	Kind  AlarmKind
	Used  int64 // bytes in use
	Limit int64 // bytes
}

// AlarmKind names an alarm.
type AlarmKind string

// The alarms of the store-wide limit: at 80 % and 95 % of it, and when less
// is left than the largest value, or a fiftieth of a small store. At the limit growth is
// refused (storage quota), deletes and compaction are not.
const (
	AlarmEarly   AlarmKind = "space_80"
	AlarmLate    AlarmKind = "space_95"
	AlarmNoSpace AlarmKind = "no_space"
)

// Hash identifies the key space at a revision.
type Hash struct {
	Revision        uint64 // newest key revision when it was taken
	HashRevision    uint64 // revision that was hashed
	CompactRevision uint64
	Hash            uint32
}

// Leased is a lease as its doors see it.
type Leased struct {
	ID        uint64
	TTL       time.Duration // as granted
	Remaining time.Duration
	Keys      [][]byte // when asked for
	Revision  uint64   // key revision of the header
	Token     uint64   // store revision of the grant
}

// LeaseInfo describes a lease beside the keys: its Revision is the store's at the grant.
type LeaseInfo = lease.Info

// Store is what protocol doors build on; *Service is it.
type Store interface {
	// Range reads a span. It fails with future_revision and compacted.
	Range(ctx context.Context, r *api.RangeRequest) (api.RangeResult, error)
	// Parts is Range in parts of some size in bytes, at one revision.
	Parts(ctx context.Context, r *api.RangeRequest, size int64, use func(part *api.RangeResult, last bool) error) error
	// PutOne is Put in the terms of transactions.
	PutOne(ctx context.Context, op *api.PutOp) (api.PutResult, error)
	// DeleteRange deletes a span.
	DeleteRange(ctx context.Context, op *api.DeleteOp) (api.DeleteResult, error)
	// Txn carries a transaction out. One without writes takes no revision and is a
	// linearizable read (a stale one when all its ranges are stale).
	Txn(ctx context.Context, t *api.Txn) (api.TxnResult, error)
	// CompactTo gives up the history before rev; physical waits until its space is free.
	CompactTo(ctx context.Context, rev uint64, physical bool) (api.Header, error)

	GrantLease(ctx context.Context, id uint64, ttl time.Duration) (Leased, error)
	RevokeLease(ctx context.Context, id uint64) (revision uint64, err error)
	KeepLease(ctx context.Context, id uint64) (Leased, error)
	KeepLeases(ctx context.Context, ids []uint64, dst []LeaseInfo) ([]LeaseInfo, error)
	LeaseTTL(ctx context.Context, id uint64, keys bool) (Leased, error)
	Leases(ctx context.Context) (ids []uint64, revision uint64, err error)

	// Watch begins one watch, read by one goroutine. NewWatches is for many.
	Watch(ctx context.Context, req *api.WatchRequest) (*Watcher, error)
	NewWatches() *Watches

	// HashKV hashes the key space at rev (0: the newest).
	HashKV(ctx context.Context, rev uint64) (Hash, error)
	Sizes() api.Space
	// Export gives all that is there at one revision, with its history.
	Export(ctx context.Context) (*Export, error)
	// Defragment gives unused space of this node's file back to the disk.
	Defragment(ctx context.Context) error
	Alarms(ctx context.Context) ([]Alarm, error)
	// Head gives the newest key revision and store revision of this node's own state.
	Head(ctx context.Context, stale bool) (api.Header, error)
}
