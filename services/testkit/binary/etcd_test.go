package binary_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"nekoq/services/errs"
	"nekoq/services/testkit/etcdload"
	"nekoq/services/testkit/process"
)

func etcdDoors(nodes []*process.Nekoq) (out []string) {
	for _, n := range nodes {
		out = append(out, n.Etcd)
	}
	return out
}

// Programs that use the etcd door through etcd's client, while processes are killed
// with -9 and frozen, and all of them killed at once: what they are told is what etcd
// promises.
func TestSoakEtcdDoor(t *testing.T) {
	c := startCluster(t, 3)
	l := etcdload.Start(t, etcdload.Options{Endpoints: etcdDoors(c.nodes), Late: 30 * time.Second})
	l.Progress()
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 3))
	end := time.Now().Add(soak(t, 0))
	for round := 0; round == 0 || time.Now().Before(end); round++ {
		leader := c.leader()
		t.Logf("%s killed", leader.ID)
		leader.Kill()
		c.leader()
		wait(t, random(r, time.Second))
		c.restart(leader)
		l.Progress()

		leader = c.leader()
		t.Logf("%s frozen", leader.ID)
		require.NoError(t, leader.Freeze())
		wait(t, 2500*time.Millisecond)
		require.NoError(t, leader.Thaw())
		c.allReady()
		l.Progress()

		t.Log("all killed")
		for _, n := range c.nodes {
			n.Kill()
		}
		for _, n := range c.nodes {
			require.NoError(t, n.Start())
		}
		c.allReady()
		l.Progress()
	}
	l.Finish()
	c.equalHashes()
}

// memberIDs wants every node to list the same members, with these names and only the
// learners named, and gives their numbers.
func memberIDs(t *testing.T, nodes []*process.Nekoq, learners ...string) map[string]uint64 {
	t.Helper()
	var ids map[string]uint64
	for _, at := range nodes {
		cl := etcdload.Client(t, at.Etcd)
		err := process.Until(t.Context(), 30*time.Second, func(ctx context.Context) error {
			ids = map[string]uint64{}
			res, err := cl.MemberList(ctx)
			if err != nil {
				return err
			}
			for _, m := range res.Members {
				i := slices.IndexFunc(nodes, func(n *process.Nekoq) bool { return n.ID == m.Name })
				if i < 0 || m.IsLearner != slices.Contains(learners, m.Name) ||
					!slices.Equal(m.ClientURLs, []string{"http://" + nodes[i].Etcd}) || !slices.Equal(m.PeerURLs, []string{"http://" + nodes[i].Cluster}) {
					return errs.New(errs.Conflict, "%s lists %v", at.ID, m)
				}
				ids[m.Name] = m.ID
			}
			if len(ids) != len(nodes) {
				return errs.New(errs.Conflict, "%s lists %d members, and there are %d", at.ID, len(ids), len(nodes))
			}
			return nil
		})
		require.NoError(t, err)
	}
	return ids
}

// Members are promoted and removed and leadership is moved through the etcd door; all
// nodes list the members as they are.
func TestMembersThroughTheEtcdDoor(t *testing.T) {
	// A node that joins stays a learner until somebody promotes it.
	slow := "cluster.catch_up_hold=10m"
	c := startCluster(t, 3, slow)
	memberIDs(t, c.nodes)
	n4, err := process.JoinNekoq(process.Options{Bin: bin, Dir: c.dir, Set: []string{slow}}, "n4", c.nodes[:2])
	require.NoError(t, err)
	require.NoError(t, n4.Start())
	c.nodes = append(c.nodes, n4)
	require.NoError(t, n4.Ready(t.Context(), 60*time.Second))
	ids := memberIDs(t, c.nodes, "n4")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()

	door := etcdload.Client(t, c.follower().Etcd)
	_, err = door.MemberPromote(ctx, ids["n1"])
	require.ErrorIs(t, err, rpctypes.ErrMemberNotLearner)
	_, err = door.MemberPromote(ctx, 12345)
	require.ErrorIs(t, err, rpctypes.ErrMemberNotFound)
	_, err = door.MoveLeader(ctx, ids["n1"])
	require.ErrorIs(t, err, rpctypes.ErrNotLeader, "asked of a follower")
	leader := c.leader()
	_, err = etcdload.Client(t, leader.Etcd).MoveLeader(ctx, ids["n4"])
	require.ErrorIs(t, err, rpctypes.ErrBadLeaderTransferee, "a learner")
	promoted, err := door.MemberPromote(ctx, ids["n4"])
	require.NoError(t, err)
	require.Len(t, promoted.Members, 4)
	memberIDs(t, c.nodes)

	_, err = etcdload.Client(t, leader.Etcd).MoveLeader(ctx, ids["n4"])
	require.NoError(t, err)
	err = process.Until(ctx, 30*time.Second, func(ctx context.Context) error {
		for _, n := range c.nodes {
			s, err := etcdload.Client(t, n.Etcd).Status(ctx, n.Etcd)
			if err != nil {
				return err
			}
			if s.Leader != ids["n4"] {
				return errs.New(errs.Conflict, "%s says that %x leads", n.ID, s.Leader)
			}
		}
		return nil
	})
	require.NoError(t, err)

	gone := c.nodes[0]
	c.nodes = c.nodes[1:]
	removed, err := etcdload.Client(t, c.nodes[0].Etcd).MemberRemove(ctx, ids[gone.ID])
	require.NoError(t, err)
	require.Len(t, removed.Members, 3)
	memberIDs(t, c.nodes)
	_, err = etcdload.Client(t, c.nodes[0].Etcd).MemberRemove(ctx, ids[gone.ID])
	require.ErrorIs(t, err, rpctypes.ErrMemberNotFound)
	gone.Kill()

	// A member that is asked to remove itself answers before it parts.
	gone = c.follower()
	c.nodes = slices.DeleteFunc(c.nodes, func(n *process.Nekoq) bool { return n == gone })
	removed, err = etcdload.Client(t, gone.Etcd).MemberRemove(ctx, ids[gone.ID])
	require.NoError(t, err)
	require.Len(t, removed.Members, 2)
	for _, m := range removed.Members {
		require.NotEqual(t, ids[gone.ID], m.ID)
	}
	memberIDs(t, c.nodes)
	gone.Kill()
	for _, n := range c.nodes {
		_, err := etcdload.Client(t, n.Etcd).Put(ctx, "after", n.ID)
		require.NoError(t, err)
	}
	c.equalHashes()
}
