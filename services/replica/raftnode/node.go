package raftnode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"

	"nekoq/services/clock"
	"nekoq/services/errs"
	"nekoq/services/replica"
	"nekoq/services/replica/internal/group"
	"nekoq/services/replica/internal/onleader"
	"nekoq/services/state"
	"nekoq/services/wire"
)

// Options of New.
type Options struct {
	NodeID  string
	Addr    string         // of this node's cluster port, as other nodes dial it
	DataDir string         // the Raft files live in DataDir/raft
	Machine *state.Machine // in Logged mode; the caller opens and closes it
	Peers   Peers
	Clock   clock.Clock
	Logger  *slog.Logger
	Metrics prometheus.Registerer // nil for none
	Config  Config
	// FreeBytes replaces the measurement of free space, for tests; nil otherwise.
	FreeBytes func(dir string) (int64, error)
	// BeforeLog runs before each write of the log, for tests with a slow disk; nil
	// otherwise.
	BeforeLog func()
}

// Node is one member of the Raft group.
type Node struct {
	id      string
	addr    string
	dir     string
	cfg     Config
	machine *state.Machine
	peers   Peers
	clock   clock.Clock
	log     *slog.Logger
	hclog   *hclogger

	m          *metrics
	collectors []prometheus.Collector
	unregister func()

	disk   *diskGuard
	stable *stableStore
	logs   *logStore
	snaps  *snapshots
	fsm    *fsm
	raft   atomic.Pointer[raft.Raft]

	queue   *group.Queue // commands for the next entry, on the leader
	forward *group.Queue // commands for the leader
	answers answers
	leader  *leaderView
	loops   onleader.Set

	ownReads    reads
	leaderReads reads
	recentReads reads
	confirmed   atomic.Pointer[confirmation]
	confirms    confirms
	voterCache  atomic.Pointer[voterSet]
	changes     changes
	progress    sync.Map // node id to the applied index that it last told

	life     context.Context // ends with Shutdown
	end      context.CancelFunc
	workers  sync.WaitGroup // that end when the queues close
	helpers  sync.WaitGroup // that end with life
	started  atomic.Bool
	alone    bool // it was bootstrapped as the only voter in this process
	stopOnce sync.Once
	stopping chan struct{} // closed when Shutdown begins
	failed   chan struct{}
	failOnce sync.Once
	err      error // set before failed is closed
	closed   chan struct{}
}

var _ replica.Replica = (*Node)(nil)

// New opens the log and checks it against the state; nothing runs yet. Its
// errors are *errs.Error: corrupt names the file and the way out.
func New(opts Options) (*Node, error) {
	if found := opts.Config.Validate(); len(found) > 0 {
		return nil, errors.Join(found...)
	}
	dir := filepath.Join(opts.DataDir, "raft")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, errs.New(errs.Internal, "the Raft folder %s cannot be made: %v", dir, err).Wrap(err)
	}
	n := &Node{
		id: opts.NodeID, addr: opts.Addr, dir: dir, cfg: opts.Config,
		machine: opts.Machine, peers: opts.Peers, clock: opts.Clock, log: opts.Logger,
		hclog: &hclogger{log: opts.Logger}, m: newMetrics(),
		queue:    group.New(opts.Config.MaxPending, opts.Config.MaxPendingBytes, opts.Config.EntryWait),
		forward:  group.New(opts.Config.MaxPending, opts.Config.MaxPendingBytes, opts.Config.EntryWait),
		stopping: make(chan struct{}), failed: make(chan struct{}), closed: make(chan struct{}),
		unregister: func() {},
	}
	n.life, n.end = context.WithCancel(context.Background())
	n.leader = newLeaderView(n.life)
	n.confirms.peers = map[string]*confirmer{}
	n.ownReads = reads{fetch: n.confirm, size: func(k int) { n.m.roundReads.Observe(float64(k)) }, kick: make(chan struct{}, 1)}
	n.recentReads = reads{fetch: n.askLeaderRecent, size: func(int) {}, kick: make(chan struct{}, 1)}
	n.leaderReads = reads{fetch: n.askLeader, size: func(int) {}, kick: make(chan struct{}, 1)}
	n.disk = newDiskGuard(dir, opts.Config.DiskReserveBytes, opts.Logger)
	if opts.FreeBytes != nil {
		n.disk.free = opts.FreeBytes
	}
	if err := n.open(); err != nil {
		n.closeFiles()
		n.end()
		return nil, err
	}
	n.logs.before = opts.BeforeLog
	if err := n.register(opts.Metrics); err != nil {
		n.closeFiles()
		n.end()
		return nil, err
	}
	return n, nil
}

