package raftnode_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/replica"
	"nekoq/services/state"
	"nekoq/services/testkit/cluster"
	"nekoq/services/testkit/register"
)

// A follower may apply, and show, what the leader has committed and not yet
// applied. A read on the leader that begins after such a reading must see it too,
// so it waits for the commit index and not just for what is applied.
func TestALeaderSlowToApplyShowsNothingOlderThanItsFollowers(t *testing.T) {
	t.Parallel()
	const kindHold = command.Kind(0x7ff8)
	// Nodes register in the order of their ids; gates holds what blocks each.
	var gates [3]atomic.Pointer[chan struct{}]
	var made atomic.Int32
	c := cluster.New(t, cluster.Options{Config: cluster.Calm, Register: func(reg *state.Registry) {
		node := made.Add(1) - 1
		reg.Handle(kindHold, "test.hold", 1, func(tx *state.Tx, _ *command.Command) ([]byte, error) {
			if gate := gates[node].Load(); gate != nil {
				<-*gate
			}
			tx.Put(register.Table, []byte("k"), []byte("new"))
			return nil, nil
		})
	}})
	ctx := within(t, 30*time.Second)
	leader := c.WaitLeader()
	leader.Put(ctx, "k", "old")
	gate := make(chan struct{})
	for i, m := range c.Members {
		if m == leader {
			gates[i].Store(&gate)
		}
	}
	written := make(chan error, 1)
	go func() {
		_, err := leader.Replica.Propose(ctx, command.Command{Kind: kindHold})
		written <- err
	}()
	follower := c.Followers()[0]
	cluster.Eventually(t, "a follower shows the new value", func() error {
		v, err := follower.Get(ctx, "k", replica.Stale)
		if err == nil && v != "new" {
			err = errs.New(errs.Conflict, "still %q", v)
		}
		return err
	})
	type answer struct {
		value string
		err   error
	}
	read := make(chan answer, 1)
	go func() {
		v, err := leader.Get(ctx, "k", replica.Linearizable)
		read <- answer{v, err}
	}()
	select {
	case a := <-read:
		t.Errorf("the leader answered %q (%v) before it had applied what a follower already shows", a.value, a.err)
		read <- a
	case <-time.After(300 * time.Millisecond): // long enough for many rounds
	}
	close(gate)
	a := <-read
	require.NoError(t, a.err)
	require.Equal(t, "new", a.value)
	require.NoError(t, <-written)
	c.WaitEqual()
}
