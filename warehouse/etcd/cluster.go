package etcd

import (
	"context"
	"errors"
	"net"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"nekoq/services/auth"
	"nekoq/services/command"
	peerapi "nekoq/services/peer/api"
	"nekoq/services/replica"
	"nekoq/warehouse/etcd/internal/table"
)

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
	list := s.roster(a)
	out := make([]*pb.Member, len(list))
	for i, x := range list {
		out[i] = s.memberOf(x, a)
	}
	return out, nil
}

// MemberAdd enters a member that is to join under the number that it gets here. The
// node is then started with cluster.join and joins, catches up and votes by itself, so
// this one changes nothing of the quorum.
func (s *Door) MemberAdd(ctx context.Context, r *pb.MemberAddRequest) (*pb.MemberAddResponse, error) {
	urls, err := peerURLs(r.PeerURLs)
	if err != nil {
		return nil, err
	}
	if _, err := s.admin(ctx, "member"); err != nil {
		return nil, err
	}
	if s.deps.Alone {
		return nil, status.Error(codes.FailedPrecondition,
			"etcdserver: a LocalSwitch is one node without peers and has no members to add; run mode = \"cluster\" to have members")
	}
	a, err := s.authNow(ctx)
	if err != nil {
		return nil, err
	}
	list := s.roster(a)
	switch {
	case taken(list, urls, 0):
		return nil, rpctypes.ErrGRPCPeerURLExist
	case len(list) >= table.MaxExpected:
		return nil, errTooManyMembers
	}
	e := table.Expected{Number: freeNumber(urls, s.clock.Now(), list), URLs: urls, Learner: r.IsLearner}
	if err := s.carry(ctx, "member", table.KindMemberAdd, e); err != nil {
		return nil, err
	}
	if err := s.stillFree(ctx, &e); err != nil {
		return nil, err
	}
	members, h, err := s.afterChange(ctx, true)
	if err != nil {
		return nil, err
	}
	return &pb.MemberAddResponse{Header: h, Members: members, Member: &pb.Member{ID: e.Number, PeerURLs: urls, IsLearner: r.IsLearner}}, nil
}

// stillFree takes back a member whose address a node took that joined while it was
// added: it will never come.
func (s *Door) stillFree(ctx context.Context, e *table.Expected) error {
	a, err := s.authNow(ctx)
	if err != nil {
		return err
	}
	if !taken(s.roster(a), e.URLs, e.Number) {
		return nil
	}
	if err := s.carry(ctx, "member", table.KindMemberForget, table.Expected{Number: e.Number}); err != nil {
		return err
	}
	return rpctypes.ErrGRPCPeerURLExist
}

