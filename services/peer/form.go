package peer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"nekoq/services/errs"
	"nekoq/services/peer/internal/handshake"
	"nekoq/services/peer/internal/identity"
	"nekoq/services/peer/internal/table"
	"nekoq/services/wire"
)

// checkFolder compares the identity with the Raft state beside it. A folder that
// has lost one of the two must not vote: it may have voted before.
func (s *Service) checkFolder() error {
	id, has := s.id.Get(), s.at.Raft.HasState()
	switch {
	case has && s.id.Created():
		return errs.New(errs.Corrupt,
			"the data folder %s has a Raft log and no %s: restore that file, or run `nekoq cluster remove %s` on a live node, empty the folder and start with cluster.join",
			s.deps.DataDir, identity.FileName, s.nodeID)
	case !has && id.Phase == identity.Member:
		return errs.New(errs.Corrupt,
			"node %[1]s was a member of cluster %[2]s and its Raft log is gone from %[3]s: restore the folder, or run `nekoq cluster remove %[1]s` on a live node, empty the folder and start with cluster.join",
			s.nodeID, id.ClusterID, s.deps.DataDir)
	case !has && id.Phase == identity.New && len(s.cfg.Join) == 0 && len(s.peers) == 0:
		return errs.New(errs.InvalidArgument,
			"cluster.peers is empty and so is cluster.join: a node's first start needs the list of the first nodes (peers = [\"%s=%s\", ...]) or the address of a member (join)",
			s.nodeID, s.Address())
	}
	return nil
}

// form brings this node into a cluster and then starts Raft.
func (s *Service) form() {
	defer close(s.formEnded)
	id := s.id.Get()
	var err error
	switch {
	case s.at.Raft.HasState():
		err = s.id.Update(func(i *identity.Identity) { i.Phase = identity.Member })
	case len(s.cfg.Join) > 0:
		err = s.join()
	case id.Phase == identity.Joining:
		// Admitted before; the leader knows and will come.
	default:
		err = s.firstStart()
	}
	if s.forming.Err() != nil {
		return
	}
	if err == nil {
		err = s.at.Raft.Start()
	}
	if err != nil {
		why := err.Error()
		s.waiting.Store(&why) // before the failure is told: whoever hears of it asks Ready
		s.fail(err)
		return
	}
	s.formed.Store(true)
}

func (s *Service) waitsFor(format string, args ...any) {
	why := fmt.Sprintf(format, args...)
	if old := s.waiting.Swap(&why); old == nil || *old != why {
		s.log.Info(why)
	}
}

// probed is the outcome of asking the peers of a first start.
type probed struct {
	answers int
	silent  []string
	cluster string // id of a cluster that exists already
}

// firstStart decides with the peers on the list whether there is a cluster yet.
// Every peer must answer, or a majority of the list once bootstrap_wait is over:
// a node that has lost its disk is then told so by anyone who remembers it, and
// one that reaches nobody waits.
func (s *Service) firstStart() error {
	start := s.clock.Now()
	for {
		p, err := s.probe()
		if err != nil {
			return err
		}
		if p.cluster != "" {
			s.log.Info("the cluster exists already; this node takes its place in it", "cluster", p.cluster)
			return nil
		}
		waited := s.clock.Now().Sub(start)
		if len(p.silent) == 0 || waited >= s.cfg.BootstrapWait && p.answers >= len(s.peers)/2+1 {
			return s.bootstrap()
		}
		s.waitsFor("first start: waiting for %s (have %d of %d nodes; a majority is enough after %s)",
			strings.Join(p.silent, ", "), p.answers, len(s.peers), s.cfg.BootstrapWait)
		if !s.pause(s.forming, min(s.cfg.RedialMax, 200*time.Millisecond)) {
			return s.forming.Err()
		}
	}
}

