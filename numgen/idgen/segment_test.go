package idgen

import (
	"context"
	"sync"
	"testing"
	"time"

	"nekoq/services/errs"
	"nekoq/services/testkit/fakeclock"
)

// blocks is a fake of the replicated counter, as strict as the real one.
type blocks struct {
	mu       sync.Mutex
	next     uint64
	nonce    uint64
	last     Block
	steps    []uint64
	returned []Block
	lose     int // answers to lose after the work was done
	fail     error
}

func (b *blocks) Lease(_ context.Context, step, nonce, after uint64) (Block, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		return Block{}, b.fail
	}
	if nonce != b.nonce {
		b.next = max(b.next, 1, after+1)
		b.last = Block{Lo: b.next, Hi: b.next + step}
		b.next, b.nonce = b.last.Hi, nonce
		b.steps = append(b.steps, step)
	}
	if b.lose > 0 {
		b.lose--
		return Block{}, errs.New(errs.OutcomeUnknown, "lost")
	}
	return b.last, nil
}

func (b *blocks) Return(_ context.Context, rest []Block, nonce uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if nonce != b.nonce {
		return errs.New(errs.StaleToken, "nonce %d, not %d", nonce, b.nonce)
	}
	b.returned = append(b.returned, rest...)
	return nil
}

func newTestSegment(clk *fakeclock.Clock, b *blocks) *SegmentSource {
	return NewSegment(SegmentConfig{MinStep: 10, MaxStep: 1000, Refill: 10 * time.Second, Timeout: time.Second, Clock: clk}, b, 99)
}

func TestSegmentIsDenseAndGivesBack(t *testing.T) {
	clk, b := fakeclock.New(time.Time{}), &blocks{}
	s := newTestSegment(clk, b)
	next := uint64(1)
	lost := 0
	for i := range 200 {
		if i%17 == 3 {
			b.mu.Lock()
			b.lose = 1
			b.mu.Unlock()
		}
		packed, err := s.Append(t.Context(), nil, 1+i%25)
		if err != nil { // an answer was lost: the next attempt gets the same block
			if lost++; !errs.Has(err, errs.NoLeader) {
				t.Fatal(err)
			}
			continue
		}
		for id, rest, ok := Segment.Next(packed); ok; id, rest, ok = Segment.Next(rest) {
			if Unpack(id).Lo != next {
				t.Fatalf("%d, want %d", Unpack(id).Lo, next)
			}
			next++
		}
	}
	b.mu.Lock()
	b.lose = 0
	b.mu.Unlock()
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(b.returned) != 1 || b.returned[0].Lo != next || b.returned[0].Hi != b.next {
		t.Fatalf("gave back %v; next is %d of %d", b.returned, next, b.next)
	}
	if _, err := s.Append(t.Context(), nil, 1); !errs.Has(err, errs.ShuttingDown) {
		t.Fatal(err)
	}
}

func TestSegmentStepFollowsDemand(t *testing.T) {
	clk, b := fakeclock.New(time.Time{}), &blocks{}
	s := newTestSegment(clk, b)
	defer s.Discard()
	newest := func() uint64 {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.steps[len(b.steps)-1]
	}
	for i := 0; len(b.steps) == 0 || newest() < 1000; i++ {
		if i > 20_000 {
			t.Fatal("the step stays at", newest())
		}
		if _, err := s.Append(t.Context(), nil, 10); err != nil {
			t.Fatal(err)
		}
		s.wg.Wait() // the prefetch, so that steps are there to look at
	}
	for i := 0; newest() > 10; i++ {
		if i > 20_000 {
			t.Fatal("the step stays at", newest())
		}
		clk.Advance(30 * time.Second)
		if _, err := s.Append(t.Context(), nil, 5); err != nil {
			t.Fatal(err)
		}
		s.wg.Wait()
	}
}

func TestSegmentGoesOnWithoutLeader(t *testing.T) {
	clk, b := fakeclock.New(time.Time{}), &blocks{}
	s := newTestSegment(clk, b)
	defer s.Discard()
	if _, err := s.Append(t.Context(), nil, 2); err != nil {
		t.Fatal(err)
	}
	b.mu.Lock()
	b.fail = errs.New(errs.NoLeader, "no leader")
	b.mu.Unlock()
	for range 8 {
		if _, err := s.Append(t.Context(), nil, 1); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Append(t.Context(), nil, 1); !errs.Has(err, errs.NoLeader) {
		t.Fatal(err)
	}
	b.mu.Lock()
	b.fail = nil
	b.mu.Unlock()
	if _, err := s.Append(t.Context(), nil, 1); err != nil {
		t.Fatal(err)
	}
}
