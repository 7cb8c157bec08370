package warehouse

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/warehouse/api"
	"nekoq/warehouse/internal/table"
)

// Locks and elections are claims: keys among the system's, one a lease, in line by
// create revision. The first in line holds, its create revision is the fencing token,
// and each waits for the one before it only. A claim goes with its lease.

// defaultClaimTTL is that of a claim whose request names none.
const defaultClaimTTL = 10 * time.Second

// maxHolder bounds the name of a holder, in bytes.
const maxHolder = 1024

// MaxClaimWait bounds the wait in line.
const MaxClaimWait = time.Hour

// line is a lock or election.
type line struct {
	s    *Service
	kind api.TokenKind
	name string
	span api.Span
}

func (s *Service) line(kind api.TokenKind, name string) (line, error) {
	if err := s.hasLeases(); err != nil {
		return line{}, err
	}
	if kind != api.TokenLock && kind != api.TokenElection {
		return line{}, errs.Invalid("kind", kind, "lock or election")
	}
	if err := checkLockName(name); err != nil {
		return line{}, err
	}
	return line{s: s, kind: kind, name: name, span: api.Prefix(table.TokenPrefix(kind, name))}, nil
}

func (l *line) key(lease uint64) []byte { return fmt.Appendf(nil, "%s%016x", l.span.Key, lease) }

func leaseOf(key []byte) uint64 {
	if len(key) < 16 {
		return 0
	}
	n, _ := strconv.ParseUint(string(key[len(key)-16:]), 16, 64) // 0 for a key that is none of ours
	return n
}

// inLine is the range of all claims, the holder's first.
func (l *line) inLine(stale bool) *api.RangeRequest {
	return &api.RangeRequest{Span: l.span, SortBy: api.SortByCreate, Order: api.Ascending, Stale: stale}
}

// describe makes the state of a line out of its claims.
func describe(h api.Header, claims []api.KV, lease uint64) api.Claim {
	c := api.Claim{Header: h}
	for i := range claims {
		kv := &claims[i]
		id := leaseOf(kv.Key)
		if i == 0 {
			c.Holder, c.Token, c.Since = string(kv.Value), kv.CreateRevision, kv.Created
			c.Lease = id
		} else {
			c.Waiting = append(c.Waiting, string(kv.Value))
		}
		if lease != 0 && id == lease {
			c.Own, c.Held = kv.CreateRevision, i == 0
		}
	}
	if lease != 0 {
		c.Lease = lease
	}
	return c
}

// Claim asks for a lock or stands for an election: see api.ClaimRequest. Not getting
// it in time is no error; the answer tells who holds it.
func (s *Service) Claim(ctx context.Context, r *api.ClaimRequest) (api.Claim, error) {
	l, err := s.line(r.Kind, r.Name)
	if err != nil {
		return api.Claim{}, err
	}
	if err := checkClaim(r); err != nil {
		return api.Claim{}, err
	}
	// Several commands: none may be answered with the first one's result. A repeated
	// claim of the same lease changes nothing anyway.
	ctx = command.NewContext(ctx, command.RequestID{})
	lease, granted := r.Lease, false
	if lease == 0 {
		ttl := r.TTL
		if ttl == 0 {
			ttl = defaultClaimTTL
		}
		g, err := s.GrantLease(ctx, 0, ttl)
		if err != nil {
			return api.Claim{}, err
		}
		lease, granted = g.ID, true
	}
	c, err := l.claim(ctx, r, lease, granted)
	// Who stays under a lease of its own keeps its place over the loss of a connection:
	// it will ask again, perhaps another server.
	if (!c.Held && !r.Stay) || (err != nil && granted) {
		l.leave(ctx, lease, granted)
		left(&c, r.Holder, granted)
	}
	return c, err
}

// left takes the caller, who gave its place in line up, out of what it is told. Those
// who wait are told by name, so any of its name is as good as its own.
func left(c *api.Claim, holder string, granted bool) {
	if c.Own != 0 {
		if i := slices.Index(c.Waiting, holder); i >= 0 {
			c.Waiting = slices.Delete(c.Waiting, i, i+1)
		}
	}
	if c.Own = 0; granted {
		c.Lease = 0 // it ended with the claim
	}
}

func checkClaim(r *api.ClaimRequest) error {
	switch {
	case r.Holder == "" || len(r.Holder) > maxHolder:
		return errs.Invalid("holder", r.Holder[:min(len(r.Holder), 64)], "1 to "+strconv.Itoa(maxHolder)+" bytes")
	case r.Wait < 0 || r.Wait > MaxClaimWait:
		return errs.Invalid("wait", r.Wait, "0 to "+MaxClaimWait.String())
	case r.Lease != 0 && r.TTL != 0:
		return errs.Invalid("ttl", r.TTL, "ttl or lease, not both")
	case r.TTL < 0 || r.TTL > 24*time.Hour || (r.TTL != 0 && r.TTL < time.Second):
		return errs.Invalid("ttl", r.TTL, "1s to 24h")
	}
	return nil
}

