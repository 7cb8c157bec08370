package table

import (
	"bytes"
	"cmp"
	"errors"
	"slices"
	"sort"

	"nekoq/services/state"
	"nekoq/warehouse/api"
)

// VisibleRange is the newest keys of [start, end) without the system's, unless the
// range lies wholly among them.
func VisibleRange(r state.Reader, start, end []byte, fn Visit) error {
	return VisibleRangeAt(r, Meta{}, start, end, ^uint64(0), fn)
}

// VisibleRangeAt is VisibleRange at revision rev.
func VisibleRangeAt(r state.Reader, m Meta, start, end []byte, rev uint64, fn Visit) error {
	return visible(start, end, func(start, end []byte) error {
		more := true
		err := Range(r, m, start, end, rev, func(k []byte, rec *Record) bool {
			more = fn(k, rec)
			return more
		})
		if err == nil && !more {
			return errStop
		}
		return err
	})
}

// errStop ends a range whose reader has enough.
var errStop = errors.New("stop")

// visible splits a range around the system's keys.
func visible(start, end []byte, part func(start, end []byte) error) error {
	err := splitVisible(start, end, part)
	if err == errStop {
		return nil
	}
	return err
}

// system tells whether a range lies wholly among the system's keys, and so sees them.
func system(start, end []byte) bool {
	return bytes.HasPrefix(start, systemPrefix) && end != nil && bytes.Compare(end, systemEnd) <= 0
}

func splitVisible(start, end []byte, part func(start, end []byte) error) error {
	if end != nil && bytes.Compare(start, end) >= 0 {
		return nil
	}
	if system(start, end) || bytes.Compare(start, systemEnd) >= 0 || (end != nil && bytes.Compare(end, systemPrefix) <= 0) {
		return part(start, end)
	}
	if bytes.Compare(start, systemPrefix) < 0 {
		if err := part(start, systemPrefix); err != nil {
			return err
		}
	}
	if end != nil && bytes.Compare(end, systemEnd) <= 0 {
		return nil
	}
	return part(systemEnd, end)
}

// Query is where a range is read: the newest state with its counts.
type Query struct {
	R      state.Reader
	Meta   Meta
	Counts Counter
}

// CheckQuery refuses what Range would.
func (m Meta) CheckQuery(q *api.RangeRequest) error {
	if q.Revision == 0 {
		return nil
	}
	return m.CheckRevision(q.Revision)
}

// longAnswer is how many items an answer has before it is worth to count how many there
// will be.
const longAnswer = 1024

// Range answers a range request. Keys and values are copies made by keep.
func (q *Query) Range(req *api.RangeRequest, keep func([]byte) []byte) (api.RangeResult, error) {
	rev := req.Revision
	if rev == 0 {
		rev = q.Meta.Revision
	}
	start, end := req.Bounds()
	res := api.RangeResult{Items: []api.KV{}}
	res.Revision = q.Meta.Revision
	if req.CountOnly {
		var err error
		res.Count, err = q.Count(start, end, rev)
		return res, err
	}
	if req.Single() {
		rec, ok, err := At(q.R, req.Key, rev)
		if err != nil || !ok || rec.Deleted {
			return res, err
		}
		res.Count = 1
		if within(req, &rec) {
			item := NoteKV(req.Key, &rec)
			item.Value = nil
			if !req.KeysOnly {
				item.Value = keep(rec.Value)
			}
			res.Items = append(res.Items, item)
		}
		return res, nil
	}
	sorted, filtered := sorting(req), filtering(req)
	most := int64(-1)
	if req.Limit > 0 && !sorted && !filtered {
		most = req.Limit
	}
	n := uint64(0)
	room := func() { // growing step by step would copy a long answer several times
		if most >= 0 || filtered {
			return
		}
		if all, err := q.countNow(start, end); err == nil {
			have := len(res.Items)
			left := max(int(all)-have, 0)
			if rev < q.Meta.Revision { // there may have been far fewer keys
				left = min(left, 3*have)
			}
			res.Items = slices.Grow(res.Items, left)
		}
	}
	err := VisibleRangeAt(q.R, q.Meta, start, end, rev, func(k []byte, rec *Record) bool {
		if most >= 0 && int64(len(res.Items)) == most {
			res.More = true
			return false
		}
		n++
		if !within(req, rec) {
			return true
		}
		if req.KeysOnly && req.SortBy != api.SortByValue {
			rec.Value = nil
		}
		if n := len(res.Items); n >= longAnswer && n == cap(res.Items) {
			room()
		}
		item := NoteKV(keep(k), rec)
		item.Value = keep(rec.Value)
		res.Items = append(res.Items, item)
		return true
	})
	if err != nil {
		return res, err
	}
	res.Count = n
	if res.More {
		if res.Count, err = q.Count(start, end, rev); err != nil {
			return res, err
		}
	}
	if sorted {
		sortItems(res.Items, req)
	}
	if req.Limit > 0 && int64(len(res.Items)) > req.Limit {
		res.Items, res.More = slices.Clone(res.Items[:req.Limit]), true // what is cut off may go
	}
	if req.KeysOnly {
		for i := range res.Items {
			res.Items[i].Value = nil
		}
	}
	return res, nil
}

