// Package app is the composition of one node: what is on, wired to what. It
// owns no behaviour: it makes the components from the configuration, puts them
// into the lifecycle graph in dependency order, and runs the graph.
//
// cmd/nekoq and services/localswitch start an App; so do tests. An App starts
// once and stops once.
package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"nekoq/configs"
	"nekoq/numgen"
	"nekoq/services/app/system"
	"nekoq/services/auth"
	"nekoq/services/clock"
	"nekoq/services/errs"
	"nekoq/services/httpapi"
	"nekoq/services/lease"
	"nekoq/services/lifecycle"
	"nekoq/services/peer"
	"nekoq/services/replica"
	"nekoq/services/replica/local"
	"nekoq/services/replica/raftnode"
	"nekoq/services/state"
	"nekoq/services/telemetry"
	"nekoq/services/watch"
	"nekoq/services/wire"
	"nekoq/warehouse"
	"nekoq/warehouse/areas"
	"nekoq/warehouse/conf"
	"nekoq/warehouse/etcd"
)

// Version of the program, set by the linker.
var Version = "dev"

// Deps is what the process gives an App. Every member may be zero.
type Deps struct {
	// Log is where log lines go when Logger is nil; os.Stderr by default.
	Log    io.Writer
	Logger *slog.Logger
	Clock  clock.Clock
	// InProcess opens no port: the doors are reached by Handler and Dial.
	InProcess bool
	// Auth replaces the authorizer, for tests.
	Auth auth.Authorizer
}

// App is one node.
type App struct {
	cfg     configs.Config
	deps    Deps
	clock   clock.Clock
	log     *slog.Logger
	graph   *lifecycle.Graph
	tele    *telemetry.Telemetry
	auth    auth.Authorizer
	started time.Time

	dataDir   string
	temporary bool

	registry *state.Registry
	hub      *watch.Hub
	machine  *state.Machine
	peers    *peer.Service  // nil in LocalSwitch
	raft     *raftnode.Node // nil in LocalSwitch
	replica  replica.Replica

	http     *httpapi.Server
	native   *nativeDoor
	mux      *wire.Mux
	system   *system.Service
	numgen   *numgen.Service
	kv       *warehouse.Service
	areas    *areas.Service
	conf     *conf.Service
	etcd     *etcd.Door // nil when off
	leases   *lease.Service
	local    *local.Replica // nil in Cluster
	failures map[string]chan error

	process    bool           // the process is this node's alone
	background sync.WaitGroup // ends with ended
	ended      chan struct{}
}

// New makes the node from a validated configuration. Nothing is opened yet but
// the log; a mistake in the plan of components is reported here.
func New(cfg configs.Config, deps Deps) (*App, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	a := &App{cfg: cfg, deps: deps, clock: deps.Clock, auth: deps.Auth, failures: map[string]chan error{}, ended: make(chan struct{})}
	if a.clock == nil {
		a.clock = clock.System()
	}
	if a.auth == nil {
		a.auth = auth.AllowAll{}
	}
	if err := a.newTelemetry(); err != nil {
		return nil, err
	}
	a.graph = lifecycle.New(lifecycle.Options{Logger: a.log})
	a.registry = registry()
	a.mux = wire.NewMux()
	var err error
	if err = a.newHTTP(); err != nil {
		return nil, err
	}
	a.native = a.newNativeDoor()
	a.components()
	if _, err := a.graph.Plan(); err != nil {
		return nil, err
	}
	return a, nil
}

// registry holds the tables and appliers of every service: a node applies
// commands of services that it does not serve.
func registry() *state.Registry {
	reg := state.NewRegistry()
	peer.Register(reg)
	leases := lease.Register(reg)
	numgen.Register(reg)
	warehouse.Register(reg, leases)
	conf.Register(reg, areas.Register(reg))
	etcd.Register(reg)
	return reg
}

