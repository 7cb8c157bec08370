package raftnode_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/services/replica/raftnode"
	"nekoq/services/testkit/cluster"
	"nekoq/services/testkit/register"
)

// Results that together, or alone, are larger than a frame reach the follower that
// forwarded the commands.
func TestLargeAnswersReachAFollower(t *testing.T) {
	t.Parallel()
	c := cluster.New(t, cluster.Options{Config: func(id string, cfg *raftnode.Config) {
		cluster.Calm(id, cfg)
		// A new leader would end the calls, and a busy machine takes its time over this much.
		cfg.HeartbeatTimeout, cfg.ElectionTimeout, cfg.LeaderLease = 4*time.Second, 4*time.Second, 4*time.Second
	}})
	ctx := within(t, 2*time.Minute)
	f := c.Followers()[0]
	const piece = 9 << 20
	want := map[string]string{}
	for key, pieces := range map[string]int{"a": 2, "b": 1, "c": 1} {
		for range pieces { // 18 MiB are more than one command may carry and one frame holds
			value := strings.Repeat(key, piece)
			_, err := f.Replica.Propose(ctx, register.Append(key, value))
			require.NoError(t, err)
			want[key] += value
		}
	}
	var wg sync.WaitGroup
	for key, old := range want {
		wg.Go(func() { // a put answers with the value before
			res, err := f.Replica.Propose(ctx, register.Put(key, "small"))
			if err != nil {
				t.Errorf("%s: %v", key, err)
				return
			}
			if string(res.Data) != old {
				t.Errorf("%s: %d bytes, want %d", key, len(res.Data), len(old))
			}
		})
	}
	wg.Wait()
	c.WaitEqual()
}
