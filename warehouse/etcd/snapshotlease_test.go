package etcd

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/warehouse"
)

// No lease has 0 seconds left in a snapshot: that is how etcd writes one that has all.
func TestSnapshotLeavesLeasesTheirTime(t *testing.T) {
	for remaining, want := range map[time.Duration]int64{-time.Second: 1, 0: 1, time.Millisecond: 1, 1001 * time.Millisecond: 2, time.Hour: 3600} {
		require.Equal(t, want, left(warehouse.LeaseInfo{TTL: time.Hour, Remaining: remaining}), remaining)
	}
}
