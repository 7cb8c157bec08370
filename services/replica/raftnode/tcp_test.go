package raftnode

import (
	"context"
	"net"

	"nekoq/services/errs"
	"nekoq/services/wire"
)

// tcpPeers is plain TCP for Raft connections, without calls.
type tcpPeers struct{ net.Listener }

func (p tcpPeers) RaftListener() net.Listener { return p.Listener }

func (p tcpPeers) DialRaft(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", addr)
}

func (p tcpPeers) Call(context.Context, string, wire.Method, []byte) ([]byte, error) {
	return nil, errs.New(errs.Unavailable, "this test has no peer calls")
}
