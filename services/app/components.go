package app

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"nekoq/numgen"
	"nekoq/services/app/system"
	"nekoq/services/errs"
	"nekoq/services/httpapi"
	"nekoq/services/lease"
	"nekoq/services/lifecycle"
	"nekoq/services/peer"
	"nekoq/services/replica/local"
	"nekoq/services/replica/raftnode"
	"nekoq/services/state"
	"nekoq/services/telemetry"
	"nekoq/services/watch"
	"nekoq/services/wire"
	"nekoq/warehouse"
	"nekoq/warehouse/areas"
	"nekoq/warehouse/conf"
)

// The components of the graph. "replica" makes the parts of the replicated
// state that services hang their leader loops on; "consensus" runs them. So a
// service is made between the two, and a door after both.
const (
	compData      = "data"
	compState     = "state"
	compReplica   = "replica"
	compLease     = "lease"
	compSessions  = "sessions"
	compNumgen    = "numgen"
	compWarehouse = "warehouse"
	compAreas     = "areas"
	compConfig    = "config"
	compConsensus = "consensus"
	compSystem    = "system"
	compHTTP      = "http"
	compNative    = "native"
	compEtcd      = "etcd"
	compTelemetry = "telemetry"
)

func (a *App) components() {
	off := func(on bool, key string) string {
		if on {
			return ""
		}
		return key + " = false"
	}
	var services []string
	for name, on := range map[string]bool{compNumgen: a.cfg.Services.Numgen, compWarehouse: a.cfg.Services.Warehouse, compAreas: a.cfg.Services.Warehouse, compConfig: a.cfg.Services.Warehouse} {
		if on {
			services = append(services, name)
		}
	}
	loops := append([]string{compReplica, compLease, compSessions}, services...)
	doors := append([]string{compSystem, compConsensus}, services...)

	a.graph.Add(lifecycle.Component{Name: compTelemetry, Stop: a.tele.Shutdown})
	a.graph.Add(lifecycle.Component{Name: compData, Needs: []string{compTelemetry}, Start: a.startData, Stop: a.stopData})
	a.graph.Add(lifecycle.Component{
		Name: compState, Needs: []string{compData}, Start: a.startState, Stop: a.stopState, Failed: a.failure(compState),
		Ready: func(context.Context) error { return a.machine.Storage() },
	})
	a.graph.Add(lifecycle.Component{Name: compReplica, Needs: []string{compState}, Start: a.startReplica})
	a.graph.Add(lifecycle.Component{Name: compLease, Needs: []string{compReplica}, Start: a.startLease})
	a.graph.Add(lifecycle.Component{Name: compSessions, Needs: []string{compReplica}, Start: func(context.Context) error {
		a.replica.OnLeader(compSessions, a.expireSessions)
		return nil
	}})
	a.graph.Add(lifecycle.Component{
		Name: compNumgen, Needs: []string{compReplica}, Off: off(a.cfg.Services.Numgen, "services.numgen"),
		Start: a.startNumgen, Drain: a.drainNumgen,
	})
	a.graph.Add(lifecycle.Component{
		Name: compWarehouse, Needs: []string{compReplica, compLease}, Off: off(a.cfg.Services.Warehouse, "services.warehouse"),
		Start: a.startWarehouse,
	})
	a.graph.Add(lifecycle.Component{
		Name: compAreas, Needs: []string{compReplica}, Off: off(a.cfg.Services.Warehouse, "services.warehouse"), Start: a.startAreas,
	})
	a.graph.Add(lifecycle.Component{
		Name: compConfig, Needs: []string{compReplica, compAreas}, Off: off(a.cfg.Services.Warehouse, "services.warehouse"),
		Start: a.startConfig, Drain: a.drainConfig,
	})
	a.graph.Add(lifecycle.Component{
		Name: compConsensus, Needs: loops, Start: a.startConsensus, Stop: a.stopConsensus, Ready: a.consensusReady,
		Failed: a.failure(compConsensus), StopTimeout: 20 * time.Second,
	})
	a.graph.Add(lifecycle.Component{Name: compSystem, Needs: []string{compReplica}, Start: a.startSystem})
	a.graph.Add(lifecycle.Component{
		Name: compHTTP, Needs: doors, Start: a.startHTTP, Drain: a.http.Drain, Stop: a.http.Stop,
		Failed: a.http.Failed(), DrainTimeout: a.cfg.HTTP.DrainTimeout + time.Second,
	})
	a.graph.Add(lifecycle.Component{
		Name: compNative, Needs: doors, Start: a.startNative, Drain: a.native.drain, Stop: a.native.stop, Failed: a.native.failed,
	})
	etcdOff := off(a.cfg.Services.Warehouse, "services.warehouse")
	if a.cfg.Etcd.Listen == "" {
		etcdOff = `warehouse.etcd.listen = ""`
	}
	a.graph.Add(lifecycle.Component{
		Name: compEtcd, Needs: doors, Off: etcdOff, Start: a.startEtcd, Drain: a.drainEtcd, Stop: a.stopEtcd,
		Failed: a.failure(compEtcd), DrainTimeout: a.cfg.Etcd.DrainTimeout + time.Second,
	})
}

