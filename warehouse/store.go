package warehouse

import (
	"bytes"
	"context"
	"time"

	"nekoq/services/errs"
	"nekoq/services/lease"
	"nekoq/services/lease/leasetable"
	"nekoq/warehouse/api"
	"nekoq/warehouse/internal/table"
)

var _ Store = (*Service)(nil)

// query makes what the table's reads want of a view.
func (v *view) query() table.Query {
	return table.Query{R: v.View, Meta: v.meta, Counts: table.FrozenCounts(v.View)}
}

// checkSpan refuses spans that are too long, empty, or wholly among the system's keys.
// Wider spans do not see those keys.
func (s *Service) checkSpan(sp *api.Span) error {
	if sp.Single() {
		return s.checkKey(sp.Key)
	}
	if err := s.checkBound("key", sp.Key); err != nil {
		return err
	}
	if err := s.checkBound("range_end", sp.End); err != nil {
		return err
	}
	_, end := sp.Bounds()
	if bytes.HasPrefix(sp.Key, systemPrefix) && end != nil && bytes.Compare(end, systemEnd) <= 0 {
		return s.checkKey(append(bytes.Clone(sp.Key), 'x'))
	}
	return nil
}

// Range reads a span: see api.RangeRequest. It fails with future_revision and
// compacted.
func (s *Service) Range(ctx context.Context, r *api.RangeRequest) (api.RangeResult, error) {
	s.metrics.lists.Inc()
	if err := s.checkSpan(&r.Span); err != nil {
		return api.RangeResult{}, err
	}
	v, err := s.view(ctx, r.Stale)
	if err != nil {
		return api.RangeResult{}, err
	}
	defer v.Release()
	if err := v.meta.CheckQuery(r); err != nil {
		return api.RangeResult{}, err
	}
	q := v.query()
	var keep copier
	res, err := q.Range(r, keep.clone)
	if err != nil {
		return res, damaged(err)
	}
	res.Header = v.header(v.meta.Revision)
	return res, nil
}

// PutOne writes a key.
func (s *Service) PutOne(ctx context.Context, op *api.PutOp) (api.PutResult, error) {
	s.metrics.puts.Inc()
	if err := s.checkPutOp(op); err != nil {
		return api.PutResult{}, err
	}
	if op.Prev || op.IgnoreValue || op.IgnoreLease {
		res, err := s.runTxn(ctx, &api.Txn{Then: []api.Op{{Put: op}}})
		if err != nil {
			return api.PutResult{}, err
		}
		out := *res.Ops[0].Put
		out.Header = res.Header
		return out, nil
	}
	c := table.PutCommand{Key: op.Key, Value: op.Value, IfRevision: table.AnyRevision, TTL: op.TTL, Lease: op.Lease}
	w, err := s.write(ctx, table.KindPut, c.Encode())
	if err != nil {
		return api.PutResult{}, err
	}
	return api.PutResult{
		Header:         api.Header{Revision: w.Revision, StoreRevision: w.StoreRevision},
		CreateRevision: w.CreateRevision, Version: w.Version, Lease: w.Lease,
	}, nil
}

func (s *Service) checkPutOp(op *api.PutOp) error {
	if err := s.checkKey(op.Key); err != nil {
		return err
	}
	switch {
	case int64(len(op.Value)) > s.cfg.MaxValueBytes:
		return table.TooLarge("value", len(op.Value), s.cfg.MaxValueBytes)
	case op.IgnoreValue && len(op.Value) > 0:
		return errs.Invalid("value", "set", "no value with ignore_value")
	case op.IgnoreLease && (op.Lease != 0 || op.TTL != 0):
		return errs.Invalid("lease", op.Lease, "no lease or ttl with ignore_lease")
	case op.TTL != 0 && op.Lease != 0:
		return errs.Invalid("ttl", op.TTL, "ttl or lease, not both")
	case op.TTL != 0:
		return leasetable.CheckTTL(op.TTL)
	}
	return nil
}

// DeleteRange deletes the keys of a span. Deleting nothing changes nothing.
func (s *Service) DeleteRange(ctx context.Context, op *api.DeleteOp) (api.DeleteResult, error) {
	s.metrics.deletes.Inc()
	if err := s.checkSpan(&op.Span); err != nil {
		return api.DeleteResult{}, err
	}
	if op.Single() && !op.Prev {
		w, err := s.write(ctx, table.KindDelete, (&table.DeleteCommand{Key: op.Key, IfRevision: table.AnyRevision}).Encode())
		if err != nil {
			return api.DeleteResult{}, err
		}
		out := api.DeleteResult{Header: api.Header{Revision: w.Revision, StoreRevision: w.StoreRevision}}
		if w.PrevRevision != 0 {
			out.Deleted = 1
		}
		return out, nil
	}
	return s.deleteRange(ctx, &api.Txn{Then: []api.Op{{Delete: op}}})
}

