package etcd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"nekoq/services/auth"
	"nekoq/services/clock"
	"nekoq/services/errs"
	"nekoq/services/grpcserver"
	peerapi "nekoq/services/peer/api"
	"nekoq/services/replica"
	"nekoq/services/state"
	"nekoq/warehouse"
	"nekoq/warehouse/etcd/electionpb"
	"nekoq/warehouse/etcd/internal/table"
	"nekoq/warehouse/etcd/lockpb"
)

// The versions that the door gives itself: clients switch features off below 3.4.31
// and 3.5.13. Whether there is RangeStream they learn by asking.
const (
	ServerVersion  = "3.6.5"
	ClusterVersion = "3.6.0"
	clusterLine    = "3.6" // as Downgrade tells it
)

// grpcOverhead is what a message may have beyond the request limit.
const grpcOverhead = 512 << 10

// Register declares the door's tables and commands.
func Register(reg *state.Registry) { table.Register(reg) }

// Cluster is what the door needs of the membership.
type Cluster interface {
	// Members are the nodes as this node's own state has them, not older than any view
	// of it that was taken before. It asks nobody.
	Members() []peerapi.Member
	Remove(ctx context.Context, r peerapi.RemoveRequest) (peerapi.Done, error)
	Promote(ctx context.Context, r peerapi.PromoteRequest) (peerapi.Done, error)
	Transfer(ctx context.Context, r peerapi.TransferRequest) (peerapi.Done, error)
}

// Machine is what the door needs of this node's state machine.
type Machine interface {
	Applied() (index, term uint64)
}

// Deps are what a Door is wired to.
type Deps struct {
	Store   warehouse.Store
	Replica replica.Replica
	Machine Machine
	Cluster Cluster
	Auth    auth.Authorizer
	// ClusterID gives the cluster's id, "" while it is not known.
	ClusterID func() string
	// Advertise is the address, host:port, that members and clients are told; ""
	// takes the one that is listened on.
	Advertise string
	// Alone: this is a LocalSwitch, which has no members to add.
	Alone bool
	// Scratch is the folder for the files of snapshots, "" the system's. Room tells
	// whether its disk can take so many bytes more; nil is not to ask.
	Scratch string
	Room    func(bytes int64) error
	// InProcess opens no port: connections come from Dial.
	InProcess bool
	Clock     clock.Clock           // nil is the system's
	Logger    *slog.Logger          // nil discards
	Metrics   prometheus.Registerer // nil is none
	Gatherer  prometheus.Gatherer   // what /metrics shows; nil is nothing
}

