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
	for _, v := range []struct {
		nodes int
		store string
	}{{1, raftnode.LogStoreWAL}, {1, raftnode.LogStoreBolt}, {3, raftnode.LogStoreWAL}} {
		t.Run(fmt.Sprintf("%d nodes %s", v.nodes, v.store), func(t *testing.T) {
			conformance.Run(t, func(t *testing.T, before func(replica.Replica)) *conformance.Group {
				c := cluster.New(t, cluster.Options{
					Nodes: v.nodes,
					Config: func(id string, cfg *raftnode.Config) {
						cfg.LogStore = v.store
						if v.nodes > 1 {
							cluster.Calm(id, cfg)
						}
					},
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
