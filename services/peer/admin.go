package peer

import (
	"context"
	"crypto/subtle"
	"fmt"
	"slices"
	"strings"

	"nekoq/services/auth"
	"nekoq/services/errs"
	"nekoq/services/peer/api"
	"nekoq/services/peer/internal/table"
	"nekoq/services/replica"
)

// removeOrder and promoteOrder carry to the leader who asked, for the log entry.
type removeOrder struct {
	api.RemoveRequest
	Actor string `json:"actor"`
}

type promoteOrder struct {
	api.PromoteRequest
	Actor string `json:"actor"`
}

// actor is who asks, as log entries keep it (at most 255 bytes).
func actor(ctx context.Context) string {
	a := auth.FromContext(ctx).Actor()
	return a[:min(len(a), 255)]
}

func (s *Service) checkToken(token string) error {
	if s.cfg.JoinToken == "" || subtle.ConstantTimeCompare([]byte(token), []byte(s.cfg.JoinToken)) == 1 {
		return nil
	}
	return errs.New(errs.Unauthenticated, "the join token is not the cluster's: set cluster.join_token to the same value as on the members")
}

// Remove takes a node out of the cluster and returns when that is done. It is
// refused when the nodes that stay have no quorum alive, unless force is set. A
// member that was removed before is no error: the call may be repeated. A node that
// is asked to remove itself learns that it was done when the others turn it away.
func (s *Service) Remove(ctx context.Context, req api.RemoveRequest) (api.Done, error) {
	if err := table.CheckID("id", req.ID); err != nil {
		return api.Done{}, err
	}
	out, _, err := onLeader(ctx, s, methodRemove, removeOrder{req, actor(ctx)}, s.removeHere)
	if err != nil && req.ID == s.nodeID && s.removed.Load() != nil {
		return api.Done{}, nil // who leads now is not this node's to know
	}
	return out, err
}

func (s *Service) removeHere(ctx context.Context, req removeOrder) (api.Done, error) {
	out := api.Done{LeaderID: s.nodeID}
	if err := s.leads(); err != nil {
		return out, err
	}
	snap := s.refresh()
	m, ok := snap.Members[req.ID]
	if !ok && snap.RemovedID(req.ID) {
		return out, nil // as asked, by this caller or another; a retry is answered like the first try
	}
	if !ok {
		return out, errs.New(errs.NotFound, "the cluster has no member %q; its members are %s", req.ID, strings.Join(snap.Order, ", "))
	}
	if err := s.checkRemoval(m, req.Force); err != nil {
		return out, err
	}
	if req.ID == s.nodeID {
		if err := s.at.Raft.TransferLeadership(ctx, ""); err != nil {
			return out, err
		}
		return out, errs.New(errs.NoLeader, "node %s handed leadership over, to be removed by the next leader", s.nodeID)
	}
	cmd := table.SetState(m.ID, m.Incarnation, table.Leaving)
	cmd.Actor = req.Actor
	if _, err := s.at.Replica.Propose(replica.Essential(ctx), cmd); err != nil {
		return out, err
	}
	s.wake()
	for {
		if now, ok := s.refresh().Members[m.ID]; !ok || now.Incarnation != m.Incarnation {
			return out, nil
		}
		if !s.pause(ctx, s.cfg.RedialMin) {
			return out, errs.New(errs.OutcomeUnknown, "node %s is being removed; that goes on, see the cluster's status", m.ID)
		}
	}
}

// checkRemoval: what stays must be able to commit the removal, and everything after.
func (s *Service) checkRemoval(m table.Member, force bool) error {
	stay, alive := 0, 0
	var dead []string
	for _, srv := range s.at.Raft.Servers() {
		if !srv.Voter || srv.ID == m.ID || s.members().Members[srv.ID].State == table.Leaving {
			continue
		}
		stay++
		if s.alive(srv.ID) {
			alive++
		} else {
			dead = append(dead, srv.ID)
		}
	}
	if stay == 0 && m.State != table.Joining {
		return errs.New(errs.Conflict, "node %s is the last voter and cannot be removed", m.ID)
	}
	if needed := stay/2 + 1; alive < needed && !force {
		return errs.New(errs.Conflict,
			"removing node %s would leave %d voters of which %d are alive (dead: %s), and %d are needed: bring them back first, or use force",
			m.ID, stay, alive, strings.Join(dead, ", "), needed)
	}
	return nil
}

