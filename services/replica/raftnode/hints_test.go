package raftnode_test

import (
	"fmt"
	"testing"
	"time"

	"nekoq/services/errs"
	"nekoq/services/replica"
	"nekoq/services/replica/raftnode"
	"nekoq/services/testkit/cluster"
)

// Raft itself tells followers of a commit with its next message, which here would be
// an hour later.
func TestFollowersLearnOfACommitAtOnce(t *testing.T) {
	t.Parallel()
	c := cluster.New(t, cluster.Options{Config: func(id string, c *raftnode.Config) {
		cluster.Calm(id, c)
		c.CommitTimeout = time.Hour
	}})
	ctx := within(t, time.Minute)
	leader := c.WaitLeader()
	for i := range 50 {
		want := fmt.Sprint(i)
		leader.Put(ctx, "k", want)
		for _, f := range c.Followers() {
			cluster.Eventually(t, "a follower shows the value", func() error {
				v, err := f.Get(ctx, "k", replica.Stale)
				if err == nil && v != want {
					err = errs.New(errs.Conflict, "still %q", v)
				}
				return err
			})
		}
	}
}
