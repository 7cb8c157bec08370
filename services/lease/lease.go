// Package lease gives TTLs that survive changes of the leader, shared by all
// services: warehouse keys, locks, registrations, job runs, worker numbers.
//
// It owns the leader's loop, which advances the replicated lease clock and
// proposes the expiry of what has come up; the replicated part, and the proof that
// no lease ends early, is package leasetable. The loop measures monotonic time
// only, so a step of the wall clock moves no deadline.
//
// A Service is safe for concurrent use. Product services that hand leases to their
// users, and the composition, import it; appliers import leasetable.
package lease

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"nekoq/services/auth"
	"nekoq/services/clock"
	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/lease/leasetable"
	"nekoq/services/replica"
	"nekoq/services/state"
)

// Register declares the tables and appliers of leases. The services whose keys hang
// on leases take what it returns in their own Register.
func Register(reg *state.Registry) *leasetable.Owners { return leasetable.Register(reg) }

// Config is the [lease] section.
type Config struct {
	Tick            time.Duration `koanf:"tick" doc:"How often the leader advances the lease clock while leases exist. A lease ends late by at most 800ms, one tick and the time without a leader, and, once it was kept alive, a quarter of its TTL but no more than 1s; never early."`
	ExpireBatch     int           `koanf:"expire_batch" doc:"Leases that one command of the expiry looks at. Other writes wait behind it, for some 10us a lease."`
	ExpireParallel  int           `koanf:"expire_parallel" doc:"Expiry commands under way at once while many leases end together."`
	ProposalTimeout time.Duration `koanf:"proposal_timeout" doc:"Longest time that the leader waits for one of its own commands before it looks again."`
}

// DefaultConfig gives the values that are used where nothing is set.
func DefaultConfig() Config {
	return Config{Tick: 200 * time.Millisecond, ExpireBatch: 256, ExpireParallel: 2, ProposalTimeout: 5 * time.Second}
}

// Validate gives every mistake, each with the path of the field relative to the
// section.
func (c Config) Validate() []error {
	var bad errs.Limits
	bad.Time("tick", c.Tick, 10*time.Millisecond, leasetable.MaxStep*time.Millisecond)
	bad.Number("expire_batch", int64(c.ExpireBatch), 1, leasetable.MaxExpire, "leases")
	bad.Number("expire_parallel", int64(c.ExpireParallel), 1, 64, "")
	bad.Time("proposal_timeout", c.ProposalTimeout, 100*time.Millisecond, time.Minute)
	return bad
}

// Deps are what a Service is wired to.
type Deps struct {
	Replica replica.Replica
	Clock   clock.Clock           // nil is the system's
	Logger  *slog.Logger          // nil discards
	Metrics prometheus.Registerer // nil is none
}

// Service grants and ends leases.
type Service struct {
	replica replica.Replica
	clock   clock.Clock
	log     *slog.Logger
	cfg     Config
	metrics metrics
	ids     atomic.Uint64 // the last id that was chosen here
}