// failure is the channel on which a component reports that it cannot go on.
func (a *App) failure(component string) chan error {
	ch, ok := a.failures[component]
	if !ok {
		ch = make(chan error, 1)
		a.failures[component] = ch
	}
	return ch
}

// watchFailure hands err() to the component's channel once failed is closed.
func (a *App) watchFailure(component string, failed <-chan struct{}, err func() error) {
	ch := a.failure(component)
	a.background.Go(func() {
		select {
		case <-failed:
			if e := err(); e != nil {
				ch <- e
			}
		case <-a.ended:
		}
	})
}

func (a *App) newTelemetry() (err error) {
	a.tele, err = telemetry.New(context.Background(), a.cfg.Telemetry, telemetry.Info{Version: Version, NodeID: a.cfg.Node.ID}, a.deps.Log)
	if err != nil {
		return err
	}
	a.log = a.tele.Log
	if a.deps.Logger != nil {
		a.log = a.deps.Logger
	}
	return nil
}

func (a *App) newHTTP() (err error) {
	cfg := a.cfg.HTTP
	a.http, err = httpapi.New(cfg, httpapi.Deps{
		Log: a.log, AccessLog: a.tele.AccessLog, Auth: a.auth, Metrics: a.tele.Registry, Gatherer: a.tele.Registry,
		Tracing: a.tele.Tracing, Version: Version,
		Ready:  a.graph.Ready,
		Report: func(ctx context.Context) string { return report(ctx, a.graph) },
	})
	return err
}

