package peer

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"nekoq/services/errs"
	"nekoq/services/peer/api"
)

// hashState is the last comparison of state hashes that this node knows.
type hashState struct {
	mu     sync.Mutex
	report *api.HashReport
}

func (h *hashState) last() *api.HashReport {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.report
}

// take keeps a new report. A node that had diverged stays so until it is found
// equal again: not knowing clears nothing.
func (h *hashState) take(r api.HashReport) api.HashReport {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.report != nil {
		for i, n := range r.Nodes {
			j := slices.IndexFunc(h.report.Nodes, func(o api.NodeHash) bool { return o.ID == n.ID })
			if j >= 0 && n.Verdict == api.HashUnknown && h.report.Nodes[j].Verdict == api.HashDiverged {
				r.Nodes[i] = h.report.Nodes[j]
				r.Equal = false
			}
		}
	}
	h.report = &r
	return r
}

func (h *hashState) ownReason(id string) string {
	r := h.last()
	if r == nil {
		return ""
	}
	for _, n := range r.Nodes {
		if n.ID == id && n.Verdict == api.HashDiverged {
			return fmt.Sprintf("the state of node %[1]s differs from the other nodes' at log index %[2]d (found %[3]s): stop it, run `nekoq cluster remove %[1]s` on another node, empty its data folder and join it anew",
				id, r.Index, r.At.UTC().Format(time.RFC3339))
		}
	}
	return ""
}

// hashQuestion asks a node for its hash. It waits until it has applied Index.
type hashQuestion struct {
	Index   uint64 `json:"index"`
	Content bool   `json:"content"`
}

type hashAnswer struct {
	Index   uint64 `json:"index"`
	Chain   string `json:"chain"`
	Content string `json:"content,omitempty"`
	// ContentIndex is where the content hash was taken.
	ContentIndex uint64 `json:"content_index,omitempty"`
}

func (s *Service) hashHere(ctx context.Context, q hashQuestion) (hashAnswer, error) {
	a := hashAnswer{Index: q.Index}
	if s.at.Store == nil {
		return a, errs.New(errs.Unavailable, "the node is starting")
	}
	if err := s.at.Store.WaitApplied(ctx, q.Index); err != nil {
		return a, err
	}
	chain, ok := s.at.Store.ChainAt(q.Index)
	if !ok {
		return a, errs.New(errs.Compacted, "node %s no longer has its hash at index %d", s.nodeID, q.Index)
	}
	a.Chain = hexHash(chain)
	if q.Content {
		h, err := s.at.Store.Hash(ctx, true)
		if err != nil {
			return a, err
		}
		a.Content, a.ContentIndex = hexHash(h.Content), h.Index
	}
	return a, nil
}

func hexHash(h uint64) string { return fmt.Sprintf("%016x", h) }

// CompareHashes compares the nodes' states now. Without content it costs next to
// nothing; with it every node reads its whole state, and nodes that are written
// to meanwhile hash different indexes, which then count as not compared.
func (s *Service) CompareHashes(ctx context.Context, req api.HashRequest) (api.HashReport, error) {
	out, _, err := onLeader(ctx, s, methodCompare, req, s.compareHere)
	return out, err
}

func (s *Service) compareHere(ctx context.Context, req api.HashRequest) (api.HashReport, error) {
	if err := s.leads(); err != nil {
		return api.HashReport{}, err
	}
	r := s.compare(ctx, req.Content)
	if err := s.leads(); err != nil {
		return r, err
	}
	return s.publish(ctx, r), nil
}

func (s *Service) hashLoop(ctx context.Context) {
	for s.pause(ctx, s.cfg.HashInterval) {
		if _, err := s.compareHere(ctx, api.HashRequest{}); err != nil && ctx.Err() == nil {
			s.log.Warn("the state hashes could not be compared", "error", err)
		}
	}
}