// Transfer hands leadership to a voter, to the most advanced one for "". It
// returns when another node leads.
func (s *Service) Transfer(ctx context.Context, req api.TransferRequest) (api.Done, error) {
	out, again, err := onLeader(ctx, s, methodTransfer, req, s.transferHere)
	if leader, _ := s.at.Replica.Leader(); again && err != nil && req.To != "" && leader == req.To {
		return api.Done{LeaderID: leader}, nil
	}
	return out, err
}

func (s *Service) transferHere(ctx context.Context, req api.TransferRequest) (api.Done, error) {
	out := api.Done{LeaderID: s.nodeID}
	if err := s.leads(); err != nil {
		return out, err
	}
	if req.To == s.nodeID {
		return out, nil
	}
	var voters []string
	for _, srv := range s.at.Raft.Servers() {
		if srv.Voter {
			voters = append(voters, srv.ID)
		}
	}
	switch {
	case len(voters) < 2:
		return out, errs.New(errs.Conflict, "leadership cannot be handed over: node %s is the only voter", s.nodeID)
	case req.To != "" && !slices.Contains(voters, req.To):
		return out, errs.Invalid("to", req.To, "a voter: "+strings.Join(voters, ", "))
	case req.To != "" && !s.alive(req.To):
		return out, errs.New(errs.Conflict, "leadership cannot be handed to node %s: it does not answer", req.To)
	}
	if err := s.at.Raft.TransferLeadership(ctx, req.To); err != nil {
		return out, err
	}
	for {
		if leader, _ := s.at.Replica.Leader(); leader != "" && leader != s.nodeID {
			out.LeaderID = leader
			return out, nil
		}
		if !s.pause(ctx, s.cfg.RedialMin) {
			return out, errs.New(errs.OutcomeUnknown, "leadership was handed over, and no other leader is known yet")
		}
	}
}

// Promote makes a joining node a voter now, caught up or not.
func (s *Service) Promote(ctx context.Context, req api.PromoteRequest) (api.Done, error) {
	if err := table.CheckID("id", req.ID); err != nil {
		return api.Done{}, err
	}
	out, _, err := onLeader(ctx, s, methodPromote, promoteOrder{req, actor(ctx)}, s.promoteHere)
	return out, err
}

func (s *Service) promoteHere(ctx context.Context, req promoteOrder) (api.Done, error) {
	out := api.Done{LeaderID: s.nodeID}
	if err := s.leads(); err != nil {
		return out, err
	}
	m, ok := s.refresh().Members[req.ID]
	switch {
	case !ok:
		return out, errs.New(errs.NotFound, "the cluster has no member %q", req.ID)
	case m.State == table.Voter:
		return out, nil
	case m.State == table.Leaving:
		return out, errs.New(errs.Conflict, "node %s is being removed", req.ID)
	}
	i := slices.IndexFunc(s.at.Raft.Servers(), func(srv Server) bool { return srv.ID == req.ID })
	if i < 0 {
		return out, errs.New(errs.Conflict, "node %s does not receive the log yet; try again in a moment", req.ID)
	}
	if req.CaughtUp {
		if err := s.caughtUp(ctx, req.ID); err != nil {
			return out, err
		}
	}
	if err := s.at.Raft.Promote(ctx, req.ID); err != nil {
		return out, err
	}
	cmd := table.SetState(m.ID, m.Incarnation, table.Voter)
	cmd.Actor = req.Actor
	_, err := s.at.Replica.Propose(replica.Essential(ctx), cmd)
	return out, err
}