// probe asks every peer. A refusal that time does not heal ends the start.
func (s *Service) probe() (probed, error) {
	p := probed{answers: 1}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var fatal error
	for _, peer := range s.peers {
		if peer.ID == s.nodeID {
			continue
		}
		wg.Go(func() {
			r, err := s.ping(s.forming, peer.ID)
			mu.Lock()
			defer mu.Unlock()
			refused, final := lasting(err)
			switch {
			case err == nil:
				p.answers++
				if r.ClusterID != "" {
					p.cluster = r.ClusterID
				}
			case final:
				if fatal == nil || refused.Error() < fatal.Error() {
					fatal = refused
				}
			default:
				p.silent = append(p.silent, peer.ID)
			}
		})
	}
	wg.Wait()
	if s.forming.Err() != nil {
		return p, s.forming.Err()
	}
	return p, fatal
}

// lasting tells whether an error is a refusal that a new try does not heal.
func lasting(err error) (*handshake.Refused, bool) {
	r, ok := errors.AsType[*handshake.Refused](err)
	return r, ok && r.Verdict.Reason != handshake.Busy
}

func (s *Service) bootstrap() error {
	servers := make([]Server, len(s.peers))
	for i, p := range s.peers {
		servers[i] = Server{ID: p.ID, Addr: p.ID, Voter: true}
	}
	if err := s.at.Raft.Bootstrap(servers); err != nil {
		return err
	}
	s.log.Info("first start of the cluster", "nodes", peerIDs(s.peers))
	return s.id.Update(func(i *identity.Identity) { i.Phase = identity.Member })
}

// joinRequest is what a node that wants to join says.
type joinRequest struct {
	ID          string `json:"id"`
	Incarnation string `json:"incarnation"`
	Address     string `json:"address"`
	HTTP        string `json:"http_address"`
	Native      string `json:"native_address"`
	Version     uint32 `json:"supported_version"`
	Software    string `json:"software"`
	Token       string `json:"token"`
}

type joinResponse struct {
	ClusterID string       `json:"cluster_id"`
	Joined    uint64       `json:"joined"`
	Members   []joinMember `json:"members"`
}

type joinMember struct {
	ID          string `json:"id"`
	Incarnation string `json:"incarnation"`
	Address     string `json:"address"`
}

// join asks the addresses of cluster.join in turn until one takes this node in
// or says that none ever will.
func (s *Service) join() error {
	pause := s.cfg.RedialMin
	for {
		var last error
		for _, addr := range s.cfg.Join {
			resp, err := s.joinAt(addr)
			if err == nil {
				return s.admitted(resp)
			}
			if s.forming.Err() != nil {
				return s.forming.Err()
			}
			if _, final := lasting(err); final || !errs.From(err).Retryable() && !errs.Has(err, errs.OutcomeUnknown) && !errs.Has(err, errs.FailedPrecond) {
				return errs.New(errs.CodeOf(err), "node %s cannot join through %s: %s", s.nodeID, addr, errs.From(err).Message).Wrap(err)
			}
			last = fmt.Errorf("%s: %w", addr, err)
		}
		s.waitsFor("joining: no member at cluster.join has taken this node in yet: %v", last)
		if !s.pause(s.forming, pause) {
			return s.forming.Err()
		}
		pause = min(2*pause, s.cfg.RedialMax)
	}
}

func (s *Service) joinAt(addr string) (joinResponse, error) {
	// The member may have to find the leader first, which takes an election at worst.
	ctx, cancel := context.WithTimeout(s.forming, s.cfg.DialTimeout+s.cfg.HandshakeTimeout+4*s.cfg.CallTimeout)
	defer cancel()
	var out joinResponse
	c, _, err := s.dialAddress(ctx, addr, "", handshake.Guest)
	if err != nil {
		return out, err
	}
	conn, err := wire.NewConn(ctx, c, wire.Options{Agent: "nekoq-node " + s.nodeID, Limits: s.wireLimits()})
	if err != nil {
		return out, err
	}
	defer conn.Close()
	h := s.hello("")
	req, err := json.Marshal(joinRequest{
		ID: h.NodeID, Incarnation: h.Incarnation.String(), Address: h.Address, HTTP: h.HTTP, Native: h.Native,
		Version: h.Version, Software: h.Software, Token: s.cfg.JoinToken,
	})
	if err != nil {
		return out, errs.New(errs.Internal, "the request to join cannot be encoded").Wrap(err)
	}
	b, err := conn.Call(ctx, methodJoin, req)
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(b, &out); err != nil || out.ClusterID == "" {
		return out, errs.New(errs.ProtocolViolation, "the answer of the member at %s cannot be decoded", addr)
	}
	return out, nil
}

