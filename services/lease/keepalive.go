package lease

import (
	"context"
	"time"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/lease/leasetable"
	"nekoq/services/replica"
)

// KeepAlive gives a lease its whole TTL again. It fails with lease_not_found.
func (s *Service) KeepAlive(ctx context.Context, id uint64) (Info, error) {
	var one [1]Info
	out, err := s.KeepAliveAll(ctx, []uint64{id}, one[:0])
	if err != nil {
		return Info{}, err
	}
	if out[0].TTL == 0 {
		return Info{}, leasetable.ErrNotFound(id)
	}
	return out[0], nil
}

// KeepAliveAll is KeepAlive of many leases. It appends to dst what became of each, in
// order; one that is unknown or has ended has a TTL of 0. Those whose deadline already
// covers a whole TTL from now on cost a read together, and the others a command for
// each 256: see leasetable. An error may leave some renewed.
func (s *Service) KeepAliveAll(ctx context.Context, ids []uint64, dst []Info) ([]Info, error) {
	from := len(dst)
	for _, id := range ids {
		dst = append(dst, Info{ID: id})
	}
	out := dst[from:]
	// What a stale view says of a lease that is not covered is good enough to go to the
	// log at once. Where there is one that seems to be, the next view decides.
	left, recent, err := s.cover(ctx, replica.Stale, out)
	if err == nil && left < len(out) {
		c := replica.Linearizable
		if recent {
			c = replica.Recent
		}
		left, _, err = s.cover(ctx, c, out)
	}
	if err != nil {
		return dst[:from], err
	}
	s.metrics.covered.Add(float64(len(out) - left))
	if left > 0 {
		s.metrics.renewed.Add(float64(left))
		if err := s.renew(ctx, out, left); err != nil {
			return dst[:from], err
		}
	}
	return dst, nil
}

// recentSpare is the time beside its full one, in milliseconds, that a lease must have
// for a recent view to be enough. A renewal of a lease with the most headroom gives
// that much for as long again.
const recentSpare = uint64(replica.RecentBound / time.Millisecond)

// cover fills in the leases that a view shows to be covered, clears the others, and
// tells how many those are. recent: a recent view would do for the covered ones.
func (s *Service) cover(ctx context.Context, c replica.Consistency, out []Info) (left int, recent bool, err error) {
	v, _, err := s.replica.View(ctx, c)
	if err != nil {
		return 0, false, err
	}
	defer v.Release()
	recent = true
	for i := range out {
		o := &out[i]
		l, spare, covered := leasetable.Covered(v, o.ID)
		roomy := leasetable.Headroom(l.TTL) >= 2*recentSpare
		if roomy && spare < recentSpare {
			covered = false // the log gives it its headroom again
		}
		if !covered || c == replica.Recent && !roomy {
			*o = Info{ID: o.ID}
			left++
			continue
		}
		recent = recent && roomy
		o.TTL = time.Duration(l.TTL) * time.Millisecond
		o.Remaining, o.Revision = o.TTL, l.Granted
	}
	return left, recent, nil
}

// renew proposes the renewal of the leases that cover left, left of them.
func (s *Service) renew(ctx context.Context, out []Info, left int) error {
	if left > 1 { // perhaps several commands: none may be answered with the first one's result
		ctx = command.NewContext(ctx, command.RequestID{})
	}
	for i := 0; left > 0; {
		n, first := min(left, leasetable.MaxRenew), i
		payload := make([]byte, 0, 10*n)
		for named := 0; named < n; i++ {
			if out[i].TTL == 0 {
				payload = leasetable.AppendID(payload, out[i].ID)
				named++
			}
		}
		left -= n
		res, err := s.propose(ctx, leasetable.KindRenew, payload)
		if err != nil {
			return err
		}
		rest := res.Data
		for j := first; j < i; j++ {
			o := &out[j]
			if o.TTL != 0 {
				continue
			}
			var ttl uint64
			if ttl, o.Revision, rest, err = leasetable.NextRenewed(rest); err != nil {
				return errs.New(errs.Internal, "internal error").Wrap(err)
			}
			o.TTL = time.Duration(ttl) * time.Millisecond
			o.Remaining = o.TTL
		}
	}
	return nil
}
