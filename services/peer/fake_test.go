package peer

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/peer/internal/table"
	"nekoq/services/replica"
	"nekoq/services/state"
	"nekoq/services/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// group is a Raft group that cannot fail: one log in memory, applied to the
// members at once. It lets the membership be tested without elections.
type group struct {
	t       testing.TB
	mu      sync.Mutex
	log     [][]byte
	servers []Server
	leader  string
	term    uint64
	nodes   map[string]*fakeNode
	secure  func(id string) Secure
	metrics func(id string) prometheus.Registerer
	// heldAtStart: new nodes are held from the beginning.
	heldAtStart bool
	ending      sync.WaitGroup // leader loops that have been told to end
}

func newGroup(t testing.TB) *group { return &group{t: t, nodes: map[string]*fakeNode{}} }

// fakeNode is one node: the real Service over the fake group.
type fakeNode struct {
	g    *group
	id   string
	dir  string
	m    *state.Machine
	svc  *Service
	addr string

	onLeader []func(context.Context, uint64)
	stopLead func()
	started  bool
	stopped  bool
	held     bool // does not apply, as if far behind
	full     bool // has no disk space
}

func testConfig() Config {
	c := DefaultConfig()
	c.Listen = "127.0.0.1:0"
	c.PingInterval, c.DeadAfter = 20*time.Millisecond, 400*time.Millisecond
	c.RedialMin, c.RedialMax = 5*time.Millisecond, 50*time.Millisecond
	c.BootstrapWait, c.CatchUpHold, c.HashInterval = 300*time.Millisecond, 50*time.Millisecond, 0
	c.DialTimeout, c.HandshakeTimeout, c.CallTimeout = time.Second, time.Second, 2*time.Second
	return c
}

type setup struct {
	id      string
	dir     string // "" for an empty one
	ln      net.Listener
	cfg     Config
	version uint32
}

func listener(t testing.TB) net.Listener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln
}

// methodEcho is of raftnode's range, which no raftnode uses here.
const methodEcho wire.Method = 0x0f00

// try makes and starts a node.
func (g *group) try(o setup) (*fakeNode, error) {
	g.t.Helper()
	if o.dir == "" {
		o.dir = g.t.TempDir()
	}
	reg := state.NewRegistry()
	Register(reg)
	m, err := state.Open(state.Options{Path: filepath.Join(o.dir, "state.db"), Registry: reg, Mode: state.Synced})
	require.NoError(g.t, err)
	log := slog.New(slog.NewTextHandler(g.t.Output(), nil)).With("node", o.id)
	deps := Deps{
		NodeID: o.id, DataDir: o.dir, Listener: o.ln, Logger: log, Version: o.version,
		HTTP: o.id + ":http", Native: o.id + ":native", Software: "test",
	}
	if g.secure != nil {
		deps.Secure = g.secure(o.id)
	}
	if g.metrics != nil {
		deps.Metrics = g.metrics(o.id)
	}
	svc, err := New(deps, o.cfg)
	if err != nil {
		require.NoError(g.t, m.Close())
		return nil, err
	}
	svc.Mux().Unary(methodEcho, "test.echo", func(_ context.Context, req, dst []byte) ([]byte, error) {
		return append(dst, req...), nil
	})
	n := &fakeNode{g: g, id: o.id, dir: o.dir, m: m, svc: svc, held: g.heldAtStart}
	svc.Attach(Attached{Store: m, Replica: n, Raft: n, Disk: n.disk})
	g.mu.Lock()
	g.nodes[o.id] = n
	g.mu.Unlock()
	if err := svc.Start(context.Background()); err != nil {
		n.stop()
		return nil, err
	}
	n.addr = svc.Address()
	g.t.Cleanup(n.stop)
	return n, nil
}

func (g *group) start(o setup) *fakeNode {
	g.t.Helper()
	n, err := g.try(o)
	require.NoError(g.t, err)
	return n
}

// stop ends the node; its folder stays.
func (n *fakeNode) stop() {
	n.g.mu.Lock()
	if n.stopped {
		n.g.mu.Unlock()
		return
	}
	n.stopped = true
	lead := n.stopLead
	n.stopLead = nil
	if n.g.nodes[n.id] == n {
		delete(n.g.nodes, n.id)
		if n.g.leader == n.id {
			n.g.leader = ""
		}
	}
	n.started = false
	n.g.mu.Unlock()
	if lead != nil {
		lead()
	}
	n.g.ending.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := n.svc.Stop(ctx); err != nil {
		n.g.t.Errorf("stop of %s: %v", n.id, err)
	}
	if err := n.m.Close(); err != nil {
		n.g.t.Errorf("close of %s: %v", n.id, err)
	}
	n.g.mu.Lock()
	leaderless := n.g.leader == ""
	n.g.mu.Unlock()
	if leaderless {
		n.g.elect("")
	}
}

