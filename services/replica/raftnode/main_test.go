package raftnode_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"nekoq/services/replica"
	"nekoq/services/testkit/cluster"
	"nekoq/services/testkit/register"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestThreeNodesWriteAndReadAnywhere(t *testing.T) {
	for _, memory := range []bool{true, false} {
		t.Run(fmt.Sprintf("memory=%v", memory), func(t *testing.T) {
			c := cluster.New(t, cluster.Options{Memory: memory, Config: cluster.Calm})
			ctx := within(t, 20*time.Second)
			for i, m := range c.Members {
				want := fmt.Sprintf("v%d", i)
				res, err := m.Replica.Propose(ctx, register.Put("k", want))
				require.NoError(t, err)
				require.True(t, res.Changed)
				require.NotZero(t, res.Revision)
				for _, o := range c.Members {
					got, err := o.Get(ctx, "k", replica.Linearizable)
					require.NoError(t, err)
					require.Equal(t, want, got)
				}
			}
			c.WaitEqual()
		})
	}
}

func TestCommandsShareEntries(t *testing.T) {
	t.Parallel()
	c := cluster.New(t, cluster.Options{Config: cluster.Calm})
	ctx := within(t, 30*time.Second)
	l := c.WaitLeader()
	before, _ := l.Machine.Applied()
	const writers, each = 256, 20
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if _, err := l.Replica.Propose(ctx, register.Put(fmt.Sprintf("w%d", w), fmt.Sprint(i))); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	after, _ := l.Machine.Applied()
	perEntry := float64(writers*each) / float64(after-before)
	t.Logf("%.1f commands per entry", perEntry)
	require.GreaterOrEqual(t, perEntry, 20.0)
	c.WaitEqual()
}
