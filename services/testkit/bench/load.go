package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// op is one operation of client number worker; n counts that client's operations.
type op func(ctx context.Context, worker, n int) error

// run is what one load gave.
type run struct {
	ops      int
	took     time.Duration
	p50, p99 time.Duration
	// Processor time of the servers and of this process, which is all clients.
	server, client time.Duration
}

func (r run) rate() float64 { return float64(r.ops) / r.took.Seconds() }

// each is processor time per operation in microseconds.
func (r run) each(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 / float64(r.ops) }

// ownCPU is the processor time that this process has used.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

var errNothing = errors.New("no operation finished")

// load drives clients goroutines for d, after a warm-up of d/4 that is not
// counted. Any error ends it: a benchmark with failures is no benchmark. serverCPU
// gives the processor time of the servers so far; nil for none.
func load(ctx context.Context, clients int, d time.Duration, f op, serverCPU func() time.Duration) (run, error) {
	if serverCPU == nil {
		serverCPU = func() time.Duration { return 0 }
	}
	ctx, cancel := context.WithTimeout(ctx, d+d/4+30*time.Second)
	defer cancel()
	var (
		wg       sync.WaitGroup
		stop     atomic.Bool
		counting atomic.Bool
		failed   atomic.Pointer[error]
		lat      = make([][]time.Duration, clients)
		ops      = make([]int, clients)
	)
	for w := range clients {
		wg.Go(func() {
			for n := 0; !stop.Load(); n++ {
				start := time.Now()
				if err := f(ctx, w, n); err != nil {
					err = fmt.Errorf("client %d, operation %d: %w", w, n, err)
					failed.CompareAndSwap(nil, &err)
					stop.Store(true)
					return
				}
				if counting.Load() {
					ops[w]++
					if len(lat[w]) < 1<<17 {
						lat[w] = append(lat[w], time.Since(start))
					}
				}
			}
		})
	}
	pause(ctx, d/4)
	server, client := serverCPU(), ownCPU()
	counting.Store(true)
	start := time.Now()
	pause(ctx, d)
	counting.Store(false)
	took := time.Since(start)
	server, client = serverCPU()-server, ownCPU()-client
	stop.Store(true)
	wg.Wait()
	if err := failed.Load(); err != nil {
		return run{}, *err
	}
	r := run{took: took, server: server, client: client}
	var all []time.Duration
	for w := range clients {
		r.ops += ops[w]
		all = append(all, lat[w]...)
	}
	if len(all) == 0 {
		return run{}, fmt.Errorf("%w in %v", errNothing, took)
	}
	slices.Sort(all)
	r.p50, r.p99 = all[len(all)/2], all[len(all)*99/100]
	return r, nil
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// median of the runs by rate.
func median(rs []run) run {
	s := slices.Clone(rs)
	slices.SortFunc(s, func(a, b run) int { return int(a.rate() - b.rate()) })
	return s[len(s)/2]
}
