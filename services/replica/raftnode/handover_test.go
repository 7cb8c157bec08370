package raftnode_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/services/errs"
	"nekoq/services/replica/raftnode"
	"nekoq/services/testkit/cluster"
)

// patientCluster is nodes that wait for hours before they stand for election, or
// give a leadership up: however slow the machine, it moves when it is handed over,
// and only then. n1 leads, since it began alone.
func patientCluster(t *testing.T, nodes ...string) *cluster.Cluster {
	t.Helper()
	c := cluster.New(t, cluster.Options{Nodes: 1, Config: func(_ string, cfg *raftnode.Config) {
		cfg.HeartbeatTimeout, cfg.ElectionTimeout, cfg.LeaderLease = 10*time.Hour, 10*time.Hour, 10*time.Hour
		cfg.TransportTimeout = time.Minute
	}})
	ctx := within(t, time.Minute)
	n1 := c.WaitLeader()
	for _, id := range nodes {
		c.Add(id)
		require.NoError(t, n1.Replica.AddNonvoter(ctx, id, id))
		require.NoError(t, n1.Replica.Promote(ctx, id))
	}
	n1.Put(ctx, "k", "v")
	c.WaitEqual()
	return c
}

func TestStopHandsLeadershipOver(t *testing.T) {
	t.Parallel()
	c := patientCluster(t, "n2", "n3")
	n1 := c.Member("n1")
	n1.Stop()
	next := c.WaitLeaderBut(n1)
	ctx := within(t, time.Minute)
	for _, m := range c.Others(n1) {
		m.Put(ctx, "k", "by "+m.ID)
	}
	require.Contains(t, []string{"n2", "n3"}, next.ID)
}

// A voter that is gone has as long a log as the others when nothing was written
// since, and is not the one that is chosen.
func TestLeadershipIsHandedToAVoterThatAnswers(t *testing.T) {
	t.Parallel()
	c := patientCluster(t, "n2", "n3", "n4", "n5")
	n1, n2 := c.Member("n1"), c.Member("n2")
	n2.Kill()
	n1.Stop()
	next := c.WaitLeaderBut(n1, n2)
	ctx := within(t, time.Minute)
	next.Put(ctx, "k", "w")

	last := next.ID
	require.NoError(t, next.Replica.TransferLeadership(ctx, "")) // two of five are gone now
	require.NotEqual(t, last, c.WaitLeaderBut(n1, n2, next).ID)
}

// With nobody there to take it, a stop goes on.
func TestStopWithNobodyToHandOverTo(t *testing.T) {
	t.Parallel()
	c := patientCluster(t, "n2", "n3")
	n1 := c.Member("n1")
	for _, m := range c.Others(n1) {
		m.Kill()
	}
	err := n1.Replica.TransferLeadership(within(t, time.Minute), "")
	require.Equal(t, errs.Unavailable, errs.CodeOf(err))
	require.ErrorContains(t, err, "no other voter answers")
	n1.Stop()
}
