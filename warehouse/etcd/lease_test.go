package etcd_test

import (
	"context"
	"errors"
	"io"
	"slices"
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

// Leases are listed as etcd lists them: whichever ends first comes first, whatever their
// ids, and of those with one TTL the older one.
func TestLeasesAreListedByTheirEnd(t *testing.T) {
	a := single(t)
	c := pb.NewLeaseClient(wire(t, a.EtcdAddr().String()))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, l := range []struct{ id, ttl int64 }{{9, 1000}, {1, 5000}, {7, 1000}, {5, 300}, {8, 1000}} {
		if _, err := c.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: l.id, TTL: l.ttl}); err != nil {
			t.Fatal(err)
		}
	}
	r, err := c.LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var got []int64
	for _, l := range r.Leases {
		got = append(got, l.ID)
	}
	if want := []int64{5, 9, 7, 8, 1}; !slices.Equal(got, want) {
		t.Fatalf("leases %v, want %v", got, want)
	}
}

// What is left of a lease is less than its TTL from the first moment on, as with etcd:
// programs compare the two.
func TestRemainingIsLessThanGranted(t *testing.T) {
	a := single(t)
	c := pb.NewLeaseClient(wire(t, a.EtcdAddr().String()))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := c.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: 7, TTL: 900}); err != nil {
		t.Fatal(err)
	}
	r, err := c.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: 7})
	if err != nil {
		t.Fatal(err)
	}
	if r.GrantedTTL != 900 || r.TTL >= r.GrantedTTL || r.TTL < 800 {
		t.Fatalf("%d of %d s left", r.TTL, r.GrantedTTL)
	}
}
