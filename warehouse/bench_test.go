package warehouse_test

import (
	"fmt"
	"testing"

	"nekoq/warehouse/api"
)

func BenchmarkPut(b *testing.B) {
	n := localNode(b, nil)
	value := make([]byte, 256)
	for _, clients := range []int{1, 64} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			b.SetParallelism(max(clients/2, 1))
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				i := 0
				for pb.Next() {
					i++
					if _, err := n.KV.Put(b.Context(), &api.PutRequest{Key: fmt.Appendf(nil, "bench/%08d", i%10000), Value: value}); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func BenchmarkGet(b *testing.B) {
	n := localNode(b, nil)
	for i := range 1000 {
		if _, err := n.KV.Put(b.Context(), &api.PutRequest{Key: fmt.Appendf(nil, "bench/%08d", i), Value: make([]byte, 256)}); err != nil {
			b.Fatal(err)
		}
	}
	key := []byte("bench/00000500")
	dst := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if dst, err = n.KV.AppendGet(b.Context(), &api.GetRequest{Key: key}, dst[:0]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkList100(b *testing.B) {
	n := localNode(b, nil)
	for i := range 10_000 {
		if _, err := n.KV.Put(b.Context(), &api.PutRequest{Key: fmt.Appendf(nil, "bench/%08d", i), Value: make([]byte, 256)}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := n.KV.List(b.Context(), &api.ListRequest{Start: []byte("bench/00005"), Limit: 100}); err != nil {
			b.Fatal(err)
		}
	}
}
