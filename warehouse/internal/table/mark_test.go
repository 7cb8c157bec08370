package table

import (
	"fmt"
	"testing"

	"nekoq/services/command"
	"nekoq/services/state"
)

// One version in markEvery has a mark, a trail has no more links than that, and a
// compaction takes the marks of what it takes, at each of its steps.
func TestMarks(t *testing.T) {
	s := openStore(t)
	const versions = 10*markEvery + 3
	for i := range versions {
		if _, err := s.put(PutCommand{Key: []byte("k"), Value: fmt.Append(nil, i), IfRevision: AnyRevision}); err != nil {
			t.Fatal(err)
		}
		v := s.m.View()
		rec, ok, err := Latest(v, []byte("k"))
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		links := 0
		for tr := rec.trail(); ; links++ {
			if _, ok := tr.back(); !ok {
				break
			}
		}
		want := i // down to the first version
		if i >= markEvery {
			want = i%markEvery + 1 // down to the one that has a mark
		}
		if links != want {
			t.Fatalf("version %d has %d links, want %d", i+1, links, want)
		}
		v.Release()
	}
	newest := s.meta().Revision
	for compact := newest - versions + 1; compact <= newest; compact += 3 {
		s.apply(command.Command{Kind: KindCompact, Payload: EncodeNumber(compact)})
		for more := true; more; {
			c, err := DecodeCompacted(s.apply(command.Command{Kind: KindSweep, Payload: EncodeNumber(5)})[0].Data)
			if err != nil {
				t.Fatal(err)
			}
			more = c.More
		}
		v := s.m.View()
		marks := 0
		for version := uint64(markEvery); version < versions; version += markEvery {
			if newest-versions+version+1 > compact { // where it was superseded
				marks++
			}
		}
		if n := histRows(v); n != marks {
			t.Fatalf("compacted at %d of %d: %d marks, want %d", compact, newest, n, marks)
		}
		for rev := compact; rev <= newest; rev++ {
			rec, ok, err := At(v, []byte("k"), rev)
			if err != nil || !ok || rec.ModRevision != rev {
				t.Fatalf("compacted at %d: at %d %+v %v %v", compact, rev, rec, ok, err)
			}
		}
		if _, ok, err := Version(v, []byte("k"), compact-1); ok || err != nil {
			t.Fatalf("compacted at %d: what it has taken is there: %v %v", compact, ok, err)
		}
		v.Release()
	}
}

func histRows(r state.Reader) (n int) {
	r.Scan(TableHist, nil, nil, func(_, _ []byte) bool { n++; return true })
	return n
}

// Rows that a compaction cannot have taken are missed.
func TestMissingLogRow(t *testing.T) {
	s := openStore(t)
	for range 3 {
		if _, err := s.put(PutCommand{Key: []byte("k"), IfRevision: AnyRevision}); err != nil {
			t.Fatal(err)
		}
	}
	v := s.m.View()
	defer v.Release()
	gap := without{v, logKey(3, 0)}
	if rec, ok, err := At(gap, []byte("k"), 2); err == nil {
		t.Fatalf("a lost row of the log went unseen: %+v %v", rec, ok)
	}
}

// without is a Reader that lacks a row.
type without struct {
	state.Reader
	key []byte
}

func (w without) Get(t state.TableID, key []byte) ([]byte, bool) {
	if string(key) == string(w.key) {
		return nil, false
	}
	return w.Reader.Get(t, key)
}
