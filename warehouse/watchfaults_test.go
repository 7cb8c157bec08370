package warehouse_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"nekoq/warehouse/api"
)

// A watch that is read with contexts that end, as a long poll's do, loses nothing:
// also where an event needs more than the buffer has of it.
func TestWatchOutlivesItsContexts(t *testing.T) {
	n := localNode(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	w, err := n.KV.Watch(ctx, &api.WatchRequest{Now: true, Prev: true})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ended, end := context.WithCancel(ctx)
	end()
	large := bytes.Repeat([]byte("x"), 100_000) // not kept in the buffer
	const writes = 20
	next := 2
	for i := range writes {
		value := []byte(fmt.Sprint(i))
		if i%2 == 0 {
			value = large
		}
		if _, err := n.KV.Put(ctx, &api.PutRequest{Key: []byte("k"), Value: value}); err != nil {
			t.Fatal(err)
		}
		for range 100 { // the event stands in the buffer at one of them
			b, _ := w.Next(ended)
			next += len(b.Events)
		}
	}
	for next < writes+2 {
		b, err := w.NextEvents(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for i := range b.Events {
			e := &b.Events[i]
			if e.KV.ModRevision != uint64(next) || (e.Prev == nil) != (next == 2) {
				t.Fatalf("event at revision %d (with the one before: %v), want %d", e.KV.ModRevision, e.Prev != nil, next)
			}
			next++
		}
	}
}
