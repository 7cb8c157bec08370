package raftnode

import (
	"bytes"
	"context"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"nekoq/services/clock"
	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/state"
	"nekoq/services/testkit/register"
)

// byHand is a follower whose leaders are the test: it sends what they would.
type byHand struct {
	t       *testing.T
	node    *Node
	machine *state.Machine
	tr      *transport
	addr    raft.ServerAddress
	free    atomic.Int64          // bytes on the follower's disk
	restore atomic.Pointer[error] // what taking a state over fails with
}

func newByHand(t *testing.T, store string) *byHand {
	t.Helper()
	h := &byHand{t: t}
	h.machine = openRegisters(t, state.Faults{Restore: func(string) error {
		if err := h.restore.Load(); err != nil {
			return *err
		}
		return nil
	}})
	h.free.Store(1 << 40)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	h.addr = raft.ServerAddress(ln.Addr().String())
	cfg := DefaultConfig()
	cfg.LogStore = store
	cfg.HeartbeatTimeout, cfg.ElectionTimeout, cfg.LeaderLease = time.Minute, time.Minute, time.Minute
	cfg.DiskCheckInterval = time.Hour
	h.node, err = New(Options{
		NodeID: "n2", Addr: string(h.addr), DataDir: t.TempDir(), Machine: h.machine, Peers: tcpPeers{Listener: ln},
		Clock: clock.System(), Logger: quiet(), Config: cfg,
		FreeBytes: func(string) (int64, error) { return h.free.Load(), nil },
	})
	require.NoError(t, err)
	require.NoError(t, h.node.Start())
	mine, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	h.tr = newTransport(tcpPeers{Listener: mine}, mine.Addr().String(), cfg, &hclogger{log: quiet()})
	t.Cleanup(func() {
		require.NoError(t, h.tr.Close())
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		require.NoError(t, h.node.Shutdown(ctx))
		require.NoError(t, h.machine.Close())
	})
	return h
}

func openRegisters(t *testing.T, faults state.Faults) *state.Machine {
	t.Helper()
	reg := state.NewRegistry()
	register.Register(reg)
	m, err := state.Open(state.Options{
		Path: filepath.Join(t.TempDir(), "state.db"), Registry: reg, Mode: state.Logged, Config: state.Config{MmapBytes: 1 << 20}, Faults: faults,
	})
	require.NoError(t, err)
	return m
}

var threeNodes = raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{
	{ID: "n1", Address: "n1"}, {ID: "n2", Address: "n2"}, {ID: "n3", Address: "n3"},
}})

// commands are entries that append their term to one register.
func commands(from, to, term uint64) (out []*raft.Log) {
	for i := from; i <= to; i++ {
		l := &raft.Log{Index: i, Term: term, Type: raft.LogCommand}
		if i == 1 {
			l.Type, l.Data = raft.LogConfiguration, threeNodes
		} else {
			l.Data = command.AppendBatch(nil, []command.Command{register.Append("terms", string(rune('0'+term)))})
		}
		l.Extensions = checksum(l)
		out = append(out, l)
	}
	return out
}

func header(leader string) raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(leader), Addr: []byte(leader)}
}

// send is what the leader of term sends behind the entry prev.
func (h *byHand) send(term, prev, prevTerm uint64, logs []*raft.Log, commit uint64) bool {
	h.t.Helper()
	req := &raft.AppendEntriesRequest{
		RPCHeader: header("n1"), Term: term, PrevLogEntry: prev, PrevLogTerm: prevTerm, Entries: logs, LeaderCommitIndex: commit,
	}
	var resp raft.AppendEntriesResponse
	require.NoError(h.t, h.tr.AppendEntries("n2", h.addr, req, &resp))
	require.Equal(h.t, term, resp.Term)
	return resp.Success
}

func (h *byHand) disk(free int64) {
	h.free.Store(free)
	h.node.disk.look()
}

func (h *byHand) requireTerms(index uint64, want string) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	require.NoError(h.t, h.machine.WaitApplied(ctx, index))
	v := h.machine.View()
	defer v.Release()
	require.Equal(h.t, want, register.Get(v, "terms"))
}

// A follower has to give up entries of a leader that was superseded, and its disk
// is full at that moment. When space is back it goes on by itself.
func TestFullDiskAfterTheEndOfTheLogWasCut(t *testing.T) {
	for _, store := range bothStores {
		t.Run(store, func(t *testing.T) {
			h := newByHand(t, store)
			require.True(t, h.send(5, 0, 0, append(commands(1, 1, 1), commands(2, 10, 5)...), 4))
			h.disk(0)
			require.False(t, h.send(6, 4, 5, commands(5, 6, 6), 4), "there is no space for them")
			h.disk(1 << 40)
			require.True(t, h.send(6, 4, 5, commands(5, 6, 6), 6))
			require.True(t, h.send(6, 6, 6, commands(7, 7, 6), 7))
			h.requireTerms(7, "555666")
		})
	}
}

