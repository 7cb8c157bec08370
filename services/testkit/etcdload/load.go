// Package etcdload uses the etcd door of a cluster as programs do, with etcd's own
// Go client, while a test does bad things to the cluster: keys with conditions,
// locks of the client library and of the Lock service, elections with fenced writes,
// leases, watches of every sort on every node, and a compaction that never rests.
// Afterwards all that the clients were told is judged (package history).
//
// A Load is driven by the test's goroutine. Only tests import it.
package etcdload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"nekoq/services/testkit/cluster"
	"nekoq/services/testkit/history"
)

// Options of Start.
type Options struct {
	// Endpoints are the nodes' doors, one a node.
	Endpoints []string
	// Late is how much later than without trouble a lease may end.
	Late time.Duration
}

// The limits of one operation and of waiting for something that must come.
const (
	opTimeout = 3 * time.Second
	patience  = 60 * time.Second
	pause     = 8 * time.Millisecond // of each worker between two operations
)

// Load is the clients of one test.
type Load struct {
	tb   testing.TB
	o    Options
	each []*clientv3.Client // one a node
	all  *clientv3.Client   // of all nodes

	versions *history.Versions
	fences   *history.Fences
	leases   *history.Leases
	everyone *watcher // sees everything, and is never overtaken by the compaction
	watchers []*watcher

	// Keys are changed with every fault, so that few writes of unknown outcome meet on
	// one key.
	epoch    atomic.Int64
	written  []atomic.Int64 // by node
	held     atomic.Int64   // tenures of locks and elections
	released atomic.Int64   // leases that were seen to end by themselves
	lost     atomic.Int64   // watches that were told that what they want is compacted

	stop     chan struct{}
	ctx      context.Context // of the watches; ends when all is seen
	cancel   context.CancelFunc
	workers  sync.WaitGroup
	watching sync.WaitGroup

	mu    sync.Mutex
	pairs []history.Event // writes of transactions with two puts
}

