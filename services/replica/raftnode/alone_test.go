package raftnode_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/services/replica"
	"nekoq/services/replica/raftnode"
	"nekoq/services/testkit/cluster"
)

// A node that is the only voter leads without waiting for anybody, at its first
// start and later: with a heartbeat timeout of hours it would not lead in this test.
// Others can join it, and then it is one of three.
func TestTheOnlyVoterLeadsAtOnce(t *testing.T) {
	t.Parallel()
	patient := true
	c := cluster.New(t, cluster.Options{Nodes: 1, Config: func(id string, cfg *raftnode.Config) {
		cluster.Calm(id, cfg)
		if patient {
			cfg.HeartbeatTimeout, cfg.ElectionTimeout = 10*time.Hour, 10*time.Hour
		}
	}})
	ctx := within(t, time.Minute)
	n1 := c.WaitLeader()
	n1.Put(ctx, "k", "v")
	n1.Stop()
	n1.Start()
	c.WaitLeader()
	got, err := n1.Get(ctx, "k", replica.Linearizable)
	require.NoError(t, err)
	require.Equal(t, "v", got)

	n1.Kill()
	patient = false
	n1.Start()
	c.WaitLeader()
	for _, id := range []string{"n2", "n3"} {
		m := c.Add(id)
		require.NoError(t, n1.Replica.AddNonvoter(ctx, id, id))
		require.NoError(t, n1.Replica.Promote(ctx, id))
		_, err := m.Get(ctx, "k", replica.Linearizable)
		require.NoError(t, err)
	}
	require.NoError(t, n1.Replica.TransferLeadership(ctx, "n2"))
	c.WaitLeaderBut(n1).Put(ctx, "k", "by another")
	got, err = n1.Get(ctx, "k", replica.Linearizable)
	require.NoError(t, err)
	require.Equal(t, "by another", got)

	c.WaitEqual()
}
