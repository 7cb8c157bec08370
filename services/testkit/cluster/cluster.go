// Package cluster runs Raft groups of several nodes inside one test, over TCP
// loopback or in memory, with a fault proxy on every link.
//
// A Cluster is driven by the test's goroutine; Member.Replica may be used from
// any. Nodes are named n1, n2, ... and their address is their name, so a node
// that restarts on another port is still found. Only tests import it.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"nekoq/services/clock"
	"nekoq/services/errs"
	"nekoq/services/replica"
	"nekoq/services/replica/raftnode"
	"nekoq/services/state"
	"nekoq/services/testkit/faultproxy"
	"nekoq/services/testkit/register"
	"nekoq/services/watch"
	"nekoq/services/wire"
)

// Options of New. The zero value is three nodes over TCP with raft-wal.
type Options struct {
	Nodes  int
	Memory bool
	// Config changes the defaults, which are quick elections and small files.
	Config func(id string, c *raftnode.Config)
	// Register adds what the test needs beside package register.
	Register func(reg *state.Registry)
	// Events gives a node its event hub each time that it starts; nil is none.
	Events func(id string) watch.Publisher
	// Mux adds peer calls beside those of raftnode.
	Mux func(id string, mux *wire.Mux)
	// Before runs on every node between New and Start.
	Before func(m *Member)
	// Down runs on every node before it ends, as often as it is ended.
	Down func(m *Member)
	// FreeBytes replaces the measurement of free disk space.
	FreeBytes func(id string) (int64, error)
	State     state.Config
	Verbose   bool // log of the nodes to the test's
}

// Cluster is the nodes of one test.
type Cluster struct {
	tb      testing.TB
	opts    Options
	net     *network
	root    string
	Members []*Member
}

// Member is one node.
type Member struct {
	ID      string
	Dir     string
	Replica *raftnode.Node // nil while it is down
	Machine *state.Machine // nil while it is down
	c       *Cluster
	port    *port
	dead    *atomic.Bool // the state file is written no more
	disk    atomic.Int64 // nanoseconds that each sync takes longer
}

var errDead = errors.New("the node was killed")

// DefaultConfig is the configuration of nodes in tests.
func DefaultConfig() raftnode.Config {
	c := raftnode.DefaultConfig()
	c.HeartbeatTimeout = 250 * time.Millisecond
	c.ElectionTimeout = 250 * time.Millisecond
	c.LeaderLease = 200 * time.Millisecond
	c.TransportTimeout = 2 * time.Second
	c.ReadConfirmTimeout = 500 * time.Millisecond
	c.SegmentBytes = 1 << 20
	c.DiskReserveBytes = 0
	return c
}

// Calm is an Options.Config for tests without faults: a busy machine is no reason
// for an election.
func Calm(_ string, c *raftnode.Config) {
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLease = time.Second, time.Second, time.Second
	c.TransportTimeout = 10 * time.Second
}

// New starts a cluster and waits until it has a leader that serves. It stops with
// the test.
func New(tb testing.TB, opts Options) *Cluster {
	tb.Helper()
	if opts.Nodes == 0 {
		opts.Nodes = 3
	}
	c := &Cluster{tb: tb, opts: opts, net: newNetwork(opts.Memory), root: tb.TempDir()}
	tb.Cleanup(c.close)
	var servers []raftnode.Server
	for i := range opts.Nodes {
		id := fmt.Sprintf("n%d", i+1)
		servers = append(servers, raftnode.Server{ID: id, Addr: id, Voter: true})
	}
	for _, s := range servers {
		c.add(s.ID, servers)
	}
	c.WaitLeader()
	return c
}

func (c *Cluster) add(id string, bootstrap []raftnode.Server) *Member {
	c.tb.Helper()
	m := &Member{ID: id, Dir: filepath.Join(c.root, id), c: c}
	if err := os.MkdirAll(m.Dir, 0o700); err != nil {
		c.tb.Fatal(err)
	}
	c.Members = append(c.Members, m)
	m.start(bootstrap)
	return m
}

