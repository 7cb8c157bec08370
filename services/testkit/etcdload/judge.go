package etcdload

import (
	"context"
	"fmt"
	"maps"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"nekoq/services/testkit/cluster"
	"nekoq/services/testkit/history"
)

// Finish stops the writers of a cluster that is whole again, waits until all leases
// have ended and all watches have seen everything, and judges what clients were told.
func (l *Load) Finish() {
	l.tb.Helper()
	l.halt()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	cluster.Within(l.tb, patience, "all leases end", func() error {
		one, cancel := context.WithTimeout(ctx, opTimeout)
		defer cancel()
		res, err := l.all.Leases(one)
		if err == nil && len(res.Leases) > 0 {
			err = fmt.Errorf("%d are there", len(res.Leases))
		}
		return err
	})
	for _, id := range l.leases.Open() {
		l.leases.Found(id, "no lease is listed any more")
	}
	got, err := l.all.Get(ctx, "", clientv3.WithFromKey())
	if err != nil {
		l.tb.Fatal(err)
	}
	head := uint64(got.Header.Revision)
	l.seeAll(ctx, head)
	l.cancel()
	l.watching.Wait()
	l.judge(head)
	l.compare(ctx, got)
}

// seeAll waits until the watches that go on have come to a revision. Those that want
// nothing of it learn so by asking for progress.
func (l *Load) seeAll(ctx context.Context, head uint64) {
	l.tb.Helper()
	asked := time.Now()
	cluster.Within(l.tb, patience, "all watches see everything", func() error {
		var behind *watcher
		for _, w := range l.watchers {
			if w.on && w.At() < head {
				behind = w
			}
		}
		if behind == nil {
			return nil
		}
		if time.Since(asked) > 100*time.Millisecond {
			asked = time.Now()
			one, cancel := context.WithTimeout(ctx, opTimeout)
			defer cancel()
			if err := behind.c.RequestProgress(clientv3.WithRequireLeader(one)); err != nil {
				return err
			}
		}
		return fmt.Errorf("the watch %s is at %d of %d", behind.Name, behind.At(), head)
	})
}

func (l *Load) judge(head uint64) {
	l.tb.Helper()
	log := history.NewLog(l.everyone.Events(), head)
	log.Acknowledge(l.versions.Acked())
	log.Acknowledge(l.pairs)
	if err := log.Check(); err != nil {
		l.tb.Errorf("what happened: %v", err)
	}
	events, prevs := 0, 0
	for _, w := range l.watchers {
		if err := log.Judge(w.Feed); err != nil {
			l.tb.Errorf("%v; all that it was given is in %s", err, w.save())
		}
		events += len(w.Events())
		prevs += len(w.prevs)
		for _, p := range w.prevs {
			if err := checkPrev(log, p); err != nil {
				l.tb.Errorf("the watch %s: %v", w.Name, err)
				break
			}
		}
	}
	for _, k := range []claimKind{mutex, lockService, election} {
		if err := history.TokensGrow(log.Of(k.guard()), tokenOf); err != nil {
			l.tb.Error(err)
		}
	}
	l.versions.Check(l.tb)
	l.fences.Check(l.tb)
	l.leases.Check(l.tb, l.o.Late)
	if l.released.Load() == 0 || l.lost.Load() == 0 || prevs == 0 {
		l.tb.Errorf("nothing tested: %d leases ended, %d watches were overtaken by the compaction, %d values before an event",
			l.released.Load(), l.lost.Load(), prevs)
	}
	l.tb.Logf("revision %d: %d operations on keys, %d on %d tenures of locks and elections, %d leases (%d ended by themselves), %d events to %d watches, %d told of a compaction",
		head, l.versions.Len(), l.fences.Len(), l.held.Load(), l.leases.Len(), l.released.Load(), events, len(l.watchers), l.lost.Load())
}

// save writes what a watch was given into a file.
func (w *watcher) save() string {
	f, err := os.CreateTemp("", "watch-*.txt")
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	for _, line := range w.trace {
		_, _ = fmt.Fprintln(f, line) // what is missing is seen
	}
	return f.Name()
}

// checkPrev compares the value before an event with the event before it.
func checkPrev(log *history.Log, p prev) error {
	var before history.Event
	for _, e := range log.Of(p.of.Key) {
		if e.Revision >= p.of.Revision {
			break
		}
		before = e
	}
	was := p.was
	if before.Delete || before.Revision != uint64(was.ModRevision) || before.Value != string(was.Value) ||
		before.Create != uint64(was.CreateRevision) || before.Version != uint64(was.Version) {
		return fmt.Errorf("before %s there was %s, and prev_kv says %v", p.of, before, was)
	}
	return nil
}

// compare wants the same keys and hashes of every node.
func (l *Load) compare(ctx context.Context, got *clientv3.GetResponse) {
	l.tb.Helper()
	want := map[string]string{}
	for _, kv := range got.Kvs {
		if kv.Lease != 0 {
			l.tb.Errorf("all leases have ended, and a key of one is there: %v", kv)
		}
		want[string(kv.Key)] = string(kv.Value)
	}
	final := map[string]string{}
	for _, e := range l.everyone.Events() {
		if e.Delete {
			delete(final, e.Key)
		} else {
			final[e.Key] = e.Value
		}
	}
	if !maps.Equal(want, final) {
		l.tb.Errorf("the events lead to %d keys, and %d are there, or they have other values", len(final), len(want))
	}
	var hash uint32
	for i, c := range l.each {
		res, err := c.Get(ctx, "", clientv3.WithFromKey())
		if err != nil {
			l.tb.Fatal(err)
		}
		have := map[string]string{}
		for _, kv := range res.Kvs {
			have[string(kv.Key)] = string(kv.Value)
		}
		if !maps.Equal(want, have) {
			l.tb.Errorf("node %d has other keys", i+1)
		}
		h, err := c.HashKV(ctx, l.o.Endpoints[i], got.Header.Revision)
		if err != nil {
			l.tb.Fatal(err)
		}
		if i > 0 && h.Hash != hash {
			l.tb.Errorf("node %d has hash %d, node 1 %d", i+1, h.Hash, hash)
		}
		hash = h.Hash
	}
}
