package etcd

import (
	"context"
	"errors"
	"io"
	"math"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"nekoq/services/auth"
	"nekoq/services/errs"
	"nekoq/services/grpcserver"
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
	if r.ID < 0 {
		return nil, status.Errorf(codes.InvalidArgument, "etcdserver: lease ID: %d is not valid: want 1 to %d, or 0 for one that the server chooses", r.ID, math.MaxInt64)
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
// they came; those that have come meanwhile are carried out together.
func (s *Door) LeaseKeepAlive(stream pb.Lease_LeaseKeepAliveServer) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() { cancel(rpctypes.ErrGRPCStopped) })()
	if err := s.requireLeader(ctx, cancel); err != nil {
		return err
	}
	x, err := s.access(ctx, false)
	if err == nil {
		err = x.known()
	}
	if err == nil {
		err = s.allow(ctx, x.user, auth.Write, "lease", nil, nil)
	}
	if err != nil {
		return err
	}
	b := beats{door: s, stream: stream, who: x}
	err = b.serve(ctx)
	switch {
	case stream.Context().Err() != nil:
		return stream.Context().Err()
	case ctx.Err() != nil:
		return grpcError(context.Background(), context.Cause(ctx))
	}
	return err
}

// maxBeats bounds the beats of one stream that are carried out together.
const maxBeats = 256

// beats is one stream of keep-alives.
type beats struct {
	door   *Door
	stream pb.Lease_LeaseKeepAliveServer
	who    access // as of the stream's begin, which outlives a token
	req    pb.LeaseKeepAliveRequest
	ids    []uint64
	kept   []warehouse.LeaseInfo
}

// serve takes the beats that have come and answers them together, until the stream
// ends.
func (b *beats) serve(ctx context.Context) error {
	by := as(ctx, "")
	for {
		err := grpcserver.Receive(ctx, b.stream, &b.req)
		for more := err == nil; more; {
			if b.ids = append(b.ids, uint64(b.req.ID)); len(b.ids) == maxBeats {
				break
			}
			b.req.ID = 0
			more, err = grpcserver.TryReceive(b.stream, &b.req)
		}
		if len(b.ids) > 0 {
			if err := b.answer(by); err != nil {
				return err
			}
			b.ids = b.ids[:0]
		}
		b.req.ID = 0
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

func (b *beats) answer(ctx context.Context) error {
	s := b.door
	if err := b.permitted(ctx); err != nil {
		return err
	}
	s.metrics.beats.Add(float64(len(b.ids)))
	// The header is older than the renewals, so that a client never sees a beat succeed
	// at a revision at which its keys were gone.
	h, err := s.headNow(ctx)
	if err != nil {
		return err
	}
	if b.kept, err = s.store.KeepLeases(ctx, b.ids, b.kept[:0]); err != nil {
		return grpcError(ctx, err)
	}
	for i := range b.kept {
		k := &b.kept[i] // one that is gone has a TTL of 0
		if err := grpcserver.SendHeld(b.stream, &pb.LeaseKeepAliveResponse{Header: h, ID: int64(k.ID), TTL: seconds(k.TTL)}); err != nil {
			return err
		}
	}
	grpcserver.Flush(b.stream)
	return nil
}

// permitted judges the client anew when users or roles have changed.
func (b *beats) permitted(ctx context.Context) error {
	a := b.door.auth()
	if a.Enabled == b.who.on && a.Revision == b.who.rev {
		return nil
	}
	var err error
	if !b.who.on && a.Enabled { // it had no name yet
		b.who, err = b.door.identify(ctx, a)
	} else {
		b.who = b.who.again(a)
	}
	if err != nil {
		return err
	}
	return b.who.known()
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

// remaining gives the whole seconds that a lease has left for sure. Its clock goes in
// steps, so right after the grant it has all of its time by that clock, and yet some of it
// has passed: as with etcd, what is left is always less than what was granted.
func remaining(l warehouse.Leased) int64 { return max(int64((l.Remaining-1)/time.Second), 0) }