// leave gives the place in line up, whatever became of the request.
func (l *line) leave(ctx context.Context, lease uint64, granted bool) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer stop()
	var err error
	if granted {
		_, err = l.s.RevokeLease(ctx, lease)
	} else {
		_, err = l.s.runTxn(ctx, &api.Txn{Then: []api.Op{{Delete: &api.DeleteOp{Span: api.One(l.key(lease))}}}})
	}
	if err != nil && !errs.Has(err, errs.LeaseNotFound) {
		l.s.log.Warn("warehouse: a claim could not be taken back; it goes with its lease", "name", l.name, "lease", lease, "error", err)
	}
}

const leaveTimeout = 5 * time.Second

// claim stands in line and waits as long as the request allows.
func (l *line) claim(ctx context.Context, r *api.ClaimRequest, lease uint64, granted bool) (api.Claim, error) {
	key := l.key(lease)
	mine := api.Compare{Span: api.One(key), Target: api.CompareCreate, Result: api.Equal}
	put := api.Op{Put: &api.PutOp{Key: key, Value: []byte(r.Holder), Lease: lease}}
	look := api.Op{Range: l.inLine(false)}
	res, err := l.s.runTxn(ctx, &api.Txn{If: []api.Compare{mine}, Then: []api.Op{put, look}, Else: []api.Op{look}})
	if err != nil {
		return api.Claim{}, err
	}
	claims := res.Ops[len(res.Ops)-1].Range.Items
	c := describe(res.Header, claims, lease)
	if c.Held || r.Wait == 0 {
		return c, nil
	}
	wait, stop := context.WithTimeout(ctx, r.Wait)
	defer stop()
	if granted {
		defer l.keepAlive(wait, lease, r.TTL)()
	}
	for rev := res.Revision; ; {
		var now api.RangeResult
		err := l.awaitBefore(wait, claims, rev, lease)
		if err == nil {
			now, err = l.s.rangeOwn(wait, l.inLine(false))
		}
		switch {
		case err != nil && wait.Err() != nil && ctx.Err() == nil:
			return l.look(ctx, lease, false)
		case err != nil:
			return c, err
		}
		claims, rev, c = now.Items, now.Revision, describe(now.Header, now.Items, lease)
		switch {
		case c.Held:
			return c, nil
		case c.Own == 0:
			return c, errs.New(errs.LeaseNotFound, "lease %d ended while its claim waited in line", lease)
		}
	}
}

