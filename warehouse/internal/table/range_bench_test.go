package table

import (
	"bytes"
	"fmt"
	"testing"

	"nekoq/services/command"
	"nekoq/warehouse/api"
)

// What a range of a prefix costs at a revision since which all of its keys were written
// again, once and many times: rows of 256 B from the file, and with the newest ones in
// the state's overlay.
func BenchmarkRangeThen(b *testing.B) {
	for _, keys := range []int{10_000, 50_000} {
		for _, times := range []int{1, 4, 20} {
			b.Run(fmt.Sprintf("keys=%d/times=%d", keys, times), func(b *testing.B) {
				s := openStore(b)
				fillOver(b, s, keys, 1)
				then := s.meta().Revision
				fillOver(b, s, keys, times)
				b.Run("overlay", func(b *testing.B) { benchRanges(b, s, then, keys) })
				if err := s.m.Flush(b.Context()); err != nil {
					b.Fatal(err)
				}
				b.Run("file", func(b *testing.B) { benchRanges(b, s, then, keys) })
			})
		}
	}
}

func benchRanges(b *testing.B, s *store, then uint64, keys int) {
	for _, c := range []struct {
		name string
		req  api.RangeRequest
	}{
		{"all", api.RangeRequest{}},
		{"keys", api.RangeRequest{KeysOnly: true}},
		{"limit", api.RangeRequest{Limit: 100}},
		{"count", api.RangeRequest{CountOnly: true}},
	} {
		c.req.Span, c.req.Revision = api.Prefix([]byte("bench/")), then
		b.Run(c.name, func(b *testing.B) { benchRange(b, s, &c.req, keys) })
	}
}

// fillOver writes all keys, so often.
func fillOver(b *testing.B, s *store, keys, times int) {
	for range times {
		for at := 0; at < keys; {
			var batch []command.Command
			for ; at < keys && len(batch) < command.MaxBatchCommands; at++ {
				c := PutCommand{Key: fmt.Appendf(nil, "bench/%08d", at), Value: make([]byte, 256), IfRevision: AnyRevision}
				batch = append(batch, command.Command{Kind: KindPut, Payload: c.Encode()})
			}
			s.apply(batch...)
			s.events = s.events[:0]
		}
	}
}

func benchRange(b *testing.B, s *store, req *api.RangeRequest, keys int) {
	v := s.m.View()
	defer v.Release()
	q := Query{R: v, Meta: s.meta(), Counts: FrozenCounts(v)}
	b.ReportAllocs()
	for b.Loop() {
		r, err := q.Range(req, bytes.Clone)
		if err != nil || r.Count != uint64(keys) {
			b.Fatal(err, r.Count)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*keys), "ns/key")
}
