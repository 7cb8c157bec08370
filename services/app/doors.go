package app

import (
	"context"

	numgennative "nekoq/numgen/native"
	numgenrest "nekoq/numgen/rest"
	"nekoq/services/errs"
	areasnative "nekoq/warehouse/areas/native"
	areasrest "nekoq/warehouse/areas/rest"
	warehousenative "nekoq/warehouse/native"
	warehouserest "nekoq/warehouse/rest"
)

// startHTTP adds the routes of the services that are on and opens the port.
func (a *App) startHTTP(ctx context.Context) error {
	if a.kv != nil {
		warehouserest.Register(a.http, a.kv)
		areasrest.Register(a.http, a.areas)
	} else {
		a.offRoutes("warehouse")
	}
	if a.numgen != nil {
		numgenrest.Register(a.http, a.numgen)
	} else {
		a.offRoutes("numgen")
	}
	if a.deps.InProcess {
		return nil
	}
	return a.http.Start(ctx)
}

// offRoutes answers for a service that this node does not serve.
func (a *App) offRoutes(service string) {
	a.http.Off("/v1/"+service, errs.New(errs.ServiceOff, "the service %s is switched off on node %s: services.%s = false; ask another node, or switch it on",
		service, a.cfg.Node.ID, service))
}

// startNative adds the methods of the services that are on and opens the port.
func (a *App) startNative(ctx context.Context) error {
	if a.kv != nil {
		warehousenative.Register(a.mux, a.kv, a.auth)
		areasnative.Register(a.mux, a.areas, a.auth)
	}
	if a.numgen != nil {
		numgennative.Register(a.mux, a.numgen, a.auth)
	}
	return a.native.start(ctx)
}
