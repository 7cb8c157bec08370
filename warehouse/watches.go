package warehouse

import (
	"context"
	"sync"
	"time"

	"nekoq/services/errs"
	"nekoq/warehouse/api"
)

// Step is one step of one of many watches: a batch, or the error that ended it
// (compacted, with the compact revision in it).
type Step struct {
	ID    int64
	Batch api.WatchBatch
	Err   error
}

// Watches are many watches read by one goroutine, with no goroutine a watch: a
// connection with thousands of them costs their buffers only. Add, Remove, Progress
// and Close may be called by any goroutine, Next by one.
type Watches struct {
	s *Service

	mu     sync.Mutex // never held while the hub is called
	byID   map[int64]*member
	ready  []*member
	head   int
	closed bool
	wake   chan struct{} // capacity 1

	onIdle func() // before Next waits or reads history; Next's own

	stepping sync.Mutex // held while a watcher is used; before mu
	look     time.Time  // when idle watches are moved forward next; Next's own
}

// member is one watch of the set. Its Watcher belongs to Next's goroutine once it has
// begun.
type member struct {
	id       int64
	w        *Watcher
	set      *Watches
	queued   bool // set.mu
	begun    bool // set.mu
	removed  bool // set.mu
	progress bool // set.mu: Progress asked
	err      error
}

// NewWatches makes an empty set.
func (s *Service) NewWatches() *Watches {
	return &Watches{s: s, byID: make(map[int64]*member), wake: make(chan struct{}, 1), look: s.clock.Now().Add(s.cfg.WatchProgress)}
}

// Add begins a watch under an id that the set does not have, and gives the revision
// after which it begins: no later change is missed. A revision below the compact
// revision is no error here: Next gives the compacted error.
func (ws *Watches) Add(ctx context.Context, id int64, req *api.WatchRequest) (from uint64, err error) {
	m := &member{id: id, set: ws}
	ws.mu.Lock()
	_, dup := ws.byID[id]
	closed := ws.closed
	if !dup && !closed {
		ws.byID[id] = m
	}
	ws.mu.Unlock()
	switch {
	case closed:
		return 0, errs.New(errs.Canceled, "the watches are closed")
	case dup:
		return 0, errs.New(errs.AlreadyExists, "watch %d exists already", id)
	}
	w, err := ws.s.newWatcher(req, m.notify)
	if err == nil {
		if err = w.begin(ctx); errs.Has(err, errs.Compacted) {
			m.err, err = err, nil
		}
		if err != nil {
			w.Close()
		}
	}
	ws.mu.Lock()
	if err != nil || m.removed {
		if ws.byID[id] == m {
			delete(ws.byID, id)
		}
		ws.mu.Unlock()
		if err == nil {
			w.Close()
			err = errs.New(errs.Canceled, "the watch was removed")
		}
		return 0, err
	}
	m.w, m.begun, from = w, true, w.From()
	ws.enqueue(m) // the past, and what came since the subscription
	ws.mu.Unlock()
	ws.signal()
	return from, nil
}

// notify is called by the hub's dispatcher.
func (m *member) notify() {
	ws := m.set
	ws.mu.Lock()
	first := m.begun && ws.enqueue(m)
	ws.mu.Unlock()
	if first {
		ws.signal()
	}
}

// enqueue puts m among the ready ones; the caller holds mu.
func (ws *Watches) enqueue(m *member) bool {
	if m.queued || m.removed {
		return false
	}
	m.queued = true
	ws.ready = append(ws.ready, m)
	return true
}

func (ws *Watches) signal() {
	select {
	case ws.wake <- struct{}{}:
	default:
	}
}

// Remove ends a watch; Next gives nothing of it that it has not begun to give. False:
// there is none.
func (ws *Watches) Remove(id int64) bool {
	ws.mu.Lock()
	m := ws.byID[id]
	if m == nil {
		ws.mu.Unlock()
		return false
	}
	delete(ws.byID, id)
	m.removed = true
	begun := m.begun
	ws.enqueueRemoved(m)
	ws.mu.Unlock()
	if begun {
		ws.signal()
	}
	return true
}

// enqueueRemoved lets Next close the watcher, which is its own.
func (ws *Watches) enqueueRemoved(m *member) {
	if m.begun && !m.queued {
		m.queued = true
		ws.ready = append(ws.ready, m)
	}
}

// Progress makes Next give an empty batch for id, with the revision up to which all
// events have been given, as soon as it has caught up.
func (ws *Watches) Progress(id int64) {
	ws.mu.Lock()
	m := ws.byID[id]
	first := false
	if m != nil {
		m.progress = true
		first = m.begun && ws.enqueue(m)
	}
	ws.mu.Unlock()
	if first {
		ws.signal()
	}
}

// OnIdle has f called each time before Next waits for news or reads a stretch of the
// history, of which there may be many in a row, so that what was put off gets done. It is
// set before the first Next.
func (ws *Watches) OnIdle(f func()) { ws.onIdle = f }

// Next blocks for the next step of any watch. The batches of one watch are whole
// revisions, in order, without gaps or repeats; empty ones tell the progress that was
// asked for. After an error of its own a watch is gone.
func (ws *Watches) Next(ctx context.Context) (Step, error) {
	for {
		m, closed := ws.pop()
		if closed {
			return Step{}, errs.New(errs.Canceled, "the watches are closed")
		}
		if m == nil {
			if err := ws.idle(ctx); err != nil {
				return Step{}, err
			}
			continue
		}
		if step, ok := ws.step(ctx, m); ok {
			return step, nil
		}
		if err := ctx.Err(); err != nil {
			return Step{}, errs.From(err)
		}
	}
}

