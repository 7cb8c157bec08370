package idgen

import (
	"context"
	"fmt"
	"testing"
	"time"

	"nekoq/services/clock"
)

// Ids in ranges and one by one, packed and as text. One number per operation: ids/s.
func BenchmarkIDs(b *testing.B) {
	for _, l := range layouts() {
		for _, n := range []int{1, 100, 10_000} {
			b.Run(fmt.Sprintf("%s/packed/%d", l.Kind, n), func(b *testing.B) { benchmark(b, l, n, false) })
		}
		b.Run(fmt.Sprintf("%s/text/%d", l.Kind, 1000), func(b *testing.B) { benchmark(b, l, 1000, true) })
	}
}

func benchmark(b *testing.B, l Layout, n int, text bool) {
	w := newTestWorker(b, clock.System(), &leaser{})
	s := w.Stream(l)
	var buf, lines []byte
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		var err error
		if buf, err = w.Append(context.Background(), s, buf[:0], n); err != nil {
			b.Fatal(err)
		}
		if text {
			lines = l.Kind.AppendLines(lines[:0], buf)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "ids/s")
}

func BenchmarkTemplate(b *testing.B) {
	t, err := ParseTemplate("ORD-{yyyyMMdd}-{n:8}{check=luhn}", "Asia/Shanghai", ResetDay)
	if err != nil {
		b.Fatal(err)
	}
	at := time.Now()
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = t.Append(buf[:0], Number{Lo: 123456}, at)
	}
}
