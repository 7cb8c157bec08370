package table

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"nekoq/services/command"
	"nekoq/services/state"
	"nekoq/warehouse/api"
)

// A damaged row is told as that, or does not matter: no read panics or goes on for ever,
// and none that reads records takes that of another key or revision for the one it
// looks for because a mark or a trail says so.
func TestDamagedRows(t *testing.T) {
	var inside func(tx *state.Tx)
	reg := registry()
	reg.Handle(kindInside, "inside", 1, func(tx *state.Tx, _ *command.Command) ([]byte, error) {
		inside(tx)
		return nil, nil
	})
	s := newStoreOf(t, t.TempDir(), reg)
	defer s.m.Close()
	longLives(t, s)
	inside = func(tx *state.Tx) {
		sound, err := readAll(tx)
		if err != nil {
			t.Fatal(err)
		}
		rnd := rand.New(rand.NewPCG(3, 9))
		seen := 0
		for _, table := range []state.TableID{TableHist, TableLog, TableKV} {
			var keys, rows [][]byte
			tx.Scan(table, nil, nil, func(k, v []byte) bool {
				keys, rows = append(keys, bytes.Clone(k)), append(rows, bytes.Clone(v))
				return true
			})
			for i, k := range keys {
				for range 15 {
					bad := damage(rnd, rows[i])
					if table == TableKV && isFirstVersion(bad) != isFirstVersion(rows[i]) {
						continue // keys would be counted wrong
					}
					tx.Put(table, k, bad)
					got, err := readAll(tx)
					switch {
					case err != nil && !errors.Is(err, ErrRecord):
						t.Fatalf("%x of table %d: %x became %x: %v", k, table, rows[i], bad, err)
					case err != nil:
						seen++
					case table == TableHist && !slices.Equal(got, sound):
						t.Fatalf("%x: the mark %x became %x, which told %q instead of %q", k, rows[i], bad, got, sound)
					}
					tx.Put(table, k, rows[i])
				}
			}
		}
		if seen < 400 {
			t.Fatalf("only %d of the damages were seen", seen)
		}
	}
	s.apply(command.Command{Kind: kindInside})
}

// longLives makes keys with several lives of many versions, two at each revision, and
// compacts a part.
func longLives(t *testing.T, s *store) {
	t.Helper()
	for i := range 5 * markEvery {
		ops := []api.Op{put("a", fmt.Sprint(i)), put("b", fmt.Sprint(i))}
		if i%19 == 18 {
			ops = []api.Op{del("a", "c")}
		}
		if _, err := s.txn(&api.Txn{Then: ops}); err != nil {
			t.Fatal(err)
		}
	}
	s.apply(command.Command{Kind: KindCompact, Payload: EncodeNumber(5)})
	s.apply(command.Command{Kind: KindSweep, Payload: EncodeNumber(3)})
}

// damage changes a byte, or cuts the row short or makes it longer.
func damage(rnd *rand.Rand, row []byte) []byte {
	bad := bytes.Clone(row)
	at := rnd.IntN(len(bad))
	switch rnd.IntN(4) {
	case 0:
		return bad[:at]
	case 1:
		return append(bad, byte(rnd.IntN(256)))
	case 2:
		bad[at] ^= 1 << rnd.IntN(8)
	default:
		bad[at] = byte(rnd.IntN(256))
	}
	return bad
}

// readAll gives what the reads of two keys that look for records tell, and goes through
// the others. No read tells more than there is.
func readAll(r state.Reader) (told []string, err error) {
	meta, err := ReadMeta(r)
	if err != nil {
		return nil, err
	}
	var all []error
	tell := func(k string, rec *Record) {
		if told = append(told, fmt.Sprint(k, rec.ModRevision, rec.Deleted, string(rec.Value))); len(told) > 10_000 {
			panic("a read goes on for ever")
		}
	}
	for _, k := range []string{"a", "b"} {
		for rev := meta.Compact; rev <= meta.Revision; rev++ {
			rec, ok, err := At(r, []byte(k), rev)
			if all = append(all, err); err == nil && ok {
				tell(k, &rec)
			}
		}
		for before := meta.Compact + 2; before <= meta.Revision+1; before += 3 {
			all = append(all, History(r, []byte(k), before, func(rec *Record) bool {
				tell(k, rec)
				return rec.ModRevision > meta.Compact
			}))
		}
	}
	all = append(all, ReadChanges(r, meta.Compact, meta.Revision, func(*Log) bool { return true }, func(l *Log, rec *Record) bool {
		tell(string(l.Key), rec)
		return true
	}))
	for rev := meta.Compact; rev <= meta.Revision; rev++ {
		n := 0
		all = append(all, rangeAt(r, nil, nil, rev, func([]byte, *Record) bool { n++; return n < 100 }))
		_, err := countAt(r, nil, nil, rev)
		all = append(all, err, Diff(r, nil, nil, rev, meta.Revision, func(Difference) bool { n++; return n < 100 }))
	}
	return told, errors.Join(all...)
}
