package etcd_test

import (
	"context"
	"testing"
	"time"

	"nekoq/services/testkit/cluster"
	"nekoq/services/testkit/etcdload"
)

// Programs that use the door through etcd's client, while the nodes behind it are
// killed, cut off and slowed down: what they are told is what etcd promises.
func TestFaultsBehindTheDoor(t *testing.T) {
	g := startGroup(t, cluster.Options{})
	l := etcdload.Start(t, etcdload.Options{Endpoints: g.addrs, Late: 20 * time.Second})
	l.Progress()
	s := cluster.Schedule{
		Seed: uint64(time.Now().UnixNano()), Client: 0, For: cluster.SoakTime(t),
		Faults: []cluster.Fault{
			cluster.KillLeader, cluster.PartitionLeader, cluster.PartitionFollower, cluster.PartitionClient,
			cluster.SlowLeaderDisk, cluster.SlowFollowerDisk, cluster.RestartAll,
		},
		Progress: func(cluster.Fault) { l.Progress() },
	}
	if s.For > 0 {
		s.Faults = nil
	}
	t.Logf("seed %d", s.Seed)
	g.Run(context.Background(), s)
	l.Finish()
	g.WaitEqual()
}
