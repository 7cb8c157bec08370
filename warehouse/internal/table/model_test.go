package table

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"sort"
	"testing"

	"pgregory.net/rapid"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/state"
)

// model is the store as plain slices: all changes ever made.
type model struct {
	rev     uint64
	compact uint64
	changes []change
}

type change struct {
	rev    uint64
	sub    uint32
	key    string
	value  string
	del    bool
	create uint64
	ver    uint64
	prev   uint64
	leased bool
}

// at gives the newest change of key at or before rev, nil for none or a delete.
func (m *model) at(key string, rev uint64) *change {
	for i := len(m.changes) - 1; i >= 0; i-- {
		if c := &m.changes[i]; c.key == key && c.rev <= rev {
			if c.del {
				return nil
			}
			return c
		}
	}
	return nil
}

func (m *model) keys(rev uint64) []string {
	seen := map[string]bool{}
	var out []string
	for _, c := range m.changes {
		if c.rev <= rev && !seen[c.key] {
			seen[c.key] = true
			if m.at(c.key, rev) != nil {
				out = append(out, c.key)
			}
		}
	}
	sort.Strings(out)
	return out
}

func (m *model) put(key, value string, leased bool) {
	m.rev++
	c := change{rev: m.rev, key: key, value: value, create: m.rev, ver: 1, leased: leased}
	if p := m.at(key, m.rev-1); p != nil {
		c.create, c.ver, c.prev = p.create, p.ver+1, p.rev
	}
	m.changes = append(m.changes, c)
}

func (m *model) del(key string) {
	p := m.at(key, m.rev)
	if p == nil {
		return
	}
	m.rev++
	m.changes = append(m.changes, change{rev: m.rev, key: key, del: true, prev: p.rev})
}

// keyGen makes few, nasty keys: prefixes of each other, zero bytes, 0xff, escapes.
var keyGen = rapid.SampledFrom([]string{"a", "a\x00", "a\x00\x00", "a\x00\x01", "a\x00\xff", "a\x01", "ab", "b", "\x00", "\xff", "\xff\xff", "a\xff", "/x/1", "/x/2"})

// newModelled gives an empty store with its model, until the check ends.
func newModelled(rt *rapid.T, reg *state.Registry) (*store, *model) {
	dir, err := os.MkdirTemp("", "kvmodel")
	if err != nil {
		rt.Fatal(err)
	}
	s := newStoreOf(rt, dir, reg)
	rt.Cleanup(func() {
		_ = s.m.Close()
		_ = os.RemoveAll(dir)
	})
	return s, &model{rev: 1}
}

// row: nekoq 8
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, m := newModelled(rt, registry())
		acts := m.actions(s)
		acts[""] = func(rt *rapid.T) { compare(rt, s, m) }
		rt.Repeat(acts)
		sweepAll(rt, s, m)
	})
}

