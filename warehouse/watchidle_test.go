package warehouse_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/warehouse/api"
)

// A watch that reads a long history leaves no room for idleness: what the reader of the
// set has put off, as the events of other watches, is done between the stretches.
func TestHistoryIsReadInStretchesBetweenOtherWork(t *testing.T) {
	n := localNode(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const rows, each = 40_000, 100 // more than two stretches
	for i := 0; i < rows; i += each {
		r := &api.Txn{}
		for j := range each {
			r.Then = append(r.Then, api.Op{Put: &api.PutOp{Key: fmt.Appendf(nil, "other/%d", (i+j)%1000)}})
		}
		_, err := n.KV.Txn(ctx, r)
		require.NoError(t, err)
	}
	_, err := n.KV.Put(ctx, &api.PutRequest{Key: []byte("mine"), Value: []byte("x")})
	require.NoError(t, err)
	set := n.KV.NewWatches()
	defer set.Close()
	calls := 0
	set.OnIdle(func() { calls++ })
	_, err = set.Add(ctx, 1, &api.WatchRequest{Exact: true, Start: []byte("mine"), From: 1})
	require.NoError(t, err)
	step, err := set.Next(ctx)
	require.NoError(t, err)
	require.NoError(t, step.Err)
	require.Len(t, step.Batch.Events, 1)
	require.GreaterOrEqual(t, calls, 2, "nothing was done while the history was read")
}
