// Package local is the replica of LocalSwitch: one process that is always the
// leader. One goroutine forms batches of all commands that wait and applies them
// straight to the state machine, whose own synced commit (state.Synced) or
// nothing at all (state.Volatile) is their durability.
//
// A Replica is safe for concurrent use. OnLeader comes before Start. The machine
// belongs to the caller, who closes it after Shutdown. services/localswitch,
// services/app and tests import it.
package local

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"nekoq/services/clock"
	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/replica"
	"nekoq/services/replica/internal/group"
	"nekoq/services/replica/internal/onleader"
	"nekoq/services/state"
)

// Term is the only term there is.
const Term = 1

// Config bounds the queue of waiting commands.
type Config struct {
	MaxPending      int   `koanf:"max_pending_commands" doc:"commands that wait to be written; more are refused with too_many_requests"`
	MaxPendingBytes int64 `koanf:"max_pending_bytes" doc:"bytes of commands that wait to be written; more are refused with too_many_requests"`
}

// DefaultConfig leaves room for some ten thousand clients.
func DefaultConfig() Config { return Config{MaxPending: 16384, MaxPendingBytes: 64 << 20} }

// Validate reports every field that is out of bounds.
func (c Config) Validate() []error {
	var bad errs.Limits
	bad.Number("max_pending_commands", int64(c.MaxPending), 1, 1<<24, "")
	bad.Number("max_pending_bytes", c.MaxPendingBytes, 1<<20, 1<<40, "")
	return bad
}

// Options of New.
type Options struct {
	NodeID  string
	Machine *state.Machine // Synced or Volatile
	Clock   clock.Clock
	Logger  *slog.Logger
	Metrics prometheus.Registerer // nil for none
	Config  Config
}

// Replica is the one and only replica of its state.
type Replica struct {
	id      string
	machine *state.Machine
	clock   clock.Clock
	log     *slog.Logger
	queue   *group.Queue
	loops   onleader.Set
	metrics *metrics
	started atomic.Bool
	stopped chan struct{} // the writer has ended
	failed  chan struct{}
	failing sync.Once
	err     error // set before failed is closed
}

var _ replica.Replica = (*Replica)(nil)

// New makes a replica; Start runs it.
func New(opts Options) (*Replica, error) {
	m, err := newMetrics(opts.Metrics)
	if err != nil {
		return nil, err
	}
	return &Replica{
		id: opts.NodeID, machine: opts.Machine, clock: opts.Clock, log: opts.Logger,
		queue:   group.New(opts.Config.MaxPending, opts.Config.MaxPendingBytes, 0),
		metrics: m,
		stopped: make(chan struct{}), failed: make(chan struct{}),
	}, nil
}

// Start starts the writer and the leader loops.
func (r *Replica) Start() {
	if r.started.Swap(true) {
		return
	}
	go r.write()
	go r.watch()
	r.loops.Begin(Term)
}

// Shutdown ends the leader loops, refuses new commands, writes those that wait
// and stops.
func (r *Replica) Shutdown(ctx context.Context) error {
	err := r.loops.End(ctx, r.log)
	r.queue.Close(errs.New(errs.ShuttingDown, "the server is stopping"))
	if !r.started.Swap(true) {
		close(r.stopped) // never started
	}
	select {
	case <-r.stopped:
		return err
	case <-ctx.Done():
		return errs.From(ctx.Err())
	}
}

// Failed is closed when nothing can be written any more; Err says why.
func (r *Replica) Failed() <-chan struct{} { return r.failed }

// Err is the reason of Failed, nil before.
func (r *Replica) Err() error {
	select {
	case <-r.failed:
		return r.err
	default:
		return nil
	}
}

