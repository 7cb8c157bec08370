package peer

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"nekoq/services/clock"
	"nekoq/services/errs"
	"nekoq/services/peer/api"
	"nekoq/services/peer/internal/handshake"
	"nekoq/services/peer/internal/identity"
	"nekoq/services/peer/internal/table"
	"nekoq/services/state"
	"nekoq/services/wire"
)

// Register declares the tables and commands of the membership.
func Register(reg *state.Registry) { table.Register(reg) }

// Service is the node-to-node port and the membership of one node.
type Service struct {
	cfg     Config
	deps    Deps
	nodeID  string
	clock   clock.Clock
	log     *slog.Logger
	metrics *metrics
	id      *identity.Store
	peers   []Peer
	static  map[string]string // cluster.peers without this node

	mux, guestMux *wire.Mux
	calls, guests *wire.Server
	raftLn        *raftListener
	ln            net.Listener

	conns   conns
	links   links
	learned sync.Map // node id -> address, as the node said itself in this process's life
	health  health
	hashes  hashState

	at        Attached
	started   atomic.Bool // form runs or has run
	formed    atomic.Bool
	forming   context.Context // ends with ctx, or before with Drain
	endForm   context.CancelFunc
	formEnded chan struct{}
	noRoom    atomic.Pointer[string] // why leadership cannot go to a node with room, while this leader has none
	waiting   atomic.Pointer[string] // what the formation waits for
	removed   atomic.Pointer[string] // why this node is out of the cluster
	reading   sync.Mutex             // one refresh at a time, so that an older view never replaces a newer one
	readAt    uint64                 // Store.Written of the last refresh; guarded by reading
	snapshot  atomic.Pointer[table.Snapshot]

	ctx    context.Context
	cancel context.CancelFunc
	failed chan error
	kick   chan struct{}

	mu      sync.Mutex // guards stopped, with wg.Add
	stopped bool
	wg      sync.WaitGroup
}

// New opens the node's identity; nothing runs yet.
func New(deps Deps, cfg Config) (*Service, error) {
	if err := CheckID("node_id", deps.NodeID); err != nil {
		return nil, err
	}
	if bad := append(cfg.Validate(), cfg.ValidateFor(deps.NodeID)...); len(bad) > 0 {
		return nil, bad[0]
	}
	if deps.Clock == nil {
		deps.Clock = clock.System()
	}
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	if deps.Version == 0 {
		deps.Version = SupportedVersion
	}
	id, err := identity.Open(deps.DataDir, deps.NodeID)
	if err != nil {
		return nil, err
	}
	peers, _ := ParsePeers(cfg.Peers)
	s := &Service{
		cfg: cfg, deps: deps, nodeID: deps.NodeID, clock: deps.Clock,
		log: deps.Logger.With("component", "peer"), id: id, peers: peers, static: map[string]string{},
		mux: wire.NewMux(), guestMux: wire.NewMux(), raftLn: newRaftListener(deps.NodeID), ln: deps.Listener,
		failed: make(chan error, 1), kick: make(chan struct{}, 1),
	}
	for _, p := range peers {
		if p.ID != s.nodeID {
			s.static[p.ID] = p.Address
		}
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.forming, s.endForm = context.WithCancel(s.ctx)
	s.formEnded = make(chan struct{})
	s.snapshot.Store(&table.Snapshot{})
	s.metrics = newMetrics(deps.Metrics, s)
	s.registerMethods()
	return s, nil
}

// Mux is the table of peer calls; fill it before Start.
func (s *Service) Mux() *wire.Mux { return s.mux }

// RaftListener accepts the Raft streams of other nodes.
func (s *Service) RaftListener() net.Listener { return s.raftLn }

// NodeID is this node's id.
func (s *Service) NodeID() string { return s.nodeID }

// ClusterID is the cluster's id, "" before it is known.
func (s *Service) ClusterID() string {
	if id := s.members().ClusterID; id != "" {
		return id
	}
	return s.id.Get().ClusterID
}

// Attach hands in what was made with the Service as its way to other nodes.
// Before Start, and before the replica runs.
func (s *Service) Attach(at Attached) {
	s.at = at
	at.Replica.OnLeader("peer.membership", s.lead)
}

// Start listens and begins to form the cluster; Ready says how far that is, and
// Failed carries what makes going on impossible.
func (s *Service) Start(context.Context) error {
	s.refresh()
	if v := s.members().ClusterVersion; v > s.deps.Version {
		return errs.New(errs.VersionTooOld,
			"the data folder belongs to a cluster of version %d, and this binary supports up to %d: start a newer one", v, s.deps.Version)
	}
	if err := s.checkFolder(); err != nil {
		return err
	}
	if err := s.listen(); err != nil {
		return err
	}
	s.newServers()
	s.goes(s.acceptLoop)
	s.started.Store(s.goes(s.form))
	s.goes(s.tick)
	s.log.Info("node-to-node port is open", "address", s.Address(), "node", s.nodeID,
		"incarnation", s.id.Incarnation().String(), "cluster", s.ClusterID())
	return nil
}

// Failed carries the reason why this node cannot go on.
func (s *Service) Failed() <-chan error { return s.failed }

func (s *Service) fail(err error) {
	s.log.Error("this node cannot go on", "error", err)
	select {
	case s.failed <- err:
	default:
	}
}

// Drain gives up forming, so that Raft is not started any more: call it before
// the Raft node is stopped, and Stop after.
func (s *Service) Drain(ctx context.Context) error {
	s.endForm()
	if !s.started.Load() {
		return nil
	}
	select {
	case <-s.formEnded:
		return nil
	case <-ctx.Done():
		return errs.From(ctx.Err())
	}
}

// Stop closes the port and every connection, and waits for what runs. Calls that
// run get until ctx ends.
func (s *Service) Stop(ctx context.Context) error {
	s.mu.Lock()
	first := !s.stopped
	s.stopped = true
	s.mu.Unlock()
	if !first {
		return nil
	}
	if s.ln != nil {
		s.ln.Close()
	}
	var err error
	if s.calls != nil {
		err = s.calls.Shutdown(ctx)
		if gerr := s.guests.Shutdown(ctx); err == nil {
			err = gerr
		}
	}
	s.cancel()
	s.raftLn.Close()
	s.conns.close()
	s.wg.Wait()
	s.metrics.unregister()
	return err
}

// goes runs f and is waited for by Stop; false when the service has stopped.
func (s *Service) goes(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return false
	}
	s.wg.Go(f)
	return true
}

