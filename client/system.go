package client

import (
	"context"

	"nekoq/services/lifecycle"
	"nekoq/services/peer/api"
	"nekoq/services/wire"
)

// Node is what the server in use says of itself.
type Node struct {
	ID           string `json:"id"`
	Mode         string `json:"mode"`
	Version      string `json:"version"`
	Go           string `json:"go"`
	Insecure     bool   `json:"insecure"`
	Uptime       string `json:"uptime"`
	LeaderID     string `json:"leader_id"` // "" for none
	Term         uint64 `json:"term"`
	AppliedIndex uint64 `json:"applied_index"`
	DurableIndex uint64 `json:"durable_index"`
	Revision     uint64 `json:"revision"` // of the store
	Cluster      uint32 `json:"cluster_version"`
	Storage      string `json:"storage,omitempty"` // what is wrong with the disk
}

// Services is the dependency graph of the server in use.
type Services struct {
	Ready    bool               `json:"ready"`
	Reason   string             `json:"reason,omitempty"`
	Services []lifecycle.Status `json:"services"`
}

// Node asks the server in use about itself.
func (c *Client) Node(ctx context.Context) (Node, error) {
	return ask[Node](ctx, c, wire.MethodNode, nil, false)
}

// Services gives the components of the server in use and their states.
func (c *Client) Services(ctx context.Context) (Services, error) {
	return ask[Services](ctx, c, wire.MethodServices, nil, false)
}

// ClusterStatus gives members, leader and quorum as the server in use sees them.
func (c *Client) ClusterStatus(ctx context.Context) (api.Cluster, error) {
	return ask[api.Cluster](ctx, c, wire.MethodClusterStatus, nil, false)
}

// Changes of the membership have no request id: a session would have to be opened in
// the log, which a leader without disk space refuses, and that leader may be the one
// to be rid of. They may be repeated.

// RemoveMember removes a member for good. force removes it even when the rest
// has no quorum of live nodes.
func (c *Client) RemoveMember(ctx context.Context, id string, force bool) (api.Done, error) {
	return ask[api.Done](ctx, c, wire.MethodMemberRemove, api.RemoveRequest{ID: id, Force: force}, false)
}

// PromoteMember makes a joining member a voter now.
func (c *Client) PromoteMember(ctx context.Context, id string) (api.Done, error) {
	return ask[api.Done](ctx, c, wire.MethodMemberPromote, api.PromoteRequest{ID: id}, false)
}

// TransferLeadership hands leadership to a voter, to the most advanced one for "".
func (c *Client) TransferLeadership(ctx context.Context, to string) (api.Done, error) {
	return ask[api.Done](ctx, c, wire.MethodLeaderTransfer, api.TransferRequest{To: to}, false)
}

// CompareHashes compares the state hashes of all members now. content also
// compares the hash over all rows, which reads the whole state on every node.
func (c *Client) CompareHashes(ctx context.Context, content bool) (api.HashReport, error) {
	return ask[api.HashReport](ctx, c, wire.MethodCompareHashes, api.HashRequest{Content: content}, false)
}

func ask[T any](ctx context.Context, c *Client, m wire.Method, in any, write bool) (out T, err error) {
	err = c.callJSON(ctx, m, in, &out, write)
	return out, err
}
