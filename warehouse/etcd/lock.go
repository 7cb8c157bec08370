package etcd

import (
	"context"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"nekoq/services/auth"
	"nekoq/services/errs"
	"nekoq/warehouse/api"
	"nekoq/warehouse/etcd/electionpb"
	"nekoq/warehouse/etcd/lockpb"
)

// A lock or election is the keys below its name: the one with the lowest create
// revision has it. Names of keys are those of etcd's own client library, so that
// both can take part in one lock.

// orphanTTL is the lease of who brought none, in seconds.
const orphanTTL = 60

// cleanupTimeout is how long a call that was given up may take to withdraw its key.
const cleanupTimeout = 5 * time.Second

var errLeaseGone = status.Error(codes.Unknown, "mutex: session is expired")

// Lock waits for the lock.
func (s *Door) Lock(ctx context.Context, r *lockpb.LockRequest) (*lockpb.LockResponse, error) {
	lease, err := s.leaseOrNew(ctx, r.Lease)
	if err != nil {
		return nil, err
	}
	prefix := string(r.Name) + "/"
	key := fmt.Sprintf("%s%x", prefix, uint64(lease))
	mine, _, err := s.enter(ctx, key, nil, lease)
	if err != nil {
		return nil, err
	}
	if err := s.waitTurn(ctx, prefix, key, mine.CreateRevision); err != nil {
		return nil, err
	}
	// The lease may have ended while others had the lock.
	got, err := s.Range(ctx, &pb.RangeRequest{Key: []byte(key)})
	if err != nil {
		s.withdraw(ctx, key, mine.CreateRevision)
		return nil, err
	}
	if len(got.Kvs) == 0 || got.Kvs[0].CreateRevision != mine.CreateRevision {
		return nil, errLeaseGone
	}
	return &lockpb.LockResponse{Header: got.Header, Key: []byte(key)}, nil
}

// Unlock deletes the key of a lock.
func (s *Door) Unlock(ctx context.Context, r *lockpb.UnlockRequest) (*lockpb.UnlockResponse, error) {
	res, err := s.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: r.Key})
	if err != nil {
		return nil, err
	}
	return &lockpb.UnlockResponse{Header: res.Header}, nil
}

func (s *Door) leaseOrNew(ctx context.Context, id int64) (int64, error) {
	if id != 0 {
		return id, nil
	}
	l, err := s.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: orphanTTL})
	if err != nil {
		return 0, err
	}
	return l.ID, nil
}

// enter makes the key, or finds the one that the same lease made before.
func (s *Door) enter(ctx context.Context, key string, value []byte, lease int64) (kv *mvccpb.KeyValue, made bool, err error) {
	res, err := s.Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: []byte(key), Target: pb.Compare_CREATE, TargetUnion: &pb.Compare_CreateRevision{}}},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: value, Lease: lease}}}},
		Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(key)}}}},
	})
	switch {
	case err != nil:
		return nil, false, err
	case res.Succeeded:
		rev := res.Header.Revision
		return &mvccpb.KeyValue{Key: []byte(key), Value: value, CreateRevision: rev, ModRevision: rev, Version: 1, Lease: lease}, true, nil
	}
	return res.Responses[0].GetResponseRange().Kvs[0], false, nil
}

// waitTurn waits until no key below prefix is older than rev. When the caller gives
// up, its key is withdrawn.
func (s *Door) waitTurn(ctx context.Context, prefix, key string, rev int64) error {
	for {
		before, err := s.Range(ctx, &pb.RangeRequest{
			Key: []byte(prefix), RangeEnd: api.PrefixEnd([]byte(prefix)), Limit: 1, KeysOnly: true, MaxCreateRevision: rev - 1,
			SortTarget: pb.RangeRequest_CREATE, SortOrder: pb.RangeRequest_DESCEND,
		})
		if err == nil && len(before.Kvs) == 0 {
			return nil
		}
		if err == nil {
			err = s.waitGone(ctx, before.Kvs[0].Key, before.Header.Revision+1)
		}
		if err != nil {
			s.withdraw(ctx, key, rev)
			return err
		}
	}
}