// pause waits; false when ctx ended first.
func (s *Service) pause(ctx context.Context, d time.Duration) bool {
	t := s.clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
		return true
	case <-ctx.Done():
		return false
	}
}

// Address is where other nodes reach this one.
func (s *Service) Address() string {
	switch {
	case s.cfg.Advertise != "":
		return s.cfg.Advertise
	case s.ln != nil:
		host, port, err := net.SplitHostPort(s.ln.Addr().String())
		if err != nil {
			return s.ln.Addr().String()
		}
		if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
			for _, p := range s.peers {
				if p.ID == s.nodeID {
					return p.Address
				}
			}
			host = "127.0.0.1"
		}
		return net.JoinHostPort(host, port)
	}
	return s.cfg.Listen
}

// hello is what this node says of itself. target is whom it means to reach.
func (s *Service) hello(target string) handshake.Hello {
	id := s.id.Get()
	cluster := s.members().ClusterID
	if cluster == "" {
		cluster = id.ClusterID
	}
	return handshake.Hello{
		Protocol: handshake.Protocol, ClusterID: cluster, NodeID: s.nodeID, Incarnation: s.id.Incarnation(),
		Address: s.Address(), HTTP: s.deps.HTTP, Native: s.deps.Native, Version: s.deps.Version, Software: s.deps.Software,
		Joined: id.Joined, Formed: s.formed.Load(), Peers: peerIDs(s.peers), Target: target,
	}
}

func peerIDs(peers []Peer) string {
	ids := make([]string, len(peers))
	for i, p := range peers {
		ids[i] = p.ID
	}
	slices.Sort(ids)
	return strings.Join(ids, ",")
}

// members is the newest member table that this node has looked at.
func (s *Service) members() *table.Snapshot { return s.snapshot.Load() }

// look is refresh for who looks often: it reads the member table only if that was
// written since.
func (s *Service) look() *table.Snapshot {
	if s.at.Store == nil {
		return s.members()
	}
	s.reading.Lock()
	at, revision := s.at.Store.Written(table.Cluster, table.Members, table.Removed)
	if at != s.readAt {
		s.reading.Unlock()
		return s.refresh()
	}
	defer s.reading.Unlock()
	same := *s.members()
	same.Revision = max(same.Revision, revision) // a refresh may have seen a later batch than it was told of
	s.snapshot.Store(&same)
	return &same
}

// refresh reads the member table and acts on what changed: it keeps the cluster
// id, cuts connections of removed nodes, and notices its own removal.
func (s *Service) refresh() *table.Snapshot {
	if s.at.Store == nil {
		return s.members()
	}
	s.reading.Lock()
	defer s.reading.Unlock()
	at, _ := s.at.Store.Written(table.Cluster, table.Members, table.Removed)
	v := s.at.Store.View()
	snap, err := table.Read(v)
	v.Release()
	if err != nil {
		s.log.Error("the member table cannot be read", "error", err)
		return s.members()
	}
	s.readAt = at
	old := s.snapshot.Swap(snap)
	if old.Revision == snap.Revision && old.ClusterID == snap.ClusterID {
		return snap
	}
	s.keepIdentity(snap)
	s.conns.cut(func(h handshake.Hello) bool {
		_, gone := snap.Removed(h.NodeID, h.Incarnation)
		return gone
	})
	s.links.drop(func(id string) bool {
		_, was := old.Members[id]
		_, is := snap.Members[id]
		return is || !was
	})
	if rev, gone := snap.Removed(s.nodeID, s.id.Incarnation()); gone {
		s.noteRemoved(rev)
	}
	return snap
}

