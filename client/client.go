// Package client is the Go SDK of NekoQ: one Client over the native door of one
// or several servers.
//
// It owns the choice of a live endpoint, the default deadline, retries, and the
// client session that makes a retried write take effect once. A Client and
// everything it gives out is safe for concurrent use, unless its doc says
// otherwise. Programs import it; nothing of the server does. It depends only on
// services/wire, services/errs, services/command (the request id) and the api
// packages of the services.
package client

import (
	"context"
	"net"
	"time"

	"nekoq/services/wire"
)

// Config says where the servers are and how patient to be. Only Endpoints is
// needed; zero values take the defaults.
type Config struct {
	// Endpoints are host:port of native doors. Any node answers any request.
	Endpoints []string
	// Timeout is the deadline of a request whose context has none. Default 5 s.
	Timeout time.Duration
	// Dialer replaces TCP, for TLS by other means or a server in this process.
	Dialer func(ctx context.Context, endpoint string) (net.Conn, error)
}

// Client talks to a NekoQ server or cluster.
type Client struct{}

// New makes a client. It dials lazily: no server needs to be up yet.
func New(cfg Config) (*Client, error) { panic("being built") }

// Close ends the client; calls under way fail with canceled.
func (c *Client) Close() error { panic("being built") }

// read sends a request that changes nothing: retried on another endpoint
// until the deadline.
func (c *Client) read(ctx context.Context, m wire.Method, req []byte) ([]byte, error) {
	panic("being built")
}

// write sends a request that changes state, under a request id, so that a
// retry takes effect once.
func (c *Client) write(ctx context.Context, m wire.Method, req []byte) ([]byte, error) {
	panic("being built")
}

// callJSON is a management call: in and out are JSON; out may be nil.
func (c *Client) callJSON(ctx context.Context, m wire.Method, in, out any, write bool) error {
	panic("being built")
}

// stream opens a stream that survives the loss of a connection or server. open
// builds the request, first now and again inside recv whenever the stream has
// to be opened anew, so it can ask for what comes after the last message
// received. ctx bounds the whole stream's life.
func (c *Client) stream(ctx context.Context, m wire.Method, open func() ([]byte, error)) (*stream, error) {
	panic("being built")
}

// stream is read by one goroutine.
type stream struct{}

// recv gives the next message, valid until the next recv, io.EOF at the orderly
// end, and an *errs.Error that a new attempt would not cure.
func (s *stream) recv(ctx context.Context) ([]byte, error) { panic("being built") }

// close may be called at any time, from any goroutine.
func (s *stream) close() { panic("being built") }