// CheckKeys refuses a transaction that could write a key twice, as Txn does.
func CheckKeys(t *api.Txn) error { return table.CheckKeys(t) }

// Txn carries a transaction out. Without a put or delete in it, it is a read.
func (s *Service) Txn(ctx context.Context, t *api.Txn) (api.TxnResult, error) {
	s.metrics.txns.Inc()
	f := form{s: s, stale: true}
	if err := table.CheckTxn(t, s.cfg.MaxTxnOps); err != nil {
		return api.TxnResult{}, err
	}
	if err := f.check(t); err != nil {
		return api.TxnResult{}, err
	}
	if f.writes {
		return s.runTxn(ctx, t)
	}
	v, err := s.view(ctx, f.reads && f.stale)
	if err != nil {
		return api.TxnResult{}, err
	}
	defer v.Release()
	b, err := table.Choose(v.View, t)
	if err != nil {
		return api.TxnResult{}, damaged(err)
	}
	q := v.query()
	res, err := b.ReadOnly(&q)
	if err != nil {
		return res, damaged(err)
	}
	res.Header = v.header(v.meta.Revision)
	headers(&res, &res.Header)
	return res, nil
}

// form looks through a transaction.
type form struct {
	s             *Service
	writes, reads bool
	stale         bool // all reads are
}

