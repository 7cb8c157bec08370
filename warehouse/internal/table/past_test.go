package table

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"weak"

	"pgregory.net/rapid"

	"nekoq/services/command"
	"nekoq/services/state"
	"nekoq/warehouse/api"
)

// kindInside lets a test look at the state from within a command.
const kindInside command.Kind = 0xfffe

// TestPast reads the past in all ways that there are, of keys with long and short
// histories, from the file, from what is not in it yet, from a view that was taken
// before, and from within a command that has written: and a naive model says the same.
func TestPast(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var inside func(tx *state.Tx)
		reg := registry()
		reg.Handle(kindInside, "inside", 1, func(tx *state.Tx, _ *command.Command) ([]byte, error) {
			inside(tx)
			return nil, nil
		})
		s, m := newModelled(rt, reg)
		acts := m.actions(s)
		acts["burst"] = func(rt *rapid.T) { burst(rt, s, m) }
		acts["flush"] = func(rt *rapid.T) {
			if err := s.m.Flush(t.Context()); err != nil {
				rt.Fatal(err)
			}
		}
		early := *m
		view := s.m.View()
		acts["view"] = func(*rapid.T) {
			view.Release()
			early, view = *m, s.m.View()
		}
		rt.Repeat(acts)
		defer func() { view.Release() }()
		look := func(m *model, r state.Reader, counts Counter) {
			meta, err := ReadMeta(r)
			if err != nil || meta.Revision != m.rev || meta.Compact != m.compact {
				rt.Fatalf("meta %+v; model rev %d compact %d; %v", meta, m.rev, m.compact, err)
			}
			for range 8 {
				m.lookRange(rt, &Query{R: r, Meta: meta, Counts: counts})
				m.lookDiff(rt, r)
			}
			m.lookHistory(rt, r)
			m.lookChanges(rt, r)
		}
		look(&early, view, FrozenCounts(view))
		inside = func(tx *state.Tx) {
			writeInside(rt, tx, m)
			look(m, tx, liveCounts(tx))
		}
		s.apply(command.Command{Kind: kindInside})
		now := s.m.View()
		defer now.Release()
		look(m, now, FrozenCounts(now))
	})
}

// burst writes one key many times, and deletes it now and then.
func burst(rt *rapid.T, s *store, m *model) {
	k := keyGen.Draw(rt, "key")
	deletes := rapid.IntRange(2, 50).Draw(rt, "deletes")
	var cmds []command.Command
	for i := range rapid.IntRange(1, 3*leapRows).Draw(rt, "times") {
		if i%deletes == deletes-1 {
			cmds = append(cmds, command.Command{Kind: KindDelete, Payload: (&DeleteCommand{Key: []byte(k), IfRevision: AnyRevision}).Encode()})
			m.del(k)
			continue
		}
		v := fmt.Sprint(i % 5)
		cmds = append(cmds, command.Command{Kind: KindPut, Payload: (&PutCommand{Key: []byte(k), Value: []byte(v), IfRevision: AnyRevision}).Encode()})
		m.put(k, v, false)
	}
	s.apply(cmds...)
}

// writeInside puts and deletes some keys as one revision of a command that goes on.
func writeInside(rt *rapid.T, tx *state.Tx, m *model) {
	w, err := newWriter(tx, 1, "test:me")
	if err != nil {
		rt.Fatal(err)
	}
	for _, k := range rapid.SliceOfNDistinct(keyGen, 1, 5, rapid.ID).Draw(rt, "inside") {
		op := put(k, "inside")
		if rapid.Bool().Draw(rt, "delete") {
			op = api.Op{Delete: &api.DeleteOp{Span: api.One([]byte(k))}}
		}
		before, sub := m.at(k, m.rev), w.sub
		if _, err := (&Branch{ops: []api.Op{op}}).run(&w); err != nil {
			rt.Fatal(err)
		}
		if w.sub == sub {
			continue // nothing to delete
		}
		c := change{rev: w.meta.Revision, sub: sub, key: k, del: op.Delete != nil}
		if before != nil {
			c.prev = before.rev
		}
		if !c.del {
			c.value, c.create, c.ver = "inside", c.rev, 1
			if before != nil {
				c.create, c.ver = before.create, before.ver+1
			}
		}
		m.changes = append(m.changes, c)
	}
	if w.sub > 0 {
		m.rev = w.meta.Revision
		w.finish()
	}
}

// then gives the keys at a revision, in order.
func (m *model) then(rev uint64) (out []*change) {
	last := map[string]*change{}
	for i := range m.changes {
		if c := &m.changes[i]; c.rev <= rev {
			last[c.key] = c
		}
	}
	for _, c := range last {
		if !c.del {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b *change) int { return cmp.Compare(a.key, b.key) })
	return out
}

