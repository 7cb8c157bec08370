package etcd

import (
	"context"
	"regexp"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"nekoq/services/auth"
	peerapi "nekoq/services/peer/api"
	"nekoq/services/replica"
	"nekoq/warehouse"
)

// Status implements etcd's Maintenance.
func (s *Door) Status(ctx context.Context, _ *pb.StatusRequest) (*pb.StatusResponse, error) {
	if _, err := s.named(ctx); err != nil {
		return nil, err
	}
	h, err := s.headNow(ctx)
	if err != nil {
		return nil, err
	}
	v, lag, err := s.deps.Replica.View(ctx, replica.Stale)
	if err != nil {
		return nil, grpcError(ctx, err)
	}
	applied := v.Index()
	v.Release()
	sizes := s.store.Sizes()
	leader, term := s.deps.Replica.Leader()
	out := &pb.StatusResponse{
		Header: h, Version: ServerVersion, StorageVersion: ClusterVersion,
		RaftTerm: term, RaftIndex: applied + lag.Entries, RaftAppliedIndex: applied,
		DbSize: sizes.File, DbSizeInUse: sizes.InUse, DbSizeQuota: sizes.Limit,
		DowngradeInfo: &pb.DowngradeInfo{},
	}
	if leader == "" {
		out.Errors = append(out.Errors, "etcdserver: no leader")
	} else {
		out.Leader = s.numberOf(leader)
	}
	out.IsLearner = s.learner()
	alarms, err := s.alarms(ctx)
	if err != nil {
		return nil, err
	}
	for _, a := range alarms {
		out.Errors = append(out.Errors, a.String())
	}
	return out, nil
}

// learner tells whether this node has no vote yet.
func (s *Door) learner() bool {
	return slices.ContainsFunc(s.deps.Cluster.Members(), func(n peerapi.Member) bool {
		return n.ID == s.deps.Replica.NodeID() && n.Role == roleJoining
	})
}

// named lets in everybody who has a name, once auth is on.
func (s *Door) named(ctx context.Context) (access, error) {
	x, err := s.access(ctx, false)
	if err != nil {
		return x, err
	}
	if x.on && x.user == "" {
		return x, rpctypes.ErrGRPCUserEmpty
	}
	return x, s.allow(ctx, x.user, auth.Read, "etcd", []byte("status"), nil)
}

// alarms gives the store's full as etcd's NOSPACE; the earlier warnings have no
// counterpart there.
func (s *Door) alarms(ctx context.Context) ([]*pb.AlarmMember, error) {
	list, err := s.store.Alarms(ctx)
	if err != nil {
		return nil, grpcError(ctx, err)
	}
	var out []*pb.AlarmMember
	for _, a := range list {
		if a.Kind == warehouse.AlarmNoSpace {
			out = append(out, &pb.AlarmMember{MemberID: s.number(), Alarm: pb.AlarmType_NOSPACE})
		}
	}
	return out, nil
}

// Alarm implements etcd's Maintenance. The store raises and ends its alarms itself,
// so disarming changes nothing and answers with those that stand.
func (s *Door) Alarm(ctx context.Context, r *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	var err error
	if r.Action == pb.AlarmRequest_GET {
		_, err = s.named(ctx)
	} else {
		_, err = s.admin(ctx, "alarm")
	}
	if err != nil {
		return nil, err
	}
	if r.Action == pb.AlarmRequest_ACTIVATE {
		return nil, status.Error(codes.Unimplemented, "etcdserver: alarms are raised by the store itself, not by request")
	}
	if r.Action < 0 || r.Action > pb.AlarmRequest_DEACTIVATE {
		return nil, status.Errorf(codes.InvalidArgument, "etcdserver: alarm.action: %d is none that etcd knows", r.Action)
	}
	all, err := s.alarms(ctx)
	if err != nil {
		return nil, err
	}
	h, err := s.headNow(ctx)
	if err != nil {
		return nil, err
	}
	out := &pb.AlarmResponse{Header: h}
	for _, a := range all {
		if r.Action == pb.AlarmRequest_GET && r.Alarm != pb.AlarmType_NONE && r.Alarm != a.Alarm {
			continue
		}
		out.Alarms = append(out.Alarms, a)
	}
	return out, nil
}