// elect makes a voter the leader, when a majority of the voters runs; "" takes any.
func (g *group) elect(id string) bool {
	g.mu.Lock()
	voters, up := 0, 0
	for _, s := range g.servers {
		if n := g.nodes[s.ID]; s.Voter {
			voters++
			if n != nil && n.started {
				up++
				if id == "" && s.ID != g.leader {
					id = s.ID
				}
			}
		}
	}
	n := g.nodes[id]
	if voters == 0 || up < voters/2+1 || n == nil || !n.started || g.leader == id {
		ok := n != nil && g.leader == id
		g.mu.Unlock()
		return ok
	}
	var old func()
	if o := g.nodes[g.leader]; o != nil {
		old, o.stopLead = o.stopLead, nil
	}
	g.leader = id
	g.term++
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, fn := range n.onLeader {
		term := g.term
		wg.Go(func() { fn(ctx, term) })
	}
	n.stopLead = func() { cancel(); wg.Wait() }
	g.mu.Unlock()
	if old != nil {
		g.ending.Go(old) // not waited for here: the old leader's loop may be the caller
	}
	return true
}

func (n *fakeNode) marker() string { return filepath.Join(n.dir, "raft") }

func (n *fakeNode) HasState() bool {
	_, err := os.Stat(n.marker())
	return err == nil
}

func (n *fakeNode) keep() {
	if err := os.WriteFile(n.marker(), nil, 0o600); err != nil {
		n.g.t.Errorf("marker: %v", err)
	}
}

func (n *fakeNode) Bootstrap(servers []Server) error {
	n.g.mu.Lock()
	defer n.g.mu.Unlock()
	if n.g.servers == nil {
		n.g.servers = slices.Clone(servers)
	}
	n.keep()
	return nil
}

func (n *fakeNode) Start() error {
	n.g.mu.Lock()
	n.started = true
	n.catchUp()
	leaderless := n.g.leader == ""
	n.g.mu.Unlock()
	if leaderless {
		n.g.elect("")
	}
	return nil
}

// catchUp applies what the node has not applied; g.mu is held.
func (n *fakeNode) catchUp() {
	in := slices.ContainsFunc(n.g.servers, func(s Server) bool { return s.ID == n.id })
	if !n.started || n.held || !in {
		return
	}
	n.keep()
	at, _ := n.m.Applied()
	for i := at; i < uint64(len(n.g.log)); i++ {
		if _, err := n.m.ApplyEntry(i+1, 1, n.g.log[i]); err != nil {
			n.g.t.Errorf("apply on %s: %v", n.id, err)
		}
	}
}

func (n *fakeNode) hold(on bool) {
	n.g.mu.Lock()
	defer n.g.mu.Unlock()
	n.held = on
	n.catchUp()
}

func (n *fakeNode) Propose(_ context.Context, cmd command.Command) (replica.Result, error) {
	g := n.g
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.nodes[g.leader]
	if l == nil || !n.started {
		return replica.Result{}, errs.New(errs.NoLeader, "no leader")
	}
	cmd.Time = time.Now().UnixNano()
	entry := command.AppendBatch(nil, []command.Command{cmd})
	g.log = append(g.log, entry)
	index := uint64(len(g.log))
	res, err := l.m.ApplyEntry(index, g.term, entry)
	if err != nil {
		return replica.Result{}, err
	}
	for _, o := range g.nodes {
		o.catchUp()
	}
	return replica.Result{Index: index, Revision: res[0].Revision, Changed: res[0].Changed, Data: res[0].Data}, res[0].Err
}

func (n *fakeNode) Current(index string) any { return n.m.Current(index) }

func (n *fakeNode) Written(tables ...state.TableID) (at, revision uint64) {
	return n.m.Written(tables...)
}

func (n *fakeNode) View(context.Context, replica.Consistency) (*state.View, replica.Lag, error) {
	return n.m.View(), replica.Lag{}, nil
}

