package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"

	"nekoq/services/auth"
	"nekoq/services/errs"
	"nekoq/services/telemetry"
)

// Deps are what a Server is wired to. Every member may be zero.
type Deps struct {
	Log       *slog.Logger          // nil is slog.Default
	AccessLog *slog.Logger          // nil is Log; telemetry has a buffered one
	Auth      auth.Authorizer       // nil allows everything
	Metrics   prometheus.Registerer // nil is none
	Gatherer  prometheus.Gatherer   // serves /metrics; nil for no such route
	Tracing   *telemetry.Tracing    // nil or off costs nothing
	Version   string                // of the document
	// Healthy and Ready answer /healthz and /readyz; nil is always yes. Report
	// adds the body of ?verbose, one line a component.
	Healthy func(ctx context.Context) error
	Ready   func(ctx context.Context) error
	Report  func(ctx context.Context) string
}

type routeMetrics = telemetry.HTTPRoute

// Server is the HTTP door.
type Server struct {
	cfg     Config
	log     *slog.Logger
	access  *slog.Logger
	authz   auth.Authorizer
	tracing *telemetry.Tracing
	http    *telemetry.HTTP

	engine        *gin.Engine
	api           huma.API
	adapter       *adapter
	problemSchema *huma.Schema
	routes        []Route
	handler       http.Handler
	ids           idSource
	sweep         sweep

	active, waiting atomic.Int64
	draining        atomic.Bool
	drainCtx        context.Context // ends waiting requests and streams
	drainCancel     context.CancelCauseFunc
	idle            chan struct{} // poked when a request ends during the drain

	patched map[string]bool // schemas whose ",string" fields are documented as such

	specMu sync.Mutex
	spec   []byte // nil after a route was added

	mu       sync.Mutex
	srv      *http.Server
	listener net.Listener
	served   chan struct{}
	failed   chan error
}

// errStopping is the cause with which waiting requests end at the drain.
var errStopping = errs.New(errs.ShuttingDown, "the server is stopping; ask another one")

// New makes a server with its own routes (/healthz, /readyz, /metrics,
// /openapi.json, /docs). It opens no port: Handler serves in process, Start on
// the network.
func New(cfg Config, deps Deps) (*Server, error) {
	if list := cfg.Validate(); len(list) > 0 {
		return nil, errors.Join(list...)
	}
	s := &Server{
		cfg: cfg, log: deps.Log, access: deps.AccessLog, authz: deps.Auth,
		idle: make(chan struct{}, 1), failed: make(chan error, 1), patched: map[string]bool{},
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.access == nil {
		s.access = s.log
	}
	if s.authz == nil {
		s.authz = auth.AllowAll{}
	}
	if deps.Tracing.Enabled() {
		s.tracing = deps.Tracing
	}
	s.drainCtx, s.drainCancel = context.WithCancelCause(context.Background())
	s.ids = newIDSource()
	s.http = telemetry.NewHTTP(deps.Metrics)
	s.http.Gauge("active", "Requests being served.", &s.active)
	s.http.Gauge("waiting", "Long polls and event streams that wait.", &s.waiting)
	s.newEngine()
	s.newAPI(deps.Version)
	h, err := s.compressed(s.engine)
	if err != nil {
		return nil, err
	}
	s.handler = h
	s.systemRoutes(deps)
	return s, nil
}

func (s *Server) newEngine() {
	gin.SetMode(gin.ReleaseMode)
	e := gin.New()
	e.HandleMethodNotAllowed = true
	e.RedirectTrailingSlash = false
	e.UseRawPath = true
	e.UnescapePathValues = false // unescapeParams does it
	e.ForwardedByClientIP = false
	e.NoRoute(s.wrap(s.pseudoRoute("not found"), func(c *gin.Context) {
		Fail(c, errs.New(errs.NotFound, "%s: no such path; /docs lists them", shorten(c.Request.URL.Path)).
			With(errs.Detail{Field: "path", Value: c.Request.URL.Path, Help: "GET /docs or /openapi.json"}))
	}))
	e.NoMethod(s.wrap(s.pseudoRoute("method not allowed"), func(c *gin.Context) {
		allow := c.Writer.Header().Get("Allow")
		Fail(c, errs.New(errs.MethodNotAllowed, "%s does not take %s: want %s", shorten(c.Request.URL.Path), shorten(c.Request.Method), allow).
			With(errs.Detail{Field: "method", Value: c.Request.Method, Limit: allow}))
	}))
	s.engine = e
}

// pseudoRoute stands for requests that fit no route, so that they are counted
// under one label instead of one for each path that somebody makes up.
func (s *Server) pseudoRoute(name string) *route {
	return &route{
		path: name, access: Public(), anyQuery: true, maxBody: s.cfg.MaxBodyBytes, timeout: s.cfg.RequestTimeout,
		metrics: s.http.Route("any", name),
	}
}

func (s *Server) metricsFor(method, path string) routeMetrics { return s.http.Route(method, path) }

const about = "Errors are problem documents (RFC 9457) with the members code, request_id and retryable. " +
	"Names are snake_case, times RFC 3339, durations such as 1m30s, 64-bit ids strings. " +
	"The header Request-Timeout (such as 1.5s) shortens a request's deadline; X-Request-Id, sent or made, comes back and stands in the log. " +
	"An unknown field or parameter is refused."

func (s *Server) newAPI(version string) {
	if version == "" {
		version = "dev"
	}
	registry := huma.NewMapRegistry("#/components/schemas/", newSchemaNames().name)
	s.adapter = &adapter{s: s}
	s.api = huma.NewAPI(huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI:    "3.1.0",
			Info:       &huma.Info{Title: "NekoQ", Version: version, Description: about},
			Components: &huma.Components{Schemas: registry},
			Extensions: map[string]any{"x-error-codes": errorCodes()},
		},
		Formats:       map[string]huma.Format{"application/json": jsonFormat, "json": jsonFormat},
		DefaultFormat: "application/json",
	}, s.adapter)
	s.problemSchema = registry.Schema(problemGoType, true, "Problem")
}

