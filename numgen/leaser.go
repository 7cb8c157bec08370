package numgen

import (
	"context"
	"strings"

	"nekoq/numgen/api"
	"nekoq/numgen/idgen"
	"nekoq/numgen/internal/table"
	"nekoq/services/auth"
	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/replica"
)

// propose sends a command under the caller's name and request id.
func (s *Service) propose(ctx context.Context, kind command.Kind, payload []byte) (replica.Result, error) {
	return s.replica.Propose(ctx, command.Command{
		Kind: kind, RequestID: command.RequestIDFrom(ctx), Actor: auth.FromContext(ctx).Actor(), Payload: payload,
	})
}

// lease is propose for the node's own leases. They are not the caller's: the
// request id must be left for the command that carries the caller's outcome.
func (s *Service) lease(ctx context.Context, kind command.Kind, payload []byte) (replica.Result, error) {
	return s.replica.Propose(ctx, command.Command{Kind: kind, Actor: "internal:numgen", Payload: payload})
}

// workerLeaser leases worker numbers for this node.
type workerLeaser struct{ s *Service }

func (l workerLeaser) Acquire(ctx context.Context, r idgen.AcquireRequest) (idgen.Grant, error) {
	res, err := l.s.lease(ctx, table.KindAcquireWorker, table.Encode(r))
	if err != nil {
		return idgen.Grant{}, err
	}
	return table.DecodeGrant(res.Data)
}

func (l workerLeaser) Extend(ctx context.Context, r idgen.ExtendRequest) (idgen.Grant, error) {
	res, err := l.s.lease(ctx, table.KindExtendWorker, table.Encode(r))
	if err != nil {
		return idgen.Grant{}, err
	}
	return table.DecodeGrant(res.Data)
}

func (l workerLeaser) Release(ctx context.Context, r idgen.ReleaseRequest) error {
	_, err := l.s.lease(ctx, table.KindReleaseWorker, table.Encode(r))
	return err
}

// blockLeaser leases the blocks of one segment generator for this node.
type blockLeaser struct {
	s     *Service
	lease table.SegmentLease // Element and Holder
}

func (l *blockLeaser) Lease(ctx context.Context, step, nonce, after uint64) (idgen.Block, error) {
	p := l.lease
	p.Step, p.Nonce, p.After = step, nonce, after
	res, err := l.s.lease(ctx, table.KindLeaseSegment, p.Append(nil))
	if err != nil {
		return idgen.Block{}, err
	}
	return table.DecodeBlock(res.Data)
}

func (l *blockLeaser) Return(ctx context.Context, rest []idgen.Block, nonce uint64) error {
	p := table.SegmentReturn{Element: l.lease.Element, Holder: l.lease.Holder, Nonce: nonce, Blocks: rest}
	_, err := l.s.lease(ctx, table.KindReturnSegment, p.Append(nil))
	return err
}

// clientHolder marks the leases of clients.
const clientHolder = "client:"

func (s *Service) checkClient(holder string) (string, error) {
	if !s.cfg.ClientLeases {
		return "", errs.New(errs.Forbidden, "clients may not lease here: numgen.client_leases = false")
	}
	if err := api.CheckName("holder", holder); err != nil {
		return "", err
	}
	return clientHolder + strings.TrimPrefix(holder, clientHolder), nil
}

// Terms gives what a client needs to make ids of a generator by itself. The
// generator is created on first use, as everywhere.
func (s *Service) Terms(ctx context.Context, name string) (*api.LeaseTerms, error) {
	if !s.cfg.ClientLeases {
		return nil, errs.New(errs.Forbidden, "clients may not lease here: numgen.client_leases = false")
	}
	h, err := s.lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	return &api.LeaseTerms{
		Generator: *h.gen.Load(), Reserve: s.cfg.WorkerReserve, TTL: s.cfg.WorkerTTL, MaxDrift: s.cfg.MaxClockDrift,
		MaxAhead: s.cfg.MaxAhead, Idle: s.cfg.WorkerIdle, Refill: s.cfg.SegmentRefill, Workers: s.cfg.SnowflakeWorkers,
	}, nil
}

