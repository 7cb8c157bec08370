package watch

import (
	"bytes"
	"context"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"nekoq/services/errs"
)

// The three ends of a subscription. After any of them the reader subscribes
// anew and reads what it missed from its service's history.
var (
	// ErrLagged: the reader was slower than the writer by more than its buffer.
	ErrLagged = errs.New(errs.WatcherTooSlow, "the watcher fell behind further than the server keeps; resume from the last revision seen")
	// ErrReset: the state was replaced by a snapshot.
	ErrReset = errs.New(errs.WatchReset, "the state was replaced by a snapshot; read anew and resume from there")
	// ErrClosed: the hub, or the subscription itself, was closed.
	ErrClosed = errs.New(errs.ShuttingDown, "the watch is closed")
)

// Defaults of Options.
const (
	DefaultRingEvents = 1 << 16
	DefaultBuffer     = 4096
	// chunkEvents is about how many events the dispatcher hands out between two
	// looks at the index lock, so that Subscribe never waits for a whole ring.
	chunkEvents = 1024
)

// Options of a Hub. The zero value works.
type Options struct {
	// RingEvents bounds the published events that wait for the dispatcher.
	RingEvents int
	// Buffer is the events kept for a slow reader whose Subscribe names no number.
	Buffer     int
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Hub is the event hub of one process. Publish and Reset are called by one
// goroutine; everything else by any.
//
// A batch is handed on whole: what Next returns never ends in the middle of a
// revision (as long as a revision does not span two batches), so a reader that
// lags can resume from the last revision it saw.
//
// Lock order: index.mu, then Hub.mu, then Sub.mu.
type Hub struct {
	opts    Options
	metrics metrics
	index   index

	mu     sync.Mutex
	queue  [][]Event // batches not yet taken by the dispatcher
	first  uint64    // number of the first batch in queue
	next   uint64    // number of the next batch
	queued int       // events in queue
	wanted map[Topic]int
	lost   map[Topic]uint64 // topic to the number of the last batch that was dropped
	epoch  uint64           // counts Reset
	closed bool
	// published is the revision of the newest event that came in, handed that up to
	// which the dispatcher has handed out; busy: it is about to raise it.
	published, handed uint64
	busy              bool

	wake chan struct{}
	quit chan struct{} // closed by Close
	done chan struct{} // closed when the dispatcher has ended
}

var (
	_ Publisher = (*Hub)(nil)
	_ Source    = (*Hub)(nil)
)

// NewHub starts a hub with its one dispatcher goroutine; Close ends it.
func NewHub(opts Options) *Hub {
	if opts.RingEvents <= 0 {
		opts.RingEvents = DefaultRingEvents
	}
	if opts.Buffer <= 0 {
		opts.Buffer = DefaultBuffer
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	h := &Hub{
		opts:   opts,
		wanted: make(map[Topic]int),
		lost:   make(map[Topic]uint64),
		next:   1, first: 1,
		wake: make(chan struct{}, 1),
		quit: make(chan struct{}),
		done: make(chan struct{}),
	}
	h.index.topics = make(map[Topic]*topicIndex)
	h.metrics = newMetrics(opts.Registerer)
	go h.dispatch()
	return h
}

// Publish takes the batch in and returns. It copies the events that somebody
// may want, so the caller keeps the slice; keys and data are kept.
func (h *Hub) Publish(batch []Event) {
	if len(batch) == 0 {
		return
	}
	h.mu.Lock()
	h.published = batch[len(batch)-1].Revision
	n := 0
	for i := range batch {
		if h.wanted[batch[i].Topic] > 0 {
			n++
		}
	}
	if n == 0 || h.closed {
		h.mu.Unlock()
		h.metrics.published.Add(float64(len(batch)))
		return
	}
	kept := make([]Event, 0, n)
	for i := range batch {
		if h.wanted[batch[i].Topic] > 0 {
			kept = append(kept, batch[i])
		}
	}
	if h.queued > 0 && h.queued+n > h.opts.RingEvents {
		h.dropQueue()
	}
	h.queue = append(h.queue, kept)
	h.queued += n
	h.next++
	h.mu.Unlock()
	h.metrics.published.Add(float64(len(batch)))
	h.signal()
}

// dropQueue gives up what the dispatcher has not taken, since the ring is full,
// and notes whose events were among it. The caller holds h.mu.
func (h *Hub) dropQueue() {
	for i, b := range h.queue {
		for j := range b {
			h.lost[b[j].Topic] = h.first + uint64(i)
		}
	}
	h.metrics.overruns.Inc()
	h.opts.Logger.Warn("watch: the dispatcher fell behind, subscribers must catch up from history",
		"events", h.queued, "limit", h.opts.RingEvents)
	h.clearQueue()
}

func (h *Hub) clearQueue() {
	clear(h.queue)
	h.queue = h.queue[:0]
	h.queued = 0
	h.first = h.next
}

func (h *Hub) signal() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// Reset ends every subscription there is with ErrReset and drops what was not
// yet handed out.
func (h *Hub) Reset() {
	h.index.mu.Lock()
	defer h.index.mu.Unlock()
	h.mu.Lock()
	h.clearQueue()
	clear(h.lost)
	h.epoch++
	h.published, h.handed = 0, 0 // the state that replaced the old one may be older
	h.mu.Unlock()
	h.endAll(ErrReset)
}

// Close ends every subscription with ErrClosed and waits for the dispatcher.
// Publish and Subscribe afterwards do nothing and answer ErrClosed.
func (h *Hub) Close() {
	h.index.mu.Lock()
	h.mu.Lock()
	was := h.closed
	h.closed = true
	h.clearQueue()
	h.mu.Unlock()
	h.endAll(ErrClosed)
	h.index.mu.Unlock()
	if !was {
		close(h.quit)
	}
	<-h.done
}

// endAll ends what is in the index. The caller holds index.mu.
func (h *Hub) endAll(err error) {
	var all []*Sub
	for _, t := range h.index.topics {
		all = t.all(all)
	}
	h.end(all, err)
}

// end takes subs out of the index and tells them why. The caller holds index.mu.
func (h *Hub) end(subs []*Sub, err error) {
	if len(subs) == 0 {
		return
	}
	h.mu.Lock()
	for _, s := range subs {
		if h.wanted[s.filter.Topic]--; h.wanted[s.filter.Topic] == 0 {
			delete(h.wanted, s.filter.Topic)
		}
	}
	h.mu.Unlock()
	for _, s := range subs {
		h.index.remove(s)
		s.finish(err)
	}
	h.metrics.subscribers.Sub(float64(len(subs)))
}

// Subscribe delivers what is published from now on.
func (h *Hub) Subscribe(f Filter, buffer int) Subscription {
	return h.SubscribeNotify(f, buffer, nil)
}

// Dispatched is the store revision up to which every event that was published stands
// in the buffers of the subscriptions that want it.
func (h *Hub) Dispatched() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.busy || len(h.queue) > 0 || len(h.lost) > 0 {
		return h.handed
	}
	return h.published
}

// SubscribeNotify is Subscribe that also calls notify whenever Poll may have news, on
// the dispatcher's goroutine and under its lock.
func (h *Hub) SubscribeNotify(f Filter, buffer int, notify func()) Subscription {
	if buffer <= 0 {
		buffer = h.opts.Buffer
	}
	f.Start, f.End = bytes.Clone(f.Start), bytes.Clone(f.End)
	s := &Sub{hub: h, filter: f, limit: buffer, wake: make(chan struct{}, 1), slot: -1, notify: notify}
	h.index.mu.Lock()
	defer h.index.mu.Unlock()
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		s.finish(ErrClosed)
		return s
	}
	h.wanted[f.Topic]++
	s.start = h.next
	h.mu.Unlock()
	h.index.add(s)
	h.metrics.subscribers.Inc()
	return s
}

