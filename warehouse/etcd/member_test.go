package etcd_test

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"nekoq/services/app"
)

func TestMembersOfALocalSwitch(t *testing.T) {
	n := node(t)
	c := client(t, n)
	ctx := within(t, time.Minute)
	if _, err := c.MemberAdd(ctx, []string{"http://127.0.0.1:1"}); err == nil || !strings.Contains(err.Error(), `mode = "cluster"`) {
		t.Errorf("%v", err)
	}
	_, err := pb.NewClusterClient(wire(t, n.EtcdAddr().String())).MemberAdd(ctx, &pb.MemberAddRequest{})
	wants(t, "no address", err, rpctypes.ErrMemberBadURLs)
	wants(t, "remove nobody", second(c.MemberRemove(ctx, 1)), rpctypes.ErrMemberNotFound)
	wants(t, "promote nobody", second(c.MemberPromote(ctx, 1)), rpctypes.ErrMemberNotFound)
	wants(t, "update nobody", second(c.MemberUpdate(ctx, 1, []string{"http://127.0.0.1:1"})), rpctypes.ErrMemberNotFound)
	m, err := c.MemberList(ctx)
	if err != nil || len(m.Members) != 1 {
		t.Fatal(m, err)
	}
	wants(t, "promote a voter", second(c.MemberPromote(ctx, m.Members[0].ID)), rpctypes.ErrMemberNotLearner)
	if _, err := c.MemberUpdate(ctx, m.Members[0].ID, []string{"http://127.0.0.1:1"}); err == nil || !strings.Contains(err.Error(), "cluster.advertise") {
		t.Errorf("%v", err)
	}
}

