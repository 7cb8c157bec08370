package cluster

import (
	"context"
	"io"
	"net"
	"sync"
	"time"

	"nekoq/services/errs"
	"nekoq/services/replica/raftnode"
	"nekoq/services/testkit/faultproxy"
	"nekoq/services/wire"
)

// The first byte of a connection says what it is for.
const (
	forRaft byte = 'R'
	forCall byte = 'C'
)

// network is all links between the nodes, over TCP or in memory.
type network struct {
	memory bool

	mu    sync.Mutex
	ports map[string]*port // of the nodes that run
	links map[[2]string]*link
}

type link struct {
	*faultproxy.Link
	ln net.Listener // of the proxy; nil in memory
}

func newNetwork(memory bool) *network {
	return &network{memory: memory, ports: map[string]*port{}, links: map[[2]string]*link{}}
}

// link gives the link from one node to another.
func (n *network) link(from, to string) *link {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l := n.links[[2]string{from, to}]; l != nil {
		return l
	}
	l := &link{Link: faultproxy.New(func(ctx context.Context) (net.Conn, error) { return n.reach(ctx, to) })}
	if !n.memory {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			panic(err) // a test machine without loopback
		}
		l.ln = ln
		go l.Serve(ln)
	}
	n.links[[2]string{from, to}] = l
	return l
}

// reach connects to a node itself.
func (n *network) reach(ctx context.Context, to string) (net.Conn, error) {
	n.mu.Lock()
	p := n.ports[to]
	n.mu.Unlock()
	if p == nil {
		return nil, errs.New(errs.Unavailable, "node %s is down", to)
	}
	if !n.memory {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", p.ln.Addr().String())
	}
	client, server := wire.Pipe()
	go p.admit(server)
	return client, nil
}

// dial connects from a node to another, through their link.
func (n *network) dial(ctx context.Context, from, to string, use byte) (net.Conn, error) {
	l := n.link(from, to)
	var c net.Conn
	if n.memory {
		near, inner := wire.Pipe()
		if err := l.Carry(ctx, inner); err != nil {
			_ = near.Close()
			return nil, err
		}
		c = near
	} else {
		var d net.Dialer
		var err error
		if c, err = d.DialContext(ctx, "tcp", l.ln.Addr().String()); err != nil {
			return nil, err
		}
	}
	if _, err := c.Write([]byte{use}); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

func (n *network) close() {
	n.mu.Lock()
	links := n.links
	n.links = map[[2]string]*link{}
	n.mu.Unlock()
	for _, l := range links {
		if l.ln != nil {
			_ = l.ln.Close()
		}
		l.Close()
	}
}

// port is one node's side of the network: the raftnode.Peers of tests.
type port struct {
	id     string
	net    *network
	ln     net.Listener // nil in memory
	server *wire.Server
	raft   *raftListener

	mu      sync.Mutex
	closed  bool
	calls   map[string]*wire.Conn
	dialing map[string]chan struct{}
	early   map[net.Conn]struct{} // accepted, use not known yet
	wg      sync.WaitGroup
}

var _ raftnode.Peers = (*port)(nil)

func newPort(n *network, id string) (*port, error) {
	p := &port{id: id, net: n, calls: map[string]*wire.Conn{}, dialing: map[string]chan struct{}{}, early: map[net.Conn]struct{}{}}
	p.raft = &raftListener{conns: make(chan net.Conn), done: make(chan struct{})}
	if !n.memory {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		p.ln = ln
	}
	return p, nil
}

// serve opens the port for the calls of mux.
func (p *port) serve(mux *wire.Mux) {
	p.server = wire.NewServer(mux, wire.ServerOptions{})
	p.net.mu.Lock()
	p.net.ports[p.id] = p
	p.net.mu.Unlock()
	if p.ln == nil {
		return
	}
	p.wg.Go(func() {
		for {
			c, err := p.ln.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.admit(c) })
		}
	})
}

func (p *port) admit(c net.Conn) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		_ = c.Close()
		return
	}
	p.early[c] = struct{}{}
	p.mu.Unlock()
	var use [1]byte
	_, err := io.ReadFull(c, use[:])
	p.mu.Lock()
	delete(p.early, c)
	p.mu.Unlock()
	switch {
	case err != nil:
		_ = c.Close()
	case use[0] == forRaft:
		p.raft.offer(c)
	default:
		p.server.ServeConn(c)
	}
}

func (p *port) RaftListener() net.Listener { return p.raft }

func (p *port) DialRaft(ctx context.Context, addr string) (net.Conn, error) {
	return p.net.dial(ctx, p.id, addr, forRaft)
}

func (p *port) Call(ctx context.Context, id string, m wire.Method, req []byte) ([]byte, error) {
	c, err := p.conn(ctx, id)
	if err != nil {
		return nil, err
	}
	return c.Call(ctx, m, req)
}

// conn gives the one connection for calls to a node; one caller at a time dials.
func (p *port) conn(ctx context.Context, id string) (*wire.Conn, error) {
	for {
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			return nil, errs.New(errs.Unavailable, "node %s is stopping", p.id)
		}
		if c := p.calls[id]; c != nil {
			select {
			case <-c.Done():
				delete(p.calls, id)
			default:
				p.mu.Unlock()
				return c, nil
			}
		}
		wait := p.dialing[id]
		if wait == nil {
			wait = make(chan struct{})
			p.dialing[id] = wait
			p.mu.Unlock()
			return p.connect(ctx, id, wait)
		}
		p.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, errs.From(ctx.Err())
		}
	}
}

func (p *port) connect(ctx context.Context, id string, wait chan struct{}) (*wire.Conn, error) {
	c, err := p.hello(ctx, id)
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.dialing, id)
	close(wait)
	if err != nil {
		return nil, errs.New(errs.Unavailable, "node %s cannot be reached", id).Wrap(err)
	}
	if p.closed {
		_ = c.Close()
		return nil, errs.New(errs.Unavailable, "node %s is stopping", p.id)
	}
	p.calls[id] = c
	return c, nil
}

func (p *port) hello(ctx context.Context, id string) (*wire.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	nc, err := p.net.dial(ctx, p.id, id, forCall)
	if err != nil {
		return nil, err
	}
	return wire.NewConn(ctx, nc, wire.Options{})
}

// close ends the node's connections at once.
func (p *port) close() {
	p.net.mu.Lock()
	if p.net.ports[p.id] == p {
		delete(p.net.ports, p.id)
	}
	p.net.mu.Unlock()
	p.mu.Lock()
	p.closed = true
	calls, early := p.calls, p.early
	p.calls, p.early = map[string]*wire.Conn{}, map[net.Conn]struct{}{}
	p.mu.Unlock()
	if p.ln != nil {
		_ = p.ln.Close()
	}
	_ = p.raft.Close()
	for c := range early {
		_ = c.Close()
	}
	for _, c := range calls {
		_ = c.Close()
	}
	if p.server != nil {
		now, cancel := context.WithCancel(context.Background())
		cancel()
		_ = p.server.Shutdown(now)
	}
	p.wg.Wait()
}

// raftListener hands over the connections that are for Raft.
type raftListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *raftListener) offer(c net.Conn) {
	select {
	case l.conns <- c:
	case <-l.done:
		_ = c.Close()
	}
}

func (l *raftListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *raftListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

type raftAddr struct{}

func (raftAddr) Network() string { return "test" }
func (raftAddr) String() string  { return "raft" }

func (l *raftListener) Addr() net.Addr { return raftAddr{} }
