package client

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"math/big"
	"sync"

	"nekoq/numgen/api"
	"nekoq/numgen/idgen"
	"nekoq/services/clock"
	"nekoq/services/errs"
	"nekoq/services/wire"
)

// LocalOptions tune a local lease; zero values take the defaults.
type LocalOptions struct {
	Clock  clock.Clock  // default: the machine's
	Logger *slog.Logger // default: the client's
}

// WorkerLease makes ids of timed kinds (id128, snowflake, uuidv7, ulid) in this
// process, at memory speed, under worker numbers leased from the cluster. The
// lease and its durable high-water time are kept in the background while ids
// are made; without a server ids go on until the high-water time, some seconds,
// and then fail with no_leader. An id carries never a time past the high-water,
// so neither a crash, a paused process nor a clock that steps can repeat one.
//
// Close gives the numbers back. Forgotten, they come free after
// numgen.worker_ttl.
type WorkerLease struct {
	g      Numgen
	opts   LocalOptions
	holder string

	mu     sync.Mutex
	pools  map[uint]*idgen.Worker // by width of the worker number in bits
	gens   map[uint32]*LocalGenerator
	closed bool
}

// LocalGenerator makes ids of one generator in this process.
type LocalGenerator struct {
	kind    idgen.Kind
	worker  *idgen.Worker
	stream  *idgen.Stream
	segment *idgen.SegmentSource
}

func (o *LocalOptions) setDefaults(c *Client) {
	if o.Clock == nil {
		o.Clock = clock.System()
	}
	if o.Logger == nil {
		o.Logger = c.cfg.Logger
	}
}

// newHolder is a name that no other lease has: 128 random bits.
func newHolder() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// LeaseWorker prepares local generation. The worker number is taken with the
// first id.
func (g Numgen) LeaseWorker(opts LocalOptions) *WorkerLease {
	opts.setDefaults(g.c)
	return &WorkerLease{g: g, opts: opts, holder: newHolder(), pools: map[uint]*idgen.Worker{}, gens: map[uint32]*LocalGenerator{}}
}

func (g Numgen) terms(ctx context.Context, name string) (*api.LeaseTerms, idgen.Kind, error) {
	t, err := callNumgen[api.LeaseTerms](ctx, g, api.MethodLeaseTerms, api.NameRequest{Name: name}, true)
	if err != nil {
		return nil, 0, err
	}
	kind, ok := idgen.ParseKind(t.Generator.Kind)
	if !ok {
		return nil, 0, errs.New(errs.VersionTooOld, "generator %s is of kind %s, which this client does not know", name, t.Generator.Kind)
	}
	return t, kind, nil
}

// Generator gives the local form of a generator. The same generator asked for
// twice is the same.
func (l *WorkerLease) Generator(ctx context.Context, name string) (*LocalGenerator, error) {
	t, kind, err := l.g.terms(ctx, name)
	if err != nil {
		return nil, err
	}
	if !kind.Timed() {
		return nil, errs.Invalid("name", name, "a generator of kind id128, snowflake, uuidv7 or ulid; this one is of kind "+kind.String())
	}
	layout, err := t.Generator.Options.Layout(kind, t.Generator.Element)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errs.New(errs.ShuttingDown, "the worker lease is closed")
	}
	if lg := l.gens[t.Generator.Element]; lg != nil {
		return lg, nil
	}
	w := l.pools[layout.WorkerWidth()]
	if w == nil {
		from, to := idgen.WorkerRange(layout.WorkerWidth())
		w = idgen.NewWorker(idgen.WorkerConfig{
			Holder: l.holder, Ephemeral: true, Min: from, Max: to, MaxNumbers: min(t.Workers, to-from),
			Limits:  idgen.Limits{MaxDrift: t.MaxDrift, MaxAhead: t.MaxAhead},
			Reserve: t.Reserve, TTL: t.TTL, Idle: t.Idle, Timeout: l.g.c.cfg.Timeout,
			Clock: l.opts.Clock, Logger: l.opts.Logger,
		}, remoteWorkers{l.g})
		l.pools[layout.WorkerWidth()] = w
	}
	lg := &LocalGenerator{kind: kind, worker: w, stream: w.Stream(layout)}
	l.gens[t.Generator.Element] = lg
	return lg, nil
}

// Grants are the present leases: worker numbers, fencing tokens and high-water
// times.
func (l *WorkerLease) Grants() []idgen.Grant {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []idgen.Grant
	for _, w := range l.pools {
		if g, ok := w.Grant(); ok {
			out = append(out, g)
		}
	}
	return out
}

// Close stops local generation and gives the worker numbers back.
func (l *WorkerLease) Close(ctx context.Context) error {
	l.mu.Lock()
	l.closed = true
	pools := l.pools
	l.mu.Unlock()
	var list []error
	for _, w := range pools {
		if err := w.Close(ctx); err != nil && !errs.Has(err, errs.StaleToken) {
			list = append(list, err)
		}
	}
	return errors.Join(list...)
}