// compare asks every member for its hash at the leader's applied index.
func (s *Service) compare(ctx context.Context, content bool) api.HashReport {
	index, _ := s.at.Store.Applied()
	rep := api.HashReport{At: s.clock.Now(), LeaderID: s.nodeID, Index: index}
	ids := s.refresh().Order
	answers := make([]hashAnswer, len(ids))
	failed := make([]error, len(ids))
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() {
			q := hashQuestion{Index: index, Content: content}
			if id == s.nodeID {
				answers[i], failed[i] = s.hashHere(ctx, q)
			} else {
				answers[i], failed[i] = ask[hashQuestion, hashAnswer](ctx, s, id, methodHash, q)
			}
		})
	}
	wg.Wait()
	for i, id := range ids {
		n := api.NodeHash{ID: id, Verdict: api.HashUnknown}
		if failed[i] != nil {
			n.Reason = errs.From(failed[i]).Message
		} else {
			n.Index, n.Chain, n.Content = answers[i].Index, answers[i].Chain, answers[i].Content
		}
		rep.Nodes = append(rep.Nodes, n)
	}
	judgeHashes(&rep, func(n api.NodeHash) string { return n.Chain })
	if content {
		s.judgeContent(&rep, ids, answers, failed)
	}
	return rep
}

// judgeHashes finds who differs: the largest group of equal hashes is right, and
// of equally large ones the leader's.
func judgeHashes(rep *api.HashReport, hash func(api.NodeHash) string) {
	groups := map[string]int{}
	for _, n := range rep.Nodes {
		if h := hash(n); h != "" {
			groups[h] += 2
			if n.ID == rep.LeaderID {
				groups[h]++ // breaks a tie, and nothing more
			}
		}
	}
	var right string
	for h, n := range groups {
		if n > groups[right] || n == groups[right] && h < right {
			right = h
		}
	}
	rep.Equal = true
	for i, n := range rep.Nodes {
		switch h := hash(n); {
		case h == "":
			if n.Verdict != api.HashDiverged {
				continue
			}
		case h != right:
			rep.Nodes[i].Verdict = api.HashDiverged
		case n.Verdict != api.HashDiverged:
			rep.Nodes[i].Verdict = api.HashEqual
		}
		if rep.Nodes[i].Verdict == api.HashDiverged {
			rep.Equal = false
		}
	}
}

// judgeContent compares the content hashes of those nodes that took them at the
// same index as most.
func (s *Service) judgeContent(rep *api.HashReport, ids []string, answers []hashAnswer, failed []error) {
	count := map[uint64]int{}
	var at uint64
	for i := range ids {
		if failed[i] == nil {
			count[answers[i].ContentIndex]++
			if n := count[answers[i].ContentIndex]; n > count[at] || n == count[at] && answers[i].ContentIndex > at {
				at = answers[i].ContentIndex
			}
		}
	}
	judgeHashes(rep, func(n api.NodeHash) string {
		i := slices.Index(ids, n.ID)
		if failed[i] != nil || answers[i].ContentIndex != at {
			return ""
		}
		return n.Content
	})
	for i := range ids {
		if failed[i] == nil && answers[i].ContentIndex != at {
			rep.Nodes[i].Reason = "the content was hashed at another index, since writes went on; only the chain was compared"
		}
	}
}

// publish makes a comparison known on every node, and a divergence loud.
func (s *Service) publish(ctx context.Context, rep api.HashReport) api.HashReport {
	rep = s.hashes.take(rep)
	s.metrics.compared(rep)
	s.shout(rep)
	var wg sync.WaitGroup
	for _, n := range rep.Nodes {
		if n.ID != s.nodeID {
			wg.Go(func() {
				if _, err := ask[api.HashReport, api.Done](ctx, s, n.ID, methodVerdict, rep); err != nil && n.Verdict == api.HashDiverged {
					s.log.Error("a node with a wrong state could not be told so", "node", n.ID, "error", err)
				}
			})
		}
	}
	wg.Wait()
	return rep
}

// takeVerdict keeps the leader's comparison; a node that has diverged is not
// ready from then on.
func (s *Service) takeVerdict(_ context.Context, rep api.HashReport) (api.Done, error) {
	if len(rep.Nodes) == 0 {
		return api.Done{}, errs.New(errs.ProtocolViolation, "a comparison of hashes names no node")
	}
	rep = s.hashes.take(rep)
	s.metrics.compared(rep)
	s.shout(rep)
	return api.Done{LeaderID: rep.LeaderID}, nil
}

func (s *Service) shout(rep api.HashReport) {
	var bad []string
	for _, n := range rep.Nodes {
		if n.Verdict == api.HashDiverged {
			bad = append(bad, n.ID)
		}
	}
	if len(bad) > 0 {
		s.log.Error("the replicated state has diverged: nodes hold different data at the same log index",
			"nodes", strings.Join(bad, ", "), "index", rep.Index, "leader", rep.LeaderID)
	}
}