// AcquireWorker leases a worker number to a client, under the server's terms.
func (s *Service) AcquireWorker(ctx context.Context, r idgen.AcquireRequest) (*idgen.Grant, error) {
	holder, err := s.checkClient(r.Holder)
	if err != nil {
		return nil, err
	}
	r.Holder, r.Ephemeral, r.TTL = holder, true, s.cfg.WorkerTTL
	r.ReserveMS = min(r.ReserveMS, (s.cfg.WorkerReserve + s.cfg.MaxAhead).Milliseconds())
	res, err := s.propose(ctx, table.KindAcquireWorker, table.Encode(r))
	if err != nil {
		return nil, err
	}
	g, err := table.DecodeGrant(res.Data)
	return &g, err
}

// ExtendWorker moves a client's high-water time on.
func (s *Service) ExtendWorker(ctx context.Context, r idgen.ExtendRequest) (*idgen.Grant, error) {
	holder, err := s.checkClient(r.Holder)
	if err != nil {
		return nil, err
	}
	r.Holder, r.Ephemeral, r.TTL = holder, true, s.cfg.WorkerTTL
	r.ReserveMS = min(r.ReserveMS, (s.cfg.WorkerReserve + s.cfg.MaxAhead).Milliseconds())
	r.Count = min(r.Count, s.cfg.SnowflakeWorkers)
	res, err := s.propose(ctx, table.KindExtendWorker, table.Encode(r))
	if err != nil {
		return nil, err
	}
	g, err := table.DecodeGrant(res.Data)
	return &g, err
}

// ReleaseWorker takes a client's worker numbers back.
func (s *Service) ReleaseWorker(ctx context.Context, r idgen.ReleaseRequest) error {
	_, err := s.propose(ctx, table.KindReleaseWorker, table.Encode(r))
	return err
}

// LeaseSegment leases a block to a client.
func (s *Service) LeaseSegment(ctx context.Context, r api.LeaseSegmentRequest) (*idgen.Block, error) {
	holder, err := s.checkClient(r.Holder)
	if err != nil {
		return nil, err
	}
	h, err := s.segmentHandle(ctx, r.Name, r.Element)
	if err != nil {
		return nil, err
	}
	o := h.gen.Load().Options
	if most := uint64(max(o.MaxStep, int64(s.cfg.MaxBatch))); r.Step < 1 || r.Step > most {
		return nil, errs.Invalid("step", r.Step, "1 to "+utoa(most)+" (the generator's max_step)")
	}
	p := table.SegmentLease{Element: h.element, Holder: holder, Ephemeral: true, Step: r.Step, Nonce: r.Nonce, After: r.After}
	res, err := s.propose(ctx, table.KindLeaseSegment, p.Append(nil))
	if err != nil {
		return nil, err
	}
	b, err := table.DecodeBlock(res.Data)
	return &b, err
}

// ReturnSegment takes a client's unused numbers back.
func (s *Service) ReturnSegment(ctx context.Context, r api.ReturnSegmentRequest) error {
	holder, err := s.checkClient(r.Holder)
	if err != nil {
		return err
	}
	h, err := s.segmentHandle(ctx, r.Name, r.Element)
	if err != nil {
		return err
	}
	p := table.SegmentReturn{Element: h.element, Holder: holder, Ephemeral: true, Nonce: r.Nonce, Blocks: r.Blocks}
	_, err = s.propose(ctx, table.KindReturnSegment, p.Append(nil))
	return err
}

func (s *Service) segmentHandle(ctx context.Context, name string, element uint32) (*handle, error) {
	h, err := s.existing(ctx, name)
	if err != nil {
		return nil, err
	}
	if h.kind != idgen.Segment {
		return nil, errs.Invalid("name", name, "a generator of kind segment; this one is of kind "+h.kind.String())
	}
	if element != 0 && element != h.element {
		return nil, errs.New(errs.NotFound, "generator %s with element %d has been deleted; there is a new one of that name", name, element)
	}
	return h, nil
}
