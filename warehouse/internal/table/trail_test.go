package table

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"nekoq/services/command"
	"nekoq/services/lease/leasetable"
	"nekoq/services/state"
	"nekoq/warehouse/api"
)

// trailKeys are few, so that each lives long, dies and comes back.
var trailKeys = []string{"a", "a\x00", "b", "/x/1"}

// TestTrails keeps a few keys alive over many marks, changes several at each revision,
// lets them end together, compacts and sweeps a part of it, and reads everything that
// may be read at all revisions: now, and from a view that was taken before.
func TestTrails(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, m := newModelled(rt, registry())
		early, view := *m, s.m.View()
		defer func() { view.Release() }()
		all := m.actions(s)
		rt.Repeat(map[string]func(*rapid.T){
			"changes": func(rt *rapid.T) { m.changeMany(rt, s) },
			"more":    func(rt *rapid.T) { m.changeMany(rt, s) },
			"lease":   func(rt *rapid.T) { m.endTogether(rt, s) },
			"compact": all["compact"],
			"sweep": func(rt *rapid.T) {
				s.apply(command.Command{Kind: KindSweep, Payload: EncodeNumber(rapid.Uint64Range(1, 24).Draw(rt, "rows"))})
			},
			"revert": all["revert"],
			"flush": func(rt *rapid.T) {
				if err := s.m.Flush(t.Context()); err != nil {
					rt.Fatal(err)
				}
			},
			"view": func(*rapid.T) {
				view.Release()
				early, view = *m, s.m.View()
			},
		})
		early.lookTrails(rt, view)
		now := s.m.View()
		defer now.Release()
		m.lookTrails(rt, now)
		m.sweepTrails(rt, s)
	})
}

// sweepTrails compacts to now, a few rows at a time: what is left is the log of the
// newest revision, without what it superseded, and the marks of what it deleted.
func (m *model) sweepTrails(rt *rapid.T, s *store) {
	if m.rev > m.compact {
		s.apply(command.Command{Kind: KindCompact, Payload: EncodeNumber(m.rev)})
		m.compact = m.rev
	}
	for more := true; more; {
		c, err := DecodeCompacted(s.apply(command.Command{Kind: KindSweep, Payload: EncodeNumber(2)})[0].Data)
		if err != nil {
			rt.Fatal(err)
		}
		more = c.More
	}
	v := s.m.View()
	defer v.Release()
	m.lookTrails(rt, v)
	logs, deleted, bytes := 0, 0, uint64(0)
	for _, t := range [...]state.TableID{TableLog, TableHist} {
		v.Scan(t, nil, nil, func(k, row []byte) bool { bytes += uint64(len(k) + len(row)); return true })
	}
	err := Changes(v, 0, m.rev, func(l Log) bool {
		if logs++; l.Kind == Delete {
			deleted++
		}
		if l.Revision < m.rev || len(l.old) > 0 {
			rt.Fatalf("swept at %d, %+v is left", m.rev, l)
		}
		return true
	})
	meta, merr := ReadMeta(v)
	if n := histRows(v); err != nil || merr != nil || n != deleted || meta.Past != bytes {
		rt.Fatalf("%d marks of %d deletions and %d changes are left, %d bytes of %d; %v %v", n, deleted, logs, meta.Past, bytes, err, merr)
	}
}

