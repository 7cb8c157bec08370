// Package native is the configuration centre's part of the native door: methods
// 0x0260 to 0x027a of the wire protocol, with the messages of conf/api in JSON.
//
// Every method asks the authorizer before it acts. Only the composition and tests
// import it.
package native

import (
	"context"
	"encoding/json"

	"nekoq/services/auth"
	"nekoq/services/errs"
	"nekoq/services/wire"
	"nekoq/warehouse/conf"
	"nekoq/warehouse/conf/api"
)

type door struct {
	svc   *conf.Service
	authz auth.Authorizer
}

// Register adds the methods to mux.
func Register(mux *wire.Mux, svc *conf.Service, authz auth.Authorizer) {
	d := &door{svc: svc, authz: authz}
	mux.Unary(api.MethodItems, "conf.items", guarded(d, svc.Items, func(r *api.ItemsRequest) []conf.Demand {
		return one(auth.Read, r.Area, r.Group, "")
	}))
	mux.Unary(api.MethodItem, "conf.item", guarded(d, svc.Item, func(r *api.ItemRequest) []conf.Demand {
		return one(conf.ReadAction(r.Key), r.Area, r.Group, r.Key)
	}))
	mux.Unary(api.MethodDraft, "conf.draft", guarded(d, svc.Draft, func(r *api.WriteRequest) []conf.Demand {
		return writes(auth.Write, r.Address, r.Bytes)
	}))
	mux.Unary(api.MethodPublish, "conf.publish", guarded(d, svc.Publish, func(r *api.PublishRequest) []conf.Demand {
		return writes(auth.Write, r.Address, r.Bytes)
	}))
	mux.Unary(api.MethodDiscard, "conf.discard", guarded(d, svc.Discard, itemWrite))
	mux.Unary(api.MethodUnschedule, "conf.unschedule", guarded(d, svc.Unschedule, itemWrite))
	mux.Unary(api.MethodDelete, "conf.delete", guarded(d, svc.Delete, func(r *api.ItemRequest) []conf.Demand {
		return one(auth.Delete, r.Area, r.Group, r.Key)
	}))
	mux.Unary(api.MethodRollback, "conf.rollback", guarded(d, svc.Rollback, func(r *api.RollbackRequest) []conf.Demand {
		return one(auth.Write, r.Area, r.Group, r.Key)
	}))
	mux.Unary(api.MethodSettings, "conf.settings", guarded(d, svc.Settings, func(r *api.SettingsRequest) []conf.Demand {
		return one(auth.Admin, r.Area, r.Group, r.Key)
	}))
	gray := func(r *api.GrayRequest) []conf.Demand { return writes(auth.Write, r.Address, r.Bytes) }
	mux.Unary(api.MethodGray, "conf.gray", guarded(d, svc.Gray, gray))
	mux.Unary(api.MethodGrayDrop, "conf.gray_drop", guarded(d, svc.GrayDrop, gray))
	mux.Unary(api.MethodGrayPromote, "conf.gray_promote", guarded(d, svc.GrayPromote, gray))
	d.reading(mux)
	d.sets(mux)
}

// reading adds what looks at items, and what clients use.
func (d *door) reading(mux *wire.Mux) {
	mux.Unary(api.MethodHistory, "conf.history", guarded(d, d.svc.History, func(r *api.HistoryRequest) []conf.Demand {
		return one(auth.Read, r.Area, r.Group, r.Key)
	}))
	mux.Unary(api.MethodDiff, "conf.diff", guarded(d, d.svc.Diff, func(r *api.DiffRequest) []conf.Demand {
		return one(conf.ReadAction(r.Key), r.Area, r.Group, r.Key)
	}))
	mux.Unary(api.MethodEffective, "conf.effective", wire.JSON(d.effective))
	mux.Streaming(api.MethodListen, "conf.listen", d.listen)
	mux.Unary(api.MethodListeners, "conf.listeners", guarded(d, d.svc.Listeners, func(r *api.ListenersRequest) []conf.Demand {
		return one(auth.Read, r.Area, r.Group, "")
	}))
}

// sets adds what concerns many items, and groups and scopes.
func (d *door) sets(mux *wire.Mux) {
	mux.Unary(api.MethodClone, "conf.clone", guarded(d, d.svc.Clone, func(r *api.CloneRequest) []conf.Demand {
		to := r.ToGroup
		if to == "" {
			to = r.FromGroup
		}
		return append(one(auth.Admin, r.FromArea, r.FromGroup, ""), one(auth.Admin, r.ToArea, to, "")...)
	}))
	mux.Unary(api.MethodCompare, "conf.compare", guarded(d, d.svc.Compare, func(r *api.CompareRequest) []conf.Demand {
		return append(one(auth.Read, r.LeftArea, r.LeftGroup, ""), one(auth.Read, r.RightArea, r.RightGroup, "")...)
	}))
	mux.Unary(api.MethodImport, "conf.import", guarded(d, d.svc.Import, func(r *api.ImportRequest) []conf.Demand {
		if r.Area == "" {
			return one(auth.Admin, "", "", "")
		}
		return one(auth.Admin, r.Area, r.Group, "")
	}))
	mux.Streaming(api.MethodExport, "conf.export", d.export)
	all := conf.Demand{Action: auth.Admin, Resource: conf.Resource("", "", "")}
	see := conf.Demand{Action: auth.Read, Resource: conf.Resource("", "", "")}
	mux.Unary(api.MethodGroupPut, "conf.group_put", guarded(d, d.svc.GroupPut, func(*api.Group) []conf.Demand { return []conf.Demand{all} }))
	mux.Unary(api.MethodGroupDelete, "conf.group_delete", guarded(d, d.svc.GroupDelete, func(*api.NameRequest) []conf.Demand { return []conf.Demand{all} }))
	mux.Unary(api.MethodGroups, "conf.groups", guarded(d, d.svc.Groups, func(*api.ListRequest) []conf.Demand { return []conf.Demand{see} }))
	mux.Unary(api.MethodScopePut, "conf.scope_put", guarded(d, d.svc.ScopePut, func(*api.Scope) []conf.Demand { return []conf.Demand{all} }))
	mux.Unary(api.MethodScopeDelete, "conf.scope_delete", guarded(d, d.svc.ScopeDelete, func(*api.NameRequest) []conf.Demand { return []conf.Demand{all} }))
	mux.Unary(api.MethodScopes, "conf.scopes", guarded(d, d.svc.Scopes, func(*api.ListRequest) []conf.Demand { return []conf.Demand{see} }))
}

