package system

import (
	"context"

	"nekoq/services/auth"
	"nekoq/services/peer/api"
	"nekoq/services/wire"
)

type nothing struct{}

// RegisterNative adds the system methods to the native door.
func RegisterNative(mux *wire.Mux, s *Service) {
	mux.Unary(wire.MethodSessionOpen, "system.session_open", func(ctx context.Context, _, dst []byte) ([]byte, error) {
		return s.OpenSession(ctx, dst)
	})
	mux.Unary(wire.MethodPing, "system.ping", func(_ context.Context, req, dst []byte) ([]byte, error) {
		return append(dst, req...), nil
	})
	mux.Unary(wire.MethodClusterStatus, "system.cluster_status", wire.JSON(func(ctx context.Context, _ *nothing) (*api.Cluster, error) {
		return asked(ctx, s, auth.Read, "cluster", "", s.Cluster.Status)
	}))
	mux.Unary(wire.MethodServices, "system.services", wire.JSON(func(ctx context.Context, _ *nothing) (*Services, error) {
		if err := s.allow(ctx, auth.Read, "services", ""); err != nil {
			return nil, err
		}
		return s.Services(ctx)
	}))
	mux.Unary(wire.MethodNode, "system.node", wire.JSON(func(ctx context.Context, _ *nothing) (*Self, error) {
		if err := s.allow(ctx, auth.Read, "node", s.NodeID); err != nil {
			return nil, err
		}
		return s.Self(ctx)
	}))
	mux.Unary(wire.MethodMemberRemove, "system.member_remove", wire.JSON(func(ctx context.Context, in *api.RemoveRequest) (*api.Done, error) {
		return asked(ctx, s, auth.Admin, "member", in.ID, func(ctx context.Context) (api.Done, error) { return s.Cluster.Remove(ctx, *in) })
	}))
	mux.Unary(wire.MethodMemberPromote, "system.member_promote", wire.JSON(func(ctx context.Context, in *api.PromoteRequest) (*api.Done, error) {
		return asked(ctx, s, auth.Admin, "member", in.ID, func(ctx context.Context) (api.Done, error) { return s.Cluster.Promote(ctx, *in) })
	}))
	mux.Unary(wire.MethodLeaderTransfer, "system.leader_transfer", wire.JSON(func(ctx context.Context, in *api.TransferRequest) (*api.Done, error) {
		return asked(ctx, s, auth.Admin, "leader", in.To, func(ctx context.Context) (api.Done, error) { return s.Cluster.Transfer(ctx, *in) })
	}))
	mux.Unary(wire.MethodCompareHashes, "system.compare_hashes", wire.JSON(func(ctx context.Context, in *api.HashRequest) (*api.HashReport, error) {
		return asked(ctx, s, auth.Admin, "hashes", "", func(ctx context.Context) (api.HashReport, error) { return s.Cluster.CompareHashes(ctx, *in) })
	}))
}

// asked asks the authorizer and then does it.
func asked[T any](ctx context.Context, s *Service, a auth.Action, kind, name string, do func(ctx context.Context) (T, error)) (*T, error) {
	if err := s.allow(ctx, a, kind, name); err != nil {
		return nil, err
	}
	out, err := do(ctx)
	if err != nil {
		return nil, err
	}
	return &out, nil
}
