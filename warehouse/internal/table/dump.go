package table

import (
	"bytes"
	"cmp"
	"math"
	"slices"

	"nekoq/services/state"
)

// dumpPart bounds the bytes of records that Dump holds at a time.
const dumpPart = 32 << 20

// Dump calls fn with everything that a reader of any revision can still see, in the
// order in which it was written, until it returns an error: the records that stand at
// the compact revision, and every change after it, deletions as tombstones. Keys of the
// system are left out. What is given is valid during the call only. Records of before
// the compaction have lost their place among others of their revision; they are
// numbered in the order of their keys.
func Dump(r state.Reader, m Meta, fn func(rev uint64, sub uint32, key []byte, rec *Record) error) error {
	return dump(r, m, dumpPart, fn)
}

func dump(r state.Reader, m Meta, most int, fn func(rev uint64, sub uint32, key []byte, rec *Record) error) error {
	if m.Compact > 0 {
		if err := dumpStanding(r, m, most, fn); err != nil {
			return err
		}
	}
	var failed error
	err := ReadChanges(r, m.Compact+1, m.Revision, func(l *Log) bool { return !bytes.HasPrefix(l.Key, systemPrefix) }, func(l *Log, rec *Record) bool {
		if rec != nil {
			failed = fn(l.Revision, l.Sub, l.Key, rec)
		}
		return failed == nil
	})
	return cmp.Or(failed, err)
}

// standing is a record at the compact revision.
type standing struct {
	key []byte
	rec Record
}

// weight is the size of one.
type weight struct {
	mod  uint64
	size int
}

// dumpStanding sorts the records by the revisions that wrote them, a part at a time: of
// all of them it holds only revision and size.
func dumpStanding(r state.Reader, m Meta, most int, fn func(rev uint64, sub uint32, key []byte, rec *Record) error) error {
	var all []weight
	err := eachStanding(r, m, 0, math.MaxUint64, func(key []byte, rec *Record) {
		all = append(all, weight{rec.ModRevision, len(key) + len(rec.Actor) + len(rec.Value)})
	})
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b weight) int { return cmp.Compare(a.mod, b.mod) })
	var part []standing
	for i := 0; i < len(all); {
		from, size := i, 0
		for ; i < len(all) && (size < most || all[i].mod == all[i-1].mod); i++ {
			size += all[i].size
		}
		part = part[:0]
		err := eachStanding(r, m, all[from].mod, all[i-1].mod, func(key []byte, rec *Record) {
			kept := *rec
			kept.Actor, kept.Value = bytes.Clone(rec.Actor), bytes.Clone(rec.Value)
			part = append(part, standing{bytes.Clone(key), kept})
		})
		if err != nil {
			return err
		}
		slices.SortStableFunc(part, func(a, b standing) int { return cmp.Compare(a.rec.ModRevision, b.rec.ModRevision) })
		last, sub := uint64(0), uint32(0)
		for j := range part {
			p := &part[j]
			if sub++; p.rec.ModRevision != last {
				last, sub = p.rec.ModRevision, 0
			}
			if err := fn(last, sub, p.key, &p.rec); err != nil {
				return err
			}
		}
	}
	return nil
}

// eachStanding calls fn with the keys at the compact revision that were written at the
// revisions from lo to hi, in the order of keys.
func eachStanding(r state.Reader, m Meta, lo, hi uint64, fn func(key []byte, rec *Record)) error {
	return visible(nil, nil, func(start, end []byte) error {
		return Range(r, m, start, end, m.Compact, func(key []byte, rec *Record) bool {
			if lo <= rec.ModRevision && rec.ModRevision <= hi {
				fn(key, rec)
			}
			return true
		})
	})
}
