package etcd_test

import (
	"context"
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// BenchmarkRangeThen is a range of 50,000 keys of 256 B at a revision since which all of
// them were written again, through the door, its client included.
func BenchmarkRangeThen(b *testing.B) {
	const keys = 50_000
	a := single(b)
	c := pb.NewKVClient(wire(b, a.EtcdAddr().String()))
	ctx := context.Background()
	fill := func(value []byte) (rev int64) {
		for at := 0; at < keys; {
			t := &pb.TxnRequest{}
			for ; len(t.Success) < 100; at++ {
				put := &pb.PutRequest{Key: fmt.Appendf(nil, "bench/%08d", at), Value: value}
				t.Success = append(t.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
			}
			res, err := c.Txn(ctx, t)
			if err != nil {
				b.Fatal(err)
			}
			rev = res.Header.Revision
		}
		return rev
	}
	value := make([]byte, 256)
	then, written := fill(value), 0
	for _, times := range []int{0, 1, 4, 20} {
		for ; written < times; written++ {
			value[0]++
			fill(value)
		}
		for name, req := range map[string]*pb.RangeRequest{
			"all": {}, "limit": {Limit: 100}, "count": {CountOnly: true},
		} {
			req.Key, req.RangeEnd, req.Revision = []byte("bench/"), []byte("bench0"), then
			b.Run(fmt.Sprintf("times=%d/%s", times, name), func(b *testing.B) {
				for b.Loop() {
					r, err := c.Range(ctx, req)
					if err != nil || r.Count != keys {
						b.Fatal(r.GetCount(), err)
					}
				}
			})
		}
	}
}