// dispatch is the one goroutine that hands events out.
func (h *Hub) dispatch() {
	defer close(h.done)
	var (
		taken [][]Event
		lost  map[Topic]uint64
	)
	for {
		select {
		case <-h.wake:
		case <-h.quit:
			return
		}
		for {
			var from, epoch, upTo uint64
			h.mu.Lock()
			if len(h.queue) == 0 && len(h.lost) == 0 {
				h.mu.Unlock()
				break
			}
			upTo, h.busy = h.published, true
			clear(taken)
			taken, h.queue = h.queue, taken[:0]
			from, epoch = h.first, h.epoch
			h.first, h.queued = h.next, 0
			lost = nil
			if len(h.lost) > 0 {
				lost, h.lost = h.lost, make(map[Topic]uint64)
			}
			h.mu.Unlock()
			h.lagTopics(lost)
			h.handOut(taken, from, epoch)
			h.mu.Lock()
			if h.epoch == epoch {
				h.handed = upTo
			}
			h.busy = false
			h.mu.Unlock()
		}
	}
}

// lagTopics ends the subscribers of topics that lost events to a full ring.
func (h *Hub) lagTopics(lost map[Topic]uint64) {
	if len(lost) == 0 {
		return
	}
	h.index.mu.Lock()
	defer h.index.mu.Unlock()
	var lagged []*Sub
	for topic, last := range lost {
		t := h.index.topics[topic]
		if t == nil {
			continue
		}
		for _, s := range t.all(nil) {
			if s.start <= last {
				lagged = append(lagged, s)
			}
		}
	}
	h.end(lagged, ErrLagged)
	h.metrics.lagged.Add(float64(len(lagged)))
}

