package configs

import (
	"cmp"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"nekoq/services/errs"
	"nekoq/services/peer"
)

// Validate gives Problems: every mistake of the sections, with the section's
// name before the field, and those between sections; nil when there are none.
// A value outside its limits is one in either mode and of a service that is off:
// it is there to be used one day, and then it would keep the node from starting.
// Only what a mode demands of the others' values is left to that mode.
func (c Config) Validate() error {
	l := &loader{out: &Loaded{Config: c}}
	l.validate()
	return l.problems()
}

func (c *Config) mistakes() []error {
	var out []error
	if c.Mode != ModeLocalSwitch && c.Mode != ModeCluster {
		out = append(out, errs.Invalid("mode", c.Mode, "localswitch or cluster"))
	}
	section := func(name string, found []error) {
		for _, err := range found {
			out = append(out, below(name, err))
		}
	}
	out = append(out, c.validateNode()...)
	section("http", c.HTTP.Validate())
	section("native", c.Native.Limits.Validate())
	section("cluster", c.Cluster.Raft.Validate())
	peers := c.Cluster.Peer
	if peers.Advertise == c.advertised(peers.Listen) {
		peers.Advertise = "" // made of two other keys, which are checked themselves
	}
	section("cluster", peers.Validate())
	section("localswitch", c.LocalSwitch.Validate())
	section("state", c.State.Validate())
	section("lease", c.Lease.Validate())
	section("numgen", c.Numgen.Validate())
	section("warehouse", c.Warehouse.Validate())
	section("warehouse.etcd", c.Etcd.Validate())
	section("areas", c.Areas.Validate())
	section("config", c.Config.Validate())
	section("telemetry", c.Telemetry.Validate())
	if !isAddress(c.Native.Listen) {
		out = append(out, errs.Invalid("native.listen", c.Native.Listen, "host:port, such as 127.0.0.1:9313"))
	}
	if c.Native.SessionTTL < time.Minute || c.Native.SessionTTL > 30*24*time.Hour {
		out = append(out, errs.Invalid("native.session_ttl", c.Native.SessionTTL, "1m to 720h"))
	}
	out = append(out, c.validatePortNumbers()...)
	if c.Auth.Enabled {
		out = append(out, errs.Invalid("auth.enabled", true, "false: identities are not available in this version"))
	}
	switch c.Mode {
	case ModeCluster:
		out = append(out, c.validateCluster()...)
	case ModeLocalSwitch:
		out = append(out, c.validateLoopback()...)
	}
	return append(out, c.validatePorts()...)
}

func (c *Config) validateNode() (out []error) {
	if c.Mode == ModeCluster && (c.Node.ID == "" || c.Node.ID == DefaultNodeID) {
		out = append(out, errs.New(errs.InvalidArgument, "node.id: cluster mode needs a name of its own for this node, such as n1").
			With(errs.Detail{Field: "node.id"}))
	} else if err := peer.CheckID("node.id", c.Node.ID); err != nil {
		out = append(out, err)
	}
	if !isHost(c.Node.Advertise) {
		out = append(out, errs.Invalid("node.advertise", c.Node.Advertise, "a host name or an IP address at which others reach this node, without a port"))
	}
	return out
}

func (c *Config) validateCluster() (out []error) {
	if peer.CheckID("node.id", c.Node.ID) == nil && c.Node.ID != DefaultNodeID {
		for _, err := range c.Cluster.Peer.ValidateFor(c.Node.ID) {
			out = append(out, below("cluster", err))
		}
	}
	if c.Node.DataDir == "" {
		out = append(out, errs.New(errs.InvalidArgument, "node.data_dir: cluster mode needs a folder that stays over restarts").
			With(errs.Detail{Field: "node.data_dir"}))
	}
	if len(c.Cluster.Peer.Peers) == 0 && len(c.Cluster.Peer.Join) == 0 {
		out = append(out, errs.New(errs.InvalidArgument,
			`cluster.peers: cluster mode needs the nodes of the first start (cluster.peers = ["n1=host:9311", ...]), or members to join (cluster.join)`).
			With(errs.Detail{Field: "cluster.peers"}))
	}
	if !c.Insecure {
		out = append(out, errs.New(errs.InvalidArgument,
			"insecure: cluster mode has no identities, policy and TLS yet, so it starts only with --insecure (insecure = true), in a network that you trust").
			With(errs.Detail{Field: "insecure"}))
	}
	return out
}

// validateLoopback: LocalSwitch has no identities, so nobody from outside may
// reach it.
func (c *Config) validateLoopback() (out []error) {
	for _, d := range c.doors() {
		host, _, err := net.SplitHostPort(d.addr)
		if err != nil || host == "localhost" {
			continue // a broken address is reported by its section
		}
		if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
			out = append(out, errs.Invalid(d.key, d.addr, "a loopback address such as 127.0.0.1 in LocalSwitch, which lets everyone do everything"))
		}
	}
	return out
}

