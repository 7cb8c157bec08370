package warehouse

import (
	"context"
	"time"

	"nekoq/services/lease"
	"nekoq/services/state"
	"nekoq/warehouse/api"
	"nekoq/warehouse/internal/table"
)

// Export is everything that the key space and its leases hold at one revision, the
// history since the last compaction included. Release must be called.
type Export struct{ v view }

// Exported is one version of a key. Its slices are valid during the call only.
type Exported struct {
	Revision uint64
	Sub      uint32 // place within the revision
	KV       api.KV // Deleted in that of a deletion
}

// exportPatience bounds how long Export waits for the leader.
const exportPatience = 2 * time.Second

// Export gives the newest state, or, without a leader, this node's own.
func (s *Service) Export(ctx context.Context) (*Export, error) {
	soon, cancel := context.WithTimeout(ctx, exportPatience)
	defer cancel()
	v, err := s.view(soon, false)
	if err != nil && ctx.Err() == nil {
		v, err = s.view(ctx, true)
	}
	if err != nil {
		return nil, err
	}
	return &Export{v}, nil
}

// Release ends it.
func (x *Export) Release() { x.v.Release() }

// Reader reads other tables as of the same moment.
func (x *Export) Reader() state.Reader { return x.v.View }

// Revision is the newest key revision.
func (x *Export) Revision() uint64 { return x.v.meta.Revision }

// Compacted is the compact revision, 0 for none.
func (x *Export) Compacted() uint64 { return x.v.meta.Compact }

// Changes calls fn with the versions in the order in which they were written.
func (x *Export) Changes(fn func(c *Exported) error) error {
	var c Exported
	return table.Dump(x.v, x.v.meta, func(rev uint64, sub uint32, key []byte, rec *table.Record) error {
		c.Revision, c.Sub = rev, sub
		table.FillKV(&c.KV, key, rec)
		return fn(&c)
	})
}

// Leases calls fn with the leases, those of single keys too, until it returns false.
func (x *Export) Leases(fn func(l LeaseInfo) bool) { lease.Each(x.v.View, fn) }