// admitted keeps what the member said, before Raft starts and others come.
func (s *Service) admitted(resp joinResponse) error {
	s.log.Info("this node was taken into the cluster", "cluster", resp.ClusterID, "revision", resp.Joined)
	for _, m := range resp.Members {
		if m.ID != s.nodeID {
			s.learned.Store(m.ID, m.Address)
		}
	}
	return s.id.Update(func(i *identity.Identity) {
		i.ClusterID, i.Joined, i.Phase = resp.ClusterID, resp.Joined, identity.Joining
		for _, m := range resp.Members {
			if inc, err := table.ParseIncarnation(m.Incarnation); err == nil && !inc.IsZero() && m.ID != s.nodeID {
				i.Peers[m.ID] = m.Incarnation
			}
		}
	})
}

// joinByGuest is a join as it arrives at any member: it checks the token and
// takes it to the leader.
func (s *Service) joinByGuest(ctx context.Context, req joinRequest) (joinResponse, error) {
	if s.at.Replica == nil || !s.formed.Load() {
		return joinResponse{}, errs.New(errs.Unavailable, "node %s is not part of a cluster itself yet", s.nodeID)
	}
	if err := s.checkToken(req.Token); err != nil {
		return joinResponse{}, err
	}
	out, _, err := onLeader(ctx, s, methodJoin, req, s.admit)
	return out, err
}

// admit takes a node into the member table, on the leader; the leader's loop
// does the rest.
func (s *Service) admit(ctx context.Context, req joinRequest) (joinResponse, error) {
	var out joinResponse
	if err := s.leads(); err != nil {
		return out, err
	}
	if err := s.checkToken(req.Token); err != nil {
		return out, err
	}
	inc, err := table.ParseIncarnation(req.Incarnation)
	if err != nil {
		return out, err
	}
	if err := checkAddress("cluster.advertise", req.Address, false); err != nil {
		return out, err
	}
	m := table.Member{
		ID: req.ID, Incarnation: inc, Address: req.Address, HTTP: req.HTTP, Native: req.Native,
		Version: req.Version, Software: req.Software, State: table.Joining,
	}
	if have, ok := s.refresh().Members[m.ID]; !ok || have.Incarnation == inc {
		// A member that cannot be reached would cost the quorum a vote.
		c, h, err := s.dialAddress(ctx, m.Address, m.ID, handshake.Guest)
		if err != nil {
			return out, errs.New(errs.FailedPrecond, "the leader %s cannot reach node %s at %s, its cluster.advertise: %v",
				s.nodeID, m.ID, m.Address, err).Wrap(err)
		}
		c.Close()
		s.learned.Store(h.NodeID, h.Address)
		s.health.hello(h)
	}
	cmd := table.Join(m)
	cmd.Actor = "peer:" + m.ID
	res, err := s.at.Replica.Propose(ctx, cmd)
	if err != nil {
		return out, s.explainJoin(err, m)
	}
	joined, ok := table.DecodeJoined(res.Data)
	if !ok {
		return out, errs.New(errs.Internal, "the result of the join cannot be decoded")
	}
	s.wake()
	snap := s.refresh()
	out = joinResponse{ClusterID: snap.ClusterID, Joined: joined}
	for _, id := range snap.Order {
		o := snap.Members[id]
		out.Members = append(out.Members, joinMember{ID: o.ID, Incarnation: o.Incarnation.String(), Address: o.Address})
	}
	return out, nil
}

// explainJoin adds the way out to a refusal because of another life of the node.
func (s *Service) explainJoin(err error, m table.Member) error {
	have, ok := s.members().Members[m.ID]
	if errs.Has(err, errs.IdentityRefused) && ok && have.Incarnation != m.Incarnation {
		k := s.knowledge()
		v := k.otherLife(handshake.Hello{NodeID: m.ID, Incarnation: m.Incarnation}, have.Incarnation)
		return errs.New(v.Code, "%s", v.Message).Wrap(err)
	}
	return err
}
