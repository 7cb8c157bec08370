// Package native is numgen's part of the native door: methods 0x0100 to 0x010d
// of the wire protocol, with the messages of numgen/api.
//
// The hot call is binary and allocates nothing on the server; management and
// leases speak JSON. Every method asks the authorizer before it acts. Only the
// composition and tests import it.
package native

import (
	"context"

	"nekoq/numgen"
	"nekoq/numgen/api"
	"nekoq/numgen/idgen"
	"nekoq/services/auth"
	"nekoq/services/wire"
)

type door struct {
	svc   *numgen.Service
	authz auth.Authorizer // nil allows everything, and spares the name of the resource
}

// Register adds the methods to mux. authz may be nil.
func Register(mux *wire.Mux, svc *numgen.Service, authz auth.Authorizer) {
	if _, all := authz.(auth.AllowAll); all {
		authz = nil
	}
	d := &door{svc: svc, authz: authz}
	mux.Unary(api.MethodIDs, "numgen.ids", d.ids)
	mux.Unary(api.MethodCreate, "numgen.create", wire.JSON(d.create))
	mux.Unary(api.MethodGet, "numgen.get", wire.JSON(d.get))
	mux.Unary(api.MethodList, "numgen.list", wire.JSON(d.list))
	mux.Unary(api.MethodUpdate, "numgen.update", wire.JSON(d.update))
	mux.Unary(api.MethodDelete, "numgen.delete", wire.JSON(d.delete))
	mux.Unary(api.MethodDecode, "numgen.decode", wire.JSON(d.decode))
	mux.Unary(api.MethodWorkers, "numgen.workers", wire.JSON(d.workers))
	mux.Unary(api.MethodAcquireWorker, "numgen.acquire_worker", wire.JSON(d.acquire))
	mux.Unary(api.MethodExtendWorker, "numgen.extend_worker", wire.JSON(d.extend))
	mux.Unary(api.MethodReleaseWorker, "numgen.release_worker", wire.JSON(d.release))
	mux.Unary(api.MethodLeaseSegment, "numgen.lease_segment", wire.JSON(d.leaseSegment))
	mux.Unary(api.MethodReturnSegment, "numgen.return_segment", wire.JSON(d.returnSegment))
	mux.Unary(api.MethodLeaseTerms, "numgen.lease_terms", wire.JSON(d.terms))
}

func (d *door) allow(ctx context.Context, a auth.Action, kind, name string) error {
	if d.authz == nil {
		return nil
	}
	return d.authz.Allow(ctx, auth.FromContext(ctx), a, auth.Resource{Service: "numgen", Kind: kind, Name: name})
}

func (d *door) ids(ctx context.Context, req, dst []byte) ([]byte, error) {
	name, n, err := api.ParseIDsRequest(req)
	if err != nil {
		return nil, err
	}
	if d.authz != nil {
		if err := d.allow(ctx, auth.Write, "generator", string(name)); err != nil {
			return nil, err
		}
	}
	start := len(dst)
	kind, out, err := d.svc.AppendRaw(ctx, append(dst, 0), name, n)
	if err != nil {
		return nil, err
	}
	out[start] = byte(kind)
	return out, nil
}

func (d *door) create(ctx context.Context, r *api.CreateRequest) (*api.Generator, error) {
	if err := d.allow(ctx, auth.Admin, "generator", r.Name); err != nil {
		return nil, err
	}
	g, _, err := d.svc.Create(ctx, *r)
	return g, err
}

func (d *door) get(ctx context.Context, r *api.NameRequest) (*api.Generator, error) {
	if err := d.allow(ctx, auth.Read, "generator", r.Name); err != nil {
		return nil, err
	}
	return d.svc.Get(ctx, *r)
}

func (d *door) list(ctx context.Context, r *api.ListRequest) (*api.GeneratorList, error) {
	if err := d.allow(ctx, auth.Read, "generator", ""); err != nil {
		return nil, err
	}
	return d.svc.List(ctx, *r)
}

func (d *door) update(ctx context.Context, r *api.UpdateRequest) (*api.Generator, error) {
	if err := d.allow(ctx, auth.Admin, "generator", r.Name); err != nil {
		return nil, err
	}
	return d.svc.Update(ctx, *r)
}

func (d *door) delete(ctx context.Context, r *api.NameRequest) (*api.Empty, error) {
	if err := d.allow(ctx, auth.Delete, "generator", r.Name); err != nil {
		return nil, err
	}
	return &api.Empty{}, d.svc.Delete(ctx, r.Name)
}

func (d *door) decode(ctx context.Context, r *api.DecodeRequest) (*idgen.Decoded, error) {
	if err := d.allow(ctx, auth.Read, "generator", r.Name); err != nil {
		return nil, err
	}
	return d.svc.Decode(ctx, *r)
}

func (d *door) workers(ctx context.Context, r *api.WorkersRequest) (*api.WorkerList, error) {
	if err := d.allow(ctx, auth.Read, "worker", ""); err != nil {
		return nil, err
	}
	return d.svc.Workers(ctx, *r)
}

func (d *door) acquire(ctx context.Context, r *idgen.AcquireRequest) (*idgen.Grant, error) {
	if err := d.allow(ctx, auth.Write, "worker", r.Holder); err != nil {
		return nil, err
	}
	return d.svc.AcquireWorker(ctx, *r)
}

func (d *door) extend(ctx context.Context, r *idgen.ExtendRequest) (*idgen.Grant, error) {
	if err := d.allow(ctx, auth.Write, "worker", r.Holder); err != nil {
		return nil, err
	}
	return d.svc.ExtendWorker(ctx, *r)
}

func (d *door) release(ctx context.Context, r *idgen.ReleaseRequest) (*api.Empty, error) {
	if err := d.allow(ctx, auth.Write, "worker", ""); err != nil {
		return nil, err
	}
	return &api.Empty{}, d.svc.ReleaseWorker(ctx, *r)
}

func (d *door) leaseSegment(ctx context.Context, r *api.LeaseSegmentRequest) (*idgen.Block, error) {
	if err := d.allow(ctx, auth.Write, "generator", r.Name); err != nil {
		return nil, err
	}
	return d.svc.LeaseSegment(ctx, *r)
}

func (d *door) returnSegment(ctx context.Context, r *api.ReturnSegmentRequest) (*api.Empty, error) {
	if err := d.allow(ctx, auth.Write, "generator", r.Name); err != nil {
		return nil, err
	}
	return &api.Empty{}, d.svc.ReturnSegment(ctx, *r)
}

func (d *door) terms(ctx context.Context, r *api.NameRequest) (*api.LeaseTerms, error) {
	if err := d.allow(ctx, auth.Write, "generator", r.Name); err != nil {
		return nil, err
	}
	return d.svc.Terms(ctx, r.Name)
}