func (f *form) check(t *api.Txn) error {
	for i := range t.If {
		if err := f.s.checkSpan(&t.If[i].Span); err != nil {
			return err
		}
	}
	for i := range t.Holding {
		if err := checkToken(&t.Holding[i]); err != nil {
			return err
		}
	}
	for _, ops := range [][]api.Op{t.Then, t.Else} {
		for i := range ops {
			if err := f.op(&ops[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *form) op(o *api.Op) error {
	switch {
	case o.Range != nil:
		f.reads = true
		f.stale = f.stale && o.Range.Stale
		return f.s.checkSpan(&o.Range.Span)
	case o.Put != nil:
		f.writes = true
		return f.s.checkPutOp(o.Put)
	case o.Delete != nil:
		f.writes = true
		return f.s.checkSpan(&o.Delete.Span)
	case o.Txn != nil:
		return f.check(o.Txn)
	}
	return errs.Invalid("operation", "", "one of range, put, delete, txn")
}

// runTxn proposes a transaction that was checked.
func (s *Service) runTxn(ctx context.Context, t *api.Txn) (api.TxnResult, error) {
	res, err := s.propose(ctx, table.KindTxn, t.Append(nil))
	if err != nil {
		return api.TxnResult{}, err
	}
	var out api.TxnResult
	if err := out.Decode(res.Data); err != nil {
		return api.TxnResult{}, errs.New(errs.Internal, "internal error").Wrap(err)
	}
	out.StoreRevision = res.Revision
	headers(&out, &out.Header)
	return out, nil
}

// headers gives the answers of a transaction's operations their headers.
func headers(t *api.TxnResult, h *api.Header) {
	for i := range t.Ops {
		o := &t.Ops[i]
		own := *h
		own.Revision = o.Revision
		switch {
		case o.Range != nil:
			o.Range.Header = own
		case o.Put != nil:
			o.Put.Header = own
		case o.Delete != nil:
			o.Delete.Header = own
		case o.Txn != nil:
			o.Txn.Header = own
			headers(o.Txn, h)
		}
	}
}

// Head gives the newest key revision, this node's own when stale.
func (s *Service) Head(ctx context.Context, stale bool) (api.Header, error) {
	v, err := s.view(ctx, stale)
	if err != nil {
		return api.Header{}, err
	}
	defer v.Release()
	return v.header(v.meta.Revision), nil
}

// CompactTo is Compact that, when physical, waits until the space is free.
func (s *Service) CompactTo(ctx context.Context, rev uint64, physical bool) (api.Header, error) {
	if _, err := s.Compact(ctx, rev); err != nil {
		return api.Header{}, err
	}
	for physical {
		done, err := s.swept(ctx, rev)
		if err != nil {
			return api.Header{}, err
		}
		if done {
			break
		}
		if err := s.wait(ctx, sweepLook); err != nil {
			return api.Header{}, err
		}
	}
	return s.Head(ctx, true)
}

// sweepLook is how often a physical compaction looks whether it is done.
const sweepLook = 5 * time.Millisecond

func (s *Service) swept(ctx context.Context, rev uint64) (bool, error) {
	v, err := s.view(ctx, true)
	if err != nil {
		return false, err
	}
	defer v.Release()
	return v.meta.Swept > rev || v.meta.Swept == rev && v.meta.SweepDone(), nil
}

func (s *Service) wait(ctx context.Context, d time.Duration) error {
	t := s.clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return errs.From(ctx.Err())
	case <-t.C():
		return nil
	}
}

// GrantLease makes a lease; id 0 lets the server choose.
func (s *Service) GrantLease(ctx context.Context, id uint64, ttl time.Duration) (Leased, error) {
	if err := s.hasLeases(); err != nil {
		return Leased{}, err
	}
	i, err := s.leases.Grant(ctx, id, ttl, nil)
	return s.leased(ctx, i.ID, i.TTL, i.Remaining, i.Revision, err)
}

func (s *Service) hasLeases() error {
	if s.leases == nil {
		return errs.New(errs.ServiceOff, "leases are not served here")
	}
	return nil
}

func (s *Service) leased(ctx context.Context, id uint64, ttl, left time.Duration, token uint64, err error) (Leased, error) {
	if err != nil {
		return Leased{}, err
	}
	rev, err := s.done(ctx)
	return Leased{ID: id, TTL: ttl, Remaining: left, Token: token, Revision: rev}, err
}

// done gives the key revision after something was done. The request's end, or this
// node's, is not told as if it had not been.
func (s *Service) done(ctx context.Context) (uint64, error) {
	h, err := s.Head(context.WithoutCancel(ctx), true)
	if err != nil {
		return 0, errs.New(errs.OutcomeUnknown, "it was done, and this node stopped before it could answer").Wrap(err)
	}
	return h.Revision, nil
}

// KeepLease gives a lease its whole TTL again.
func (s *Service) KeepLease(ctx context.Context, id uint64) (Leased, error) {
	if err := s.hasLeases(); err != nil {
		return Leased{}, err
	}
	i, err := s.leases.KeepAlive(ctx, id)
	return s.leased(ctx, i.ID, i.TTL, i.Remaining, i.Revision, err)
}

// KeepLeases is KeepLease of many, which cost little more than one. It appends to dst
// what became of each, without the key revision; one that is gone has a TTL of 0.
func (s *Service) KeepLeases(ctx context.Context, ids []uint64, dst []LeaseInfo) ([]LeaseInfo, error) {
	if err := s.hasLeases(); err != nil {
		return dst, err
	}
	return s.leases.KeepAliveAll(ctx, ids, dst)
}

// RevokeLease ends a lease and deletes its keys as one revision, which it gives.
func (s *Service) RevokeLease(ctx context.Context, id uint64) (uint64, error) {
	if err := s.hasLeases(); err != nil {
		return 0, err
	}
	if _, err := s.leases.Revoke(ctx, id); err != nil {
		return 0, err
	}
	// A follower may not have applied it yet, and would tell a revision before it.
	if h, err := s.Head(ctx, false); err == nil {
		return h.Revision, nil
	}
	return s.done(ctx)
}

// LeaseTTL tells what a lease has left, with its keys in order when asked for.
func (s *Service) LeaseTTL(ctx context.Context, id uint64, keys bool) (Leased, error) {
	if err := s.hasLeases(); err != nil {
		return Leased{}, err
	}
	v, err := s.view(ctx, false)
	if err != nil {
		return Leased{}, err
	}
	defer v.Release()
	i, err := lease.Describe(v.View, id, keys)
	if err != nil {
		return Leased{}, err
	}
	out := Leased{ID: id, TTL: i.TTL, Remaining: i.Remaining, Token: i.Revision, Revision: v.meta.Revision}
	for _, k := range i.Keys {
		if k.Owner == leasetable.OwnerWarehouse && !bytes.HasPrefix(k.Key, systemPrefix) {
			out.Keys = append(out.Keys, k.Key)
		}
	}
	return out, nil
}

// LeasePage gives the ids of up to limit leases that users made, after an id and in
// their order, and whether there are more.
func (s *Service) LeasePage(ctx context.Context, after uint64, limit int) (ids []uint64, more bool, revision uint64, err error) {
	if err := s.hasLeases(); err != nil {
		return nil, false, 0, err
	}
	v, err := s.view(ctx, false)
	if err != nil {
		return nil, false, 0, err
	}
	defer v.Release()
	ids, more = lease.Page(v.View, after, limit)
	return ids, more, v.meta.Revision, nil
}

// Leases gives the ids of all leases that users made, the one that ends first first.
func (s *Service) Leases(ctx context.Context) (ids []uint64, revision uint64, err error) {
	if err := s.hasLeases(); err != nil {
		return nil, 0, err
	}
	v, err := s.view(ctx, false)
	if err != nil {
		return nil, 0, err
	}
	defer v.Release()
	return lease.IDs(v.View), v.meta.Revision, nil
}
