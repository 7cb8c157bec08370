package native

import (
	"context"
	"encoding/json"
	"strconv"

	"nekoq/services/auth"
	"nekoq/services/errs"
	"nekoq/services/wire"
	"nekoq/warehouse"
	"nekoq/warehouse/api"
)

// registerMore adds ranges, transactions, leases, claims and upkeep.
func (d *door) registerMore(mux *wire.Mux) {
	mux.Unary(api.MethodRange, "warehouse.range", d.rangeKeys)
	mux.Unary(api.MethodTxn, "warehouse.txn", d.txn)
	mux.Unary(api.MethodLeaseGrant, "warehouse.lease.grant", d.leaseCall(auth.Write, func(ctx context.Context, r *api.LeaseRequest) (warehouse.Leased, error) {
		return d.svc.GrantLease(ctx, r.ID, r.TTL)
	}))
	mux.Unary(api.MethodLeaseKeep, "warehouse.lease.keepalive", d.leaseCall(auth.Write, func(ctx context.Context, r *api.LeaseRequest) (warehouse.Leased, error) {
		return d.svc.KeepLease(ctx, r.ID)
	}))
	mux.Unary(api.MethodLeaseRevoke, "warehouse.lease.revoke", d.leaseCall(auth.Write, func(ctx context.Context, r *api.LeaseRequest) (warehouse.Leased, error) {
		rev, err := d.svc.RevokeLease(ctx, r.ID)
		return warehouse.Leased{ID: r.ID, Revision: rev}, err
	}))
	mux.Unary(api.MethodLeaseGet, "warehouse.lease.get", d.leaseCall(auth.Read, func(ctx context.Context, r *api.LeaseRequest) (warehouse.Leased, error) {
		return d.svc.LeaseTTL(ctx, r.ID, r.Keys)
	}))
	mux.Unary(api.MethodClaim, "warehouse.claim", d.claim)
	mux.Unary(api.MethodRelease, "warehouse.release", d.release)
	mux.Unary(api.MethodLook, "warehouse.look", d.look)
	mux.Streaming(api.MethodObserve, "warehouse.observe", d.observe)
	mux.Unary(api.MethodUpkeep, "warehouse.upkeep", d.upkeep)
	mux.Streaming(api.MethodFolder, "warehouse.folder", d.folder)
}

func (d *door) ask(ctx context.Context, a auth.Action, kind, name string) error {
	if d.authz == nil {
		return nil
	}
	return d.authz.Allow(ctx, auth.FromContext(ctx), a, auth.Resource{Service: "warehouse", Kind: kind, Name: name})
}

func (d *door) allowSpan(ctx context.Context, a auth.Action, s api.Span) error {
	start, end := s.Bounds()
	return d.allowRange(ctx, a, start, end)
}

func (d *door) rangeKeys(ctx context.Context, req, dst []byte) ([]byte, error) {
	var r api.RangeRequest
	if err := r.Decode(req); err != nil {
		return nil, err
	}
	if err := d.allowSpan(ctx, auth.Read, r.Span); err != nil {
		return nil, err
	}
	res, err := d.svc.Range(ctx, &r)
	if err != nil {
		return nil, err
	}
	return res.Append(dst), nil
}

func (d *door) txn(ctx context.Context, req, dst []byte) ([]byte, error) {
	var t api.Txn
	if err := t.Decode(req); err != nil {
		return nil, err
	}
	if err := d.allowTxn(ctx, &t); err != nil {
		return nil, err
	}
	res, err := d.svc.Txn(ctx, &t)
	if err != nil {
		return nil, err
	}
	return res.Append(dst), nil
}

// allowTxn asks for every key that a transaction may touch.
func (d *door) allowTxn(ctx context.Context, t *api.Txn) error {
	if d.authz == nil {
		return nil
	}
	p := auth.FromContext(ctx)
	return warehouse.AskTxn(t, func(a auth.Action, r auth.Resource) error { return d.authz.Allow(ctx, p, a, r) })
}

