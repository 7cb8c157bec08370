package idgen

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"nekoq/services/clock"
	"nekoq/services/errs"
)

// Grant is what a holder may do: make ids under these worker numbers with times
// after Floor and up to High.
type Grant struct {
	Numbers []uint16 `json:"numbers"` // ascending
	// Token is the store revision of the acquisition: the fencing token.
	Token uint64 `json:"token,string"`
	Floor int64  `json:"floor_ms,string"` // Unix ms
	High  int64  `json:"high_ms,string"`  // Unix ms, durable
}

// AcquireRequest asks for worker numbers in [Min, Max).
type AcquireRequest struct {
	Holder string `json:"holder"`
	// Ephemeral holders never come back, so nothing is remembered of them.
	Ephemeral bool          `json:"ephemeral"`
	Min       int           `json:"min"`
	Max       int           `json:"max"`
	NowMS     int64         `json:"now_ms,string"`     // the holder's clock, Unix ms
	ReserveMS int64         `json:"reserve_ms,string"` // high-water ahead of the clock
	TTL       time.Duration `json:"ttl_ns,string"`
}

// ExtendRequest moves the high-water time on, and raises the number of workers
// to Count where free ones are left.
type ExtendRequest struct {
	Holder    string        `json:"holder"`
	Ephemeral bool          `json:"ephemeral"`
	Numbers   []uint16      `json:"numbers"`
	Token     uint64        `json:"token,string"`
	Min       int           `json:"min"`
	Max       int           `json:"max"`
	Count     int           `json:"count"`
	NowMS     int64         `json:"now_ms,string"`
	ReserveMS int64         `json:"reserve_ms,string"`
	TTL       time.Duration `json:"ttl_ns,string"`
}

// ReleaseRequest gives the numbers back. LastMS is the time of the last id made
// under them: the next holder starts after it.
type ReleaseRequest struct {
	Numbers []uint16 `json:"numbers"`
	Token   uint64   `json:"token,string"`
	LastMS  int64    `json:"last_ms,string"`
}

// WorkerLeaser is where grants come from: the replicated state, directly on a
// server and through the native door in the client. Extend fails with
// stale_token when the numbers have gone to somebody else.
type WorkerLeaser interface {
	Acquire(ctx context.Context, r AcquireRequest) (Grant, error)
	Extend(ctx context.Context, r ExtendRequest) (Grant, error)
	Release(ctx context.Context, r ReleaseRequest) error
}

// WorkerConfig is how a Worker behaves.
type WorkerConfig struct {
	Holder    string
	Ephemeral bool
	Min, Max  int // range of worker numbers asked for
	// MaxNumbers is how many worker numbers demand may bring the holder to.
	MaxNumbers int
	Limits
	Reserve time.Duration // high-water ahead of the clock
	TTL     time.Duration // of the lease, in replicated time
	Idle    time.Duration // without an id for so long, the high-water is no longer extended
	Timeout time.Duration // of one call to the leaser
	Clock   clock.Clock
	Logger  *slog.Logger
	// OnGrant is told of every new grant, OnLost of a superseded one; both may be nil.
	OnGrant func(Grant)
	OnLost  func()
}

// grant is a Grant as the streams see it. A new generation makes every stream
// start after the floor; an extension keeps the generation.
type grant struct {
	generation uint64
	numbers    []uint16
	token      uint64
	floor      int64
	high       int64
}

// Worker holds one lease of worker numbers and keeps its durable high-water
// time ahead of the clock for as long as ids are made. No id is ever made past
// the high-water time, so nothing that happens to the lease can repeat one.
type Worker struct {
	cfg    WorkerConfig
	leaser WorkerLeaser

	cur     atomic.Pointer[grant]
	lastUse atomic.Int64 // Unix ms
	want    atomic.Int32 // worker numbers
	keeping atomic.Bool

	turn    chan struct{} // one renewal at a time
	mu      sync.Mutex    // streams, closed
	streams []*Stream
	closed  bool
	// retiredLast is the time of the last id of all retired streams, Unix ms.
	retiredLast int64

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// NewWorker makes a Worker. It takes no lease before the first id.
func NewWorker(cfg WorkerConfig, leaser WorkerLeaser) *Worker {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	w := &Worker{cfg: cfg, leaser: leaser, turn: make(chan struct{}, 1)}
	w.want.Store(1)
	w.ctx, w.cancel = context.WithCancel(context.Background())
	return w
}

// Stream makes a stream whose times are covered by this worker's lease. All
// uuidv7 of a worker share one, and so do all ulid: nothing in those ids tells
// generators apart, so one counter must.
func (w *Worker) Stream(l Layout) *Stream {
	w.mu.Lock()
	defer w.mu.Unlock()
	if l.shared() {
		for _, s := range w.streams {
			if s.layout.Kind == l.Kind {
				return s
			}
		}
	}
	s := NewStream(l)
	s.last = w.retiredLast // one made anew under an old name goes on where that ended
	w.streams = append(w.streams, s)
	return s
}

// Retire ends a stream, for a generator that is gone.
func (w *Worker) Retire(s *Stream) {
	if s.layout.shared() {
		return
	}
	last := s.retire()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.retiredLast = max(w.retiredLast, last)
	w.streams = slices.DeleteFunc(w.streams, func(o *Stream) bool { return o == s })
}

// Grant gives the present grant; ok is false when there is none.
func (w *Worker) Grant() (g Grant, ok bool) {
	c := w.cur.Load()
	if c == nil {
		return Grant{}, false
	}
	return Grant{Numbers: c.numbers, Token: c.token, Floor: c.floor, High: c.high}, true
}

// Last is the latest time in an id of any of the streams.
func (w *Worker) Last() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	last := w.retiredLast
	for _, s := range w.streams {
		last = max(last, s.reach(nil, 0))
	}
	return time.UnixMilli(last)
}