func (n *Node) open() (err error) {
	if n.stable, err = openStable(n.dir); err != nil {
		return errs.From(err)
	}
	if n.snaps, err = openSnapshots(n.dir, n.machine, n.m); err != nil {
		return errs.From(err)
	}
	if err = n.snaps.recover(); err != nil {
		return err
	}
	n.fsm = &fsm{machine: n.machine, snaps: n.snaps, m: n.m, fail: n.fail, inflight: map[*byte]*flight{}}
	if n.logs, err = openLog(newEngine(n.cfg, n.dir, n.hclog), n.cfg, n.disk, n.log, n.m, n.fail); err != nil {
		return err
	}
	n.logs.snapshot = n.snaps.covered
	if err := errors.Join(syncDir(n.dir), syncDir(filepath.Dir(n.dir))); err != nil {
		return errs.New(errs.Internal, "the folder %s cannot be synced: %v", n.dir, err).Wrap(err)
	}
	return n.reconcile()
}

// reconcile makes sure that snapshot, log and state fit together.
func (n *Node) reconcile() error {
	var snapIndex, stateIndex uint64
	if m := n.snaps.last(); m != nil {
		snapIndex, stateIndex = m.Index, m.StateIndex
	}
	first, err := n.logs.FirstIndex()
	if err != nil {
		return corruptLog(n.logs.engine.files(), err)
	}
	last := n.logs.last.Load()
	// A crash between taking over a state and clearing the log leaves entries that
	// the state covers, with a gap behind them.
	if last > 0 && last < snapIndex {
		if err := n.logs.DeleteRange(first, last); err != nil {
			return err
		}
		first, last = 0, 0
	}
	n.logs.snapshotTaken(snapIndex)
	if first > snapIndex+1 {
		return corruptLog(n.logs.engine.files(), fmt.Errorf("it begins at %d, but the snapshot ends at %d", first, snapIndex))
	}
	if err := n.begun(last > 0, last == 0 && snapIndex == 0); err != nil {
		return err
	}
	at, _ := n.machine.Applied()
	if ends := max(last, snapIndex, stateIndex); at > ends {
		return corruptLog(n.logs.engine.files(), fmt.Errorf("it ends at %d, but the state file holds %d: acknowledged entries are missing", ends, at))
	}
	return nil
}

// logBegun is set in the vote file once the log has held an entry: a log whose
// only segment is damaged from its beginning looks like one that was never written.
var logBegun = []byte("LogBegun")

// begun keeps the mark, and refuses a log that has lost everything.
func (n *Node) begun(holds, empty bool) error {
	mark, err := n.stable.GetUint64(logBegun)
	if err != nil {
		return corruptLog(n.stable.path, err)
	}
	if mark != 0 && empty {
		return corruptLog(n.logs.engine.files(), errors.New("it is empty, but this node has written to it"))
	}
	n.logs.first = func() error { return n.stable.SetUint64(logBegun, 1) }
	if holds {
		return n.logs.first()
	}
	return nil
}

func (n *Node) closeFiles() {
	if n.logs != nil {
		if err := n.logs.Close(); err != nil {
			n.log.Warn("closing the Raft log", "error", err)
		}
	}
	if n.stable != nil {
		if err := n.stable.Close(); err != nil {
			n.log.Warn("closing the Raft vote file", "error", err)
		}
	}
}

// Register adds the peer calls of this package to the cluster port's table.
func (n *Node) Register(mux *wire.Mux) {
	mux.Unary(MethodForward, "raft.forward", n.serveForward)
	mux.Unary(MethodForwardEssential, "raft.forward_essential", n.serveForwardEssential)
	mux.Unary(MethodForwardRest, "raft.forward_rest", n.serveForwardRest)
	mux.Unary(MethodReadIndex, "raft.read_index", n.serveReadIndex)
	mux.Unary(MethodConfirmTerm, "raft.confirm_term", n.serveConfirmTerm)
	mux.Unary(MethodProgress, "raft.progress", n.serveProgress)
}

// HasState tells whether this node has ever been part of a cluster.
func (n *Node) HasState() bool {
	term, _ := n.stable.GetUint64([]byte("CurrentTerm"))
	return term > 0 || n.logs.last.Load() > 0 || n.snaps.last() != nil
}

// Bootstrap writes the first configuration. Only for the first start of a
// cluster, between New and Start, with the same servers on every node.
func (n *Node) Bootstrap(servers []Server) error {
	if n.HasState() {
		return errs.New(errs.Conflict, "the node is part of a cluster already")
	}
	var c raft.Configuration
	for _, s := range servers {
		suffrage := raft.Nonvoter
		if s.Voter {
			suffrage = raft.Voter
		}
		c.Servers = append(c.Servers, raft.Server{ID: raft.ServerID(s.ID), Address: raft.ServerAddress(s.Addr), Suffrage: suffrage})
	}
	n.alone = soleVoter(c, raft.ServerID(n.id))
	if err := raft.BootstrapCluster(n.raftConfig(nil), n.logs, n.stable, n.snaps, nil, c); err != nil {
		return errs.New(errs.Internal, "the first configuration cannot be written: %v", err).Wrap(err)
	}
	return nil
}

// noSnapshots is a threshold that raft never reaches: the node takes snapshots by
// bytes.
const noSnapshots = 1 << 62