// handOut delivers batches, numbered from from, in chunks.
func (h *Hub) handOut(batches [][]Event, from, epoch uint64) {
	for len(batches) > 0 {
		n, events := 0, 0
		for n < len(batches) && (n == 0 || events+len(batches[n]) <= chunkEvents) {
			events += len(batches[n])
			n++
		}
		h.index.mu.Lock()
		h.mu.Lock()
		stale := h.epoch != epoch || h.closed
		h.mu.Unlock()
		if stale { // Reset or Close came between: nobody may see these
			h.index.mu.Unlock()
			return
		}
		h.chunk(batches[:n], from)
		h.index.mu.Unlock()
		batches = batches[n:]
		from += uint64(n)
	}
}

// chunk finds the groups that want each event, then gives every group's
// subscribers one shared slice. The caller holds index.mu.
func (h *Hub) chunk(batches [][]Event, from uint64) {
	touched := h.index.touched[:0]
	for i, b := range batches {
		for j := range b {
			t := h.index.topics[b[j].Topic]
			if t == nil {
				continue
			}
			touched = t.match(&b[j], from+uint64(i), touched)
		}
	}
	var (
		lagged    []*Sub
		delivered int
	)
	for _, g := range touched {
		events := make([]Event, len(g.pending)) // shared by the group, so never reused
		copy(events, g.pending)
		for _, s := range g.subs {
			mine := events
			if s.start > g.batches[0] { // joined after the chunk's first batches
				k := 0
				for k < len(g.batches) && g.batches[k] < s.start {
					k++
				}
				mine = events[k:]
			}
			if len(mine) == 0 {
				continue
			}
			if !s.push(mine) {
				lagged = append(lagged, s)
				continue
			}
			delivered += len(mine)
		}
		g.reset()
	}
	clear(touched)
	h.index.touched = touched[:0]
	h.end(lagged, ErrLagged)
	h.metrics.delivered.Add(float64(delivered))
	h.metrics.lagged.Add(float64(len(lagged)))
}

// Sub is a subscription of a Hub.
type Sub struct {
	hub    *Hub
	filter Filter
	start  uint64 // number of the first batch it may see
	limit  int

	group *group // index.mu
	slot  int    // place in group.subs; index.mu

	mu     sync.Mutex
	queue  [][]Event
	head   int
	queued int // events in queue
	err    error

	wake   chan struct{}
	notify func() // nil for none
}

// push queues events and tells false when the reader is too slow for them. An
// empty buffer takes any number, so that a batch larger than it can pass.
func (s *Sub) push(events []Event) bool {
	s.mu.Lock()
	if s.queued > 0 && s.queued+len(events) > s.limit {
		s.mu.Unlock()
		return false
	}
	first := s.queued == 0
	s.queue = append(s.queue, events)
	s.queued += len(events)
	s.mu.Unlock()
	if first {
		s.signal()
	}
	return true
}

func (s *Sub) signal() {
	if s.notify != nil {
		s.notify()
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// finish ends the subscription; the first reason stays.
func (s *Sub) finish(err error) {
	s.mu.Lock()
	if s.err == nil {
		s.err = err
		s.queue, s.head, s.queued = nil, 0, 0
	}
	s.mu.Unlock()
	s.signal()
}

// Next gives the events of one or more whole batches. The slice is shared with
// other readers and must not be modified.
func (s *Sub) Next(ctx context.Context) ([]Event, error) {
	for {
		if events, err := s.Poll(); len(events) > 0 || err != nil {
			return events, err
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Poll is Next that gives nothing when there is nothing.
func (s *Sub) Poll() ([]Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, s.err
	}
	if s.queued == 0 {
		return nil, nil
	}
	events := s.queue[s.head]
	s.queue[s.head] = nil
	s.queued -= len(events)
	if s.head++; s.head == len(s.queue) {
		s.queue, s.head = s.queue[:0], 0
	} else if s.head >= 64 && s.head*2 >= len(s.queue) {
		n := copy(s.queue, s.queue[s.head:])
		clear(s.queue[n:])
		s.queue, s.head = s.queue[:n], 0
	}
	return events, nil
}

// Close ends the subscription; a waiting Next answers ErrClosed.
func (s *Sub) Close() {
	s.hub.index.mu.Lock()
	defer s.hub.index.mu.Unlock()
	if s.group != nil {
		s.hub.end([]*Sub{s}, ErrClosed)
	}
}
