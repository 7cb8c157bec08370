// Package client is the Go SDK of NekoQ: one Client over the native door of one
// or several servers.
//
// It owns the choice of a live endpoint, the default deadline, retries, and the
// client session that makes a retried write take effect once. A Client and
// everything it gives out is safe for concurrent use, unless its doc says
// otherwise. Programs import it; nothing of the server does. It depends only on
// services/wire, services/errs, services/command (the request id) and the api
// packages of the services.
//
// Every error is an *errs.Error. Three codes tell what became of a write that
// got no answer: unavailable and no_leader mean that nothing was done, and
// outcome_unknown that it may have been. After canceled, which is the caller's
// own doing, it may have been too.
package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"nekoq/services/errs"
	"nekoq/services/wire"
)

// Config says where the servers are and how patient to be. Only Endpoints is
// needed; zero values take the defaults.
type Config struct {
	// Endpoints are host:port of native doors. Any node answers any request.
	Endpoints []string
	// Timeout is the deadline of a request whose context has none. Default 5 s.
	Timeout time.Duration
	// Dialer replaces TCP, for a tunnel or a server in this process.
	Dialer func(ctx context.Context, endpoint string) (net.Conn, error)
	// TLS, when set, secures the connections.
	TLS *tls.Config
	// Token says who this is.
	Token string
	// Name names the program in the server's log.
	Name string
	// ConnsPerEndpoint is how many connections share the requests to one
	// server. Default 1, which measures best: more requests share each system
	// call.
	ConnsPerEndpoint int
	// Spread sends requests to all live endpoints in turn. By default a client
	// keeps to one: the leader of a cluster, which it follows.
	Spread bool
	// AnyNode keeps to one node picked at random while it is well, wherever the
	// leader is: many clients that read much then share the nodes.
	AnyNode bool
	// FailFast gives up when every endpoint has failed once, instead of
	// trying on until the deadline; right for a command line.
	FailFast bool
	// NoDiscovery keeps to Endpoints. By default the other nodes that a server
	// names are tried too, after those of Endpoints.
	NoDiscovery bool
	// DialTimeout bounds one attempt to connect. Default 2 s.
	DialTimeout time.Duration
	// BackoffMin and BackoffMax bound the pause before a failed endpoint is
	// tried again, which doubles with each failure. Defaults 50 ms and 2 s.
	BackoffMin, BackoffMax time.Duration
	// MaxFrameBytes bounds one request or answer. Default 16 MiB.
	MaxFrameBytes int64
	// Logger hears of endpoints that fail and return. Default: silence.
	Logger *slog.Logger
}

func (c *Config) setDefaults() {
	def(&c.Timeout, 5*time.Second)
	def(&c.ConnsPerEndpoint, 1)
	def(&c.DialTimeout, 2*time.Second)
	def(&c.BackoffMin, 50*time.Millisecond)
	def(&c.BackoffMax, 2*time.Second)
	def(&c.MaxFrameBytes, wire.DefaultLimits().MaxFrameBytes)
	if c.Name == "" {
		c.Name = "go-client"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Dialer == nil {
		c.Dialer = func(ctx context.Context, endpoint string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", endpoint)
		}
	}
}

func def[T int | int64 | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

func (c *Config) validate() error {
	switch {
	case len(c.Endpoints) == 0:
		return errs.Invalid("Endpoints", "", "at least one host:port")
	case c.Timeout < 0:
		return errs.Invalid("Timeout", c.Timeout, "a positive duration")
	case c.ConnsPerEndpoint < 0 || c.ConnsPerEndpoint > 64:
		return errs.Invalid("ConnsPerEndpoint", c.ConnsPerEndpoint, "1 to 64")
	case c.DialTimeout < 0:
		return errs.Invalid("DialTimeout", c.DialTimeout, "a positive duration")
	case c.BackoffMin < 0:
		return errs.Invalid("BackoffMin", c.BackoffMin, "a positive duration")
	case c.BackoffMax < 0:
		return errs.Invalid("BackoffMax", c.BackoffMax, "a positive duration")
	}
	for _, e := range c.Endpoints {
		if _, _, err := net.SplitHostPort(e); err != nil && c.Dialer == nil {
			return errs.Invalid("Endpoints", e, "host:port")
		}
	}
	return nil
}

// Client talks to a NekoQ server or cluster.
type Client struct {
	cfg  Config
	pool *pool
	sess sessions

	kinds sync.Map // of generators, by name; see Numgen

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	closed atomic.Bool
	mu     sync.Mutex     // orders spawn and Close
	wg     sync.WaitGroup // dials and session openings under way
}

// New makes a client. It dials lazily: no server needs to be up yet.
func New(cfg Config) (*Client, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	discovery := cfg.Dialer == nil && !cfg.NoDiscovery
	cfg.setDefaults()
	c := &Client{cfg: cfg}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.pool = newPool(c, cfg.Endpoints, discovery)
	return c, nil
}

// Close ends the client; calls under way fail with canceled.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed.Store(true)
	c.mu.Unlock()
	c.cancel()
	c.pool.close()
	c.wg.Wait()
	return nil
}

// spawn runs f, which Close waits for; false if the client is closed.
func (c *Client) spawn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Load() {
		return false
	}
	c.wg.Go(f)
	return true
}

