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
	for i := range times {
		value := append(make([]byte, 255), byte(s.index+uint64(i)))
		for at := 0; at < keys; {
			var batch []command.Command
			for ; at < keys && len(batch) < command.MaxBatchCommands; at++ {
				c := PutCommand{Key: fmt.Appendf(nil, "bench/%08d", at), Value: value, IfRevision: AnyRevision}
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
	cpu := processCPU(b)
	for b.Loop() {
		r, err := q.Range(req, bytes.Clone)
		if err != nil || r.Count != uint64(keys) {
			b.Fatal(err, r.Count)
		}
	}
	b.ReportMetric(float64((processCPU(b)-cpu).Microseconds())/1000/float64(b.N), "cpu-ms/op")
}

// What else reads the history of many keys: the changes since a revision with their
// records, as a watch wants them that begins there, what differs between two revisions,
// all of it and the first 100, and a rollback.
func BenchmarkPast(b *testing.B) {
	const keys = 50_000
	for _, times := range []int{1, 4, 20} {
		b.Run(fmt.Sprintf("times=%d", times), func(b *testing.B) {
			s := openStore(b)
			fillOver(b, s, keys, 1)
			then := s.meta().Revision
			fillOver(b, s, keys, times)
			if err := s.m.Flush(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.Run("changes", func(b *testing.B) {
				v := s.m.View()
				defer v.Release()
				n, cpu := 0, processCPU(b)
				for b.Loop() {
					err := ReadChanges(v, then+1, s.meta().Revision, func(*Log) bool { return true }, func(l *Log, rec *Record) bool {
						n++
						return rec.ModRevision == l.Revision
					})
					if err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64((processCPU(b)-cpu).Nanoseconds())/float64(n), "cpu-ns/change")
			})
			for _, most := range []int{keys, 100} {
				b.Run(fmt.Sprintf("diff=%d", most), func(b *testing.B) { benchDiff(b, s, then, most) })
			}
		})
	}
}

func benchDiff(b *testing.B, s *store, then uint64, most int) {
	v := s.m.View()
	defer v.Release()
	b.ReportAllocs()
	cpu := processCPU(b)
	for b.Loop() {
		n := 0
		if err := Diff(v, nil, nil, then, s.meta().Revision, func(Difference) bool { n++; return n < most }); err != nil || n != most {
			b.Fatal(n, err)
		}
	}
	b.ReportMetric(float64((processCPU(b)-cpu).Microseconds())/1000/float64(b.N), "cpu-ms/op")
}