// Start starts all clients.
func Start(tb testing.TB, o Options) *Load {
	tb.Helper()
	l := &Load{
		tb: tb, o: o, versions: history.NewVersions(), fences: history.NewFences(), leases: history.NewLeases(),
		written: make([]atomic.Int64, len(o.Endpoints)), stop: make(chan struct{}),
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	tb.Cleanup(func() { l.halt(); l.cancel(); l.watching.Wait() }) // of a test that failed before Finish
	for _, e := range o.Endpoints {
		l.each = append(l.each, Client(tb, e))
	}
	l.all = Client(tb, o.Endpoints...)
	l.watchAll()
	for i, c := range l.each {
		l.workers.Go(func() { l.useKeys(2*i, i, c) })
		l.workers.Go(func() { l.useKeys(2*i+1, i, c) })
		l.workers.Go(func() { l.claim(10+i, c, mutex) })
		l.workers.Go(func() { l.claim(20+i, c, lockService) })
		l.workers.Go(func() { l.claim(30+i, c, election) })
		l.workers.Go(func() { l.look(40+i, c) })
		l.workers.Go(func() { l.lookBack(i, c) })
	}
	l.workers.Go(l.keepLeases)
	l.workers.Go(l.abandonLeases)
	l.workers.Go(l.compact)
	return l
}

// Client is etcd's client of some endpoints, closed with the test.
func Client(tb testing.TB, endpoints ...string) *clientv3.Client {
	tb.Helper()
	c, err := clientv3.New(clientv3.Config{
		Endpoints: endpoints, DialTimeout: 10 * time.Second, Logger: zap.NewNop(),
		DialKeepAliveTime: 5 * time.Second, DialKeepAliveTimeout: 5 * time.Second,
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

func (l *Load) halt() {
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.workers.Wait()
}

// next waits for the next turn of a worker; false: it is over.
func (l *Load) next(t *time.Ticker) bool {
	select {
	case <-l.stop:
		return false
	case <-t.C:
	}
	select {
	case <-l.stop:
		return false
	default:
		return true
	}
}

// Progress waits until writes through every node, locks and leases have got further,
// and takes new keys.
func (l *Load) Progress() {
	l.tb.Helper()
	want := make([]int64, len(l.written))
	for i := range want {
		want[i] = l.written[i].Load() + 10
	}
	held := l.held.Load() + 2
	cluster.Within(l.tb, patience, "clients of every node get further", func() error {
		for i := range want {
			if n := l.written[i].Load(); n < want[i] {
				return fmt.Errorf("%d more writes wanted through node %d", want[i]-n, i+1)
			}
		}
		if n := l.held.Load(); n < held {
			return fmt.Errorf("%d more tenures of locks wanted", held-n)
		}
		return nil
	})
	l.epoch.Add(1)
}

// did nothing: etcd says so before it proposes a write.
func didNothing(err error) bool { return errors.Is(err, rpctypes.ErrNoLeader) }

// useKeys reads and writes keys through one node.
func (l *Load) useKeys(client, node int, c *clientv3.Client) {
	rnd := rand.New(rand.NewPCG(uint64(client), 1))
	tick := time.NewTicker(pause)
	defer tick.Stop()
	seen := map[string]uint64{} // revisions that the history has shown
	for i := 0; l.next(tick); i++ {
		key := fmt.Sprintf("v/%03d/%d", l.epoch.Load(), rnd.IntN(3))
		value := fmt.Sprintf("%d-%d", client, i)
		ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
		wrote := false
		switch n := rnd.IntN(16); {
		case n < 6:
			l.get(ctx, c, client, key, seen)
		case n < 9:
			wrote = l.put(ctx, c, client, key, value, seen)
		case n < 10:
			l.remove(ctx, c, client, key)
		case n < 14:
			wrote = l.putIf(ctx, c, client, key, value, seen)
		case n < 15:
			l.removeIf(ctx, c, client, key, seen)
		default:
			wrote = l.pair(ctx, c, value)
		}
		cancel()
		if wrote {
			l.written[node].Add(1)
		}
	}
}

func (l *Load) get(ctx context.Context, c *clientv3.Client, client int, key string, seen map[string]uint64) {
	op := l.versions.Get(client, key)
	res, err := c.Get(ctx, key)
	switch {
	case err != nil:
		op.Drop()
	case len(res.Kvs) == 0:
		op.Missing()
		seen[key] = 0
	default:
		kv := res.Kvs[0]
		op.Read(string(kv.Value), uint64(kv.ModRevision))
		seen[key] = uint64(kv.ModRevision)
	}
}

// failed ends a write that has failed.
func failed(op *history.VersionOp, err error) {
	if didNothing(err) {
		op.Drop()
	} else {
		op.Unknown()
	}
}

func (l *Load) put(ctx context.Context, c *clientv3.Client, client int, key, value string, seen map[string]uint64) bool {
	op := l.versions.Put(client, key, value)
	res, err := c.Put(ctx, key, value)
	if err != nil {
		failed(op, err)
		return false
	}
	op.OK(uint64(res.Header.Revision))
	seen[key] = uint64(res.Header.Revision)
	return true
}

func (l *Load) remove(ctx context.Context, c *clientv3.Client, client int, key string) {
	op := l.versions.Delete(client, key)
	res, err := c.Delete(ctx, key)
	switch {
	case err != nil:
		failed(op, err)
	case res.Deleted == 0:
		op.Missing()
	default:
		op.OK(uint64(res.Header.Revision))
	}
}

func (l *Load) putIf(ctx context.Context, c *clientv3.Client, client int, key, value string, seen map[string]uint64) bool {
	rev := seen[key]
	op := l.versions.PutIf(client, key, value, rev)
	res, err := c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", int64(rev))).Then(clientv3.OpPut(key, value)).Commit()
	switch {
	case err != nil:
		failed(op, err)
		return false
	case !res.Succeeded:
		op.Mismatch()
		return false
	}
	op.OK(uint64(res.Header.Revision))
	seen[key] = uint64(res.Header.Revision)
	return true
}

func (l *Load) removeIf(ctx context.Context, c *clientv3.Client, client int, key string, seen map[string]uint64) {
	rev := seen[key]
	if rev == 0 {
		return
	}
	op := l.versions.DeleteIf(client, key, rev)
	res, err := c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", int64(rev))).Then(clientv3.OpDelete(key)).Commit()
	switch {
	case err != nil:
		failed(op, err)
	case !res.Succeeded:
		op.Mismatch()
	default:
		op.OK(uint64(res.Header.Revision))
	}
}

// pair writes two keys in one transaction. The end of a key says at which place of
// its revision it is; see place.
func (l *Load) pair(ctx context.Context, c *clientv3.Client, value string) bool {
	key := fmt.Sprintf("v/%03d/pair", l.epoch.Load())
	res, err := c.Txn(ctx).Then(clientv3.OpPut(key+"#0", value), clientv3.OpPut(key+"#1", value)).Commit()
	if err != nil {
		return false
	}
	rev := uint64(res.Header.Revision)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pairs = append(l.pairs, history.Event{Key: key + "#0", Value: value, Revision: rev}, history.Event{Key: key + "#1", Value: value, Revision: rev, Sub: 1})
	return true
}

// compact gives up all history but what the watcher of everything has not seen, and a
// little more, so that other watchers are overtaken.
func (l *Load) compact() {
	tick := time.NewTicker(40 * time.Millisecond)
	defer tick.Stop()
	last := uint64(0)
	for i := 0; l.next(tick); i++ {
		rev := l.everyone.At()
		if rev < last+20 {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
		var how []clientv3.CompactOption
		if i%8 == 0 {
			how = append(how, clientv3.WithCompactPhysical())
		}
		if _, err := l.each[i%len(l.each)].Compact(ctx, int64(rev-10), how...); err == nil {
			last = rev
		}
		cancel()
	}
}