// Append makes n ids of s and packs them onto dst. It waits for the lease where
// it must, and for the clock where demand has run ahead of it.
func (w *Worker) Append(ctx context.Context, s *Stream, dst []byte, n int) ([]byte, error) {
	start := len(dst)
	for n > 0 {
		part := s.chunk(n, w.cfg.Limits)
		out, err := w.appendChunk(ctx, s, dst, part)
		if err != nil {
			return dst[:start], err
		}
		dst, n = out, n-part
	}
	return dst, nil
}

func (w *Worker) appendChunk(ctx context.Context, s *Stream, dst []byte, n int) ([]byte, error) {
	for tries := 0; ; tries++ {
		g := w.cur.Load()
		now := w.cfg.Clock.Now().UnixMilli()
		out, v, d := s.claim(dst, g, now, n, w.cfg.Limits)
		switch v {
		case claimed:
			w.used(g, now)
			return out, nil
		case wentBack:
			return dst, clockMovedBack(d, w.cfg.MaxDrift)
		case exhausted:
			return dst, errs.New(errs.Exhausted, "the time bits of the generator are used up at %s", time.UnixMilli(s.layout.lastMS()).UTC().Format(time.RFC3339))
		case tooFast:
			if err := w.tooFast(ctx, s, g, d); err != nil {
				return dst, err
			}
		case needGrant:
			if tries > 16 {
				return dst, errs.New(errs.Unavailable, "the clock outruns the worker lease: its high-water time cannot be brought to it")
			}
			if err := w.renew(ctx, g, s.reach(g, now)); err != nil {
				return dst, err
			}
		}
	}
}

// used notes a use and sees to it that the high-water time moves on in good time.
func (w *Worker) used(g *grant, now int64) {
	if w.lastUse.Load() != now {
		w.lastUse.Store(now)
	}
	if !w.keeping.Load() && w.keeping.CompareAndSwap(false, true) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.closed {
			return
		}
		w.wg.Go(w.keep)
	}
}

// tooFast asks for one more worker number where that helps, and else waits.
func (w *Worker) tooFast(ctx context.Context, s *Stream, g *grant, d time.Duration) error {
	if have := len(g.numbers); s.multi && have < w.cfg.MaxNumbers && int(w.want.Load()) <= have {
		w.want.Store(int32(have + 1))
		if err := w.renew(ctx, g, w.cfg.Clock.Now().UnixMilli()); err != nil {
			return err
		}
		if w.cur.Load() != g {
			return nil
		}
	}
	t := w.cfg.Clock.NewTimer(max(d, time.Millisecond))
	defer t.Stop()
	select {
	case <-t.C():
		return nil
	case <-ctx.Done():
		return errs.New(errs.TooManyRequests, "the generator is at its highest rate: %d ids a millisecond on this node; the deadline passed while waiting for the clock",
			s.layout.slots()*uint64(len(g.numbers))).Wrap(ctx.Err())
	case <-w.ctx.Done():
		return errStopping()
	}
}

// keep extends the high-water time while ids are made.
func (w *Worker) keep() {
	defer w.keeping.Store(false)
	t := w.cfg.Clock.NewTimer(w.cfg.Reserve * 2 / 5)
	defer t.Stop()
	for {
		select {
		case <-w.ctx.Done():
			return
		case <-t.C():
		}
		now := w.cfg.Clock.Now().UnixMilli()
		idle := now - w.lastUse.Load()
		if idle > w.cfg.Idle.Milliseconds() {
			return
		}
		if g := w.cur.Load(); g != nil && g.high-now < w.reserveMS()*4/5 {
			if err := w.renew(w.ctx, g, now); err != nil && w.ctx.Err() == nil {
				w.cfg.Logger.Warn("the worker lease could not be extended; ids go on until its high-water time",
					"holder", w.cfg.Holder, "high_water", time.UnixMilli(g.high).UTC(), "err", err)
			}
		}
		t.Reset(w.cfg.Reserve * 2 / 5)
	}
}