// keepAlive keeps a lease that the server granted while its claim waits.
func (l *line) keepAlive(ctx context.Context, lease uint64, ttl time.Duration) (stop func()) {
	if ttl == 0 {
		ttl = defaultClaimTTL
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := l.s.clock.NewTicker(ttl / 3)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C():
				_, _ = l.s.KeepLease(ctx, lease) // the loop sees a lost claim by itself
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// awaitBefore waits until the claim right before lease's is gone. rev is the revision
// at which claims were read.
func (l *line) awaitBefore(ctx context.Context, claims []api.KV, rev, lease uint64) error {
	var before []byte
	for i := range claims {
		if leaseOf(claims[i].Key) == lease {
			break
		}
		before = claims[i].Key
	}
	if before == nil {
		return nil
	}
	w, err := l.s.watchSystem(ctx, &api.WatchRequest{Start: before, Exact: true, From: rev + 1, NoPut: true})
	if err != nil {
		if errs.Has(err, errs.Compacted) {
			return nil // look again
		}
		return err
	}
	defer w.Close()
	_, err = w.NextEvents(ctx)
	if errs.Has(err, errs.Compacted) {
		return nil
	}
	return err
}

// watchSystem is Watch for the service's own keys.
func (s *Service) watchSystem(ctx context.Context, req *api.WatchRequest) (*Watcher, error) {
	w := &Watcher{s: s, req: *req, end: bound(req.End), system: true}
	if req.Exact {
		w.end = append(bytes.Clone(req.Start), 0)
	}
	s.watchers.Add(1)
	w.subscribe()
	if err := w.begin(ctx); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// rangeOwn is Range without the check of the span, for the service's own keys.
func (s *Service) rangeOwn(ctx context.Context, r *api.RangeRequest) (api.RangeResult, error) {
	v, err := s.view(ctx, r.Stale)
	if err != nil {
		return api.RangeResult{}, err
	}
	defer v.Release()
	q := v.query()
	var keep copier
	res, err := q.Range(r, keep.clone)
	if err != nil {
		return res, damaged(err)
	}
	res.Header = v.header(v.meta.Revision)
	return res, nil
}

func (l *line) look(ctx context.Context, lease uint64, stale bool) (api.Claim, error) {
	res, err := l.s.rangeOwn(ctx, l.inLine(stale))
	if err != nil {
		return api.Claim{}, err
	}
	return describe(res.Header, res.Items, lease), nil
}

// Look tells who holds a lock or leads, and who waits.
func (s *Service) Look(ctx context.Context, r *api.LookRequest) (api.Claim, error) {
	l, err := s.line(r.Kind, r.Name)
	if err != nil {
		return api.Claim{}, err
	}
	return l.look(ctx, 0, r.Stale)
}

// Release gives a lock back or resigns. It fails with not_leader when the lease has no
// claim under the token.
func (s *Service) Release(ctx context.Context, r *api.ReleaseRequest) (api.Header, error) {
	l, err := s.line(r.Kind, r.Name)
	if err != nil {
		return api.Header{}, err
	}
	if r.Lease == 0 {
		return api.Header{}, errs.Invalid("lease", 0, "the lease of the claim")
	}
	c := api.Compare{Span: api.One(l.key(r.Lease)), Target: api.CompareCreate, Result: api.Greater}
	if r.Token != 0 {
		c.Result, c.Number = api.Equal, int64(r.Token)
	}
	res, err := s.runTxn(ctx, &api.Txn{If: []api.Compare{c}, Then: []api.Op{{Delete: &api.DeleteOp{Span: c.Span}}}})
	if err != nil {
		return api.Header{}, err
	}
	if !res.Succeeded {
		e := errs.New(errs.NotLeader, "%q is not claimed by lease %d", r.Name, r.Lease).With(errs.Detail{Field: "lease", Value: strconv.FormatUint(r.Lease, 10)})
		if r.Token != 0 {
			e = errs.New(errs.NotLeader, "%q is not claimed by lease %d under the token %d", r.Name, r.Lease, r.Token).
				With(errs.Detail{Field: "token", Value: strconv.FormatUint(r.Token, 10)})
		}
		return res.Header, e
	}
	if r.Revoke {
		if _, err := s.RevokeLease(command.NewContext(ctx, command.RequestID{}), r.Lease); err != nil && !errs.Has(err, errs.LeaseNotFound) {
			return res.Header, err
		}
	}
	return res.Header, nil
}

// Proclaim changes the name under which a leader or holder is shown. The token must
// be the present one.
func (s *Service) Proclaim(ctx context.Context, kind api.TokenKind, name string, lease, token uint64, holder string) (api.Header, error) {
	l, err := s.line(kind, name)
	if err != nil {
		return api.Header{}, err
	}
	if err := checkClaim(&api.ClaimRequest{Holder: holder}); err != nil {
		return api.Header{}, err
	}
	put := api.Op{Put: &api.PutOp{Key: l.key(lease), Value: []byte(holder), IgnoreLease: true}}
	res, err := s.runTxn(ctx, &api.Txn{
		Holding: []api.Token{{Kind: kind, Name: name, Token: token}},
		If:      []api.Compare{{Span: api.One(l.key(lease)), Target: api.CompareCreate, Result: api.Equal, Number: int64(token)}},
		Then:    []api.Op{put},
	})
	if err != nil {
		return api.Header{}, err
	}
	if !res.Succeeded {
		return res.Header, errs.New(errs.NotLeader, "%q is not held by lease %d", name, lease)
	}
	return res.Header, nil
}

// Observer tells who leads, from now on.
type Observer struct {
	l     line
	w     *Watcher
	last  api.Claim
	first bool
}

// Observe begins to watch a lock or election. The first Next gives the present state.
func (s *Service) Observe(ctx context.Context, r *api.LookRequest) (*Observer, error) {
	l, err := s.line(r.Kind, r.Name)
	if err != nil {
		return nil, err
	}
	start, end := l.span.Bounds()
	w, err := s.watchSystem(ctx, &api.WatchRequest{Start: start, End: end, Now: true})
	if err != nil {
		return nil, err
	}
	return &Observer{l: l, w: w, first: true}, nil
}

// Next blocks until the holder, its name or the line changes.
func (o *Observer) Next(ctx context.Context) (api.Claim, error) {
	for {
		if !o.first {
			if _, err := o.w.NextEvents(ctx); err != nil {
				return api.Claim{}, err
			}
		}
		c, err := o.l.look(ctx, 0, !o.first)
		if err != nil {
			return api.Claim{}, err
		}
		same := !o.first && c.Token == o.last.Token && c.Holder == o.last.Holder && strings.Join(c.Waiting, "\x00") == strings.Join(o.last.Waiting, "\x00")
		o.first = false
		if !same {
			o.last = c
			return c, nil
		}
	}
}

// Close ends it.
func (o *Observer) Close() { o.w.Close() }
