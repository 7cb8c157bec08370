// Package numgen gives out ids: named generators of seven kinds, from 128-bit
// ids made in memory to numbers without gaps.
//
// It owns the generators, the leases of worker numbers and segments, and the
// rule that an id never carries a time at or below the committed high-water
// time of its worker. What makes ids is in numgen/idgen, what is replicated in
// numgen/internal/table. A generator is created by Create or on first use.
//
// A Service is safe for concurrent use. Worker leases and segments are taken on
// first use, kept by goroutines that live as long as they are used, and given
// back by Stop. numgen/rest, numgen/native, services/app, services/localswitch
// and tests import it; it imports no door.
package numgen

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"nekoq/numgen/idgen"
	"nekoq/numgen/internal/table"
	"nekoq/services/clock"
	"nekoq/services/errs"
	"nekoq/services/replica"
	"nekoq/services/state"
	"nekoq/services/watch"
)

// Replica is what numgen needs of the replicated state.
type Replica interface {
	replica.Proposer
	replica.Viewer
	NodeID() string
}

// Deps are what a Service is built on. Logger and Metrics may be nil.
type Deps struct {
	Replica Replica
	Events  watch.Source
	Clock   clock.Clock
	Logger  *slog.Logger
	Metrics prometheus.Registerer
}

// Register declares numgen's tables and commands. Every node does, whether it
// serves numgen or not.
func Register(reg *state.Registry) { table.Register(reg) }

// Service gives out ids.
type Service struct {
	cfg     Config
	replica Replica
	events  watch.Source
	clock   clock.Clock
	log     *slog.Logger
	metrics *metrics

	mu      sync.RWMutex
	handles map[string]*handle
	pools   map[uint]*idgen.Worker // by width of the worker number in bits
	stopped bool

	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// New makes a Service. Start runs it.
func New(d Deps, cfg Config) (*Service, error) {
	if list := cfg.Validate(); len(list) > 0 {
		return nil, list[0]
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Service{
		cfg: cfg, replica: d.Replica, events: d.Events, clock: d.Clock, log: d.Logger,
		handles: make(map[string]*handle), pools: make(map[uint]*idgen.Worker),
	}
	m, err := newMetrics(d.Metrics, s)
	if err != nil {
		return nil, err
	}
	s.metrics = m
	return s, nil
}

// Config gives the settings.
func (s *Service) Config() Config { return s.cfg }

// Start begins to follow changes of generators.
func (s *Service) Start(context.Context) error {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	sub := s.events.Subscribe(watch.Filter{Topic: watch.TopicNumgen}, 0)
	s.wg.Go(func() { s.follow(ctx, sub) })
	return nil
}

// Stop ends the making of ids and gives leases and unused numbers back, so that
// an orderly stop leaves no gap. The replica must still run.
func (s *Service) Stop(ctx context.Context) error {
	if s.cancel != nil {
		s.cancel()
	}
	s.wg.Wait()
	s.mu.Lock()
	s.stopped = true
	handles, pools := s.handles, s.pools
	s.handles, s.pools = map[string]*handle{}, map[uint]*idgen.Worker{}
	s.mu.Unlock()
	var first error
	note := func(what string, err error) {
		// A lease that is no longer ours, or a generator that is gone, needs no return.
		if err == nil || errs.Has(err, errs.StaleToken) || errs.Has(err, errs.NotFound) {
			return
		}
		s.log.Warn(what+" could not be given back", "err", err)
		if first == nil {
			first = err
		}
	}
	var closing sync.WaitGroup
	var noteMu sync.Mutex
	for name, h := range handles {
		if h.segment == nil {
			continue
		}
		closing.Go(func() {
			err := h.segment.Close(ctx)
			noteMu.Lock()
			defer noteMu.Unlock()
			note("the segment of "+name, err)
		})
	}
	closing.Wait()
	for _, w := range pools {
		note("a worker lease", w.Close(ctx))
	}
	return first
}

// follow keeps the handles in step with the replicated generators.
func (s *Service) follow(ctx context.Context, sub watch.Subscription) {
	defer func() { sub.Close() }()
	for {
		events, err := sub.Next(ctx)
		if ctx.Err() != nil || errors.Is(err, watch.ErrClosed) {
			return
		}
		if err != nil {
			// Behind, or the state was replaced: begin anew and compare everything.
			sub.Close()
			sub = s.events.Subscribe(watch.Filter{Topic: watch.TopicNumgen}, 0)
			if err := s.resync(ctx); err != nil {
				s.log.Warn("generators could not be compared with the state", "err", err)
			}
			continue
		}
		for _, e := range events {
			if ev, ok := e.Data.(table.Event); ok {
				s.changed(ev)
			}
		}
	}
}

func (s *Service) changed(ev table.Event) {
	s.mu.Lock()
	h := s.handles[ev.Generator.Name]
	// A handle goes only when its element is gone for good: another one for the
	// same element would know nothing of the ids already made.
	switch {
	case h == nil:
	case ev.Deleted && h.element == ev.Generator.Element, ev.Generator.Element > h.element:
		delete(s.handles, ev.Generator.Name)
		s.mu.Unlock()
		h.discard()
		return
	case ev.Generator.Element == h.element:
		h.update(ev.Generator)
	}
	s.mu.Unlock()
}

// resync compares all handles with the state.
func (s *Service) resync(ctx context.Context) error {
	v, _, err := s.replica.View(ctx, replica.Stale)
	if err != nil {
		return err
	}
	defer v.Release()
	var gone []*handle
	s.mu.Lock()
	for name, h := range s.handles {
		g, ok, err := table.Get(v, name)
		if err != nil {
			s.mu.Unlock()
			return err
		}
		if ok && g.Element == h.element {
			h.update(g)
			continue
		}
		delete(s.handles, name)
		gone = append(gone, h)
	}
	s.mu.Unlock()
	for _, h := range gone {
		h.discard()
	}
	return nil
}
