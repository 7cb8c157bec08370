package idgen

import (
	"context"
	"encoding/binary"
	"log/slog"
	"sync"
	"time"

	"nekoq/services/clock"
	"nekoq/services/errs"
)

// Block is a leased run of numbers: Lo <= id < Hi.
type Block struct {
	Lo uint64 `json:"lo,string"`
	Hi uint64 `json:"hi,string"`
	// Token is the store revision of the lease.
	Token uint64 `json:"token,string"`
}

// Len is how many numbers the block has.
func (b Block) Len() uint64 { return b.Hi - b.Lo }

// BlockLeaser is where blocks come from. Lease gives a block of up to step
// numbers, all above every block that the holder had before; nonce names the
// attempt, so that a repeated one gets the same block. after is the greatest
// number leased so far. Return gives back what was not used, under the nonce of
// the newest lease.
type BlockLeaser interface {
	Lease(ctx context.Context, step, nonce, after uint64) (Block, error)
	Return(ctx context.Context, rest []Block, nonce uint64) error
}

// SegmentConfig is how a Segment behaves.
type SegmentConfig struct {
	MinStep, MaxStep uint64
	// Refill is how long a block should last: one that is used up sooner makes
	// the next one twice as large, one that lasts twice as long half as large.
	Refill  time.Duration
	Timeout time.Duration // of one call to the leaser
	Clock   clock.Clock
	Logger  *slog.Logger
	// OnRefill is told of every leased block's size; may be nil.
	OnRefill func(n uint64)
}

// SegmentSource gives increasing 64-bit numbers out of leased blocks. It keeps
// two: when half of the present one is used, the next one is leased beside.
type SegmentSource struct {
	cfg    SegmentConfig
	leaser BlockLeaser

	mu       sync.Mutex
	blocks   []Block // ascending; the first is in use
	left     uint64  // numbers in blocks
	step     uint64
	leasedAt time.Time // when the newest block was leased
	fetching bool
	closed   bool

	turn   chan struct{} // one lease at a time
	nonce  uint64        // under turn; changes once its lease has succeeded
	after  uint64        // under turn; greatest number leased
	wanted uint64        // under turn; step of an attempt that has not succeeded yet, 0 for none
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// NewSegment makes a SegmentSource. nonce is where its attempts count from; it
// must differ from those of the holder's earlier lives, so it is random.
func NewSegment(cfg SegmentConfig, leaser BlockLeaser, nonce uint64) *SegmentSource {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &SegmentSource{cfg: cfg, leaser: leaser, step: cfg.MinStep, turn: make(chan struct{}, 1), nonce: nonce}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// SetSteps changes the bounds of the step.
func (s *SegmentSource) SetSteps(minStep, maxStep uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cfg.MinStep, s.cfg.MaxStep = minStep, maxStep
	s.step = min(max(s.step, minStep), maxStep)
}

// Append packs n numbers onto dst, 8 bytes each, increasing. When a lease fails
// it has taken nothing.
func (s *SegmentSource) Append(ctx context.Context, dst []byte, n int) ([]byte, error) {
	for {
		out, ok := s.take(dst, uint64(n))
		if ok {
			return out, nil
		}
		if err := s.fetch(ctx, uint64(n)); err != nil {
			return dst, err
		}
	}
}

func (s *SegmentSource) take(dst []byte, n uint64) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.left < n {
		return dst, false
	}
	dst, out := grow(dst, int(8*n))
	s.left -= n
	for n > 0 {
		b := &s.blocks[0]
		k := min(n, b.Len())
		for id := b.Lo; id < b.Lo+k; id++ {
			binary.BigEndian.PutUint64(out, id)
			out = out[8:]
		}
		b.Lo += k
		n -= k
		if b.Len() == 0 {
			s.blocks = append(s.blocks[:0], s.blocks[1:]...)
		}
	}
	if s.left < s.step/2 && !s.fetching {
		s.fetching = true
		s.wg.Go(s.prefetch)
	}
	return dst, true
}

// prefetch leases the next block beside the one in use. Its failure costs
// nothing: whoever finds the blocks empty asks again and is told why.
func (s *SegmentSource) prefetch() {
	s.mu.Lock()
	want := s.left + 1
	s.mu.Unlock()
	// Not under s.ctx: a lease cut off on the way would leave a gap behind.
	err := s.fetch(context.Background(), want)
	s.mu.Lock()
	s.fetching = false
	s.mu.Unlock()
	if err != nil && s.ctx.Err() == nil {
		s.cfg.Logger.Warn("the next segment could not be leased; ids go on until the present one ends", "err", err)
	}
}

// fetch leases blocks until n numbers are there or a lease fails.
func (s *SegmentSource) fetch(ctx context.Context, n uint64) error {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return errs.From(ctx.Err())
	case <-s.ctx.Done():
		return errStopping()
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	for {
		s.mu.Lock()
		closed, left := s.closed, s.left
		s.mu.Unlock()
		if closed {
			return errStopping()
		}
		if left >= n {
			return nil
		}
		if s.wanted == 0 {
			s.wanted = s.nextStep(n - left)
		}
		b, err := s.leaser.Lease(ctx, s.wanted, s.nonce, s.after)
		if err != nil {
			// The block may have been leased all the same. The next attempt has the
			// same nonce and gets it then.
			return segmentError(err)
		}
		s.leased(b)
	}
}

// leased takes a block in. The caller has the turn.
func (s *SegmentSource) leased(b Block) {
	s.wanted, s.after = 0, b.Hi-1
	s.nonce++
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := len(s.blocks); k > 0 && s.blocks[k-1].Hi == b.Lo {
		s.blocks[k-1].Hi = b.Hi
	} else {
		s.blocks = append(s.blocks, b)
	}
	s.left += b.Len()
	s.leasedAt = s.cfg.Clock.Now()
	if s.cfg.OnRefill != nil {
		s.cfg.OnRefill(b.Len())
	}
}

// nextStep adapts the step to how long the newest block has lasted.
func (s *SegmentSource) nextStep(missing uint64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.leasedAt.IsZero() {
		switch lasted := s.cfg.Clock.Now().Sub(s.leasedAt); {
		case lasted < s.cfg.Refill:
			s.step *= 2
		case lasted > 2*s.cfg.Refill:
			s.step /= 2
		}
	}
	s.step = min(max(s.step, s.cfg.MinStep), s.cfg.MaxStep)
	return max(s.step, missing)
}

func segmentError(err error) error {
	e := errs.From(err)
	switch e.Code {
	case errs.NoLeader, errs.OutcomeUnknown, errs.DeadlineExceeded, errs.Unavailable:
		return errs.New(errs.NoLeader, "the leased segment is used up and the next one cannot be leased: %s", e.Message).Wrap(err)
	}
	return err
}

// Close stops the source and gives back what was not used.
func (s *SegmentSource) Close(ctx context.Context) error {
	s.stop()
	s.turn <- struct{}{} // a lease under way has ended by now
	defer func() { <-s.turn }()
	if s.wanted != 0 {
		if b, err := s.leaser.Lease(ctx, s.wanted, s.nonce, s.after); err == nil {
			s.leased(b)
		}
	}
	s.mu.Lock()
	rest := s.blocks
	s.blocks, s.left = nil, 0
	s.mu.Unlock()
	if len(rest) == 0 {
		return nil
	}
	return s.leaser.Return(ctx, rest, s.nonce-1)
}

// Discard stops the source without giving anything back, for a generator that
// is gone.
func (s *SegmentSource) Discard() { s.stop() }

func (s *SegmentSource) stop() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.wg.Wait()
}