// listed gives the member with a number as a node's door has it, nil for none.
func listed(ctx context.Context, t *testing.T, c *clientv3.Client, id uint64) *pb.Member {
	t.Helper()
	r, err := c.MemberList(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.IsSortedFunc(r.Members, func(a, b *pb.Member) int { return cmp.Compare(a.ID, b.ID) }) {
		t.Errorf("not by number: %v", r.Members)
	}
	i := slices.IndexFunc(r.Members, func(m *pb.Member) bool { return m.ID == id })
	if i < 0 {
		return nil
	}
	return r.Members[i]
}

func TestAddedMemberJoins(t *testing.T) {
	nodes := three(t)
	ctx := within(t, 2*time.Minute)
	cs := []*clientv3.Client{client(t, nodes[0]), client(t, nodes[1]), client(t, nodes[2])}
	addrs := freeAddrs(t, 2)
	before, err := cs[0].MemberList(ctx)
	if err != nil {
		t.Fatal(err)
	}

	added, err := cs[0].MemberAddAsLearner(ctx, []string{" http://" + addrs[1], "http://" + addrs[0]})
	if err != nil {
		t.Fatal(err)
	}
	id := added.Member.ID
	urls := []string{"http://" + addrs[0], "http://" + addrs[1]}
	slices.Sort(urls)
	if m := added.Member; m.Name != "" || len(m.ClientURLs) != 0 || !m.IsLearner || !slices.Equal(m.PeerURLs, urls) || id == 0 {
		t.Errorf("%v", m)
	}
	if len(added.Members) != 4 || added.Header.MemberId == 0 {
		t.Errorf("%v", added)
	}
	for i, c := range cs {
		if m := listed(ctx, t, c, id); m == nil || m.Name != "" || len(m.ClientURLs) != 0 || !m.IsLearner || !slices.Equal(m.PeerURLs, urls) {
			t.Errorf("node %d: %v", i, m)
		}
		wants(t, "add again", second(c.MemberAdd(ctx, urls[:1])), rpctypes.ErrPeerURLExist)
		wants(t, "add the address of a member", second(c.MemberAdd(ctx, before.Members[0].PeerURLs)), rpctypes.ErrPeerURLExist)
		wants(t, "promote", second(c.MemberPromote(ctx, id)), rpctypes.ErrMemberLearnerNotReady)
		wants(t, "update to the address of a member", second(c.MemberUpdate(ctx, id, before.Members[0].PeerURLs)), rpctypes.ErrPeerURLExist)
	}
	up, err := cs[1].MemberUpdate(ctx, id, []string{"http://LOCALHOST:1", "http://" + addrs[0], "http://localhost:1"})
	if err != nil || len(up.Members) != 4 {
		t.Fatal(up, err)
	}
	if m := listed(ctx, t, cs[2], id); len(m.PeerURLs) != 2 || !slices.Contains(m.PeerURLs, "http://localhost:1") {
		t.Errorf("%v", m)
	}

	n4 := joins(t, "n4", addrs[0], before.Members[0].PeerURLs[0])
	c4 := client(t, n4)
	started(ctx, t, append(cs, c4), id, "n4", addrs[0], n4.EtcdAddr().String())
	for _, n := range append(slices.Clone(nodes), n4) {
		agrees(ctx, t, client(t, n), n.EtcdAddr().String())
	}
	if h, err := c4.Put(ctx, "k", "v"); err != nil || h.Header.MemberId != id {
		t.Errorf("the joined node's own answers: %v %v, want member %x", h, err, id)
	}
	wants(t, "promote a voter", second(cs[0].MemberPromote(ctx, id)), rpctypes.ErrMemberNotLearner)
	if _, err := cs[0].MemberUpdate(ctx, id, urls); err == nil || !strings.Contains(err.Error(), "cluster.advertise") {
		t.Errorf("a node's addresses are its own: %v", err)
	}
	spare := noted(ctx, t, cs[0], "http://localhost:1")
	wants(t, "promote what was added to vote", second(cs[1].MemberPromote(ctx, spare)), rpctypes.ErrMemberNotLearner)
	if r, err := cs[2].MemberRemove(ctx, spare); err != nil || len(r.Members) != 4 {
		t.Errorf("%v %v", r, err)
	}

	r, err := cs[1].MemberRemove(ctx, id)
	if err != nil || len(r.Members) != 3 {
		t.Fatal(r, err)
	}
	for i, c := range cs {
		eventually(t, fmt.Sprintf("node %d knows of the removal", i), func() bool { return listed(ctx, t, c, id) == nil })
		if r, err := c.MemberList(ctx); err != nil || len(r.Members) != 3 {
			t.Errorf("node %d: %v %v", i, r, err)
		}
		wants(t, "remove again", second(c.MemberRemove(ctx, id)), rpctypes.ErrMemberNotFound)
	}
}

// noted waits until it is noted as which node a member has joined: from then on the
// address that it was also added at, and did not join at, is free. It gives the number of
// the member that it adds there.
func noted(ctx context.Context, t *testing.T, c *clientv3.Client, spare string) (id uint64) {
	t.Helper()
	eventually(t, "the row of the member has its node", func() bool {
		r, err := c.MemberAdd(ctx, []string{spare})
		if err != nil {
			wants(t, "add the other address", err, rpctypes.ErrPeerURLExist)
			return false
		}
		id = r.Member.ID
		return true
	})
	return id
}

// joins starts a node that joins through a member's address.
func joins(t *testing.T, id, addr, through string) *app.App {
	t.Helper()
	cfg := member(id, addr, filepath.Join(t.TempDir(), id))
	cfg.Cluster.Peer.Join = []string{strings.TrimPrefix(through, "http://")}
	return start(t, cfg)
}

// started waits until every door has a member as a voter with a name, an address and a door.
func started(ctx context.Context, t *testing.T, cs []*clientv3.Client, id uint64, name, addr, door string) {
	t.Helper()
	for i, c := range cs {
		eventually(t, fmt.Sprintf("door %d has %s as a voter", i, name), func() bool {
			m := listed(ctx, t, c, id)
			return m != nil && m.Name == name && !m.IsLearner && slices.Equal(m.PeerURLs, []string{"http://" + addr}) &&
				slices.Equal(m.ClientURLs, []string{"http://" + door})
		})
		if r, err := c.MemberList(ctx); err != nil || len(r.Members) != 4 {
			t.Errorf("door %d: %v %v", i, r, err)
		}
	}
}

// agrees wants the numbers in a node's status to be those of the member list.
func agrees(ctx context.Context, t *testing.T, c *clientv3.Client, door string) {
	t.Helper()
	r, err := c.MemberList(ctx)
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.Status(ctx, door)
	if err != nil {
		t.Fatal(err)
	}
	named := func(id uint64) bool {
		return slices.ContainsFunc(r.Members, func(m *pb.Member) bool { return m.ID == id && m.Name != "" })
	}
	if !named(s.Leader) || !named(s.Header.MemberId) || r.Header.MemberId != s.Header.MemberId {
		t.Errorf("leader %x and member %x (%x) of %v", s.Leader, s.Header.MemberId, r.Header.MemberId, r.Members)
	}
}

// A member that was added keeps its number when leadership goes to it, and when it comes
// back at another address; it is gone when it was removed by other means than this door.
func TestAddedMemberKeepsItsNumber(t *testing.T) {
	nodes := three(t)
	ctx := within(t, 2*time.Minute)
	cs := []*clientv3.Client{client(t, nodes[0]), client(t, nodes[1]), client(t, nodes[2])}
	list, err := cs[0].MemberList(ctx)
	if err != nil {
		t.Fatal(err)
	}
	addrs := freeAddrs(t, 2)
	const spare = "http://localhost:1"
	added, err := cs[0].MemberAdd(ctx, []string{"http://" + addrs[0], spare})
	if err != nil {
		t.Fatal(err)
	}
	id := added.Member.ID

	cfg := member("n4", addrs[0], filepath.Join(t.TempDir(), "n4"))
	cfg.Cluster.Peer.Join = []string{strings.TrimPrefix(list.Members[0].PeerURLs[0], "http://")}
	n4, stop := startStoppable(t, cfg, app.Deps{})
	started(ctx, t, cs, id, "n4", addrs[0], n4.EtcdAddr().String())
	eventually(t, "the node leads, by its number", func() bool {
		for _, n := range nodes {
			if s, err := client(t, n).Status(ctx, n.EtcdAddr().String()); err == nil && s.Leader == id {
				return true
			} else if err == nil && s.Leader == s.Header.MemberId {
				_, _ = client(t, n).MoveLeader(ctx, id)
			}
		}
		return false
	})
	agrees(ctx, t, client(t, n4), n4.EtcdAddr().String())
	if _, err := cs[0].MemberRemove(ctx, noted(ctx, t, cs[0], spare)); err != nil {
		t.Fatal(err)
	}
	stop()
	cfg.Cluster.Peer.Listen = addrs[1]
	n4, _ = startStoppable(t, cfg, app.Deps{})
	started(ctx, t, cs, id, "n4", addrs[1], n4.EtcdAddr().String())

	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, "http://"+nodes[0].HTTPAddr().String()+"/v1/system/cluster/members/n4", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	res, err := web(t).Do(req)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("DELETE of the node: %v %v", res, err)
	}
	_ = res.Body.Close()
	for i, c := range cs {
		eventually(t, fmt.Sprintf("door %d knows of the removal", i), func() bool {
			r, err := c.MemberList(ctx)
			return err == nil && len(r.Members) == 3
		})
	}
	// The same address may be added again, and is another member.
	again, err := cs[0].MemberAdd(ctx, []string{"http://" + addrs[1]})
	if err != nil || again.Member.ID == id || len(again.Members) != 4 {
		t.Errorf("%v %v", again, err)
	}
}

