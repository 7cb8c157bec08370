package warehouse

import (
	"context"
	"sort"
	"time"

	"nekoq/services/auth"
	"nekoq/services/errs"
	"nekoq/services/replica"
	"nekoq/warehouse/internal/table"
)

// compactLoop runs on the leader and compacts by itself, as configured.
func (s *Service) compactLoop(ctx context.Context, _ uint64) {
	ctx = auth.NewContext(ctx, auth.Principal{Name: "compaction", Door: "internal"})
	every := time.Minute
	if s.cfg.CompactMode == CompactPeriodic {
		every = min(every, max(s.cfg.CompactRetention/10, 100*time.Millisecond))
	}
	if s.cfg.CompactMode == CompactRevision {
		every = autoLook
	}
	tick := s.clock.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C():
		}
		rev, err := s.compactTarget(ctx)
		if err == nil && rev > 0 {
			_, err = s.Compact(ctx, rev)
		}
		if err != nil && ctx.Err() == nil && !errs.Has(err, errs.Compacted) {
			s.log.Warn("warehouse: the automatic compaction failed and will be tried again", "error", err)
		}
	}
}

// autoLook is how often compact_mode = revision looks.
const autoLook = time.Second

// compactTarget gives the revision to compact to, 0 for none.
func (s *Service) compactTarget(ctx context.Context) (uint64, error) {
	v, _, err := s.replica.View(ctx, replica.Stale)
	if err != nil {
		return 0, err
	}
	defer v.Release()
	m, err := table.ReadMeta(v)
	if err != nil {
		return 0, damaged(err)
	}
	low := max(m.Compact, 1)
	if s.cfg.CompactMode == CompactRevision {
		keep := uint64(s.cfg.CompactRevisions)
		// A little more than asked for, so that not every write compacts.
		if m.Revision <= low+keep+keep/10 {
			return 0, nil
		}
		return m.Revision - keep, nil
	}
	// Revisions come in the order of time, so the newest one that is old enough is
	// found by bisection.
	old := s.clock.Now().Add(-s.cfg.CompactRetention).UnixNano()
	var bad error
	n := sort.Search(int(m.Revision-low), func(i int) bool {
		at, err := table.TimeOf(v, low+uint64(i)+1)
		if err != nil {
			bad = err
		}
		return err != nil || at > old
	})
	if bad != nil {
		return 0, damaged(bad)
	}
	if n == 0 {
		return 0, nil
	}
	return low + uint64(n), nil
}
