package warehouse_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"nekoq/services/errs"
	"nekoq/services/testkit/history"
	"nekoq/warehouse/api"
)

// asEvent is an event as histories know it.
func asEvent(e *api.Event) history.Event {
	out := history.Event{Key: string(e.KV.Key), Revision: e.KV.ModRevision, Sub: int(e.Sub)}
	if e.Kind == api.EventDelete {
		out.Delete = true
		return out
	}
	out.Value, out.Create, out.Version = string(e.KV.Value), e.KV.CreateRevision, e.KV.Version
	return out
}

func asEvents(b *api.WatchBatch) []history.Event {
	out := make([]history.Event, len(b.Events))
	for i := range b.Events {
		out[i] = asEvent(&b.Events[i])
	}
	return out
}

// feed makes the feed of a watcher that begins at the start.
func (r *run) feed(name string, wants func(e *history.Event) bool) *history.Feed {
	f := history.NewFeed(name, 0, wants)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.feeds = append(r.feeds, f)
	return f
}

// least is what all watchers of everything have seen.
func (r *run) least() uint64 {
	least := r.full[0].At()
	for _, f := range r.full[1:] {
		least = min(least, f.At())
	}
	return max(least, 1)
}

// compact follows the watchers of everything, which it does not overtake. The others
// it may.
func (r *run) compact() {
	for n := 0; !r.stopped(); n++ {
		ctx, cancel := r.op()
		var err error
		if at := r.least(); n%8 == 7 {
			_, err = r.kv(n).CompactTo(ctx, at, true) // waits for the space
		} else {
			_, err = r.kv(n).Compact(ctx, at)
		}
		cancel()
		switch {
		case err == nil:
			r.compactions.Add(1)
		case !errs.Has(err, errs.Compacted):
			r.failed("compact", err)
		}
		r.rest(20 * time.Millisecond)
	}
}

// over tells whether a watcher has seen all there was.
func (r *run) over(f *history.Feed) bool {
	select {
	case <-r.final:
		return f.At() >= r.head
	default:
		return false
	}
}

// watchAll follows everything on a node from the first revision to the last.
func (r *run) watchAll(node int) {
	f := r.feed(fmt.Sprintf("of everything on n%d", node+1), nil)
	r.full = append(r.full, f)
	r.reader.Go(func() { r.follow(node, f, api.WatchRequest{Prev: node == 1}, 0) })
}

// watchSlowly reads a batch now and then: its memory is bounded, so it is caught up
// from the history, or told that it is gone.
func (r *run) watchSlowly() {
	f := r.feed("that is slow", nil)
	r.reader.Go(func() { r.follow(1, f, api.WatchRequest{}, 150*time.Millisecond) })
}

// follow keeps one watch going on a node, anew from where it stood when it broke.
func (r *run) follow(node int, f *history.Feed, q api.WatchRequest, pause time.Duration) {
	again := false
	for r.ctx.Err() == nil && !r.over(f) {
		if again {
			f.Begin(f.At())
		}
		again = true
		q.After = f.At()
		err := r.followOnce(node, f, &q, pause)
		if rev, ok := api.CompactRevision(err); ok {
			r.overtaken.Add(1)
			f.Compacted(rev)
			f.Begin(rev - 1)
			again = false
		} else if err != nil {
			r.failed("watch "+f.Name, err)
		}
	}
}

func (r *run) followOnce(node int, f *history.Feed, q *api.WatchRequest, pause time.Duration) error {
	start, stop := r.op()
	w, err := r.kv(node).Watch(start, q)
	stop()
	if err != nil {
		return err
	}
	defer w.Close()
	for !r.over(f) {
		step, stop := context.WithTimeout(r.ctx, 300*time.Millisecond)
		b, err := w.Next(step)
		idle := step.Err() != nil
		stop()
		switch {
		case err != nil && idle:
			continue
		case err != nil:
			return err
		}
		events := asEvents(&b)
		f.Batch(b.Revision, events...)
		r.gone(events)
		for i := range b.Events {
			if e := &b.Events[i]; e.Prev != nil && e.Prev.ModRevision != e.PrevRevision {
				r.t.Errorf("%s: the version before is of %d, not %d", events[i], e.Prev.ModRevision, e.PrevRevision)
			}
		}
		if pause > 0 && !r.stopped() {
			r.rest(pause)
		}
	}
	return nil
}