// New makes the service and hangs its loop on the leadership. It is called before
// the replica starts.
func New(d Deps, cfg Config) (*Service, error) {
	if bad := cfg.Validate(); len(bad) > 0 {
		return nil, errors.Join(bad...)
	}
	s := &Service{replica: d.Replica, clock: d.Clock, log: d.Logger, cfg: cfg, metrics: newMetrics(d.Metrics)}
	if s.clock == nil {
		s.clock = clock.System()
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.ids.Store(rand.Uint64())
	s.replica.OnLeader("lease clock", s.lead)
	return s, nil
}

// newID chooses a lease's id: the next one after a random start, so that no two nodes
// come upon the same. Leases that one node granted one after the other are neighbours
// in the tables then, and those that end together touch few pages. The upper half of
// the ids is for those that the state chooses.
func (s *Service) newID() uint64 { return s.ids.Add(1)%(1<<62-1) + 1 }

// Info describes a lease.
type Info struct {
	ID        uint64
	TTL       time.Duration // as granted
	Remaining time.Duration
	Revision  uint64 // store revision of the grant: a fencing token
	Meta      []byte
	Keys      []Key // when asked for
}

// Key is one attached key.
type Key struct {
	Owner leasetable.Owner
	Key   []byte
}

// Grant makes a lease. id 0 lets the server choose one.
func (s *Service) Grant(ctx context.Context, id uint64, ttl time.Duration, meta []byte) (Info, error) {
	ms, err := millis(ttl)
	if err != nil {
		return Info{}, err
	}
	if id == 0 {
		id = s.newID()
	}
	g := leasetable.Grant{ID: id, TTL: ms, Meta: meta}
	res, err := s.propose(ctx, leasetable.KindGrant, leasetable.AppendGrant(nil, g))
	if err != nil {
		return Info{}, err
	}
	return answered(res)
}

// Revoke ends a lease and deletes what hangs on it.
func (s *Service) Revoke(ctx context.Context, id uint64) (revision uint64, err error) {
	res, err := s.propose(ctx, leasetable.KindRevoke, leasetable.AppendID(nil, id))
	return res.Revision, err
}

func answered(res replica.Result) (Info, error) {
	l, err := leasetable.DecodeResult(res.Data)
	if err != nil {
		return Info{}, errs.New(errs.Internal, "internal error").Wrap(err)
	}
	ttl := time.Duration(l.TTL) * time.Millisecond
	return Info{ID: l.ID, TTL: ttl, Remaining: ttl, Revision: l.Granted}, nil
}

// millis gives a TTL in whole milliseconds, rounded up: a lease never ends early.
func millis(ttl time.Duration) (uint64, error) {
	if ttl < 0 {
		return 0, errs.Invalid("ttl", ttl, "1s to 9000000000s")
	}
	ms := uint64((ttl + time.Millisecond - 1) / time.Millisecond)
	return ms, leasetable.CheckTTL(ms)
}

func (s *Service) propose(ctx context.Context, kind command.Kind, payload []byte) (replica.Result, error) {
	p := auth.FromContext(ctx)
	a := p.Actor()
	return s.replica.Propose(ctx, p.Guard.Over(command.Command{
		Kind: kind, RequestID: command.RequestIDFrom(ctx), Actor: a[:min(len(a), 255)], Payload: payload,
	}))
}

// lead is the leader's loop. It knows the step of the clock that it saw last and
// when it looked: the time since belongs to the next step. When another node's step
// came between, the measurement is thrown away and starts anew from now. What has come
// up ends beside it: however long that takes, the clock loses no time.
func (s *Service) lead(ctx context.Context, term uint64) {
	stepped := make(chan struct{}, 1)
	var wg sync.WaitGroup
	wg.Go(func() { s.expire(ctx, stepped) })
	defer wg.Wait()
	var (
		idle   bool   // there are no leases
		looked uint64 // Written then
	)
	step, _, _ := s.look(ctx)
	since := s.clock.Now() // before the ticker, so that its first tick is measured whole
	tick := s.clock.NewTicker(s.cfg.Tick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C():
		}
		now := s.clock.Now()
		at, _ := s.replica.Written(leasetable.TableLeases, leasetable.TableClock)
		if idle && at == looked {
			since = now // there were no leases, and none came
			continue
		}
		seen, leases, err := s.look(ctx)
		if err != nil {
			continue
		}
		idle, looked = !leases, at
		if idle || seen != step {
			step, since = seen, now
			continue
		}
		stepTo, err := s.advance(ctx, step, since, now)
		if err != nil {
			s.failed(ctx, "advancing the lease clock", err)
			step, _, _ = s.look(ctx)
			since = s.clock.Now()
			continue
		}
		step, since = step+1, stepTo
		select {
		case stepped <- struct{}{}:
		default:
		}
	}
}

// look gives the last step that this node has applied, and whether leases exist.
func (s *Service) look(ctx context.Context) (step uint64, leases bool, err error) {
	v, _, err := s.replica.View(ctx, replica.Stale)
	if err != nil {
		return 0, false, err
	}
	defer v.Release()
	step, _ = leasetable.Clock(v)
	return step, leasetable.Any(v), nil
}

