package grpcserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"nekoq/services/auth"
)

// RawUnary serves a method on encoded messages: it appends the answer to dst and
// returns it. req is valid until it returns.
type RawUnary func(ctx context.Context, req, dst []byte) ([]byte, error)

// Options say how a Server behaves.
type Options struct {
	// MaxRequestBytes bounds one message of a client; 0 is 4 MiB.
	MaxRequestBytes int
	// MaxStreams bounds the requests under way at once on one connection; 0 is 2^20.
	MaxStreams uint32
	// PingMinTime is the shortest pause between pings of a client; one that pings
	// more often is sent away. 0 is 5 s.
	PingMinTime time.Duration
	// PingInterval is the silence after which a client is asked whether it lives,
	// PingTimeout how long it may take to answer, and to take what is written to it.
	// 0 is 2 h and 20 s.
	PingInterval, PingTimeout time.Duration
	// Principal says who is at the other end of a connection, asked once; nil is
	// nobody in particular. Handlers find it under auth.ContextKey.
	Principal func(net.Conn) auth.Principal
	// Decode and Encode, if set, code messages by hand: Decode decodes b into a
	// message and may keep b, Encode appends a message to b. With false they leave it
	// to the general code.
	Decode func(b []byte, m any) bool
	Encode func(b []byte, m any) ([]byte, bool)
	// Limits gives how long a request of a method with one answer may take when its
	// client set no deadline; 0 or nil is without end. Limited tells it from a deadline
	// of the client.
	Limits func(method string) time.Duration
	// After, if set, is told of each request that ended.
	After  func(Result)
	Logger *slog.Logger // nil discards
}

// Result describes a request that ended.
type Result struct {
	Method   string // as in "/etcdserverpb.KV/Put"; "" for one that is not served
	Stream   bool
	Code     codes.Code
	Duration time.Duration
}

func (o Options) withDefaults() Options {
	set(&o.MaxRequestBytes, 4<<20)
	set(&o.MaxStreams, 1<<20)
	set(&o.PingMinTime, 5*time.Second)
	set(&o.PingInterval, 2*time.Hour)
	set(&o.PingTimeout, 20*time.Second)
	set(&o.Logger, slog.New(slog.DiscardHandler))
	if o.Limits == nil {
		o.Limits = func(string) time.Duration { return 0 }
	}
	if o.Principal == nil {
		o.Principal = func(c net.Conn) auth.Principal {
			return auth.Principal{Name: "anonymous", Door: "grpc", Addr: c.RemoteAddr().String()}
		}
	}
	return o
}

func set[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// method is one of the registered ones.
type method struct {
	path   string
	impl   any
	unary  *grpc.MethodDesc
	stream *grpc.StreamDesc
	raw    RawUnary
	limit  time.Duration // of Options.Limits
}

// Server serves registered services. Services are registered before the first
// connection.
type Server struct {
	opts     Options
	log      *slog.Logger
	methods  map[string]*method
	services map[string]struct{}

	mu        sync.Mutex
	conns     map[*conn]struct{}
	listeners map[net.Listener]struct{}
	draining  bool
	wg        sync.WaitGroup // connections
}

// New makes a server.
func New(o Options) *Server {
	o = o.withDefaults()
	return &Server{
		opts: o, log: o.Logger, methods: map[string]*method{}, services: map[string]struct{}{},
		conns: map[*conn]struct{}{}, listeners: map[net.Listener]struct{}{},
	}
}

// RegisterService implements grpc.ServiceRegistrar, for generated code.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	s.services[desc.ServiceName] = struct{}{}
	for i := range desc.Methods {
		m := &desc.Methods[i]
		path := "/" + desc.ServiceName + "/" + m.MethodName
		s.methods[path] = &method{path: path, impl: impl, unary: m, limit: s.opts.Limits(path)}
	}
	for i := range desc.Streams {
		m := &desc.Streams[i]
		path := "/" + desc.ServiceName + "/" + m.StreamName
		s.methods[path] = &method{path: path, impl: impl, stream: m}
	}
}

// HandleUnary serves a method that is registered already by f instead. An unknown
// path is a mistake in the program, and panics.
func (s *Server) HandleUnary(path string, f RawUnary) {
	m := s.methods[path]
	if m == nil || m.unary == nil {
		panic(fmt.Sprintf("grpcserver: %s is not a registered method with one answer", path))
	}
	m.raw = f
}

// unknown words the refusal of a path as grpc-go does.
func (s *Server) unknown(path string) string {
	rest, ok := strings.CutPrefix(path, "/")
	i := strings.LastIndexByte(rest, '/')
	if !ok || i < 0 {
		return fmt.Sprintf("malformed method name: %q", path)
	}
	if _, ok := s.services[rest[:i]]; !ok {
		return "unknown service " + rest[:i]
	}
	return fmt.Sprintf("unknown method %s for service %s", rest[i+1:], rest[:i])
}

// Serve accepts until the listener closes or the server stops.
func (s *Server) Serve(ln net.Listener) error {
	s.mu.Lock()
	if s.draining {
		s.mu.Unlock()
		return grpc.ErrServerStopped
	}
	s.listeners[ln] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.listeners, ln)
	}()
	for {
		nc, err := ln.Accept()
		if err != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.draining || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		c := newConn(s, nc)
		if !s.admit(c) {
			_ = nc.Close()
			continue
		}
		go func() {
			defer s.release(c)
			c.serve()
		}()
	}
}

func (s *Server) admit(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return false
	}
	s.conns[c] = struct{}{}
	s.wg.Add(1)
	return true
}

func (s *Server) release(c *conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	s.wg.Done()
}

// Conns gives the number of open connections.
func (s *Server) Conns() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// close stops accepting and gives what is open.
func (s *Server) close() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	for ln := range s.listeners {
		_ = ln.Close()
	}
	out := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		out = append(out, c)
	}
	return out
}

// GracefulStop stops accepting, tells clients to go elsewhere, and waits until the
// requests under way have ended.
func (s *Server) GracefulStop() {
	for _, c := range s.close() {
		c.drain()
	}
	s.wg.Wait()
}

// Stop cuts all connections and waits until the handlers have ended.
func (s *Server) Stop() {
	for _, c := range s.close() {
		c.fail(net.ErrClosed)
	}
	s.wg.Wait()
}
