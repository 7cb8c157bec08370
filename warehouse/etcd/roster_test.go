package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"nekoq/services/clock"
	"nekoq/services/command"
	peerapi "nekoq/services/peer/api"
	"nekoq/services/replica/local"
	"nekoq/services/state"
	"nekoq/warehouse/etcd/internal/table"
)

// show tells of each seat its node, if any, and its number, or "#" for that of the
// node's id.
func show(list []seat) string {
	var out []string
	for _, x := range list {
		name, number := "-", fmt.Sprint(x.number)
		if x.node != nil {
			if name = x.node.ID; x.number == idOf(name) {
				number = "#"
			}
		}
		out = append(out, name+"="+number)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestSeats(t *testing.T) {
	n := func(id, address string, joined uint64) peerapi.Member {
		return peerapi.Member{ID: id, Address: address, Role: "voter", Joined: joined}
	}
	row := func(number, revision uint64, urls ...string) table.Expected {
		return table.Expected{Number: number, Revision: revision, URLs: urls}
	}
	as := func(e table.Expected, node string, joined uint64) table.Expected {
		e.Node, e.Joined = node, joined
		return e
	}
	for name, c := range map[string]struct {
		nodes []peerapi.Member
		rows  []table.Expected
		want  string
	}{
		"none added":                     {[]peerapi.Member{n("n1", "a:1", 1), n("n2", "b:1", 1)}, nil, "n1=# n2=#"},
		"not started":                    {[]peerapi.Member{n("n1", "a:1", 1)}, []table.Expected{row(7, 3, "http://c:1")}, "-=7 n1=#"},
		"joined at one of the addresses": {[]peerapi.Member{n("n1", "a:1", 1), n("n4", "C:1", 4)}, []table.Expected{row(7, 3, "http://b:1", "https://c:1")}, "n1=# n4=7"},
		"was there before":               {[]peerapi.Member{n("n1", "a:1", 4)}, []table.Expected{row(7, 5, "http://a:1")}, "-=7 n1=#"},
		"noted, at another address":      {[]peerapi.Member{n("n4", "x:1", 4)}, []table.Expected{as(row(7, 3, "http://c:1"), "n4", 4)}, "n4=7"},
		"noted, and gone":                {[]peerapi.Member{n("n1", "a:1", 1)}, []table.Expected{as(row(7, 3, "http://c:1"), "n4", 4)}, "n1=#"},
		"noted, gone, and joined anew":   {[]peerapi.Member{n("n4", "c:1", 9)}, []table.Expected{as(row(7, 3, "http://c:1"), "n4", 4)}, "n4=#"},
		"added anew":                     {[]peerapi.Member{n("n4", "c:1", 9)}, []table.Expected{as(row(7, 3, "http://c:1"), "n4", 4), row(8, 6, "http://c:1")}, "n4=8"},
		"a noted node is no other's": {
			[]peerapi.Member{n("n4", "d:1", 9)},
			[]table.Expected{row(6, 3, "http://d:1"), as(row(7, 3, "http://c:1"), "n4", 9)},
			"-=6 n4=7",
		},
		"two at its addresses": {
			[]peerapi.Member{n("n4", "d:1", 9), n("n5", "c:1", 8)}, []table.Expected{row(7, 3, "http://c:1", "http://d:1")}, "n4=# n5=7",
		},
		"no address": {[]peerapi.Member{n("n4", "", 9)}, []table.Expected{row(7, 3, "http://c:1")}, "-=7 n4=#"},
	} {
		got := seats(c.nodes, c.rows)
		if s := show(got); s != c.want {
			t.Errorf("%s: %s, want %s", name, s, c.want)
		}
		if !slices.IsSortedFunc(got, func(a, b seat) int {
			if a.number < b.number {
				return -1
			}
			return 1
		}) {
			t.Errorf("%s: not by number", name)
		}
	}
}

func TestPeerURLsHaveOneForm(t *testing.T) {
	for in, want := range map[string]string{
		"http://A.b:1":                       "http://a.b:1",
		" http://b:1 |http://a:1":            "http://a:1,http://b:1",
		"http://b:1|https://B:1":             "http://b:1",
		"https://[0::1]:9|http://127.0.0.1:": "http://127.0.0.1:,https://[::1]:9",
	} {
		got, err := peerURLs(strings.Split(in, "|"))
		if err != nil || strings.Join(got, ",") != want {
			t.Errorf("%s: %v %v, want %s", in, got, err, want)
		}
	}
}

func TestNumberOfAnAddedMember(t *testing.T) {
	now := time.Unix(1, 0)
	urls := []string{"http://a:1"}
	first := freeNumber(urls, now, nil)
	if n := freeNumber(urls, now, []seat{{number: first}}); n == first || n == 0 {
		t.Errorf("%x is taken", n)
	}
	if n := freeNumber(urls, now.Add(time.Second), nil); n == first {
		t.Error("the time does not count")
	}
}

// nodes is a membership that a test changes.
type nodes struct {
	Cluster
	list []peerapi.Member
}

func (n *nodes) Members() []peerapi.Member { return n.list }

// doorOn makes a door of node n4, not started, with tables of its own.
func doorOn(t *testing.T, c Cluster) *Door {
	t.Helper()
	reg := state.NewRegistry()
	Register(reg)
	m, err := state.Open(state.Options{Path: filepath.Join(t.TempDir(), "state.db"), Registry: reg, Mode: state.Volatile})
	if err != nil {
		t.Fatal(err)
	}
	r, err := local.New(local.Options{NodeID: "n4", Machine: m, Clock: clock.System(), Logger: slog.New(slog.DiscardHandler), Config: local.DefaultConfig()})
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	t.Cleanup(func() {
		if err := errors.Join(r.Shutdown(context.Background()), m.Close()); err != nil {
			t.Error(err)
		}
	})
	d, err := New(Deps{Replica: r, Machine: m, Cluster: c}, DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Stop(context.Background()) })
	return d
}

// A node's number in its own answers, and the row behind it, from before the node knows
// of itself until it is gone.
func TestNumberAndRowOfANode(t *testing.T) {
	c := &nodes{}
	d := doorOn(t, c)
	does := func(kind command.Kind, p any) {
		t.Helper()
		if out, err := d.propose(t.Context(), kind, p); err != nil || out != table.OK {
			t.Fatal(out, err)
		}
	}
	has := func(what string, number uint64, rows ...string) {
		t.Helper()
		if n := d.number(); n != number || d.numberOf("n4") != number {
			t.Errorf("%s: number %d, want %d", what, n, number)
		}
		got := []string{}
		for _, e := range d.auth().Expected() {
			got = append(got, fmt.Sprintf("%d %s %d", e.Number, e.Node, e.Joined))
		}
		if !slices.Equal(got, rows) {
			t.Errorf("%s: rows %q, want %q", what, got, rows)
		}
	}
	d.tidy()
	has("alone", idOf("n4"))
	does(table.KindMemberAdd, table.Expected{Number: 7, URLs: []string{"http://c:1"}})
	does(table.KindMember, table.Member{ID: "n3", URLs: []string{"http://door:1"}})
	d.tidy()
	has("added, its own membership not known yet", idOf("n4"), "7  0")
	if n := len(d.auth().Told()); n != 1 {
		t.Errorf("%d doors: nobody is known to be gone while no member is known", n)
	}
	c.list = []peerapi.Member{{ID: "n4", Address: "C:1", Role: roleJoining, Joined: 5}}
	has("joined", 7, "7  0")
	if !d.learner() {
		t.Error("it has no vote yet")
	}
	d.tidy()
	has("noted", 7, "7 n4 5")
	if n := len(d.auth().Told()); n != 0 {
		t.Errorf("%d doors of nodes that are gone", n)
	}
	c.list[0].Address = "d:1"
	does(table.KindMemberAdd, table.Expected{Number: 8, URLs: []string{"http://d:1"}})
	d.tidy()
	has("at another address", 7, "7 n4 5", "8  0")
	c.list = []peerapi.Member{{ID: "n1", Role: roleVoter, Joined: 1}}
	has("removed, its row not yet", 7, "7 n4 5", "8  0")
	d.tidy()
	has("removed", 7, "8  0")
	if n := d.numberOf("n1"); n != idOf("n1") {
		t.Errorf("n1 has number %d", n)
	}
	c.list = append(c.list, peerapi.Member{ID: "n4", Address: "d:1", Role: roleVoter, Joined: 9})
	has("joined anew", 8, "8  0")
}
