package warehouse_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"nekoq/services/errs"
	"nekoq/warehouse/api"
	"nekoq/warehouse/warehousetest"
)

// together reads a span in parts and puts them together; between runs before the
// second part is read.
func together(ctx context.Context, n *warehousetest.Node, r *api.RangeRequest, size int64, between func()) (api.RangeResult, int, error) {
	all := api.RangeResult{Items: []api.KV{}}
	parts, ended := 0, false
	err := n.KV.Parts(ctx, r, size, func(part *api.RangeResult, last bool) error {
		if ended {
			return errs.New(errs.Internal, "a part after the last one")
		}
		if parts++; parts == 1 && between != nil {
			between()
		}
		all.Items = append(all.Items, part.Items...)
		all.Header, all.More, all.Count, ended = part.Header, part.More, part.Count, last
		return nil
	})
	if err == nil && !ended {
		err = errs.New(errs.Internal, "no last part")
	}
	return all, parts, err
}

// The parts of a span are together what Range answers, whatever their size and
// whatever is written meanwhile.
func TestPartsAreTheRange(t *testing.T) {
	n := localNode(t, nil)
	ctx := context.Background()
	write := func(t *rapid.T) {
		key := fmt.Sprintf("k%02d", rapid.IntRange(0, 30).Draw(t, "key"))
		if rapid.IntRange(0, 3).Draw(t, "what") == 0 {
			_, err := n.KV.DeleteRange(ctx, &api.DeleteOp{Span: api.One([]byte(key))})
			require.NoError(t, err)
			return
		}
		_, err := n.KV.PutOne(ctx, &api.PutOp{Key: []byte(key), Value: make([]byte, rapid.IntRange(0, 300).Draw(t, "size"))})
		require.NoError(t, err)
	}
	rapid.Check(t, func(t *rapid.T) {
		for range rapid.IntRange(0, 20).Draw(t, "writes") {
			write(t)
		}
		head, err := n.KV.Head(ctx, true)
		require.NoError(t, err)
		bound := func(name string) []byte {
			return []byte(fmt.Sprintf("k%02d", rapid.IntRange(0, 31).Draw(t, name)))
		}
		r := &api.RangeRequest{
			Span:  api.Span{Key: bound("start"), End: rapid.SampledFrom([][]byte{nil, {0}, bound("end")}).Draw(t, "range_end")},
			Limit: int64(rapid.IntRange(0, 12).Draw(t, "limit")), KeysOnly: rapid.Bool().Draw(t, "keys only"),
			CountOnly: rapid.IntRange(0, 5).Draw(t, "count only") == 0, Stale: rapid.Bool().Draw(t, "stale"),
		}
		if rapid.Bool().Draw(t, "old") {
			r.Revision = max(head.Revision-min(head.Revision-1, uint64(rapid.IntRange(0, 30).Draw(t, "back"))), 1)
		}
		want, err := n.KV.Range(ctx, r)
		require.NoError(t, err)
		size := rapid.SampledFrom([]int64{1, 100, 1000, 1 << 20}).Draw(t, "size")
		got, parts, err := together(ctx, n, r, size, func() {
			for range rapid.IntRange(0, 10).Draw(t, "writes meanwhile") {
				write(t)
			}
		})
		require.NoError(t, err)
		require.Equal(t, want.Revision, got.Revision)
		require.Equal(t, want, got)
		if size == 1 {
			require.Equal(t, max(len(got.Items), 1), parts, "one item a part")
		}
	})
}

func TestPartsRefusals(t *testing.T) {
	n := localNode(t, nil)
	ctx := context.Background()
	for i := range 5 {
		_, err := n.KV.PutOne(ctx, &api.PutOp{Key: []byte(fmt.Sprint("k", i)), Value: []byte("v")})
		require.NoError(t, err)
	}
	all := api.Span{Key: []byte("k"), End: []byte("l")}
	for name, r := range map[string]*api.RangeRequest{
		"descending": {Span: all, Order: api.Descending},
		"by value":   {Span: all, SortBy: api.SortByValue},
		"min mod":    {Span: all, MinMod: 1},
		"max create": {Span: all, MaxCreate: 1},
	} {
		_, _, err := together(ctx, n, r, 1, nil)
		require.True(t, errs.Has(err, errs.Unimplemented), "%s: %v", name, err)
	}
	_, _, err := together(ctx, n, &api.RangeRequest{Span: all, Revision: 100}, 1, nil)
	require.True(t, errs.Has(err, errs.FutureRevision), "%v", err)
	_, _, err = together(ctx, n, &api.RangeRequest{Span: api.Span{Key: make([]byte, 1<<20), End: []byte{0}}}, 1, nil)
	require.Error(t, err)

	// A compaction that passes the revision ends it; an error of the reader does too.
	_, parts, err := together(ctx, n, &api.RangeRequest{Span: all}, 1, func() {
		w, err := n.KV.PutOne(ctx, &api.PutOp{Key: []byte("k9"), Value: []byte("v")})
		require.NoError(t, err)
		_, err = n.KV.CompactTo(ctx, w.Revision, false)
		require.NoError(t, err)
	})
	require.True(t, errs.Has(err, errs.Compacted), "%v", err)
	require.Equal(t, 1, parts)
	enough := errs.New(errs.Canceled, "enough")
	require.ErrorIs(t, n.KV.Parts(ctx, &api.RangeRequest{Span: all}, 1, func(*api.RangeResult, bool) error { return enough }), enough)
	gone, cancel := context.WithCancel(ctx)
	cancel()
	_, _, err = together(gone, n, &api.RangeRequest{Span: all}, 1, nil)
	require.Error(t, err)
}
