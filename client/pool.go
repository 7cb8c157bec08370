package client

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"nekoq/services/errs"
	"nekoq/services/wire"
)

// maxDiscovered bounds the endpoints that servers may add.
const maxDiscovered = 64

// pool is the endpoints of a client and which of them is in use.
type pool struct {
	c         *Client
	discovery bool
	eps       atomic.Pointer[[]*endpoint]
	current   atomic.Uint32 // the preferred endpoint; with Spread, the turn
	mu        sync.Mutex    // guards changes of eps
	lastInfo  atomic.Pointer[wire.ServerInfo]
	used      atomic.Bool // a request came since follow last looked
	following sync.Once
}

func newPool(c *Client, addrs []string, discovery bool) *pool {
	p := &pool{c: c, discovery: discovery}
	var eps []*endpoint
	for _, a := range addrs {
		if !slices.ContainsFunc(eps, func(e *endpoint) bool { return e.addr == a }) {
			eps = append(eps, newEndpoint(p, a))
		}
	}
	p.eps.Store(&eps)
	p.current.Store(uint32(rand.IntN(len(eps))))
	return p
}

// pick gives the endpoint for the next attempt: the preferred one, or the next
// that this request has not tried and that is not in its back-off; nil for none.
func (p *pool) pick(f *failures) *endpoint {
	if !p.used.Load() {
		p.used.Store(true)
	}
	eps := *p.eps.Load()
	start := int(p.current.Load())
	if p.c.cfg.Spread {
		start = int(p.current.Add(1))
	}
	for i := range eps {
		ep := eps[(start+i)%len(eps)]
		if ep.ready() && !f.tried(ep) {
			if i > 0 && !p.c.cfg.Spread {
				p.current.Store(uint32((start + i) % len(eps)))
			}
			return ep
		}
	}
	return nil
}

// untried tells whether pick would find another endpoint.
func (p *pool) untried(f *failures) bool {
	for _, ep := range *p.eps.Load() {
		if ep.ready() && !f.tried(ep) {
			return true
		}
	}
	return false
}

// untilReady is how long the first endpoint's back-off still lasts.
func (p *pool) untilReady() time.Duration {
	best := time.Duration(-1)
	for _, ep := range *p.eps.Load() {
		if d := max(time.Until(time.Unix(0, ep.notBefore.Load())), 0); best < 0 || d < best {
			best = d
		}
	}
	return max(best, 0)
}

// addDown adds the endpoints that cannot be reached to f, but those it has.
func (p *pool) addDown(f *failures) {
	for _, ep := range *p.eps.Load() {
		if err := ep.lastErr.Load(); err != nil && !f.has(ep) {
			f.note(ep, *err)
		}
	}
}

// learn adds the endpoints that a server named.
func (p *pool) learn(info wire.ServerInfo) {
	p.lastInfo.Store(&info)
	if !p.discovery {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	eps := slices.Clone(*p.eps.Load())
	for _, a := range info.Endpoints {
		known := slices.ContainsFunc(eps, func(e *endpoint) bool { return e.addr == a })
		if _, _, err := net.SplitHostPort(a); !known && err == nil && len(eps) < maxDiscovered {
			eps = append(eps, newEndpoint(p, a))
		}
	}
	p.eps.Store(&eps)
}

// info gives what the server connected to last said of itself.
func (p *pool) info() wire.ServerInfo {
	if i := p.lastInfo.Load(); i != nil {
		return *i
	}
	return wire.ServerInfo{}
}

func (p *pool) close() {
	for _, ep := range *p.eps.Load() {
		for _, s := range ep.slots {
			s.close()
		}
	}
}

// endpoint is one server's address with its connections and its health.
type endpoint struct {
	p         *pool
	addr      string
	slots     []*slot
	turn      atomic.Uint32
	notBefore atomic.Int64          // Unix ns: in back-off until then, 0 for well
	fails     atomic.Int32          // dials failed in a row
	lastErr   atomic.Pointer[error] // of the last dial; nil when it went well
}

func newEndpoint(p *pool, addr string) *endpoint {
	ep := &endpoint{p: p, addr: addr}
	for range p.c.cfg.ConnsPerEndpoint {
		ep.slots = append(ep.slots, &slot{ep: ep})
	}
	return ep
}

func (ep *endpoint) ready() bool {
	at := ep.notBefore.Load()
	return at == 0 || time.Now().UnixNano() >= at
}

// get gives a connection, dialing if there is none.
func (ep *endpoint) get(ctx context.Context, deadline time.Time) (*slot, *wire.Conn, error) {
	s := ep.slots[0]
	if len(ep.slots) > 1 {
		s = ep.slots[int(ep.turn.Add(1))%len(ep.slots)]
	}
	if c := s.conn.Load(); c != nil {
		return s, c, nil
	}
	c, err := s.dialed(ctx, deadline)
	return s, c, err
}

// failed puts the endpoint into back-off.
func (ep *endpoint) failed(err error) {
	cfg := &ep.p.c.cfg
	ep.lastErr.Store(&err)
	n := min(ep.fails.Add(1), 16)
	pause := min(cfg.BackoffMin<<(n-1), cfg.BackoffMax)
	ep.notBefore.Store(time.Now().Add(jitter(pause)).UnixNano())
	if n == 1 {
		cfg.Logger.Warn("no connection to a server", "endpoint", ep.addr, "error", err)
	}
}

func (ep *endpoint) works(info wire.ServerInfo) {
	ep.notBefore.Store(0)
	ep.lastErr.Store(nil)
	if ep.fails.Swap(0) > 0 {
		ep.p.c.cfg.Logger.Info("the server answers again", "endpoint", ep.addr)
	}
	ep.p.learn(info)
	if info.ClusterID != "" && ep.p.c.cfg.followed() {
		ep.p.following.Do(func() { ep.p.c.spawn(ep.p.follow) })
	}
}

// slot holds one connection. Those who find it empty share one dial.
type slot struct {
	ep   *endpoint
	conn atomic.Pointer[wire.Conn]

	mu      sync.Mutex
	closed  bool
	dialing *dial
}

type dial struct {
	done chan struct{}
	conn *wire.Conn
	err  error
}

// dialed waits for a connection. The dial goes on if this caller gives up.
func (s *slot) dialed(ctx context.Context, deadline time.Time) (*wire.Conn, error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, errClosed
	}
	if c := s.conn.Load(); c != nil {
		s.mu.Unlock()
		return c, nil
	}
	d := s.dialing
	if d == nil {
		d = &dial{done: make(chan struct{})}
		if !s.ep.p.c.spawn(func() { s.dial(d) }) {
			s.mu.Unlock()
			return nil, errClosed
		}
		s.dialing = d
	}
	s.mu.Unlock()
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-d.done:
		return d.conn, d.err
	case <-ctx.Done():
		return nil, errs.From(ctx.Err())
	case <-timer.C:
		if last := s.ep.lastErr.Load(); last != nil {
			return nil, *last // says more than that time is up
		}
		return nil, errs.New(errs.Unavailable, "%s: no connection before the deadline", s.ep.addr)
	}
}

