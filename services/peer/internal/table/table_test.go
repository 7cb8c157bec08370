package table

import (
	"encoding/hex"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/state"
	"nekoq/services/testkit/replay"
)

type machine struct {
	t     *testing.T
	m     *state.Machine
	index uint64
}

func newMachine(t *testing.T) *machine {
	reg := state.NewRegistry()
	Register(reg)
	m, err := state.Open(state.Options{Path: filepath.Join(t.TempDir(), "state.db"), Registry: reg, Mode: state.Volatile})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return &machine{t: t, m: m}
}

func (m *machine) do(cmd command.Command) state.Result {
	m.t.Helper()
	m.index++
	cmd.Time = int64(m.index)
	res, err := m.m.ApplyEntry(m.index, 1, command.AppendBatch(nil, []command.Command{cmd}))
	require.NoError(m.t, err)
	return res[0]
}

func (m *machine) refused(cmd command.Command, code errs.Code, text string) {
	m.t.Helper()
	before := m.read()
	res := m.do(cmd)
	require.Equal(m.t, code, errs.CodeOf(res.Err), "%v", res.Err)
	require.ErrorContains(m.t, res.Err, text)
	require.Equal(m.t, before, m.read(), "a refused command writes nothing")
}

func (m *machine) read() *Snapshot {
	m.t.Helper()
	v := m.m.View()
	defer v.Release()
	s, err := Read(v)
	require.NoError(m.t, err)
	return s
}

func member(n int) Member {
	return Member{
		ID: fmt.Sprintf("n%d", n), Incarnation: Incarnation{byte(n)}, Address: fmt.Sprintf("10.0.0.%d:9311", n),
		HTTP: fmt.Sprintf("10.0.0.%d:9310", n), Native: fmt.Sprintf("10.0.0.%d:9313", n), Version: 1, Software: "dev",
	}
}

func TestInitNamesTheClusterOnce(t *testing.T) {
	m := newMachine(t)
	unseen := Member{ID: "n3", Address: "10.0.0.3:9311"}
	require.NoError(t, m.do(Init("c1", []Member{member(1), member(2), unseen})).Err)
	s := m.read()
	require.Equal(t, "c1", s.ClusterID)
	require.Equal(t, []string{"n1", "n2", "n3"}, s.Order)
	for _, mem := range s.Members {
		require.Equal(t, Voter, mem.State)
		require.Equal(t, uint64(1), mem.Joined)
	}
	require.True(t, s.Members["n3"].Incarnation.IsZero())
	again := m.do(Init("c1", []Member{member(1)}))
	require.NoError(t, again.Err)
	require.False(t, again.Changed)
	m.refused(Init("c2", nil), errs.AlreadyExists, "c1")
}

func TestObserveFillsInAndKeepsIdentity(t *testing.T) {
	m := newMachine(t)
	m.do(Init("c1", []Member{member(1), {ID: "n3", Address: "old:1"}}))
	m.refused(Observe(member(2)), errs.NotFound, "n2")
	require.True(t, m.do(Observe(member(3))).Changed)
	got := m.read().Members["n3"]
	require.Equal(t, Incarnation{3}, got.Incarnation)
	require.Equal(t, "10.0.0.3:9311", got.Address)
	require.Equal(t, Voter, got.State)
	require.False(t, m.do(Observe(member(3))).Changed, "nothing new is no change")
	other := member(3)
	other.Incarnation = Incarnation{99}
	m.refused(Observe(other), errs.IdentityRefused, "the cluster knows node n3")
}

