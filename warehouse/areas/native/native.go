// Package native is the areas' part of the native door: methods 0x0240 to 0x0246
// of the wire protocol, with the messages of areas/api in JSON.
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
	"nekoq/warehouse/areas"
	"nekoq/warehouse/areas/api"
)

type door struct {
	svc   *areas.Service
	authz auth.Authorizer
}

// Register adds the methods to mux.
func Register(mux *wire.Mux, svc *areas.Service, authz auth.Authorizer) {
	d := &door{svc: svc, authz: authz}
	mux.Unary(api.MethodCreate, "areas.create", wire.JSON(d.create))
	mux.Unary(api.MethodGet, "areas.get", wire.JSON(d.get))
	mux.Unary(api.MethodList, "areas.list", wire.JSON(d.list))
	mux.Unary(api.MethodUpdate, "areas.update", wire.JSON(d.update))
	mux.Unary(api.MethodDelete, "areas.delete", wire.JSON(d.delete))
	mux.Unary(api.MethodLevels, "areas.levels", wire.JSON(d.levels))
	mux.Streaming(api.MethodWatch, "areas.watch", d.watch)
}

func (d *door) allow(ctx context.Context, a auth.Action, name string) error {
	return d.authz.Allow(ctx, auth.FromContext(ctx), a, auth.Resource{Service: "warehouse", Kind: "area", Name: name})
}

func (d *door) create(ctx context.Context, r *api.CreateRequest) (*api.Area, error) {
	if err := d.allow(ctx, auth.Admin, r.Name); err != nil {
		return nil, err
	}
	return d.svc.Create(ctx, *r)
}

func (d *door) get(ctx context.Context, r *api.GetRequest) (*api.Area, error) {
	if err := d.allow(ctx, auth.Read, r.Name); err != nil {
		return nil, err
	}
	return d.svc.Get(ctx, *r)
}

func (d *door) list(ctx context.Context, r *api.ListRequest) (*api.AreaList, error) {
	if err := d.allow(ctx, auth.Read, ""); err != nil {
		return nil, err
	}
	return d.svc.List(ctx, *r)
}

func (d *door) update(ctx context.Context, r *api.UpdateRequest) (*api.Area, error) {
	if err := d.allow(ctx, auth.Admin, r.Name); err != nil {
		return nil, err
	}
	return d.svc.Update(ctx, *r)
}

func (d *door) delete(ctx context.Context, r *api.DeleteRequest) (*api.Deleted, error) {
	if err := d.allow(ctx, auth.Delete, r.Name); err != nil {
		return nil, err
	}
	return d.svc.Delete(ctx, *r)
}

func (d *door) levels(ctx context.Context, r *api.GetRequest) (*api.Levels, error) {
	if err := d.allow(ctx, auth.Read, r.Name); err != nil {
		return nil, err
	}
	return d.svc.Levels(ctx, *r)
}

func (d *door) watch(ctx context.Context, req []byte, send func(msg []byte) error) error {
	var r api.WatchRequest
	if len(req) > 0 {
		if err := json.Unmarshal(req, &r); err != nil {
			return errs.New(errs.InvalidArgument, "the request is not valid JSON: %s", err)
		}
	}
	if err := d.allow(ctx, auth.Watch, ""); err != nil {
		return err
	}
	w, err := d.svc.Watch(ctx, r)
	if err != nil {
		return err
	}
	defer w.Close()
	for {
		u, err := w.Next(ctx)
		if err != nil {
			return err
		}
		msg, err := json.Marshal(u)
		if err != nil {
			return errs.New(errs.Internal, "internal error").Wrap(err)
		}
		if err := send(msg); err != nil {
			return err
		}
	}
}