// changeMany makes many revisions, each of which changes one or more keys.
func (m *model) changeMany(rt *rapid.T, s *store) {
	deletes := rapid.IntRange(1, 40).Draw(rt, "deletes") // one change in so many
	var cmds []command.Command
	for range rapid.IntRange(1, 4*markEvery).Draw(rt, "revisions") {
		var t api.Txn
		m.rev++
		sub := uint32(0)
		for _, i := range rapid.SliceOfNDistinct(rapid.IntRange(0, len(trailKeys)-1), 1, 3, rapid.ID).Draw(rt, "keys") {
			k := trailKeys[i]
			p := m.at(k, m.rev)
			c := change{rev: m.rev, sub: sub, key: k, value: fmt.Sprint(m.rev % 5), create: m.rev, ver: 1}
			if p != nil {
				c.create, c.ver, c.prev = p.create, p.ver+1, p.rev
			}
			if rapid.IntRange(1, deletes).Draw(rt, "delete") == deletes {
				t.Then = append(t.Then, api.Op{Delete: &api.DeleteOp{Span: api.One([]byte(k))}})
				if p == nil {
					continue
				}
				c = change{rev: m.rev, sub: sub, key: k, del: true, prev: p.rev}
			} else {
				t.Then = append(t.Then, put(k, c.value))
			}
			m.changes = append(m.changes, c)
			sub++
		}
		if sub == 0 {
			m.rev--
		}
		cmds = append(cmds, command.Command{Kind: KindTxn, Payload: t.Append(nil)})
	}
	for _, r := range s.apply(cmds...) {
		if r.Err != nil {
			rt.Fatal(r.Err)
		}
	}
}

// endTogether hangs keys on a lease that ends.
func (m *model) endTogether(rt *rapid.T, s *store) {
	const id = 7
	s.apply(command.Command{Kind: leasetable.KindGrant, Payload: leasetable.AppendGrant(nil, leasetable.Grant{ID: id, TTL: 1000})})
	keys := rapid.SliceOfNDistinct(rapid.SampledFrom(trailKeys), 1, len(trailKeys), rapid.ID).Draw(rt, "keys")
	for range rapid.IntRange(1, markEvery+2).Draw(rt, "times") {
		for _, k := range keys {
			if _, err := s.put(PutCommand{Key: []byte(k), Lease: id, IfRevision: AnyRevision}); err != nil {
				rt.Fatal(err)
			}
			m.put(k, "", true)
		}
	}
	s.step(2000)
	if e := s.expire(); e.Keys != uint64(len(keys)) {
		rt.Fatalf("expired %+v, want %d keys", e, len(keys))
	}
	m.rev++
	slices.Sort(keys)
	for i, k := range keys {
		m.changes = append(m.changes, change{rev: m.rev, sub: uint32(i), key: k, del: true, prev: m.at(k, m.rev-1).rev})
	}
}

// lookTrails reads each key at each revision in all ways that there are.
func (m *model) lookTrails(rt *rapid.T, r state.Reader) {
	for rev := max(m.compact, 1); rev <= m.rev; rev++ {
		m.lookAt(rt, r, rev)
	}
	for _, k := range trailKeys {
		m.lookVersions(rt, r, k)
	}
	m.lookSuperseded(rt, r)
	for range 4 {
		m.lookDiff(rt, r)
		m.lookChanges(rt, r)
	}
}

// lookAt compares all keys at a revision, one by one and as a range.
func (m *model) lookAt(rt *rapid.T, r state.Reader, rev uint64) {
	var want, got, single []string
	for _, c := range m.then(rev) {
		want = append(want, c.show())
	}
	err := rangeAt(r, nil, nil, rev, func(k []byte, rec *Record) bool {
		got = append(got, show(string(k), rec))
		return true
	})
	if err != nil || !slices.Equal(got, want) {
		rt.Fatalf("at %d: %q, %v; model %q", rev, got, err, want)
	}
	if n, err := countAt(r, nil, nil, rev); err != nil || n != uint64(len(want)) {
		rt.Fatalf("at %d: %d keys, %v; model %d", rev, n, err, len(want))
	}
	for _, k := range slices.Sorted(slices.Values(trailKeys)) {
		rec, ok, err := At(r, []byte(k), rev)
		if err != nil {
			rt.Fatalf("%q at %d: %v", k, rev, err)
		}
		last := m.last(k, rev)
		swept := last == nil || last.del && last.rev < m.compact // or may be, of the past
		if !ok && !swept || ok && (last == nil || rec.ModRevision != last.rev || rec.Deleted != last.del) {
			rt.Fatalf("%q at %d: %v %+v; model %+v", k, rev, ok, rec, last)
		}
		if ok && !rec.Deleted {
			single = append(single, show(k, &rec))
		}
	}
	if !slices.Equal(single, want) {
		rt.Fatalf("key by key at %d: %q; model %q", rev, single, want)
	}
}