// Add starts a node with an empty folder that is in no configuration yet.
func (c *Cluster) Add(id string) *Member {
	c.tb.Helper()
	return c.add(id, nil)
}

// Member gives a node by its id.
func (c *Cluster) Member(id string) *Member {
	for _, m := range c.Members {
		if m.ID == id {
			return m
		}
	}
	c.tb.Fatalf("there is no node %s", id)
	return nil
}

// Start runs a node that is down, on its folder.
func (m *Member) Start() {
	m.c.tb.Helper()
	m.start(nil)
}

// TryStart is Start for a node that is expected to refuse.
func (m *Member) TryStart() error { return m.run(nil) }

func (m *Member) start(bootstrap []raftnode.Server) {
	m.c.tb.Helper()
	if err := m.run(bootstrap); err != nil {
		m.c.tb.Fatalf("node %s does not start: %v", m.ID, err)
	}
}

func (m *Member) run(bootstrap []raftnode.Server) (err error) {
	reg := state.NewRegistry()
	register.Register(reg)
	if m.c.opts.Register != nil {
		m.c.opts.Register(reg)
	}
	sc := m.c.opts.State
	if sc.MmapBytes == 0 {
		sc.MmapBytes = 1 << 30
	}
	dead := &atomic.Bool{}
	m.dead = dead
	var events watch.Publisher
	if m.c.opts.Events != nil {
		events = m.c.opts.Events(m.ID)
	}
	m.Machine, err = state.Open(state.Options{
		Path: filepath.Join(m.Dir, "state.db"), Registry: reg, Mode: state.Logged, Config: sc, Events: events,
		Faults: state.Faults{BeforeCommit: func() error {
			if dead.Load() {
				return errDead
			}
			m.sync()
			return nil
		}},
	})
	if err != nil {
		m.Machine = nil
		return err
	}
	defer func() {
		if err != nil {
			m.down()
		}
	}()
	if m.port, err = newPort(m.c.net, m.ID); err != nil {
		return err
	}
	cfg := DefaultConfig()
	if m.c.opts.Config != nil {
		m.c.opts.Config(m.ID, &cfg)
	}
	opts := raftnode.Options{
		NodeID: m.ID, Addr: m.ID, DataDir: m.Dir, Machine: m.Machine, Peers: m.port,
		Clock: clock.System(), Logger: m.logger(), Config: cfg, BeforeLog: m.sync,
	}
	if free := m.c.opts.FreeBytes; free != nil {
		opts.FreeBytes = func(string) (int64, error) { return free(m.ID) }
	}
	node, err := raftnode.New(opts)
	if err != nil {
		return err
	}
	m.Replica = node
	if bootstrap != nil {
		if err := node.Bootstrap(bootstrap); err != nil {
			return err
		}
	}
	mux := wire.NewMux()
	node.Register(mux)
	if m.c.opts.Mux != nil {
		m.c.opts.Mux(m.ID, mux)
	}
	if m.c.opts.Before != nil {
		m.c.opts.Before(m)
	}
	if err := node.Start(); err != nil {
		return err
	}
	m.port.serve(mux)
	return nil
}

func (m *Member) logger() *slog.Logger {
	if !m.c.opts.Verbose {
		return slog.New(slog.DiscardHandler)
	}
	var out io.Writer = m.c.tb.Output()
	return slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", m.ID)
}

// Up tells whether the node runs.
func (m *Member) Up() bool { return m.Replica != nil }

// Stop shuts the node down in good order.
func (m *Member) Stop() {
	m.c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if m.Replica != nil {
		if err := m.Replica.Shutdown(ctx); err != nil {
			m.c.tb.Errorf("node %s: %v", m.ID, err)
		}
		m.Replica = nil
	}
	m.down()
}