// keepIdentity writes what the table has made known: the cluster id, and that
// pins of members are no longer needed.
func (s *Service) keepIdentity(snap *table.Snapshot) {
	if snap.ClusterID == "" {
		return
	}
	err := s.id.Update(func(i *identity.Identity) {
		if i.ClusterID == "" {
			i.ClusterID = snap.ClusterID
		}
		i.Phase = identity.Member // the table came through this node's own log
		for id := range i.Peers {
			if m, ok := snap.Members[id]; ok && !m.Incarnation.IsZero() {
				delete(i.Peers, id)
			}
		}
	})
	if err != nil {
		s.log.Error("the node's identity cannot be written", "error", err)
	}
	if have := s.id.Get().ClusterID; have != snap.ClusterID {
		s.fail(errs.New(errs.Corrupt,
			"the data folder mixes two clusters: %s says %s and the state says %s; empty the folder and join anew, or restore it whole",
			identity.FileName, have, snap.ClusterID))
	}
}

// judge judges another node by what is known now.
func (s *Service) judge(kind handshake.Kind, h handshake.Hello) handshake.Verdict {
	k := s.knowledge()
	v := k.judge(kind, h)
	if v.OK() && s.removed.Load() != nil && kind != handshake.Guest {
		return refuse(handshake.Other, errs.IdentityRefused, "node %s was itself removed from the cluster", s.nodeID)
	}
	return v
}

func (s *Service) knowledge() *knowledge {
	static := make(map[string]bool, len(s.static))
	for id := range s.static {
		static[id] = true
	}
	return &knowledge{self: s.hello(""), table: s.refresh(), pinned: s.id.Pinned, static: static, joining: len(s.cfg.Join) > 0 && !s.formed.Load()}
}

// met remembers a node that was accepted: its address for dialling, and, as long
// as the table does not have it, its incarnation, synced before a message of it counts.
func (s *Service) met(kind handshake.Kind, h handshake.Hello) error {
	if kind == handshake.Guest {
		return nil
	}
	s.learned.Store(h.NodeID, h.Address)
	s.health.hello(h)
	if kind != handshake.Raft && !s.formed.Load() && !h.Formed {
		return nil // nothing has been voted on yet: its folder may still be replaced
	}
	snap := s.members()
	if m, ok := snap.Members[h.NodeID]; ok && !m.Incarnation.IsZero() {
		return nil
	}
	var clash bool
	err := s.id.Update(func(i *identity.Identity) {
		have, ok := i.Peers[h.NodeID]
		if ok && have != h.Incarnation.String() && h.Joined <= snap.Revision {
			clash = true // another life of it came in at the same moment
			return
		}
		i.Peers[h.NodeID] = h.Incarnation.String()
	})
	if err == nil && clash {
		return errs.New(errs.IdentityRefused, "node %s came with two incarnations at the same time", h.NodeID)
	}
	return err
}

// Ready says whether this node is a working member, or why not.
func (s *Service) Ready(context.Context) error {
	if r := s.reason(); r != "" {
		return errs.New(errs.Unavailable, "%s", r)
	}
	return nil
}

// reason is why this node does not serve, "" when it does.
func (s *Service) reason() string {
	if p := s.removed.Load(); p != nil {
		return *p
	}
	if r := s.hashes.ownReason(s.nodeID); r != "" {
		return r
	}
	if !s.formed.Load() {
		if p := s.waiting.Load(); p != nil {
			return *p
		}
		return "the cluster is being formed"
	}
	if leader, _ := s.at.Replica.Leader(); leader == "" {
		if r := s.health.refusal(); r != "" {
			return r
		}
	}
	return ""
}

// report is what this node says of itself.
func (s *Service) report() api.Report {
	h := s.hello("")
	r := api.Report{
		ID: h.NodeID, Incarnation: h.Incarnation.String(), ClusterID: h.ClusterID, Address: h.Address,
		HTTPAddress: h.HTTP, NativeAddress: h.Native, Version: h.Version, Software: h.Software,
		Reason: s.reason(), Hashes: s.hashes.last(), Disk: s.disk(),
	}
	r.Ready = r.Reason == ""
	r.AppliedIndex, _ = s.at.Store.Applied()
	r.LeaderID, r.Term = s.at.Replica.Leader()
	return r
}
