package etcd

import (
	"context"

	"github.com/zeebo/xxh3"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"nekoq/services/auth"
	"nekoq/warehouse/etcd/internal/table"
)

// idOf makes a number as etcd has it out of a name: stable, and never 0. What number a
// node has says Door.numberOf.
func idOf(name string) uint64 {
	if h := xxh3.HashString("nekoq etcd door/" + name); h != 0 {
		return h
	}
	return 1
}

func (s *Door) clusterID() uint64 {
	if id := s.cluster.Load(); id != 0 {
		return id
	}
	name := ""
	if s.deps.ClusterID != nil {
		name = s.deps.ClusterID()
	}
	if name == "" {
		return 0
	}
	id := idOf("cluster/" + name)
	s.cluster.Store(id)
	return id
}

// header is the header of an answer at a key revision.
func (s *Door) header(revision uint64) *pb.ResponseHeader {
	_, term := s.deps.Replica.Leader()
	return &pb.ResponseHeader{ClusterId: s.clusterID(), MemberId: s.number(), Revision: int64(revision), RaftTerm: term}
}

// headNow is a header at this node's newest revision.
func (s *Door) headNow(ctx context.Context) (*pb.ResponseHeader, error) {
	h, err := s.store.Head(ctx, true)
	if err != nil {
		return nil, grpcError(ctx, err)
	}
	return s.header(h.Revision), nil
}

// callerOf says who is at the other end of the request's connection.
func callerOf(ctx context.Context) *auth.Principal {
	if p, ok := ctx.Value(auth.ContextKey).(*auth.Principal); ok {
		return p
	}
	return &auth.Principal{Name: "anonymous", Door: "etcd"}
}

// principalCtx answers the principal at the cost of one small allocation.
type principalCtx struct {
	context.Context
	p *auth.Principal
}

func (c *principalCtx) Value(key any) any {
	if key == auth.ContextKey {
		return c.p
	}
	return c.Context.Value(key)
}

// as gives a context in which warehouse sees the user, or else whoever is connected.
func as(ctx context.Context, user string) context.Context {
	if user == "" {
		return ctx
	}
	named := *callerOf(ctx)
	named.Name = user
	return &principalCtx{Context: ctx, p: &named}
}

// under is as for a write that was judged by x: it is carried out only if users and
// roles are still those that were looked at when its turn comes in the log, or auth is
// still off. This node may not know yet that it was switched on; before the first user
// was made it cannot be, and the writes of those who never use auth carry no guard.
func under(ctx context.Context, x *access) context.Context {
	if !x.on && x.rev <= table.FirstRevision {
		return ctx
	}
	p := *callerOf(ctx)
	if x.on {
		p.Name, p.Guard = x.user, table.Guard(x.rev)
	} else {
		p.Guard = table.GuardOff()
	}
	return &principalCtx{Context: ctx, p: &p}
}
