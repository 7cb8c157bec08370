// Package conf is the configuration centre: items by area, group and key, drafted,
// published, rolled back, given to some clients first, inherited from area to area,
// and told to whoever listens.
//
// It owns what a content must look like, how an effective value comes about
// (inheritance, quoted and global groups, gray releases, references), the listeners
// of this node, and three loops on the leader: what is due is published, what is
// too old is forgotten, and so are the reports of nodes that are gone. What is
// replicated is in internal/table, the words on the wire are in api.
//
// A Service is safe for concurrent use; a Listening is read by one goroutine. It
// asks no authorizer: doors do, before they call. Doors (rest, native) and the
// composition import it.
package conf

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"nekoq/services/auth"
	"nekoq/services/clock"
	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/replica"
	"nekoq/services/state"
	"nekoq/services/watch"
	"nekoq/warehouse/areas"
	"nekoq/warehouse/conf/api"
	"nekoq/warehouse/conf/internal/table"
)

// Register declares the tables and commands of the configuration centre. tree is
// what areas.Register gave.
func Register(reg *state.Registry, tree *areas.Registered) { table.Register(reg, tree) }

// Deps are what a Service is wired to.
type Deps struct {
	Replica replica.Replica
	Events  watch.Source
	Clock   clock.Clock           // nil is the system's
	Logger  *slog.Logger          // nil discards
	Metrics prometheus.Registerer // nil is none
}

// Service is the configuration centre of one node.
type Service struct {
	replica replica.Replica
	events  watch.Source
	clock   clock.Clock
	log     *slog.Logger
	cfg     Config
	metrics *metrics

	bell      bell
	cache     cache
	listeners registry

	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// New makes the service and hangs its loops on the leadership. It is called before
// the replica starts.
func New(d Deps, cfg Config) (*Service, error) {
	if bad := cfg.Validate(); len(bad) > 0 {
		return nil, errors.Join(bad...)
	}
	s := &Service{replica: d.Replica, events: d.Events, clock: d.Clock, log: d.Logger, cfg: cfg}
	if s.clock == nil {
		s.clock = clock.System()
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.bell.ch = make(chan struct{})
	s.listeners.init()
	s.metrics = newMetrics(d.Metrics, s)
	s.replica.OnLeader("conf schedule", s.scheduleLoop)
	s.replica.OnLeader("conf retention", s.retentionLoop)
	return s, nil
}

// Config gives the settings.
func (s *Service) Config() Config { return s.cfg }

// Start begins to follow changes and to report the listeners.
func (s *Service) Start(context.Context) error {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	for _, topic := range []watch.Topic{watch.TopicConfig, watch.TopicArea} {
		sub := s.events.Subscribe(watch.Filter{Topic: topic}, 0)
		s.wg.Go(func() { s.follow(ctx, topic, sub) })
	}
	s.wg.Go(func() { s.reportLoop(ctx) })
	return nil
}

// Stop ends what Start began and withdraws the node's report. The replica must
// still run.
func (s *Service) Stop(ctx context.Context) error {
	if s.cancel == nil {
		return nil
	}
	s.cancel()
	s.wg.Wait()
	return s.withdrawReport(ctx)
}

// follow rings the bell at every change.
func (s *Service) follow(ctx context.Context, topic watch.Topic, sub watch.Subscription) {
	defer func() { sub.Close() }()
	for {
		_, err := sub.Next(ctx)
		if ctx.Err() != nil || errs.Has(err, errs.ShuttingDown) {
			return
		}
		if err != nil { // behind, or the state was replaced: whoever looks now sees all
			sub.Close()
			sub = s.events.Subscribe(watch.Filter{Topic: topic}, 0)
		}
		s.bell.ring()
	}
}

// bell wakes everybody who waits for a change.
type bell struct {
	mu sync.Mutex
	ch chan struct{}
}

// next gives a channel that is closed at the next ring. It comes before the look
// at the state, so that no change falls between the two.
func (b *bell) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ch
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.ch)
	b.ch = make(chan struct{})
}

func (s *Service) view(ctx context.Context, stale bool) (*state.View, error) {
	c := replica.Linearizable
	if stale {
		c = replica.Stale
	}
	v, _, err := s.replica.View(ctx, c)
	return v, err
}

func indexOf(v *state.View) *table.Index { return v.Frozen(table.IndexName).(*table.Index) }

func (s *Service) propose(ctx context.Context, kind command.Kind, payload []byte) (replica.Result, error) {
	actor := auth.FromContext(ctx).Actor()
	return s.replica.Propose(ctx, command.Command{
		Kind: kind, RequestID: command.RequestIDFrom(ctx), Actor: actor[:min(len(actor), command.MaxActorBytes)], Payload: payload,
	})
}

// write proposes a batch.
func (s *Service) write(ctx context.Context, ops ...table.Op) (table.Written, uint64, error) {
	s.metrics.writes.Inc()
	res, err := s.propose(ctx, table.KindWrite, table.Batch(ops).Encode())
	if err != nil {
		return table.Written{}, 0, err
	}
	w, err := table.Decode[table.Written](res.Data)
	return w, res.Revision, damaged(err)
}

// one proposes one op and gives the item as it now is.
func (s *Service) one(ctx context.Context, op table.Op) (*api.Item, error) {
	w, _, err := s.write(ctx, op)
	if err != nil {
		return nil, err
	}
	if w.Item == nil {
		return nil, errs.New(errs.Internal, "internal error").Wrap(errors.New("conf: a write of one item answers without it"))
	}
	return w.Item, nil
}

// damaged turns what cannot be read into the error that a door shows.
func damaged(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*errs.Error](err); ok {
		return e
	}
	return errs.New(errs.Corrupt, "a record in the state file cannot be read; restore this node from a snapshot of another").Wrap(err)
}

func itoa[T int | int64](n T) string { return strconv.FormatInt(int64(n), 10) }
