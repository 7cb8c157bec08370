package peer

import (
	"context"
	"sync"
	"time"

	"nekoq/services/errs"
	"nekoq/services/peer/api"
	"nekoq/services/peer/internal/handshake"
)

// seen is what this node knows of another one first-hand.
type seen struct {
	hello    *handshake.Hello
	report   *api.Report
	reported time.Time
	refused  *handshake.Verdict // the node refused this one
	alive    bool               // as logged last
	known    bool               // alive was set once
	pinging  bool
}

type health struct {
	mu     sync.Mutex
	nodes  map[string]*seen
	logged map[string]time.Time // what was logged lately, so that a refusal does not fill the log
}

func (h *health) with(id string, f func(*seen)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.nodes == nil {
		h.nodes = map[string]*seen{}
	}
	n := h.nodes[id]
	if n == nil {
		n = &seen{}
		h.nodes[id] = n
	}
	f(n)
}

func (h *health) hello(m handshake.Hello) {
	h.with(m.NodeID, func(n *seen) { n.hello, n.refused = &m, nil })
}

func (h *health) get(id string) (out seen) {
	h.with(id, func(n *seen) { out = *n })
	return out
}

// refusal is one of the refusals by other nodes that still stand, "" for none.
func (h *health) refusal() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	best := ""
	for _, n := range h.nodes {
		if n.refused != nil && (best == "" || n.refused.Message < best) {
			best = n.refused.Message
		}
	}
	return best
}

// once tells whether key has not come up in the last minute.
func (h *health) once(key string, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.logged == nil || len(h.logged) > 1024 {
		h.logged = map[string]time.Time{}
	}
	if t, ok := h.logged[key]; ok && now.Sub(t) < time.Minute {
		return false
	}
	h.logged[key] = now
	return true
}

// noteRefused makes a refusal known: at once in the log, and for the readiness
// when it was this node that was refused.
func (s *Service) noteRefused(r *handshake.Refused) {
	v := r.Verdict
	s.metrics.refused(reasonName(v.Reason))
	key := reasonName(v.Reason) + " " + r.Peer.NodeID
	if v.Reason == handshake.Busy {
		s.log.Debug("a node is not ready for connections yet", "node", r.Peer.NodeID, "reason", v.Message)
		return
	}
	if !r.ByPeer {
		if s.health.once("we "+key, s.clock.Now()) {
			s.log.Warn("a node was refused", "node", r.Peer.NodeID, "address", r.Peer.Address, "reason", v.Message)
		}
		return
	}
	s.health.with(r.Peer.NodeID, func(n *seen) { n.refused = &v })
	if s.health.once("they "+key, s.clock.Now()) {
		s.log.Error("another node refuses this one", "node", r.Peer.NodeID, "address", r.Peer.Address, "reason", v.Message)
	}
	if v.Reason == handshake.Removed {
		s.setRemoved(v.Message)
	}
}

func (s *Service) noteRemoved(rev uint64) {
	s.setRemoved(removedText(s.nodeID, s.ClusterID(), rev))
}

func (s *Service) setRemoved(why string) {
	if s.removed.CompareAndSwap(nil, &why) {
		s.log.Error("this node was removed from the cluster and serves no more", "reason", why)
		// Nodes that were removed together may be a majority of the configuration
		// that they remember: they must not go on among themselves.
		s.conns.cut(func(handshake.Hello) bool { return true })
		s.links.drop(func(string) bool { return false })
	}
}

func removedText(id, cluster string, rev uint64) string {
	return errs.New(errs.IdentityRefused,
		"node %s was removed from cluster %s at revision %d: stop it; to bring it back, empty its data folder and start it with cluster.join", id, cluster, rev).Message
}

func reasonName(r handshake.Reason) string {
	switch r {
	case handshake.Removed:
		return "removed"
	case handshake.OtherLife:
		return "incarnation"
	case handshake.OtherCluster:
		return "cluster_id"
	case handshake.TooOld:
		return "version"
	case handshake.Stranger:
		return "not_a_member"
	case handshake.WrongNode:
		return "wrong_node"
	case handshake.PeersDiffer:
		return "peers_differ"
	case handshake.Busy:
		return "busy"
	}
	return "other"
}

// others are the nodes that this one keeps in touch with.
func (s *Service) others() []string {
	if s.removed.Load() != nil {
		return nil
	}
	snap := s.members()
	var out []string
	for _, id := range snap.Order {
		if id != s.nodeID {
			out = append(out, id)
		}
	}
	if snap.ClusterID == "" {
		for id := range s.static {
			out = append(out, id)
		}
		s.learned.Range(func(id, _ any) bool { // by a join, or by their coming here
			if _, ok := s.static[id.(string)]; !ok {
				out = append(out, id.(string))
			}
			return true
		})
	}
	return out
}

// tick keeps in touch: it asks every other node how it is, and follows the
// member table.
func (s *Service) tick() {
	t := s.clock.NewTicker(s.cfg.PingInterval)
	defer t.Stop()
	for {
		s.look()
		for _, id := range s.others() {
			start := false
			s.health.with(id, func(n *seen) { start, n.pinging = !n.pinging, true })
			if start && !s.goes(func() { s.pingOnce(id) }) {
				return
			}
		}
		select {
		case <-t.C():
		case <-s.ctx.Done():
			return
		}
	}
}

func (s *Service) pingOnce(id string) {
	ctx, cancel := context.WithTimeout(s.ctx, max(s.cfg.PingInterval, s.cfg.DialTimeout))
	defer cancel()
	_, err := s.ping(ctx, id)
	alive := s.alive(id)
	var was, known bool
	s.health.with(id, func(n *seen) {
		n.pinging = false
		was, known = n.alive, n.known
		n.alive, n.known = alive, true
	})
	refused, _ := lasting(err)
	switch {
	case alive && !was && known:
		s.log.Info("a node is back", "node", id)
	case refused != nil: // logged as such
	case !alive && (was || !known) && s.ctx.Err() == nil:
		s.log.Warn("a node does not answer", "node", id, "error", err)
	}
}

// ping asks a node how it is.
func (s *Service) ping(ctx context.Context, id string) (api.Report, error) {
	r, err := ask[api.Done, api.Report](ctx, s, id, methodPing, api.Done{})
	if err == nil {
		s.health.with(id, func(n *seen) { n.report, n.reported, n.refused = &r, s.clock.Now(), nil })
	}
	return r, err
}

// alive: heard of within dead_after. A node is alive for itself.
func (s *Service) alive(id string) bool {
	at, ok := s.lastSeen(id)
	return ok && s.clock.Now().Sub(at) < s.cfg.DeadAfter
}

func (s *Service) lastSeen(id string) (time.Time, bool) {
	if id == s.nodeID {
		return s.clock.Now(), true
	}
	ns := s.links.get(id).heard.Load()
	return time.Unix(0, ns), ns != 0
}