func (d *door) leaseCall(a auth.Action, call func(context.Context, *api.LeaseRequest) (warehouse.Leased, error)) func(ctx context.Context, req, dst []byte) ([]byte, error) {
	return func(ctx context.Context, req, dst []byte) ([]byte, error) {
		var r api.LeaseRequest
		if err := r.Decode(req); err != nil {
			return nil, err
		}
		if err := d.ask(ctx, a, "lease", ""); err != nil {
			return nil, err
		}
		l, err := call(ctx, &r)
		if err != nil {
			return nil, err
		}
		res := api.LeaseResult{ID: l.ID, TTL: l.TTL, Remaining: l.Remaining, Revision: l.Revision, Token: l.Token, Keys: l.Keys}
		return res.Append(dst), nil
	}
}

func kindName(k api.TokenKind) string {
	if k == api.TokenElection {
		return "election"
	}
	return "lock"
}

func (d *door) claim(ctx context.Context, req, dst []byte) ([]byte, error) {
	var r api.ClaimRequest
	if err := r.Decode(req); err != nil {
		return nil, err
	}
	if err := d.ask(ctx, auth.Write, kindName(r.Kind), r.Name); err != nil {
		return nil, err
	}
	c, err := d.svc.Claim(ctx, &r)
	if err != nil {
		return nil, err
	}
	return c.Append(dst), nil
}

func (d *door) release(ctx context.Context, req, dst []byte) ([]byte, error) {
	var r api.ReleaseRequest
	if err := r.Decode(req); err != nil {
		return nil, err
	}
	if err := d.ask(ctx, auth.Write, kindName(r.Kind), r.Name); err != nil {
		return nil, err
	}
	h, err := d.svc.Release(ctx, &r)
	if err != nil {
		return nil, err
	}
	c := api.Claim{Header: h}
	return c.Append(dst), nil
}

func (d *door) look(ctx context.Context, req, dst []byte) ([]byte, error) {
	var r api.LookRequest
	if err := r.Decode(req); err != nil {
		return nil, err
	}
	if err := d.ask(ctx, auth.Read, kindName(r.Kind), r.Name); err != nil {
		return nil, err
	}
	c, err := d.svc.Look(ctx, &r)
	if err != nil {
		return nil, err
	}
	return c.Append(dst), nil
}

func (d *door) observe(ctx context.Context, req []byte, send func(msg []byte) error) error {
	var r api.LookRequest
	if err := r.Decode(req); err != nil {
		return err
	}
	if err := d.ask(ctx, auth.Watch, kindName(r.Kind), r.Name); err != nil {
		return err
	}
	o, err := d.svc.Observe(ctx, &r)
	if err != nil {
		return err
	}
	defer o.Close()
	for {
		c, err := o.Next(ctx)
		if err != nil {
			return err
		}
		if err := send(c.Append(nil)); err != nil {
			return err
		}
	}
}

// folder streams a watched folder: the first message holds the keys that exist, as
// puts, the others the changes.
func (d *door) folder(ctx context.Context, req []byte, send func(msg []byte) error) error {
	var r api.WatchRequest
	if err := r.Decode(req); err != nil {
		return err
	}
	if err := d.allowSpan(ctx, auth.Watch, api.Prefix(r.Start)); err != nil {
		return err
	}
	f, err := d.svc.WatchFolder(ctx, string(r.Start), r.After)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		step, err := f.Next(ctx)
		if err != nil {
			return err
		}
		b := api.WatchBatch{Revision: step.Revision}
		for i := range step.Existing {
			b.Events = append(b.Events, api.Event{Kind: api.EventPut, KV: step.Existing[i]})
		}
		for i := range step.Changes {
			e := api.Event{Kind: api.EventPut, KV: step.Changes[i].KV}
			if step.Changes[i].Kind == warehouse.FolderDeleted {
				e.Kind = api.EventDelete
			}
			b.Events = append(b.Events, e)
		}
		if err := send(b.Append(nil)); err != nil {
			return err
		}
	}
}

