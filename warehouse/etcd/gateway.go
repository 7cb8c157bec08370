package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.etcd.io/etcd/api/v3/etcdserverpb/gw"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"nekoq/warehouse/etcd/electionpb"
	"nekoq/warehouse/etcd/lockpb"
)

// gateway is the HTTP/1 side of the port: etcd's JSON gateway, and the paths that
// etcd answers beside it.
type gateway struct {
	server  *http.Server
	conn    *grpc.ClientConn
	sockets *sockets
	cancel  context.CancelFunc
}

// The limits of the HTTP server: a header must come soon, a stream may last.
const (
	headerTimeout  = 10 * time.Second
	maxHeaderBytes = 64 << 10
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
	api := runtime.NewServeMux(runtime.WithErrorHandler(gatewayError), runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.HTTPBodyMarshaler{
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
	// A frame holds a request in JSON, where bytes are base64.
	g.sockets = &sockets{api: api, limit: 2*s.cfg.MaxRequestBytes + grpcOverhead, ctx: ctx}
	mux := http.NewServeMux()
	mux.Handle("/v3/", g.sockets)
	mux.Handle("/v3beta/", oldPaths(g.sockets))
	mux.HandleFunc("/version", version)
	mux.HandleFunc("/health", s.serveHealth)
	s.probes(mux, "/livez", serializableRead)
	s.probes(mux, "/readyz", dataCorruption, serializableRead, linearizableRead, nonLearner)
	if s.deps.Gatherer != nil {
		mux.Handle("/metrics", promhttp.HandlerFor(familiar{s}, promhttp.HandlerOpts{}))
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
	g.sockets.close()
	_ = g.conn.Close()
}

// oldPaths serves the prefix of etcd 3.3, as etcd 3.4 and later do.
func oldPaths(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to := *r.URL
		to.Path = "/v3/" + strings.TrimPrefix(to.Path, "/v3beta/")
		to.RawPath = ""
		again := *r
		again.URL = &to
		h.ServeHTTP(w, &again)
	})
}

// gatewayError is the body of an error: that of etcd up to 3.5, with error beside
// message, and of 3.6, with details.
func gatewayError(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) {
	var st *status.Status
	code := 0
	if h, ok := errors.AsType[*runtime.HTTPStatusError](err); ok {
		st, code = status.Convert(h.Err), h.HTTPStatus
	} else {
		st = status.Convert(err)
		code = runtime.HTTPStatusFromCode(st.Code())
	}
	answer(w, code, struct {
		Error   string `json:"error"`
		Code    uint32 `json:"code"`
		Message string `json:"message"`
		Details []any  `json:"details"`
	}{st.Message(), uint32(st.Code()), st.Message(), []any{}})
}

func version(w http.ResponseWriter, r *http.Request) {
	if !onlyGet(w, r) {
		return
	}
	answer(w, http.StatusOK, map[string]string{"etcdserver": ServerVersion, "etcdcluster": ClusterVersion, "storage": ClusterVersion})
}

func answer(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body)
}
