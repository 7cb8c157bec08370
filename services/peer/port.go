package peer

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"nekoq/services/auth"
	"nekoq/services/errs"
	"nekoq/services/peer/internal/handshake"
	"nekoq/services/wire"
)

// raftListener hands the accepted Raft streams to the Raft transport.
type raftListener struct {
	id     string
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func newRaftListener(id string) *raftListener {
	return &raftListener{id: id, conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *raftListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *raftListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr is the node's id, which is also its address in the Raft configuration.
func (l *raftListener) Addr() net.Addr { return nodeAddr(l.id) }

// hand waits until the transport takes the connection.
func (l *raftListener) hand(ctx context.Context, c net.Conn) bool {
	select {
	case l.conns <- c:
		return true
	case <-l.closed:
	case <-ctx.Done():
	}
	return false
}

type nodeAddr string

func (nodeAddr) Network() string  { return "nekoq" }
func (a nodeAddr) String() string { return string(a) }

// conns is the set of open connections, so that those of a removed node can be
// cut and all of them closed at the end.
type conns struct {
	mu     sync.Mutex
	all    map[net.Conn]handshake.Hello
	closed bool
}

// add returns false when the set is closed.
func (s *conns) add(c net.Conn, h handshake.Hello) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if s.all == nil {
		s.all = map[net.Conn]handshake.Hello{}
	}
	s.all[c] = h
	return true
}

func (s *conns) remove(c net.Conn) {
	s.mu.Lock()
	delete(s.all, c)
	s.mu.Unlock()
}

// cut closes the connections to peers of which bad says so.
func (s *conns) cut(bad func(handshake.Hello) bool) {
	s.mu.Lock()
	var out []net.Conn
	for c, h := range s.all {
		if bad(h) {
			out = append(out, c)
		}
	}
	s.mu.Unlock()
	for _, c := range out {
		c.Close()
	}
}

func (s *conns) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cut(func(handshake.Hello) bool { return true })
}

// raftConn leaves the set when it is closed.
type raftConn struct {
	net.Conn
	set *conns
}

func (c *raftConn) Close() error {
	c.set.remove(c.Conn)
	return c.Conn.Close()
}

func (s *Service) listen() error {
	if s.ln != nil {
		return nil
	}
	ln, err := net.Listen("tcp", s.cfg.Listen)
	if err != nil {
		why := "cannot listen"
		if errors.Is(err, syscall.EADDRINUSE) {
			why = "another process listens there already"
		}
		return errs.New(errs.Unavailable, "cluster.listen = %q: %s; set cluster.listen to a free address", s.cfg.Listen, why).Wrap(err)
	}
	s.ln = ln
	return nil
}

// acceptLoop runs until the listener is closed.
func (s *Service) acceptLoop() {
	slots := make(chan struct{}, s.cfg.MaxConnections)
	for {
		c, err := s.ln.Accept()
		if err != nil {
			if s.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			s.log.Warn("accepting a node-to-node connection failed", "error", err)
			if !s.pause(s.ctx, 50*time.Millisecond) { // out of file descriptors, most likely
				return
			}
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			s.metrics.refused("busy")
			s.log.Warn("too many node-to-node connections; one was closed",
				"limit", s.cfg.MaxConnections, "setting", "cluster.max_peer_connections", "from", c.RemoteAddr().String())
			c.Close()
			continue
		}
		s.goes(func() {
			defer func() { <-slots }()
			s.serve(c)
		})
	}
}

// serve judges one accepted connection and hands it to whom it is for.
func (s *Service) serve(c net.Conn) {
	raw := c
	if f := s.deps.Secure.Server; f != nil {
		secured, err := f(s.ctx, c)
		if err != nil {
			s.log.Warn("a node-to-node connection is not secure", "from", raw.RemoteAddr().String(), "error", err)
			c.Close()
			return
		}
		c = secured
	}
	// Close the connection when the service stops in the middle of the handshake.
	kind, h, err := handshake.Accept(s.ctx, c, func() handshake.Hello { return s.hello("") }, s.judge, s.cfg.HandshakeTimeout)
	if err == nil {
		err = s.met(kind, h)
	}
	if err != nil {
		s.refusedAccept(c, kind, h, err)
		c.Close()
		return
	}
	if !s.conns.add(c, h) {
		c.Close()
		return
	}
	switch kind {
	case handshake.Raft:
		if !s.raftLn.hand(s.ctx, &raftConn{Conn: c, set: &s.conns}) {
			s.conns.remove(c)
			c.Close()
		}
	case handshake.Calls:
		s.peerKnocked(h)
		s.calls.ServeConn(c)
		s.conns.remove(c)
	default:
		s.guests.ServeConn(c)
		s.conns.remove(c)
	}
}

// refusedAccept logs why an accepted connection was given up. What the other
// side refused concerns this node; what this node refused is the other's matter,
// but people look here too.
func (s *Service) refusedAccept(c net.Conn, kind handshake.Kind, h handshake.Hello, err error) {
	if r, ok := errors.AsType[*handshake.Refused](err); ok {
		s.noteRefused(r)
		return
	}
	if s.ctx.Err() != nil {
		return
	}
	s.log.Debug("a node-to-node connection ended in the handshake",
		"from", c.RemoteAddr().String(), "kind", kind.String(), "node", h.NodeID, "error", err)
}

// wireLimits: a connection to a node that is gone without a word must not
// outlive the verdict that it is dead.
func (s *Service) wireLimits() wire.Limits {
	return wire.Limits{PingInterval: s.cfg.PingInterval, PingTimeout: s.cfg.DeadAfter, Handshake: s.cfg.HandshakeTimeout}
}

// newServers makes the two call servers of the port: for members, and for nodes
// that want to become one.
func (s *Service) newServers() {
	opts := wire.ServerOptions{
		Door:   "peer",
		Logger: s.log,
		Limits: s.wireLimits(),
		Authenticate: func(context.Context, net.Conn, []byte) (auth.Principal, error) {
			return auth.Principal{Name: "peer", Door: "peer"}, nil
		},
	}
	s.calls = wire.NewServer(s.mux, opts)
	s.guests = wire.NewServer(s.guestMux, opts)
}
