package etcd

import (
	"context"
	"errors"
	"io"
	"math"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"nekoq/services/auth"
	"nekoq/services/errs"
	"nekoq/warehouse"
)

// The TTLs of leases in seconds: a shorter one is lengthened, as etcd lengthens what
// is below its election timeout; a longer one is refused.
const (
	minTTL = 1
	maxTTL = 9_000_000_000
)

// LeaseGrant implements etcd's Lease.
func (s *Door) LeaseGrant(ctx context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	x, err := s.leaseUser(ctx)
	if err != nil {
		return nil, err
	}
	if r.TTL > maxTTL {
		return nil, rpctypes.ErrGRPCLeaseTTLTooLarge
	}
	l, err := s.store.GrantLease(as(ctx, x.user), uint64(r.ID), time.Duration(max(r.TTL, minTTL))*time.Second)
	if err != nil {
		return nil, grpcError(ctx, err, leaseExists, leaseTTL)
	}
	return &pb.LeaseGrantResponse{Header: s.header(l.Revision), ID: int64(l.ID), TTL: seconds(l.TTL)}, nil
}

// leaseUser lets in everybody who has a name, once auth is on.
func (s *Door) leaseUser(ctx context.Context) (access, error) {
	x, err := s.access(ctx, true)
	if err != nil {
		return x, err
	}
	if x.on && x.user == "" {
		return x, rpctypes.ErrGRPCUserEmpty
	}
	return x, s.allow(ctx, x.user, auth.Write, "lease", nil, nil)
}

// LeaseRevoke implements etcd's Lease: who revokes must be allowed to delete every
// key of the lease.
func (s *Door) LeaseRevoke(ctx context.Context, r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	var rev uint64
	x, err := s.access(ctx, false)
	for more := true; more; more = s.again(ctx, &x, &err) {
		if err == nil {
			err = s.mayWriteLease(ctx, x, uint64(r.ID))
		}
		if err == nil {
			err = s.allow(ctx, x.user, auth.Write, "lease", nil, nil)
		}
		if err == nil {
			rev, err = s.store.RevokeLease(under(ctx, &x), uint64(r.ID))
		}
	}
	if err != nil {
		return nil, grpcError(ctx, err)
	}
	return &pb.LeaseRevokeResponse{Header: s.header(rev)}, nil
}

// mayWriteLease demands the right to write every key of a lease; one that does not
// exist has none.
func (s *Door) mayWriteLease(ctx context.Context, x access, id uint64) error {
	return s.mayLease(ctx, x, id, access.write)
}

func (s *Door) mayLease(ctx context.Context, x access, id uint64, may func(x access, key, end []byte) error) error {
	if !x.on || x.rights != nil && x.rights.Root {
		return nil
	}
	l, err := s.store.LeaseTTL(ctx, id, true)
	if errs.Has(err, errs.LeaseNotFound) {
		return x.known()
	}
	if err != nil {
		return grpcError(ctx, err)
	}
	for _, k := range l.Keys {
		if err := may(x, k, nil); err != nil {
			return err
		}
	}
	return nil
}

// LeaseKeepAlive implements etcd's Lease. Beats are answered in the order in which
// they came; those that are under way together cost one round to the log.
func (s *Door) LeaseKeepAlive(stream pb.Lease_LeaseKeepAliveServer) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() { cancel(rpctypes.ErrGRPCStopped) })()
	if err := s.requireLeader(ctx, cancel); err != nil {
		return err
	}
	pending := make(chan *beat, maxBeats)
	sent := make(chan error, 1)
	s.wg.Go(func() {
		err := s.answerBeats(ctx, stream, pending)
		cancel(err)
		sent <- err
	})
	got := make(chan error, 1)
	go func() { got <- s.takeBeats(ctx, stream, pending) }()
	select {
	case err := <-got:
		close(pending)
		if serr := <-sent; err == nil || errors.Is(err, io.EOF) {
			return serr
		}
		return err
	case <-ctx.Done():
		err := context.Cause(ctx)
		<-sent
		if stream.Context().Err() != nil {
			return stream.Context().Err()
		}
		return grpcError(context.Background(), err)
	}
}