// last gives the newest change of key at or before rev, nil for none.
func (m *model) last(key string, rev uint64) *change {
	for i := len(m.changes) - 1; i >= 0; i-- {
		if c := &m.changes[i]; c.key == key && c.rev <= rev {
			return c
		}
	}
	return nil
}

// lookVersions compares the history of a key before each revision, and what was written
// there. A compaction takes the oldest, and leaves no gap.
func (m *model) lookVersions(rt *rapid.T, r state.Reader, key string) {
	var all []*change // newest first
	var shown []string
	for i := len(m.changes) - 1; i >= 0; i-- {
		if c := &m.changes[i]; c.key == key {
			all, shown = append(all, c), append(shown, fmt.Sprintf("%d %v %q v%d", c.rev, c.del, c.value, c.ver))
		}
	}
	for before := m.rev + 1; before > 0; before-- {
		for len(all) > 0 && all[0].rev >= before {
			all, shown = all[1:], shown[1:]
		}
		least := 0 // versions that no compaction takes
		for least < len(all) && all[least].rev > m.compact {
			least++
		}
		if before > m.compact && least < len(all) && (!all[least].del || all[least].rev == m.compact) {
			least++ // it can be read at the compact revision
		}
		if before%markEvery != 1 {
			least = min(least, 2*markEvery) // as a page
		}
		m.lookHistoryOf(rt, r, key, before, shown, least)
		m.lookVersion(rt, r, key, before-1)
	}
}

// lookHistoryOf compares the history of a key with what it was, of which at least so
// many are left.
func (m *model) lookHistoryOf(rt *rapid.T, r state.Reader, key string, before uint64, was []string, least int) {
	n := 0
	err := History(r, []byte(key), before, func(rec *Record) bool {
		got := fmt.Sprintf("%d %v %q v%d", rec.ModRevision, rec.Deleted, rec.Value, rec.Version)
		if n == len(was) || was[n] != got {
			rt.Fatalf("history of %q before %d, compacted at %d: after %q comes %q; model %q", key, before, m.compact, was[:n], got, was[n:])
		}
		n++
		return n < least+markEvery+2
	})
	if err != nil || n < least {
		rt.Fatalf("history of %q before %d, compacted at %d: %d of at least %d versions of %q; %v", key, before, m.compact, n, least, was, err)
	}
}

// lookVersion compares what was written to a key at a revision.
func (m *model) lookVersion(rt *rapid.T, r state.Reader, key string, rev uint64) {
	rec, ok, err := Version(r, []byte(key), rev)
	c := m.last(key, rev)
	was := c != nil && c.rev == rev
	if err != nil || ok && !was || was && !ok && c.rev >= m.compact {
		rt.Fatalf("%q changed at %d: %v %v; model %v, compacted at %d", key, rev, ok, err, was, m.compact)
	}
	if ok && (rec.Deleted != c.del || !c.del && show(key, &rec) != c.show()) {
		rt.Fatalf("%q at %d: %+v; model %+v", key, rev, rec, c)
	}
}

// lookSuperseded compares what each change superseded.
func (m *model) lookSuperseded(rt *rapid.T, r state.Reader) {
	for i := range m.changes {
		c := &m.changes[i]
		rec, ok, err := Superseded(r, c.rev, c.sub)
		if err != nil || ok && c.prev == 0 || !ok && c.prev != 0 && c.rev > m.compact {
			rt.Fatalf("what %+v superseded, compacted at %d: %v %v", c, m.compact, ok, err)
		}
		if ok && show(c.key, &rec) != m.at(c.key, c.rev-1).show() {
			rt.Fatalf("%+v superseded %+v; model %+v", c, rec, m.at(c.key, c.rev-1))
		}
	}
}
