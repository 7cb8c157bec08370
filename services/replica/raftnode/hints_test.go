package raftnode_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"nekoq/services/errs"
	"nekoq/services/replica"
	"nekoq/services/replica/raftnode"
	"nekoq/services/testkit/cluster"
)

// silentCluster is nodes whose leader says nothing of its own accord: followers would
// hear of a commit an hour later, with Raft's next message.
func silentCluster(t *testing.T) *cluster.Cluster {
	t.Helper()
	return cluster.New(t, cluster.Options{Config: func(id string, c *raftnode.Config) {
		cluster.Calm(id, c)
		c.CommitTimeout = time.Hour
	}})
}

func TestFollowersLearnOfACommitAtOnce(t *testing.T) {
	t.Parallel()
	c := silentCluster(t)
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

// Of entries that are applied together, the last one is told.
func TestFollowersLearnOfCommitsOfManyAtOnce(t *testing.T) {
	t.Parallel()
	c := silentCluster(t)
	ctx := within(t, time.Minute)
	leader := c.WaitLeader()
	key := func(j int) string { return fmt.Sprint("k", j) }
	for i := range 200 {
		want := fmt.Sprint(i)
		var writers sync.WaitGroup
		for j := range 8 {
			writers.Go(func() { leader.Put(ctx, key(j), want) })
		}
		writers.Wait()
		for _, f := range c.Followers() {
			cluster.Eventually(t, "a follower shows all values", func() error {
				for j := range 8 {
					if v, err := f.Get(ctx, key(j), replica.Stale); err != nil || v != want {
						return errs.New(errs.Conflict, "still %q, %v", v, err)
					}
				}
				return nil
			})
		}
	}
}