func (ws *Watches) pop() (m *member, closed bool) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.closed {
		return nil, true
	}
	if ws.head == len(ws.ready) {
		ws.ready, ws.head = ws.ready[:0], 0
		return nil, false
	}
	m = ws.ready[ws.head]
	ws.ready[ws.head] = nil
	ws.head++
	m.queued = false
	return m, false
}

// step carries one watch a bounded way forward. ok: there is something to tell.
func (ws *Watches) step(ctx context.Context, m *member) (Step, bool) {
	ws.stepping.Lock()
	defer ws.stepping.Unlock()
	ws.mu.Lock()
	removed, closed := m.removed, ws.closed
	ws.mu.Unlock()
	if removed || closed {
		m.w.Close()
		return Step{}, false
	}
	err := m.err
	var b api.WatchBatch
	more := false
	if err == nil {
		if m.w.behind && ws.onIdle != nil {
			ws.onIdle()
		}
		b, more, err = m.w.advance(ctx)
	}
	if err != nil {
		if ctx.Err() != nil { // the caller's end, not the watch's
			ws.again(m)
			return Step{}, false
		}
		ws.mu.Lock()
		delete(ws.byID, m.id)
		m.removed = true
		ws.mu.Unlock()
		m.w.Close()
		return Step{ID: m.id, Err: err}, true
	}
	if more {
		ws.again(m)
	}
	if len(b.Events) > 0 {
		ws.s.metrics.events.Add(float64(len(b.Events)))
		return Step{ID: m.id, Batch: b}, true
	}
	if more {
		return Step{}, false
	}
	return ws.told(ctx, m)
}

// told answers a progress request of a watch that has nothing left to give.
func (ws *Watches) told(ctx context.Context, m *member) (Step, bool) {
	ws.mu.Lock()
	asked := m.progress
	ws.mu.Unlock()
	if !asked {
		return Step{}, false
	}
	b, err := m.w.progress(ctx)
	if err != nil || len(b.Events) > 0 || b.Revision == 0 {
		ws.again(m)
		if err == nil && len(b.Events) > 0 {
			return Step{ID: m.id, Batch: b}, true
		}
		return Step{}, false
	}
	ws.mu.Lock()
	m.progress = false
	ws.mu.Unlock()
	return Step{ID: m.id, Batch: b}, true
}

func (ws *Watches) again(m *member) {
	ws.mu.Lock()
	ws.enqueue(m)
	ws.mu.Unlock()
}

// idle waits for news. Now and then it moves the watches that nothing happens to
// forward, so that compaction never overtakes a watch that has missed nothing.
func (ws *Watches) idle(ctx context.Context) error {
	d := ws.look.Sub(ws.s.clock.Now())
	if d <= 0 {
		if err := ws.settle(ctx); err != nil {
			return err
		}
		ws.look = ws.s.clock.Now().Add(ws.s.cfg.WatchProgress)
		return nil
	}
	if ws.onIdle != nil {
		ws.onIdle()
	}
	t := ws.s.clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-ws.wake:
		return nil
	case <-t.C():
		return nil
	case <-ctx.Done():
		return errs.From(ctx.Err())
	}
}

func (ws *Watches) settle(ctx context.Context) error {
	ws.stepping.Lock()
	defer ws.stepping.Unlock()
	rev, ok, err := ws.s.settled(ctx)
	if err != nil || !ok {
		return err
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, m := range ws.byID {
		// One that is queued has news; any that came after settled queues it.
		if m.begun && !m.queued && !m.removed && !m.w.behind && m.err == nil {
			m.w.reached(rev, true)
		}
	}
	return nil
}

// Len is the number of watches in the set.
func (ws *Watches) Len() int {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return len(ws.byID)
}

// Close ends all watches. Next, which may be waiting, fails from now on.
func (ws *Watches) Close() {
	ws.mu.Lock()
	if ws.closed {
		ws.mu.Unlock()
		return
	}
	ws.closed = true
	all := make([]*Watcher, 0, len(ws.byID))
	for _, m := range ws.byID {
		m.removed = true
		if m.begun {
			all = append(all, m.w)
		}
	}
	for _, m := range ws.ready[ws.head:] { // removed ones that Next has not closed
		if ws.byID[m.id] != m && m.begun {
			all = append(all, m.w)
		}
	}
	clear(ws.byID)
	ws.mu.Unlock()
	ws.stepping.Lock()
	defer ws.stepping.Unlock()
	for _, w := range all {
		w.Close()
	}
	ws.signal()
}

// advance carries the watch a bounded way forward without waiting. more: it is to be
// called again soon.
func (w *Watcher) advance(ctx context.Context) (b api.WatchBatch, more bool, err error) {
	if !w.behind {
		evs, perr := w.live.Poll()
		switch {
		case errs.Has(perr, errs.WatcherTooSlow), errs.Has(perr, errs.WatchReset):
			w.resubscribe()
		case perr != nil:
			return b, false, perr
		case len(evs) == 0:
			return b, false, nil
		default:
			b, err = w.fromLive(ctx, evs)
			return b, true, err
		}
	}
	b, err = w.catchUp(ctx)
	return b, true, err
}

// prefixCounts counts the open watches below prefixes that limit them.
type prefixCounts struct {
	mu sync.Mutex
	n  map[string]int
}

func (p *prefixCounts) count(prefix []byte) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.n[string(prefix)]
}

func (p *prefixCounts) drop(prefixes []string) {
	if len(prefixes) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range prefixes {
		if p.n[k]--; p.n[k] <= 0 {
			delete(p.n, k)
		}
	}
}
