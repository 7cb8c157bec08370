package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/etcdserverpb/gw"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"

	"nekoq/warehouse/etcd/electionpb"
	"nekoq/warehouse/etcd/lockpb"
)

// gateway is the HTTP/1 side of the port: etcd's JSON gateway, and the paths that
// etcd answers beside it.
type gateway struct {
	server *http.Server
	conn   *grpc.ClientConn
	cancel context.CancelFunc
}

// The limits of the HTTP server: a header must come soon, a stream may last.
const (
	headerTimeout  = 10 * time.Second
	maxHeaderBytes = 64 << 10
	healthTimeout  = 5 * time.Second
)

func newGateway(s *Door) (*gateway, error) {
	ctx, cancel := context.WithCancel(context.Background())
	conn, err := grpc.NewClient("passthrough:///etcd", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return s.split.dial(ctx) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<31-1), grpc.MaxCallSendMsgSize(1<<31-1)))
	if err != nil {
		cancel()
		return nil, err
	}
	g := &gateway{conn: conn, cancel: cancel}
	api := runtime.NewServeMux(runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.HTTPBodyMarshaler{
		Marshaler: &runtime.JSONPb{
			MarshalOptions:   protojson.MarshalOptions{UseProtoNames: true},
			UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: true},
		},
	}))
	for _, register := range []func(context.Context, *runtime.ServeMux, *grpc.ClientConn) error{
		gw.RegisterKVHandler, gw.RegisterWatchHandler, gw.RegisterLeaseHandler, gw.RegisterClusterHandler,
		gw.RegisterMaintenanceHandler, gw.RegisterAuthHandler, lockpb.RegisterLockHandler, electionpb.RegisterElectionHandler,
	} {
		if err := register(ctx, api, conn); err != nil {
			cancel()
			return nil, errors.Join(err, conn.Close())
		}
	}
	mux := http.NewServeMux()
	mux.Handle("/v3/", api)
	mux.HandleFunc("/version", version)
	mux.HandleFunc("/health", s.serveHealth)
	mux.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("/readyz", s.serveReady)
	if s.deps.Gatherer != nil {
		mux.Handle("/metrics", promhttp.HandlerFor(s.deps.Gatherer, promhttp.HandlerOpts{}))
	}
	g.server = &http.Server{
		Handler: mux, ReadHeaderTimeout: headerTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	return g, nil
}

func (g *gateway) serve(ln net.Listener) error {
	if err := g.server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (g *gateway) close() {
	g.cancel()
	_ = g.server.Close()
	_ = g.conn.Close()
}

func version(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, map[string]string{"etcdserver": ServerVersion, "etcdcluster": ClusterVersion, "storage": ClusterVersion})
}

func answer(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body)
}

// serveHealth answers as etcd's /health: serializable asks this node alone, and
// exclude=NOSPACE leaves that alarm out.
func (s *Door) serveHealth(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
		return
	}
	q := r.URL.Query()
	reason := s.unhealthy(r.Context(), q.Get("serializable") == "true", q["exclude"])
	code, health := http.StatusOK, "true"
	if reason != "" {
		code, health = http.StatusServiceUnavailable, "false"
	}
	answer(w, code, struct {
		Health string `json:"health"`
		Reason string `json:"reason"`
	}{health, reason})
}

func (s *Door) serveReady(w http.ResponseWriter, r *http.Request) {
	if reason := s.unhealthy(r.Context(), false, []string{pb.AlarmType_NOSPACE.String()}); reason != "" {
		http.Error(w, reason, http.StatusServiceUnavailable)
		return
	}
	_, _ = io.WriteString(w, "ok\n")
}

func (s *Door) unhealthy(ctx context.Context, local bool, exclude []string) string {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	alarms, err := s.alarms(ctx)
	if err != nil {
		return "RANGE ERROR: " + err.Error()
	}
	for _, a := range alarms {
		skip := false
		for _, e := range exclude {
			skip = skip || e == a.Alarm.String()
		}
		if !skip {
			return "ALARM " + a.Alarm.String()
		}
	}
	if id, _ := s.deps.Replica.Leader(); id == "" && !local {
		return "RAFT NO LEADER"
	}
	if _, err := s.store.Head(ctx, local); err != nil {
		return "RANGE ERROR: " + err.Error()
	}
	return ""
}
