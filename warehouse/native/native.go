// Package native is warehouse's part of the native door: methods 0x0200 to 0x0213
// of the wire protocol, with the messages of warehouse/api.
//
// Every method asks the authorizer before it acts. A get copies the value once,
// from the state into the answer's frame. Only the composition imports it.
package native

import (
	"context"

	"nekoq/services/auth"
	"nekoq/services/wire"
	"nekoq/warehouse"
	"nekoq/warehouse/api"
)

type door struct {
	svc   *warehouse.Service
	authz auth.Authorizer // nil allows everything, and spares the name of the resource
}

// Register adds the methods to mux. authz may be nil.
func Register(mux *wire.Mux, svc *warehouse.Service, authz auth.Authorizer) {
	if _, all := authz.(auth.AllowAll); all {
		authz = nil
	}
	d := &door{svc: svc, authz: authz}
	mux.Unary(api.MethodPut, "warehouse.put", d.put)
	mux.Unary(api.MethodGet, "warehouse.get", d.get)
	mux.Unary(api.MethodDelete, "warehouse.delete", d.delete)
	mux.Unary(api.MethodList, "warehouse.list", d.list)
	mux.Streaming(api.MethodWatch, "warehouse.watch", d.watch)
	mux.Unary(api.MethodHistory, "warehouse.history", d.history)
	mux.Unary(api.MethodCompact, "warehouse.compact", d.compact)
	mux.Unary(api.MethodStatus, "warehouse.status", d.status)
	d.registerMore(mux)
}

func (d *door) allow(ctx context.Context, a auth.Action, key []byte) error {
	if d.authz == nil {
		return nil
	}
	return d.authz.Allow(ctx, auth.FromContext(ctx), a, auth.Resource{Service: "warehouse", Kind: "kv", Name: string(key)})
}

// allowRange asks for [start, end); an empty end means all from start on, which
// the authorizer sees as the end "\xff".
func (d *door) allowRange(ctx context.Context, a auth.Action, start, end []byte) error {
	if d.authz == nil {
		return nil
	}
	return d.authz.Allow(ctx, auth.FromContext(ctx), a, warehouse.RangeResource(start, end))
}

func (d *door) put(ctx context.Context, req, dst []byte) ([]byte, error) {
	var r api.PutRequest
	if err := r.Decode(req); err != nil {
		return nil, err
	}
	if err := d.allow(ctx, auth.Write, r.Key); err != nil {
		return nil, err
	}
	res, err := d.svc.Put(ctx, &r)
	if err != nil {
		return nil, err
	}
	return res.Append(dst), nil
}

func (d *door) get(ctx context.Context, req, dst []byte) ([]byte, error) {
	var r api.GetRequest
	if err := r.Decode(req); err != nil {
		return nil, err
	}
	if err := d.allow(ctx, auth.Read, r.Key); err != nil {
		return nil, err
	}
	return d.svc.AppendGet(ctx, &r, dst)
}

func (d *door) delete(ctx context.Context, req, dst []byte) ([]byte, error) {
	var r api.DeleteRequest
	if err := r.Decode(req); err != nil {
		return nil, err
	}
	if err := d.allow(ctx, auth.Delete, r.Key); err != nil {
		return nil, err
	}
	res, err := d.svc.Delete(ctx, &r)
	if err != nil {
		return nil, err
	}
	return res.Append(dst), nil
}

func (d *door) list(ctx context.Context, req, dst []byte) ([]byte, error) {
	var r api.ListRequest
	if err := r.Decode(req); err != nil {
		return nil, err
	}
	if err := d.allowRange(ctx, auth.Read, r.Start, r.End); err != nil {
		return nil, err
	}
	res, err := d.svc.List(ctx, &r)
	if err != nil {
		return nil, err
	}
	return res.Append(dst), nil
}

func (d *door) history(ctx context.Context, req, dst []byte) ([]byte, error) {
	var r api.HistoryRequest
	if err := r.Decode(req); err != nil {
		return nil, err
	}
	if err := d.allow(ctx, auth.Read, r.Key); err != nil {
		return nil, err
	}
	res, err := d.svc.History(ctx, &r)
	if err != nil {
		return nil, err
	}
	return res.Append(dst), nil
}

func (d *door) compact(ctx context.Context, req, dst []byte) ([]byte, error) {
	var r api.CompactRequest
	if err := r.Decode(req); err != nil {
		return nil, err
	}
	if err := d.allowRange(ctx, auth.Admin, nil, nil); err != nil {
		return nil, err
	}
	rev, err := d.svc.Compact(ctx, r.Revision)
	if err != nil {
		return nil, err
	}
	res := api.CompactRequest{Revision: rev}
	return res.Append(dst), nil
}

func (d *door) status(ctx context.Context, req, dst []byte) ([]byte, error) {
	var r api.StatusRequest
	if err := r.Decode(req); err != nil {
		return nil, err
	}
	if err := d.allowRange(ctx, auth.Read, nil, nil); err != nil {
		return nil, err
	}
	res, err := d.svc.Status(ctx, r.Stale)
	if err != nil {
		return nil, err
	}
	return res.Append(dst), nil
}

// watch first sends an empty batch with the revision from which the watch goes on,
// so that the caller can resume even when nothing ever happened.
func (d *door) watch(ctx context.Context, req []byte, send func(msg []byte) error) error {
	var r api.WatchRequest
	if err := r.Decode(req); err != nil {
		return err
	}
	end := r.End
	if r.Exact {
		end = append(append([]byte(nil), r.Start...), 0)
	}
	if err := d.allowRange(ctx, auth.Watch, r.Start, end); err != nil {
		return err
	}
	w, err := d.svc.Watch(ctx, &r)
	if err != nil {
		return err
	}
	defer w.Close()
	first := api.WatchBatch{Revision: w.From()}
	buf := first.Append(nil)
	for {
		if err := send(buf); err != nil {
			return err
		}
		b, err := w.Next(ctx)
		if err != nil {
			return err
		}
		if cap(buf) > 256<<10 {
			buf = nil // one large batch must not stay with an idle watcher
		}
		buf = b.Append(buf[:0])
	}
}
