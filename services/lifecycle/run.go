package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"nekoq/services/errs"
)

const (
	// readyTimeout bounds one Ready hook.
	readyTimeout = time.Second
	// abortGrace is what a Stop hook gets when the stop itself is cut short.
	abortGrace = 100 * time.Millisecond
	// readyEvery is how many polls pass over a component that is ready.
	readyEvery = 20
)

// run calls hook under a deadline. missed says that it did not return in time;
// it then goes on by itself, since a goroutine cannot be ended from outside. A
// panic is an error.
func run(ctx context.Context, limit time.Duration, hook func(context.Context) error) (err error, missed bool) {
	return runThen(ctx, limit, hook, nil)
}

// runThen is run; late is called with the result of a hook that missed its deadline.
func runThen(ctx context.Context, limit time.Duration, hook func(context.Context) error, late func(error)) (err error, missed bool) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	var (
		mu   sync.Mutex
		left bool
		res  = make(chan error, 1)
	)
	go func() {
		defer cancel()
		err := errors.New("the hook ended its goroutine")
		defer func() {
			if p := recover(); p != nil {
				err = errs.New(errs.Internal, "panic: %v", p).Wrap(fmt.Errorf("%s", debug.Stack()))
			}
			res <- err
			mu.Lock()
			tell := left && late != nil
			mu.Unlock()
			if tell {
				late(err)
			}
		}()
		err = hook(ctx)
	}()
	select {
	case err := <-res:
		return err, false
	case <-ctx.Done():
	}
	// A hook that heeds its context ends now; give it the chance to say so.
	grace := time.NewTimer(abortGrace)
	defer grace.Stop()
	select {
	case err := <-res:
		return err, ctx.Err() == context.DeadlineExceeded && errors.Is(err, context.DeadlineExceeded)
	case <-grace.C:
	}
	mu.Lock()
	defer mu.Unlock()
	select {
	case err := <-res:
		return err, false
	default:
	}
	left = true
	return ctx.Err(), true
}

// Start starts everything, what is independent in parallel, and returns when
// all has started. When one fails, or ctx ends, what runs is stopped in reverse
// order and the first cause is returned.
func (g *Graph) Start(ctx context.Context) error {
	plan, err := g.Plan()
	if err != nil {
		return err
	}
	g.mu.Lock()
	if g.started != nil || g.stopping {
		g.mu.Unlock()
		return errs.New(errs.Conflict, "a graph starts once")
	}
	g.started = make(chan struct{})
	g.units = g.link(plan)
	ctx, g.cancelStart = context.WithCancel(ctx)
	g.background, g.cancelBack = context.WithCancel(context.WithoutCancel(ctx))
	units := g.units
	g.mu.Unlock()
	g.logPlan(plan)

	var wg sync.WaitGroup
	for _, u := range units {
		if u.state != StateOff {
			wg.Go(func() { g.startUnit(ctx, u) })
		}
	}
	wg.Wait()
	g.mu.Lock()
	if ctx.Err() != nil && g.cause == nil && !g.allUp() {
		g.cause = errs.New(errs.Canceled, "the start was broken off").Wrap(ctx.Err())
	}
	cause := g.cause
	if cause == nil {
		g.watchers.Go(g.pollReady) // before started closes, since Stop waits for the watchers after it
	}
	close(g.started)
	g.mu.Unlock()
	g.cancelStart()
	if cause != nil {
		_ = g.Stop(context.WithoutCancel(ctx))
		return cause
	}
	return nil
}

// allUp is called with g.mu held.
func (g *Graph) allUp() bool {
	for _, u := range g.units {
		if !u.up && u.state != StateOff {
			return false
		}
	}
	return true
}

func (g *Graph) logPlan(plan []Planned) {
	var on, off []string
	for _, p := range plan {
		switch {
		case p.Off != "":
			off = append(off, p.Name+" ("+p.Off+")")
		case len(p.Needs) > 0:
			on = append(on, p.Name+" after "+strings.Join(p.Needs, "+"))
		default:
			on = append(on, p.Name)
		}
	}
	g.opts.Logger.Debug("plan", "start", strings.Join(on, ", "), "off", strings.Join(off, ", "))
}

func (g *Graph) startUnit(ctx context.Context, u *unit) {
	defer close(u.startDone)
	for _, n := range u.needs {
		<-n.startDone
		if !n.up {
			return // the cause is noted already
		}
	}
	if ctx.Err() != nil {
		return
	}
	g.set(u, StateStarting, nil)
	begin := time.Now()
	if u.Start != nil {
		late := func(err error) {
			if err == nil && u.Stop != nil { // it came up after it had been given up
				_, _ = run(context.Background(), u.StopTimeout, u.Stop)
			}
		}
		err, missed := runThen(ctx, u.StartTimeout, u.Start, late)
		if missed && ctx.Err() == nil {
			err = errs.New(errs.DeadlineExceeded, "not started within %s", u.StartTimeout).Wrap(err)
		}
		if err != nil {
			if ctx.Err() != nil {
				g.set(u, StateStopped, err) // broken off, by another's failure or from outside
				return
			}
			g.fail(u, "start", err)
			g.cancelStart()
			return
		}
	}
	state := StateReady
	if u.Ready != nil {
		state = StateStarted
	}
	g.mu.Lock()
	u.up = true
	g.setLocked(u, state, nil)
	g.mu.Unlock()
	g.opts.Logger.Info("component", "name", u.Name, "state", string(state), "took", time.Since(begin))
	if u.Failed != nil {
		g.watchers.Go(func() { g.watchFailed(u) })
	}
}

