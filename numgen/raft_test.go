package numgen_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/numgen"
	"nekoq/numgen/numgentest"
	"nekoq/services/clock"
	"nekoq/services/errs"
	"nekoq/services/state"
	"nekoq/services/testkit/cluster"
)

// raftNodes starts a Raft group and gives numgen's view of each node.
func raftNodes(t *testing.T, n int) (*cluster.Cluster, []numgentest.Node) {
	t.Helper()
	hubs := cluster.NewHubs(t)
	c := cluster.New(t, cluster.Options{
		Nodes:    n,
		Register: func(reg *state.Registry) { numgen.Register(reg) },
		Events:   hubs.Events,
	})
	var nodes []numgentest.Node
	for _, m := range c.Members {
		nodes = append(nodes, numgentest.Node{Replica: m.Replica, Events: hubs.Of(m.ID)})
	}
	return c, nodes
}

func TestSuiteOverRaft(t *testing.T) {
	for _, n := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d nodes", n), func(t *testing.T) {
			numgentest.Suite(t, func(t *testing.T) []numgentest.Node {
				_, nodes := raftNodes(t, n)
				return nodes
			})
		})
	}
}

// row: nekoq 2. Ids of every kind from all nodes while the leader is cut off,
// again and again: no duplicate, no zero, increasing per generator and node.
func TestIDsOverLeaderChanges(t *testing.T) {
	c, nodes := raftNodes(t, 3)
	ctx := t.Context()
	var services []*numgen.Service
	for _, n := range nodes {
		s, _ := numgentest.Start(t, n, clock.System(), numgen.DefaultConfig())
		services = append(services, s)
	}
	options := numgentest.Options()
	for name, r := range options {
		r.Name = name
		options[name] = r
		require.Eventually(t, func() bool {
			_, _, err := services[0].Create(ctx, r)
			return err == nil || errs.Has(err, errs.AlreadyExists)
		}, 20*time.Second, 10*time.Millisecond, r.Name)
	}
	judges := map[string]*numgentest.Judge{}
	for _, r := range options {
		judges[r.Name] = &numgentest.Judge{}
	}
	got := 0
	for round := range 4 {
		old := c.WaitLeader()
		c.Isolate(old)
		for _, r := range options {
			for i, s := range services {
				if c.Members[i] == old && round%2 == 0 {
					continue // it may wait for a leader that it cannot reach
				}
				ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
				ids, err := s.IDs(ctx, r.Name, 50)
				cancel()
				if err != nil {
					require.Contains(t, []errs.Code{errs.NoLeader, errs.OutcomeUnknown, errs.DeadlineExceeded, errs.Unavailable, errs.ClockMovedBack}, errs.CodeOf(err), "%s: %v", r.Name, err)
					continue
				}
				got += len(ids)
				judges[r.Name].Add(t, c.Members[i].ID, ids)
			}
		}
		c.WaitLeaderBut(old)
		c.Heal()
		c.WaitEqual()
	}
	require.Greater(t, got, 1000, "too few ids to say anything")
}
