package warehouse_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"nekoq/services/errs"
	"nekoq/services/lease/leasetable"
	"nekoq/services/replica/raftnode"
	"nekoq/services/testkit/cluster"
	"nekoq/services/testkit/history"
	"nekoq/warehouse"
	"nekoq/warehouse/api"
)

// Registers, compare-and-set, transactions, locks, elections, leases and watches, all
// at once and with a compaction going on, over every fault of the schedule. What
// clients saw is explained by one history.
func TestSoakEverythingOverFaults(t *testing.T) {
	soak := cluster.SoakTime(t)
	seed := uint64(1)
	if soak > 0 {
		seed = uint64(time.Now().UnixNano())
		t.Logf("seed %d", seed)
	}
	r := startRun(t, 5*time.Minute+2*soak)
	for i := range r.g.Members {
		r.watchAll(i)
		r.watchSet(i)
	}
	r.watchSlowly()
	for c := range 6 {
		r.client(func() { r.registers(c) })
	}
	r.client(func() { r.pairs(10) })
	for i := range 3 {
		r.client(func() { r.holders(20+i, api.TokenLock, "lock", i) })
		r.client(func() { r.holders(30+i, api.TokenElection, "election", i) })
		r.client(func() { r.tenants(40+i, i) })
		r.client(func() { r.observe(i) })
	}
	r.client(func() { r.looks(50) })
	r.client(func() { r.past(51) })
	r.client(r.compact)

	r.progress("before the faults")
	r.g.Run(r.ctx, cluster.Schedule{
		Seed: seed, Client: 2, For: soak, Least: 300 * time.Millisecond, Most: 1200 * time.Millisecond,
		Progress: func(f cluster.Fault) { r.progress("after " + f.String()) },
	})
	r.finish()
}

// run is one run of everything.
type run struct {
	t      *testing.T
	g      *group
	ctx    context.Context
	stop   chan struct{} // closed: the clients end
	final  chan struct{} // closed: the watchers end when they have seen head
	head   uint64        // set before final is closed
	wg     sync.WaitGroup
	reader sync.WaitGroup

	versions *history.Versions
	fences   *history.Fences
	leases   *history.Leases

	mu    sync.Mutex
	acked []history.Event // writes that versions does not know
	asked []pastRead
	feeds []*history.Feed
	full  []*history.Feed // of the watchers of everything

	writes, held, compactions, overtaken, seenGone atomic.Int64
}

func startRun(t *testing.T, limit time.Duration) *run {
	g := startRaftWith(t, 3, func(_ string, c *raftnode.Config) {
		// So small that a node that was away for long needs a snapshot.
		c.SnapshotLogBytes, c.TrailingLogBytes, c.SegmentBytes, c.CacheBytes = 128<<10, 64<<10, 64<<10, 64<<10
	})
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	leases := history.NewLeases()
	leases.Grain = leasetable.MaxStep * time.Millisecond
	return &run{
		t: t, g: g, ctx: ctx, stop: make(chan struct{}), final: make(chan struct{}),
		versions: history.NewVersions(), fences: history.NewFences(), leases: leases,
	}
}

func (r *run) client(fn func()) { r.wg.Go(fn) }

func (r *run) stopped() bool {
	select {
	case <-r.stop:
		return true
	default:
		return r.ctx.Err() != nil
	}
}

// kv gives the service of a node as it is now.
func (r *run) kv(i int) *warehouse.Service { return r.g.node(r.g.Members[i%3].ID).KV }

// op bounds one operation; clients give up before a fault does.
func (r *run) op() (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.ctx, 1500*time.Millisecond)
}

// rest lets a client breathe, so that a node that is down is not asked in a busy loop.
func (r *run) rest(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.ctx.Done():
	}
}