// advance makes a step from since to now, and gives the moment at which the next one
// begins: what is less than a millisecond belongs to that, or long leases would end late
// by half a millisecond a step.
func (s *Service) advance(ctx context.Context, after uint64, since, now time.Time) (time.Time, error) {
	ctx, stop := context.WithTimeout(ctx, s.cfg.ProposalTimeout)
	defer stop()
	ms := now.Sub(since).Milliseconds()
	to := since.Add(time.Duration(ms) * time.Millisecond)
	if ms > leasetable.MaxStep {
		s.metrics.lost.Add(float64(ms-leasetable.MaxStep) / 1000)
		ms, to = leasetable.MaxStep, now
	} else if ms < 0 {
		ms, to = 0, now
	}
	_, err := s.propose(internal(ctx), leasetable.KindStep, leasetable.AppendStep(nil, after, uint64(ms)))
	if err == nil {
		s.metrics.steps.Inc()
	}
	return to, err
}

// expire proposes, after a step, the end of what has come up.
func (s *Service) expire(ctx context.Context, stepped <-chan struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-stepped:
		}
		if s.due(ctx) && s.expireOnce(ctx) {
			s.expireMany(ctx)
		}
	}
}

// expireMany keeps several commands under way, so that one is written to the log while
// another is applied. Each is small: other writes pass between them.
func (s *Service) expireMany(ctx context.Context) {
	var wg sync.WaitGroup
	for range s.cfg.ExpireParallel {
		wg.Go(func() {
			for s.expireOnce(ctx) && ctx.Err() == nil {
			}
		})
	}
	wg.Wait()
}

func (s *Service) due(ctx context.Context) bool {
	v, _, err := s.replica.View(ctx, replica.Stale)
	if err != nil {
		return false
	}
	defer v.Release()
	return leasetable.Due(v)
}

func (s *Service) expireOnce(ctx context.Context) (more bool) {
	ctx, stop := context.WithTimeout(ctx, s.cfg.ProposalTimeout)
	defer stop()
	res, err := s.propose(internal(ctx), leasetable.KindExpire, leasetable.AppendExpire(nil, s.cfg.ExpireBatch))
	if err != nil {
		s.failed(ctx, "expiring leases", err)
		return false
	}
	e, err := leasetable.DecodeExpired(res.Data)
	if err != nil {
		s.failed(ctx, "expiring leases", err)
		return false
	}
	s.metrics.expired.Add(float64(e.Leases))
	return e.More
}

func (s *Service) failed(ctx context.Context, doing string, err error) {
	if ctx.Err() == nil && !errs.Has(err, errs.Conflict) {
		s.log.Warn("lease: "+doing+" failed and will be tried again", "error", err)
	}
}

// internal names the loop as the actor.
func internal(ctx context.Context) context.Context {
	return auth.NewContext(ctx, auth.Principal{Name: "lease", Door: "internal"})
}

type metrics struct {
	steps, expired, lost prometheus.Counter
	covered, renewed     prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) metrics {
	beats := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "nekoq_lease_keepalives_total", Help: "Keep-alives of leases on this node: answered from a view, or written to the log.",
	}, []string{"by"})
	m := metrics{
		steps:   prometheus.NewCounter(prometheus.CounterOpts{Name: "nekoq_lease_clock_steps_total", Help: "Steps of the lease clock that this node made as leader."}),
		expired: prometheus.NewCounter(prometheus.CounterOpts{Name: "nekoq_lease_expired_total", Help: "Leases that this node expired as leader."}),
		lost:    prometheus.NewCounter(prometheus.CounterOpts{Name: "nekoq_lease_clock_lost_seconds_total", Help: "Time that the lease clock left out because a step took too long; leases end that much later."}),
		covered: beats.WithLabelValues("view"),
		renewed: beats.WithLabelValues("log"),
	}
	if reg != nil {
		reg.MustRegister(m.steps, m.expired, m.lost, beats)
	}
	return m
}