type door struct{ key, addr string }

// doors is every address that is listened on in c's mode.
func (c *Config) doors() []door {
	out := []door{{"http.listen", c.HTTP.Listen}, {"native.listen", c.Native.Listen}}
	if c.Services.Warehouse && c.Etcd.Listen != "" {
		out = append(out, door{"warehouse.etcd.listen", c.Etcd.Listen})
	}
	if c.Mode == ModeCluster {
		out = append(out, door{"cluster.listen", c.Cluster.Peer.Listen})
	}
	return out
}

// validatePortNumbers looks at every door, listened on or not. That of the
// cluster's port is part of its section.
func (c *Config) validatePortNumbers() (out []error) {
	for _, d := range []door{{"http.listen", c.HTTP.Listen}, {"native.listen", c.Native.Listen}, {"warehouse.etcd.listen", c.Etcd.Listen}} {
		_, port, err := net.SplitHostPort(d.addr)
		if err != nil || port == "" {
			continue // reported by its section
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			out = append(out, errs.Invalid(d.key, d.addr, "host:port with a port from 0 (any free one) to 65535"))
		}
	}
	return out
}

func (c *Config) validatePorts() (out []error) {
	doors := c.doors()
	for i, a := range doors {
		for _, b := range doors[:i] {
			if overlap(a.addr, b.addr) {
				out = append(out, errs.Invalid(a.key, a.addr, fmt.Sprintf("another port than %s = %q", b.key, b.addr)))
			}
		}
	}
	return out
}

// overlap tells whether two listen addresses cannot both be had. Port 0 is any
// free port.
func overlap(a, b string) bool {
	ha, pa, errA := net.SplitHostPort(a)
	hb, pb, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || pa != pb || pa == "0" {
		return false
	}
	every := func(h string) bool {
		ip := net.ParseIP(h)
		return h == "" || ip != nil && ip.IsUnspecified()
	}
	return ha == hb || every(ha) || every(hb)
}

func isAddress(addr string) bool {
	_, port, err := net.SplitHostPort(addr)
	return err == nil && port != ""
}

// isHost tells whether others can be told host; "" tells them nothing.
func isHost(host string) bool {
	if ip := net.ParseIP(host); ip != nil {
		return !ip.IsUnspecified()
	}
	return len(host) <= 253 && !strings.ContainsFunc(host, func(r rune) bool {
		return r != '-' && r != '.' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}

// Warnings is what the operator must see at every start.
func (c *Config) Warnings() []string {
	var out []string
	if c.Mode == ModeCluster && c.Insecure {
		out = append(out, "INSECURE: no identities, no policy, no TLS. Whoever reaches a port of this node may read and change everything.")
	}
	return out
}

// fill completes what other settings imply. It comes before Validate.
func (c *Config) fill() {
	if c.Cluster.Peer.Advertise == "" {
		c.Cluster.Peer.Advertise = c.advertised(c.Cluster.Peer.Listen)
	}
}

// HTTPAdvertise and NativeAdvertise are the addresses of the doors that other
// nodes and clients are told.
func (c *Config) HTTPAdvertise() string { return cmp.Or(c.advertised(c.HTTP.Listen), c.HTTP.Listen) }

func (c *Config) NativeAdvertise() string {
	return cmp.Or(c.advertised(c.Native.Listen), c.Native.Listen)
}

// EtcdAdvertise is that of the etcd door, "" where it is the address listened on.
func (c *Config) EtcdAdvertise() string {
	return cmp.Or(c.advertised(c.Etcd.Listen), c.hostOnly(c.Etcd.Listen))
}

// hostOnly keeps an advertised host for a port that is chosen later.
func (c *Config) hostOnly(listen string) string {
	if _, port, err := net.SplitHostPort(listen); c.Node.Advertise != "" && err == nil && port == "0" {
		return net.JoinHostPort(c.Node.Advertise, "0")
	}
	return ""
}

func (c *Config) advertised(listen string) string {
	_, port, err := net.SplitHostPort(listen)
	if c.Node.Advertise == "" || err != nil || port == "0" {
		return ""
	}
	return net.JoinHostPort(c.Node.Advertise, port)
}

// below puts a section's name before the field that err is about.
func below(section string, err error) error {
	e := errs.From(err)
	moved := errs.New(e.Code, "%s.%s", section, e.Message)
	if len(e.Details) == 0 {
		return errs.New(e.Code, "[%s] %s", section, e.Message).With(errs.Detail{Field: section})
	}
	for _, d := range e.Details {
		d.Field = section + "." + d.Field
		moved = moved.With(d)
	}
	return moved
}