func TestJoinPromoteRemove(t *testing.T) {
	m := newMachine(t)
	m.refused(Join(member(4)), errs.FailedPrecond, "no id yet")
	m.do(Init("c1", []Member{member(1), member(2)}))

	res := m.do(Join(member(4)))
	require.NoError(t, res.Err)
	rev, ok := DecodeJoined(res.Data)
	require.True(t, ok)
	require.Equal(t, res.Revision, rev)
	require.Equal(t, Joining, m.read().Members["n4"].State)

	again := m.do(Join(member(4)))
	require.NoError(t, again.Err)
	require.False(t, again.Changed)
	rev2, _ := DecodeJoined(again.Data)
	require.Equal(t, rev, rev2, "a repeated join gets the first answer")

	other := member(4)
	other.Incarnation = Incarnation{44}
	m.refused(Join(other), errs.IdentityRefused, "n4")
	thief := member(5)
	thief.Address = member(1).Address
	m.refused(Join(thief), errs.Conflict, "member n1 has that address")
	bad := member(5)
	bad.ID = "N 5"
	m.refused(Join(bad), errs.InvalidArgument, "node_id")

	require.NoError(t, m.do(SetState("n4", member(4).Incarnation, Voter)).Err)
	m.refused(SetState("n4", member(4).Incarnation, Joining), errs.Conflict, "cannot become joining")
	m.refused(SetState("n9", Incarnation{}, Voter), errs.NotFound, "n9")
	require.NoError(t, m.do(SetState("n4", member(4).Incarnation, Leaving)).Err)
	m.refused(Join(member(4)), errs.Conflict, "is being removed")
	removed := m.do(Remove("n4", member(4).Incarnation))
	require.NoError(t, removed.Err)
	require.NoError(t, m.do(Remove("n4", member(4).Incarnation)).Err, "removing again is no change")

	s := m.read()
	require.NotContains(t, s.Members, "n4")
	at, gone := s.Removed("n4", member(4).Incarnation)
	require.True(t, gone)
	require.Equal(t, removed.Revision, at)
	m.refused(Join(member(4)), errs.IdentityRefused, "was removed")
	require.NoError(t, m.do(Join(other)).Err, "another life of the node may come")
	_, gone = m.read().Removed("n4", other.Incarnation)
	require.False(t, gone)
}

func TestMembersAreBounded(t *testing.T) {
	m := newMachine(t)
	m.do(Init("c1", []Member{member(1)}))
	for n := 2; n <= MaxMembers; n++ {
		require.NoError(t, m.do(Join(member(n))).Err)
	}
	m.refused(Join(member(MaxMembers+1)), errs.Exhausted, "64")
}

func TestDamagedPayloadStopsTheNode(t *testing.T) {
	m := newMachine(t)
	m.index++
	cmd := command.Command{Kind: KindRemove, Payload: []byte{format, 200}}
	_, err := m.m.ApplyEntry(m.index, 1, command.AppendBatch(nil, []command.Command{cmd}))
	require.ErrorContains(t, err, "cannot be decoded")
}

func TestReplayGivesTheSameState(t *testing.T) {
	cmds := []command.Command{Init("c1", []Member{member(1), member(2), {ID: "n3", Address: "x:1"}}), Observe(member(3))}
	for n := 4; n < 20; n++ {
		cmds = append(cmds, Join(member(n)), Join(member(n)), SetState(member(n).ID, member(n).Incarnation, Voter))
		if n%3 == 0 {
			cmds = append(cmds, SetState(member(n).ID, member(n).Incarnation, Leaving), Remove(member(n).ID, member(n).Incarnation), Join(member(n)))
		}
	}
	for i := range cmds {
		cmds[i].Time = int64(i + 1)
	}
	replay.Check(t, Register, cmds)
}

func FuzzDecodeMember(f *testing.F) {
	f.Add(member(1).encode())
	f.Add([]byte{format})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMember(b)
		if err != nil {
			return
		}
		again, err := decodeMember(m.encode())
		if err != nil || again != m {
			t.Fatalf("%+v became %+v (%v)", m, again, err)
		}
	})
}

// Rows outlive the binary that wrote them: the format may only grow at its end.
func TestRowFormatIsFixed(t *testing.T) {
	m := member(1)
	m.State, m.Joined = Leaving, 300
	const want = "01026e3110010000000000000000000000000000000d31302e302e302e313a393331310d31302e302e302e313a393331300d31302e302e302e313a39333133010364657603ac02"
	require.Equal(t, want, hex.EncodeToString(m.encode()))
	got, err := decodeMember(append(m.encode(), "later fields"...))
	require.NoError(t, err)
	require.Equal(t, m, got)
}
