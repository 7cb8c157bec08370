// Package onleader runs the functions that work on the leader only.
//
// Begin and End are called by one goroutine; Add before the first Begin. Only
// services/replica/local and raftnode import it.
package onleader

import (
	"context"
	"log/slog"
	"runtime/pprof"
	"sync"
)

type loop struct {
	name string
	fn   func(ctx context.Context, term uint64)
}

// Set is the registered functions.
type Set struct {
	mu     sync.Mutex
	loops  []loop
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// Add registers fn.
func (s *Set) Add(name string, fn func(ctx context.Context, term uint64)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loops = append(s.loops, loop{name, fn})
}

// Begin starts every function in its own goroutine, under term.
func (s *Set) Begin(term uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	for _, l := range s.loops {
		s.wg.Go(func() {
			pprof.Do(ctx, pprof.Labels("leader_loop", l.name), func(ctx context.Context) { l.fn(ctx, term) })
		})
	}
}

// Cancel ends the context of the running functions without waiting.
func (s *Set) Cancel() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel != nil {
		s.cancel()
	}
}

// End ends the running functions and waits for them. When ctx ends first, it
// says which set is late and returns its error.
func (s *Set) End(ctx context.Context, log *slog.Logger) error {
	s.Cancel()
	done := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		log.Warn("leader loops have not ended in time")
		return ctx.Err()
	}
	s.mu.Lock()
	s.cancel = nil
	s.mu.Unlock()
	return nil
}
