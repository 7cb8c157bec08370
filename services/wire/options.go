package wire

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"time"

	"nekoq/services/auth"
	"nekoq/services/errs"
)

// Limits bound what one connection may ask for. Zero values take the default.
type Limits struct {
	MaxFrameBytes int64         `koanf:"max_frame_bytes" doc:"Longest frame, in bytes: bounds one request, answer or stream message."`
	MaxRequests   int           `koanf:"max_requests" doc:"Requests and streams under way at once on one connection."`
	MaxStreams    int           `koanf:"max_streams" doc:"Streams (watches) open at once on one connection."`
	MaxConns      int           `koanf:"max_connections" doc:"Connections open at once."`
	WindowBytes   int64         `koanf:"stream_window_bytes" doc:"Bytes of messages a stream may be ahead of its reader."`
	WriteTimeout  time.Duration `koanf:"write_timeout" doc:"A peer that takes nothing for this long is disconnected."`
	Handshake     time.Duration `koanf:"handshake_timeout" doc:"Time for a new connection to say who it is."`
	PingInterval  time.Duration `koanf:"ping_interval" doc:"Silence after which the peer is asked whether it lives."`
	PingTimeout   time.Duration `koanf:"ping_timeout" doc:"Time to answer a ping; then the connection is closed."`
}

// DefaultLimits gives the defaults.
func DefaultLimits() Limits {
	return Limits{
		MaxFrameBytes: 16 << 20, MaxRequests: 16384, MaxStreams: 8192, MaxConns: 16384,
		WindowBytes: 256 << 10, WriteTimeout: 10 * time.Second, Handshake: 5 * time.Second,
		PingInterval: 5 * time.Second, PingTimeout: 5 * time.Second,
	}
}

func (l Limits) withDefaults() Limits {
	d := DefaultLimits()
	fill(&l.MaxFrameBytes, d.MaxFrameBytes)
	fill(&l.MaxRequests, d.MaxRequests)
	fill(&l.MaxStreams, d.MaxStreams)
	fill(&l.MaxConns, d.MaxConns)
	fill(&l.WindowBytes, d.WindowBytes)
	fill(&l.WriteTimeout, d.WriteTimeout)
	fill(&l.Handshake, d.Handshake)
	fill(&l.PingInterval, d.PingInterval)
	fill(&l.PingTimeout, d.PingTimeout)
	return l
}

func fill[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Validate gives every mistake, by field.
func (l Limits) Validate() []error {
	var bad errs.Limits
	bad.Number("max_frame_bytes", l.MaxFrameBytes, 64<<10, 256<<20, "bytes")
	bad.Number("max_requests", int64(l.MaxRequests), 1, 1<<20, "requests")
	bad.Number("max_streams", int64(l.MaxStreams), 1, 1<<20, "streams")
	bad.Number("max_connections", int64(l.MaxConns), 1, 1<<20, "connections")
	bad.Number("stream_window_bytes", l.WindowBytes, 4<<10, 64<<20, "bytes")
	bad.Time("write_timeout", l.WriteTimeout, 100*time.Millisecond, 10*time.Minute)
	bad.Time("handshake_timeout", l.Handshake, 100*time.Millisecond, 10*time.Minute)
	bad.Time("ping_interval", l.PingInterval, 100*time.Millisecond, time.Hour)
	bad.Time("ping_timeout", l.PingTimeout, 100*time.Millisecond, time.Hour)
	return bad
}

// ServerInfo is what a server tells of itself when a connection opens.
type ServerInfo struct {
	NodeID    string   `json:"node_id,omitempty"`
	ClusterID string   `json:"cluster_id,omitempty"`
	Version   string   `json:"version,omitempty"`
	Endpoints []string `json:"endpoints,omitempty"` // the cluster's native doors
	// Leader is the id of the leader as this node knows it, LeaderEndpoint its
	// native door; both may be unknown.
	Leader         string `json:"leader,omitempty"`
	LeaderEndpoint string `json:"leader_endpoint,omitempty"`
}

// Info describes one request to the hooks of a server.
type Info struct {
	Method    Method
	Name      string // as registered
	Stream    bool
	Principal auth.Principal
	Request   []byte // valid until the hook returns
}

// Result describes a finished request to ServerOptions.After.
type Result struct {
	Name          string
	Stream        bool
	Code          errs.Code // "" when it went well
	Duration      time.Duration
	RequestBytes  int
	ResponseBytes int // all messages of a stream
}

// ServerOptions say how a Server behaves. The zero value serves everyone.
type ServerOptions struct {
	// Door is the name that principals carry, such as "native".
	Door   string
	Limits Limits
	// Hello gives what the server says of itself, asked once a connection.
	Hello func() ServerInfo
	// Authenticate turns the token of a connection (empty for none) into a
	// principal, or refuses it. conn is the raw connection, for its TLS state.
	// Without it everyone is "anonymous".
	Authenticate func(ctx context.Context, conn net.Conn, token []byte) (auth.Principal, error)
	// Before runs before each handler, on its goroutine; an error refuses.
	Before func(ctx context.Context, in Info) error
	// After runs when a request has been answered.
	After  func(Result)
	Logger *slog.Logger
}

// Options say how a Conn behaves.
type Options struct {
	// Token goes to the server's Authenticate.
	Token []byte
	// Agent names the program, for the server's log.
	Agent string
	// Limits: MaxFrameBytes bounds what this side sends and accepts,
	// WindowBytes is the credit of its streams; MaxRequests, MaxStreams and
	// MaxConns are the server's to set.
	Limits Limits
	// OnGoaway runs when the server asks to be left. It must not block.
	OnGoaway func()
}

// callerHello and serverHello travel as JSON, once a connection: unknown members
// are ignored, so both can grow.
type callerHello struct {
	Token    []byte `json:"token,omitempty"`
	Agent    string `json:"agent,omitempty"`
	MaxFrame int    `json:"max_frame"`
	Window   int64  `json:"window"`
}

type serverHello struct {
	MaxFrame    int        `json:"max_frame"`
	MaxRequests int        `json:"max_requests"`
	MaxStreams  int        `json:"max_streams"`
	Info        ServerInfo `json:"info"`
}

func appendHello(b []byte, v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(body) > maxHello-minLength {
		return nil, tooLarge("hello", len(body), maxHello)
	}
	return appendFrame(b, frameHello, 0, body), nil
}

func parseHello(body []byte, v any) error {
	if err := json.Unmarshal(body, v); err != nil {
		return violation("the hello is damaged: %s", err)
	}
	return nil
}
