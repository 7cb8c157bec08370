package warehouse

import (
	"bytes"
	"context"
	"errors"
	"time"

	"nekoq/services/errs"
	"nekoq/services/replica"
	"nekoq/services/state"
	"nekoq/services/watch"
	"nekoq/warehouse/api"
	"nekoq/warehouse/internal/table"
)

// maxStretchRows bounds the history rows that one step of catching up reads.
const maxStretchRows = 16 << 10

// Watcher is one watch, read by one goroutine. It holds no goroutine of its own and
// bounded memory: a reader that falls behind the node's event buffer goes on from
// the history, and learns by a compacted error when the history is gone.
type Watcher struct {
	s   *Service
	req api.WatchRequest
	end []byte // as the tables take it: nil for none
	// next is the first revision not yet delivered.
	next   uint64
	live   watch.Subscription
	behind bool // the history has more than what the live part gave
	closed bool
	system bool   // sees the system's keys: locks and elections wait with it
	notify func() // set by Watches
	quotas []string
}

// Watch begins a watch. Its first batch is the past from req.After on, where there
// is any. The revision must not lie ahead of the store nor before its compaction.
func (s *Service) Watch(ctx context.Context, req *api.WatchRequest) (*Watcher, error) {
	w, err := s.newWatcher(req, nil)
	if err != nil {
		return nil, err
	}
	if err := w.begin(ctx); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// newWatcher makes a watch that is subscribed and has yet to begin.
func (s *Service) newWatcher(req *api.WatchRequest, notify func()) (*Watcher, error) {
	s.metrics.watches.Inc()
	if err := s.checkWatch(req); err != nil {
		return nil, err
	}
	if n := s.watchers.Add(1); n > s.cfg.MaxWatchers {
		s.watchers.Add(-1)
		return nil, errs.New(errs.TooManyRequests, "too many watches: the limit is warehouse.max_watchers = %d", s.cfg.MaxWatchers).
			With(errs.Detail{Field: "warehouse.max_watchers", Limit: itoa(s.cfg.MaxWatchers)})
	}
	w := &Watcher{s: s, req: *req, end: bound(req.End), notify: notify}
	w.req.Start = bytes.Clone(req.Start)
	w.end = bytes.Clone(w.end)
	if req.Exact {
		w.end = append(bytes.Clone(req.Start), 0)
	}
	if err := w.countPrefix(); err != nil {
		s.watchers.Add(-1)
		return nil, err
	}
	w.subscribe()
	return w, nil
}

func (s *Service) checkWatch(req *api.WatchRequest) error {
	if req.From != 0 && (req.After != 0 || req.Now) {
		return errs.Invalid("from", req.From, "from, or after, or now")
	}
	if req.Exact {
		return s.checkKey(req.Start)
	}
	if err := s.checkBound("start", req.Start); err != nil {
		return err
	}
	if err := s.checkBound("end", req.End); err != nil {
		return err
	}
	if bytes.HasPrefix(req.Start, systemPrefix) {
		return s.checkKey(append(bytes.Clone(req.Start), 'x'))
	}
	return nil
}

// subscribe comes before the view that decides where the history ends, so that no
// event falls between the two.
func (w *Watcher) subscribe() {
	f := watch.Filter{Topic: watch.TopicKV, Start: w.req.Start, End: w.end}
	switch {
	case w.req.Exact:
		f.End = nil
	case w.end == nil:
		f.End = []byte{0}
	}
	if w.notify == nil {
		w.live = w.s.events.Subscribe(f, w.s.cfg.WatchBuffer)
		return
	}
	w.live = w.s.events.SubscribeNotify(f, w.s.cfg.WatchBuffer, w.notify)
}

func (w *Watcher) begin(ctx context.Context) error {
	v, err := w.s.view(ctx, false)
	if err != nil {
		return err
	}
	defer v.Release()
	switch {
	case w.req.Now:
		w.next = v.meta.Revision + 1
		return nil
	case w.req.From > v.meta.Revision:
		w.next = w.req.From // what comes before it is left out
		return nil
	case w.req.From > 0:
		w.req.After = w.req.From - 1
	}
	if w.req.After > v.meta.Revision {
		return table.FutureRevision(w.req.After, v.meta.Revision)
	}
	w.next = w.req.After + 1
	w.behind = w.next <= v.meta.Revision
	if w.behind && w.next < v.meta.Compact {
		return w.overtaken(v.meta.Compact)
	}
	return nil
}

// From is the revision up to which nothing is left to deliver: a new watch after it
// goes on where this one stands.
func (w *Watcher) From() uint64 { return w.next - 1 }

func (w *Watcher) overtaken(compact uint64) error {
	w.s.metrics.compacted.Inc()
	return table.CompactedError(w.next-1, compact)
}

// Next blocks for the next batch: whole revisions, in order, without gaps or
// repeats. After warehouse.watch_progress without any it gives an empty batch with
// the revision it has reached. It may be called again when its context ended; any
// other error ends the watch.
func (w *Watcher) Next(ctx context.Context) (api.WatchBatch, error) {
	for {
		if w.closed {
			return api.WatchBatch{}, errs.New(errs.Canceled, "the watch is closed")
		}
		next := w.follow
		if w.behind {
			next = w.catchUp
		}
		b, err := next(ctx)
		if err != nil {
			return api.WatchBatch{}, err
		}
		if len(b.Events) == 0 && (w.behind || b.Revision == 0) {
			continue // the live part was lost, or a long stretch was of other keys
		}
		w.s.metrics.events.Add(float64(len(b.Events)))
		return b, nil
	}
}

// NextEvents is Next without the empty batches.
func (w *Watcher) NextEvents(ctx context.Context) (api.WatchBatch, error) {
	for {
		b, err := w.Next(ctx)
		if err != nil || len(b.Events) > 0 {
			return b, err
		}
	}
}

// Past gives the events that the history has now, one batch of them, without
// waiting for more.
func (w *Watcher) Past(ctx context.Context) (api.WatchBatch, error) {
	for w.behind {
		b, err := w.catchUp(ctx)
		if err != nil || len(b.Events) > 0 {
			return b, err
		}
	}
	return api.WatchBatch{Revision: w.From()}, nil
}

// Close ends the watch. It is called once, by the reader.
func (w *Watcher) Close() {
	if w.closed {
		return
	}
	w.closed = true
	w.s.watchers.Add(-1)
	w.s.perPrefix.drop(w.quotas)
	if w.live != nil {
		w.live.Close()
	}
}

// follow waits for live events. It sets behind when the history has to be read.
func (w *Watcher) follow(ctx context.Context) (api.WatchBatch, error) {
	idle, stop := w.idle(ctx)
	evs, err := w.live.Next(idle)
	quiet := idle.Err() != nil && ctx.Err() == nil
	stop()
	switch {
	case err == nil:
		return w.fromLive(ctx, evs)
	case errs.Has(err, errs.WatcherTooSlow), errs.Has(err, errs.WatchReset):
		w.resubscribe()
		return api.WatchBatch{}, nil
	case quiet:
		return w.progress(ctx)
	}
	return api.WatchBatch{}, err
}

// resubscribe goes on from the history after the live part was lost.
func (w *Watcher) resubscribe() {
	w.live.Close()
	w.subscribe()
	w.behind = true
	w.s.metrics.caughtUp.Inc()
}

// idle bounds the wait for events, so that an idle watch reports its progress.
func (w *Watcher) idle(ctx context.Context) (context.Context, context.CancelFunc) {
	if d, ok := ctx.Deadline(); ok && time.Until(d) <= w.s.cfg.WatchProgress {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, w.s.cfg.WatchProgress)
}

// fromLive turns hub events into a batch. Those that the history gave already are
// left out.
func (w *Watcher) fromLive(ctx context.Context, evs []watch.Event) (b api.WatchBatch, err error) {
	var past state.Reader // opened when the first event needs an older or a large version
	defer func() {
		if v, ok := past.(*state.View); ok {
			v.Release()
		}
	}()
	last := uint64(0)
	for i := range evs {
		c, ok := evs[i].Data.(*table.Change)
		if !ok {
			return b, errs.New(errs.Internal, "internal error").Wrap(errors.New("warehouse: an event of another kind"))
		}
		if c.Revision < w.next {
			continue
		}
		last = c.Revision
		if w.filtered(c.Kind) || (!w.system && bytes.HasPrefix(c.Key, systemPrefix)) {
			continue
		}
		if past == nil && (c.Row == nil || w.req.Prev && c.Prev != 0) {
			// The events have left the buffer: a context that ends now must not lose them.
			v, _, err := w.s.replica.View(context.WithoutCancel(ctx), replica.Stale)
			if err != nil {
				return b, err
			}
			past = v
		}
		e, ok, err := w.present(past, c)
		if err != nil {
			return b, damaged(err)
		}
		if !ok { // compaction was faster: the history tells
			b.Events = wholeBefore(b.Events, c.Revision)
			last = c.Revision - 1
			w.behind = true
			break
		}
		b.Events = append(b.Events, e)
	}
	if last >= w.next {
		w.next = last + 1
	}
	if len(b.Events) > 0 {
		b.Revision = w.next - 1
	}
	if len(b.Events) > 0 || w.behind {
		return b, nil
	}
	return b, ctx.Err()
}

func (w *Watcher) filtered(k table.ChangeKind) bool {
	return w.req.NoPut && k == table.Put || w.req.NoDelete && k == table.Delete
}

// present makes the event of a change that just happened. What the change does not
// carry is read from past; not ok: it is gone already.
func (w *Watcher) present(past state.Reader, c *table.Change) (e api.Event, ok bool, err error) {
	var rec table.Record
	if c.Row != nil {
		rec, err = table.DecodeRecord(c.Row)
	} else if rec, ok, err = table.Version(past, c.Key, c.Revision); err == nil && !ok {
		return e, false, nil
	} else {
		rec.Value = bytes.Clone(rec.Value)
	}
	if err != nil {
		return e, false, err
	}
	e = event(api.EventKind(c.Kind), c.Sub, c.Key, &rec, c.Prev)
	if !w.req.Prev || c.Prev == 0 {
		return e, true, nil
	}
	prev, ok, err := table.Superseded(past, c.Revision, c.Sub)
	if err == nil && ok {
		e.Prev = new(api.KV)
		table.FillKV(e.Prev, c.Key, &prev)
		e.Prev.Value = bytes.Clone(prev.Value)
	}
	return e, true, err
}

// wholeBefore cuts the events of revision rev and later off.
func wholeBefore(evs []api.Event, rev uint64) []api.Event {
	n := len(evs)
	for n > 0 && evs[n-1].KV.ModRevision >= rev {
		n--
	}
	return evs[:n]
}

func event(kind api.EventKind, sub uint32, key []byte, rec *table.Record, prev uint64) api.Event {
	e := api.Event{Kind: kind, Sub: sub, PrevRevision: prev}
	table.FillKV(&e.KV, key, rec)
	return e
}

// progress tells an idle watch how far it has come: to the newest revision, when no
// event of it is on the way.
func (w *Watcher) progress(ctx context.Context) (api.WatchBatch, error) {
	rev, ok, err := w.s.settled(ctx)
	if err != nil {
		return api.WatchBatch{}, err
	}
	evs, err := w.live.Poll()
	switch {
	case len(evs) > 0:
		return w.fromLive(ctx, evs)
	case err != nil: // lagged or reset: the next step tells
		return api.WatchBatch{}, nil
	}
	return w.reached(rev, ok), nil
}

// reached notes that a watch without waiting events has seen all up to rev, when the
// store has settled there.
func (w *Watcher) reached(rev uint64, settled bool) api.WatchBatch {
	if settled {
		w.next = max(w.next, rev+1)
	}
	return api.WatchBatch{Revision: min(w.next-1, rev)}
}

// settled gives the newest revision of this node, and whether the events of all
// revisions up to it stand in the buffers of their watches.
func (s *Service) settled(ctx context.Context) (rev uint64, ok bool, err error) {
	v, err := s.view(ctx, true)
	if err != nil {
		return 0, false, err
	}
	defer v.Release()
	at, found, err := table.StoreRevision(v.View, v.meta)
	if err != nil {
		return 0, false, damaged(err)
	}
	return v.meta.Revision, found && s.events.Dispatched() >= at, nil
}

// catchUp reads a bounded stretch of the history. At its end the watch is live
// again.
func (w *Watcher) catchUp(ctx context.Context) (api.WatchBatch, error) {
	var b api.WatchBatch
	if err := ctx.Err(); err != nil {
		return b, err
	}
	v, _, err := w.s.replica.View(ctx, replica.Stale)
	if err != nil {
		return b, err
	}
	defer v.Release()
	m, err := table.ReadMeta(v)
	if err != nil {
		return b, damaged(err)
	}
	if m.Revision < w.next { // nothing new on this node
		w.behind = false
		return api.WatchBatch{Revision: min(w.next-1, m.Revision)}, nil
	}
	if w.next < m.Compact {
		return b, w.overtaken(m.Compact)
	}
	last, err := w.stretch(v, m, &b)
	if err != nil {
		return b, damaged(err)
	}
	b.Revision, w.next = last, last+1
	w.behind = last < m.Revision
	return b, nil
}

// stretch adds the changes from w.next on to b until it is full, and gives the last
// revision that it has covered as a whole.
func (w *Watcher) stretch(v state.Reader, m table.Meta, b *api.WatchBatch) (last uint64, err error) {
	last = m.Revision
	room, rows := w.s.cfg.WatchBatchBytes, maxStretchRows
	prevRev := uint64(0)
	want := func(l *table.Log) bool { return !w.filtered(l.Kind) && w.wants(l.Key) }
	serr := table.ReadChanges(v, w.next, m.Revision, want, func(l *table.Log, rec *table.Record) bool {
		if l.Revision != prevRev && (room <= 0 || rows <= 0) {
			last = l.Revision - 1
			return false
		}
		prevRev = l.Revision
		rows--
		if rec == nil {
			return true
		}
		var e api.Event
		if e, err = w.past(l, rec); err != nil {
			return false
		}
		room -= int64(len(e.KV.Key) + len(e.KV.Value) + 64)
		if e.Prev != nil {
			room -= int64(len(e.Prev.Value))
		}
		b.Events = append(b.Events, e)
		return true
	})
	return last, errors.Join(err, serr)
}

func (w *Watcher) wants(key []byte) bool {
	return bytes.Compare(key, w.req.Start) >= 0 && (w.end == nil || bytes.Compare(key, w.end) < 0) &&
		(w.system || !bytes.HasPrefix(key, systemPrefix))
}

// past makes the event of a log row and the record that it wrote, with values of its
// own.
func (w *Watcher) past(l *table.Log, rec *table.Record) (api.Event, error) {
	key := bytes.Clone(l.Key)
	e := event(api.EventKind(l.Kind), l.Sub, key, rec, l.Prev)
	e.KV.Value = bytes.Clone(rec.Value)
	if !w.req.Prev {
		return e, nil
	}
	prev, ok, err := l.Superseded()
	if err == nil && ok {
		e.Prev = new(api.KV)
		table.FillKV(e.Prev, key, &prev)
		e.Prev.Value = bytes.Clone(prev.Value)
	}
	return e, err
}
