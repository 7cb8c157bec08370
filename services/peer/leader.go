package peer

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"slices"
	"sync"
	"time"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/peer/internal/handshake"
	"nekoq/services/peer/internal/table"
	"nekoq/services/replica"
	"nekoq/services/state"
)

// lead runs while this node leads: it moves the member table and the Raft
// configuration towards each other. What a leader leaves half done the next one
// takes up, because all of it is read from the two anew in each round.
func (s *Service) lead(ctx context.Context, term uint64) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(s.ctx, cancel)
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	if s.cfg.HashInterval > 0 {
		wg.Go(func() { s.hashLoop(ctx) })
	}
	wg.Go(func() { s.watchRoom(ctx) })
	d := driver{Service: s, term: term, caught: map[string]time.Time{}}
	t := s.clock.NewTicker(min(s.cfg.PingInterval, 250*time.Millisecond))
	defer t.Stop()
	for ctx.Err() == nil {
		if err := d.round(ctx); err != nil && ctx.Err() == nil && s.health.once("round "+err.Error(), s.clock.Now()) {
			s.log.Warn("the membership is not yet as it should be", "error", err)
		}
		select {
		case <-t.C():
		case <-s.kick:
		case <-ctx.Done():
		}
	}
}

// wake lets the leader's loop go on at once.
func (s *Service) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// driver is the state of one leadership.
type driver struct {
	*Service
	term   uint64
	caught map[string]time.Time // joining node -> since when it has kept up
}

func (d *driver) propose(ctx context.Context, cmd command.Command) error {
	cmd.Actor = "peer:" + d.nodeID
	ctx, cancel := context.WithTimeout(replica.Essential(ctx), d.cfg.CallTimeout)
	defer cancel()
	_, err := d.at.Replica.Propose(ctx, cmd)
	return err
}

// round does what can be done now, for one member after the other; an error with
// one member does not hold up the rest.
func (d *driver) round(ctx context.Context) error {
	snap := d.look()
	if snap.ClusterID == "" {
		if err := d.initCluster(ctx); err != nil {
			return err
		}
		snap = d.refresh()
	}
	servers := map[string]Server{}
	for _, srv := range d.at.Raft.Servers() {
		servers[srv.ID] = srv
	}
	var all []error
	for _, id := range snap.Order {
		m := snap.Members[id]
		if err := d.observe(ctx, m); err != nil {
			all = append(all, err)
		}
		srv, in := servers[id]
		if err := d.move(ctx, m, srv, in); err != nil {
			all = append(all, err)
		}
	}
	return errors.Join(append(all, d.raiseVersion(ctx))...)
}

// initCluster names the cluster, once in its life.
func (d *driver) initCluster(ctx context.Context) error {
	var id [16]byte
	rand.Read(id[:]) // never fails (crypto/rand)
	var members []table.Member
	for _, srv := range d.at.Raft.Servers() {
		m := table.Member{ID: srv.ID, Address: d.static[srv.ID], State: table.Voter}
		if got, ok := d.known(srv.ID); ok {
			m = got
			m.State = table.Voter
		} else if inc, ok := d.id.Pinned(srv.ID); ok {
			m.Incarnation = inc
		}
		if !srv.Voter {
			m.State = table.Joining
		}
		members = append(members, m)
	}
	slices.SortFunc(members, func(a, b table.Member) int { return cmp.Compare(a.ID, b.ID) })
	cluster := hex.EncodeToString(id[:])
	err := d.propose(ctx, table.Init(cluster, members))
	if err == nil {
		d.log.Info("the cluster has its id", "cluster", cluster, "members", len(members))
	}
	if errs.Has(err, errs.AlreadyExists) {
		return nil
	}
	return err
}

// known is what this node knows first-hand of a member, itself included. What a
// node says of itself is the same for the whole life of its process, and a new
// process has to shake hands anew.
func (d *driver) known(id string) (table.Member, bool) {
	if id == d.nodeID {
		return fromHello(d.hello("")), true
	}
	if h := d.health.get(id).hello; h != nil {
		return fromHello(*h), true
	}
	return table.Member{}, false
}

