package wire

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"nekoq/services/errs"
)

// Server serves a Mux.
type Server struct {
	mux  *Mux
	opts ServerOptions
	log  *slog.Logger

	mu        sync.Mutex
	conns     map[*servConn]struct{}
	listeners map[net.Listener]struct{}
	draining  bool
	idle      chan struct{} // closed when draining and no connection is left
}

// NewServer makes a server of mux, which is not changed afterwards.
func NewServer(mux *Mux, opts ServerOptions) *Server {
	opts.Limits = opts.Limits.withDefaults()
	if opts.Door == "" {
		opts.Door = "native"
	}
	log := opts.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Server{
		mux: mux, opts: opts, log: log,
		conns:     make(map[*servConn]struct{}),
		listeners: make(map[net.Listener]struct{}),
		idle:      make(chan struct{}),
	}
}

// Serve accepts until the listener closes or the server shuts down, which it
// reports as nil.
func (s *Server) Serve(ln net.Listener) error {
	if !s.track(ln) {
		_ = ln.Close()
		return nil
	}
	defer s.untrack(ln)
	const firstPause, lastPause = 5 * time.Millisecond, time.Second
	pause := firstPause
	for {
		c, err := ln.Accept()
		if err == nil {
			pause = firstPause
			go s.ServeConn(c)
			continue
		}
		if s.isDraining() || errors.Is(err, net.ErrClosed) {
			return nil
		}
		// Such as "too many open files": it passes, so the door stays.
		var te interface{ Temporary() bool }
		if !errors.As(err, &te) || !te.Temporary() {
			return err
		}
		s.log.Warn("accept failed; trying again", "addr", ln.Addr().String(), "pause", pause, "error", err)
		select {
		case <-time.After(pause):
		case <-s.idle:
		}
		pause = min(2*pause, lastPause)
	}
}

// ServeConn serves one connection until it ends.
func (s *Server) ServeConn(c net.Conn) {
	sc := newServConn(s, c)
	if err := s.admit(sc); err != nil {
		sc.refuse(err)
		return
	}
	defer s.release(sc)
	sc.serve()
}

func (s *Server) admit(sc *servConn) *errs.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return errs.New(errs.ShuttingDown, "the server is stopping; use another one")
	}
	if n := s.opts.Limits.MaxConns; len(s.conns) >= n {
		return errs.New(errs.TooManyRequests, "the server has %d connections open, its limit", n)
	}
	s.conns[sc] = struct{}{}
	return nil
}

func (s *Server) release(sc *servConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, sc)
	if s.draining && len(s.conns) == 0 {
		s.closeIdle()
	}
}

func (s *Server) closeIdle() {
	select {
	case <-s.idle:
	default:
		close(s.idle)
	}
}

func (s *Server) track(ln net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return false
	}
	s.listeners[ln] = struct{}{}
	return true
}

func (s *Server) untrack(ln net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, ln)
}

func (s *Server) isDraining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

// Conns gives the number of open connections.
func (s *Server) Conns() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Shutdown closes the listeners, tells every caller to go elsewhere, answers new
// requests with shutting_down, ends streams with it, and waits for the running
// requests. When ctx ends first, it closes what is left and gives ctx's error.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	first := !s.draining
	s.draining = true
	conns := make([]*servConn, 0, len(s.conns))
	for sc := range s.conns {
		conns = append(conns, sc)
	}
	for ln := range s.listeners {
		_ = ln.Close()
	}
	if len(conns) == 0 {
		s.closeIdle()
	}
	s.mu.Unlock()
	if first {
		for _, sc := range conns {
			sc.drain()
		}
	}
	select {
	case <-s.idle:
		return nil
	case <-ctx.Done():
	}
	for _, sc := range conns {
		sc.fail(errs.New(errs.ShuttingDown, "the server stopped before the request was done"))
	}
	// The handlers see their contexts end; a handler that doesn't look is not
	// waited for.
	return ctx.Err()
}
