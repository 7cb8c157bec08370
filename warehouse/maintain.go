package warehouse

import (
	"context"
	"encoding/binary"
	"hash/crc32"
	"strconv"
	"time"

	"nekoq/services/errs"
	"nekoq/warehouse/api"
	"nekoq/warehouse/internal/table"
)

// Storage is the state file as the service needs it; *state.Machine is it.
type Storage interface {
	Sizes() (file, inUse int64)
	Defragment(ctx context.Context) error
}

func (s *Service) storageOn() error {
	if s.storage == nil {
		return errs.New(errs.ServiceOff, "the state file is not served here")
	}
	return nil
}

// Sizes tells how large the state file of this node is.
func (s *Service) Sizes() (out api.Space) {
	if s.storage != nil {
		out.File, out.InUse = s.storage.Sizes()
	}
	if v, err := s.view(context.Background(), true); err == nil {
		out.Limit, out.Used = int64(v.meta.StoreLimit()), int64(v.meta.Used())
		v.Release()
	}
	return out
}

// Defragment gives the unused space of this node's state file back to the disk. The
// node serves meanwhile.
func (s *Service) Defragment(ctx context.Context) error {
	if err := s.storageOn(); err != nil {
		return err
	}
	return s.storage.Defragment(ctx)
}

// Alarms tells which marks of the store-wide limit are passed. They go by
// themselves when space returns.
func (s *Service) Alarms(ctx context.Context) ([]Alarm, error) {
	v, err := s.view(ctx, true)
	if err != nil {
		return nil, err
	}
	defer v.Release()
	return alarms(v.meta), nil
}

// fullMargin is how much may be left, in bytes, when the store is called full: a put
// is refused before it passes the limit, so the limit itself is hardly ever reached.
// It is the default of the largest value; of a small store it is a fiftieth.
const fullMargin = 3 << 19

func alarms(m table.Meta) []Alarm {
	var out []Alarm
	used, limit := m.Used(), m.StoreLimit()
	for _, a := range []struct {
		kind AlarmKind
		mark uint64
	}{
		{AlarmEarly, limit/100*80 + limit%100*80/100},
		{AlarmLate, limit/100*95 + limit%100*95/100},
		{AlarmNoSpace, limit - min(limit/50, fullMargin)},
	} {
		if used >= a.mark {
			out = append(out, Alarm{Kind: a.kind, Used: int64(used), Limit: int64(limit)})
		}
	}
	return out
}

// HashKV hashes the versions of all keys that a reader at revision rev (0: the
// newest) and later can see of the time up to rev: keys, values, revisions, versions
// and leases. It is equal on all nodes.
func (s *Service) HashKV(ctx context.Context, rev uint64) (Hash, error) {
	v, err := s.view(ctx, rev == 0)
	if err != nil {
		return Hash{}, err
	}
	defer v.Release()
	if rev == 0 {
		rev = v.meta.Revision
	} else if err := v.meta.CheckRevision(rev); err != nil {
		return Hash{}, err
	}
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	var b []byte
	err = table.Range(v.View, v.meta, nil, nil, rev, func(k []byte, rec *table.Record) bool {
		b = b[:0]
		for _, n := range [...]uint64{uint64(len(k)), rec.CreateRevision, rec.ModRevision, rec.Version, rec.Lease, uint64(len(rec.Value))} {
			b = binary.BigEndian.AppendUint64(b, n)
		}
		_, _ = h.Write(append(b, k...)) // a hash never fails
		_, _ = h.Write(rec.Value)
		return true
	})
	if err != nil {
		return Hash{}, damaged(err)
	}
	return Hash{Revision: v.meta.Revision, HashRevision: rev, CompactRevision: v.meta.Compact, Hash: h.Sum32()}, nil
}

// SetQuota sets the quota of a prefix. All limits zero remove it.
func (s *Service) SetQuota(ctx context.Context, q api.Quota) error {
	if err := s.checkBound("prefix", q.Prefix); err != nil {
		return err
	}
	if len(q.Prefix) > 0 {
		if err := s.checkKey(q.Prefix); err != nil {
			return err
		}
	}
	c := table.QuotaCommand{Prefix: q.Prefix, MaxBytes: q.MaxBytes, MaxKeys: q.MaxKeys, MaxWatches: q.MaxWatches, WriteRate: q.WriteRate}
	_, err := s.propose(ctx, table.KindQuota, c.Encode())
	return err
}