var errClosed = errs.New(errs.Canceled, "the client is closed")

// Ping asks a server whether it answers.
func (c *Client) Ping(ctx context.Context) error {
	_, err := c.read(ctx, wire.MethodPing, nil)
	return err
}

// Server gives what the server in use says of itself, after connecting if need
// be.
func (c *Client) Server(ctx context.Context) (wire.ServerInfo, error) {
	if err := c.Ping(ctx); err != nil {
		return wire.ServerInfo{}, err
	}
	return c.pool.info(), nil
}

// read sends a request that changes nothing: retried on another endpoint
// until the deadline.
func (c *Client) read(ctx context.Context, m wire.Method, req []byte) ([]byte, error) {
	t := trial{c: c, r: wire.Request{Method: m, Payload: req}}
	return t.run(ctx)
}

// write sends a request that changes state, under a request id, so that a
// retry takes effect once.
func (c *Client) write(ctx context.Context, m wire.Method, req []byte) ([]byte, error) {
	t := trial{c: c, r: wire.Request{Method: m, Payload: req}, write: true}
	t.bound(ctx)
	for {
		s, id, err := c.sess.take(ctx, c, t.r.Deadline)
		if err != nil {
			return nil, err
		}
		t.r.RequestID, t.sess = id, s
		out, err := t.run(ctx)
		s.finish(id.Seq)
		if !errs.Has(err, errs.SessionExpired) {
			return out, err
		}
		c.sess.drop(s)
		if t.doubt {
			return nil, errs.New(errs.OutcomeUnknown,
				"the write was sent, and the session that would tell its outcome has expired; read to find out").Wrap(err)
		}
		// Refused before anything was done: another session may carry it.
		if t.expired++; t.expired > 2 {
			return nil, err
		}
	}
}

// callJSON is a management call: in and out are JSON; out may be nil.
func (c *Client) callJSON(ctx context.Context, m wire.Method, in, out any, write bool) error {
	var req []byte
	if in != nil {
		var err error
		if req, err = json.Marshal(in); err != nil {
			return errs.New(errs.InvalidArgument, "the request cannot be encoded as JSON: %s", err).Wrap(err)
		}
	}
	send := c.read
	if write {
		send = c.write
	}
	answer, err := send(ctx, m, req)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return errs.New(errs.Internal, "the server's answer is not what this client expects: %s", err).Wrap(err)
	}
	return nil
}

// jitter gives between half of d and d, so that many clients do not return at
// the same moment.
func jitter(d time.Duration) time.Duration {
	return d/2 + time.Duration(rand.Int64N(int64(d/2)+1))
}