func (s *slot) dial(d *dial) {
	c := s.ep.p.c
	ctx, cancel := context.WithTimeout(c.ctx, c.cfg.DialTimeout)
	defer cancel()
	d.conn, d.err = s.ep.connect(ctx)
	if d.err == nil {
		s.ep.works(d.conn.ServerInfo())
	} else if c.ctx.Err() == nil {
		s.ep.failed(d.err)
	}
	s.mu.Lock()
	s.dialing = nil
	if s.closed && d.conn != nil {
		_ = d.conn.Close()
		d.conn, d.err = nil, errClosed
	}
	if d.conn != nil {
		s.conn.Store(d.conn)
	}
	s.mu.Unlock()
	close(d.done)
}

// connect makes one connection and says hello.
func (ep *endpoint) connect(ctx context.Context) (*wire.Conn, error) {
	cfg := &ep.p.c.cfg
	nc, err := cfg.Dialer(ctx, ep.addr)
	if err != nil {
		return nil, ep.unreachable(err)
	}
	if cfg.TLS != nil {
		conf := cfg.TLS.Clone()
		if conf.ServerName == "" {
			conf.ServerName, _, _ = net.SplitHostPort(ep.addr)
		}
		tc := tls.Client(nc, conf)
		if err := tc.HandshakeContext(ctx); err != nil {
			_ = nc.Close()
			return nil, ep.unreachable(err)
		}
		nc = tc
	}
	opts := wire.Options{Token: []byte(cfg.Token), Agent: cfg.Name, Limits: wire.Limits{MaxFrameBytes: cfg.MaxFrameBytes}}
	conn, err := wire.NewConn(ctx, nc, opts)
	switch code := errs.CodeOf(err); {
	case err == nil:
		return conn, nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded):
		// Taken for example by the HTTP door, which waits for a request; or frozen.
		return nil, errs.New(errs.Unavailable, "%s: connected, but nothing answered as a native door (native.listen) within %s", ep.addr, cfg.DialTimeout)
	case ctx.Err() != nil:
		return nil, ep.unreachable(ctx.Err())
	case code == errs.Unauthenticated || code == errs.Forbidden || code == errs.Unavailable || code == errs.ShuttingDown:
		return nil, err
	}
	// Full, of another version, or no NekoQ at all: another one may do.
	return nil, errs.New(errs.Unavailable, "%s: %s", ep.addr, errs.From(err).Message).Wrap(err)
}

// unreachable says why in few words.
func (ep *endpoint) unreachable(err error) error {
	reason := err.Error()
	switch op, isOp := errors.AsType[*net.OpError](err); {
	case errors.Is(err, context.DeadlineExceeded):
		reason = "no connection within " + ep.p.c.cfg.DialTimeout.String()
	case refused(err):
		reason = "connection refused"
	case isOp && op.Err != nil:
		reason = op.Err.Error()
	}
	// The context that ended is the dial's own, not the caller's: its error is
	// told and not wrapped.
	e := errs.New(errs.Unavailable, "%s: %s", ep.addr, reason)
	if refused(err) {
		e = e.Wrap(err)
	}
	return e
}

func refused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

// check drops conn from the slot if it takes no more requests.
func (s *slot) check(conn *wire.Conn) {
	if conn.Draining() || conn.Err() != nil {
		s.conn.CompareAndSwap(conn, nil)
	}
}

func (s *slot) close() {
	s.mu.Lock()
	s.closed = true
	c := s.conn.Swap(nil)
	s.mu.Unlock()
	if c != nil {
		_ = c.Close()
	}
}