func drawPastRange(rt *rapid.T, m *model) *api.RangeRequest {
	req := &api.RangeRequest{
		Span:     api.Span{Key: []byte(keyGen.Draw(rt, "key")), End: []byte(rapid.SampledFrom([]string{"\x00", "\xff", "b", "a\x00\x01", ""}).Draw(rt, "end"))},
		Revision: rapid.Uint64Range(max(m.compact, 1), m.rev).Draw(rt, "rev"),
		Limit:    rapid.Int64Range(0, 4).Draw(rt, "limit"),
		KeysOnly: rapid.Bool().Draw(rt, "keys only"), CountOnly: rapid.IntRange(0, 4).Draw(rt, "count only") == 0,
	}
	if rapid.Bool().Draw(rt, "sort") {
		req.SortBy = api.SortTarget(rapid.IntRange(0, 4).Draw(rt, "by"))
		req.Order = api.SortOrder(rapid.IntRange(0, 2).Draw(rt, "order"))
	}
	if rapid.Bool().Draw(rt, "filter") {
		bound := rapid.SampledFrom([]uint64{0, 0, m.rev / 3, m.rev / 2, m.rev})
		req.MinMod, req.MaxMod = bound.Draw(rt, "min mod"), bound.Draw(rt, "max mod")
		req.MinCreate, req.MaxCreate = bound.Draw(rt, "min create"), bound.Draw(rt, "max create")
	}
	return req
}

// lookRange compares a range with all that may be asked of one.
func (m *model) lookRange(rt *rapid.T, q *Query) {
	req := drawPastRange(rt, m)
	start, end := req.Bounds()
	var want []*change
	count := uint64(0)
	for _, c := range m.then(req.Revision) {
		if c.key < string(start) || end != nil && c.key >= string(end) {
			continue
		}
		count++
		if c.rev >= req.MinMod && (req.MaxMod == 0 || c.rev <= req.MaxMod) && c.create >= req.MinCreate && (req.MaxCreate == 0 || c.create <= req.MaxCreate) {
			want = append(want, c)
		}
	}
	slices.SortStableFunc(want, func(a, b *change) int {
		order := [...]int{
			api.SortByKey: cmp.Compare(a.key, b.key), api.SortByVersion: cmp.Compare(a.ver, b.ver),
			api.SortByCreate: cmp.Compare(a.create, b.create), api.SortByMod: cmp.Compare(a.rev, b.rev),
			api.SortByValue: cmp.Compare(a.value, b.value),
		}[req.SortBy]
		if req.Order == api.Descending {
			return -order
		}
		return order
	})
	more := req.Limit > 0 && int64(len(want)) > req.Limit
	if more {
		want = want[:req.Limit]
	}
	if req.CountOnly {
		want, more = nil, false
	}
	var names, got []string
	for _, c := range want {
		one := *c
		if req.KeysOnly {
			one.value = ""
		}
		names = append(names, one.show())
	}
	res, err := q.Range(req, bytes.Clone)
	if err != nil {
		rt.Fatalf("%+v: %v", req, err)
	}
	for i := range res.Items {
		kv := &res.Items[i]
		got = append(got, fmt.Sprintf("%q=%q@%d/%d v%d", kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version))
	}
	if res.Count != count || res.More != more || !slices.Equal(got, names) || res.Revision != m.rev {
		rt.Fatalf("%+v\ngave %d more=%v %q\nmodel %d more=%v %q", req, res.Count, res.More, got, count, more, names)
	}
	if n, err := q.countWalk(start, end, req.Revision); err != nil || n != count {
		rt.Fatalf("a walk of %q to %q at %d counts %d; model %d; %v", start, end, req.Revision, n, count, err)
	}
}

