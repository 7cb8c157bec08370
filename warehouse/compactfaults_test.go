package warehouse_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"nekoq/services/errs"
	"nekoq/services/testkit/cluster"
	"nekoq/warehouse"
	"nekoq/warehouse/api"
)

// twins are two stores that are told the same, of which one is compacted.
type twins struct {
	*testing.T
	ctx         context.Context
	rnd         *rand.Rand
	whole, lean *warehouse.Service
	compact     uint64 // revision to which lean is compacted
}

// Compaction at any moment, swept or not, changes no answer at or above the compact
// revision: ranges in every order and form with their counts, diffs, hashes and
// watches. Below it every answer is that it is compacted.
func TestSoakCompactionChangesNothingButSpace(t *testing.T) {
	end := time.Now().Add(cluster.SoakTime(t))
	for seed := uint64(1); seed <= 8 || time.Now().Before(end); seed++ {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			tw := &twins{
				T: t, ctx: t.Context(), rnd: rand.New(rand.NewPCG(seed, 0)),
				whole: localNode(t, nil).KV, lean: localNode(t, nil).KV,
			}
			for range 150 {
				switch tw.rnd.IntN(6) {
				case 0:
					tw.shrink()
				default:
					tw.write()
				}
				tw.compare()
			}
		})
	}
}

// shrink compacts one of them.
func (tw *twins) shrink() {
	h, err := tw.lean.Head(tw.ctx, false)
	if err != nil {
		tw.Fatal(err)
	}
	if h.Revision == tw.compact {
		return
	}
	rev := tw.between(tw.compact+1, h.Revision)
	if _, err := tw.lean.CompactTo(tw.ctx, rev, tw.rnd.IntN(2) == 0); err != nil { // swept, or perhaps
		tw.Fatal(err)
	}
	tw.compact = rev
}

// between gives a number of low to high, both included.
func (tw *twins) between(low, high uint64) uint64 { return low + tw.rnd.Uint64N(high-low+1) }

var twinKeys = []string{"a", "a\x00", "ab", "b", "b/1", "b/2", "c", "\xff"}

func (tw *twins) key() []byte { return []byte(twinKeys[tw.rnd.IntN(len(twinKeys))]) }

func (tw *twins) span() api.Span {
	switch tw.rnd.IntN(4) {
	case 0:
		return api.One(tw.key())
	case 1:
		return api.Prefix(tw.key())
	case 2:
		return api.FromKey(tw.key())
	}
	return api.Span{Key: []byte("\x00"), End: []byte{0}}
}

// write changes both in the same way, in one transaction of a few operations.
func (tw *twins) write() {
	var txn api.Txn
	used := map[string]bool{}
	for i := range 1 + tw.rnd.IntN(3) {
		k := tw.key()
		switch {
		case used[string(k)]:
		case tw.rnd.IntN(3) == 0:
			txn.Then = append(txn.Then, api.Op{Delete: &api.DeleteOp{Span: api.One(k)}})
		default:
			txn.Then = append(txn.Then, api.Op{Put: &api.PutOp{Key: k, Value: fmt.Append(nil, i, tw.rnd.IntN(10))}})
		}
		used[string(k)] = true
	}
	a, err := tw.whole.Txn(tw.ctx, &txn)
	if err != nil {
		tw.Fatal(err)
	}
	b, err := tw.lean.Txn(tw.ctx, &txn)
	if err != nil || a.Revision != b.Revision {
		tw.Fatalf("revision %d and %d, %v", a.Revision, b.Revision, err)
	}
}

