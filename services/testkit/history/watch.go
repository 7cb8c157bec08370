package history

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"
)

// Event is one change of a key. Sub numbers the changes of one revision from 0.
type Event struct {
	Key, Value string
	Delete     bool
	Revision   uint64
	Sub        int
	// Create and Version are those after a put; 0 where a watcher is not told.
	Create, Version uint64
}

func (e Event) String() string {
	if e.Delete {
		return fmt.Sprintf("delete(%s) at %d.%d", e.Key, e.Revision, e.Sub)
	}
	return fmt.Sprintf("put(%s, %s) at %d.%d (create %d, version %d)", e.Key, quoteShort(e.Value), e.Revision, e.Sub, e.Create, e.Version)
}

// Log is what happened to the store, put together from what writers were told and
// what a watcher of everything saw. It is built by one goroutine and then judges
// feeds.
type Log struct {
	events []Event // in order, without repeats
	acked  []Event
	head   uint64
}

// NewLog makes the log of a store that has come to revision head, from all events up
// to it in any order and any number of times.
func NewLog(events []Event, head uint64) *Log {
	l := &Log{events: append([]Event(nil), events...), head: head}
	sort.SliceStable(l.events, func(i, j int) bool { return before(l.events[i], l.events[j]) })
	l.events = slices.Compact(l.events) // what differs stays, for Check
	return l
}

func before(a, b Event) bool {
	return a.Revision < b.Revision || a.Revision == b.Revision && a.Sub < b.Sub
}

// Acknowledge adds what writers were told: each of these writes must be in the log.
func (l *Log) Acknowledge(writes []Event) { l.acked = append(l.acked, writes...) }

// Of gives the events of one key.
func (l *Log) Of(key string) (out []Event) {
	for _, e := range l.events {
		if e.Key == key {
			out = append(out, e)
		}
	}
	return out
}

// Events are all events in order. The slice is the log's own.
func (l *Log) Events() []Event { return l.events }

// Check tells what is wrong with the log itself: an acknowledged write that is not in
// it or is another one there, versions that do not count up, a place that was taken
// twice.
func (l *Log) Check() error {
	type key struct {
		rev uint64
		key string
	}
	at := make(map[key]Event, len(l.events))
	type life struct{ create, version uint64 }
	lives := map[string]life{}
	for i, e := range l.events {
		if i > 0 && !before(l.events[i-1], e) {
			return fmt.Errorf("two events at one place: %s and %s", l.events[i-1], e)
		}
		at[key{e.Revision, e.Key}] = e
		was := lives[e.Key]
		now := life{e.Create, e.Version}
		switch {
		case e.Delete && was.create == 0:
			return fmt.Errorf("%s of a key that is not there", e)
		case e.Delete:
			now = life{}
		case e.Version == 0: // not told
			now = life{max(was.create, e.Revision), 0}
		case was.create == 0 && now != life{e.Revision, 1}, was.create != 0 && now != life{was.create, was.version + 1}:
			return fmt.Errorf("%s follows create %d, version %d", e, was.create, was.version)
		}
		lives[e.Key] = now
	}
	for _, a := range l.acked {
		e, ok := at[key{a.Revision, a.Key}]
		if !ok || e.Value != a.Value || e.Delete != a.Delete {
			return fmt.Errorf("%s was acknowledged; the log has %v there (%v)", a, e, ok)
		}
	}
	return nil
}

// At gives the keys of revision rev with their values.
func (l *Log) At(rev uint64) map[string]string {
	out := map[string]string{}
	for _, e := range l.events {
		switch {
		case e.Revision > rev:
			return out
		case e.Delete:
			delete(out, e.Key)
		default:
			out[e.Key] = e.Value
		}
	}
	return out
}

// Feed is what one watcher was given, over all the times that it began anew where it
// had stopped. Its methods may be called by any goroutine, in the order in which
// things came.
type Feed struct {
	// Name is for messages.
	Name string
	// Wants tells which events the watcher asked for; nil: all.
	Wants func(e *Event) bool

	mu    sync.Mutex
	steps []step
	at    uint64 // revision that it has reached
}

type stepKind byte

const (
	stepBatch stepKind = iota
	stepBegin
	stepCompacted
)

type step struct {
	kind   stepKind
	rev    uint64
	events []Event
}

// NewFeed makes the feed of a watcher that begins after a revision.
func NewFeed(name string, after uint64, wants func(e *Event) bool) *Feed {
	f := &Feed{Name: name, Wants: wants}
	f.Begin(after)
	return f
}

func (f *Feed) add(s step) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.steps = append(f.steps, s)
	if s.kind != stepCompacted {
		f.at = max(f.at, s.rev)
	}
	for _, e := range s.events {
		f.at = max(f.at, e.Revision)
	}
}

// Begin notes that the watch begins, or begins anew, after a revision.
func (f *Feed) Begin(after uint64) { f.add(step{kind: stepBegin, rev: after}) }

// Batch notes a batch: its events, and the revision up to which it claims to tell
// everything (0: it does not say). A batch without events is progress.
func (f *Feed) Batch(progress uint64, events ...Event) {
	f.add(step{kind: stepBatch, rev: progress, events: append([]Event(nil), events...)})
}

