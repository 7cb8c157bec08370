package peer

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"nekoq/services/peer/api"
	"nekoq/services/testkit/fakeclock"
)

func TestRoomiest(t *testing.T) {
	with := func(id string, applied uint64, d *api.Disk) voter {
		return voter{id, true, &api.Report{ID: id, AppliedIndex: applied, Disk: d}}
	}
	room := func(free int64) *api.Disk { return &api.Disk{FreeBytes: free, ReserveBytes: 100} }
	for name, c := range map[string]struct {
		voters []voter
		want   string
		why    string
	}{
		"the one with the most": {[]voter{with("n2", 50, room(500)), with("n3", 50, room(600))}, "n3", ""},
		"caught up":             {[]voter{with("n2", 45, room(500)), with("n3", 44, room(600))}, "n2", "n3 lags by 6 entries"},
		"nothing kept back":     {[]voter{with("n2", 50, &api.Disk{FreeBytes: 1})}, "n2", ""},
		"nobody": {
			[]voter{
				{"n2", false, &api.Report{Disk: room(900), AppliedIndex: 50}},
				{"n3", true, nil},
				with("n4", 50, nil),
				with("n5", 50, &api.Disk{FreeBytes: 900, ReserveBytes: 100, Full: true}), with("n6", 50, room(124)),
			},
			"",
			"n2 does not answer, n3 does not answer, n4 does not tell its free space, n5 has no disk space either, n6 has hardly more than its reserve (124 of 100 bytes)",
		},
		"alone": {nil, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			id, why := roomiest(c.voters, 50, 5)
			require.Equal(t, c.want, id)
			require.Equal(t, c.why, strings.Join(why, ", "))
		})
	}
}

// A leader without disk space hands leadership over by itself; one that finds nobody
// with room goes on leading and says why, until there is.
func TestALeaderWithoutRoomHandsOver(t *testing.T) {
	g := newGroup(t)
	reg := prometheus.NewRegistry()
	g.metrics = func(id string) prometheus.Registerer {
		if id == "n1" {
			return reg
		}
		return nil
	}
	nodes, _ := g.three()
	byID := map[string]*fakeNode{}
	for _, n := range nodes {
		byID[n.id] = n
	}
	require.True(t, g.elect("n1"))
	leads := func(ids string) {
		t.Helper()
		eventually(t, func() string {
			if id, _ := nodes[0].Leader(); id == "" || !strings.Contains(ids, id) {
				return fmt.Sprintf("%q leads, want one of %s", id, ids)
			}
			return ""
		})
	}
	byID["n1"].fill(true)
	byID["n3"].fill(true)
	leads("n2")
	st := find(t, byID["n3"].status(t), "n1")
	require.True(t, st.Disk.Full)
	require.Contains(t, st.Reason, "the disk of n1 is full")
	require.True(t, st.Alive)

	byID["n2"].fill(true)
	eventually(t, func() string {
		st := find(t, byID["n1"].status(t), "n2")
		if !strings.Contains(st.Reason, "no other voter can take over: n1 has no disk space either, n3 has no disk space either") {
			return fmt.Sprintf("%+v %+v", st, st.Disk)
		}
		return ""
	})
	leads("n2")
	byID["n1"].fill(false)
	leads("n1")
	eventually(t, func() string { // a node that does not lead needs nobody
		if st := find(t, byID["n3"].status(t), "n2"); strings.Contains(st.Reason, "no other voter") {
			return st.Reason
		}
		return ""
	})
	require.Equal(t, &api.Disk{FreeBytes: 1000, ReserveBytes: 100}, find(t, byID["n3"].status(t), "n1").Disk)
	got, err := reg.Gather()
	require.NoError(t, err)
	require.True(t, func() bool {
		for _, f := range got {
			if f.GetName() == "nekoq_peer_disk_handovers_total" {
				return f.GetMetric()[0].GetCounter().GetValue() >= 1
			}
		}
		return false
	}())
}

// lonely is a leader that nobody with room can take over from.
type lonely struct {
	Raft
	Store
	servers []Server
}

func (l lonely) Servers() []Server             { return l.servers }
func (l lonely) Applied() (index, term uint64) { return 50, 1 }

// A leader that finds nobody with room looks every few seconds, and says so once a
// minute, however the numbers of the others change.
func TestNobodyWithRoomIsLoggedSeldom(t *testing.T) {
	var log bytes.Buffer
	l := lonely{servers: []Server{{ID: "n1", Voter: true}, {ID: "n2", Voter: true}}}
	clk := fakeclock.New(time.Unix(1e9, 0))
	s := &Service{nodeID: "n1", clock: clk, cfg: testConfig(), log: slog.New(slog.NewTextHandler(&log, nil)), at: Attached{Raft: l, Store: l}}
	s.metrics = newMetrics(nil, s)
	for i := range int64(20) {
		s.links.get("n2").heard.Store(clk.Now().UnixNano())
		s.health.with("n2", func(n *seen) {
			n.report = &api.Report{ID: "n2", AppliedIndex: 50, Disk: &api.Disk{FreeBytes: 100 + i, ReserveBytes: 100}}
		})
		require.False(t, s.giveRoom(t.Context(), &api.Disk{FreeBytes: 1, ReserveBytes: 100, Full: true}))
		require.Contains(t, *s.noRoom.Load(), fmt.Sprintf("(%d of 100 bytes)", 100+i))
		clk.Advance(5 * time.Second)
	}
	require.Equal(t, 2, strings.Count(log.String(), "level=ERROR"), log.String())
}
