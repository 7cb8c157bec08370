package peer

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"nekoq/services/errs"
	"nekoq/services/peer/internal/table"
)

// Config is the node-to-node part of the section [cluster].
type Config struct {
	Listen           string        `koanf:"listen" doc:"address of the node-to-node port, host:port"`
	Advertise        string        `koanf:"advertise" doc:"address at which the other nodes reach this one, host:port; empty takes the address that is listened on, or this node's entry in peers when that is every interface"`
	Peers            []string      `koanf:"peers" doc:"nodes of the cluster's first start, as id=host:port, the same list on each of them; later only a help to find the others"`
	Join             []string      `koanf:"join" doc:"addresses of members, host:port, that a new node asks to be taken into a running cluster"`
	JoinToken        string        `koanf:"join_token" secret:"true" doc:"shared secret that a joining node must show; empty asks for none"`
	BootstrapWait    time.Duration `koanf:"bootstrap_wait" doc:"at the first start, how long to wait for every peer before a majority of them is enough"`
	DialTimeout      time.Duration `koanf:"dial_timeout" doc:"limit for opening a connection to another node"`
	HandshakeTimeout time.Duration `koanf:"handshake_timeout" doc:"limit for the handshake of a node-to-node connection"`
	CallTimeout      time.Duration `koanf:"call_timeout" doc:"limit for one administrative call between nodes"`
	RedialMin        time.Duration `koanf:"redial_min" doc:"pause after the first failure to reach a node; doubles up to redial_max"`
	RedialMax        time.Duration `koanf:"redial_max" doc:"longest pause between attempts to reach a node"`
	PingInterval     time.Duration `koanf:"peer_ping_interval" doc:"how often each node asks each other one how it is"`
	DeadAfter        time.Duration `koanf:"dead_after" doc:"a node that has not been heard of for this long is reported dead; it is never removed by itself"`
	CatchUpEntries   int64         `koanf:"catch_up_entries" doc:"a joining node becomes a voter when it lags by no more than this many log entries"`
	CatchUpHold      time.Duration `koanf:"catch_up_hold" doc:"for how long a joining node must have kept up before it becomes a voter"`
	HashInterval     time.Duration `koanf:"hash_interval" doc:"how often the leader compares the nodes' state hashes; 0 for never"`
	MaxConnections   int           `koanf:"max_peer_connections" doc:"node-to-node connections that are accepted at the same time"`
}

// DefaultConfig is the configuration for nodes in one data centre.
func DefaultConfig() Config {
	return Config{
		Listen:           "127.0.0.1:9311",
		Peers:            []string{},
		Join:             []string{},
		BootstrapWait:    10 * time.Second,
		DialTimeout:      2 * time.Second,
		HandshakeTimeout: 5 * time.Second,
		CallTimeout:      5 * time.Second,
		RedialMin:        50 * time.Millisecond,
		RedialMax:        2 * time.Second,
		PingInterval:     time.Second,
		DeadAfter:        5 * time.Second,
		CatchUpEntries:   256,
		CatchUpHold:      time.Second,
		HashInterval:     time.Minute,
		MaxConnections:   1024,
	}
}

// Validate reports every field that is out of bounds, whether the node is one of
// a cluster or not; ValidateFor checks what a cluster demands.
func (c Config) Validate() []error {
	var out errs.Limits
	fail := func(err error) {
		if err != nil {
			out = append(out, err)
		}
	}
	fail(checkAddress("listen", c.Listen, true))
	if c.Advertise != "" {
		fail(checkAddress("advertise", c.Advertise, false))
	}
	_, bad := ParsePeers(c.Peers)
	out = append(out, bad...)
	for i, a := range c.Join {
		fail(checkAddress(fmt.Sprintf("join[%d]", i), a, false))
	}
	out.Time("bootstrap_wait", c.BootstrapWait, 0, time.Hour)
	out.Time("dial_timeout", c.DialTimeout, 10*time.Millisecond, time.Minute)
	out.Time("handshake_timeout", c.HandshakeTimeout, 10*time.Millisecond, time.Minute)
	out.Time("call_timeout", c.CallTimeout, 10*time.Millisecond, time.Minute)
	out.Time("redial_min", c.RedialMin, time.Millisecond, c.RedialMax)
	out.Time("redial_max", c.RedialMax, time.Millisecond, time.Minute)
	out.Time("peer_ping_interval", c.PingInterval, 10*time.Millisecond, time.Minute)
	out.Time("dead_after", c.DeadAfter, 2*c.PingInterval, time.Hour)
	out.Time("catch_up_hold", c.CatchUpHold, 0, time.Hour)
	out.Time("hash_interval", c.HashInterval, 0, 24*time.Hour)
	out.Number("catch_up_entries", c.CatchUpEntries, 1, 1<<20, "log entries")
	out.Number("max_peer_connections", int64(c.MaxConnections), 8, 1<<16, "connections")
	return out
}