// Compacted notes that the watcher was told that the history before rev is gone.
func (f *Feed) Compacted(rev uint64) { f.add(step{kind: stepCompacted, rev: rev}) }

// At is the revision that the watcher has reached, from where it can begin anew.
func (f *Feed) At() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.at
}

// Events are the events that came, as they came.
func (f *Feed) Events() (out []Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.steps {
		out = append(out, s.events...)
	}
	return out
}

// Judge judges a feed: every event that the watcher wants came once, in order and as
// it was, up to the revision that it reached; what it was told about its progress was
// true; and nothing was left out but what it was told to be compacted.
func (l *Log) Judge(f *Feed) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := cursor{l: l, f: f}
	for i, s := range f.steps {
		if err := c.step(s); err != nil {
			return fmt.Errorf("watcher %s, step %d of %d: %w", f.Name, i+1, len(f.steps), err)
		}
	}
	return nil
}

// cursor is how far a feed has been judged.
type cursor struct {
	l     *Log
	f     *Feed
	begun bool
	next  int    // index of the first event of the log that has not come
	done  uint64 // revision up to which the watcher was told that it has everything
	last  Event
	told  uint64 // compact revision that it was told and has not begun after, else 0
}

func (c *cursor) step(s step) error {
	switch s.kind {
	case stepCompacted:
		if s.rev <= c.done+1 {
			return fmt.Errorf("it is told that what is before %d is compacted, and wants what follows %d", s.rev, c.done)
		}
		c.told = s.rev
		return nil
	case stepBegin:
		return c.begin(s.rev)
	}
	if c.told != 0 {
		return fmt.Errorf("a batch came after the watch had ended as compacted at %d", c.told)
	}
	for _, e := range s.events {
		if err := c.event(e); err != nil {
			return err
		}
	}
	if s.rev == 0 {
		return nil
	}
	return c.progress(s.rev)
}

// begin moves on: only over what the watcher was told to be gone. The first one is
// free.
func (c *cursor) begin(after uint64) error {
	if !c.begun {
		c.begun, c.done = true, after
		c.skip(after)
		return nil
	}
	at := max(c.done, c.last.Revision)
	if after < at || after > at && after >= c.told {
		return fmt.Errorf("it begins anew after %d, and had reached %d (compacted before %d): a mistake of the test", after, at, c.told)
	}
	c.told = 0
	c.done = after
	c.skip(after)
	return nil
}

// skip passes over the events up to a revision.
func (c *cursor) skip(rev uint64) {
	for c.next < len(c.l.events) && c.l.events[c.next].Revision <= rev {
		c.next++
	}
}

// ahead is the next event that the watcher wants, nil for none.
func (c *cursor) ahead() *Event {
	for c.next < len(c.l.events) {
		if e := &c.l.events[c.next]; c.f.Wants == nil || c.f.Wants(e) {
			return e
		}
		c.next++
	}
	return nil
}

func (c *cursor) event(e Event) error {
	switch {
	case c.f.Wants != nil && !c.f.Wants(&e):
		return fmt.Errorf("%s comes and was not asked for", e)
	case e.Revision <= c.done:
		return fmt.Errorf("%s comes after the watcher was told that it had everything up to %d", e, c.done)
	case c.last.Revision != 0 && !before(c.last, e):
		if e == c.last {
			return fmt.Errorf("%s comes twice", e)
		}
		return fmt.Errorf("%s comes after %s", e, c.last)
	}
	want := c.ahead()
	switch {
	case want == nil:
		return fmt.Errorf("%s comes, and nothing more happened", e)
	case *want == e:
	case before(*want, e):
		return fmt.Errorf("%s was left out before %s", *want, e)
	default:
		return fmt.Errorf("%s comes where %s happened", e, *want)
	}
	c.next++
	c.last = e
	return nil
}

func (c *cursor) progress(rev uint64) error {
	switch want := c.ahead(); {
	case rev < c.done:
		return fmt.Errorf("progress goes back from %d to %d", c.done, rev)
	case rev < c.last.Revision:
		return fmt.Errorf("progress %d is less than the revision of %s", rev, c.last)
	case rev > c.l.head:
		return fmt.Errorf("progress %d is ahead of the store, which is at %d", rev, c.l.head)
	case want != nil && want.Revision <= rev:
		return fmt.Errorf("the watcher was told that it had everything up to %d, without %s", rev, *want)
	}
	c.done = rev
	return nil
}

// Walk calls fn for every revision from 1 to the head with the keys below prefix as
// they were then. fn must not keep the map.
func (l *Log) Walk(prefix string, fn func(rev uint64, keys map[string]string)) {
	keys := map[string]string{}
	i := 0
	for rev := uint64(1); rev <= l.head; rev++ {
		for ; i < len(l.events) && l.events[i].Revision == rev; i++ {
			e := &l.events[i]
			switch {
			case !strings.HasPrefix(e.Key, prefix):
			case e.Delete:
				delete(keys, e.Key)
			default:
				keys[e.Key] = e.Value
			}
		}
		fn(rev, keys)
	}
}