// Status is the whole cluster as seen from this node. It asks every member, and
// answers also when most of them are dead.
func (s *Service) Status(ctx context.Context) (api.Cluster, error) {
	if s.at.Store == nil {
		return api.Cluster{}, errs.New(errs.Unavailable, "the node is starting")
	}
	snap := s.refresh()
	reports := s.gather(ctx, snap)
	out := api.Cluster{ClusterID: snap.ClusterID, SeenFrom: s.nodeID, Version: snap.ClusterVersion}
	out.LeaderID, out.Term = s.at.Replica.Leader()
	out.Hashes = s.hashes.last()
	if r, ok := reports[out.LeaderID]; ok && r.Hashes != nil && (out.Hashes == nil || r.Hashes.At.After(out.Hashes.At)) {
		out.Hashes = r.Hashes
	}
	var newest uint64
	for _, r := range reports {
		newest = max(newest, r.AppliedIndex)
	}
	for _, m := range s.rows(snap) {
		n := s.node(m, reports[m.ID], out)
		if n.AppliedIndex < newest {
			n.Lag = newest - n.AppliedIndex
		}
		out.Nodes = append(out.Nodes, n)
		if n.Role != table.Joining.String() {
			out.Quorum.Voters++
			if n.Alive {
				out.Quorum.Alive++
			}
		}
	}
	out.Quorum.Judge()
	return out, nil
}

// Members are the nodes as this node's own state has them, not older than any view of
// it that was taken before; nobody is asked.
func (s *Service) Members() []api.Member {
	rows := s.rows(s.refresh())
	out := make([]api.Member, len(rows))
	for i, m := range rows {
		out[i] = api.Member{ID: m.ID, Address: m.Address, Role: m.State.String(), Joined: m.Joined}
	}
	return out
}

// rows are the members; before the cluster has its table, the nodes of the
// first-start list.
func (s *Service) rows(snap *table.Snapshot) []table.Member {
	var out []table.Member
	for _, id := range snap.Order {
		out = append(out, snap.Members[id])
	}
	if snap.ClusterID == "" {
		for _, p := range s.peers {
			out = append(out, table.Member{ID: p.ID, Address: p.Address, State: table.Voter})
		}
	}
	return out
}

// gather asks all members at once how they are, with a short deadline: a dead
// node must not make the status slow.
func (s *Service) gather(ctx context.Context, snap *table.Snapshot) map[string]api.Report {
	type answer struct {
		id string
		r  api.Report
		ok bool
	}
	ctx, cancel := context.WithTimeout(ctx, min(s.cfg.CallTimeout, s.cfg.DialTimeout))
	defer cancel()
	rows := s.rows(snap)
	answers := make(chan answer, len(rows))
	for _, m := range rows {
		if m.ID == s.nodeID {
			answers <- answer{m.ID, s.report(), true}
			continue
		}
		if !s.goes(func() {
			r, err := s.ping(ctx, m.ID)
			answers <- answer{m.ID, r, err == nil}
		}) {
			answers <- answer{id: m.ID}
		}
	}
	out := map[string]api.Report{}
	for range rows {
		if a := <-answers; a.ok {
			out[a.id] = a.r
		}
	}
	return out
}

func (s *Service) node(m table.Member, r api.Report, c api.Cluster) api.Node {
	n := api.Node{
		ID: m.ID, Address: m.Address, HTTPAddress: m.HTTP, NativeAddress: m.Native, Role: m.State.String(),
		Leader: m.ID == c.LeaderID, Version: m.Version, Software: m.Software, State: api.HashUnknown,
	}
	if !m.Incarnation.IsZero() {
		n.Incarnation = m.Incarnation.String()
	}
	if c.Hashes != nil {
		for _, h := range c.Hashes.Nodes {
			if h.ID == m.ID {
				n.State = h.Verdict
			}
		}
	}
	n.Alive = r.ID != ""
	if at, ok := s.lastSeen(m.ID); ok {
		n.LastSeen = &at
	}
	switch {
	case n.Alive:
		n.Ready, n.Reason, n.AppliedIndex, n.Disk = r.Ready, r.Reason, r.AppliedIndex, r.Disk
		if n.Reason == "" && n.Disk != nil && n.Disk.Full {
			n.Reason = n.Disk.Reason
		}
	default:
		n.Reason = s.silence(m, n)
		if last := s.health.get(m.ID).report; last != nil {
			n.AppliedIndex = last.AppliedIndex
		}
	}
	return n
}

// silence says why a node gives no answer.
func (s *Service) silence(m table.Member, n api.Node) string {
	if v := s.health.get(m.ID).refused; v != nil {
		return v.Message
	}
	if n.LastSeen == nil {
		return fmt.Sprintf("node %s has not been heard of since this node started", m.ID)
	}
	return fmt.Sprintf("node %s does not answer", m.ID)
}
