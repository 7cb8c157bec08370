package table

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// A dump has every change after the compaction and what stood at it, in order, each
// place once, while a sweep may be half done.
func TestDump(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, m := newModelled(rt, registry())
		acts := m.actions(s)
		acts["burst"] = func(rt *rapid.T) { burst(rt, s, m) }
		rt.Repeat(acts)
		var want []string
		for _, k := range m.keys(m.compact) {
			c := m.at(k, m.compact)
			want = append(want, fmt.Sprintf("%09d %q %v %q %d v%d", c.rev, c.key, c.del, c.value, c.create, c.ver))
		}
		for _, c := range m.changes {
			if c.rev > m.compact {
				if c.del {
					c.create = c.rev
				}
				want = append(want, fmt.Sprintf("%09d %q %v %q %d v%d", c.rev, c.key, c.del, c.value, c.create, c.ver))
			}
		}
		var got []string
		var rev uint64
		var sub uint32
		v := s.m.View()
		defer v.Release()
		most := rapid.SampledFrom([]int{1, 20, dumpPart}).Draw(rt, "most")
		err := dump(v, s.meta(), most, func(r uint64, n uint32, key []byte, rec *Record) error {
			if r != rec.ModRevision || r < rev || r == rev && n != sub+1 || r > rev && n != 0 {
				rt.Fatalf("%d/%d of %q at %d after %d/%d", r, n, key, rec.ModRevision, rev, sub)
			}
			rev, sub = r, n
			got = append(got, fmt.Sprintf("%09d %q %v %q %d v%d", r, key, rec.Deleted, rec.Value, rec.CreateRevision, rec.Version))
			return nil
		})
		slices.Sort(got)
		slices.Sort(want)
		if err != nil || !slices.Equal(got, want) {
			rt.Fatalf("compacted at %d: %q; model %q; %v", m.compact, got, want, err)
		}
	})
}
