// Package warehouse keeps keys: small, consistent data with revisions, history,
// leases and watches.
//
// It owns the limits at the door, the reads at any revision, the watches and the
// compaction loop; what changes the keys is in internal/table, and the words on
// the wire are in api. All writes go through the replicated log. Reads are
// linearizable on every node unless a request asks for a stale one.
//
// A Service is safe for concurrent use; a Watcher is read by one goroutine. It
// asks no authorizer: doors do, before they call. Doors (rest, native and the
// protocol doors below this folder) and the composition import it.
package warehouse

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"nekoq/services/auth"
	"nekoq/services/clock"
	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/lease"
	"nekoq/services/lease/leasetable"
	"nekoq/services/replica"
	"nekoq/services/state"
	"nekoq/services/watch"
	"nekoq/warehouse/api"
	"nekoq/warehouse/internal/table"
)

// SystemPrefix is the part of the key space that users may not touch. Without its
// first slash it is refused too: in a REST path the two look alike.
const SystemPrefix = table.SystemPrefix

var systemPrefix, systemEnd = []byte(SystemPrefix), api.PrefixEnd([]byte(SystemPrefix))

// Register declares warehouse's part of the replicated state. leases is what
// lease.Register gave.
func Register(reg *state.Registry, leases *leasetable.Owners) { table.Register(reg, leases) }

// Deps are what a Service is wired to.
type Deps struct {
	Replica replica.Replica
	Events  watch.Source
	Leases  *lease.Service        // nil: no leases, locks and elections
	Storage Storage               // the state file; nil: no snapshots and sizes
	Clock   clock.Clock           // nil is the system's
	Logger  *slog.Logger          // nil discards
	Metrics prometheus.Registerer // nil is none
}

// Service is the keys of one node.
type Service struct {
	replica  replica.Replica
	events   watch.Source
	clock    clock.Clock
	log      *slog.Logger
	cfg      Config
	metrics  *metrics
	watchers atomic.Int64
	leases   *lease.Service
	storage  Storage
	// perPrefix counts the open watches below prefixes with a quota.
	perPrefix prefixCounts
}

