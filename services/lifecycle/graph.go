package lifecycle

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"nekoq/services/errs"
)

// State of a component.
type State string

// The states, in the order in which a component passes through them.
const (
	StateOff      State = "off"
	StatePending  State = "pending"
	StateStarting State = "starting"
	StateStarted  State = "started" // Start is through; Ready is not
	StateReady    State = "ready"
	StateDraining State = "draining"
	StateStopping State = "stopping"
	StateStopped  State = "stopped"
	StateFailed   State = "failed"
)

// Status is one component as others may see it.
type Status struct {
	Name  string    `json:"name"`
	State State     `json:"state"`
	Needs []string  `json:"needs"`
	Since time.Time `json:"since"` // when it came into State
	// Error says why it failed, or why it is not ready.
	Error     string `json:"error,omitempty"`
	OffReason string `json:"off_reason,omitempty"`
}

// Step is one hook that ran on the way down.
type Step struct {
	Component string        `json:"component"`
	Hook      string        `json:"hook"` // "drain" or "stop"
	Took      time.Duration `json:"took"`
	Missed    bool          `json:"missed,omitempty"` // it did not keep its deadline
	Err       error         `json:"-"`
}

// Failure is what a component failed with.
type Failure struct {
	Component string
	During    string // "start", "run", "drain" or "stop"
	Err       error
}

func (f *Failure) Error() string {
	return fmt.Sprintf("%s failed to %s: %v", f.Component, f.During, f.Err)
}
func (f *Failure) Unwrap() error { return f.Err }

// Options of a Graph. The zero value works.
type Options struct {
	Logger *slog.Logger
	// The deadlines of components that name none: 60 s, 15 s and 15 s.
	StartTimeout, DrainTimeout, StopTimeout time.Duration
	// ReadyInterval is the pause between two polls of what is not ready yet
	// (50 ms). What is ready is polled every 20 intervals.
	ReadyInterval time.Duration
}

// Graph is the components of one process. It starts once and stops once.
type Graph struct {
	opts       Options
	components []Component

	mu       sync.Mutex
	units    []*unit // in the order of the plan; those that are off last
	cause    error   // the first failure
	steps    []Step
	changed  chan struct{} // closed and replaced at each change of a state
	started  chan struct{} // closed when Start is through; nil before Start
	stopping bool

	cancelStart context.CancelFunc
	background  context.Context // of the watchers of Ready and Failed
	cancelBack  context.CancelFunc
	watchers    sync.WaitGroup
	done        chan struct{} // closed when everything has stopped
}

// unit is a component in motion.
type unit struct {
	Component
	needs, dependents []*unit
	state             State
	since             time.Time
	err               error
	up                bool // Start is through, so Stop must run
	startDone         chan struct{}
}

// New makes an empty graph.
func New(opts Options) *Graph {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&opts.StartTimeout, 60*time.Second)
	def(&opts.DrainTimeout, 15*time.Second)
	def(&opts.StopTimeout, 15*time.Second)
	def(&opts.ReadyInterval, 50*time.Millisecond)
	return &Graph{opts: opts, changed: make(chan struct{}), done: make(chan struct{})}
}

// Add puts a component in. It is called before Start; Plan reports mistakes.
func (g *Graph) Add(c Component) {
	c.Needs = slices.Clone(c.Needs)
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&c.StartTimeout, g.opts.StartTimeout)
	def(&c.DrainTimeout, g.opts.DrainTimeout)
	def(&c.StopTimeout, g.opts.StopTimeout)
	g.components = append(g.components, c)
}

// Snapshot is the state of every component, in the order of the plan. Before
// Start all are pending or off.
func (g *Graph) Snapshot() []Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	units := g.units
	if units == nil {
		if plan, err := g.Plan(); err == nil {
			units = g.link(plan)
		}
	}
	out := make([]Status, 0, len(units))
	for _, u := range units {
		s := Status{
			Name: u.Name, State: u.state, Needs: planned(&u.Component).Needs,
			Since: u.since, OffReason: u.Off,
		}
		if u.err != nil {
			s.Error = u.err.Error()
		}
		out = append(out, s)
	}
	return out
}

