package warehouse

import (
	"context"

	"nekoq/services/errs"
	"nekoq/services/replica"
	"nekoq/warehouse/internal/table"
)

// Compact gives up the history before revision rev: reads and watches below it are
// refused from now on. The space is freed in the background, a little at a time.
func (s *Service) Compact(ctx context.Context, rev uint64) (uint64, error) {
	res, err := s.propose(ctx, table.KindCompact, table.EncodeNumber(rev))
	if err != nil {
		return 0, err
	}
	c, err := table.DecodeCompacted(res.Data)
	if err != nil {
		return 0, errs.New(errs.Internal, "internal error").Wrap(err)
	}
	return c.Revision, nil
}

// sweepLoop runs on the leader and removes what compaction gave up.
func (s *Service) sweepLoop(ctx context.Context, _ uint64) {
	poll := s.clock.NewTicker(s.cfg.SweepPollInterval)
	defer poll.Stop()
	for {
		if s.unswept(ctx) {
			s.sweep(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-poll.C():
		}
	}
}

func (s *Service) unswept(ctx context.Context) bool {
	v, _, err := s.replica.View(ctx, replica.Stale)
	if err != nil {
		return false
	}
	defer v.Release()
	m, err := table.ReadMeta(v)
	return err == nil && !m.SweepDone()
}

// sweep proposes until nothing is left or something fails; the poll tries again.
func (s *Service) sweep(ctx context.Context) {
	began := s.clock.Now()
	rows := uint64(0)
	payload := table.EncodeNumber(uint64(s.cfg.SweepRows))
	for ctx.Err() == nil {
		res, err := s.propose(ctx, table.KindSweep, payload)
		if err != nil {
			if ctx.Err() == nil {
				s.log.Warn("warehouse: the compaction's sweep failed and will be tried again", "error", err)
			}
			return
		}
		c, err := table.DecodeCompacted(res.Data)
		if err != nil {
			s.log.Error("warehouse: the sweep's answer is damaged", "error", err)
			return
		}
		rows += c.Rows
		s.metrics.swept.Add(float64(c.Rows))
		if !c.More {
			s.log.Info("warehouse: compacted", "revision", c.Revision, "rows", rows, "millis", sinceMillis(s.clock, began))
			return
		}
		if !s.pause(ctx) {
			return
		}
	}
}

func (s *Service) pause(ctx context.Context) bool {
	if s.cfg.SweepPause == 0 {
		return ctx.Err() == nil
	}
	t := s.clock.NewTimer(s.cfg.SweepPause)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C():
		return true
	}
}
