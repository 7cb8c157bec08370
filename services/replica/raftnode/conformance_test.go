package raftnode_test

import (
	"fmt"
	"testing"

	"nekoq/services/replica"
	"nekoq/services/replica/raftnode"
	"nekoq/services/testkit/cluster"
	"nekoq/services/testkit/conformance"
)

func TestConformance(t *testing.T) {
	for _, nodes := range []int{1, 3} {
		for _, store := range []string{raftnode.LogStoreWAL, raftnode.LogStoreBolt} {
			t.Run(fmt.Sprintf("%d nodes %s", nodes, store), func(t *testing.T) {
				conformance.Run(t, func(t *testing.T, before func(replica.Replica)) *conformance.Group {
					c := cluster.New(t, cluster.Options{
						Nodes: nodes, Memory: store == raftnode.LogStoreBolt,
						Config: func(_ string, cfg *raftnode.Config) { cfg.LogStore = store },
						Before: func(m *cluster.Member) { before(m.Replica) },
					})
					g := &conformance.Group{Stop: func(i int) { c.Members[i].Stop() }}
					for _, m := range c.Members {
						g.Replicas = append(g.Replicas, m.Replica)
					}
					return g
				})
			})
		}
	}
}