func fromHello(h handshake.Hello) table.Member {
	return table.Member{
		ID: h.NodeID, Incarnation: h.Incarnation, Address: h.Address, HTTP: h.HTTP, Native: h.Native,
		Version: h.Version, Software: h.Software,
	}
}

// observe writes what has changed about a member.
func (d *driver) observe(ctx context.Context, m table.Member) error {
	got, ok := d.known(m.ID)
	if !ok || !d.alive(m.ID) || !m.Incarnation.IsZero() && got.Incarnation != m.Incarnation {
		return nil
	}
	got.State, got.Joined = m.State, m.Joined
	if got == m {
		return nil
	}
	return d.propose(ctx, table.Observe(got))
}

// move takes one member a step further.
func (d *driver) move(ctx context.Context, m table.Member, srv Server, in bool) error {
	switch {
	case m.State == table.Leaving && m.ID == d.nodeID:
		d.log.Info("this node is being removed and hands leadership over first")
		return d.at.Raft.TransferLeadership(ctx, "")
	case m.State == table.Leaving:
		if in {
			if err := d.at.Raft.Remove(ctx, m.ID); err != nil {
				return err
			}
		}
		if err := d.propose(ctx, table.Remove(m.ID, m.Incarnation)); err != nil {
			return err
		}
		d.log.Info("a node was removed from the cluster", "node", m.ID)
		d.refresh()
	case m.State == table.Joining && !in:
		d.log.Info("a node joins the cluster and catches up", "node", m.ID, "address", m.Address)
		return d.at.Raft.AddNonvoter(ctx, m.ID, m.ID)
	case m.State == table.Joining && !srv.Voter:
		if !d.keepsUp(ctx, m.ID) {
			return nil
		}
		if err := d.at.Raft.Promote(ctx, m.ID); err != nil {
			return err
		}
		fallthrough
	case m.State == table.Joining:
		if err := d.propose(ctx, table.SetState(m.ID, m.Incarnation, table.Voter)); err != nil {
			return err
		}
		d.log.Info("a node has caught up and votes now", "node", m.ID)
	}
	return nil
}

// caughtUp fails unless a joining node is close to this one. This node's index is taken
// before the other is asked, so a busy log does not look like a lag.
func (s *Service) caughtUp(ctx context.Context, id string) error {
	mine, _ := s.at.Store.Applied()
	r, err := s.ping(ctx, id)
	if err != nil {
		return errs.New(errs.FailedPrecond, "how far node %s is behind is not known (%v); it votes by itself once it has caught up", id, err).Wrap(err)
	}
	if most := uint64(s.cfg.CatchUpEntries); r.AppliedIndex == 0 || mine > r.AppliedIndex+most {
		return errs.New(errs.FailedPrecond, "node %s has applied %d of %d log entries, and may lag by %d (cluster.catch_up_entries); it votes by itself once it has caught up",
			id, r.AppliedIndex, mine, most)
	}
	return nil
}

// keepsUp tells whether a joining node has been close to the leader for long enough.
func (d *driver) keepsUp(ctx context.Context, id string) bool {
	if d.caughtUp(ctx, id) != nil {
		delete(d.caught, id)
		return false
	}
	now := d.clock.Now()
	since, ok := d.caught[id]
	if !ok {
		d.caught[id] = now
		since = now
	}
	return now.Sub(since) >= d.cfg.CatchUpHold
}

// raiseVersion proposes the newest cluster version that every member supports.
func (d *driver) raiseVersion(ctx context.Context) error {
	snap := d.look()
	lowest := d.deps.Version
	for _, m := range snap.Members {
		lowest = min(lowest, m.Version) // 0: not seen yet, so not known
	}
	if len(snap.Members) == 0 || lowest <= snap.ClusterVersion {
		return nil
	}
	d.log.Info("the cluster goes to a newer version", "version", lowest)
	return d.propose(ctx, state.SetClusterVersion(lowest))
}