// Engine gives the gin engine, for what neither Register nor Raw can express.
func (s *Server) Engine() *gin.Engine { return s.engine }

// API gives huma's view of the document, to add tags and descriptions.
func (s *Server) API() huma.API { return s.api }

// Config gives the limits in force.
func (s *Server) Config() Config { return s.cfg }

// Handler serves in process, without a port.
func (s *Server) Handler() http.Handler { return s.handler }

// Failed delivers the error that ended serving other than by Drain or Stop.
func (s *Server) Failed() <-chan error { return s.failed }

// Addr gives the listening address after Start, nil before.
func (s *Server) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		return nil
	}
	return s.listener.Addr()
}

// Start opens the port and serves.
func (s *Server) Start(ctx context.Context) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.cfg.Listen)
	if err != nil {
		return listenError(s.cfg.Listen, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listener = l
	s.served = make(chan struct{})
	s.srv = &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: s.cfg.ReadHeaderTimeout,
		IdleTimeout:       s.cfg.IdleTimeout,
		// Twice the limit, so that a header over it gets a problem document;
		// only beyond that does net/http answer its bare 431.
		MaxHeaderBytes: int(2*s.cfg.MaxHeaderBytes) + 4096,
		ErrorLog:       slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	go func(srv *http.Server, served chan struct{}) {
		defer close(served)
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.failed <- errs.New(errs.Internal, "the HTTP door stopped serving").Wrap(err)
		}
	}(s.srv, s.served)
	s.log.Info("HTTP door open", slog.String("listen", l.Addr().String()))
	return nil
}

func listenError(addr string, err error) error {
	e := errs.New(errs.Unavailable, "http.listen = %q: %v", addr, rootOf(err))
	d := errs.Detail{Field: "http.listen", Value: addr}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		d.Help = "another program uses the address; stop it, or set http.listen in the file, NEKOQ_HTTP__LISTEN, or --set http.listen=127.0.0.1:PORT"
	case errors.Is(err, syscall.EACCES):
		d.Help = "a port below 1024 needs a privilege; set http.listen or --set http.listen=127.0.0.1:PORT"
	default:
		d.Help = "set http.listen or --set http.listen=HOST:PORT to an address of this machine"
	}
	e.Message += "; " + d.Help
	return e.With(d).Wrap(err)
}

func rootOf(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		if errno, ok := next.(syscall.Errno); ok {
			return errno
		}
		err = next
	}
}

// Drain closes the port to new work, ends long polls and streams with
// shutting_down, and waits for the running requests: until ctx ends, at most
// drain_timeout. Requests in process are waited for in the same way.
func (s *Server) Drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.DrainTimeout)
	defer cancel()
	s.draining.Store(true)
	s.drainCancel(errStopping)
	s.mu.Lock()
	srv := s.srv
	s.mu.Unlock()
	closed := make(chan error, 1)
	if srv != nil {
		go func() { closed <- srv.Shutdown(ctx) }()
	} else {
		closed <- nil
	}
	for s.active.Load()+s.waiting.Load() > 0 {
		select {
		case <-s.idle:
		case <-ctx.Done():
			<-closed
			return s.drainMissed(ctx.Err())
		}
	}
	// Every handler is through. What Shutdown may still wait for is the last
	// buffer of an answer, or a connection that never sent a request: the latter
	// would cost five seconds, so it doesn't get them.
	grace := time.NewTimer(time.Second)
	defer grace.Stop()
	select {
	case err := <-closed:
		if err != nil {
			return s.drainMissed(err)
		}
	case <-grace.C:
		cancel()
		<-closed
	}
	return nil
}

func (s *Server) drainMissed(err error) error {
	return errs.New(errs.DeadlineExceeded, "the HTTP door still had %d running requests at the end of the drain (http.drain_timeout = %s)",
		s.active.Load()+s.waiting.Load(), s.cfg.DrainTimeout).Wrap(err)
}

// leave counts a request out and tells a waiting Drain.
func (s *Server) leave(n *atomic.Int64) {
	n.Add(-1)
	if s.draining.Load() {
		select {
		case s.idle <- struct{}{}:
		default:
		}
	}
}

// Stop closes every connection at once. Call Drain first for a graceful end.
func (s *Server) Stop(ctx context.Context) error {
	s.draining.Store(true)
	s.drainCancel(errStopping)
	s.mu.Lock()
	srv, served := s.srv, s.served
	s.mu.Unlock()
	if srv == nil {
		return nil
	}
	err := srv.Close()
	select {
	case <-served:
	case <-ctx.Done():
		return ctx.Err()
	}
	return err
}

func (s *Server) specChanged() {
	s.specMu.Lock()
	s.spec = nil
	s.specMu.Unlock()
}

// Document gives the OpenAPI 3.1 document as JSON.
func (s *Server) Document() ([]byte, error) {
	s.specMu.Lock()
	defer s.specMu.Unlock()
	if s.spec == nil {
		b, err := json.Marshal(s.api.OpenAPI())
		if err != nil {
			return nil, err
		}
		s.spec = b
	}
	return s.spec, nil
}