// actions are all that may happen to a store, done on the model too.
func (m *model) actions(s *store) map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"put": func(rt *rapid.T) {
			k, v := keyGen.Draw(rt, "key"), rapid.StringN(0, 5, -1).Draw(rt, "value")
			c := PutCommand{Key: []byte(k), Value: []byte(v), IfRevision: AnyRevision}
			if rapid.Bool().Draw(rt, "ttl") {
				c.TTL = 1000
			}
			w, err := s.put(c)
			if err != nil {
				rt.Fatalf("put: %v", err)
			}
			m.put(k, v, c.TTL != 0)
			last := m.changes[len(m.changes)-1]
			if w.Revision != last.rev || w.CreateRevision != last.create || w.Version != last.ver || w.PrevRevision != last.prev || (w.Lease != 0) != (c.TTL != 0) {
				rt.Fatalf("put gave %+v, the model %+v", w, last)
			}
		},
		"cas": func(rt *rapid.T) {
			k := keyGen.Draw(rt, "key")
			want := rapid.Uint64Range(0, m.rev+1).Draw(rt, "rev")
			have := uint64(0)
			if p := m.at(k, m.rev); p != nil {
				have = p.rev
			}
			if rapid.Bool().Draw(rt, "right") {
				want = have
			}
			_, err := s.put(PutCommand{Key: []byte(k), Value: []byte("cas"), IfRevision: want})
			if want != have {
				if !errs.Has(err, errs.RevisionMismatch) {
					rt.Fatalf("cas with %d at %d: %v", want, have, err)
				}
				return
			}
			if err != nil {
				rt.Fatalf("cas: %v", err)
			}
			m.put(k, "cas", false)
		},
		"delete": func(rt *rapid.T) {
			k := keyGen.Draw(rt, "key")
			w, err := s.del(DeleteCommand{Key: []byte(k), IfRevision: AnyRevision})
			if err != nil {
				rt.Fatalf("delete: %v", err)
			}
			m.del(k)
			if w.Revision != m.rev {
				rt.Fatalf("delete gave revision %d, the model %d", w.Revision, m.rev)
			}
		},
		"expire": func(rt *rapid.T) {
			// Everything with a TTL ends: TTLs are 1 s here. Each key has a lease of
			// its own, so each end is one revision, in the order of deadlines.
			s.step(2000)
			before := m.rev
			e := s.expire()
			for _, ev := range s.events {
				if c, ok := ev.Data.(*Change); ok && c.Revision > before {
					if c.Kind != Delete {
						rt.Fatalf("an expiry put a key")
					}
					if p := m.at(string(c.Key), m.rev); p == nil || !p.leased {
						rt.Fatalf("key %q ended without a TTL", c.Key)
					}
					m.del(string(c.Key))
				}
			}
			for _, k := range m.keys(m.rev) {
				if m.at(k, m.rev).leased {
					rt.Fatalf("key %q did not end; expired %+v", k, e)
				}
			}
		},
		"quota": func(rt *rapid.T) {
			c := QuotaCommand{Prefix: []byte(rapid.SampledFrom([]string{"", "a", "a\x00", "/x/"}).Draw(rt, "prefix")), MaxKeys: uint64(rapid.SampledFrom([]int{0, 1000}).Draw(rt, "most"))}
			s.apply(command.Command{Kind: KindQuota, Payload: c.Encode()})
		},
		"txn":    func(rt *rapid.T) { modelTxn(rt, s, m) },
		"revert": func(rt *rapid.T) { modelRevert(rt, s, m) },
		"compact": func(rt *rapid.T) {
			rev := rapid.Uint64Range(1, m.rev+1).Draw(rt, "rev")
			r := s.apply(command.Command{Kind: KindCompact, Payload: EncodeNumber(rev)})[0]
			switch {
			case rev > m.rev:
				if !errs.Has(r.Err, errs.FutureRevision) {
					rt.Fatalf("compact %d at %d: %v", rev, m.rev, r.Err)
				}
			case rev <= m.compact:
				if !errs.Has(r.Err, errs.Compacted) {
					rt.Fatalf("compact %d below %d: %v", rev, m.compact, r.Err)
				}
			case r.Err != nil:
				rt.Fatalf("compact: %v", r.Err)
			default:
				m.compact = rev
			}
		},
		"sweep": func(rt *rapid.T) {
			s.apply(command.Command{Kind: KindSweep, Payload: EncodeNumber(rapid.Uint64Range(1, 4).Draw(rt, "rows"))})
		},
	}
}