// MemberUpdate changes the addresses of a member that has not joined yet. Those of a
// node are its own configuration.
func (s *Door) MemberUpdate(ctx context.Context, r *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	if _, err := s.admin(ctx, "member"); err != nil {
		return nil, err
	}
	x, err := s.seatOf(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	if x.node != nil {
		return nil, errJoinedAddress
	}
	urls, err := peerURLs(r.PeerURLs)
	if err != nil {
		return nil, err
	}
	a, err := s.authNow(ctx)
	if err != nil {
		return nil, err
	}
	if taken(s.roster(a), urls, r.ID) {
		return nil, rpctypes.ErrGRPCPeerURLExist
	}
	err = s.carry(ctx, "member", table.KindMemberUpdate, table.Expected{Number: r.ID, URLs: urls})
	if errors.Is(err, errMemberStarted) {
		return nil, errJoinedAddress
	}
	if err != nil {
		return nil, err
	}
	members, h, err := s.afterChange(ctx, true)
	return &pb.MemberUpdateResponse{Header: h, Members: members}, err
}

var errJoinedAddress = status.Error(codes.Unimplemented,
	"etcdserver: a member's addresses are its own configuration: set cluster.listen or cluster.advertise on that node and restart it")

// MemberRemove takes a node out of the cluster, or one off the list that has not joined.
// It may be the node that is asked, whose own state then still has it as a member.
func (s *Door) MemberRemove(ctx context.Context, r *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	x, err := s.admin(ctx, "member")
	if err != nil {
		return nil, err
	}
	m, err := s.seatOf(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	if m.node == nil {
		if err := s.carry(ctx, "member", table.KindMemberForget, table.Expected{Number: r.ID}); err != nil {
			return nil, err
		}
		members, h, err := s.afterChange(ctx, true)
		return &pb.MemberRemoveResponse{Header: h, Members: members}, err
	}
	// Not noted, its row would be one that was never started once the node is gone.
	if m.added != nil && !m.added.Started() {
		if err := s.carry(ctx, "member", table.KindMemberStart, startOf(m)); err != nil {
			return nil, err
		}
	}
	if _, err := s.deps.Cluster.Remove(as(ctx, x.user), peerapi.RemoveRequest{ID: m.node.ID}); err != nil {
		return nil, grpcError(ctx, err, noMember, notEnough)
	}
	members, h, err := s.afterChange(ctx, false)
	members = slices.DeleteFunc(members, func(m *pb.Member) bool { return m.ID == r.ID })
	return &pb.MemberRemoveResponse{Header: h, Members: members}, err
}

// MemberPromote makes a joining node that has caught up a voter.
func (s *Door) MemberPromote(ctx context.Context, r *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	x, err := s.admin(ctx, "member")
	if err != nil {
		return nil, err
	}
	m, err := s.seatOf(ctx, r.ID)
	switch {
	case err != nil:
		return nil, err
	case m.node == nil && m.added.Learner:
		return nil, rpctypes.ErrGRPCLearnerNotReady
	case m.node == nil || m.node.Role == roleVoter:
		return nil, rpctypes.ErrGRPCMemberNotLearner
	}
	if _, err := s.deps.Cluster.Promote(as(ctx, x.user), peerapi.PromoteRequest{ID: m.node.ID, CaughtUp: true}); err != nil {
		return nil, grpcError(ctx, err, noMember, notLearner, notReady)
	}
	members, h, err := s.afterChange(ctx, false)
	return &pb.MemberPromoteResponse{Header: h, Members: members}, err
}

func (s *Door) afterChange(ctx context.Context, fresh bool) ([]*pb.Member, *pb.ResponseHeader, error) {
	members, err := s.members(ctx, fresh)
	if err != nil {
		return nil, nil, err
	}
	h, err := s.headNow(ctx)
	return members, h, err
}

// announceEvery is how often a node looks whether the cluster has its address right,
// and the rows of members are what they should be.
const announceEvery = 2 * time.Second

// announce enters this node's address into the replicated table, and again when
// somebody took it out, and keeps the rows of members. While all is right this costs
// two looks at the node's own state.
func (s *Door) announce() {
	t := s.clock.NewTicker(announceEvery)
	defer t.Stop()
	me := table.Member{ID: s.deps.Replica.NodeID(), URLs: []string{s.clientURL()}}
	for {
		if !slices.Equal(s.auth().ClientURLs(me.ID), me.URLs) {
			s.tell(table.KindMember, me)
		}
		s.tidy()
		select {
		case <-s.ctx.Done():
			return
		case <-t.C():
		}
	}
}

// tidy notes in the rows of added members which nodes they have become, and takes out
// what is left of nodes that are members no more, however they were removed. Every
// node does it: the commands say what they were judged by, and may be repeated.
//
// A node that is removed by another door before this has seen it join leaves its row
// as one that was never started; MemberRemove takes it out.
func (s *Door) tidy() {
	v, _, err := s.deps.Replica.View(s.ctx, replica.Stale)
	if err != nil {
		return // this node is stopping
	}
	a := authOf(v)
	v.Release()
	nodes := s.deps.Cluster.Members()
	for _, x := range seats(nodes, a.Expected()) {
		if x.node != nil && x.added != nil && !x.added.Started() {
			s.tell(table.KindMemberStart, startOf(x))
		}
	}
	if len(nodes) == 0 {
		return // the members are not known yet
	}
	for _, e := range a.Expected() {
		if e.Started() && !slices.ContainsFunc(nodes, func(n peerapi.Member) bool { return n.ID == e.Node && n.Joined == e.Joined }) {
			s.tell(table.KindMemberForget, table.Expected{Number: e.Number, Node: e.Node, Joined: e.Joined})
		}
	}
	for _, id := range a.Told() {
		if id != s.deps.Replica.NodeID() && !slices.ContainsFunc(nodes, func(n peerapi.Member) bool { return n.ID == id }) {
			s.tell(table.KindMember, table.Member{ID: id})
		}
	}
}

// startOf is the command that notes as which node a member has joined.
func startOf(x seat) table.Expected {
	return table.Expected{Number: x.number, Node: x.node.ID, Joined: x.node.Joined}
}

// tell carries out a command of announce; the next look makes up for one that failed.
func (s *Door) tell(kind command.Kind, payload any) {
	ctx, cancel := context.WithTimeout(s.ctx, announceEvery)
	defer cancel()
	if _, err := s.propose(ctx, kind, payload); err != nil && s.ctx.Err() == nil {
		s.log.Debug("etcd door: a member's row could not be written yet", "kind", kind, "error", err)
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
