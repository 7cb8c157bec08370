package etcdload

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"nekoq/services/testkit/history"
)

// watcher is one watch, which begins anew where it stood when it ends.
type watcher struct {
	*history.Feed
	c    *clientv3.Client
	key  string
	opts []clientv3.OpOption
	on   bool   // until the end of the test
	from uint64 // where it begins next

	mu    sync.Mutex
	prevs []prev
	trace []string // of every answer, for whoever has to find out what was wrong
}

// prev is the value before an event, as a watch with prev_kv gave it.
type prev struct {
	of  history.Event
	was *mvccpb.KeyValue
}

// hot is the key of the watchers of one key.
const hot = "guard/lock/m"

// watchAll starts the watches: on every node of one key, of a prefix with the values
// before, and of everything with progress and fragments; one of everything that may go
// to any node.
func (l *Load) watchAll() {
	everything := func(*history.Event) bool { return true }
	l.everyone = l.follow("of everything", l.all, "", everything, clientv3.WithFromKey())
	for i, c := range l.each {
		on := fmt.Sprintf(" on node %d", i+1)
		l.follow("of one key"+on, c, hot, func(e *history.Event) bool { return e.Key == hot })
		l.follow("of a prefix"+on, c, "v/", func(e *history.Event) bool { return strings.HasPrefix(e.Key, "v/") },
			clientv3.WithPrefix(), clientv3.WithPrevKV())
		l.follow("of everything"+on, c, "", everything, clientv3.WithFromKey(), clientv3.WithProgressNotify(), clientv3.WithFragment())
	}
}

func (l *Load) follow(name string, c *clientv3.Client, key string, wants func(*history.Event) bool, opts ...clientv3.OpOption) *watcher {
	w := &watcher{Feed: history.NewFeed(name, 0, wants), c: c, key: key, opts: opts, on: true}
	l.watchers = append(l.watchers, w)
	l.watching.Go(func() {
		for l.ctx.Err() == nil {
			w.run(l, clientv3.WithRequireLeader(l.ctx), 1<<62)
		}
	})
	return w
}

// run watches until the watch ends or has given so many events.
func (w *watcher) run(l *Load, ctx context.Context, most int) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	opts := append([]clientv3.OpOption{clientv3.WithRev(int64(w.from + 1))}, w.opts...)
	n := 0
	w.note("watch from %d", w.from+1)
	for r := range w.c.Watch(ctx, w.key, opts...) {
		w.note("member %x revision %d created %v canceled %v compacted %d: %v", r.Header.MemberId, r.Header.Revision, r.Created, r.Canceled, r.CompactRevision, r.Events)
		switch {
		case r.CompactRevision > 0:
			l.lost.Add(1)
			w.Compacted(uint64(r.CompactRevision))
			w.from = uint64(r.CompactRevision) - 1
			w.Begin(w.from)
			return
		case r.Err() != nil: // without a leader, or the node is ending
		case len(r.Events) > 0:
			w.take(r.Events)
			if n += len(r.Events); n >= most {
				return
			}
		case r.IsProgressNotify():
			w.from = uint64(r.Header.Revision)
			w.Batch(w.from)
		}
	}
	w.Begin(w.from)
}

func (w *watcher) note(form string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trace = append(w.trace, time.Now().Format("05.000 ")+fmt.Sprintf(form, args...))
}

func (w *watcher) take(in []*clientv3.Event) {
	out := make([]history.Event, len(in))
	for i, e := range in {
		out[i] = event(e)
		if e.PrevKv != nil {
			w.mu.Lock()
			w.prevs = append(w.prevs, prev{out[i], e.PrevKv})
			w.mu.Unlock()
		}
	}
	w.from = out[len(out)-1].Revision
	w.Batch(0, out...)
}

func event(e *clientv3.Event) history.Event {
	out := history.Event{
		Key: string(e.Kv.Key), Value: string(e.Kv.Value), Delete: e.Type == mvccpb.DELETE, Revision: uint64(e.Kv.ModRevision),
		Create: uint64(e.Kv.CreateRevision), Version: uint64(e.Kv.Version),
	}
	if strings.HasSuffix(out.Key, "#1") { // the second one of a pair
		out.Sub = 1
	}
	return out
}

// lookBack begins at revisions of the past, some of which are gone.
func (l *Load) lookBack(node int, c *clientv3.Client) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for i := 0; l.next(tick); i++ {
		back := uint64(20 + 15*(i%8))
		at := l.everyone.At()
		if at < back+1 {
			continue
		}
		const least = "lease0" // locks and keys, and no leases
		name := fmt.Sprintf("number %d from %d on node %d", i, at-back, node+1)
		w := &watcher{
			Feed: history.NewFeed(name, at-back, func(e *history.Event) bool { return e.Key >= least }),
			c:    c, key: least, opts: []clientv3.OpOption{clientv3.WithFromKey()}, from: at - back,
		}
		ctx, cancel := context.WithTimeout(l.ctx, opTimeout)
		w.run(l, ctx, 40)
		cancel()
		l.mu.Lock()
		l.watchers = append(l.watchers, w)
		l.mu.Unlock()
	}
}
