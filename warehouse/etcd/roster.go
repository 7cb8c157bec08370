package etcd

import (
	"cmp"
	"context"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	peerapi "nekoq/services/peer/api"
	"nekoq/warehouse/etcd/internal/table"
)

// seat is a member by etcd's number: a node, one that was added and has not joined
// (node is nil), or a node that joined as one that was added (both are there).
type seat struct {
	number uint64
	node   *peerapi.Member
	added  *table.Expected
}

// seats gives each node its number. It is that of its row; or that of a row that was
// added at its address before it joined, as long as that is not noted in the row; or
// else made of its id. What is left of the rows are members that were not started; a
// row whose node is gone is none. Sorted by number.
func seats(nodes []peerapi.Member, rows []table.Expected) []seat {
	out := make([]seat, len(nodes))
	for i := range nodes {
		out[i] = seat{number: idOf(nodes[i].ID), node: &nodes[i]}
	}
	for i := range rows {
		if e := &rows[i]; e.Started() {
			if n := slices.IndexFunc(out, func(s seat) bool { return s.node.ID == e.Node && s.node.Joined == e.Joined }); n >= 0 {
				out[n].number, out[n].added = e.Number, e
			}
		}
	}
	for i := range rows {
		e := &rows[i]
		if e.Started() {
			continue
		}
		first := -1 // of the nodes at its addresses, the one that joined first
		for n, s := range out {
			if s.node != nil && s.added == nil && s.node.Joined > e.Revision && e.At(canonical(s.node.Address)) &&
				(first < 0 || s.node.Joined < out[first].node.Joined) {
				first = n
			}
		}
		if first < 0 {
			out = append(out, seat{number: e.Number, added: e})
		} else {
			out[first].number, out[first].added = e.Number, e
		}
	}
	slices.SortFunc(out, func(a, b seat) int { return cmp.Compare(a.number, b.number) })
	return out
}

// roster is the members as this node has them. Users and members are read one after
// the other: what the first speaks of, the second knows.
func (s *Door) roster(a *table.Auth) []seat { return seats(s.deps.Cluster.Members(), a.Expected()) }

// self is this node's number, and what it was found with.
type self struct {
	auth   *table.Auth
	number uint64
}

// number is etcd's number of this node. It stands in every answer, so it is kept until
// the rows of this door change. A node that does not know yet that it is a member asks
// again, and one that is none any more keeps what it had.
func (s *Door) number() uint64 {
	a := s.auth()
	have := s.self.Load()
	if have != nil && have.auth == a {
		return have.number
	}
	me := s.deps.Replica.NodeID()
	number, known := numberIn(s.roster(a), me)
	if known || len(a.Expected()) == 0 {
		s.self.Store(&self{a, number})
	} else if have != nil {
		return have.number
	}
	return number
}

// numberOf is etcd's number of a node.
func (s *Door) numberOf(node string) uint64 {
	if node == s.deps.Replica.NodeID() {
		return s.number()
	}
	n, _ := numberIn(s.roster(s.auth()), node)
	return n
}

func numberIn(list []seat, node string) (number uint64, known bool) {
	for _, x := range list {
		if x.node != nil && x.node.ID == node {
			return x.number, true
		}
	}
	return idOf(node), false
}

// seatOf finds the member with one of etcd's numbers: as this node has it, and, so that
// one that was just added through another node is found, as it is now.
func (s *Door) seatOf(ctx context.Context, number uint64) (seat, error) {
	is := func(x seat) bool { return x.number == number }
	list := s.roster(s.auth())
	at := slices.IndexFunc(list, is)
	if at < 0 {
		a, err := s.authNow(ctx)
		if err != nil {
			return seat{}, err
		}
		list = s.roster(a)
		at = slices.IndexFunc(list, is)
	}
	if at < 0 {
		return seat{}, rpctypes.ErrGRPCMemberNotFound
	}
	return list[at], nil
}

func (s *Door) memberOf(x seat, a *table.Auth) *pb.Member {
	if x.node == nil {
		return &pb.Member{ID: x.number, PeerURLs: x.added.URLs, IsLearner: x.added.Learner}
	}
	n := x.node
	m := &pb.Member{ID: x.number, Name: n.ID, ClientURLs: a.ClientURLs(n.ID), IsLearner: n.Role == roleJoining}
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

// The roles that this door asks for.
const (
	roleVoter   = "voter"
	roleJoining = "joining"
)

const peerScheme = "http://"

// freeNumber makes the number of a member to add, as etcd does, of its addresses and
// the time.
func freeNumber(urls []string, now time.Time, list []seat) uint64 {
	for try := now.UnixNano(); ; try++ {
		n := idOf("member/" + strings.Join(urls, ",") + "/" + strconv.FormatInt(try, 10))
		if !slices.ContainsFunc(list, func(x seat) bool { return x.number == n }) {
			return n
		}
	}
}

// taken tells whether a member, started or not, has one of the addresses. but is the
// number of one that may.
func taken(list []seat, urls []string, but uint64) bool {
	return slices.ContainsFunc(list, func(x seat) bool {
		return x.number != but && slices.ContainsFunc(urls, func(u string) bool {
			if x.node != nil {
				return canonical(x.node.Address) == table.AddressOf(u)
			}
			return x.added.At(table.AddressOf(u))
		})
	})
}

// peerURLs gives the addresses of a member as they are kept: sorted, each once. What
// etcd does not take is refused as there, and so are addresses that no node can have.
func peerURLs(in []string) ([]string, error) {
	var out []string
	for _, s := range in {
		u, err := url.Parse(strings.TrimSpace(s))
		if err != nil {
			return nil, rpctypes.ErrGRPCMemberBadURLs
		}
		switch u.Scheme {
		case "http", "https":
			if _, _, err := net.SplitHostPort(u.Host); err != nil || u.Path != "" {
				return nil, rpctypes.ErrGRPCMemberBadURLs
			}
		case "unix", "unixs":
			return nil, status.Errorf(codes.InvalidArgument,
				"etcdserver: member.peer_urls: %q is a socket of one machine; give the node's cluster.advertise as http://HOST:PORT", short(s))
		default:
			return nil, rpctypes.ErrGRPCMemberBadURLs
		}
		address := canonical(u.Host)
		full := u.Scheme + "://" + address
		if len(full) > table.MaxURL {
			return nil, status.Errorf(codes.InvalidArgument, "etcdserver: member.peer_urls: %q… has %d bytes, and at most %d are taken",
				short(full), len(full), table.MaxURL)
		}
		if !slices.ContainsFunc(out, func(o string) bool { return table.AddressOf(o) == address }) {
			out = append(out, full)
		}
	}
	switch {
	case len(out) == 0:
		return nil, rpctypes.ErrGRPCMemberBadURLs
	case len(out) > table.MaxURLs:
		return nil, status.Errorf(codes.InvalidArgument, "etcdserver: member.peer_urls: %d addresses, and at most %d are taken", len(out), table.MaxURLs)
	}
	slices.Sort(out)
	return out, nil
}

func short(s string) string { return s[:min(len(s), 100)] }

// canonical gives an address, host:port, one form, so that two of them can be compared.
func canonical(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip := net.ParseIP(host); ip != nil {
		host = ip.String()
	}
	return net.JoinHostPort(strings.ToLower(host), port)
}
