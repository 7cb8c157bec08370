package app

import (
	"context"

	numgennative "nekoq/numgen/native"
	numgenrest "nekoq/numgen/rest"
	"nekoq/services/errs"
	"nekoq/services/replica/raftnode"
	areasnative "nekoq/warehouse/areas/native"
	areasrest "nekoq/warehouse/areas/rest"
	confnative "nekoq/warehouse/conf/native"
	confrest "nekoq/warehouse/conf/rest"
	"nekoq/warehouse/etcd"
	warehousenative "nekoq/warehouse/native"
	warehouserest "nekoq/warehouse/rest"
)

// startHTTP adds the routes of the services that are on and opens the port.
func (a *App) startHTTP(ctx context.Context) error {
	if a.kv != nil {
		warehouserest.Register(a.http, a.kv)
		areasrest.Register(a.http, a.areas)
		confrest.Register(a.http, a.conf)
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
		confnative.Register(a.mux, a.conf, a.auth)
	}
	if a.numgen != nil {
		numgennative.Register(a.mux, a.numgen, a.auth)
	}
	return a.native.start(ctx)
}

// startEtcd makes the etcd door and opens its port.
func (a *App) startEtcd(ctx context.Context) error {
	clusterID := func() string { return "localswitch" }
	if a.peers != nil {
		clusterID = a.peers.ClusterID
	}
	door, err := etcd.New(etcd.Deps{
		Store: a.kv, Replica: a.replica, Machine: a.machine, Cluster: a.system.Cluster, Auth: a.auth, ClusterID: clusterID,
		Scratch: a.dataDir, Room: a.room, Advertise: a.cfg.EtcdAdvertise(), Alone: a.local != nil, InProcess: a.deps.InProcess, Clock: a.clock, Logger: a.log,
		Metrics: a.tele.Registry, Gatherer: a.tele.Registry,
	}, a.cfg.Etcd)
	if err != nil {
		return err
	}
	a.etcd = door
	failed := a.failure(compEtcd)
	a.background.Go(func() {
		select {
		case err := <-door.Failed():
			failed <- err
		case <-a.ended:
		}
	})
	return door.Start(ctx)
}

// room refuses what would bring the data folder's disk below its reserve.
func (a *App) room(bytes int64) error {
	free, err := raftnode.FreeBytes(a.dataDir)
	if err != nil {
		return errs.New(errs.Internal, "the free space of the data folder %s: %v", a.dataDir, err).Wrap(err)
	}
	if reserve := a.cfg.Cluster.Raft.DiskReserveBytes; free-bytes < reserve {
		return errs.New(errs.StorageFull, "the disk of the data folder has %d bytes free, and %d stay in reserve (cluster.disk_reserve_bytes); make room", free, reserve)
	}
	return nil
}

func (a *App) drainEtcd(ctx context.Context) error { return a.etcd.Drain(ctx) }
func (a *App) stopEtcd(ctx context.Context) error  { return a.etcd.Stop(ctx) }
