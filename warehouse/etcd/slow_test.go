package etcd_test

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Clients that do not read their watches cost the server bounded memory, do not hold
// up other watches, not even on the same connection, and are given everything from
// the history when they read at last.
func TestWatchersThatDoNotRead(t *testing.T) {
	n := node(t)
	c := client(t, n)
	ctx := within(t, 2*time.Minute)
	const slow, writes, size = 2, 800, 96 << 10 // fewer than the events that wait for one watch
	create := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("s/"), RangeEnd: []byte("s0")}}}
	var streams []pb.Watch_WatchClient
	var shared pb.WatchClient
	for range slow {
		shared = pb.NewWatchClient(wire(t, n.EtcdAddr().String()))
		s, err := shared.Watch(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(create); err != nil {
			t.Fatal(err)
		}
		if r, err := s.Recv(); err != nil || !r.Created {
			t.Fatalf("%v %v", r, err)
		}
		streams = append(streams, s)
	}
	quick, err := shared.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := quick.Send(create); err != nil {
		t.Fatal(err)
	}
	if _, err := quick.Recv(); err != nil {
		t.Fatal(err)
	}

	before := heap()
	first, err := c.Put(ctx, "none", "x")
	if err != nil {
		t.Fatal(err)
	}
	go writeLarge(ctx, t, c, writes, size)
	inOrder(t, "a watch that reads", quick, first.Header.Revision, writes)
	// Without any watch some 32 MiB of what was written last are in memory (flush_bytes).
	const bound = 56 << 20
	eventually(t, fmt.Sprintf("memory is bounded while %d MiB wait for %d clients", writes*size>>20, slow), func() bool {
		return heap() < before+bound
	})
	for i, s := range streams {
		inOrder(t, fmt.Sprintf("slow watch %d", i), s, first.Header.Revision, writes)
	}
}

func writeLarge(ctx context.Context, t *testing.T, c *clientv3.Client, writes, size int) {
	for i := range writes {
		value := bytes.Repeat([]byte{byte('a' + i%26)}, size)
		if _, err := c.Put(ctx, fmt.Sprintf("s/%d", i%16), string(value)); err != nil {
			t.Error(err)
			return
		}
	}
}

// inOrder wants every revision after rev once.
func inOrder(t *testing.T, what string, s pb.Watch_WatchClient, rev int64, events int) {
	t.Helper()
	for n := 0; n < events; {
		r, err := s.Recv()
		if err != nil {
			t.Fatalf("%s after %d events: %v", what, n, err)
		}
		if r.Canceled {
			t.Fatalf("%s after %d events: %v", what, n, r)
		}
		for _, e := range r.Events {
			if rev++; e.Kv.ModRevision != rev {
				t.Fatalf("%s: revision %d comes where %d is next", what, e.Kv.ModRevision, rev)
			}
			n++
		}
	}
}

// trap: the answer to a request for progress goes to all watches of the stream, so it
// has to be true of those too that were created after it was asked.
func TestProgressOfWatchesThatCameLater(t *testing.T) {
	n := node(t)
	c := client(t, n)
	ctx := within(t, time.Minute)
	const short, long, size = 40, 160, 100 << 10
	value := string(bytes.Repeat([]byte("v"), size))
	for i := range long {
		if i < short {
			if _, err := c.Put(ctx, "short", value); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.Put(ctx, "long", value); err != nil {
			t.Fatal(err)
		}
	}
	k := newTalk(t, n.EtcdAddr().String())
	k.create(&pb.WatchCreateRequest{Key: []byte("short"), StartRevision: 1})
	if err := k.s.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}); err != nil {
		t.Fatal(err)
	}
	k.create(&pb.WatchCreateRequest{Key: []byte("long"), StartRevision: 1})
	created, seen, told := 0, map[int64]int{}, false
	want := map[int64]int{0: short, 1: long}
	for !told {
		r := k.next()
		seen[r.WatchId] += len(r.Events)
		switch {
		case r.Created:
			created++
		case r.WatchId == -1:
			told = true
			if r.Header.Revision < short+long+1 {
				t.Errorf("told progress %d", r.Header.Revision)
			}
			for id := range created {
				if seen[int64(id)] != want[int64(id)] {
					t.Errorf("progress is told to watch %d after %d of %d events", id, seen[int64(id)], want[int64(id)])
				}
			}
		}
	}
	if created < 2 {
		t.Error("the second watch was created after the answer: nothing tested")
	}
}
