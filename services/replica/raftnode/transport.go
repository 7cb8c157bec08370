package raftnode

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// transport is raft's network transport with some changes; those beside the ones here
// are in alone.go (messages to oneself), ghosts.go, hints.go and resend.go.
//
// Heartbeats take the normal path: raft's fast path handles them on the
// connection's goroutine, where one with a newer term races with the main loop
// (hashicorp/raft issue 695) and two nodes may commit different entries. The
// embedding keeps RequestPreVote visible, without which raft turns pre-vote off.
// Messages are bounded by bytes, where raft counts entries only.
//
// And replication is not pipelined: one message to a follower is under way, and the
// next carries everything that came meanwhile. raft's pipeline can hang for the
// rest of a term (and hang the shutdown): its sender waits for the decoder, which
// waits for a reader that left when a follower refused an entry. Since entries are
// batches already, no throughput is lost.
type transport struct {
	*raft.NetworkTransport
	maxBytes int64
	own      chan raft.RPC // nil, or where all messages to raft go through
	sender   atomic.Pointer[sender]
	backs    sync.Map               // server id to the term in which raft last went back for it (see goBack)
	again    func(term uint64) bool // waits before a message is repeated, and tells whether to; nil for never
}

var (
	_ raft.Transport   = (*transport)(nil)
	_ raft.WithPreVote = (*transport)(nil)
	_ raft.WithClose   = (*transport)(nil)
)

func newTransport(peers Peers, addr string, cfg Config, log hclog.Logger) *transport {
	return &transport{
		NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream:                  &streamLayer{ln: peers.RaftListener(), peers: peers, addr: raftAddr(addr), open: map[net.Conn]struct{}{}},
			MaxPool:                 4,
			MaxRPCsInFlight:         1, // no pipelining
			Timeout:                 cfg.TransportTimeout,
			Logger:                  log,
			MsgpackUseNewTimeFormat: true,
		}),
		maxBytes: cfg.MaxAppendBytes,
	}
}

// SetHeartbeatHandler does nothing; see the type's comment.
func (t *transport) SetHeartbeatHandler(func(raft.RPC)) {}

var errInstalling = errors.New("a state of another term is being taken over")

// answerHeartbeats answers for raft while its main loop takes over a state, which
// can last: a leader that needs this node's vote would step down meanwhile. The
// loop stands still, so the term cannot change, and a heartbeat of the same term is
// of the one leader of that term; all that the answer says is that this node lives.
func (t *transport) answerHeartbeats(term func() uint64) {
	t.NetworkTransport.SetHeartbeatHandler(func(rpc raft.RPC) {
		req, ok := rpc.Command.(*raft.AppendEntriesRequest)
		if at := term(); ok && req.Term == at {
			rpc.Respond(&raft.AppendEntriesResponse{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}, Term: at, Success: true}, nil)
			return
		}
		rpc.Respond(&raft.AppendEntriesResponse{}, errInstalling)
	})
}

// passHeartbeats gives the heartbeats to raft again.
func (t *transport) passHeartbeats() { t.NetworkTransport.SetHeartbeatHandler(nil) }

// AppendEntries bounds the message. raft reads from the request afterwards how
// far it came.
func (t *transport) AppendEntries(id raft.ServerID, target raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if ghosts(req) {
		return errGhosts
	}
	t.bound(req)
	t.remember(req)
	return t.store(id, target, req, resp)
}

func (t *transport) bound(req *raft.AppendEntriesRequest) {
	var bytes int64
	for i, e := range req.Entries {
		bytes += int64(len(e.Data))
		if bytes > t.maxBytes && i > 0 {
			req.Entries = req.Entries[:i]
			return
		}
	}
}

// raftAddr is an address by the name under which other nodes know it.
type raftAddr string

func (a raftAddr) Network() string { return "tcp" }
func (a raftAddr) String() string  { return string(a) }

// streamLayer hands raft its connections and remembers them: raft's transport
// leaves accepted ones open when it closes.
type streamLayer struct {
	ln    net.Listener
	peers Peers
	addr  raftAddr

	mu     sync.Mutex
	closed bool
	open   map[net.Conn]struct{}
}

func (s *streamLayer) Addr() net.Addr { return s.addr }

func (s *streamLayer) Accept() (net.Conn, error) {
	c, err := s.ln.Accept()
	if err != nil {
		return nil, err
	}
	return s.keep(c)
}

func (s *streamLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, err := s.peers.DialRaft(ctx, string(address))
	if err != nil {
		return nil, err
	}
	return s.keep(c)
}

func (s *streamLayer) keep(c net.Conn) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = c.Close()
		return nil, net.ErrClosed
	}
	k := &keptConn{Conn: c, layer: s}
	s.open[k] = struct{}{}
	return k, nil
}

func (s *streamLayer) Close() error {
	s.mu.Lock()
	s.closed = true
	conns := make([]net.Conn, 0, len(s.open))
	for c := range s.open {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	err := s.ln.Close()
	for _, c := range conns {
		_ = c.Close()
	}
	return err
}

type keptConn struct {
	net.Conn
	layer *streamLayer
}

func (c *keptConn) Close() error {
	c.layer.mu.Lock()
	delete(c.layer.open, c)
	c.layer.mu.Unlock()
	return c.Conn.Close()
}
