package table

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"nekoq/services/command"
)

// What an entry of puts costs the state: keys that are written over and over, in
// entries of several sizes. The processor time is that of the whole process, the
// commits to the file and the garbage collector included.
func BenchmarkPuts(b *testing.B) {
	const keys = 10_000
	for _, size := range []int{1, 16, 64, 512} {
		b.Run(fmt.Sprintf("entry=%d", size), func(b *testing.B) {
			s := newStore(b, b.TempDir())
			rnd := rand.New(rand.NewPCG(1, 2))
			value := make([]byte, 256)
			puts := func() {
				batch := make([]command.Command, size)
				for i := range batch {
					c := PutCommand{Key: fmt.Appendf(nil, "bench/%08d", rnd.IntN(keys)), Value: value, IfRevision: AnyRevision}
					batch[i] = command.Command{Kind: KindPut, Payload: c.Encode()}
				}
				s.apply(batch...)
				s.events = s.events[:0]
			}
			for range 2 * keys / size {
				puts()
			}
			b.ReportAllocs()
			cpu, n := processCPU(b), 0
			for b.Loop() {
				puts()
				n += size
			}
			b.ReportMetric(float64((processCPU(b)-cpu).Nanoseconds())/float64(n), "cpu-ns/put")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/put")
		})
	}
}
