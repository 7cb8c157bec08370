package raftnode

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"nekoq/services/errs"
)

// A change that was let in a moment before the node stopped starts no goroutine behind
// the back of those who wait for all of them.
func TestNoChangeBeginsWhileTheNodeStops(t *testing.T) {
	n := &Node{stopping: make(chan struct{}), failed: make(chan struct{})}
	n.raft.Store(new(raft.Raft))
	n.changes.stop()
	err := n.change(t.Context(), func(*raft.Raft, time.Duration) raft.Future {
		t.Error("it was begun")
		return nil
	})
	require.Equal(t, errs.ShuttingDown, errs.CodeOf(err))
	_, settled := n.changes.settled()
	require.True(t, settled)
}