// compare asks both the same at a revision at or above the compact one, and the lean
// one below it.
func (tw *twins) compare() {
	h, err := tw.whole.Head(tw.ctx, false)
	if err != nil {
		tw.Fatal(err)
	}
	low := max(tw.compact, 1)
	q := api.RangeRequest{
		Span: tw.span(), Revision: tw.between(low, h.Revision), Limit: tw.rnd.Int64N(4), SortBy: api.SortTarget(tw.rnd.IntN(5)),
		Order: api.SortOrder(tw.rnd.IntN(3)), CountOnly: tw.rnd.IntN(4) == 0, MinMod: tw.between(0, h.Revision),
	}
	tw.equal("range", func(s *warehouse.Service) (any, error) {
		r, err := s.Range(tw.ctx, &q)
		r.Header = api.Header{Revision: r.Revision}
		strip(r.Items)
		return r, err
	})
	all := q
	all.Limit, all.MinMod, all.CountOnly = 0, 0, false
	for _, s := range []*warehouse.Service{tw.whole, tw.lean} { // the count is that of a walk
		one, err := s.Range(tw.ctx, &q)
		walk, err2 := s.Range(tw.ctx, &all)
		if err != nil || err2 != nil || one.Count != uint64(len(walk.Items)) || walk.Count != one.Count {
			tw.Fatalf("count %d and %d of %d, %v %v", one.Count, walk.Count, len(walk.Items), err, err2)
		}
	}
	tw.equal("hash", func(s *warehouse.Service) (any, error) {
		hash, err := s.HashKV(tw.ctx, q.Revision)
		return [2]uint64{hash.HashRevision, uint64(hash.Hash)}, err
	})
	tw.equal("diff", func(s *warehouse.Service) (any, error) {
		_, d, more, err := s.Diff(tw.ctx, q.Span, q.Revision, h.Revision, 5, false)
		return fmt.Sprint(show(d), more), err
	})
	tw.equal("watch", func(s *warehouse.Service) (any, error) { return tw.events(s, q.Revision, h.Revision) })
	tw.below(low)
}

// strip takes away what counts the commands of the store, which compaction is, and
// the times.
func strip(items []api.KV) {
	for i := range items {
		items[i].StoreRevision, items[i].Created, items[i].Modified = 0, 0, 0
	}
}

func show(d []api.Difference) (out string) {
	version := func(kv *api.KV) string {
		if kv == nil {
			return "none"
		}
		return fmt.Sprintf("%q at %d, create %d, version %d", kv.Value, kv.ModRevision, kv.CreateRevision, kv.Version)
	}
	for _, c := range d {
		out += fmt.Sprintf("%q: %s, %s; ", c.Key, version(c.From), version(c.To))
	}
	return out
}

func (tw *twins) equal(what string, ask func(s *warehouse.Service) (any, error)) {
	tw.Helper()
	a, err := ask(tw.whole)
	if err != nil {
		tw.Fatalf("%s: %v", what, err)
	}
	if b, err := ask(tw.lean); err != nil || !reflect.DeepEqual(a, b) {
		tw.Fatalf("%s: %+v; compacted at %d: %+v %v", what, a, tw.compact, b, err)
	}
}

// events gives what a watch from a revision on tells up to head, with the versions
// before where they are not those of below the compact revision.
func (tw *twins) events(s *warehouse.Service, from, head uint64) (out []string, err error) {
	w, err := s.Watch(tw.ctx, &api.WatchRequest{From: from, Prev: true})
	if err != nil {
		return nil, err
	}
	defer w.Close()
	for w.From() < head {
		b, err := w.Next(tw.ctx)
		if err != nil {
			return nil, err
		}
		for i := range b.Events {
			e := &b.Events[i]
			prev := ""
			if e.Prev != nil && e.KV.ModRevision > tw.compact {
				prev = fmt.Sprintf(" after %s at %d", e.Prev.Value, e.Prev.ModRevision)
			}
			out = append(out, asEvent(e).String()+prev)
		}
	}
	return out, nil
}

// below asks the lean one for what is gone.
func (tw *twins) below(low uint64) {
	if tw.compact < 2 {
		return
	}
	rev := tw.between(1, low-1)
	_, rangeErr := tw.lean.Range(tw.ctx, &api.RangeRequest{Span: api.FromKey([]byte("a")), Revision: rev})
	_, getErr := tw.lean.Get(tw.ctx, &api.GetRequest{Key: []byte("a"), Revision: rev})
	_, hashErr := tw.lean.HashKV(tw.ctx, rev)
	_, _, _, diffErr := tw.lean.Diff(tw.ctx, api.One([]byte("a")), rev, 0, 1, false)
	_, compactErr := tw.lean.Compact(tw.ctx, rev)
	_, watchErr := tw.lean.Watch(tw.ctx, &api.WatchRequest{From: rev})
	for what, err := range map[string]error{
		"range": rangeErr, "get": getErr, "hash": hashErr, "diff": diffErr, "compact": compactErr, "watch": watchErr,
	} {
		if c, ok := api.CompactRevision(err); !errs.Has(err, errs.Compacted) || what != "compact" && (!ok || c != tw.compact) {
			tw.Fatalf("%s at %d, compacted at %d: %v", what, rev, tw.compact, err)
		}
	}
}