// lookDiff compares what differs between two revisions, up to a number of keys.
func (m *model) lookDiff(rt *rapid.T, r state.Reader) {
	at := rapid.Uint64Range(max(m.compact, 1), m.rev)
	from, to := at.Draw(rt, "from"), at.Draw(rt, "to")
	start, end := keyGen.Draw(rt, "start"), keyGen.Draw(rt, "end")
	most := rapid.IntRange(1, 20).Draw(rt, "most")
	both := map[string][2]*change{}
	for i, rev := range [...]uint64{from, to} {
		for _, c := range m.then(rev) {
			pair := both[c.key]
			pair[i] = c
			both[c.key] = pair
		}
	}
	word := func(c *change) string {
		if c == nil {
			return "none"
		}
		return c.show()
	}
	var want, got []string
	for _, k := range slices.Sorted(maps.Keys(both)) {
		p := both[k]
		if k >= start && k < end && len(want) < most && (p[0] == nil || p[1] == nil || p[0].value != p[1].value) {
			want = append(want, fmt.Sprintf("%q: %s, %s", k, word(p[0]), word(p[1])))
		}
	}
	said := func(k []byte, rec *Record) string {
		if rec == nil {
			return "none"
		}
		return show(string(k), rec)
	}
	err := Diff(r, []byte(start), []byte(end), from, to, func(d Difference) bool {
		got = append(got, fmt.Sprintf("%q: %s, %s", d.Key, said(d.Key, d.Then), said(d.Key, d.Now)))
		return len(got) < most
	})
	if err != nil || !slices.Equal(got, want) {
		rt.Fatalf("diff of [%q, %q) from %d to %d: %q; model %q; %v", start, end, from, to, got, want, err)
	}
}

// lookHistory compares the versions of a key that a compaction has not taken.
func (m *model) lookHistory(rt *rapid.T, r state.Reader) {
	k := keyGen.Draw(rt, "key")
	before := rapid.Uint64Range(max(m.compact, 1), m.rev+1).Draw(rt, "before")
	var want, got []string
	for i := len(m.changes) - 1; i >= 0; i-- {
		if c := &m.changes[i]; c.key == k && c.rev < before && c.rev > m.compact {
			want = append(want, fmt.Sprintf("%d %v %q", c.rev, c.del, c.value))
		}
	}
	err := History(r, []byte(k), before, func(rec *Record) bool {
		if rec.ModRevision > m.compact {
			got = append(got, fmt.Sprintf("%d %v %q", rec.ModRevision, rec.Deleted, rec.Value))
		}
		return true
	})
	if err != nil || !slices.Equal(got, want) {
		rt.Fatalf("history of %q before %d, compacted at %d: %q; model %q; %v", k, before, m.compact, got, want, err)
	}
}

// lookChanges compares the changes of a stretch of time, with the records of some, up to
// a number of them.
func (m *model) lookChanges(rt *rapid.T, r state.Reader) {
	at := rapid.Uint64Range(max(m.compact, 1), m.rev)
	from, to := at.Draw(rt, "from"), at.Draw(rt, "to")
	least, kinds := keyGen.Draw(rt, "least"), rapid.IntRange(0, 2).Draw(rt, "kinds")
	most := rapid.SampledFrom([]int{1, 5, 1000}).Draw(rt, "most")
	wants := func(key string, del bool) bool { return key >= least && (kinds != 1 || del) && (kinds != 2 || !del) }
	var want, got []string
	for _, c := range m.changes {
		if c.rev < from || c.rev > to || len(want) == most {
			continue
		}
		value := "unwanted"
		if wants(c.key, c.del) {
			value = fmt.Sprintf("%v %q v%d", c.del, c.value, c.ver)
		}
		want = append(want, fmt.Sprintf("%d/%d %q: %s", c.rev, c.sub, c.key, value))
	}
	err := ReadChanges(r, from, to, func(l *Log) bool { return wants(string(l.Key), l.Kind == Delete) }, func(l *Log, rec *Record) bool {
		value := "unwanted"
		if rec != nil {
			value = fmt.Sprintf("%v %q v%d", rec.Deleted, rec.Value, rec.Version)
		}
		got = append(got, fmt.Sprintf("%d/%d %q: %s", l.Revision, l.Sub, l.Key, value))
		return len(got) < most
	})
	if err != nil || !slices.Equal(got, want) {
		rt.Fatalf("changes from %d to %d: %q; model %q; %v", from, to, got, want, err)
	}
}

