package numgen

import (
	"context"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"unsafe"

	"nekoq/numgen/api"
	"nekoq/numgen/idgen"
	"nekoq/numgen/internal/table"
	"nekoq/services/errs"
	"nekoq/services/replica"
)

// handle is a generator on this node, ready to make ids.
type handle struct {
	element  uint32
	kind     idgen.Kind
	behind   idgen.Kind // kind of the numbers; differs from kind for format
	layout   idgen.Layout
	template *idgen.Template
	gen      atomic.Pointer[api.Generator]

	worker  *idgen.Worker // timed kinds
	stream  *idgen.Stream
	segment *idgen.SegmentSource
}

func (h *handle) update(g api.Generator) {
	h.gen.Store(&g)
	if h.segment != nil {
		h.segment.SetSteps(uint64(g.Options.MinStep), uint64(g.Options.MaxStep))
	}
}

func (h *handle) discard() {
	if h.stream != nil {
		h.worker.Retire(h.stream)
	}
	if h.segment != nil {
		h.segment.Discard()
	}
}

// lookup finds the handle of a name, and creates the generator when it is not
// there and may be.
func (s *Service) lookup(ctx context.Context, name string) (*handle, error) {
	h, err := s.existing(ctx, name)
	if !errs.Has(err, errs.NotFound) || !s.cfg.AutoCreate {
		return h, err
	}
	if _, _, err := s.Create(withoutRequestID(ctx), api.CreateRequest{Name: name}); err != nil && !errs.Has(err, errs.AlreadyExists) {
		return nil, err
	}
	return s.existing(ctx, name)
}

// cached finds a handle without touching the state.
func (s *Service) cached(name string) *handle {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.handles[name]
}

// cachedBytes is cached for a name that is still in a request buffer.
func (s *Service) cachedBytes(name []byte) *handle {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.handles[unsafe.String(unsafe.SliceData(name), len(name))] // the key is not kept
}

// existing finds the handle of a generator that exists: in memory, in this
// node's state, and then in the leader's.
func (s *Service) existing(ctx context.Context, name string) (*handle, error) {
	if h := s.cached(name); h != nil {
		return h, nil
	}
	if err := api.CheckName("name", name); err != nil {
		return nil, err
	}
	h, err := s.open(ctx, name)
	if !errs.Has(err, errs.NotFound) {
		return h, err
	}
	v, _, err := s.replica.View(ctx, replica.Linearizable)
	if err != nil {
		return nil, err
	}
	v.Release() // it has brought this node's state up to the leader's
	return s.open(ctx, name)
}

// open makes the handle from this node's state. State and handles are looked at
// under one lock: a deletion that this view does not see yet comes as an event
// afterwards, and finds the handle.
func (s *Service) open(ctx context.Context, name string) (*handle, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.handles[name]; h != nil {
		return h, nil
	}
	if s.stopped {
		return nil, errs.New(errs.ShuttingDown, "the id service is stopping")
	}
	v, _, err := s.replica.View(ctx, replica.Stale)
	if err != nil {
		return nil, err
	}
	defer v.Release()
	g, ok, err := table.Get(v, name)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, table.NotFound(name)
	}
	h, err := s.newHandle(g)
	if err != nil {
		return nil, err
	}
	s.handles[name] = h
	return h, nil
}

func (s *Service) newHandle(g api.Generator) (*handle, error) {
	kind, _ := idgen.ParseKind(g.Kind)
	h := &handle{element: g.Element, kind: kind, behind: g.Behind()}
	h.gen.Store(&g)
	var err error
	if h.layout, err = g.Options.Layout(h.behind, g.Element); err != nil {
		return nil, err
	}
	if kind == idgen.Format {
		if h.template, err = idgen.ParseTemplate(g.Options.Template, g.Options.TimeZone, idgen.Reset(g.Options.Reset)); err != nil {
			return nil, err
		}
	}
	switch {
	case h.behind.Timed():
		h.worker = s.pool(h.layout.WorkerWidth())
		h.stream = h.worker.Stream(h.layout)
	case h.behind == idgen.Segment:
		h.segment = idgen.NewSegment(idgen.SegmentConfig{
			MinStep: uint64(g.Options.MinStep), MaxStep: uint64(g.Options.MaxStep), Refill: s.cfg.SegmentRefill,
			Timeout: s.cfg.LeaseTimeout, Clock: s.clock, Logger: s.log.With("generator", g.Name), OnRefill: s.metrics.refill,
		}, &blockLeaser{s: s, lease: table.SegmentLease{Element: g.Element, Holder: s.holder()}}, rand.Uint64()>>1|1)
	}
	return h, nil
}

// holder is this node's name in leases.
func (s *Service) holder() string { return "node:" + s.replica.NodeID() }

// pool is the worker lease for a width of worker numbers. The caller has s.mu.
func (s *Service) pool(width uint) *idgen.Worker {
	if w := s.pools[width]; w != nil {
		return w
	}
	from, to := idgen.WorkerRange(width)
	holder := s.holder() + "/" + strconv.Itoa(int(width))
	w := idgen.NewWorker(idgen.WorkerConfig{
		Holder: holder, Min: from, Max: to, MaxNumbers: min(s.cfg.SnowflakeWorkers, to-from),
		Limits:  idgen.Limits{MaxDrift: s.cfg.MaxClockDrift, MaxAhead: s.cfg.MaxAhead},
		Reserve: s.cfg.WorkerReserve, TTL: s.cfg.WorkerTTL, Idle: s.cfg.WorkerIdle, Timeout: s.cfg.LeaseTimeout,
		Clock: s.clock, Logger: s.log, OnLost: s.metrics.lost.Inc,
	}, workerLeaser{s})
	s.pools[width] = w
	return w
}