// As above, and then a leader comes whose log ends like the part that was cut.
func TestLeaderBelievesInEntriesThatWereCut(t *testing.T) {
	for _, store := range bothStores {
		t.Run(store, func(t *testing.T) {
			h := newByHand(t, store)
			require.True(t, h.send(5, 0, 0, append(commands(1, 1, 1), commands(2, 10, 5)...), 4))
			h.disk(0)
			require.False(t, h.send(6, 4, 5, commands(5, 6, 6), 4))
			h.disk(1 << 40)
			require.False(t, h.send(7, 10, 5, commands(11, 11, 7), 4), "entries 5 to 10 are not there")
			for prev := uint64(9); prev > 4; prev-- {
				require.False(t, h.send(7, prev, 5, append(commands(prev+1, 10, 5), commands(11, 11, 7)...), 4))
			}
			require.True(t, h.send(7, 4, 5, append(commands(5, 10, 5), commands(11, 11, 7)...), 11))
			h.requireTerms(11, "5555555557")
		})
	}
}

// A follower whose log is longer than the leader's, with entries that were never
// committed, is sent the state. The leader's entries follow behind it.
func TestStateEndsBeforeTheLogThatItReplaces(t *testing.T) {
	for _, store := range bothStores {
		t.Run(store, func(t *testing.T) {
			h := newByHand(t, store)
			require.True(t, h.send(5, 0, 0, append(commands(1, 1, 1), commands(2, 10, 5)...), 3))
			require.NoError(t, h.install(6, 6))
			require.True(t, h.send(6, 6, 6, nil, 6), "the leader is where the state ends")
			require.True(t, h.send(6, 6, 6, commands(7, 8, 6), 8))
			h.requireTerms(8, "55666"+"66")
			require.Equal(t, uint64(8), h.node.Status().LastLog)
		})
	}
}

// A leader gives up sending the state to a frozen follower and tries again. When
// the first message is handled after the second, entries have come since, and the
// follower's word for them stands.
func TestStateThatComesLateClearsNoLog(t *testing.T) {
	h := newByHand(t, LogStoreWAL)
	require.NoError(t, h.install(6, 5))
	require.True(t, h.send(5, 6, 5, commands(7, 10, 5), 9))
	require.ErrorContains(t, h.install(6, 5), "9 is committed here")
	require.Equal(t, uint64(10), h.node.Status().LastLog)
	require.True(t, h.send(5, 10, 5, commands(11, 11, 5), 11))
	h.requireTerms(11, "5555555555")
}

// As above, before the follower knows that what it has acknowledged is committed.
func TestStateThatComesLateClearsNothingAcknowledged(t *testing.T) {
	for _, store := range bothStores {
		t.Run(store, func(t *testing.T) {
			h := newByHand(t, store)
			require.NoError(t, h.install(6, 5))
			require.True(t, h.send(5, 6, 5, commands(7, 10, 5), 6))
			require.ErrorContains(t, h.install(6, 5), "goes on from there")
			require.True(t, h.send(5, 10, 5, commands(11, 11, 5), 11))
			h.requireTerms(11, "5555555555")
		})
	}
}

// install sends the state up to index as the leader of term has it: entries 2 and 3
// are of term 5, the others of term.
func (h *byHand) install(index, term uint64) error {
	h.t.Helper()
	leader := openRegisters(h.t, state.Faults{})
	defer leader.Close()
	for _, l := range append(commands(2, 3, 5), commands(4, index, term)...) {
		_, err := leader.ApplyEntry(l.Index, l.Term, l.Data)
		require.NoError(h.t, err)
	}
	snap, err := leader.Snapshot()
	require.NoError(h.t, err)
	defer snap.Close()
	var data bytes.Buffer
	_, err = snap.WriteTo(&data)
	require.NoError(h.t, err)
	req := &raft.InstallSnapshotRequest{
		RPCHeader: header("n1"), SnapshotVersion: raft.SnapshotVersionMax, Term: term, LastLogIndex: index, LastLogTerm: term,
		Configuration: threeNodes, ConfigurationIndex: 1, Size: int64(data.Len()),
	}
	var resp raft.InstallSnapshotResponse
	err = h.tr.InstallSnapshot("n2", h.addr, req, &resp, &data)
	require.Equal(h.t, err == nil, resp.Success)
	return err
}

// A state that was received and could not be taken over leaves nothing behind once
// the next one is there: it may be what fills the disk.
func TestStatesThatCannotBeTakenOverAreRemoved(t *testing.T) {
	h := newByHand(t, LogStoreWAL)
	full := error(errs.New(errs.StorageFull, "no space"))
	h.restore.Store(&full)
	for range 3 {
		require.ErrorContains(t, h.install(6, 6), "no space")
	}
	left, err := filepath.Glob(filepath.Join(h.node.dir, "install-*"))
	require.NoError(t, err)
	require.Len(t, left, 1, "the newest is kept for the next start")
	h.restore.Store(nil)
	require.NoError(t, h.install(6, 6))
	left, err = filepath.Glob(filepath.Join(h.node.dir, "install-*"))
	require.NoError(t, err)
	require.Empty(t, left)
	require.True(t, h.send(6, 6, 6, commands(7, 7, 6), 7))
	h.requireTerms(7, "556666")
}