// link makes units of the plan. All get the present time.
func (g *Graph) link(plan []Planned) []*unit {
	byName := make(map[string]*unit, len(plan))
	for i := range g.components {
		c := g.components[i]
		u := &unit{Component: c, state: StatePending, since: time.Now(), startDone: make(chan struct{})}
		if c.Off != "" {
			u.state = StateOff
		}
		byName[c.Name] = u
	}
	units := make([]*unit, 0, len(plan))
	for _, p := range plan {
		u := byName[p.Name]
		units = append(units, u)
		if u.Off != "" {
			continue
		}
		for _, n := range p.Needs {
			u.needs = append(u.needs, byName[n])
			byName[n].dependents = append(byName[n].dependents, u)
		}
	}
	return units
}

// set moves u to state. A failed component stays failed.
func (g *Graph) set(u *unit, state State, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.setLocked(u, state, err)
}

func (g *Graph) setLocked(u *unit, state State, err error) {
	if u.state == StateFailed {
		return
	}
	if u.state != state {
		u.since = time.Now()
		g.opts.Logger.Debug("component", "name", u.Name, "state", string(state))
	}
	u.state, u.err = state, err
	close(g.changed)
	g.changed = make(chan struct{})
}

func (g *Graph) stateOf(u *unit) State {
	g.mu.Lock()
	defer g.mu.Unlock()
	return u.state
}

// fail notes the failure of u, and whether it is the first.
func (g *Graph) fail(u *unit, during string, err error) (first bool) {
	f := &Failure{Component: u.Name, During: during, Err: err}
	g.opts.Logger.Error("component failed", "name", u.Name, "during", during, "error", err)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.setLocked(u, StateFailed, err)
	if g.cause != nil {
		return false
	}
	g.cause = f
	return true
}

// Ready asks every running component now, and answers nil when all serve or an
// error (code unavailable) that names those that do not, and why.
func (g *Graph) Ready(ctx context.Context) error {
	g.mu.Lock()
	units := g.units
	g.mu.Unlock()
	var why []string
	if units == nil {
		why = append(why, "nothing has been started")
	}
	for _, u := range units {
		if s, err := g.poll(ctx, u); s != StateReady && s != StateOff {
			text := u.Name + " is " + string(s)
			if err != nil {
				text += ": " + err.Error()
			}
			why = append(why, text)
		}
	}
	if len(why) == 0 {
		return nil
	}
	e := errs.New(errs.Unavailable, "not ready: %s", why[0])
	for _, w := range why {
		e = e.With(errs.Detail{Help: w})
	}
	return e
}

// poll runs u's Ready hook where it has one and moves it between started and
// ready.
func (g *Graph) poll(ctx context.Context, u *unit) (State, error) {
	g.mu.Lock()
	state, err := u.state, u.err
	g.mu.Unlock()
	if state != StateStarted && state != StateReady || u.Ready == nil {
		return state, err
	}
	err, missed := run(ctx, readyTimeout, u.Ready)
	if missed {
		err = errs.New(errs.DeadlineExceeded, "no answer within %s", readyTimeout)
	}
	next := StateReady
	if err != nil {
		next = StateStarted
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if u.state != StateStarted && u.state != StateReady { // it moved on meanwhile
		return u.state, u.err
	}
	if next != u.state || fmt.Sprint(err) != fmt.Sprint(u.err) {
		if next != u.state {
			args := []any{"name", u.Name, "state", string(next)}
			if err != nil {
				args = append(args, "reason", err.Error())
			}
			g.opts.Logger.Info("component", args...)
		}
		g.setLocked(u, next, err)
	}
	return next, err
}

// WaitReady waits until every component is ready, ctx ends, or one fails.
func (g *Graph) WaitReady(ctx context.Context) error {
	for {
		g.mu.Lock()
		changed, cause, stopping := g.changed, g.cause, g.stopping
		ready := g.units != nil
		for _, u := range g.units {
			ready = ready && (u.state == StateReady || u.state == StateOff)
		}
		g.mu.Unlock()
		switch {
		case cause != nil:
			return cause
		case stopping:
			return errs.New(errs.ShuttingDown, "the process is stopping")
		case ready:
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if err := g.Ready(ctx); err != nil {
				return errs.From(err).Wrap(ctx.Err())
			}
			return ctx.Err()
		}
	}
}

// Cause is the first failure, nil when there was none.
func (g *Graph) Cause() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.cause
}

// Done is closed when everything has stopped.
func (g *Graph) Done() <-chan struct{} { return g.done }

// Wait waits until everything has stopped, by Stop or by a failure, and gives
// the first cause: nil after an orderly stop.
func (g *Graph) Wait() error {
	<-g.done
	return g.Cause()
}

// Steps is the report of the way down: what ran, how long, what missed its
// deadline.
func (g *Graph) Steps() []Step {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.steps)
}