// report is the body of /readyz?verbose: one line a component.
func report(ctx context.Context, g *lifecycle.Graph) string {
	var b strings.Builder
	ready := "ready"
	if err := g.Ready(ctx); err != nil {
		ready = "not ready: " + errs.From(err).Message
	}
	b.WriteString(ready + "\n")
	for _, s := range g.Snapshot() {
		b.WriteString(s.Name + ": " + string(s.State))
		switch {
		case s.OffReason != "":
			b.WriteString(" (" + s.OffReason + ")")
		case s.Error != "":
			b.WriteString(" (" + s.Error + ")")
		}
		if len(s.Needs) > 0 {
			b.WriteString(", needs " + strings.Join(s.Needs, ", "))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func (a *App) startData(context.Context) error { return a.openDataDir() }

func (a *App) stopData(context.Context) error {
	close(a.ended)
	a.background.Wait()
	if a.temporary {
		return os.RemoveAll(a.dataDir)
	}
	return nil
}

func (a *App) startState(context.Context) error {
	a.hub = watch.NewHub(watch.Options{Logger: a.log, Registerer: a.tele.Registry})
	mode := state.Synced
	switch {
	case a.cluster():
		mode = state.Logged
	case a.temporary:
		mode = state.Volatile
	}
	m, err := state.Open(state.Options{
		Path: a.statePath(), Registry: a.registry, Events: a.hub, Mode: mode, Config: a.cfg.State,
		Logger: a.log, Metrics: a.tele.Registry,
	})
	if err != nil {
		a.hub.Close()
		return err
	}
	a.machine = m
	a.watchFailure(compState, m.Done(), m.Err)
	if a.process {
		a.background.Go(a.returnMemory)
	}
	return nil
}

func (a *App) stopState(context.Context) error {
	a.hub.Close()
	return a.machine.Close()
}

func (a *App) startReplica(context.Context) error {
	if !a.cluster() {
		r, err := local.New(local.Options{
			NodeID: a.cfg.Node.ID, Machine: a.machine, Clock: a.clock, Logger: a.log, Metrics: a.tele.Registry, Config: a.cfg.LocalSwitch,
		})
		if err != nil {
			return err
		}
		a.local, a.replica = r, r
		return nil
	}
	p, err := peer.New(peer.Deps{
		NodeID: a.cfg.Node.ID, DataDir: a.dataDir, HTTP: a.cfg.HTTPAdvertise(), Native: a.cfg.NativeAdvertise(),
		Software: Version, Clock: a.clock, Logger: a.log, Metrics: a.tele.Registry,
	}, a.cfg.Cluster.Peer)
	if err != nil {
		return err
	}
	node, err := raftnode.New(raftnode.Options{
		NodeID: a.cfg.Node.ID, Addr: a.cfg.Node.ID, DataDir: a.dataDir, Machine: a.machine, Peers: p, Clock: a.clock,
		Logger: a.log, Metrics: a.tele.Registry, Config: a.cfg.Cluster.Raft,
	})
	if err != nil {
		return errors.Join(err, p.Stop(context.Background()))
	}
	node.Register(p.Mux())
	p.Attach(peer.Attached{Store: a.machine, Replica: node, Raft: peer.Adapt[raftnode.Server](node), Disk: node.Disk})
	a.peers, a.raft, a.replica = p, node, node
	return nil
}

func (a *App) startConsensus(ctx context.Context) error {
	if a.local != nil {
		a.watchFailure(compConsensus, a.local.Failed(), a.local.Err)
		a.local.Start()
		return nil
	}
	a.watchFailure(compConsensus, a.raft.Failed(), a.raft.Err)
	failed := a.failure(compConsensus)
	a.background.Go(func() {
		select {
		case err := <-a.peers.Failed():
			failed <- err
		case <-a.ended:
		}
	})
	return a.peers.Start(ctx)
}

func (a *App) stopConsensus(ctx context.Context) error {
	if a.local != nil {
		return a.local.Shutdown(ctx)
	}
	// The port drains first: a node that is still being formed must not start Raft now.
	return errors.Join(a.peers.Drain(ctx), a.raft.Shutdown(ctx), a.peers.Stop(ctx))
}

func (a *App) consensusReady(ctx context.Context) error {
	if a.local != nil {
		return nil
	}
	if err := a.peers.Ready(ctx); err != nil {
		return err
	}
	if leader, _ := a.raft.Leader(); leader == "" {
		return errs.New(errs.NoLeader, "no leader is known: linearizable reads and writes wait for one; stale reads are served")
	}
	return a.raft.Storage()
}

func (a *App) startLease(context.Context) (err error) {
	a.leases, err = lease.New(lease.Deps{Replica: a.replica, Clock: a.clock, Logger: a.log, Metrics: a.tele.Registry}, a.cfg.Lease)
	return err
}

func (a *App) startNumgen(ctx context.Context) (err error) {
	a.numgen, err = numgen.New(numgen.Deps{Replica: a.replica, Events: a.hub, Clock: a.clock, Logger: a.log, Metrics: a.tele.Registry}, a.cfg.Numgen)
	if err != nil {
		return err
	}
	return a.numgen.Start(ctx)
}

// drainNumgen gives leases and unused numbers back, which needs the consensus:
// so it is a drain, not a stop.
func (a *App) drainNumgen(ctx context.Context) error { return a.numgen.Stop(ctx) }

func (a *App) startWarehouse(context.Context) (err error) {
	a.kv, err = warehouse.New(warehouse.Deps{
		Replica: a.replica, Events: a.hub, Leases: a.leases, Storage: a.machine, Clock: a.clock, Logger: a.log, Metrics: a.tele.Registry,
	}, a.cfg.Warehouse)
	return err
}

func (a *App) startAreas(context.Context) (err error) {
	a.areas, err = areas.New(areas.Deps{Replica: a.replica, Events: a.hub, Logger: a.log}, a.cfg.Areas)
	return err
}

func (a *App) startConfig(ctx context.Context) (err error) {
	a.conf, err = conf.New(conf.Deps{Replica: a.replica, Events: a.hub, Clock: a.clock, Logger: a.log, Metrics: a.tele.Registry}, a.cfg.Config)
	if err != nil {
		return err
	}
	return a.conf.Start(ctx)
}

// drainConfig withdraws the report of who listens here, which needs the consensus.
func (a *App) drainConfig(ctx context.Context) error { return a.conf.Stop(ctx) }

func (a *App) startSystem(context.Context) error {
	var c system.Cluster = a.peers
	if a.local != nil {
		c = &system.Alone{
			ID: a.cfg.Node.ID, HTTP: a.cfg.HTTP.Listen, Native: a.cfg.Native.Listen, Software: Version, Clock: a.clock, Machine: a.machine,
		}
	}
	a.system = system.New(system.Deps{
		NodeID: a.cfg.Node.ID, Mode: a.cfg.Mode, Version: Version, Insecure: a.cfg.Insecure, Started: a.started, Clock: a.clock,
		Graph: a.graph, Replica: a.replica, Cluster: c, Auth: a.auth, State: a.machine,
	})
	system.RegisterREST(a.http, a.system)
	system.RegisterNative(a.mux, a.system)
	a.mux.Unary(wire.MethodHello, "system.hello", wire.JSON(func(context.Context, *struct{}) (*wire.ServerInfo, error) {
		info := a.hello()
		return &info, nil
	}))
	return nil
}
