package peer

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"nekoq/services/errs"
	"nekoq/services/peer/internal/handshake"
	"nekoq/services/wire"
)

// link is the one call connection to a peer. The connection is dialled by the
// first caller that needs it; callers that come meanwhile wait for the same dial.
type link struct {
	id    string
	heard atomic.Int64 // Unix nanoseconds of the last answer or knock; 0 for never
	conn  atomic.Pointer[wire.Conn]

	mu      sync.Mutex
	dialing chan struct{} // closed when the dial under way has ended
	fails   int
	retryAt time.Time
	lastErr error
}

// links are all of them, by node id.
type links struct {
	mu sync.RWMutex
	m  map[string]*link
}

func (ls *links) get(id string) *link {
	ls.mu.RLock()
	l := ls.m[id]
	ls.mu.RUnlock()
	if l != nil {
		return l
	}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l = ls.m[id]; l == nil {
		if ls.m == nil {
			ls.m = map[string]*link{}
		}
		l = &link{id: id}
		ls.m[id] = l
	}
	return l
}

// drop forgets the links to nodes that keep does not want, and closes them.
func (ls *links) drop(keep func(id string) bool) {
	ls.mu.Lock()
	var out []*link
	for id, l := range ls.m {
		if !keep(id) {
			delete(ls.m, id)
			out = append(out, l)
		}
	}
	ls.mu.Unlock()
	for _, l := range out {
		if c := l.conn.Swap(nil); c != nil {
			c.Close()
		}
	}
}

// Call sends one peer call. Errors are as those of wire.Conn.Call: unavailable
// when the request certainly was not sent, so also when the node cannot be
// reached or one of the two refuses the other, which the message then explains.
func (s *Service) Call(ctx context.Context, nodeID string, m wire.Method, req []byte) ([]byte, error) {
	l := s.links.get(nodeID)
	start := s.clock.Now()
	var out []byte
	var err error
	for range 2 {
		var c *wire.Conn
		if c, err = s.connect(ctx, l); err != nil {
			break
		}
		out, err = c.Call(ctx, m, req)
		if err == nil || !connEnded(c) || !errs.Has(err, errs.Unavailable) {
			break // once more only if the connection was gone before the request went out
		}
		l.conn.CompareAndSwap(c, nil)
	}
	now := s.clock.Now()
	if err == nil {
		l.heard.Store(now.UnixNano())
	}
	s.metrics.called(err, now.Sub(start))
	return out, err
}

func connEnded(c *wire.Conn) bool {
	select {
	case <-c.Done():
		return true
	default:
		return false
	}
}

// connect gives the live connection, or dials. Within the pause after a failure
// it fails at once with the reason of that failure.
func (s *Service) connect(ctx context.Context, l *link) (*wire.Conn, error) {
	for {
		if c := l.conn.Load(); c != nil && !connEnded(c) && !c.Draining() {
			return c, nil
		}
		l.mu.Lock()
		if l.dialing == nil {
			if wait := l.retryAt.Sub(s.clock.Now()); wait > 0 {
				err := l.lastErr
				l.mu.Unlock()
				return nil, err
			}
			done := make(chan struct{})
			l.dialing = done
			if !s.goes(func() { s.dialLink(l, done) }) {
				l.dialing = nil
				l.mu.Unlock()
				return nil, errs.New(errs.ShuttingDown, "this node is stopping")
			}
		}
		wait := l.dialing
		l.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, errs.From(ctx.Err())
		}
		l.mu.Lock()
		err := l.lastErr
		l.mu.Unlock()
		if err != nil {
			return nil, err
		}
	}
}

func (s *Service) dialLink(l *link, done chan struct{}) {
	ctx, cancel := context.WithTimeout(s.ctx, s.cfg.DialTimeout+s.cfg.HandshakeTimeout)
	defer cancel()
	conn, err := s.openCalls(ctx, l.id)
	if r, ok := errors.AsType[*handshake.Refused](err); ok {
		err = errs.New(errs.Unavailable, "%s", r.Error()).Wrap(r)
	}
	l.mu.Lock()
	l.dialing = nil
	l.lastErr = err
	if err != nil {
		pause := s.cfg.RedialMax
		if l.fails < 16 {
			pause = min(pause, s.cfg.RedialMin<<l.fails)
		}
		l.fails++
		// Jitter, so that two nodes do not keep missing each other.
		l.retryAt = s.clock.Now().Add(pause/2 + rand.N(pause/2+1))
	} else {
		l.fails, l.retryAt = 0, time.Time{}
	}
	l.mu.Unlock()
	if err == nil {
		l.heard.Store(s.clock.Now().UnixNano())
		if old := l.conn.Swap(conn); old != nil {
			old.Close()
		}
		s.watchConn(l, conn)
	} else {
		s.metrics.dialFailed(l.id)
	}
	close(done)
}