// CheckID tells whether id can be the id of a node; field is named in the error.
func CheckID(field, id string) error { return table.CheckID(field, id) }

// ValidateFor reports what keeps the node of that id out of a cluster, beyond
// Validate: there must be an address for others, and the list of the first start
// must have the node.
func (c Config) ValidateFor(nodeID string) (out []error) {
	peers, bad := ParsePeers(c.Peers)
	if len(bad) > 0 {
		return nil // Validate reports them
	}
	if host, _, err := net.SplitHostPort(c.Listen); err == nil && c.Advertise == "" && len(peers) == 0 {
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			out = append(out, errs.Invalid("advertise", "", fmt.Sprintf("the address at which other nodes reach this one, since listen = %q is every interface", c.Listen)))
		}
	}
	if len(peers) == 0 {
		return out
	}
	if !slices.ContainsFunc(peers, func(p Peer) bool { return p.ID == nodeID }) {
		out = append(out, errs.Invalid("peers", strings.Join(c.Peers, ", "),
			fmt.Sprintf("a list that has this node's own entry (%s=host:port) too", nodeID)))
	}
	return out
}

// Peer is one entry of the first-start list.
type Peer struct {
	ID      string
	Address string
}

// ParsePeers reads a first-start list. The peers come back in order of their id.
func ParsePeers(list []string) ([]Peer, []error) {
	var out []Peer
	var bad []error
	byID, byAddr := map[string]int{}, map[string]int{}
	for i, entry := range list {
		field := fmt.Sprintf("peers[%d]", i)
		id, addr, ok := strings.Cut(entry, "=")
		if !ok {
			bad = append(bad, errs.Invalid(field, entry, "id=host:port"))
			continue
		}
		id, addr = strings.TrimSpace(id), strings.TrimSpace(addr)
		if err := table.CheckID(field, id); err != nil {
			bad = append(bad, err)
			continue
		}
		if err := checkAddress(field, addr, false); err != nil {
			bad = append(bad, err)
			continue
		}
		if j, dup := byID[id]; dup {
			bad = append(bad, errs.Invalid(field, entry, fmt.Sprintf("every node once; %q is in peers[%d] too", id, j)))
			continue
		}
		if j, dup := byAddr[addr]; dup {
			bad = append(bad, errs.Invalid(field, entry, fmt.Sprintf("every address once; %q is in peers[%d] too", addr, j)))
			continue
		}
		byID[id], byAddr[addr] = i, i
		out = append(out, Peer{ID: id, Address: addr})
	}
	if len(list) > table.MaxMembers {
		bad = append(bad, errs.Invalid("peers", len(list), fmt.Sprintf("at most %d nodes", table.MaxMembers)))
	}
	slices.SortFunc(out, func(a, b Peer) int { return strings.Compare(a.ID, b.ID) })
	return out, bad
}

// checkAddress wants host:port. Only an address to listen on may leave out the
// host or take port 0.
func checkAddress(field, addr string, listen bool) error {
	const want = "host:port with a port from 1 to 65535"
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return errs.Invalid(field, addr, want)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || (n == 0 && !listen) || (host == "" && !listen) || len(addr) > table.MaxAddress {
		return errs.Invalid(field, addr, want)
	}
	if ip := net.ParseIP(host); !listen && ip != nil && ip.IsUnspecified() {
		return errs.Invalid(field, addr, "an address that other nodes can reach, not "+host)
	}
	return nil
}