// upkeep is rare and its questions are many, so its messages are JSON.
func (d *door) upkeep(ctx context.Context, req, dst []byte) ([]byte, error) {
	var r api.UpkeepRequest
	if err := json.Unmarshal(req, &r); err != nil {
		return nil, errs.New(errs.ProtocolViolation, "warehouse: a damaged upkeep request").Wrap(err)
	}
	if r.Do == api.UpkeepLeases {
		if err := d.ask(ctx, auth.Read, "lease", ""); err != nil {
			return nil, err
		}
		res, err := d.leases(ctx, &r)
		if err != nil {
			return nil, err
		}
		return appendJSON(dst, &res)
	}
	span := api.Span{Key: r.Key, End: r.End}
	action := auth.Admin
	switch r.Do {
	case api.UpkeepDiff, api.UpkeepSpace, api.UpkeepQuotas:
		action = auth.Read
	case api.UpkeepRevert:
		action = auth.Write
	}
	if r.Do != api.UpkeepRevert && r.Do != api.UpkeepDiff {
		span = api.FromKey(nil)
	}
	if err := d.allowSpan(ctx, action, span); err != nil {
		return nil, err
	}
	if r.Do == api.UpkeepRevert { // it deletes what did not exist then
		if err := d.allowSpan(ctx, auth.Delete, span); err != nil {
			return nil, err
		}
	}
	res, err := d.maintain(ctx, &r, span)
	if err != nil {
		return nil, err
	}
	return appendJSON(dst, &res)
}

// leases gives a page, or all at once to a client that knows no pages.
func (d *door) leases(ctx context.Context, r *api.UpkeepRequest) (res api.UpkeepResult, err error) {
	switch {
	case r.Limit < 0 || r.Limit > api.MaxLeasePage:
		return res, errs.Invalid("limit", r.Limit, "1 to "+strconv.Itoa(api.MaxLeasePage))
	case r.Limit == 0:
		res.Leases, res.Revision, err = d.svc.Leases(ctx)
	default:
		res.Leases, res.More, res.Revision, err = d.svc.LeasePage(ctx, r.From, r.Limit)
	}
	return res, err
}

func appendJSON(dst []byte, res *api.UpkeepResult) ([]byte, error) {
	b, err := json.Marshal(res)
	if err != nil {
		return nil, errs.New(errs.Internal, "internal error").Wrap(err)
	}
	return append(dst, b...), nil
}

func (d *door) maintain(ctx context.Context, r *api.UpkeepRequest, span api.Span) (res api.UpkeepResult, err error) {
	switch r.Do {
	case api.UpkeepRevert:
		v, err := d.svc.Revert(ctx, span, r.From)
		res.Revision, res.Put, res.Deleted = v.Revision, v.Put, v.Deleted
		return res, err
	case api.UpkeepDiff:
		h, changes, more, err := d.svc.Diff(ctx, span, r.From, r.To, r.Limit, false)
		res.Revision, res.Differences, res.More = h.Revision, changes, more
		return res, err
	case api.UpkeepSetQuota:
		return res, d.svc.SetQuota(ctx, r.Quota)
	case api.UpkeepQuotas:
		res.Quotas, err = d.svc.Quotas(ctx, false)
		return res, err
	case api.UpkeepSetLimit:
		return res, d.svc.SetStoreLimit(ctx, r.Limits)
	case api.UpkeepDefrag, api.UpkeepSpace:
		if r.Do == api.UpkeepDefrag {
			if err := d.svc.Defragment(ctx); err != nil {
				return res, err
			}
		}
		alarms, err := d.svc.Alarms(ctx)
		for _, a := range alarms {
			res.Alarms = append(res.Alarms, string(a.Kind))
		}
		res.Space = d.svc.Sizes()
		return res, err
	}
	return res, errs.Invalid("do", r.Do, "revert, diff, set_quota, quotas, set_limit, defrag, space or leases")
}