// failed looks at an error that no answer explains. unknown: it may have been done.
func (r *run) failed(what string, err error) (unknown bool) {
	switch errs.CodeOf(err) {
	case errs.OutcomeUnknown:
		return true
	case errs.NoLeader, errs.DeadlineExceeded, errs.TooManyRequests, errs.ShuttingDown, errs.Unavailable, errs.Canceled:
	default:
		if r.ctx.Err() == nil {
			r.t.Errorf("%s: %v", what, err)
		}
	}
	r.rest(2 * time.Millisecond)
	return false
}

// progress waits until all kinds of clients got further.
func (r *run) progress(when string) {
	r.t.Helper()
	writes, held, compactions := r.writes.Load()+40, r.held.Load()+1, r.compactions.Load()+1
	cluster.Eventually(r.t, "clients go on "+when, func() error {
		if w, h, c := r.writes.Load(), r.held.Load(), r.compactions.Load(); w < writes || h < held || c < compactions {
			return fmt.Errorf("%d of %d writes, held %d of %d times, %d of %d compactions", w, writes, h, held, c, compactions)
		}
		return nil
	})
}

// finish ends the clients, lets the watchers see the end, and judges.
func (r *run) finish() {
	r.t.Helper()
	close(r.stop)
	r.wg.Wait()
	r.expired()
	h, err := r.g.node(r.g.WaitLeader().ID).KV.Head(r.ctx, false)
	if err != nil {
		r.t.Fatal(err)
	}
	r.head = h.Revision
	close(r.final)
	r.reader.Wait()
	if r.ctx.Err() != nil {
		r.t.Fatal("the run took too long")
	}
	r.g.WaitEqual()
	r.judge()
}

// expired waits until the leases that nobody keeps alive any more are gone, and what
// hung on them.
func (r *run) expired() {
	r.t.Helper()
	cluster.Eventually(r.t, "all leases end", func() error {
		for _, id := range r.leases.Open() {
			one, cancel := r.op()
			_, err := r.kv(0).LeaseTTL(one, id, false)
			cancel()
			if !errs.Has(err, errs.LeaseNotFound) {
				return fmt.Errorf("lease %d: %w", id, err)
			}
			r.leases.Found(id, "not found")
		}
		// What hangs on an ended lease goes a moment later.
		one, cancel := r.op()
		defer cancel()
		left, err := r.kv(0).Range(one, &api.RangeRequest{Span: api.Prefix([]byte("lease/")), CountOnly: true})
		if err == nil && left.Count > 0 {
			err = fmt.Errorf("%d keys are left", left.Count)
		}
		return err
	})
}

func (r *run) judge() {
	r.t.Helper()
	h, err := r.kv(0).Head(r.ctx, false) // something that nobody waited for may have come late
	if err != nil {
		r.t.Fatal(err)
	}
	var events []history.Event
	for _, f := range r.full {
		events = append(events, f.Events()...)
	}
	log := history.NewLog(events, h.Revision)
	log.Acknowledge(r.versions.Acked())
	log.Acknowledge(r.acked)
	if err := log.Check(); err != nil {
		r.t.Error(err)
	}
	for _, f := range r.feeds {
		if err := log.Judge(f); err != nil {
			r.t.Error(err)
		}
	}
	for _, key := range []string{"guarded/lock", "guarded/election"} {
		writes := log.Of(key)
		if len(writes) == 0 {
			r.t.Errorf("%s was never written", key)
		}
		if err := history.TokensGrow(writes, tokenOf); err != nil {
			r.t.Error(err)
		}
	}
	r.judgeStore(log)
	r.judgePast(log)
	r.versions.Check(r.t)
	r.fences.Check(r.t)
	r.leases.Check(r.t, 30*time.Second)
	r.t.Logf("revision %d, %d events, %d operations on keys, %d on locks and elections, held %d times, %d leases (%d deletions seen), %d compactions, %d watches overtaken, %d reads of the past, %d snapshots installed",
		r.head, len(log.Events()), r.versions.Len(), r.fences.Len(), r.held.Load(), r.leases.Len(), r.seenGone.Load(), r.compactions.Load(), r.overtaken.Load(), len(r.asked), r.g.resets.Load())
	if r.seenGone.Load() == 0 || r.overtaken.Load() == 0 || len(r.asked) == 0 {
		r.t.Error("something never happened")
	}
}