// Long ranges are read in several batches, their counts corrected by more changes than
// are read, many at each revision. All is as key by key.
func TestLongPast(t *testing.T) {
	s := openStore(t)
	const keys = 1500
	order := rand.New(rand.NewPCG(1, 2))
	for round := range 2 * minRecount / keys {
		var ops []api.Op
		for _, i := range order.Perm(keys) {
			k := fmt.Appendf(nil, "k%04d", i)
			if (round+i)%7 == 0 {
				ops = append(ops, api.Op{Delete: &api.DeleteOp{Span: api.One(k)}})
			} else {
				ops = append(ops, api.Op{Put: &api.PutOp{Key: k, Value: fmt.Append(nil, round, " ", i)}})
			}
		}
		if _, err := s.txn(&api.Txn{Then: ops}); err != nil {
			t.Fatal(err)
		}
		if round == minRecount/keys {
			if err := s.m.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	v := s.m.View()
	defer v.Release()
	q := Query{R: v, Meta: s.meta(), Counts: FrozenCounts(v)}
	before := map[string]string{}
	for rev := uint64(1); rev <= q.Meta.Revision; rev++ {
		now := map[string]string{}
		for i := range keys {
			k := fmt.Sprintf("k%04d", i)
			rec, ok, err := At(v, []byte(k), rev)
			if err != nil {
				t.Fatal(err)
			}
			if ok && !rec.Deleted {
				now[k] = show(k, &rec)
			}
		}
		longRanges(t, &q, rev, now)
		var differ, got []string // each put has its own value
		for i := range keys {
			if k := fmt.Sprintf("k%04d", i); before[k] != now[k] {
				differ = append(differ, k)
			}
		}
		err := Diff(v, []byte("k"), nil, max(rev-1, 1), rev, func(d Difference) bool { got = append(got, string(d.Key)); return true })
		if err != nil || !slices.Equal(got, differ) {
			t.Fatalf("at %d differ %q, %v; want %q", rev, got, err, differ)
		}
		before = now
	}
}

// longRanges reads ranges whose limits lie about the ends of batches.
func longRanges(t *testing.T, q *Query, rev uint64, now map[string]string) {
	t.Helper()
	want := slices.Collect(maps.Values(now))
	slices.Sort(want)
	for _, limit := range []int{0, 1, firstBatch - 1, firstBatch, firstBatch + 1, 3*firstBatch - 1, 3 * firstBatch, 3*firstBatch + 1, 10_000} {
		part := want
		if limit > 0 {
			part = want[:min(limit, len(want))]
		}
		res, err := q.Range(&api.RangeRequest{Span: api.Prefix([]byte("k")), Revision: rev, Limit: int64(limit)}, bytes.Clone)
		got := part[:0:0]
		for i := range res.Items {
			kv := &res.Items[i]
			got = append(got, fmt.Sprintf("%q=%q@%d/%d v%d", kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version))
		}
		if err != nil || res.Count != uint64(len(want)) || !slices.Equal(got, part) {
			t.Fatalf("at %d with limit %d: %d keys, %q, %v; want %d, %q", rev, limit, res.Count, got, err, len(want), part)
		}
	}
	if n, err := q.countWalk([]byte("k"), nil, rev); err != nil || n != uint64(len(want)) {
		t.Fatalf("at %d a walk counts %d, %v; want %d", rev, n, err, len(want))
	}
}

// An answer holds room for what it tells, not for the keys that a store has gained
// since, nor for those that a limit cut off: a transaction may hold thousands of answers.
func TestAnswerHoldsWhatItTells(t *testing.T) {
	s := openStore(t)
	fill := func(from, to int) uint64 {
		var cmds []command.Command
		for i := from; i < to; i++ {
			c := PutCommand{Key: fmt.Appendf(nil, "k%06d", i), IfRevision: AnyRevision}
			cmds = append(cmds, command.Command{Kind: KindPut, Payload: c.Encode()})
		}
		s.apply(cmds...)
		return s.meta().Revision
	}
	const few, many = 2 * longAnswer, 50 * longAnswer
	early := fill(0, few)
	now := fill(few, many)
	v := s.m.View()
	defer v.Release()
	q := Query{R: v, Meta: s.meta(), Counts: FrozenCounts(v)}
	for _, c := range []struct {
		rev   uint64
		limit int64
		order api.SortOrder
		want  int
	}{
		{early, 0, api.Ascending, few},
		{early, 0, api.Descending, few},
		{early, 5, api.Descending, 5},
		{now, 0, api.Ascending, many},
		{now, 5, api.Descending, 5},
	} {
		req := &api.RangeRequest{Span: api.Prefix([]byte("k")), Revision: c.rev, Limit: c.limit, Order: c.order}
		var first weak.Pointer[byte]
		res, err := q.Range(req, func(b []byte) []byte {
			own := append(make([]byte, 0, 64), b...) // no part of a block that others share
			if first.Value() == nil && len(b) > 0 {
				first = weak.Make(&own[0])
			}
			return own
		})
		if n := len(res.Items); err != nil || n != c.want || cap(res.Items) > 5*n {
			t.Errorf("%+v: %d items in room for %d; %v", c, n, cap(res.Items), err)
		}
		runtime.GC()
		if cut := c.limit > 0; cut && first.Value() != nil {
			t.Errorf("%+v: the answer holds a key that the limit cut off", c)
		}
		runtime.KeepAlive(res)
	}
}