func within(req *api.RangeRequest, rec *Record) bool {
	return rec.ModRevision >= req.MinMod && (req.MaxMod == 0 || rec.ModRevision <= req.MaxMod) &&
		rec.CreateRevision >= req.MinCreate && (req.MaxCreate == 0 || rec.CreateRevision <= req.MaxCreate)
}

// filtering tells whether keys may be left out.
func filtering(req *api.RangeRequest) bool {
	return req.MinMod|req.MaxMod|req.MinCreate|req.MaxCreate != 0
}

// sorting tells whether key order is not the order asked for.
func sorting(req *api.RangeRequest) bool {
	return req.SortBy != api.SortByKey || req.Order == api.Descending
}

func sortItems(items []api.KV, req *api.RangeRequest) {
	by := func(a, b *api.KV) int {
		switch req.SortBy {
		case api.SortByVersion:
			return cmp.Compare(a.Version, b.Version)
		case api.SortByCreate:
			return cmp.Compare(a.CreateRevision, b.CreateRevision)
		case api.SortByMod:
			return cmp.Compare(a.ModRevision, b.ModRevision)
		case api.SortByValue:
			return bytes.Compare(a.Value, b.Value)
		}
		return bytes.Compare(a.Key, b.Key)
	}
	sort.SliceStable(items, func(i, j int) bool {
		c := by(&items[i], &items[j])
		if req.Order == api.Descending {
			return c > 0
		}
		return c < 0
	})
}

// minRecount is how many log rows are read at least to correct a count for an older
// revision, before the range is walked instead.
const minRecount = 20_000

// probeRows is after how many of them it is guessed how many there are.
const probeRows = 512

// Count counts the visible keys of [start, end) at rev. At the newest revision it
// sums blocks; before it, it corrects that sum by the keys that came and went since,
// unless walking the range seems cheaper.
func (q *Query) Count(start, end []byte, rev uint64) (uint64, error) {
	n, err := q.countNow(start, end)
	if err != nil || rev >= q.Meta.Revision {
		return n, err
	}
	// A key of a range that is walked costs as much as some two to four log rows.
	most := max(minRecount, 2*n)
	if q.Meta.Revision-rev > most {
		return q.countWalk(start, end, rev)
	}
	own, rows, enough := system(start, end), uint64(0), false
	err = Changes(q.R, rev+1, q.Meta.Revision, func(l Log) bool {
		rows++
		if rows == probeRows { // transactions have many rows a revision
			enough = (q.Meta.Revision-rev)/(l.Revision-rev) > most/rows
		}
		enough = enough || rows > most
		came, went := l.Kind == Put && l.Prev == 0, l.Kind == Delete
		if !came && !went || bytes.Compare(l.Key, start) < 0 || (end != nil && bytes.Compare(l.Key, end) >= 0) ||
			bytes.HasPrefix(l.Key, systemPrefix) && !own {
			return !enough
		}
		if came {
			n--
		} else {
			n++
		}
		return !enough
	})
	if err == nil && enough {
		return q.countWalk(start, end, rev)
	}
	return n, err
}

func (q *Query) countNow(start, end []byte) (n uint64, err error) {
	err = visible(start, end, func(start, end []byte) error {
		n += q.Counts.Count(q.R, start, end)
		return nil
	})
	return n, err
}

func (q *Query) countWalk(start, end []byte, rev uint64) (n uint64, err error) {
	err = visible(start, end, func(start, end []byte) error {
		part, err := countAt(q.R, start, end, rev)
		n += part
		return err
	})
	return n, err
}

// liveCounts is the count index inside an applier.
func liveCounts(tx *state.Tx) Counter { return &tx.Index(IndexCount).(*countIndex).Counts }

// FrozenCounts is that of a view.
func FrozenCounts(v *state.View) Counter { return v.Frozen(IndexCount).(*Counts) }

// FillKV makes kv the answer's form of a record. The value aliases it, the actor is
// copied.
func FillKV(kv *api.KV, key []byte, r *Record) {
	*kv = api.KV{
		Key: key, Value: r.Value, CreateRevision: r.CreateRevision, ModRevision: r.ModRevision,
		Version: r.Version, Lease: r.Lease, StoreRevision: r.StoreRevision,
		Created: r.Created, Modified: r.Modified, Actor: actorName(r.Actor), Deleted: r.Deleted,
	}
}

// NoteKV is FillKV of a new one.
func NoteKV(key []byte, r *Record) (kv api.KV) {
	FillKV(&kv, key, r)
	return kv
}

// actorName spares an allocation for the actors that nearly all writes have while
// auth is off.
func actorName(b []byte) string {
	switch string(b) {
	case "native:anonymous":
		return "native:anonymous"
	case "http:anonymous":
		return "http:anonymous"
	case "etcd:anonymous":
		return "etcd:anonymous"
	case "internal:anonymous":
		return "internal:anonymous"
	}
	return string(b)
}