// waitGone waits for a key to be deleted at or after revision from.
func (s *Door) waitGone(ctx context.Context, key []byte, from int64) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() { cancel(rpctypes.ErrGRPCStopped) })()
	w, err := s.store.Watch(ctx, &api.WatchRequest{Start: key, Exact: true, From: uint64(from), NoPut: true})
	if errs.Has(err, errs.Compacted) {
		return nil // look again
	}
	if err != nil {
		return grpcError(ctx, err)
	}
	defer w.Close()
	if _, err = w.NextEvents(ctx); errs.Has(err, errs.Compacted) {
		return nil
	}
	if s.ctx.Err() != nil {
		return rpctypes.ErrGRPCStopped
	}
	return grpcError(ctx, err)
}

// withdraw deletes the key of a call that was given up, so that nobody waits for it.
func (s *Door) withdraw(ctx context.Context, key string, rev int64) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if _, err := s.deleteIfMade(ctx, key, rev); err != nil {
		s.log.Debug("etcd door: the key of a lock that was given up stays until its lease ends", "error", err)
	}
}

// deleteIfMade deletes the key made at revision rev.
func (s *Door) deleteIfMade(ctx context.Context, key string, rev int64) (*pb.TxnResponse, error) {
	return s.Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: []byte(key), Target: pb.Compare_CREATE, TargetUnion: &pb.Compare_CreateRevision{CreateRevision: rev}}},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(key)}}}},
	})
}

var (
	errNoLeader  = status.Error(codes.Unknown, "election: no leader")
	errNotLeader = status.Error(codes.Unknown, "election: not leader")
	errNoKey     = status.Error(codes.InvalidArgument, `"leader" field must be provided`)
)

// Campaign waits until the caller leads.
func (s *Door) Campaign(ctx context.Context, r *electionpb.CampaignRequest) (*electionpb.CampaignResponse, error) {
	lease, err := s.leaseOrNew(ctx, r.Lease)
	if err != nil {
		return nil, err
	}
	prefix := string(r.Name) + "/"
	key := fmt.Sprintf("%s%x", prefix, uint64(lease))
	mine, made, err := s.enter(ctx, key, r.Value, lease)
	if err != nil {
		return nil, err
	}
	leader := &electionpb.LeaderKey{Name: r.Name, Key: []byte(key), Rev: mine.CreateRevision, Lease: lease}
	if !made && string(mine.Value) != string(r.Value) {
		if _, err := s.Proclaim(ctx, &electionpb.ProclaimRequest{Leader: leader, Value: r.Value}); err != nil {
			s.withdraw(ctx, key, mine.CreateRevision)
			return nil, err
		}
	}
	if err := s.waitTurn(ctx, prefix, key, mine.CreateRevision); err != nil {
		return nil, err
	}
	h, err := s.headNow(ctx)
	return &electionpb.CampaignResponse{Header: h, Leader: leader}, err
}

// Proclaim changes the leader's value.
func (s *Door) Proclaim(ctx context.Context, r *electionpb.ProclaimRequest) (*electionpb.ProclaimResponse, error) {
	if r.Leader == nil {
		return nil, errNoKey
	}
	res, err := s.Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: r.Leader.Key, Target: pb.Compare_CREATE, TargetUnion: &pb.Compare_CreateRevision{CreateRevision: r.Leader.Rev}}},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: r.Leader.Key, Value: r.Value, Lease: r.Leader.Lease}}}},
	})
	if err != nil {
		return nil, err
	}
	if !res.Succeeded {
		return nil, errNotLeader
	}
	return &electionpb.ProclaimResponse{Header: res.Header}, nil
}

// Resign ends a leadership; one that has ended is no error.
func (s *Door) Resign(ctx context.Context, r *electionpb.ResignRequest) (*electionpb.ResignResponse, error) {
	if r.Leader == nil {
		return nil, errNoKey
	}
	res, err := s.deleteIfMade(ctx, string(r.Leader.Key), r.Leader.Rev)
	if err != nil {
		return nil, err
	}
	return &electionpb.ResignResponse{Header: res.Header}, nil
}