// Door is the etcd door of one node.
type Door struct {
	pb.UnimplementedKVServer
	pb.UnimplementedWatchServer
	pb.UnimplementedLeaseServer
	pb.UnimplementedClusterServer
	pb.UnimplementedMaintenanceServer
	pb.UnimplementedAuthServer
	lockpb.UnimplementedLockServer
	electionpb.UnimplementedElectionServer

	deps     Deps
	cfg      Config
	store    warehouse.Store
	clock    clock.Clock
	log      *slog.Logger
	metrics  *metrics
	everyone bool // the authorizer allows everything, so it need not be asked
	self     atomic.Pointer[self]
	cluster  atomic.Uint64 // 0 while not known

	grpc   *grpcserver.Server
	health *health.Server
	split  *splitter
	gate   *gateway
	failed chan error

	snapshots chan struct{} // one for each that is made or sent

	ctx    context.Context // ends with Stop; the base of everything in the background
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// New makes a door; nothing is opened yet.
func New(d Deps, cfg Config) (*Door, error) {
	if bad := cfg.Validate(); len(bad) > 0 {
		return nil, errors.Join(bad...)
	}
	if d.Clock == nil {
		d.Clock = clock.System()
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	if d.Auth == nil {
		d.Auth = auth.AllowAll{}
	}
	_, everyone := d.Auth.(auth.AllowAll)
	s := &Door{
		deps: d, cfg: cfg, store: d.Store, clock: d.Clock, log: d.Logger, everyone: everyone,
		failed: make(chan error, 1), snapshots: make(chan struct{}, mostSnapshots),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.metrics = newMetrics(d.Metrics, s)
	s.grpc = grpcserver.New(s.options())
	s.health = health.NewServer()
	s.registerServices()
	return s, nil
}

func (s *Door) options() grpcserver.Options {
	return grpcserver.Options{
		MaxRequestBytes: int(s.cfg.MaxRequestBytes + grpcOverhead),
		MaxStreams:      uint32(s.cfg.MaxConcurrentStreams),
		PingMinTime:     s.cfg.KeepaliveMinTime,
		PingInterval:    s.cfg.KeepaliveInterval,
		PingTimeout:     s.cfg.KeepaliveTimeout,
		Principal: func(c net.Conn) auth.Principal {
			return auth.Principal{Name: "anonymous", Door: "etcd", Addr: c.RemoteAddr().String()}
		},
		Decode: decodeFast,
		Encode: encodeFast,
		Limits: s.limit,
		After:  s.metrics.ended,
		Logger: s.log,
	}
}

// limit bounds requests for keys and leases whose clients set no deadline. Others may
// wait for good reason, as for a lock.
func (s *Door) limit(method string) time.Duration {
	if strings.HasPrefix(method, "/etcdserverpb.KV/") && method != pb.KV_Compact_FullMethodName ||
		strings.HasPrefix(method, "/etcdserverpb.Lease/") {
		return s.cfg.RequestTimeout
	}
	return 0
}

func (s *Door) registerServices() {
	pb.RegisterKVServer(s.grpc, s)
	pb.RegisterWatchServer(s.grpc, s)
	pb.RegisterLeaseServer(s.grpc, s)
	pb.RegisterClusterServer(s.grpc, s)
	pb.RegisterMaintenanceServer(s.grpc, s)
	pb.RegisterAuthServer(s.grpc, s)
	lockpb.RegisterLockServer(s.grpc, s)
	electionpb.RegisterElectionServer(s.grpc, s)
	healthpb.RegisterHealthServer(s.grpc, s.health)
}

// Start opens the port and begins to serve.
func (s *Door) Start(context.Context) error {
	var ln net.Listener
	if !s.deps.InProcess {
		var err error
		if ln, err = net.Listen("tcp", s.cfg.Listen); err != nil {
			why := "the address cannot be used"
			if errors.Is(err, syscall.EADDRINUSE) {
				why = "another process listens there already"
			}
			return errs.New(errs.Unavailable, "warehouse.etcd.listen = %q: %s; set it to a free address, or to \"\" for no etcd door", s.cfg.Listen, why).Wrap(err)
		}
	}
	s.split = newSplitter(ln)
	gate, err := newGateway(s)
	if err != nil {
		return errors.Join(err, s.split.Close())
	}
	s.gate = gate
	s.wg.Go(func() { s.report(s.split.serve()) })
	s.wg.Go(func() { s.report(s.grpc.Serve(s.split.grpc)) })
	s.wg.Go(func() { s.report(gate.serve(s.split.http)) })
	s.wg.Go(s.watchLeader)
	if !s.deps.InProcess {
		s.wg.Go(s.announce)
	}
	return nil
}

// report hands on an error that ends the door; being stopped is none.
func (s *Door) report(err error) {
	if err == nil || s.ctx.Err() != nil || errors.Is(err, net.ErrClosed) || errors.Is(err, grpc.ErrServerStopped) {
		return
	}
	select {
	case s.failed <- err:
	default:
	}
}

// Failed carries the reason why the door cannot go on.
func (s *Door) Failed() chan error { return s.failed }

// Addr is the address that is listened on, nil for none.
func (s *Door) Addr() net.Addr {
	if s.split == nil || s.split.ln == nil {
		return nil
	}
	return s.split.ln.Addr()
}

// Dial opens a connection without a port.
func (s *Door) Dial(ctx context.Context) (net.Conn, error) { return s.split.dial(ctx) }

// Drain stops taking connections and lets what runs end; streams have no end of
// their own and are cut.
func (s *Door) Drain(ctx context.Context) error {
	if s.split == nil {
		return nil
	}
	s.health.Shutdown()
	s.cancel()
	err := s.split.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.grpc.GracefulStop()
	}()
	wait := s.clock.NewTimer(max(s.cfg.DrainTimeout, time.Millisecond))
	defer wait.Stop()
	select {
	case <-done:
	case <-wait.C():
		s.grpc.Stop()
	case <-ctx.Done():
		s.grpc.Stop()
	}
	<-done
	s.gate.close()
	return err
}

// Stop closes what is left.
func (s *Door) Stop(ctx context.Context) error {
	if s.split == nil {
		s.cancel()
		return nil
	}
	if s.ctx.Err() == nil {
		_ = s.Drain(ctx)
	}
	s.wg.Wait()
	return nil
}

// clientURL is where clients reach this node's door.
func (s *Door) clientURL() string {
	addr := s.deps.Advertise
	if host, port, err := net.SplitHostPort(addr); addr == "" || err != nil || port == "0" {
		addr = ""
		if a := s.Addr(); a != nil {
			addr = a.String()
			if host != "" && err == nil {
				_, bound, _ := net.SplitHostPort(addr)
				addr = net.JoinHostPort(host, bound)
			}
		}
	}
	if addr == "" {
		return ""
	}
	if h, p, err := net.SplitHostPort(addr); err == nil {
		if ip := net.ParseIP(strings.Trim(h, "[]")); h == "" || ip != nil && ip.IsUnspecified() {
			addr = net.JoinHostPort(reachable(), p)
		}
	}
	return "http://" + addr
}