// maxBeats bounds the beats of one stream that are under way.
const maxBeats = 64

type beat struct {
	id   int64
	head *pb.ResponseHeader
	done chan struct{}
	ttl  int64
	err  error
}

func (s *Door) takeBeats(ctx context.Context, stream pb.Lease_LeaseKeepAliveServer, pending chan<- *beat) error {
	for {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		// The header is older than the renewal, so that a client never sees a beat
		// succeed at a revision at which its keys were gone.
		h, err := s.headNow(ctx)
		if err != nil {
			return err
		}
		b := &beat{id: r.ID, head: h, done: make(chan struct{})}
		s.wg.Go(func() {
			defer close(b.done)
			b.ttl, b.err = s.renew(ctx, uint64(r.ID))
		})
		select {
		case pending <- b:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (s *Door) answerBeats(ctx context.Context, stream pb.Lease_LeaseKeepAliveServer, pending <-chan *beat) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case b, more := <-pending:
			if !more {
				return nil
			}
			<-b.done
			if b.err != nil {
				return b.err
			}
			if err := stream.Send(&pb.LeaseKeepAliveResponse{Header: b.head, ID: b.id, TTL: b.ttl}); err != nil {
				return err
			}
		}
	}
}

// renew gives the TTL in seconds, 0 for a lease that is gone.
func (s *Door) renew(ctx context.Context, id uint64) (int64, error) {
	s.metrics.beats.Inc()
	l, err := s.store.KeepLease(as(ctx, ""), id)
	switch {
	case errs.Has(err, errs.LeaseNotFound):
		return 0, nil
	case err != nil:
		return 0, grpcError(ctx, err)
	}
	return seconds(l.TTL), nil
}

// LeaseTimeToLive implements etcd's Lease. A lease that is gone has a TTL of -1.
func (s *Door) LeaseTimeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	x, err := s.leaseUser(ctx)
	if err != nil {
		return nil, err
	}
	l, err := s.store.LeaseTTL(ctx, uint64(r.ID), r.Keys)
	if errs.Has(err, errs.LeaseNotFound) {
		h, err := s.headNow(ctx)
		return &pb.LeaseTimeToLiveResponse{Header: h, ID: r.ID, TTL: -1}, err
	}
	if err != nil {
		return nil, grpcError(ctx, err)
	}
	for _, k := range l.Keys {
		if err := x.read(k, nil); err != nil {
			return nil, err
		}
	}
	return &pb.LeaseTimeToLiveResponse{
		Header: s.header(l.Revision), ID: r.ID, TTL: remaining(l), GrantedTTL: seconds(l.TTL), Keys: l.Keys,
	}, nil
}

// LeaseLeases implements etcd's Lease: whoever is not root must be allowed to read
// all keys of all leases.
func (s *Door) LeaseLeases(ctx context.Context, _ *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	x, err := s.leaseUser(ctx)
	if err != nil {
		return nil, err
	}
	ids, rev, err := s.store.Leases(ctx)
	if err != nil {
		return nil, grpcError(ctx, err)
	}
	out := &pb.LeaseLeasesResponse{Header: s.header(rev), Leases: make([]*pb.LeaseStatus, len(ids))}
	for i, id := range ids {
		if err := s.mayLease(ctx, x, id, access.read); err != nil {
			return nil, err
		}
		out.Leases[i] = &pb.LeaseStatus{ID: int64(id)}
	}
	return out, nil
}

// seconds rounds up: a TTL that is left is never 0.
func seconds(d time.Duration) int64 { return int64(math.Ceil(d.Seconds())) }

func remaining(l warehouse.Leased) int64 { return max(int64(l.Remaining/time.Second), 0) }
