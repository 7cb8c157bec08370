package etcd

import (
	"context"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"nekoq/services/auth"
	"nekoq/services/command"
	peerapi "nekoq/services/peer/api"
	"nekoq/warehouse/etcd/internal/table"
)

const peerScheme = "http://"

// MemberList implements etcd's Cluster. A member that has never told where its door
// is has no client addresses, as one that was never started in etcd.
func (s *Door) MemberList(ctx context.Context, r *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	x, err := s.access(ctx, r.Linearizable)
	if err == nil {
		err = x.known()
	}
	if err != nil {
		return nil, err
	}
	if err := s.allow(ctx, x.user, auth.Read, "etcd", []byte("members"), nil); err != nil {
		return nil, err
	}
	members, err := s.members(ctx, r.Linearizable)
	if err != nil {
		return nil, err
	}
	h, err := s.headNow(ctx)
	if err != nil {
		return nil, err
	}
	return &pb.MemberListResponse{Header: h, Members: members}, nil
}

func (s *Door) members(ctx context.Context, fresh bool) ([]*pb.Member, error) {
	a := s.auth()
	if fresh {
		var err error
		if a, err = s.authNow(ctx); err != nil {
			return nil, err
		}
	}
	c, err := s.deps.Cluster.Status(ctx)
	if err != nil {
		return nil, grpcError(ctx, err)
	}
	out := make([]*pb.Member, 0, len(c.Nodes))
	for _, n := range c.Nodes {
		out = append(out, s.memberOf(&n, a))
	}
	slices.SortFunc(out, func(a, b *pb.Member) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return out, nil
}

func (s *Door) memberOf(n *peerapi.Node, a *table.Auth) *pb.Member {
	m := &pb.Member{ID: idOf(n.ID), Name: n.ID, ClientURLs: a.ClientURLs(n.ID), IsLearner: n.Role == "joining"}
	if n.Address != "" {
		m.PeerURLs = []string{peerScheme + n.Address}
	}
	if n.ID == s.deps.Replica.NodeID() && len(m.ClientURLs) == 0 {
		if u := s.clientURL(); u != "" {
			m.ClientURLs = []string{u}
		}
	}
	if len(m.PeerURLs) == 0 { // LocalSwitch has no peers; etcdctl prints an address
		m.PeerURLs = m.ClientURLs
	}
	return m
}

// nodeOf finds the member with one of etcd's numbers.
func (s *Door) nodeOf(ctx context.Context, id uint64) (*peerapi.Node, error) {
	c, err := s.deps.Cluster.Status(ctx)
	if err != nil {
		return nil, grpcError(ctx, err)
	}
	for i := range c.Nodes {
		if idOf(c.Nodes[i].ID) == id {
			return &c.Nodes[i], nil
		}
	}
	return nil, rpctypes.ErrGRPCMemberNotFound
}

// MemberAdd is refused: a node joins by itself, with cluster.join in its
// configuration, and is a member once it has caught up.
func (s *Door) MemberAdd(ctx context.Context, r *pb.MemberAddRequest) (*pb.MemberAddResponse, error) {
	if !peerURLs(r.PeerURLs) {
		return nil, rpctypes.ErrGRPCMemberBadURLs
	}
	if _, err := s.admin(ctx, "member"); err != nil {
		return nil, err
	}
	return nil, status.Error(codes.Unimplemented,
		"etcdserver: members are not added from outside: start the new node with cluster.join set to the address of a member, and it joins, catches up and becomes a voter by itself")
}

// peerURLs tells whether etcd would take these as a member's addresses.
func peerURLs(in []string) bool {
	for _, s := range in {
		u, err := url.Parse(strings.TrimSpace(s))
		if err != nil {
			return false
		}
		switch u.Scheme {
		case "http", "https":
			if _, _, err := net.SplitHostPort(u.Host); err != nil || u.Path != "" {
				return false
			}
		case "unix", "unixs":
		default:
			return false
		}
	}
	return len(in) > 0
}

// MemberUpdate is refused: a node's addresses are its own configuration.
func (s *Door) MemberUpdate(ctx context.Context, r *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	if _, err := s.admin(ctx, "member"); err != nil {
		return nil, err
	}
	if _, err := s.nodeOf(ctx, r.ID); err != nil {
		return nil, err
	}
	return nil, status.Error(codes.Unimplemented,
		"etcdserver: a member's addresses are its own configuration: set cluster.listen or cluster.advertise on that node and restart it")
}

// MemberRemove takes a node out of the cluster. It may be the one that is asked, whose
// own state then still has it as a member.
func (s *Door) MemberRemove(ctx context.Context, r *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	x, err := s.admin(ctx, "member")
	if err != nil {
		return nil, err
	}
	n, err := s.nodeOf(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	if _, err := s.deps.Cluster.Remove(as(ctx, x.user), peerapi.RemoveRequest{ID: n.ID}); err != nil {
		return nil, grpcError(ctx, err, noMember, notEnough)
	}
	members, h, err := s.afterChange(ctx)
	members = slices.DeleteFunc(members, func(m *pb.Member) bool { return m.ID == r.ID })
	return &pb.MemberRemoveResponse{Header: h, Members: members}, err
}

// MemberPromote makes a joining node a voter.
func (s *Door) MemberPromote(ctx context.Context, r *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	x, err := s.admin(ctx, "member")
	if err != nil {
		return nil, err
	}
	n, err := s.nodeOf(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	if n.Role == "voter" {
		return nil, rpctypes.ErrGRPCMemberNotLearner
	}
	if _, err := s.deps.Cluster.Promote(as(ctx, x.user), peerapi.PromoteRequest{ID: n.ID}); err != nil {
		return nil, grpcError(ctx, err, noMember, notLearner)
	}
	members, h, err := s.afterChange(ctx)
	return &pb.MemberPromoteResponse{Header: h, Members: members}, err
}

func (s *Door) afterChange(ctx context.Context) ([]*pb.Member, *pb.ResponseHeader, error) {
	members, err := s.members(ctx, false)
	if err != nil {
		return nil, nil, err
	}
	h, err := s.headNow(ctx)
	return members, h, err
}

// announceEvery is how often a node looks whether the cluster has its address right.
const announceEvery = 2 * time.Second

// announce enters this node's address into the replicated table, and again when
// somebody took it out; while it is right this costs one look at the node's own
// state.
func (s *Door) announce() {
	t := s.clock.NewTicker(announceEvery)
	defer t.Stop()
	me := table.Member{ID: s.deps.Replica.NodeID(), URLs: []string{s.clientURL()}}
	for {
		if !slices.Equal(s.auth().ClientURLs(me.ID), me.URLs) {
			ctx, cancel := context.WithTimeout(s.ctx, announceEvery)
			_, err := s.propose(ctx, table.KindMember, me)
			cancel()
			if err != nil && s.ctx.Err() == nil {
				s.log.Debug("etcd door: the address of this node could not be told yet", "error", err)
			}
		}
		select {
		case <-s.ctx.Done():
			return
		case <-t.C():
		}
	}
}

// propose carries out a command of this door's tables.
func (s *Door) propose(ctx context.Context, kind command.Kind, payload any) (table.Outcome, error) {
	p := auth.FromContext(ctx)
	actor := p.Actor()
	res, err := s.deps.Replica.Propose(ctx, p.Guard.Over(command.Command{
		Kind: kind, RequestID: command.RequestIDFrom(ctx), Actor: actor[:min(len(actor), 255)], Payload: table.Encode(payload),
	}))
	if err != nil {
		return 0, err
	}
	out, _, err := table.DecodeResult(res.Data)
	return out, err
}

// reachable gives an address of this machine that others can use, for a door that
// listens on all of them.
func reachable() string {
	addrs, err := net.InterfaceAddrs()
	if err == nil {
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && n.IP.To4() != nil {
				return n.IP.String()
			}
		}
	}
	return "127.0.0.1"
}
