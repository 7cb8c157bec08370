package raftnode_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/services/errs"
	"nekoq/services/replica"
	"nekoq/services/replica/raftnode"
	"nekoq/services/testkit/cluster"
	"nekoq/services/testkit/register"
)

func TestFullDiskRefusesWritesAndPasses(t *testing.T) {
	t.Parallel()
	var free atomic.Int64
	free.Store(1 << 40)
	c := cluster.New(t, cluster.Options{
		Config: func(id string, cfg *raftnode.Config) {
			cluster.Calm(id, cfg)
			cfg.DiskReserveBytes = 1 << 20
			cfg.DiskCheckInterval = 10 * time.Millisecond
		},
		FreeBytes: func(string) (int64, error) { return free.Load(), nil },
	})
	ctx := within(t, 30*time.Second)
	for _, m := range c.Members {
		m.Put(ctx, "k", m.ID)
	}
	free.Store(1<<20 - 1)
	cluster.Eventually(t, "writes are refused", func() error {
		for _, m := range c.Members {
			if _, err := m.Replica.Propose(ctx, register.Put("k", m.ID)); !errs.Has(err, errs.StorageFull) {
				return fmt.Errorf("%s: %v", m.ID, err)
			}
		}
		return nil
	})
	for _, m := range c.Members {
		_, err := m.Get(ctx, "k", replica.Linearizable)
		require.NoError(t, err)
	}
	for _, m := range c.Members { // the leader, and those that send it on
		_, err := m.Replica.Propose(replica.Essential(ctx), register.Put("k", "needed"))
		require.NoError(t, err, "%s: the reserve is for this", m.ID)
	}
	free.Store(0) // not even the log may be written
	cluster.Eventually(t, "every node knows", func() error {
		for _, m := range c.Members {
			if !m.Replica.Status().DiskFull {
				return fmt.Errorf("%s does not", m.ID)
			}
		}
		return nil
	})
	free.Store(1 << 40)
	cluster.Eventually(t, "writes go on", func() error {
		for _, m := range c.Members {
			if _, err := m.Replica.Propose(ctx, register.Put("k", "again")); err != nil {
				return err
			}
		}
		return nil
	})
	c.WaitEqual()
}

// raftDir is a stopped node's folder, and its snapshot.json to be changed.
func snapshotJSON(t *testing.T, m *cluster.Member, change func(meta map[string]any)) {
	path := filepath.Join(m.Dir, "raft", "snapshot.json")
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	meta := map[string]any{}
	require.NoError(t, json.Unmarshal(raw, &meta))
	change(meta)
	raw, err = json.Marshal(meta)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, raw, 0o600))
}

// A node that goes down between receiving a state and taking it over does so when
// it starts, and clears the log that the state has overtaken.
func TestReceivedStateIsTakenOverAtStart(t *testing.T) {
	t.Parallel()
	c := cluster.New(t, cluster.Options{Config: small})
	ctx := within(t, 60*time.Second)
	leader, away := c.WaitLeader(), c.Followers()[0]
	leader.Put(ctx, "before", "v")
	c.WaitEqual()
	away.Kill()
	for i := range 300 {
		leader.Put(ctx, fmt.Sprint(i), value256)
	}
	require.NoError(t, leader.Replica.Snapshot())
	index := leader.Replica.Status().SnapshotIndex
	snap, err := leader.Machine.Snapshot()
	require.NoError(t, err)
	raft := filepath.Join(away.Dir, "raft")
	f, err := os.Create(filepath.Join(raft, "install-x"))
	require.NoError(t, err)
	_, err = snap.WriteTo(f)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, snap.Close())
	raw, err := os.ReadFile(filepath.Join(leader.Dir, "raft", "snapshot.json"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(raft, "snapshot.json"), raw, 0o600))
	snapshotJSON(t, away, func(meta map[string]any) { meta["data"], meta["state_index"] = "install-x", 0 })
	require.NoError(t, os.WriteFile(filepath.Join(raft, "install-y.part"), []byte("half"), 0o600))

	away.Start()
	at, _ := away.Machine.Applied()
	require.GreaterOrEqual(t, at+2, index) // no-ops at the end are not counted
	left, err := filepath.Glob(filepath.Join(raft, "install-*"))
	require.NoError(t, err)
	require.Empty(t, left)
	leader.Put(ctx, "after", "v")
	c.WaitEqual()
}

func TestFilesThatDoNotFitAreRefused(t *testing.T) {
	t.Parallel()
	c := cluster.New(t, cluster.Options{Nodes: 1, Config: small})
	ctx := within(t, 60*time.Second)
	m := c.Members[0]
	for i := range 200 {
		m.Put(ctx, fmt.Sprint(i), value256)
	}
	require.NoError(t, m.Replica.Snapshot())
	m.Stop()
	refused := func(what string) {
		t.Helper()
		err := m.TryStart()
		require.Equal(t, errs.Corrupt, errs.CodeOf(err), "%v", err)
		require.ErrorContains(t, err, what)
		require.ErrorContains(t, err, "remove this node")
	}
	state, raft := filepath.Join(m.Dir, "state.db"), filepath.Join(m.Dir, "raft")
	// An old or new state file under a log that was shortened.
	require.NoError(t, os.Rename(state, state+".away"))
	refused("the state file ends at index 0")
	require.NoError(t, os.Rename(state+".away", state))
	// A state file without its log.
	require.NoError(t, os.Rename(raft, raft+".away"))
	refused("acknowledged entries are missing")
	require.NoError(t, os.RemoveAll(raft))
	require.NoError(t, os.Rename(raft+".away", raft))
	// A snapshot that cannot be read.
	meta := filepath.Join(raft, "snapshot.json")
	good, err := os.ReadFile(meta)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(meta, []byte("{"), 0o600))
	refused("snapshot.json")
	require.NoError(t, os.WriteFile(meta, good, 0o600))
	m.Start()
	c.WaitLeader()
	got, err := m.Get(ctx, "199", replica.Linearizable)
	require.NoError(t, err)
	require.Equal(t, value256, got)
}

// A retry by session survives a leader that dies with the command on its way.
func TestSessionsRetryAcrossLeaders(t *testing.T) {
	t.Parallel()
	c := cluster.New(t, cluster.Options{})
	l := startLoad(t, c, 12)
	for range 3 {
		l.progress(30)
		old := c.WaitLeader()
		c.Isolate(old)
		c.WaitLeaderBut(old)
		c.Heal()
	}
	l.progress(30)
	l.end()
	c.WaitEqual()
}
