package conf

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"nekoq/services/errs"
	"nekoq/warehouse/conf/api"
	"nekoq/warehouse/conf/internal/table"
)

// registry is who listens at this node. A client that long-polls stays in it for a
// while between two polls.
type registry struct {
	mu      sync.Mutex
	entries map[entryKey]*entry
	active  int
	version uint64 // moves with every change
}

type entryKey struct{ client, addr, area, group, key string }

type entry struct {
	r    *registry
	key  entryKey
	l    api.Listener
	refs int
	gone time.Time // when refs became 0
}

func (r *registry) init() { r.entries = map[entryKey]*entry{} }

func (r *registry) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.active
}

func (r *registry) enter(s *Service, a *asked, from Peer) (*entry, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.active >= s.cfg.MaxListeners {
		return nil, errs.New(errs.TooManyRequests, "too many listeners: the limit is config.max_listeners = %d", s.cfg.MaxListeners).
			With(errs.Detail{Field: "config.max_listeners", Limit: itoa(s.cfg.MaxListeners)})
	}
	now := s.clock.Now()
	if len(r.entries) >= 2*s.cfg.MaxListeners {
		r.sweep(now, 0)
	}
	addr := cmp.Or(a.IP, from.Addr)
	k := entryKey{a.Client, addr, a.Area, a.Group, a.Key}
	e := r.entries[k]
	if e == nil {
		e = &entry{r: r, key: k, l: api.Listener{
			Client: cmp.Or(a.Client, addr), Addr: addr, Labels: a.Labels, Door: from.Door, Node: s.replica.NodeID(),
			Area: a.Area, Group: a.Group, Key: a.Key, Hash: a.Hash, Since: now.UTC(),
		}}
		r.entries[k] = e
		r.version++
	}
	e.refs++
	r.active++
	return e, nil
}

// set notes what a client has.
func (e *entry) set(area, hash string) {
	e.r.mu.Lock()
	defer e.r.mu.Unlock()
	if e.l.Area != area || e.l.Hash != hash {
		e.l.Area, e.l.Hash = area, hash
		e.r.version++
	}
}

func (r *registry) leave(e *entry, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.active--
	if e.refs--; e.refs == 0 {
		e.gone = now
	}
}

// sweep forgets who has been away for longer than linger. The caller holds r.mu.
func (r *registry) sweep(now time.Time, linger time.Duration) {
	for k, e := range r.entries {
		if e.refs == 0 && now.Sub(e.gone) >= linger {
			delete(r.entries, k)
			r.version++
		}
	}
}

// list gives all, in order, and the version that they show.
func (r *registry) list(now time.Time, linger time.Duration) ([]api.Listener, uint64) {
	r.mu.Lock()
	r.sweep(now, linger)
	out := make([]api.Listener, 0, len(r.entries))
	for _, e := range r.entries {
		out = append(out, e.l)
	}
	version := r.version
	r.mu.Unlock()
	sortListeners(out)
	return out, version
}

func sortListeners(l []api.Listener) {
	slices.SortFunc(l, func(a, b api.Listener) int {
		return cmp.Or(cmp.Compare(a.Area, b.Area), cmp.Compare(a.Group, b.Group), cmp.Compare(a.Key, b.Key),
			cmp.Compare(a.Client, b.Client), cmp.Compare(a.Addr, b.Addr), cmp.Compare(a.Node, b.Node))
	})
}

// A report holds as many listeners as fit into this many bytes, and at most
// max_reported.
const maxReportBytes = 512 << 10

// Without changes a node's report is made anew after refreshEvery intervals, and
// one that is older than staleAfter is that of a node that is gone.
const (
	refreshEvery = 6
	staleAfter   = 15
)

// reportLoop tells the other nodes who listens at this one.
func (s *Service) reportLoop(ctx context.Context) {
	tick := s.clock.NewTicker(s.cfg.ReportInterval)
	defer tick.Stop()
	var told uint64 // version
	var at time.Time
	reported := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C():
		}
		now := s.clock.Now()
		list, version := s.listeners.list(now, s.cfg.ListenerLinger)
		old := now.Sub(at) >= refreshEvery*s.cfg.ReportInterval
		if version == told && !(old && reported) || len(list) == 0 && !reported {
			told = version
			continue
		}
		short, cancel := context.WithTimeout(ctx, s.cfg.ReportInterval+time.Second)
		_, err := s.propose(short, table.KindReport, table.Encode(s.report(list)))
		cancel()
		if err != nil {
			if ctx.Err() == nil {
				s.log.Debug("conf: the report of listeners was not written; the next one will be", "error", err)
			}
			continue
		}
		told, at, reported = version, now, len(list) > 0
	}
}

// report cuts the list to what a report holds.
func (s *Service) report(list []api.Listener) table.Report {
	r := table.Report{Node: s.replica.NodeID()}
	room := maxReportBytes
	for i := range list {
		b, err := json.Marshal(list[i])
		if err != nil || i >= s.cfg.MaxReported || len(b) > room {
			r.Left = len(list) - i
			break
		}
		room -= len(b)
		r.Listeners = append(r.Listeners, list[i])
	}
	return r
}

// withdrawReport takes this node's report back.
func (s *Service) withdrawReport(ctx context.Context) error {
	v, err := s.view(ctx, true)
	if err != nil {
		return nil // nothing to withdraw it from
	}
	mine := false
	_ = table.Reports(v, func(r table.Report) { mine = mine || r.Node == s.replica.NodeID() })
	v.Release()
	if !mine {
		return nil
	}
	short, cancel := context.WithTimeout(ctx, freshWithin)
	defer cancel()
	if _, err := s.propose(short, table.KindReport, table.Encode(table.Report{Node: s.replica.NodeID()})); err != nil {
		s.log.Info("conf: the report of listeners stays until it is too old", "error", err)
	}
	return nil
}

// Listeners tells who listens, at all nodes, and which version each has. What
// other nodes say is as old as config.report_interval.
func (s *Service) Listeners(ctx context.Context, r api.ListenersRequest) (*api.ListenerList, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	v, err := s.view(ctx, true)
	if err != nil {
		return nil, err
	}
	defer v.Release()
	if err := knownArea(v, r.Area); err != nil {
		return nil, err
	}
	now := s.clock.Now()
	all, _ := s.listeners.list(now, s.cfg.ListenerLinger)
	out := &api.ListenerList{Listeners: []api.Listener{}}
	err = table.Reports(v, func(x table.Report) {
		if x.Node != s.replica.NodeID() && now.Sub(x.Time) < staleAfter*s.cfg.ReportInterval {
			all = append(all, x.Listeners...)
			out.Left += x.Left
		}
	})
	if err != nil {
		return nil, damaged(err)
	}
	sortListeners(all)
	for _, l := range all {
		if (r.Area == "" || l.Area == r.Area) && (r.Group == "" || l.Group == r.Group) && (r.Key == "" || l.Key == r.Key) {
			out.Listeners = append(out.Listeners, l)
		}
	}
	return out, nil
}