// Quotas lists the quotas in the order of their prefixes.
func (s *Service) Quotas(ctx context.Context, stale bool) ([]api.Quota, error) {
	v, err := s.view(ctx, stale)
	if err != nil {
		return nil, err
	}
	defer v.Release()
	out := []api.Quota{}
	err = table.Quotas(v.View, func(q table.Quota) bool {
		out = append(out, api.Quota{
			Prefix: q.Prefix, MaxBytes: q.MaxBytes, MaxKeys: q.MaxKeys, MaxWatches: q.MaxWatches, WriteRate: q.WriteRate,
			Bytes: q.Bytes, Keys: q.Keys, Watches: uint64(s.perPrefix.count(q.Prefix)),
		})
		return true
	})
	if err != nil {
		return nil, damaged(err)
	}
	return out, nil
}

// MinStoreLimit is the least store-wide limit in bytes.
const MinStoreLimit = 64 << 10

// SetStoreLimit sets the limit of the whole store in bytes: keys, values and
// history. 0 restores the default of 8 GiB.
func (s *Service) SetStoreLimit(ctx context.Context, limit uint64) error {
	if limit != 0 && (limit < MinStoreLimit || limit > 1<<50) {
		return errs.Invalid("limit_bytes", limit, "0 or "+strconv.Itoa(MinStoreLimit)+" to "+strconv.Itoa(1<<50))
	}
	_, err := s.propose(ctx, table.KindLimit, table.EncodeNumber(limit))
	return err
}

// Reverted says what a rollback changed.
type Reverted struct {
	api.Header
	Put, Deleted uint64
}

// Revert makes the keys of a span what they were at revision rev, as one new
// revision. Keys that did not exist then are deleted.
func (s *Service) Revert(ctx context.Context, sp api.Span, rev uint64) (Reverted, error) {
	if err := s.checkSpan(&sp); err != nil {
		return Reverted{}, err
	}
	if rev == 0 {
		return Reverted{}, errs.Invalid("revision", 0, "a revision from 1 on")
	}
	c := table.RevertCommand{Span: sp, Revision: rev}
	res, err := s.propose(ctx, table.KindRevert, c.Encode())
	if err != nil {
		return Reverted{}, err
	}
	r, err := table.DecodeReverted(res.Data)
	if err != nil {
		return Reverted{}, errs.New(errs.Internal, "internal error").Wrap(err)
	}
	return Reverted{Header: api.Header{Revision: r.Revision, StoreRevision: res.Revision}, Put: r.Put, Deleted: r.Deleted}, nil
}

// Diff gives up to limit keys of a span that differ between two revisions (to 0: the
// newest), and whether there are more.
func (s *Service) Diff(ctx context.Context, sp api.Span, from, to uint64, limit int, stale bool) (h api.Header, out []api.Difference, more bool, err error) {
	if err := s.checkSpan(&sp); err != nil {
		return h, nil, false, err
	}
	if limit, err = s.limit(limit); err != nil {
		return h, nil, false, err
	}
	v, err := s.view(ctx, stale)
	if err != nil {
		return h, nil, false, err
	}
	defer v.Release()
	if to == 0 {
		to = v.meta.Revision
	}
	for _, rev := range [...]uint64{from, to} {
		if err := v.meta.CheckRevision(rev); err != nil {
			return h, nil, false, err
		}
	}
	left := s.cfg.MaxPageBytes
	start, end := sp.Bounds()
	err = table.Diff(v.View, start, end, from, to, func(d table.Difference) bool {
		if len(out) == limit || left <= 0 {
			more = true
			return false
		}
		c := api.Difference{Key: d.Key}
		c.From, c.To = owned(d.Key, d.Then, &left), owned(d.Key, d.Now, &left)
		out = append(out, c)
		return true
	})
	if err != nil {
		return h, nil, false, damaged(err)
	}
	return v.header(v.meta.Revision), out, more, nil
}

func owned(key []byte, r *table.Record, left *int64) *api.KV {
	if r == nil {
		return nil
	}
	kv := table.NoteKV(key, r)
	kv.Value = append([]byte{}, kv.Value...)
	*left -= int64(len(kv.Value) + len(key))
	return &kv
}

// alarmLoop tells the log when a mark of the store-wide limit is passed.
func (s *Service) alarmLoop(ctx context.Context, _ uint64) {
	tick := s.clock.NewTicker(alarmLook)
	defer tick.Stop()
	had := 0
	for {
		if now, err := s.Alarms(ctx); err == nil && len(now) != had {
			if len(now) > had {
				a := now[len(now)-1]
				s.log.Warn("warehouse: the store fills up", "alarm", string(a.Kind), "used_bytes", a.Used, "limit_bytes", a.Limit)
			} else {
				s.log.Info("warehouse: space has returned to the store", "alarms", len(now))
			}
			had = len(now)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C():
		}
	}
}

const alarmLook = time.Second
