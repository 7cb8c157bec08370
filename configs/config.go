// Package configs is the one typed configuration of a NekoQ process: every
// package's own Config in its section, loaded from four layers (defaults, TOML
// file, environment, --set), checked, and printed with the origin of each value.
//
// It owns the names of the keys and the rules between sections; what a field
// means and which values it takes is said by the package that owns it, in its
// doc tags and its Validate. A loaded configuration is a value: it is not
// changed afterwards and safe to share. services/app, services/localswitch and
// cmd import it.
package configs

import (
	"time"

	"nekoq/numgen"
	"nekoq/services/httpapi"
	"nekoq/services/lease"
	"nekoq/services/peer"
	"nekoq/services/replica/local"
	"nekoq/services/replica/raftnode"
	"nekoq/services/state"
	"nekoq/services/telemetry"
	"nekoq/services/wire"
	"nekoq/warehouse"
	"nekoq/warehouse/areas"
	"nekoq/warehouse/conf"
	"nekoq/warehouse/etcd"
)

// The modes.
const (
	ModeLocalSwitch = "localswitch"
	ModeCluster     = "cluster"
)

// Config is everything that can be set. The doc tag of a section is its heading.
type Config struct {
	Mode     string `koanf:"mode" doc:"How the process runs: localswitch (one process, no peers, loopback only) or cluster."`
	Insecure bool   `koanf:"insecure" doc:"Allow cluster mode although identities, policy and TLS are not there yet: whoever reaches a port may do everything."`

	Node        Node             `koanf:"node" doc:"This process."`
	Services    Services         `koanf:"services" doc:"Which services this process serves."`
	HTTP        httpapi.Config   `koanf:"http" doc:"The HTTP door: REST, API document, metrics, health."`
	Native      Native           `koanf:"native" doc:"The native door, for the Go client and the command line."`
	Cluster     Cluster          `koanf:"cluster" doc:"Node-to-node port, membership and Raft. Used in cluster mode only, checked in either mode."`
	LocalSwitch local.Config     `koanf:"localswitch" doc:"The write queue of LocalSwitch. Not used in cluster mode, but checked in either mode."`
	State       state.Config     `koanf:"state" doc:"The state file that holds the data of all services."`
	Lease       lease.Config     `koanf:"lease" doc:"Leases: how the leader ends what has run out."`
	Numgen      numgen.Config    `koanf:"numgen" doc:"Ids."`
	Warehouse   warehouse.Config `koanf:"warehouse" doc:"Keys and values."`
	Etcd        etcd.Config      `koanf:"warehouse.etcd" doc:"The etcd v3 door over warehouse."`
	Areas       areas.Config     `koanf:"areas" doc:"The tree of areas. Part of the service warehouse."`
	Config      conf.Config      `koanf:"config" doc:"The configuration centre. Part of the service warehouse."`
	Auth        Auth             `koanf:"auth" doc:"Who may do what."`
	Telemetry   telemetry.Config `koanf:"telemetry" doc:"Log and traces of this process."`
}

// Node is the section [node].
type Node struct {
	ID        string `koanf:"id" doc:"Name of this node, unique in the cluster and never used again for another one: 1 to 63 of a-z, 0-9, -, _ and ., beginning with a letter or digit. Cluster mode needs one of its own; local is LocalSwitch's."`
	DataDir   string `koanf:"data_dir" doc:"Folder of the state file and the log. Empty in LocalSwitch keeps everything in a temporary folder that is removed at exit."`
	Advertise string `koanf:"advertise" doc:"Host name or IP address at which others reach this node, without a port. Empty takes the hosts of the listen addresses."`
}

// Services is the section [services].
type Services struct {
	Numgen    bool `koanf:"numgen" doc:"Give out ids."`
	Warehouse bool `koanf:"warehouse" doc:"Keep keys and values."`
}

// Native is the section [native].
type Native struct {
	Listen     string        `koanf:"listen" doc:"Address (host:port) of the native door."`
	SessionTTL time.Duration `koanf:"session_ttl" doc:"Time after which a client session that nobody uses is forgotten. A retry that is older can not be told from a new request and is refused."`
	Limits     wire.Limits   `koanf:",squash"`
}

// Cluster is the section [cluster], made of the two packages behind it.
type Cluster struct {
	Peer peer.Config     `koanf:",squash"`
	Raft raftnode.Config `koanf:",squash"`
}

// Auth is the section [auth].
type Auth struct {
	Enabled bool `koanf:"enabled" doc:"Demand an identity for every request. Not available in this version: true is refused."`
}

// DefaultNodeID is the node id of LocalSwitch; cluster mode refuses it.
const DefaultNodeID = "local"

// Default is the configuration when nothing is set.
func Default() Config {
	return Config{
		Mode:        ModeLocalSwitch,
		Node:        Node{ID: DefaultNodeID, DataDir: "nekoq-data"},
		Services:    Services{Numgen: true, Warehouse: true},
		HTTP:        httpapi.DefaultConfig(),
		Native:      Native{Listen: "127.0.0.1:9313", SessionTTL: time.Hour, Limits: wire.DefaultLimits()},
		Cluster:     Cluster{Peer: peer.DefaultConfig(), Raft: raftnode.DefaultConfig()},
		LocalSwitch: local.DefaultConfig(),
		State:       state.DefaultConfig(),
		Lease:       lease.DefaultConfig(),
		Numgen:      numgen.DefaultConfig(),
		Warehouse:   warehouse.DefaultConfig(),
		Etcd:        etcd.DefaultConfig(),
		Areas:       areas.DefaultConfig(),
		Config:      conf.DefaultConfig(),
		Telemetry:   telemetry.DefaultConfig(),
	}
}
