package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"nekoq/client"
	"nekoq/services/testkit/process"
)

// failover prints what a follower costs and what the death of a leader costs, on
// three nodes.
func (s *settings) failover(ctx context.Context) error {
	neko, err := s.cluster(ctx, "failover", 3)
	if err != nil {
		return err
	}
	defer neko.close()
	fmt.Println("\n## Followers and the death of the leader (three nodes, one client, every put synced on a majority)")
	leader, err := neko.leader(ctx)
	if err != nil {
		return err
	}
	for _, n := range neko.nodes {
		one, err := client.New(client.Config{Endpoints: []string{n.Native}, NoDiscovery: true, Timeout: 10 * time.Second})
		if err != nil {
			return err
		}
		r, err := load(ctx, 1, s.duration, func(ctx context.Context, _, i int) error {
			_, err := one.KV().Put(ctx, key(0, i), []byte("value"))
			return err
		}, neko.cpu)
		_ = one.Close()
		if err != nil {
			return err
		}
		role := "a follower, one hop more"
		if n == leader {
			role = "the leader"
		}
		fmt.Printf("put through %s (%s): p50 %v, p99 %v\n", n.ID, role, r.p50.Round(time.Microsecond), r.p99.Round(time.Microsecond))
	}
	var times []time.Duration
	for range max(s.rounds, 5) {
		d, err := neko.killLeader(ctx)
		if err != nil {
			return err
		}
		times = append(times, d)
	}
	slices.Sort(times)
	fmt.Printf("kill -9 of the leader to the next acknowledged put: median %v, worst of %d %v\n",
		times[len(times)/2].Round(time.Millisecond), len(times), times[len(times)-1].Round(time.Millisecond))
	return nil
}

// killLeader gives the time from the kill until a put is acknowledged again, and
// starts the node anew.
func (s *nekoqSide) killLeader(ctx context.Context) (time.Duration, error) {
	leader, err := s.leader(ctx)
	if err != nil {
		return 0, err
	}
	leader.Kill()
	began := time.Now()
	if err := s.put(ctx, "failover", []byte("value")); err != nil {
		return 0, err
	}
	took := time.Since(began)
	if err := leader.Start("--set", "telemetry.log_level=warn"); err != nil {
		return 0, err
	}
	return took, leader.Ready(ctx, 30*time.Second)
}

func (s *nekoqSide) leader(ctx context.Context) (found *process.Nekoq, err error) {
	err = process.Until(ctx, 20*time.Second, func(ctx context.Context) error {
		for _, n := range s.nodes {
			b, err := n.Get(ctx, "/v1/system/node")
			if err != nil {
				continue
			}
			var self struct {
				ID       string `json:"id"`
				LeaderID string `json:"leader_id"`
			}
			if json.Unmarshal(b, &self) == nil && self.ID == self.LeaderID {
				found = n
				return nil
			}
		}
		return errors.New("no node leads")
	})
	return found, err
}