// compare checks every readable revision, key by key and as a range, and the log.
func compare(t *rapid.T, s *store, m *model) {
	v := s.m.View()
	defer v.Release()
	meta, err := ReadMeta(v)
	if err != nil {
		t.Fatal(err)
	}
	now := m.keys(m.rev)
	size := 0
	for _, k := range now {
		size += len(k) + len(m.at(k, m.rev).value)
	}
	if meta.Revision != m.rev || meta.Compact != m.compact || meta.Keys != uint64(len(now)) || meta.Bytes != uint64(size) {
		t.Fatalf("meta %+v; model rev %d compact %d keys %d bytes %d", meta, m.rev, m.compact, len(now), size)
	}
	past := uint64(0)
	for _, table := range []state.TableID{TableHist, TableLog} {
		v.Scan(table, nil, nil, func(k, v []byte) bool { past += uint64(len(k) + len(v)); return true })
	}
	if meta.Past != past {
		t.Fatalf("past %d, counted %d", meta.Past, past)
	}
	compareQuotas(t, v, m)
	start := keyGen.Draw(t, "start")
	end := keyGen.Draw(t, "end")
	q := Query{R: v, Meta: meta, Counts: FrozenCounts(v)}
	for rev := max(m.compact, 1); rev <= m.rev; rev++ {
		var got []string
		err := Range(v, meta, []byte(start), []byte(end), rev, func(k []byte, r *Record) bool {
			got = append(got, show(string(k), r))
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for _, k := range m.keys(rev) {
			c := m.at(k, rev)
			rec, ok, err := At(v, []byte(k), rev)
			if err != nil || !ok || show(k, &rec) != c.show() {
				t.Fatalf("at %d, %q: %v %v %s; model %s", rev, k, ok, err, show(k, &rec), c.show())
			}
			if k >= start && k < end {
				want = append(want, c.show())
			}
		}
		if n, err := q.Count([]byte(start), []byte(end), rev); err != nil || n != uint64(len(want)) {
			t.Fatalf("count [%q,%q) at %d: %d %v; model %d", start, end, rev, n, err, len(want))
		}
		if !slices.Equal(got, want) {
			t.Fatalf("range [%q,%q) at %d: %q; model %q", start, end, rev, got, want)
		}
	}
	compareLog(t, v, m)
}

func compareLog(t *rapid.T, v state.Reader, m *model) {
	var want []change
	for _, c := range m.changes {
		if c.rev >= m.compact {
			want = append(want, c)
		}
	}
	i := 0
	err := Changes(v, max(m.compact, 1), m.rev, func(l Log) bool {
		if i == len(want) {
			t.Fatalf("the log has more: %+v", l)
		}
		c := want[i]
		i++
		if l.Revision != c.rev || l.Sub != c.sub || string(l.Key) != c.key || (l.Kind == Delete) != c.del {
			t.Fatalf("log %+v; model %+v", l, c)
		}
		rec, ok, err := Version(v, l.Key, l.Revision)
		if err != nil || !ok || rec.Deleted != c.del || string(rec.Value) != c.value {
			t.Fatalf("version of %+v: %v %v %+v", l, ok, err, rec)
		}
		if c.prev != 0 && l.Revision > m.compact {
			if p, ok, err := At(v, l.Key, l.Revision-1); err != nil || !ok || p.ModRevision != c.prev {
				t.Fatalf("before %+v: %v %v %+v", l, ok, err, p)
			}
		}
		return true
	})
	if err != nil || i != len(want) {
		t.Fatalf("the log ended after %d of %d: %v", i, len(want), err)
	}
}

// sweepAll compacts to now and shows that nothing is left but what is readable.
func sweepAll(t *rapid.T, s *store, m *model) {
	if m.rev > m.compact {
		s.apply(command.Command{Kind: KindCompact, Payload: EncodeNumber(m.rev)})
		m.compact = m.rev
	}
	for more := true; more; {
		c, err := DecodeCompacted(s.apply(command.Command{Kind: KindSweep, Payload: EncodeNumber(3)})[0].Data)
		if err != nil {
			t.Fatal(err)
		}
		more = c.More
	}
	compare(t, s, m)
	v := s.m.View()
	defer v.Release()
	rows := 0
	v.Scan(TableHist, nil, nil, func(k, _ []byte) bool { rows++; return true })
	last := 0 // changes of the newest revision keep what they replaced
	for _, c := range m.changes {
		if c.rev == m.rev {
			last++
		}
	}
	if most := 2 * last; rows > most {
		t.Fatalf("%d history rows are left after a compaction to the newest revision", rows)
	}
}

func (c *change) show() string {
	return fmt.Sprintf("%q=%q@%d/%d v%d", c.key, c.value, c.create, c.rev, c.ver)
}

func show(k string, r *Record) string {
	return fmt.Sprintf("%q=%q@%d/%d v%d", k, r.Value, r.CreateRevision, r.ModRevision, r.Version)
}

// The events of the hub say the same as the log.
func TestEventsEqualLog(t *testing.T) {
	s := openStore(t)
	for i := range 200 {
		k := []byte{byte(i % 7)}
		if i%5 == 4 {
			if _, err := s.del(DeleteCommand{Key: k, IfRevision: AnyRevision}); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if _, err := s.put(PutCommand{Key: k, Value: bytes.Repeat([]byte{byte(i)}, i*60), IfRevision: AnyRevision}); err != nil {
			t.Fatal(err)
		}
	}
	v := s.m.View()
	defer v.Release()
	i := 0
	err := Changes(v, 1, s.meta().Revision, func(l Log) bool {
		c, ok := s.events[i].Data.(*Change)
		i++
		if !ok || c.Revision != l.Revision || c.Sub != l.Sub || c.Kind != l.Kind || !bytes.Equal(c.Key, l.Key) {
			t.Fatalf("event %+v; log %+v", c, l)
		}
		rec, ok, err := Version(v, l.Key, l.Revision)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		if c.Row == nil {
			if len(rec.Value) < MaxEventRow-200 {
				t.Fatalf("an event left a value of %d bytes out", len(rec.Value))
			}
			return true
		}
		r, err := DecodeRecord(c.Row)
		if err != nil || !bytes.Equal(r.Value, rec.Value) || r.ModRevision != rec.ModRevision {
			t.Fatalf("event row %+v; history %+v: %v", r, rec, err)
		}
		return true
	})
	if err != nil || i != len(s.events) {
		t.Fatalf("%d of %d events: %v", i, len(s.events), err)
	}
}
