package client

import (
	"context"
	"iter"
	"sync"
	"time"

	"nekoq/services/errs"
	"nekoq/services/wire"
	"nekoq/warehouse/api"
)

// LeaseInfo describes a lease.
type LeaseInfo = api.LeaseResult

// Leases gives leases: keys, locks and elections hang on them and go when they end.
func (c *Client) Leases() *Leases { return (*Leases)(c) }

// leasePage is how many ids one request of a list asks for.
const leasePage = 1000

// Leases is safe for concurrent use.
type Leases Client

func (l *Leases) call(ctx context.Context, m wire.Method, r api.LeaseRequest) (res LeaseInfo, err error) {
	c := (*Client)(l)
	var b []byte
	if m == api.MethodLeaseGet || m == api.MethodLeaseKeep { // keeping alive twice is once
		b, err = c.read(ctx, m, r.Append(nil))
	} else {
		b, err = c.write(ctx, m, r.Append(nil))
	}
	if err == nil {
		err = res.Decode(b)
	}
	return res, err
}

// Grant makes a lease that ends when it was not kept alive for ttl.
func (l *Leases) Grant(ctx context.Context, ttl time.Duration) (LeaseInfo, error) {
	return l.call(ctx, api.MethodLeaseGrant, api.LeaseRequest{TTL: ttl})
}

// KeepAlive gives a lease its whole TTL again.
func (l *Leases) KeepAlive(ctx context.Context, id uint64) (LeaseInfo, error) {
	return l.call(ctx, api.MethodLeaseKeep, api.LeaseRequest{ID: id})
}

// Revoke ends a lease and deletes its keys.
func (l *Leases) Revoke(ctx context.Context, id uint64) error {
	_, err := l.call(ctx, api.MethodLeaseRevoke, api.LeaseRequest{ID: id})
	return err
}

// Get tells what a lease has left, with its keys.
func (l *Leases) Get(ctx context.Context, id uint64) (LeaseInfo, error) {
	return l.call(ctx, api.MethodLeaseGet, api.LeaseRequest{ID: id, Keys: true})
}

// List gives the leases that there are, but not those of single keys with a time to live.
func (l *Leases) List(ctx context.Context) (ids []uint64, err error) {
	for id, err := range l.All(ctx) {
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// All goes through what List gives, in the order of the ids and page by page: a lease
// that is granted or ends meanwhile may or may not be among them. It ends after the
// first error.
func (l *Leases) All(ctx context.Context) iter.Seq2[uint64, error] {
	return func(yield func(uint64, error) bool) {
		r := api.UpkeepRequest{Do: api.UpkeepLeases, Limit: leasePage}
		for {
			page, err := (*Client)(l).KV().upkeep(ctx, &r, false)
			if err != nil {
				yield(0, err)
				return
			}
			for _, id := range page.Leases {
				if r.From = id; !yield(id, nil) {
					return
				}
			}
			if !page.More || len(page.Leases) == 0 {
				return
			}
		}
	}
}

// Session is a lease that is kept alive in the background until Close, or until it is
// lost: then Done is closed.
type Session struct {
	leases *Leases
	id     uint64
	ttl    time.Duration
	stop   context.CancelFunc
	ended  chan struct{} // the loop has returned
	done   chan struct{}
	once   sync.Once
	mu     sync.Mutex
	err    error
}

// Session grants a lease and keeps it alive.
func (l *Leases) Session(ctx context.Context, ttl time.Duration) (*Session, error) {
	began := time.Now()
	g, err := l.Grant(ctx, ttl)
	if err != nil {
		return nil, err
	}
	loop, stop := context.WithCancel(context.Background())
	s := &Session{leases: l, id: g.ID, ttl: g.TTL, stop: stop, ended: make(chan struct{}), done: make(chan struct{})}
	go s.keep(loop, began)
	return s, nil
}

// ID is the lease.
func (s *Session) ID() uint64 { return s.id }

// Done is closed when the lease is lost or the session closed: whoever relies on it
// must stop.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err says why it was lost; nil while it lives.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *Session) lose(err error) {
	s.once.Do(func() {
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
		close(s.done)
	})
}

// keep renews three times a TTL. last is when the newest renewal that succeeded was
// sent: a TTL later the lease may be gone, whatever the servers say.
func (s *Session) keep(ctx context.Context, last time.Time) {
	defer close(s.ended)
	tick := time.NewTicker(s.ttl / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		sent := time.Now()
		try, stop := context.WithDeadline(ctx, last.Add(s.ttl))
		_, err := s.leases.KeepAlive(try, s.id)
		stop()
		switch {
		case err == nil:
			last = sent
		case ctx.Err() != nil:
			return
		case errs.Has(err, errs.LeaseNotFound), time.Since(last) >= s.ttl:
			s.lose(errs.New(errs.LeaseNotFound, "the lease %d could not be kept alive: %s", s.id, errs.From(err).Message).Wrap(err))
			return
		}
	}
}

// Close ends the lease, and with it what hangs on it.
func (s *Session) Close(ctx context.Context) error {
	s.stop()
	<-s.ended
	s.lose(errs.New(errs.Canceled, "the session is closed"))
	if err := s.leases.Revoke(ctx, s.id); err != nil && !errs.Has(err, errs.LeaseNotFound) {
		return err
	}
	return nil
}

// Abandon stops keeping the lease alive without ending it, as a crash would.
func (s *Session) Abandon() {
	s.stop()
	<-s.ended
	s.lose(errs.New(errs.Canceled, "the session was abandoned"))
}
