package etcd

import (
	"net"
	"time"

	"golang.org/x/crypto/bcrypt"

	"nekoq/services/errs"
)

// Config is the section [warehouse.etcd].
type Config struct {
	Listen                string        `koanf:"listen" doc:"Address (host:port) of the etcd v3 door. Empty is off."`
	MaxRequestBytes       int64         `koanf:"max_request_bytes" doc:"Largest request that writes, in bytes; a larger one is refused as too large."`
	MaxTxnOps             int           `koanf:"max_txn_ops" doc:"Operations in a transaction, nested ones included; warehouse.max_txn_ops bounds them too."`
	MaxConcurrentStreams  int64         `koanf:"max_concurrent_streams" doc:"Requests and streams open at once on one connection."`
	KeepaliveMinTime      time.Duration `koanf:"keepalive_min_time" doc:"Shortest pause between the pings of a client; one that pings more often is disconnected."`
	KeepaliveInterval     time.Duration `koanf:"keepalive_interval" doc:"Pause after which the server pings an idle client."`
	KeepaliveTimeout      time.Duration `koanf:"keepalive_timeout" doc:"How long a ping may stay unanswered before the connection is closed."`
	RequestTimeout        time.Duration `koanf:"request_timeout" doc:"How long a request for keys or leases may take when its client set no deadline; then it ends with \"etcdserver: request timed out\"."`
	WatchProgressInterval time.Duration `koanf:"watch_progress_interval" doc:"How often a watch that asked for it, and had no events, is told the revision it has reached."`
	AuthTokenTTL          time.Duration `koanf:"auth_token_ttl" doc:"Life of the token that a log-in gives."`
	BcryptCost            int           `koanf:"bcrypt_cost" doc:"Work factor of password hashes."`
	DrainTimeout          time.Duration `koanf:"drain_timeout" doc:"How long a stop waits for requests that run."`
}

// DefaultConfig gives the values that are used where nothing is set; limits are etcd's.
func DefaultConfig() Config {
	return Config{
		Listen:                "127.0.0.1:2379",
		MaxRequestBytes:       1536 << 10,
		MaxTxnOps:             128,
		MaxConcurrentStreams:  1 << 20,
		KeepaliveMinTime:      5 * time.Second,
		KeepaliveInterval:     2 * time.Hour,
		KeepaliveTimeout:      20 * time.Second,
		RequestTimeout:        15 * time.Second,
		WatchProgressInterval: 10 * time.Minute,
		AuthTokenTTL:          time.Hour,
		BcryptCost:            bcrypt.DefaultCost,
		DrainTimeout:          5 * time.Second,
	}
}

// Validate gives every mistake, each with the path of the field relative to the
// section.
func (c Config) Validate() []error {
	var bad errs.Limits
	_, port, err := net.SplitHostPort(c.Listen)
	bad.Want(c.Listen == "" || err == nil && port != "", "listen", c.Listen, "host:port, such as 127.0.0.1:2379, or empty for off")
	bad.Number("max_request_bytes", c.MaxRequestBytes, 1<<10, 64<<20, "")
	bad.Number("max_txn_ops", int64(c.MaxTxnOps), 1, 100_000, "")
	bad.Number("max_concurrent_streams", c.MaxConcurrentStreams, 1, 1<<32-1, "")
	bad.Number("bcrypt_cost", int64(c.BcryptCost), int64(bcrypt.MinCost), 20, "")
	bad.Time("keepalive_min_time", c.KeepaliveMinTime, 0, time.Hour)
	bad.Time("keepalive_interval", c.KeepaliveInterval, time.Second, 24*time.Hour)
	bad.Time("keepalive_timeout", c.KeepaliveTimeout, time.Second, time.Hour)
	bad.Time("request_timeout", c.RequestTimeout, 100*time.Millisecond, time.Hour)
	bad.Time("watch_progress_interval", c.WatchProgressInterval, 100*time.Millisecond, 24*time.Hour)
	bad.Time("auth_token_ttl", c.AuthTokenTTL, time.Second, 30*24*time.Hour)
	bad.Time("drain_timeout", c.DrainTimeout, 0, time.Minute)
	return bad
}