// renew gets a grant that is newer than old: it extends the present lease, or
// takes a new one when there is none or it has been superseded.
func (w *Worker) renew(ctx context.Context, old *grant, now int64) error {
	select {
	case w.turn <- struct{}{}:
		defer func() { <-w.turn }()
	case <-ctx.Done():
		return errs.From(ctx.Err())
	case <-w.ctx.Done():
		return errStopping()
	}
	if w.cur.Load() != old {
		return nil // somebody else has just renewed
	}
	if w.ctx.Err() != nil {
		return errStopping()
	}
	ctx, cancel := context.WithTimeout(ctx, w.cfg.Timeout)
	defer cancel()
	if old != nil {
		err := w.extend(ctx, old, now)
		if !errs.Has(err, errs.StaleToken) {
			return leaseError(err)
		}
		w.cfg.Logger.Warn("the worker lease was superseded; taking a new one", "holder", w.cfg.Holder, "token", old.token)
		w.cur.Store(nil)
		if w.cfg.OnLost != nil {
			w.cfg.OnLost()
		}
	}
	return leaseError(w.acquire(ctx, now))
}

func (w *Worker) extend(ctx context.Context, old *grant, now int64) error {
	g, err := w.leaser.Extend(ctx, ExtendRequest{
		Holder: w.cfg.Holder, Ephemeral: w.cfg.Ephemeral, Numbers: old.numbers, Token: old.token,
		Min: w.cfg.Min, Max: w.cfg.Max, Count: max(int(w.want.Load()), len(old.numbers)),
		NowMS: now, ReserveMS: w.reserveMS(), TTL: w.cfg.TTL,
	})
	if err != nil {
		return err
	}
	next := &grant{generation: old.generation, numbers: g.Numbers, token: g.Token, floor: old.floor, high: g.High}
	if len(g.Numbers) != len(old.numbers) {
		next.generation++
		next.floor = max(old.floor, g.Floor)
	}
	w.set(next)
	return nil
}

func (w *Worker) acquire(ctx context.Context, now int64) error {
	g, err := w.leaser.Acquire(ctx, AcquireRequest{
		Holder: w.cfg.Holder, Ephemeral: w.cfg.Ephemeral, Min: w.cfg.Min, Max: w.cfg.Max,
		NowMS: now, ReserveMS: w.reserveMS(), TTL: w.cfg.TTL,
	})
	if err != nil {
		return err
	}
	w.set(&grant{generation: g.Token, numbers: g.Numbers, token: g.Token, floor: g.Floor, high: g.High})
	w.cfg.Logger.Info("worker lease taken", "holder", w.cfg.Holder, "workers", g.Numbers, "token", g.Token,
		"floor", time.UnixMilli(g.Floor).UTC())
	return nil
}

// reserveMS covers the demand that may run ahead of the clock as well.
func (w *Worker) reserveMS() int64 { return (w.cfg.Reserve + w.cfg.MaxAhead).Milliseconds() }

func (w *Worker) set(g *grant) {
	w.cur.Store(g)
	if w.cfg.OnGrant != nil {
		w.cfg.OnGrant(Grant{Numbers: g.numbers, Token: g.token, Floor: g.floor, High: g.high})
	}
}

// leaseError says what the loss of the leader means here.
func leaseError(err error) error {
	if err == nil {
		return nil
	}
	e := errs.From(err)
	switch e.Code {
	case errs.NoLeader, errs.OutcomeUnknown, errs.DeadlineExceeded, errs.Unavailable:
		return errs.New(errs.NoLeader, "the worker lease has reached its high-water time and cannot be extended: %s", e.Message).Wrap(err)
	}
	return err
}

// Close stops the making of ids and gives the lease back with the time of the
// last id, so that the next holder need not wait for the clock.
func (w *Worker) Close(ctx context.Context) error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	w.mu.Unlock()
	w.cancel()
	w.wg.Wait()
	select {
	case w.turn <- struct{}{}: // kept: nobody renews any more
	case <-ctx.Done():
		return errs.From(ctx.Err())
	}
	r, held := w.retireAll()
	if !held {
		return nil
	}
	return w.leaser.Release(ctx, r)
}

func (w *Worker) retireAll() (r ReleaseRequest, held bool) {
	g := w.cur.Swap(nil)
	if g == nil {
		return r, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	last := w.retiredLast
	for _, s := range w.streams {
		last = max(last, s.retire())
	}
	return ReleaseRequest{Numbers: g.numbers, Token: g.token, LastMS: last}, true
}

func errStopping() error { return errs.New(errs.ShuttingDown, "the id generator is stopping") }