// Leader gives the present leader.
func (s *Door) Leader(ctx context.Context, r *electionpb.LeaderRequest) (*electionpb.LeaderResponse, error) {
	res, err := s.leaderOf(ctx, r.Name)
	if err != nil {
		return nil, err
	}
	if len(res.Kvs) == 0 {
		return nil, errNoLeader
	}
	return &electionpb.LeaderResponse{Header: res.Header, Kv: res.Kvs[0]}, nil
}

func (s *Door) leaderOf(ctx context.Context, name []byte) (*pb.RangeResponse, error) {
	prefix := append(append([]byte(nil), name...), '/')
	return s.Range(ctx, &pb.RangeRequest{
		Key: prefix, RangeEnd: api.PrefixEnd(prefix), Limit: 1, SortTarget: pb.RangeRequest_CREATE, SortOrder: pb.RangeRequest_ASCEND,
	})
}

// proclaimed is which value of which leader was sent last. A new leader's value may be
// older than the last one of the leader before.
type proclaimed struct{ create, mod int64 }

func asProclaimed(kv *mvccpb.KeyValue) proclaimed {
	return proclaimed{kv.CreateRevision, kv.ModRevision}
}

// Observe gives every leader and every value that it proclaims, from now on.
func (s *Door) Observe(r *electionpb.LeaderRequest, stream electionpb.Election_ObserveServer) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() { cancel(rpctypes.ErrGRPCStopped) })()
	if err := s.requireLeader(ctx, cancel); err != nil {
		return err
	}
	prefix := append(append([]byte(nil), r.Name...), '/')
	var sent proclaimed
	for {
		res, err := s.leaderOf(ctx, r.Name)
		if err != nil {
			return s.cut(ctx, err)
		}
		if len(res.Kvs) > 0 && sent != asProclaimed(res.Kvs[0]) {
			if err := stream.Send(&electionpb.LeaderResponse{Header: res.Header, Kv: res.Kvs[0]}); err != nil {
				return err
			}
			sent = asProclaimed(res.Kvs[0])
		}
		next := &api.WatchRequest{Start: prefix, End: api.PrefixEnd(prefix), From: uint64(res.Header.Revision + 1)}
		if len(res.Kvs) > 0 {
			next.Start, next.End, next.Exact = res.Kvs[0].Key, nil, true
		}
		if err := s.observe(ctx, next, stream, &sent); err != nil {
			return err
		}
	}
}

// observe sends what the leader proclaims, and returns when it has gone or, where
// there was none, when somebody has come.
func (s *Door) observe(ctx context.Context, r *api.WatchRequest, stream electionpb.Election_ObserveServer, sent *proclaimed) error {
	if err := s.mayObserve(ctx, r); err != nil {
		return err
	}
	w, err := s.store.Watch(ctx, r)
	if errs.Has(err, errs.Compacted) {
		return nil
	}
	if err != nil {
		return s.cut(ctx, err)
	}
	defer w.Close()
	for {
		b, err := w.NextEvents(ctx)
		if errs.Has(err, errs.Compacted) {
			return nil
		}
		if err != nil {
			return s.cut(ctx, err)
		}
		if err := s.mayObserve(ctx, r); err != nil {
			return err
		}
		for i := range b.Events {
			e := &b.Events[i]
			if !r.Exact || e.Kind == api.EventDelete {
				return nil
			}
			kv := keyValue(&e.KV)
			if err := stream.Send(&electionpb.LeaderResponse{Header: s.header(b.Revision), Kv: kv}); err != nil {
				return err
			}
			*sent = asProclaimed(kv)
		}
	}
}

func (s *Door) mayObserve(ctx context.Context, r *api.WatchRequest) error {
	x, err := s.access(ctx, false)
	if err != nil {
		return err
	}
	if err := x.read(r.Start, r.End); err != nil {
		return err
	}
	return s.allow(ctx, x.user, auth.Watch, "kv", r.Start, r.End)
}

// cut tells the end of a stream by the server from other errors.
func (s *Door) cut(ctx context.Context, err error) error {
	if s.ctx.Err() != nil {
		return rpctypes.ErrGRPCStopped
	}
	if ctx.Err() != nil { // without a leader, or the client's end
		return grpcError(context.Background(), context.Cause(ctx))
	}
	return grpcError(ctx, err)
}