// New makes the service and hangs its loop on the leadership. It is called before
// the replica starts.
func New(d Deps, cfg Config) (*Service, error) {
	if bad := cfg.Validate(); len(bad) > 0 {
		return nil, errors.Join(bad...)
	}
	s := &Service{replica: d.Replica, events: d.Events, clock: d.Clock, log: d.Logger, cfg: cfg, leases: d.Leases, storage: d.Storage}
	if s.clock == nil {
		s.clock = clock.System()
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.metrics = newMetrics(d.Metrics, s)
	s.replica.OnLeader("warehouse compaction", s.sweepLoop)
	s.replica.OnLeader("warehouse alarms", s.alarmLoop)
	if s.cfg.CompactMode != CompactOff {
		s.replica.OnLeader("warehouse automatic compaction", s.compactLoop)
	}
	return s, nil
}

// Limits are what a door needs to refuse early.
func (s *Service) Limits() Config { return s.cfg }

// Put writes a key and gives its new revision.
func (s *Service) Put(ctx context.Context, r *api.PutRequest) (api.WriteResult, error) {
	s.metrics.puts.Inc()
	ttl, err := s.checkPut(r)
	if err != nil {
		return api.WriteResult{}, err
	}
	if r.If.Exists {
		return s.writeHeld(ctx, r.Held(ttl), r.If)
	}
	c := table.PutCommand{Key: r.Key, Value: r.Value, IfRevision: table.AnyRevision, TTL: ttl, Lease: r.Lease}
	if r.If.Set {
		c.IfRevision = r.If.Revision
	}
	return s.write(ctx, table.KindPut, c.Encode())
}

// Delete deletes a key. Deleting nothing changes nothing, not even the revision.
func (s *Service) Delete(ctx context.Context, r *api.DeleteRequest) (api.WriteResult, error) {
	s.metrics.deletes.Inc()
	if err := s.checkKey(r.Key); err != nil {
		return api.WriteResult{}, err
	}
	if r.If.Exists {
		return s.writeHeld(ctx, r.Held(), r.If)
	}
	c := table.DeleteCommand{Key: r.Key, IfRevision: table.AnyRevision}
	if r.If.Set {
		if err := checkCondition(r.If); err != nil {
			return api.WriteResult{}, err
		}
		c.IfRevision = r.If.Revision
	}
	return s.write(ctx, table.KindDelete, c.Encode())
}

func (s *Service) write(ctx context.Context, kind command.Kind, payload []byte) (api.WriteResult, error) {
	res, err := s.propose(ctx, kind, payload)
	if err != nil {
		return api.WriteResult{}, err
	}
	w, err := table.DecodeWritten(res.Data)
	if err != nil {
		return api.WriteResult{}, errs.New(errs.Internal, "internal error").Wrap(err)
	}
	return api.WriteResult{
		Revision: w.Revision, CreateRevision: w.CreateRevision, Version: w.Version,
		Lease: w.Lease, PrevRevision: w.PrevRevision, StoreRevision: res.Revision,
	}, nil
}

func (s *Service) propose(ctx context.Context, kind command.Kind, payload []byte) (replica.Result, error) {
	p := auth.FromContext(ctx)
	res, err := s.replica.Propose(ctx, p.Guard.Over(command.Command{
		Kind: kind, RequestID: command.RequestIDFrom(ctx), Actor: actor(&p), Payload: payload,
	}))
	if err != nil {
		s.metrics.refused.Inc()
	}
	return res, err
}

// actor names who writes, cut to what a command can carry.
func actor(p *auth.Principal) string {
	a := p.Actor()
	return a[:min(len(a), 255)]
}

// checkPut refuses what the door knows to be wrong, and gives the TTL in
// milliseconds.
func (s *Service) checkPut(r *api.PutRequest) (ttl uint64, err error) {
	if err := s.checkKey(r.Key); err != nil {
		return 0, err
	}
	if int64(len(r.Value)) > s.cfg.MaxValueBytes {
		return 0, table.TooLarge("value", len(r.Value), s.cfg.MaxValueBytes)
	}
	if err := checkCondition(r.If); err != nil {
		return 0, err
	}
	if r.TTL == 0 {
		return 0, nil
	}
	if r.Lease != 0 {
		return 0, errs.Invalid("ttl", r.TTL, "ttl or lease, not both")
	}
	ms := r.TTL.Milliseconds()
	if ms < leasetable.MinTTL || ms > leasetable.MaxTTL {
		return 0, errs.Invalid("ttl", r.TTL, "1s to 9000000000s")
	}
	return uint64(ms), nil
}

func checkCondition(c api.Condition) error {
	if c.Set && c.Revision == table.AnyRevision {
		return errs.Invalid("if_revision", c.Revision, "0 to 18446744073709551614")
	}
	return nil
}

func (s *Service) checkKey(key []byte) error {
	if len(key) == 0 {
		return errs.Invalid("key", "", "1 to "+itoa(s.cfg.MaxKeyBytes)+" bytes")
	}
	if int64(len(key)) > s.cfg.MaxKeyBytes {
		return table.TooLarge("key", len(key), s.cfg.MaxKeyBytes)
	}
	if bytes.HasPrefix(key, systemPrefix) || bytes.HasPrefix(key, systemPrefix[1:]) {
		return errs.New(errs.Forbidden, "key: %q is reserved: keys below %s belong to the system", key, SystemPrefix).
			With(errs.Detail{Field: "key", Value: string(key), Limit: "not below " + SystemPrefix})
	}
	return nil
}

// checkBound checks one end of a range, which may be empty or any bytes up to a
// key's length.
func (s *Service) checkBound(field string, b []byte) error {
	if int64(len(b)) > s.cfg.MaxKeyBytes {
		return table.TooLarge(field, len(b), s.cfg.MaxKeyBytes)
	}
	return nil
}

// Status tells how large the store is and how far it has come.
func (s *Service) Status(ctx context.Context, stale bool) (api.Status, error) {
	v, err := s.view(ctx, stale)
	if err != nil {
		return api.Status{}, err
	}
	defer v.Release()
	return api.Status{Header: v.header(v.meta.Revision), CompactRevision: v.meta.Compact, Keys: v.meta.Keys, Bytes: v.meta.Bytes}, nil
}

// damaged turns a row that cannot be read into the error that a door shows.
func damaged(err error) error {
	if e, ok := errors.AsType[*errs.Error](err); ok {
		return e
	}
	return errs.New(errs.Corrupt, "a record in the state file cannot be read; restore this node from a snapshot of another").Wrap(err)
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// sinceMillis is for logs.
func sinceMillis(c clock.Clock, t time.Time) int64 { return c.Now().Sub(t).Milliseconds() }