// watchConn closes the connection with the service, and lets go of it when it ends.
func (s *Service) watchConn(l *link, c *wire.Conn) {
	if !s.goes(func() {
		select {
		case <-c.Done():
		case <-s.ctx.Done():
		}
		l.conn.CompareAndSwap(c, nil)
		c.Close()
	}) {
		c.Close()
	}
}

func (s *Service) openCalls(ctx context.Context, id string) (*wire.Conn, error) {
	c, _, err := s.dialNode(ctx, id, handshake.Calls)
	if err != nil {
		return nil, err
	}
	conn, err := wire.NewConn(ctx, c, wire.Options{Agent: "nekoq-node " + s.nodeID, Limits: s.wireLimits()})
	if err != nil {
		return nil, errs.New(errs.Unavailable, "node %s cannot be reached", id).Wrap(err)
	}
	return conn, nil
}

// peerKnocked: the peer lives and could dial this node, so do not wait out the
// pause before calling it.
func (s *Service) peerKnocked(h handshake.Hello) {
	l := s.links.get(h.NodeID)
	l.heard.Store(s.clock.Now().UnixNano())
	l.mu.Lock()
	l.fails, l.retryAt = 0, time.Time{}
	l.mu.Unlock()
}

// DialRaft opens a Raft stream to a node, given its id (its address in the Raft
// configuration) or a network address.
func (s *Service) DialRaft(ctx context.Context, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.DialTimeout+s.cfg.HandshakeTimeout)
	defer cancel()
	var c net.Conn
	var h handshake.Hello
	var err error
	if len(s.addresses(addr)) > 0 || checkAddress("address", addr, false) != nil {
		c, h, err = s.dialNode(ctx, addr, handshake.Raft)
	} else {
		c, h, err = s.dialAddress(ctx, addr, "", handshake.Raft)
	}
	if err != nil {
		return nil, err
	}
	if !s.conns.add(c, h) {
		c.Close()
		return nil, errs.New(errs.ShuttingDown, "this node is stopping")
	}
	return &raftConn{Conn: c, set: &s.conns}, nil
}

// addresses are where the node may be, best first: as it said itself last, as
// the member table has it, as cluster.peers has it.
func (s *Service) addresses(id string) []string {
	var out []string
	add := func(a string) {
		if a != "" && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	if h, ok := s.learned.Load(id); ok {
		add(h.(string))
	}
	if m, ok := s.members().Members[id]; ok {
		add(m.Address)
	}
	add(s.static[id])
	return out
}

// dialNode tries the node's addresses in turn.
func (s *Service) dialNode(ctx context.Context, id string, kind handshake.Kind) (net.Conn, handshake.Hello, error) {
	addrs := s.addresses(id)
	if len(addrs) == 0 {
		return nil, handshake.Hello{}, errs.New(errs.Unavailable, "node %s cannot be reached: its address is not known", id)
	}
	var first error
	for _, a := range addrs {
		c, h, err := s.dialAddress(ctx, a, id, kind)
		if err == nil {
			return c, h, nil
		}
		if first == nil {
			first = err
		}
		if r, ok := errors.AsType[*handshake.Refused](err); ok && r.Verdict.Reason != handshake.WrongNode {
			return nil, h, err // it is the right node, and it said no
		}
	}
	return nil, handshake.Hello{}, first
}

// dialAddress dials, secures and shakes hands. id is the node that is meant, ""
// for whoever answers.
func (s *Service) dialAddress(ctx context.Context, addr, id string, kind handshake.Kind) (net.Conn, handshake.Hello, error) {
	fail := func(err error) (net.Conn, handshake.Hello, error) {
		name := id
		if name == "" {
			name = addr
		}
		return nil, handshake.Hello{}, errs.New(errs.Unavailable, "node %s cannot be reached at %s", name, addr).Wrap(err)
	}
	dctx, cancel := context.WithTimeout(ctx, s.cfg.DialTimeout)
	defer cancel()
	c, err := s.dialTCP(dctx, addr)
	if err != nil {
		return fail(err)
	}
	if f := s.deps.Secure.Client; f != nil {
		secured, err := f(dctx, c, id)
		if err != nil {
			c.Close()
			return fail(err)
		}
		c = secured
	}
	h, err := handshake.Dial(ctx, c, kind, s.hello(id), s.judge, s.cfg.HandshakeTimeout)
	if err == nil && id != "" && h.NodeID != id {
		err = errs.New(errs.IdentityRefused, "at %s is node %s, not %s", addr, h.NodeID, id)
	}
	if err == nil {
		err = s.met(kind, h)
	}
	if err == nil {
		return c, h, nil
	}
	c.Close()
	if r, ok := errors.AsType[*handshake.Refused](err); ok {
		s.noteRefused(r)
		return nil, h, err
	}
	return fail(err)
}

func (s *Service) dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	if s.deps.Dial != nil {
		return s.deps.Dial(ctx, addr)
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", addr)
}
