package areas

import (
	"context"
	"strconv"

	"nekoq/services/errs"
	"nekoq/services/watch"
	"nekoq/warehouse/areas/api"
	"nekoq/warehouse/areas/internal/table"
)

// watchBuffer is the most events kept for a slow reader, who then gets the whole
// tree.
const watchBuffer = 256

// Watcher is one watch of the tree, read by one goroutine. A reader that falls
// behind gets the whole tree instead of the changes.
type Watcher struct {
	s    *Service
	live watch.Subscription
	at   uint64 // revision of the tree that the reader has
	full bool   // the next update is the whole tree
	open bool
}

// Watch begins a watch. The first update is the whole tree, unless r.After is the
// tree's present revision.
func (s *Service) Watch(ctx context.Context, r api.WatchRequest) (*Watcher, error) {
	if n := s.watchers.Add(1); n > int64(s.cfg.MaxWatchers) {
		s.watchers.Add(-1)
		return nil, errs.New(errs.TooManyRequests, "too many watches of areas: the limit is areas.max_watchers = %d", s.cfg.MaxWatchers).
			With(errs.Detail{Field: "areas.max_watchers", Limit: strconv.Itoa(s.cfg.MaxWatchers)})
	}
	w := &Watcher{s: s, at: r.After, open: true}
	w.subscribe() // before the view, so that no change falls between the two
	t, err := s.Tree(ctx, false)
	if err != nil {
		w.Close()
		return nil, err
	}
	if r.After > t.Revision() {
		w.Close()
		return nil, errs.New(errs.FutureRevision, "revision: %d lies ahead of the tree's, %d", r.After, t.Revision()).
			With(errs.Detail{Field: "revision", Value: strconv.FormatUint(r.After, 10), Limit: "at most " + strconv.FormatUint(t.Revision(), 10)})
	}
	w.full = r.After != t.Revision() || r.After == 0
	return w, nil
}

func (w *Watcher) subscribe() {
	w.live = w.s.events.Subscribe(watch.Filter{Topic: watch.TopicArea}, watchBuffer)
}

// Next blocks for the next update. It may be called again when its context ended;
// any other error ends the watch.
func (w *Watcher) Next(ctx context.Context) (api.Update, error) {
	for {
		if !w.open {
			return api.Update{}, errs.New(errs.Canceled, "the watch is closed")
		}
		if w.full {
			return w.whole(ctx)
		}
		evs, err := w.live.Next(ctx)
		switch {
		case errs.Has(err, errs.WatcherTooSlow), errs.Has(err, errs.WatchReset):
			w.live.Close()
			w.subscribe()
			w.full = true
			continue
		case err != nil:
			return api.Update{}, err
		}
		if u := w.changes(evs); u.Revision > 0 {
			return u, nil
		}
	}
}

// whole gives the tree as this node has it.
func (w *Watcher) whole(ctx context.Context) (api.Update, error) {
	t, err := w.s.Tree(ctx, true)
	if err != nil {
		return api.Update{}, err
	}
	u := api.Update{Revision: t.Revision(), Full: true, Areas: make([]api.Area, 0, t.Len())}
	t.Ascend("", func(a api.Area) bool {
		u.Areas = append(u.Areas, a)
		return true
	})
	w.at, w.full = u.Revision, false
	return u, nil
}

// changes folds events into one update: an area that was deleted and made anew
// stands in Areas, one that was made and deleted in Deleted.
func (w *Watcher) changes(evs []watch.Event) (u api.Update) {
	last := map[string]int{}
	for i := range evs {
		if evs[i].Revision > w.at {
			last[string(evs[i].Key)] = i
		}
	}
	for i := range evs {
		ev, ok := evs[i].Data.(table.Event)
		if !ok || evs[i].Revision <= w.at || last[ev.Area.Name] != i {
			continue
		}
		if ev.Deleted {
			u.Deleted = append(u.Deleted, ev.Area.Name)
		} else {
			u.Areas = append(u.Areas, ev.Area)
		}
		u.Revision = evs[i].Revision
	}
	w.at = max(w.at, u.Revision)
	return u
}

// At is the revision of the tree that the reader has.
func (w *Watcher) At() uint64 { return w.at }

// Close ends the watch. It is called by the reader.
func (w *Watcher) Close() {
	if !w.open {
		return
	}
	w.open = false
	w.s.watchers.Add(-1)
	w.live.Close()
}