func (r *Replica) write() {
	defer close(r.stopped)
	var (
		taker group.Taker
		batch []*group.Proposal
		entry []byte
		ok    bool
	)
	now := func() int64 { return r.clock.Now().UnixNano() }
	for {
		batch, entry, ok = taker.Take(r.queue, batch, now)
		if !ok {
			return
		}
		index, _ := r.machine.Applied()
		index++
		results, err := r.machine.ApplyEntry(index, Term, entry)
		if err == nil && len(results) != len(batch) {
			err = errs.New(errs.Internal, "%d results for %d commands", len(results), len(batch))
		}
		if err != nil {
			if !r.refused(batch, err) {
				return
			}
			continue
		}
		r.metrics.commands.Observe(float64(len(batch)))
		for i, p := range batch {
			p.Finish(ResultOf(index, &results[i]))
		}
	}
}

// refused answers a batch that was not applied; false when the state has halted.
func (r *Replica) refused(batch []*group.Proposal, err error) bool {
	alive := true
	select {
	case <-r.machine.Done():
		alive = false
	default:
		// A full disk refuses the batch and nothing else: the machine goes on.
		alive = errs.Has(err, errs.StorageFull)
	}
	answer := err
	if !alive {
		r.log.Error("the state machine has halted", "error", err)
		answer = group.Unknown(err)
	}
	for _, p := range batch {
		p.Finish(replica.Result{}, answer)
	}
	if !alive {
		r.fail(err)
	}
	return alive
}

// watch notices a state machine that halts by itself, as when its file is lost.
func (r *Replica) watch() {
	select {
	case <-r.machine.Done():
		if err := r.machine.Err(); !errs.Has(err, errs.ShuttingDown) {
			r.fail(err)
		}
	case <-r.stopped:
	}
}

func (r *Replica) fail(err error) {
	r.failing.Do(func() {
		r.err = err
		close(r.failed)
		halted := errs.New(errs.Unavailable, "the state machine has halted; see the log").Wrap(err)
		r.queue.Close(halted)
		r.queue.FailWaiting(halted)
		r.loops.Cancel()
	})
}

// ResultOf is the answer to a command of the entry at index.
func ResultOf(index uint64, s *state.Result) (replica.Result, error) {
	if s.Err != nil {
		return replica.Result{}, s.Err
	}
	return replica.Result{Index: index, Revision: s.Revision, Changed: s.Changed, Data: s.Data}, nil
}

// Propose is replica.Proposer.
func (r *Replica) Propose(ctx context.Context, cmd command.Command) (replica.Result, error) {
	res, _, err := r.queue.Do(ctx, &cmd)
	return res, err
}

// Current is replica.Viewer.
func (r *Replica) Current(index string) any { return r.machine.Current(index) }

// Written is replica.Viewer.
func (r *Replica) Written(tables ...state.TableID) (at, revision uint64) {
	return r.machine.Written(tables...)
}

// View is replica.Viewer: a batch is visible before it is acknowledged, so the
// newest view is linearizable.
func (r *Replica) View(ctx context.Context, _ replica.Consistency) (*state.View, replica.Lag, error) {
	if err := ctx.Err(); err != nil {
		return nil, replica.Lag{}, errs.From(err)
	}
	v := r.machine.View()
	if v == nil {
		return nil, replica.Lag{}, errs.New(errs.ShuttingDown, "the node has stopped")
	}
	return v, replica.Lag{Known: true}, nil
}

// Leader, IsLeader, OnLeader and NodeID are the rest of replica.Replica.
func (r *Replica) Leader() (string, uint64) { return r.id, Term }
func (r *Replica) IsLeader() bool           { return true }
func (r *Replica) NodeID() string           { return r.id }

func (r *Replica) OnLeader(name string, fn func(ctx context.Context, term uint64)) {
	r.loops.Add(name, fn)
}

type metrics struct{ commands prometheus.Histogram }

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{commands: prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "nekoq_local_commands_per_batch", Help: "Commands that shared one batch.",
		Buckets: prometheus.ExponentialBuckets(1, 2, 11),
	})}
	if reg == nil {
		return m, nil
	}
	return m, reg.Register(m.commands)
}