// Kill ends the node without handing anything over. What its log holds, and no
// more, is there when it starts again: the state file keeps what was committed to
// it before.
func (m *Member) Kill() {
	m.c.tb.Helper()
	m.dead.Store(true)
	if m.port != nil {
		m.port.close()
		m.port = nil
	}
	m.down()
}

func (m *Member) down() {
	if m.c.opts.Down != nil {
		m.c.opts.Down(m)
	}
	if m.Replica != nil {
		m.Replica.Abort()
		m.Replica = nil
	}
	if m.port != nil {
		m.port.close()
		m.port = nil
	}
	if m.Machine != nil {
		_ = m.Machine.Close()
		m.Machine = nil
	}
}

func (c *Cluster) close() {
	for _, m := range c.Members {
		m.down()
	}
	c.net.close()
}

// Leader is the node that leads and serves in the newest term, nil for none.
func (c *Cluster) Leader() *Member {
	var (
		best *Member
		term uint64
	)
	for _, m := range c.Members {
		if m.Up() {
			if s := m.Replica.Status(); s.State == "leader" && s.Ready && s.Term > term {
				best, term = m, s.Term
			}
		}
	}
	return best
}

// WaitLeader waits for Leader.
func (c *Cluster) WaitLeader() *Member {
	c.tb.Helper()
	var l *Member
	Eventually(c.tb, "a leader serves", func() error {
		if l = c.Leader(); l == nil {
			return fmt.Errorf("none does: %s", c.describe())
		}
		return nil
	})
	return l
}

// WaitLeaderBut waits for a leader that is none of the given nodes.
func (c *Cluster) WaitLeaderBut(not ...*Member) *Member {
	c.tb.Helper()
	var found *Member
	Eventually(c.tb, "another leader serves", func() error {
		for _, m := range c.Members {
			if m.Up() && !slices.Contains(not, m) {
				if s := m.Replica.Status(); s.State == "leader" && s.Ready {
					found = m
					return nil
				}
			}
		}
		return fmt.Errorf("none does: %s", c.describe())
	})
	return found
}

// Followers is the nodes that run, but for the leader.
func (c *Cluster) Followers() []*Member {
	l := c.WaitLeader()
	var out []*Member
	for _, m := range c.Members {
		if m.Up() && m != l {
			out = append(out, m)
		}
	}
	return out
}

func (c *Cluster) describe() string {
	var b strings.Builder
	for _, m := range c.Members {
		if !m.Up() {
			fmt.Fprintf(&b, "%s down; ", m.ID)
			continue
		}
		s := m.Replica.Status()
		fmt.Fprintf(&b, "%s %s term %d leader %q log %d-%d commit %d applied %d ready %v failed %v; ",
			m.ID, s.State, s.Term, s.LeaderID, s.FirstLog, s.LastLog, s.CommitIndex, s.Applied, s.Ready, m.Replica.Err())
	}
	return b.String()
}

// Link gives the link that from dials to.
func (c *Cluster) Link(from, to *Member) *faultproxy.Link { return c.net.link(from.ID, to.ID).Link }

// between calls fn for both directions between every node of a and every one of b.
func (c *Cluster) between(a, b []*Member, fn func(l *faultproxy.Link)) {
	for _, x := range a {
		for _, y := range b {
			if x != y {
				fn(c.Link(x, y))
				fn(c.Link(y, x))
			}
		}
	}
}

// Others is all nodes but the given ones.
func (c *Cluster) Others(not ...*Member) []*Member {
	var out []*Member
	for _, m := range c.Members {
		if !slices.Contains(not, m) {
			out = append(out, m)
		}
	}
	return out
}

// Isolate holds everything to and from m back, as a network that loses packets.
func (c *Cluster) Isolate(m *Member) {
	c.between([]*Member{m}, c.Others(m), func(l *faultproxy.Link) {
		l.Stall(faultproxy.Out)
		l.Stall(faultproxy.Back)
	})
}

// Mute holds back what m sends and lets it hear.
func (c *Cluster) Mute(m *Member) {
	for _, o := range c.Others(m) {
		c.Link(m, o).Stall(faultproxy.Out)
		c.Link(o, m).Stall(faultproxy.Back)
	}
}