// gone tells the leases which of their keys were deleted.
func (r *run) gone(events []history.Event) {
	for _, e := range events {
		if text, ok := strings.CutPrefix(e.Key, "lease/"); ok && e.Delete {
			id, _ := strconv.ParseUint(text, 10, 64) // as tenants wrote it
			r.seenGone.Add(1)
			r.leases.Gone(id, fmt.Sprintf("its key deleted at %d", e.Revision))
		}
	}
}

// watchSet follows some of the keys on a node with watches of one set, as the doors
// do.
func (r *run) watchSet(node int) {
	has := func(prefix string) func(e *history.Event) bool {
		return func(e *history.Event) bool { return strings.HasPrefix(e.Key, prefix) }
	}
	span := func(prefix string, q api.WatchRequest) api.WatchRequest {
		q.Start, q.End = []byte(prefix), api.PrefixEnd([]byte(prefix))
		return q
	}
	name := func(of string) string { return fmt.Sprintf("of %s on n%d", of, node+1) }
	reg, lease := has("reg/"), has("lease/")
	members := []member{
		{r.feed(name("the pairs"), has("pair/")), span("pair/", api.WatchRequest{})},
		{r.feed(name("the puts of the registers"), func(e *history.Event) bool { return reg(e) && !e.Delete }), span("reg/", api.WatchRequest{NoDelete: true, Prev: true})},
		{r.feed(name("the ends of leases"), func(e *history.Event) bool { return lease(e) && e.Delete }), span("lease/", api.WatchRequest{NoPut: true})},
		{r.feed(name("one key"), func(e *history.Event) bool { return e.Key == "reg/k0" }), api.WatchRequest{Start: []byte("reg/k0"), Exact: true}},
		{r.feed(name("nothing"), has("none/")), span("none/", api.WatchRequest{})},
	}
	r.reader.Go(func() {
		for first := true; r.ctx.Err() == nil && !r.allOver(members); first = false {
			if err := r.followSet(node, members, first); err != nil {
				r.failed("set of watches", err)
			}
		}
	})
}

type member struct {
	feed *history.Feed
	req  api.WatchRequest
}

func (r *run) allOver(members []member) bool {
	for _, m := range members {
		if !r.over(m.feed) {
			return false
		}
	}
	return true
}

func (r *run) followSet(node int, members []member, first bool) error {
	ws := r.kv(node).NewWatches()
	defer ws.Close()
	add := func(id int, after uint64) error {
		q := members[id].req
		q.After = after
		ctx, stop := r.op()
		defer stop()
		_, err := ws.Add(ctx, int64(id), &q)
		return err
	}
	for id, m := range members {
		after := m.feed.At()
		if !first {
			m.feed.Begin(after)
		}
		if err := add(id, after); err != nil {
			return err
		}
	}
	for !r.allOver(members) {
		for id := range members {
			ws.Progress(int64(id))
		}
		step, stop := context.WithTimeout(r.ctx, 100*time.Millisecond)
		for {
			s, err := ws.Next(step)
			if err != nil {
				idle := step.Err() != nil
				stop()
				if !idle {
					return err
				}
				break
			}
			f := members[s.ID].feed
			if rev, ok := api.CompactRevision(s.Err); ok {
				r.overtaken.Add(1)
				f.Compacted(rev)
				f.Begin(rev - 1)
				if err := add(int(s.ID), rev-1); err != nil {
					stop()
					return err
				}
				continue
			}
			if s.Err != nil {
				stop()
				return s.Err
			}
			f.Batch(s.Batch.Revision, asEvents(&s.Batch)...)
		}
	}
	return nil
}