// LeaseSegment makes numbers of a segment generator in this process, from
// blocks leased from the cluster. Close gives back what was not used.
func (g Numgen) LeaseSegment(ctx context.Context, name string, opts LocalOptions) (*LocalGenerator, error) {
	opts.setDefaults(g.c)
	t, kind, err := g.terms(ctx, name)
	if err != nil {
		return nil, err
	}
	if kind != idgen.Segment {
		return nil, errs.Invalid("name", name, "a generator of kind segment; this one is of kind "+kind.String())
	}
	o := t.Generator.Options
	nonce, _ := rand.Int(rand.Reader, big.NewInt(1<<62)) // never fails
	return &LocalGenerator{kind: kind, segment: idgen.NewSegment(idgen.SegmentConfig{
		MinStep: uint64(o.MinStep), MaxStep: uint64(o.MaxStep), Refill: t.Refill, Timeout: g.c.cfg.Timeout,
		Clock: opts.Clock, Logger: opts.Logger,
	}, remoteBlocks{g: g, name: name, element: t.Generator.Element, holder: newHolder()}, nonce.Uint64()|1)}, nil
}

// Kind is what the generator's ids are.
func (l *LocalGenerator) Kind() idgen.Kind { return l.kind }

// Append makes n ids and packs them onto dst, 8 or 16 bytes each; Kind().Next
// takes them apart. It is the fastest way.
func (l *LocalGenerator) Append(ctx context.Context, dst []byte, n int) ([]byte, error) {
	if n < 1 {
		return dst, errs.Invalid("count", n, "1 or more")
	}
	if l.segment != nil {
		return l.segment.Append(ctx, dst, n)
	}
	return l.worker.Append(ctx, l.stream, dst, n)
}

// IDs makes n ids, increasing.
func (l *LocalGenerator) IDs(ctx context.Context, n int) ([]string, error) {
	packed, err := l.Append(ctx, nil, n)
	if err != nil {
		return nil, err
	}
	return l.kind.Texts(packed, n), nil
}

// Next makes one id.
func (l *LocalGenerator) Next(ctx context.Context) (string, error) {
	var buf [16]byte
	packed, err := l.Append(ctx, buf[:0], 1)
	if err != nil {
		return "", err
	}
	return string(l.kind.AppendText(make([]byte, 0, l.kind.TextSize()), packed)), nil
}

// Close gives back what was not used of a leased segment. For a generator of a
// WorkerLease it does nothing: close the lease.
func (l *LocalGenerator) Close(ctx context.Context) error {
	if l.segment == nil {
		return nil
	}
	if err := l.segment.Close(ctx); err != nil && !errs.Has(err, errs.StaleToken) && !errs.Has(err, errs.NotFound) {
		return err
	}
	return nil
}

// remoteWorkers leases worker numbers through the native door.
type remoteWorkers struct{ g Numgen }

func (r remoteWorkers) Acquire(ctx context.Context, req idgen.AcquireRequest) (idgen.Grant, error) {
	return value(callNumgen[idgen.Grant](ctx, r.g, api.MethodAcquireWorker, req, true))
}

func (r remoteWorkers) Extend(ctx context.Context, req idgen.ExtendRequest) (idgen.Grant, error) {
	return value(callNumgen[idgen.Grant](ctx, r.g, api.MethodExtendWorker, req, true))
}

func (r remoteWorkers) Release(ctx context.Context, req idgen.ReleaseRequest) error {
	_, err := callNumgen[api.Empty](ctx, r.g, api.MethodReleaseWorker, req, true)
	return err
}

// remoteBlocks leases the blocks of one segment generator.
type remoteBlocks struct {
	g       Numgen
	name    string
	element uint32
	holder  string
}

func (r remoteBlocks) Lease(ctx context.Context, step, nonce, after uint64) (idgen.Block, error) {
	return value(callNumgen[idgen.Block](ctx, r.g, api.MethodLeaseSegment,
		api.LeaseSegmentRequest{Name: r.name, Element: r.element, Holder: r.holder, Step: step, Nonce: nonce, After: after}, true))
}

func (r remoteBlocks) Return(ctx context.Context, rest []idgen.Block, nonce uint64) error {
	_, err := callNumgen[api.Empty](ctx, r.g, api.MethodReturnSegment,
		api.ReturnSegmentRequest{Name: r.name, Element: r.element, Holder: r.holder, Nonce: nonce, Blocks: rest}, true)
	return err
}

func value[T any](v *T, err error) (T, error) {
	if err != nil {
		var zero T
		return zero, err
	}
	return *v, nil
}

func callNumgen[T any](ctx context.Context, g Numgen, m wire.Method, in any, write bool) (*T, error) {
	out := new(T)
	if err := g.c.callJSON(ctx, m, in, out, write); err != nil {
		return nil, err
	}
	return out, nil
}