func (n *Node) raftConfig(notify chan bool) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(n.id)
	c.HeartbeatTimeout = n.cfg.HeartbeatTimeout
	c.ElectionTimeout = n.cfg.ElectionTimeout
	c.LeaderLeaseTimeout = n.cfg.LeaderLease
	c.CommitTimeout = n.cfg.CommitTimeout
	c.MaxAppendEntries = n.cfg.MaxAppendEntries
	c.SnapshotThreshold = noSnapshots
	c.SnapshotInterval = time.Hour
	c.TrailingLogs = 1 // logStore keeps more; 0 would look like clearing the log
	c.NoSnapshotRestoreOnStart = true
	c.ShutdownOnRemove = false
	c.NoLegacyTelemetry = true
	c.Logger = n.hclog
	c.NotifyCh = notify
	return c
}

// Start joins the group. It returns at once; WaitReady waits for a leader.
func (n *Node) Start() error {
	if n.started.Swap(true) {
		return errs.New(errs.Internal, "the node was started before")
	}
	n.disk.look()
	notify := make(chan bool, 64)
	trans := newTransport(n.peers, n.addr, n.cfg, n.hclog)
	trans.again = n.waitInTerm
	n.snaps.install = func(begins bool) {
		if r := n.raft.Load(); begins && r != nil {
			trans.answerHeartbeats(r.CurrentTerm)
		} else {
			trans.passHeartbeats()
		}
	}
	n.fsm.hints = newHints(n.life, n.helpers.Go, n.id)
	n.fsm.hints.send, n.fsm.hints.leads = trans.hint, n.leads
	n.fsm.hints.servers = func() []raft.Server {
		if r := n.raft.Load(); r != nil {
			return r.GetConfiguration().Configuration().Servers
		}
		return nil
	}
	n.snaps.follows = n.logs.follows
	n.snaps.committed = func() uint64 {
		if r := n.raft.Load(); r != nil {
			return r.CommitIndex()
		}
		return 0
	}
	if n.maybeAlone() {
		trans.ownMessages(n.life, n.helpers.Go)
	}
	r, err := raft.NewRaft(n.raftConfig(notify), n.fsm, n.logs, n.stable, n.snaps, trans)
	if err != nil {
		_ = trans.Close()
		return errs.New(errs.Internal, "Raft cannot start: %v", err).Wrap(err)
	}
	n.raft.Store(r)
	seen := make(chan raft.Observation, 64)
	r.RegisterObserver(raft.NewObserver(seen, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.LeaderObservation, raft.RaftState:
			return true
		}
		return false
	}))
	for range n.cfg.MaxInflight {
		n.workers.Go(n.runEntries)
	}
	for range forwardSlots {
		n.workers.Go(n.runForward)
	}
	n.helpers.Go(func() { n.ownReads.rounds(n.life.Done()) })
	n.helpers.Go(func() { n.leaderReads.rounds(n.life.Done()) })
	n.helpers.Go(func() { n.recentReads.rounds(n.life.Done()) })
	n.helpers.Go(func() { n.runLeadership(r, notify) })
	n.helpers.Go(func() { n.runObserve(r, seen) })
	n.helpers.Go(func() { n.runSnapshots(r) })
	n.helpers.Go(func() { n.logs.runTrim(n.holdLog, n.life.Done()) })
	n.helpers.Go(func() { n.disk.run(n.cfg.DiskCheckInterval, n.life.Done()) })
	n.helpers.Go(n.watchMachine)
	if trans.own != nil {
		n.helpers.Go(func() { n.standNow(r, trans) })
	}
	return nil
}

// watchMachine stops the node loudly when its state machine has halted.
func (n *Node) watchMachine() {
	select {
	case <-n.machine.Done():
		if err := n.machine.Err(); !errs.Has(err, errs.ShuttingDown) {
			n.fail(err)
		}
	case <-n.life.Done():
	}
}

// fail makes the node useless for good: it answers no one any more.
func (n *Node) fail(err error) {
	n.failOnce.Do(func() {
		n.log.Error("the node cannot go on", "error", err)
		n.err = err
		n.fsm.halted.Store(true)
		close(n.failed)
		n.loops.Cancel()
	})
}

// Failed is closed when the node cannot go on; Err says why.
func (n *Node) Failed() <-chan struct{} { return n.failed }

// Err is the reason of Failed, nil before.
func (n *Node) Err() error {
	select {
	case <-n.failed:
		return n.err
	default:
		return nil
	}
}

// WaitReady returns when a linearizable read succeeds.
func (n *Node) WaitReady(ctx context.Context) error {
	for {
		v, _, err := n.View(ctx, replica.Linearizable)
		if err == nil {
			v.Release()
			return nil
		}
		if ctx.Err() != nil || n.usable() != nil {
			return err
		}
	}
}

// Leader, IsLeader, OnLeader and NodeID are the rest of replica.Replica.
func (n *Node) Leader() (string, uint64) {
	r := n.raft.Load()
	if r == nil {
		return "", 0
	}
	_, id := r.LeaderWithID()
	return string(id), r.CurrentTerm()
}

func (n *Node) IsLeader() bool {
	r := n.raft.Load()
	return r != nil && r.State() == raft.Leader
}

func (n *Node) OnLeader(name string, fn func(ctx context.Context, term uint64)) {
	n.loops.Add(name, fn)
}

func (n *Node) NodeID() string { return n.id }
