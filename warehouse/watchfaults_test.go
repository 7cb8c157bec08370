package warehouse_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"nekoq/services/testkit/history"
	"nekoq/warehouse"
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

// reading puts into a feed what a watch gives until it has reached a revision.
func reading(ctx context.Context, w *warehouse.Watcher, f *history.Feed, until uint64) error {
	for f.At() < until {
		b, err := w.Next(ctx)
		if rev, ok := api.CompactRevision(err); ok {
			f.Compacted(rev)
			return err
		}
		if err != nil {
			return err
		}
		f.Batch(b.Revision, asEvents(&b)...)
	}
	return nil
}

// logOf reads the whole history of a store that was never compacted.
func logOf(ctx context.Context, t *testing.T, kv *warehouse.Service) (log *history.Log, head uint64) {
	t.Helper()
	h, err := kv.Head(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	w, err := kv.Watch(ctx, &api.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	f := history.NewFeed("the history", 0, nil)
	if err := reading(ctx, w, f, h.Revision); err != nil {
		t.Fatal(err)
	}
	log = history.NewLog(f.Events(), h.Revision)
	if err := log.Check(); err != nil {
		t.Fatal(err)
	}
	return log, h.Revision
}

// A watch that nobody reads holds its buffer of events and no more, alone or in a set.
// It is caught up from the history, whole; and when that is gone, it is told so, and
// a new one goes on where the history begins.
func TestSlowWatchers(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	n := localNode(t, nil)
	feeds := map[*history.Feed]*warehouse.Watcher{}
	for i := range 4 {
		w, err := n.KV.Watch(ctx, &api.WatchRequest{Now: true})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		feeds[history.NewFeed(fmt.Sprint("alone ", i), 0, nil)] = w
	}
	set, inSet := n.KV.NewWatches(), []*history.Feed{}
	defer set.Close()
	for i := range 50 {
		if _, err := set.Add(ctx, int64(i), &api.WatchRequest{Now: true}); err != nil {
			t.Fatal(err)
		}
		inSet = append(inSet, history.NewFeed(fmt.Sprint("in a set ", i), 0, nil))
	}
	for i := range 8000 {
		value := bytes.Repeat([]byte{byte(i)}, 4<<10)
		if _, err := n.KV.Put(ctx, &api.PutRequest{Key: fmt.Appendf(nil, "k%d", i%100), Value: value}); err != nil {
			t.Fatal(err)
		}
	}
	log, head := logOf(ctx, t, n.KV)
	for f, w := range feeds {
		if err := reading(ctx, w, f, head-10); err != nil {
			t.Fatalf("%s: %v", f.Name, err)
		}
	}
	judgeAll(t, log, keysOf(feeds))

	if _, err := n.KV.Compact(ctx, head); err != nil {
		t.Fatal(err)
	}
	for told := 0; told < len(inSet); {
		s, err := set.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		f := inSet[s.ID]
		if rev, ok := api.CompactRevision(s.Err); ok {
			told++
			// The history is gone, so what came before this was in memory.
			if kept, most := len(f.Events()), n.KV.Limits().WatchBuffer; kept > most {
				t.Errorf("%d events were kept for a watch, the limit is %d", kept, most)
			}
			f.Compacted(rev)
			f.Begin(rev - 1)
		} else if s.Err != nil || s.Batch.Revision >= head {
			t.Fatalf("a watch that was overtaken: %+v", s)
		} else { // the few that its buffer held
			f.Batch(s.Batch.Revision, asEvents(&s.Batch)...)
		}
	}
	for i, f := range inSet {
		if _, err := set.Add(ctx, int64(100+i), &api.WatchRequest{After: f.At()}); err != nil {
			t.Fatal(err)
		}
	}
	for left := len(inSet); left > 0; left-- {
		s, err := set.Next(ctx)
		if err != nil || s.Err != nil || s.Batch.Revision != head {
			t.Fatalf("after the compact revision: %+v %v", s, err)
		}
		inSet[s.ID-100].Batch(s.Batch.Revision, asEvents(&s.Batch)...)
	}
	judgeAll(t, log, inSet)
}

func keysOf(m map[*history.Feed]*warehouse.Watcher) (out []*history.Feed) {
	for f := range m {
		out = append(out, f)
	}
	return out
}

func judgeAll(t *testing.T, log *history.Log, feeds []*history.Feed) {
	t.Helper()
	for _, f := range feeds {
		if err := log.Judge(f); err != nil {
			t.Error(err)
		}
	}
}