// A cluster has at most 64 members, those included that have not joined; and with auth
// on only root changes them.
func TestAddedMembersAreBounded(t *testing.T) {
	addr := freeAddrs(t, 1)[0]
	cfg := member("n1", addr, filepath.Join(t.TempDir(), "n1"))
	cfg.Cluster.Peer.Peers = []string{"n1=" + addr}
	n := start(t, cfg)
	eventually(t, "the node is ready", func() bool { return n.Ready(context.Background()) == nil })
	c := client(t, n)
	ctx := within(t, time.Minute)
	numbers := map[uint64]bool{}
	for i := range 63 {
		r, err := c.MemberAdd(ctx, []string{fmt.Sprintf("http://127.0.0.1:%d", i+1)})
		if err != nil || len(r.Members) != i+2 {
			t.Fatal(i, r, err)
		}
		numbers[r.Member.ID] = true
	}
	_, err := c.MemberAdd(ctx, []string{"http://127.0.0.1:64"})
	if err == nil || !strings.Contains(err.Error(), "at most 64") || len(numbers) != 63 {
		t.Errorf("%v; %d numbers", err, len(numbers))
	}
	var many []string
	for i := range 9 {
		many = append(many, fmt.Sprintf("http://127.0.0.1:%d", i+100))
	}
	for text, urls := range map[string][]string{"9 addresses, and at most 8": many, "at most 280": {"http://" + strings.Repeat("h", 300) + ":1"}} {
		if _, err := c.MemberAdd(ctx, urls); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v, want %q", err, text)
		}
	}

	asRoot := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	asRoot(second(c.UserAdd(ctx, "root", "pw")))
	asRoot(second(c.UserAdd(ctx, "eve", "pw")))
	asRoot(second(c.RoleAdd(ctx, "root")))
	asRoot(second(c.UserGrantRole(ctx, "root", "root")))
	asRoot(second(c.AuthEnable(ctx)))
	root, eve := clientAs(t, "root", "pw", n), clientAs(t, "eve", "pw", n)
	for id := range numbers {
		wants(t, "nobody removes", second(c.MemberRemove(ctx, id)), rpctypes.ErrUserEmpty)
		wants(t, "eve removes", second(eve.MemberRemove(ctx, id)), rpctypes.ErrPermissionDenied)
		wants(t, "eve updates", second(eve.MemberUpdate(ctx, id, many[:1])), rpctypes.ErrPermissionDenied)
		wants(t, "eve promotes", second(eve.MemberPromote(ctx, id)), rpctypes.ErrPermissionDenied)
		wants(t, "eve adds", second(eve.MemberAdd(ctx, many[:1])), rpctypes.ErrPermissionDenied)
		asRoot(second(root.MemberRemove(ctx, id)))
		break
	}
	asRoot(second(root.MemberAdd(ctx, many[:1])))
}
