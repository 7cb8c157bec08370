package raftnode_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"nekoq/services/replica"
	"nekoq/services/replica/raftnode"
	"nekoq/services/testkit/cluster"
	"nekoq/services/testkit/register"
)

// Every write is synced by the log of a majority; the nodes share one disk and
// one machine.
func BenchmarkPropose(b *testing.B) {
	for _, nodes := range []int{1, 3} {
		for _, clients := range []int{1, 64, 256} {
			for _, store := range []string{raftnode.LogStoreWAL, raftnode.LogStoreBolt} {
				b.Run(fmt.Sprintf("nodes=%d/clients=%d/%s", nodes, clients, store), func(b *testing.B) {
					c := cluster.New(b, cluster.Options{Nodes: nodes, Config: func(_ string, cfg *raftnode.Config) {
						cfg.LogStore = store
						cfg.SegmentBytes = raftnode.DefaultConfig().SegmentBytes
					}})
					node := c.WaitLeader().Replica
					run(b, clients, func(ctx context.Context, i uint64) error {
						_, err := node.Propose(ctx, register.Put(fmt.Sprint(i%1000), value256))
						return err
					})
				})
			}
		}
	}
}

func BenchmarkViewLinearizable(b *testing.B) {
	for _, where := range []string{"leader", "follower"} {
		for _, clients := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/clients=%d", where, clients), func(b *testing.B) {
				c := cluster.New(b, cluster.Options{})
				node := c.WaitLeader().Replica
				if where == "follower" {
					node = c.Followers()[0].Replica
				}
				run(b, clients, func(ctx context.Context, _ uint64) error {
					v, _, err := node.View(ctx, replica.Linearizable)
					if err == nil {
						v.Release()
					}
					return err
				})
			})
		}
	}
}

var value256 = string(make([]byte, 256))

func run(b *testing.B, clients int, op func(ctx context.Context, i uint64) error) {
	b.ReportAllocs()
	b.ResetTimer()
	var (
		next atomic.Uint64
		done = make(chan error, clients)
		n    = uint64(b.N)
	)
	for range clients {
		go func() {
			for {
				i := next.Add(1)
				if i > n {
					done <- nil
					return
				}
				if err := op(context.Background(), i); err != nil {
					done <- err
					return
				}
			}
		}()
	}
	for range clients {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
}