func one(a auth.Action, area, group, key string) []conf.Demand {
	return []conf.Demand{{Action: a, Resource: conf.Resource(area, group, key)}}
}

func writes(a auth.Action, at api.Address, b []byte) []conf.Demand {
	return append(one(a, at.Area, at.Group, at.Key), conf.ReferenceDemands(at, b)...)
}

func itemWrite(r *api.ItemRequest) []conf.Demand { return one(auth.Write, r.Area, r.Group, r.Key) }

// guarded is f behind the authorizer.
func guarded[In, Out any](d *door, f func(context.Context, In) (*Out, error), needs func(*In) []conf.Demand) wire.Unary {
	return wire.JSON(func(ctx context.Context, in *In) (*Out, error) {
		if err := d.allow(ctx, needs(in)); err != nil {
			return nil, err
		}
		return f(ctx, *in)
	})
}

func (d *door) allow(ctx context.Context, needs []conf.Demand) error {
	who := auth.FromContext(ctx)
	for _, n := range needs {
		if err := d.authz.Allow(ctx, who, n.Action, n.Resource); err != nil {
			return err
		}
	}
	return nil
}

// seen fills in the address that a client comes from.
func seen(ctx context.Context, r *api.EffectiveRequest) conf.Peer {
	p := conf.PeerOf(auth.FromContext(ctx))
	if r.IP == "" {
		r.IP = p.Addr
	}
	return p
}

func (d *door) effective(ctx context.Context, r *api.EffectiveRequest) (*api.Effective, error) {
	if err := d.allow(ctx, one(auth.Read, r.Area, r.Group, r.Key)); err != nil {
		return nil, err
	}
	seen(ctx, r)
	return d.svc.Effective(ctx, *r)
}

func decode(req []byte, v any) error {
	if len(req) == 0 {
		return nil
	}
	if err := json.Unmarshal(req, v); err != nil {
		return errs.New(errs.InvalidArgument, "the request is not valid JSON: %s", err)
	}
	return nil
}

func (d *door) listen(ctx context.Context, req []byte, send func(msg []byte) error) error {
	var r api.EffectiveRequest
	if err := decode(req, &r); err != nil {
		return err
	}
	if err := d.allow(ctx, one(auth.Watch, r.Area, r.Group, r.Key)); err != nil {
		return err
	}
	peer := seen(ctx, &r)
	l, err := d.svc.Listen(ctx, r, peer)
	if err != nil {
		return err
	}
	defer l.Close()
	for {
		e, err := l.Next(ctx)
		if err != nil {
			return err
		}
		if err := sendParts(e, send); err != nil {
			return err
		}
	}
}

// partBytes bounds the contents of one message; a larger one goes alone.
const partBytes = 4 << 20

// sendParts sends an update as several messages when it is large.
func sendParts(e *api.Effective, send func(msg []byte) error) error {
	var parts [][]api.Value
	size := 0
	for i := range e.Values {
		n := len(e.Values[i].Bytes)
		if len(parts) == 0 || size+n > partBytes {
			parts, size = append(parts, nil), 0
		}
		size += n
		parts[len(parts)-1] = append(parts[len(parts)-1], e.Values[i])
	}
	if len(parts) == 0 {
		parts = [][]api.Value{nil}
	}
	for i, p := range parts {
		m := *e
		m.Values, m.Part, m.Parts = p, i+1, len(parts)
		b, err := json.Marshal(m)
		if err != nil {
			return errs.New(errs.Internal, "internal error").Wrap(err)
		}
		if err := send(b); err != nil {
			return err
		}
	}
	return nil
}

func (d *door) export(ctx context.Context, req []byte, send func(msg []byte) error) error {
	var r api.ExportRequest
	if err := decode(req, &r); err != nil {
		return err
	}
	if err := d.allow(ctx, one(auth.Admin, r.Area, r.Group, "")); err != nil {
		return err
	}
	return d.svc.Export(ctx, r, func(x api.Archived) error {
		b, err := json.Marshal(x)
		if err != nil {
			return errs.New(errs.Internal, "internal error").Wrap(err)
		}
		return send(b)
	})
}