// judgeStore: the store holds what the log leads to, on every node, and no write was
// carried out twice.
func (r *run) judgeStore(log *history.Log) {
	r.t.Helper()
	want := log.At(r.head)
	for i := range r.g.Members {
		res, err := r.kv(i).Range(r.ctx, &api.RangeRequest{Span: api.FromKey([]byte{0}), Revision: r.head})
		if err != nil {
			r.t.Fatal(err)
		}
		if int(res.Count) != len(want) || len(res.Items) != len(want) {
			r.t.Errorf("node %d has %d keys and counts %d, the log leads to %d", i, len(res.Items), res.Count, len(want))
		}
		for _, kv := range res.Items {
			if v, ok := want[string(kv.Key)]; !ok || v != string(kv.Value) {
				r.t.Errorf("node %d: %s = %.40q, the log leads to %.40q (%v)", i, kv.Key, kv.Value, v, ok)
			}
		}
	}
	once := map[string]history.Event{}
	for _, e := range log.Events() {
		if was, ok := once[e.Key+"="+e.Value]; ok && !e.Delete {
			r.t.Errorf("carried out twice: %s and %s", was, e)
		}
		if !e.Delete {
			once[e.Key+"="+e.Value] = e
		}
	}
}

// registers reads and writes a few keys in all ways that a key can be written.
func (r *run) registers(c int) {
	rnd := rand.New(rand.NewPCG(uint64(c), 7))
	seen := map[string]uint64{} // mod revision of a key as last read
	for n := 0; !r.stopped(); n++ {
		node := c % 3
		if c >= 3 { // half of them go about
			node = rnd.IntN(3)
		}
		kv, key := r.kv(node), fmt.Sprintf("reg/k%d", rnd.IntN(5))
		value := fmt.Sprintf("%d.%d", c, n)
		if rnd.IntN(8) == 0 {
			value += strings.Repeat(" ", 70_000) // more than the buffer of events keeps
		}
		ctx, cancel := r.op()
		switch k := rnd.IntN(100); {
		case k < 40:
			r.read(ctx, kv, c, key, seen)
		case k < 60:
			r.put(ctx, kv, c, key, value, nil)
		case k < 90:
			rev := seen[key]
			r.put(ctx, kv, c, key, value, &rev)
		default:
			r.remove(ctx, kv, c, key)
		}
		cancel()
	}
}

func (r *run) read(ctx context.Context, kv *warehouse.Service, c int, key string, seen map[string]uint64) {
	op := r.versions.Get(c, key)
	res, err := kv.Get(ctx, &api.GetRequest{Key: []byte(key)})
	switch {
	case err != nil:
		op.Drop()
		r.failed("get", err)
	case !res.Found:
		op.Missing()
		seen[key] = 0
	default:
		op.Read(string(res.KV.Value), res.KV.ModRevision)
		seen[key] = res.KV.ModRevision
	}
}

func (r *run) put(ctx context.Context, kv *warehouse.Service, c int, key, value string, rev *uint64) {
	op := r.versions.Put(c, key, value)
	q := api.PutRequest{Key: []byte(key), Value: []byte(value)}
	if rev != nil {
		op = r.versions.PutIf(c, key, value, *rev)
		q.If = api.If(*rev)
	}
	w, err := kv.Put(ctx, &q)
	r.wrote(op, w.Revision, err)
}

func (r *run) remove(ctx context.Context, kv *warehouse.Service, c int, key string) {
	op := r.versions.Delete(c, key)
	w, err := kv.Delete(ctx, &api.DeleteRequest{Key: []byte(key)})
	if err == nil && w.PrevRevision == 0 {
		op.Missing()
		return
	}
	r.wrote(op, w.Revision, err)
}

