package etcd_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Beats of one stream are answered in the order in which they came, those of leases
// that are gone among them, and all of them before the stream ends.
func TestBeatsInOrder(t *testing.T) {
	a := single(t)
	c := pb.NewLeaseClient(wire(t, a.EtcdAddr().String()))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ttls := map[int64]int64{}
	for id := int64(1); id <= 40; id++ {
		if id%4 == 0 {
			ttls[id] = 0
			continue
		}
		l, err := c.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id, TTL: 100 + id})
		if err != nil {
			t.Fatal(err)
		}
		ttls[id] = l.TTL
	}
	s, err := c.LeaseKeepAlive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	const beats = 2000
	lease := func(i int) int64 { return int64(i*i%40 + 1) }
	sent := make(chan error, 1)
	go func() {
		for i := range beats {
			if err := s.Send(&pb.LeaseKeepAliveRequest{ID: lease(i)}); err != nil {
				sent <- err
				return
			}
		}
		sent <- s.CloseSend()
	}()
	last := int64(0)
	for i := range beats {
		r, err := s.Recv()
		if err != nil {
			t.Fatalf("beat %d: %v", i, err)
		}
		if r.ID != lease(i) || r.TTL != ttls[r.ID] || r.Header.Revision < last {
			t.Fatalf("beat %d of lease %d: %v, want a TTL of %d", i, lease(i), r, ttls[lease(i)])
		}
		last = r.Header.Revision
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Fatalf("after the last beat: %v", err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}