// watchFailed waits for u's failure; the first failure of all stops everything.
func (g *Graph) watchFailed(u *unit) {
	for {
		select {
		case <-g.background.Done():
			return
		case err, open := <-u.Failed:
			if err == nil && open {
				continue
			}
			if !open {
				return
			}
			first := g.fail(u, "run", err)
			g.cancelStart() // Start, if it still runs, does the stopping
			if first {
				go func() {
					<-g.started
					_ = g.Stop(context.Background())
				}()
			}
			return
		}
	}
}

// pollReady keeps the states started and ready up to date.
func (g *Graph) pollReady() {
	ticker := time.NewTicker(g.opts.ReadyInterval)
	defer ticker.Stop()
	for round := 0; ; round++ {
		for _, u := range g.units {
			if g.stateOf(u) == StateStarted || round%readyEvery == 0 {
				_, _ = g.poll(g.background, u)
			}
		}
		select {
		case <-ticker.C:
		case <-g.background.Done():
			return
		}
	}
}

// Stop drains everything, dependents first, then stops everything, dependents
// first. A hook that misses its deadline is noted and left behind. When ctx ends
// the drains are cut short and every Stop hook gets an ended context. The error
// joins what the hooks failed with; Steps has the details. Stop during Start
// breaks the start off. A second Stop waits for the first.
func (g *Graph) Stop(ctx context.Context) error {
	g.mu.Lock()
	if g.stopping {
		g.mu.Unlock()
		select {
		case <-g.done:
			return g.stopError()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if g.started == nil { // never started
		g.stopping = true
		close(g.done)
		g.mu.Unlock()
		return nil
	}
	started := g.started
	g.mu.Unlock()
	g.cancelStart()
	<-started
	g.mu.Lock()
	if g.stopping { // Start failed and has begun to stop
		g.mu.Unlock()
		return g.Stop(ctx)
	}
	g.stopping = true
	close(g.changed)
	g.changed = make(chan struct{})
	g.mu.Unlock()
	g.cancelBack()
	g.watchers.Wait()

	g.descend(func(u *unit) {
		if u.Drain != nil && ctx.Err() == nil && g.stateOf(u) != StateFailed {
			g.set(u, StateDraining, nil)
			g.step(ctx, u, "drain", u.DrainTimeout, u.Drain)
		}
	})
	g.descend(func(u *unit) {
		g.set(u, StateStopping, nil)
		if u.Stop != nil {
			g.step(ctx, u, "stop", u.StopTimeout, u.Stop)
		}
		g.set(u, StateStopped, nil)
	})
	close(g.done)
	return g.stopError()
}

// descend calls fn for every unit that is up, after its dependents are through.
func (g *Graph) descend(fn func(*unit)) {
	through := make(map[*unit]chan struct{}, len(g.units))
	for _, u := range g.units {
		through[u] = make(chan struct{})
	}
	var wg sync.WaitGroup
	for _, u := range g.units {
		wg.Go(func() {
			defer close(through[u])
			for _, d := range u.dependents {
				<-through[d]
			}
			if u.up {
				fn(u)
			}
		})
	}
	wg.Wait()
}

func (g *Graph) step(ctx context.Context, u *unit, name string, limit time.Duration, hook func(context.Context) error) {
	begin := time.Now()
	err, missed := run(ctx, limit, hook)
	s := Step{Component: u.Name, Hook: name, Took: time.Since(begin), Missed: missed, Err: err}
	switch {
	case missed && ctx.Err() != nil:
		s.Err = errs.New(errs.Canceled, "cut short").Wrap(err)
	case missed:
		s.Err = errs.New(errs.DeadlineExceeded, "not done within %s", limit).Wrap(err)
	}
	if s.Err != nil {
		g.opts.Logger.Warn("component did not "+name+" in order", "name", u.Name, "took", s.Took, "missed_deadline", missed, "error", s.Err)
	} else {
		g.opts.Logger.Info("component", "name", u.Name, "done", name, "took", s.Took)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.steps = append(g.steps, s)
}

func (g *Graph) stopError() error {
	var all []error
	for _, s := range g.Steps() {
		if s.Err != nil {
			all = append(all, &Failure{Component: s.Component, During: s.Hook, Err: s.Err})
		}
	}
	return errors.Join(all...)
}