func (r *run) wrote(op *history.VersionOp, rev uint64, err error) {
	switch {
	case err == nil:
		op.OK(rev)
		r.writes.Add(1)
	case errs.Has(err, errs.RevisionMismatch):
		op.Mismatch()
	case r.failed("write", err):
		op.Unknown()
	default:
		op.Drop()
	}
}

// pairs writes two keys in one transaction, and reads both: they are always equal.
func (r *run) pairs(c int) {
	for n := 0; !r.stopped(); n++ {
		ctx, cancel := r.op()
		value := fmt.Sprintf("%d.%d", c, n)
		var ops []api.Op
		for _, k := range []string{"pair/a", "pair/b"} {
			ops = append(ops, api.Op{Put: &api.PutOp{Key: []byte(k), Value: []byte(value)}})
		}
		res, err := r.kv(n).Txn(ctx, &api.Txn{Then: ops})
		if err == nil {
			r.ack("pair/a", value, res.Revision)
			r.ack("pair/b", value, res.Revision)
		} else {
			r.failed("transaction", err)
		}
		got, err := r.kv(n+1).Range(ctx, &api.RangeRequest{Span: api.Prefix([]byte("pair/"))})
		cancel()
		switch {
		case err != nil:
			r.failed("range", err)
		case len(got.Items) == 2 && string(got.Items[0].Value) != string(got.Items[1].Value):
			r.t.Errorf("half a transaction: %s and %s at %d", got.Items[0].Value, got.Items[1].Value, got.Revision)
		}
	}
}

func (r *run) ack(key, value string, rev uint64) {
	r.writes.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.acked = append(r.acked, history.Event{Key: key, Value: value, Revision: rev})
}

// pastRead is what a range showed of a revision that was the newest then or earlier.
type pastRead struct {
	rev   uint64
	count uint64
	items map[string]string
}

// past reads the registers as they were at a revision that has not been compacted, or
// is told that it has.
func (r *run) past(c int) {
	rnd := rand.New(rand.NewPCG(uint64(c), 3))
	for n := 0; !r.stopped(); n++ {
		ctx, cancel := r.op()
		rev := r.least() + rnd.Uint64N(20)
		res, err := r.kv(n).Range(ctx, &api.RangeRequest{Span: api.Prefix([]byte("reg/")), Revision: rev, Limit: 3})
		cancel()
		switch {
		case err == nil:
			got := pastRead{rev: rev, count: res.Count, items: map[string]string{}}
			for _, kv := range res.Items {
				got.items[string(kv.Key)] = string(kv.Value)
			}
			r.mu.Lock()
			r.asked = append(r.asked, got)
			r.mu.Unlock()
		case !errs.Has(err, errs.Compacted) && !errs.Has(err, errs.FutureRevision):
			r.failed("range of the past", err)
		}
		r.rest(5 * time.Millisecond)
	}
}

// judgePast compares what was read of the past with what happened.
func (r *run) judgePast(log *history.Log) {
	r.t.Helper()
	at := map[uint64][]pastRead{}
	for _, p := range r.asked {
		at[p.rev] = append(at[p.rev], p)
	}
	log.Walk("reg/", func(rev uint64, keys map[string]string) {
		for _, p := range at[rev] {
			if int(p.count) != len(keys) || len(p.items) != min(3, len(keys)) {
				r.t.Errorf("at %d: %d of %d keys were read, there were %d", p.rev, len(p.items), p.count, len(keys))
			}
			for k, v := range p.items {
				if keys[k] != v {
					r.t.Errorf("at %d: %s = %.40q was read, it was %.40q", p.rev, k, v, keys[k])
				}
			}
		}
	})
}

// tokenOf is the token that stands first in a guarded value.
func tokenOf(value string) uint64 {
	text, _, _ := strings.Cut(value, "/")
	n, _ := strconv.ParseUint(text, 10, 64) // 0 is less than every token
	return n
}