func (n *fakeNode) Leader() (string, uint64) {
	n.g.mu.Lock()
	defer n.g.mu.Unlock()
	if !n.started || !slices.ContainsFunc(n.g.servers, func(s Server) bool { return s.ID == n.id }) {
		return "", n.g.term
	}
	return n.g.leader, n.g.term
}

func (n *fakeNode) IsLeader() bool {
	id, _ := n.Leader()
	return id == n.id
}

func (n *fakeNode) OnLeader(_ string, fn func(context.Context, uint64)) {
	n.onLeader = append(n.onLeader, fn)
}
func (n *fakeNode) NodeID() string { return n.id }

func (n *fakeNode) Servers() []Server {
	n.g.mu.Lock()
	defer n.g.mu.Unlock()
	return slices.Clone(n.g.servers)
}

func (n *fakeNode) change(f func([]Server) []Server) error {
	n.g.mu.Lock()
	defer n.g.mu.Unlock()
	if n.g.leader != n.id {
		return errs.New(errs.NoLeader, "%s does not lead", n.id)
	}
	n.g.servers = f(n.g.servers)
	for _, o := range n.g.nodes {
		o.catchUp()
	}
	return nil
}

func (n *fakeNode) AddNonvoter(_ context.Context, id, addr string) error {
	return n.change(func(s []Server) []Server { return append(s, Server{ID: id, Addr: addr}) })
}

func (n *fakeNode) Promote(_ context.Context, id string) error {
	return n.change(func(s []Server) []Server {
		for i := range s {
			if s[i].ID == id {
				s[i].Voter = true
			}
		}
		return s
	})
}

func (n *fakeNode) Remove(_ context.Context, id string) error {
	return n.change(func(s []Server) []Server {
		return slices.DeleteFunc(s, func(o Server) bool { return o.ID == id })
	})
}

func (n *fakeNode) TransferLeadership(_ context.Context, id string) error {
	if !n.g.elect(id) {
		return errs.New(errs.Unavailable, "leadership could not be handed to %q", id)
	}
	return nil
}

// disk: a tenth of what there is on every node is kept in reserve.
func (n *fakeNode) disk() (free, reserve int64, full error) {
	n.g.mu.Lock()
	defer n.g.mu.Unlock()
	if n.full {
		return 99, 100, errs.New(errs.StorageFull, "the disk of %s is full", n.id)
	}
	return 1000, 100, nil
}

func (n *fakeNode) fill(full bool) {
	n.g.mu.Lock()
	defer n.g.mu.Unlock()
	n.full = full
}

// eventually polls until f returns "", and fails with what it said last.
func eventually(t testing.TB, f func() string) {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		why := f()
		if why == "" {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not in time: %s", why)
		}
	}
}

// three starts a cluster of three nodes and waits until all are known.
func (g *group) three() (nodes []*fakeNode, peers []string) {
	g.t.Helper()
	lns := []net.Listener{listener(g.t), listener(g.t), listener(g.t)}
	for i, ln := range lns {
		peers = append(peers, fmt.Sprintf("n%d=%s", i+1, ln.Addr()))
	}
	for i, ln := range lns {
		cfg := testConfig()
		cfg.Peers = peers
		nodes = append(nodes, g.start(setup{id: fmt.Sprintf("n%d", i+1), ln: ln, cfg: cfg}))
	}
	for _, n := range nodes {
		n.waitMembers(3)
	}
	return nodes, peers
}

// waitMembers waits until the node sees count members, all of them identified, and is ready.
func (n *fakeNode) waitMembers(count int) {
	n.g.t.Helper()
	eventually(n.g.t, func() string {
		if err := n.svc.Ready(context.Background()); err != nil {
			return n.id + ": " + err.Error()
		}
		snap := n.svc.refresh()
		if len(snap.Members) != count {
			return fmt.Sprintf("%s sees %d members", n.id, len(snap.Members))
		}
		for id, m := range snap.Members {
			if m.Incarnation.IsZero() {
				return n.id + " has not seen " + id
			}
		}
		return ""
	})
}

// otherEntry is a command that changes a state in a way that the log does not know.
func otherEntry() []byte {
	return command.AppendBatch(nil, []command.Command{table.Join(table.Member{
		ID: "ghost", Incarnation: table.Incarnation{66}, Address: "10.9.9.9:1", Version: 1,
	})})
}

func removeFile(path string) error { return os.Remove(path) }