// Start starts everything and returns when all has started, which is not yet
// ready: a node of a cluster is ready when a leader is known.
func (a *App) Start(ctx context.Context) error {
	a.started = a.clock.Now()
	a.announce()
	return a.graph.Start(ctx)
}

// Run starts the node and runs it until a signal, the end of ctx or a failure.
func (a *App) Run(ctx context.Context) error {
	a.process = true
	a.started = a.clock.Now()
	a.announce()
	return lifecycle.RunSignals(ctx, a.graph)
}

// Stop drains and stops.
func (a *App) Stop(ctx context.Context) error { return a.graph.Stop(ctx) }

// Ready answers nil when every component serves.
func (a *App) Ready(ctx context.Context) error { return a.graph.Ready(ctx) }

// Graph gives the components and their states.
func (a *App) Graph() *lifecycle.Graph { return a.graph }

// Handler is the HTTP door without a port.
func (a *App) Handler() http.Handler { return a.http.Handler() }

// HTTP is the HTTP door, for tests of its document.
func (a *App) HTTP() *httpapi.Server { return a.http }

// Replica is the node's replica, for tests; nil before Start.
func (a *App) Replica() replica.Replica { return a.replica }

// Areas is the node's tree of areas, for tests; nil before Start or when warehouse is off.
func (a *App) Areas() *areas.Service { return a.areas }

// Conf is the node's configuration centre, for tests; nil before Start or when warehouse is off.
func (a *App) Conf() *conf.Service { return a.conf }

// Machine is the node's state machine, for tests; nil before Start.
func (a *App) Machine() *state.Machine { return a.machine }

// HTTPAddr and NativeAddr are the addresses in use, nil in process.
func (a *App) HTTPAddr() net.Addr   { return a.http.Addr() }
func (a *App) NativeAddr() net.Addr { return a.native.addr() }

// EtcdAddr is the address of the etcd door, nil in process or when it is off.
func (a *App) EtcdAddr() net.Addr {
	if a.etcd == nil {
		return nil
	}
	return a.etcd.Addr()
}

// DialEtcd opens an in-process connection to the etcd door.
func (a *App) DialEtcd(ctx context.Context) (net.Conn, error) { return a.etcd.Dial(ctx) }

// Dial opens an in-process connection to the native door.
func (a *App) Dial(context.Context) (net.Conn, error) { return a.native.dial() }

func (a *App) cluster() bool { return a.cfg.Mode == configs.ModeCluster }

// announce prints the plan, and warns of what is not safe.
func (a *App) announce() {
	plan, err := a.graph.Plan()
	if err != nil {
		return // New has reported it
	}
	var on, off []string
	for _, p := range plan {
		if p.Off == "" {
			on = append(on, p.Name)
		} else {
			off = append(off, p.Name+" ("+p.Off+")")
		}
	}
	a.log.Info("starting", "version", Version, "mode", a.cfg.Mode, "node", a.cfg.Node.ID, "plan", on, "off", off)
	if a.cluster() && a.cfg.Insecure {
		a.log.Warn("INSECURE: identities and TLS are off; whoever reaches a port of this node may do anything. Use it on a trusted network only")
	}
}

// openDataDir makes the data folder, a temporary one when none is configured.
func (a *App) openDataDir() error {
	a.dataDir = a.cfg.Node.DataDir
	if a.dataDir == "" {
		dir, err := os.MkdirTemp("", "nekoq-")
		if err != nil {
			return fmt.Errorf("temporary data folder: %w", err)
		}
		a.dataDir, a.temporary = dir, true
		return nil
	}
	if err := os.MkdirAll(a.dataDir, 0o750); err != nil {
		return errs.New(errs.Unavailable, "node.data_dir = %q: the folder cannot be made; set node.data_dir to a folder that this user may write", a.dataDir).Wrap(err)
	}
	return nil
}

func (a *App) statePath() string { return filepath.Join(a.dataDir, "state.db") }
