package lease

import (
	"cmp"
	"context"
	"math"
	"slices"
	"time"

	"nekoq/services/errs"
	"nekoq/services/lease/leasetable"
	"nekoq/services/replica"
	"nekoq/services/state"
)

// TimeToLive tells how long a lease has left, with its keys if asked for. One whose
// time is over is there, with nothing left, until its keys are gone.
func (s *Service) TimeToLive(ctx context.Context, id uint64, c replica.Consistency, keys bool) (Info, error) {
	v, _, err := s.replica.View(ctx, c)
	if err != nil {
		return Info{}, err
	}
	defer v.Release()
	return Describe(v, id, keys)
}

// Describe is TimeToLive in a view that the caller has.
func Describe(v *state.View, id uint64, keys bool) (Info, error) {
	l, ok := leasetable.Present(v, id)
	if !ok {
		return Info{}, leasetable.ErrNotFound(id)
	}
	_, now := leasetable.Clock(v)
	info := describe(l, now)
	if keys {
		leasetable.Keys(v, id, func(o leasetable.Owner, key []byte) bool {
			info.Keys = append(info.Keys, Key{Owner: o, Key: append([]byte(nil), key...)})
			return true
		})
	}
	return info, nil
}

// List gives up to limit leases with ids from from on, in id order, without those
// that belong to single keys.
func (s *Service) List(ctx context.Context, from uint64, limit int, c replica.Consistency) (leases []Info, more bool, err error) {
	if limit < 1 || limit > 10_000 {
		return nil, false, errs.Invalid("limit", limit, "1 to 10000")
	}
	v, _, err := s.replica.View(ctx, c)
	if err != nil {
		return nil, false, err
	}
	defer v.Release()
	_, now := leasetable.Clock(v)
	leasetable.List(v, from, func(l leasetable.Lease) bool {
		if l.Auto {
			return true
		}
		if len(leases) == limit {
			more = true
			return false
		}
		leases = append(leases, describe(l, now))
		return true
	})
	return leases, more, nil
}

// Page gives the ids of up to limit leases of a view after an id, in their order,
// without those that belong to single keys, and whether there are more.
func Page(v *state.View, after uint64, limit int) (ids []uint64, more bool) {
	if after == math.MaxUint64 {
		return nil, false
	}
	leasetable.List(v, after+1, func(l leasetable.Lease) bool {
		switch {
		case l.Auto:
			return true
		case len(ids) == limit:
			more = true
			return false
		}
		ids = append(ids, l.ID)
		return true
	})
	return ids, more
}

// Each calls fn with the leases of a view, those of single keys too, in id order, until
// it returns false.
func Each(v *state.View, fn func(l Info) bool) {
	_, now := leasetable.Clock(v)
	leasetable.List(v, 0, func(l leasetable.Lease) bool { return fn(describe(l, now)) })
}

// IDs gives the ids of all leases in a view, without those that belong to single keys:
// the lease that ends first comes first, and of two that end together the older one.
func IDs(v *state.View) []uint64 {
	var all []leasetable.Lease
	leasetable.List(v, 0, func(l leasetable.Lease) bool {
		if !l.Auto {
			all = append(all, l)
		}
		return true
	})
	slices.SortFunc(all, func(a, b leasetable.Lease) int {
		return cmp.Or(cmp.Compare(a.Deadline, b.Deadline), cmp.Compare(a.Granted, b.Granted), cmp.Compare(a.ID, b.ID))
	})
	ids := make([]uint64, len(all))
	for i := range all {
		ids[i] = all[i].ID
	}
	return ids
}

func describe(l leasetable.Lease, now uint64) Info {
	return Info{
		ID: l.ID, TTL: time.Duration(l.TTL) * time.Millisecond,
		Remaining: time.Duration(l.Remaining(now)) * time.Millisecond,
		Revision:  l.Granted, Meta: append([]byte(nil), l.Meta...),
	}
}
