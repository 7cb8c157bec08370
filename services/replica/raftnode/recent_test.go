package raftnode_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/services/errs"
	"nekoq/services/replica"
	"nekoq/services/replica/raftnode"
	"nekoq/services/testkit/cluster"
)

// A recent read sees on every node what was acknowledged a bound before.
func TestRecentReadsSeeWhatIsOlder(t *testing.T) {
	t.Parallel()
	c := cluster.New(t, cluster.Options{Config: cluster.Calm})
	ctx := within(t, time.Minute)
	for _, want := range []string{"a", "b", "c"} {
		c.WaitLeader().Put(ctx, "k", want)
		old := time.NewTimer(replica.RecentBound)
		for waits := true; waits; { // rounds that were confirmed before the write go on
			for _, m := range c.Members {
				_, err := m.Get(ctx, "k", replica.Recent)
				require.NoError(t, err)
			}
			select {
			case <-old.C:
				waits = false
			default:
			}
		}
		for _, m := range c.Members {
			got, err := m.Get(ctx, "k", replica.Recent)
			require.NoError(t, err)
			require.Equal(t, want, got, "node %s", m.ID)
		}
	}
}

// A leader that is cut off, and so may have been replaced, serves no recent reads once
// its last confirmed round is older than the bound, though it has not stepped down yet.
func TestALeaderThatIsCutOffIsNotRecentForLong(t *testing.T) {
	t.Parallel()
	c := cluster.New(t, cluster.Options{Config: func(id string, c *raftnode.Config) {
		cluster.Calm(id, c)
		c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLease = 3*time.Second, 3*time.Second, 3*time.Second
	}})
	ctx := within(t, time.Minute)
	old := c.WaitLeader()
	old.Put(ctx, "k", "old")
	_, err := old.Get(ctx, "k", replica.Recent)
	require.NoError(t, err)
	c.Isolate(old)
	<-time.After(replica.RecentBound)
	for range 10 {
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		v, err := old.Get(short, "k", replica.Recent)
		cancel()
		require.Error(t, err, "it answered %q", v)
	}
	c.WaitLeaderBut(old).Put(ctx, "k", "new")
	c.Heal()
	cluster.Eventually(t, "the old leader serves again, and the new value", func() error {
		v, err := old.Get(ctx, "k", replica.Recent)
		if err == nil && v != "new" {
			err = errs.New(errs.Conflict, "still %q", v)
		}
		return err
	})
}