// Deafen holds back what is sent to m and lets it speak.
func (c *Cluster) Deafen(m *Member) {
	for _, o := range c.Others(m) {
		c.Link(m, o).Stall(faultproxy.Back)
		c.Link(o, m).Stall(faultproxy.Out)
	}
}

// Cut refuses all connections to and from m.
func (c *Cluster) Cut(m *Member) {
	c.between([]*Member{m}, c.Others(m), (*faultproxy.Link).Cut)
}

// Slow delays all bytes to and from m by d in each direction.
func (c *Cluster) Slow(m *Member, d time.Duration) {
	c.between([]*Member{m}, c.Others(m), func(l *faultproxy.Link) {
		l.Delay(faultproxy.Out, d)
		l.Delay(faultproxy.Back, d)
	})
}

// Heal takes all faults of the network and of the disks away.
func (c *Cluster) Heal() {
	c.between(c.Members, c.Members, (*faultproxy.Link).Heal)
	for _, m := range c.Members {
		m.SlowDisk(0)
	}
}

// SlowDisk makes every sync of the log and of the state file of m take d longer, until
// Heal. It outlasts restarts.
func (m *Member) SlowDisk(d time.Duration) { m.disk.Store(int64(d)) }

// sync is what a slow disk adds to a sync.
func (m *Member) sync() {
	if d := time.Duration(m.disk.Load()); d > 0 {
		time.Sleep(d) // as the disk would
	}
}

// WaitEqual waits until all running nodes have applied the same entries, and fails
// the test unless their states are equal.
func (c *Cluster) WaitEqual() {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	Eventually(c.tb, "all nodes are at the same index", func() error {
		var want uint64
		for i, m := range c.up() {
			at, _ := m.Machine.Applied()
			if i > 0 && at != want {
				return fmt.Errorf("%s", c.describe())
			}
			want = at
		}
		return nil
	})
	var first state.Hash
	for i, m := range c.up() {
		h, err := m.Machine.Hash(ctx, true)
		if err != nil {
			c.tb.Fatalf("node %s: %v", m.ID, err)
		}
		if i == 0 {
			first = h
		} else if h != first {
			c.tb.Fatalf("the states differ: %s has %+v, %s has %+v", c.up()[0].ID, first, m.ID, h)
		}
	}
}

func (c *Cluster) up() []*Member {
	var out []*Member
	for _, m := range c.Members {
		if m.Up() {
			out = append(out, m)
		}
	}
	return out
}

// Put writes a register through m, again when the outcome is not known.
func (m *Member) Put(ctx context.Context, key, value string) {
	m.c.tb.Helper()
	for {
		_, err := m.Replica.Propose(ctx, register.Put(key, value))
		if err == nil {
			return
		}
		if ctx.Err() != nil || !errs.Has(err, errs.OutcomeUnknown) && !errs.Has(err, errs.NoLeader) {
			m.c.tb.Fatalf("node %s: %v", m.ID, err)
		}
	}
}

// Get reads a register of m.
func (m *Member) Get(ctx context.Context, key string, c replica.Consistency) (string, error) {
	v, _, err := m.Replica.View(ctx, c)
	if err != nil {
		return "", err
	}
	defer v.Release()
	return register.Get(v, key), nil
}

// eventuallyLimit is generous: test machines are slow under the race detector.
const eventuallyLimit = 30 * time.Second

// Eventually polls until check gives nil.
func Eventually(tb testing.TB, what string, check func() error) {
	tb.Helper()
	Within(tb, eventuallyLimit, what, check)
}

// Within is Eventually with a limit of its own.
func Within(tb testing.TB, d time.Duration, what string, check func() error) {
	tb.Helper()
	limit := time.NewTimer(d)
	defer limit.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-limit.C:
			tb.Fatalf("%s: not within %s: %v", what, d, err)
		}
	}
}
