package system

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"nekoq/services/auth"
	"nekoq/services/httpapi"
	"nekoq/services/peer/api"
)

// answer is a JSON body and nothing else.
type answer[T any] struct{ Body T }

func body[T any](v *T, err error) (*answer[T], error) {
	if err != nil {
		return nil, err
	}
	return &answer[T]{*v}, nil
}

func value[T any](v T, err error) (*answer[T], error) { return body(&v, err) }

type memberInput struct {
	ID    string `path:"id" doc:"Id of the member."`
	Force bool   `query:"force" doc:"Remove the member even when the remaining nodes have no quorum of live voters."`
}

type promoteInput struct {
	ID string `path:"id" doc:"Id of the member."`
}

type hashInput struct{ Body api.HashRequest }

type transferInput struct{ Body api.TransferRequest }

// RegisterREST adds /v1/system.
func RegisterREST(srv *httpapi.Server, s *Service) {
	get := func(id, path, summary string) huma.Operation {
		return huma.Operation{OperationID: id, Method: http.MethodGet, Path: "/v1/system" + path, Summary: summary, Tags: []string{"system"}}
	}
	httpapi.Register(srv, get("system-node", "/node", "What this node says of itself"), httpapi.On(auth.Read, "system", "node"),
		func(ctx context.Context, _ *struct{}) (*answer[Self], error) { return body(s.Self(ctx)) })
	httpapi.Register(srv, get("system-services", "/services", "The components of this node, what they need and their states"), httpapi.On(auth.Read, "system", "services"),
		func(ctx context.Context, _ *struct{}) (*answer[Services], error) { return body(s.Services(ctx)) })
	httpapi.Register(srv, get("cluster-status", "/cluster", "Members, leader, quorum and lag, as this node sees them"), httpapi.On(auth.Read, "system", "cluster"),
		func(ctx context.Context, _ *struct{}) (*answer[api.Cluster], error) {
			return value(s.Cluster.Status(ctx))
		})
	httpapi.Register(srv, huma.Operation{
		OperationID: "cluster-remove-member", Method: http.MethodDelete, Path: "/v1/system/cluster/members/{id}", Tags: []string{"system"},
		Summary: "Remove a member for good",
	}, httpapi.OnParam(auth.Admin, "system", "member", "id"),
		func(ctx context.Context, in *memberInput) (*answer[api.Done], error) {
			return value(s.Cluster.Remove(ctx, api.RemoveRequest{ID: in.ID, Force: in.Force}))
		})
	httpapi.Register(srv, huma.Operation{
		OperationID: "cluster-promote-member", Method: http.MethodPost, Path: "/v1/system/cluster/members/{id}/promote", Tags: []string{"system"},
		Summary: "Make a joining member a voter now, without waiting for it to keep up",
	}, httpapi.OnParam(auth.Admin, "system", "member", "id"),
		func(ctx context.Context, in *promoteInput) (*answer[api.Done], error) {
			return value(s.Cluster.Promote(ctx, api.PromoteRequest{ID: in.ID}))
		})
	httpapi.Register(srv, huma.Operation{
		OperationID: "cluster-transfer-leadership", Method: http.MethodPost, Path: "/v1/system/cluster/leader", Tags: []string{"system"},
		Summary: "Hand leadership to a member, or to the most advanced one",
	}, httpapi.On(auth.Admin, "system", "leader"),
		func(ctx context.Context, in *transferInput) (*answer[api.Done], error) {
			return value(s.Cluster.Transfer(ctx, in.Body))
		})
	httpapi.Register(srv, huma.Operation{
		OperationID: "cluster-compare-hashes", Method: http.MethodPost, Path: "/v1/system/cluster/hashes", Tags: []string{"system"},
		Summary: "Compare the state hashes of all members now",
	}, httpapi.On(auth.Admin, "system", "hashes"),
		func(ctx context.Context, in *hashInput) (*answer[api.HashReport], error) {
			return value(s.Cluster.CompareHashes(ctx, in.Body))
		})
}
