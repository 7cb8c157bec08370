package conf

import (
	"context"
	"time"

	"nekoq/services/errs"
	"nekoq/services/replica"
	"nekoq/services/state"
	"nekoq/warehouse/conf/api"
	"nekoq/warehouse/conf/internal/table"
)

// again is the pause after a proposal that failed.
const again = 200 * time.Millisecond

// scheduleLoop runs on the leader and publishes what is due. A proposal that comes
// twice, as over a change of leaders, publishes once: it names the schedule that it
// means, which is gone afterwards.
func (s *Service) scheduleLoop(ctx context.Context, _ uint64) {
	for ctx.Err() == nil {
		rung := s.bell.next()
		wait := s.fireDue(ctx)
		if wait == 0 {
			continue
		}
		timer := s.clock.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-rung:
		case <-timer.C():
		}
		timer.Stop()
	}
}

// longest bounds the wait, so that a clock that is set is noticed.
const longest = time.Minute

// fireDue publishes the first content if it is due, and tells how long to wait for
// the next; 0 is not at all.
func (s *Service) fireDue(ctx context.Context) time.Duration {
	v, _, err := s.replica.View(ctx, replica.Stale)
	if err != nil {
		return again
	}
	due, ok := table.FirstDue(v)
	var row table.Row
	if ok {
		row, _, err = table.RowAt(v, due.Key)
	}
	v.Release()
	if err != nil {
		s.log.Error("conf: a scheduled item cannot be read", "error", err)
		return longest
	}
	if !ok {
		return longest
	}
	if wait := due.At.Sub(s.clock.Now()); wait > 0 {
		return min(wait, longest)
	}
	if row.Scheduled == nil {
		return again
	}
	op := table.Op{Do: table.DoFire, Address: row.Address, Number: row.Scheduled.Revision}
	if _, _, err := s.write(ctx, op); err != nil {
		if ctx.Err() == nil && !errs.Has(err, errs.Conflict) {
			s.log.Warn("conf: what is due was not published and will be tried again", "item", row.Path(), "error", err)
		}
		return again
	}
	s.metrics.fired.Inc()
	return 0
}

// retentionLoop runs on the leader and gives up what is too old, and the reports of
// nodes that are gone.
func (s *Service) retentionLoop(ctx context.Context, _ uint64) {
	history := s.clock.NewTicker(s.cfg.RetentionInterval)
	defer history.Stop()
	reports := s.clock.NewTicker(staleAfter * s.cfg.ReportInterval)
	defer reports.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-history.C():
			err = s.prune(ctx)
		case <-reports.C():
			err = s.forget(ctx)
		}
		if err != nil && ctx.Err() == nil {
			s.log.Warn("conf: what is kept no longer was not given up and will be tried again", "error", err)
		}
	}
}

// Bounds of one step of the retention.
const (
	pruneItems    = 100
	pruneReleases = 1000 // in one command
)

// prune goes through all items, a step at a time.
func (s *Service) prune(ctx context.Context) error {
	before := s.clock.Now().Add(-s.cfg.HistoryAge)
	for from, more := "", true; more; {
		v, _, err := s.replica.View(ctx, replica.Stale)
		if err != nil {
			return err
		}
		var p table.Prune
		releases := 0
		more = false
		x := indexOf(v)
		x.Ascend(from, func(k string, row *table.Row) bool {
			if len(p.Items) >= pruneItems || releases >= pruneReleases {
				from, more = k, true
				return false
			}
			it, n, e := s.pruneOf(v, row, before)
			if err = e; err != nil {
				return false
			}
			if n > 0 || it.Forget {
				p.Items = append(p.Items, it)
				releases += n
			}
			return true
		})
		v.Release()
		if err != nil {
			return damaged(err)
		}
		if len(p.Items) == 0 {
			continue
		}
		if _, err := s.propose(ctx, table.KindPrune, table.Encode(p)); err != nil {
			return err
		}
		s.metrics.pruned.Add(float64(len(p.Items)))
	}
	return nil
}

// pruneOf finds what may go of one item: what is older than before, and what is
// beyond the count. Numbers and times grow together, so that is all up to one.
func (s *Service) pruneOf(v state.Reader, row *table.Row, before time.Time) (it table.PruneItem, n int, err error) {
	it = table.PruneItem{Address: row.Address, Revision: row.Revision}
	kept := 0
	err = table.Releases(v, row.ID, 0, func(rel api.Release) bool {
		current := row.Release != nil && row.Release.Number == rel.Number
		if kept < s.cfg.HistoryCount && (current || !rel.Time.Before(before)) {
			kept++
			return true
		}
		it.Through = rel.Number
		return false
	})
	oldest := table.Oldest(v, row.ID)
	if err != nil || it.Through == 0 || oldest == 0 {
		return it, 0, err
	}
	if it.Through >= oldest+pruneReleases { // the rest goes another time
		it.Through = oldest + pruneReleases - 1
	}
	n = int(it.Through - oldest + 1)
	if row.Release != nil && row.Release.Number >= oldest && row.Release.Number <= it.Through {
		n-- // it stays
	}
	it.Forget = row.Deleted && it.Through == row.Last
	return it, n, nil
}

func (s *Service) forget(ctx context.Context) error {
	before := s.clock.Now().Add(-staleAfter * s.cfg.ReportInterval)
	v, _, err := s.replica.View(ctx, replica.Stale)
	if err != nil {
		return err
	}
	old := false
	err = table.Reports(v, func(r table.Report) { old = old || r.Time.Before(before) })
	v.Release()
	if err != nil || !old {
		return damaged(err)
	}
	_, err = s.propose(ctx, table.KindForget, table.EncodeForget(before))
	return err
}
