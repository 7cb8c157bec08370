package httpapi

import (
	"net"
	"time"

	"nekoq/services/errs"
)

// Access log levels of Config.AccessLog.
const (
	AccessLogOff    = "off"
	AccessLogErrors = "errors"
	AccessLogAll    = "all"
)

// Config is the [http] section.
type Config struct {
	Listen                string        `koanf:"listen" doc:"Address (host:port) of the HTTP door."`
	MaxBodyBytes          int64         `koanf:"max_body_bytes" doc:"Largest request body in bytes, where a route does not set its own limit."`
	MaxHeaderBytes        int64         `koanf:"max_header_bytes" doc:"Largest request line and header together, in bytes."`
	MaxConcurrentRequests int64         `koanf:"max_concurrent_requests" doc:"Requests served at once, waiting long polls and streams not counted; above it 429."`
	MaxWaiting            int64         `koanf:"max_waiting" doc:"Long polls and event streams that wait at once; above it 429."`
	RequestTimeout        time.Duration `koanf:"request_timeout" doc:"Longest time for one request; a client shortens it with the Request-Timeout header. Long polls and streams have their own bounds."`
	MaxWait               time.Duration `koanf:"max_wait" doc:"Longest ?wait= of a long poll."`
	StreamHeartbeat       time.Duration `koanf:"stream_heartbeat" doc:"Pause after which an idle event stream gets a comment line, so that a dead peer is noticed."`
	StreamWriteTimeout    time.Duration `koanf:"stream_write_timeout" doc:"Longest time that one write to a stream may take before its slow reader is cut off."`
	ReadHeaderTimeout     time.Duration `koanf:"read_header_timeout" doc:"Longest time for a client to send its request header."`
	BodyReadTimeout       time.Duration `koanf:"body_read_timeout" doc:"Longest time for a client to send its request body."`
	IdleTimeout           time.Duration `koanf:"idle_timeout" doc:"Time after which an idle keep-alive connection is closed."`
	DrainTimeout          time.Duration `koanf:"drain_timeout" doc:"Longest time that a stop waits for running requests before it cuts them off."`
	DefaultPageSize       int           `koanf:"default_page_size" doc:"Entries in a list page when the request names no limit."`
	MaxPageSize           int           `koanf:"max_page_size" doc:"Largest limit of a list page."`
	AccessLog             string        `koanf:"access_log" doc:"Which requests are logged: off (only internal errors), errors (status 5xx or slower than slow_request), or all."`
	SlowRequest           time.Duration `koanf:"slow_request" doc:"Requests slower than this are logged as slow even when they succeed; 0 is never."`
	Gzip                  bool          `koanf:"gzip" doc:"Compress answers for clients that accept gzip."`
	GzipMinBytes          int64         `koanf:"gzip_min_bytes" doc:"Smallest answer that is compressed, in bytes."`
	Pprof                 bool          `koanf:"pprof" doc:"Serve Go profiles under /debug/pprof/."`
}

// DefaultConfig gives the values that are used where nothing is set.
func DefaultConfig() Config {
	return Config{
		Listen:                "127.0.0.1:9310",
		MaxBodyBytes:          2 << 20,
		MaxHeaderBytes:        64 << 10,
		MaxConcurrentRequests: 4096,
		MaxWaiting:            20000,
		RequestTimeout:        30 * time.Second,
		MaxWait:               10 * time.Minute,
		StreamHeartbeat:       15 * time.Second,
		StreamWriteTimeout:    10 * time.Second,
		ReadHeaderTimeout:     10 * time.Second,
		BodyReadTimeout:       30 * time.Second,
		IdleTimeout:           2 * time.Minute,
		DrainTimeout:          15 * time.Second,
		DefaultPageSize:       100,
		MaxPageSize:           1000,
		AccessLog:             AccessLogErrors,
		SlowRequest:           time.Second,
		Gzip:                  true,
		GzipMinBytes:          1024,
	}
}

// Validate gives every mistake, each as invalid_argument with the path of the
// field relative to the section.
func (c Config) Validate() []error {
	var bad errs.Limits
	_, port, err := net.SplitHostPort(c.Listen)
	bad.Want(err == nil && port != "", "listen", c.Listen, "host:port, such as 127.0.0.1:9310")
	atLeast := func(field string, v, low int64) { bad.Want(v >= low, field, v, "at least "+itoa(low)) }
	atLeast("max_body_bytes", c.MaxBodyBytes, 1)
	bad.Number("max_header_bytes", c.MaxHeaderBytes, 1024, 1<<30, "")
	atLeast("max_concurrent_requests", c.MaxConcurrentRequests, 1)
	atLeast("max_waiting", c.MaxWaiting, 1)
	atLeast("default_page_size", int64(c.DefaultPageSize), 1)
	atLeast("max_page_size", int64(c.MaxPageSize), 1)
	atLeast("gzip_min_bytes", c.GzipMinBytes, 0)
	lasts := func(field string, v time.Duration) {
		bad.Want(v > 0 && v <= 24*time.Hour, field, v, "above 0s, at most 24h0m0s")
	}
	lasts("request_timeout", c.RequestTimeout)
	lasts("max_wait", c.MaxWait)
	lasts("stream_heartbeat", c.StreamHeartbeat)
	lasts("stream_write_timeout", c.StreamWriteTimeout)
	lasts("read_header_timeout", c.ReadHeaderTimeout)
	lasts("body_read_timeout", c.BodyReadTimeout)
	lasts("idle_timeout", c.IdleTimeout)
	lasts("drain_timeout", c.DrainTimeout)
	bad.Time("slow_request", c.SlowRequest, 0, 24*time.Hour)
	bad.Want(c.DefaultPageSize <= c.MaxPageSize || c.MaxPageSize < 1, "default_page_size", c.DefaultPageSize, "at most max_page_size = "+itoa(int64(c.MaxPageSize)))
	bad.Want(c.AccessLog == AccessLogOff || c.AccessLog == AccessLogErrors || c.AccessLog == AccessLogAll, "access_log", c.AccessLog, "off, errors or all")
	return bad
}
