package etcd

import (
	"context"
	"net"

	"github.com/zeebo/xxh3"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"nekoq/services/auth"
)

// idOf makes etcd's number of a node or cluster out of its name: stable, and never 0.
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
	return &pb.ResponseHeader{ClusterId: s.clusterID(), MemberId: s.member, Revision: int64(revision), RaftTerm: term}
}

// headNow is a header at this node's newest revision.
func (s *Door) headNow(ctx context.Context) (*pb.ResponseHeader, error) {
	h, err := s.store.Head(ctx, true)
	if err != nil {
		return nil, grpcError(ctx, err)
	}
	return s.header(h.Revision), nil
}

// plain leaves connections as they are, and keeps with each one who is at its end,
// so that a request need not find that out.
type plain struct{}

// caller is that: it is made once a connection.
type caller struct {
	credentials.CommonAuthInfo
	principal auth.Principal
}

func (*caller) AuthType() string { return "insecure" }

func newCaller(c net.Conn) *caller {
	return &caller{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity},
		principal:      auth.Principal{Name: "anonymous", Door: "etcd", Addr: c.RemoteAddr().String()},
	}
}

func (plain) ClientHandshake(_ context.Context, _ string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c, newCaller(c), nil
}

func (plain) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c, newCaller(c), nil
}

func (plain) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "insecure"}
}
func (p plain) Clone() credentials.TransportCredentials { return p }
func (plain) OverrideServerName(string) error           { return nil }

func callerOf(ctx context.Context) *auth.Principal {
	if p, ok := peer.FromContext(ctx); ok {
		if c, ok := p.AuthInfo.(*caller); ok {
			return &c.principal
		}
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

// as gives a context in which warehouse sees the user, or else the connection.
func as(ctx context.Context, user string) context.Context {
	p := callerOf(ctx)
	if user != "" {
		named := *p
		named.Name = user
		p = &named
	}
	return &principalCtx{Context: ctx, p: p}
}