// Defragment implements etcd's Maintenance, for this node; it goes on serving.
func (s *Door) Defragment(ctx context.Context, _ *pb.DefragmentRequest) (*pb.DefragmentResponse, error) {
	if _, err := s.admin(ctx, "defragment"); err != nil {
		return nil, err
	}
	if err := s.store.Defragment(ctx); err != nil {
		return nil, grpcError(ctx, err)
	}
	h, err := s.headNow(ctx)
	return &pb.DefragmentResponse{Header: h}, err
}

// Hash implements etcd's Maintenance: the hash of the newest revision.
func (s *Door) Hash(ctx context.Context, _ *pb.HashRequest) (*pb.HashResponse, error) {
	if _, err := s.admin(ctx, "hash"); err != nil {
		return nil, err
	}
	h, err := s.store.HashKV(ctx, 0)
	if err != nil {
		return nil, grpcError(ctx, err)
	}
	return &pb.HashResponse{Header: s.header(h.Revision), Hash: h.Hash}, nil
}

// HashKV implements etcd's Maintenance.
func (s *Door) HashKV(ctx context.Context, r *pb.HashKVRequest) (*pb.HashKVResponse, error) {
	if _, err := s.admin(ctx, "hash"); err != nil {
		return nil, err
	}
	h, err := s.store.HashKV(ctx, uint64(max(r.Revision, 0)))
	if err != nil {
		return nil, grpcError(ctx, err)
	}
	out := &pb.HashKVResponse{
		Header: s.header(h.Revision), Hash: h.Hash, CompactRevision: int64(h.CompactRevision), HashRevision: int64(h.HashRevision),
	}
	if out.CompactRevision == 0 {
		out.CompactRevision = -1 // nothing was compacted yet
	}
	return out, nil
}

// MoveLeader implements etcd's Maintenance; as there, it is asked of the leader.
func (s *Door) MoveLeader(ctx context.Context, r *pb.MoveLeaderRequest) (*pb.MoveLeaderResponse, error) {
	x, err := s.admin(ctx, "leader")
	if err != nil {
		return nil, err
	}
	if !s.deps.Replica.IsLeader() {
		return nil, rpctypes.ErrGRPCNotLeader
	}
	m, err := s.seatOf(ctx, r.TargetID)
	if err != nil || m.node == nil || m.node.Role != roleVoter {
		return nil, rpctypes.ErrGRPCBadLeaderTransferee
	}
	if m.node.ID != s.deps.Replica.NodeID() {
		if _, err := s.deps.Cluster.Transfer(as(ctx, x.user), peerapi.TransferRequest{To: m.node.ID}); err != nil {
			return nil, grpcError(ctx, err, notTransferee)
		}
	}
	h, err := s.headNow(ctx)
	return &pb.MoveLeaderResponse{Header: h}, err
}

var versionForm = regexp.MustCompile(`^\d+\.\d+(\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?)?$`)

// Downgrade implements etcd's Maintenance: there is no older version to go to, so
// there is never a downgrade to cancel, which is no error.
func (s *Door) Downgrade(ctx context.Context, r *pb.DowngradeRequest) (*pb.DowngradeResponse, error) {
	if _, err := s.admin(ctx, "downgrade"); err != nil {
		return nil, err
	}
	switch {
	case r.Action == pb.DowngradeRequest_CANCEL:
		h, err := s.headNow(ctx)
		return &pb.DowngradeResponse{Header: h, Version: clusterLine}, err
	case r.Action < 0 || r.Action > pb.DowngradeRequest_CANCEL:
		return nil, status.Error(codes.Unknown, "etcdserver: unknown method")
	case !versionForm.MatchString(r.Version):
		return nil, rpctypes.ErrGRPCWrongDowngradeVersionFormat
	}
	return nil, rpctypes.ErrGRPCInvalidDowngradeTargetVersion
}
