package warehouse

import (
	"bytes"
	"context"

	"nekoq/services/auth"
	"nekoq/services/errs"
	"nekoq/services/replica"
	"nekoq/services/state"
	"nekoq/warehouse/api"
	"nekoq/warehouse/internal/table"
)

// view is a read view with the meta row that every read needs.
type view struct {
	*state.View
	meta  table.Meta
	lag   replica.Lag
	stale bool
}

func (s *Service) view(ctx context.Context, stale bool) (view, error) {
	c := replica.Linearizable
	if stale {
		c = replica.Stale
	}
	v, lag, err := s.replica.View(ctx, c)
	if err != nil {
		return view{}, err
	}
	m, err := table.ReadMeta(v)
	if err != nil {
		v.Release()
		return view{}, damaged(err)
	}
	return view{View: v, meta: m, lag: lag, stale: stale}, nil
}

func (v *view) header(rev uint64) api.Header {
	h := api.Header{Revision: rev, StoreRevision: v.Revision()}
	if v.stale {
		h.Stale, h.LagEntries, h.LagAge, h.LagKnown = true, v.lag.Entries, v.lag.Age, v.lag.Known
	}
	return h
}

// Get reads one key, now or at a revision. The answer is the caller's own.
func (s *Service) Get(ctx context.Context, r *api.GetRequest) (api.GetResult, error) {
	var out api.GetResult
	err := s.Read(ctx, r, func(res *api.GetResult) {
		out = *res
		out.KV.Value = bytes.Clone(out.KV.Value)
	})
	return out, err
}

// AppendGet is Get whose answer is encoded straight from the state into dst.
func (s *Service) AppendGet(ctx context.Context, r *api.GetRequest, dst []byte) ([]byte, error) {
	f, err := s.find(ctx, r)
	if err != nil {
		return dst, err
	}
	defer f.v.Release()
	res := f.result(r.Key)
	return res.Append(dst), nil
}

// RangeResource names the keys from start to end for the authorizer. No end is
// "\xff", which is after every name.
func RangeResource(start, end []byte) auth.Resource {
	r := auth.Resource{Service: "warehouse", Kind: "kv", Name: string(start), End: string(end)}
	if len(end) == 0 {
		r.End = "\xff"
	}
	return r
}

// Read is Get without the copy: res is valid until use returns. Doors encode the
// answer in it.
func (s *Service) Read(ctx context.Context, r *api.GetRequest, use func(res *api.GetResult)) error {
	f, err := s.find(ctx, r)
	if err != nil {
		return err
	}
	defer f.v.Release()
	res := f.result(r.Key)
	use(&res)
	return nil
}

// finding is what a read of one key found. Its view must be released.
type finding struct {
	v     view
	rev   uint64
	found bool
	rec   table.Record
}

func (f *finding) result(key []byte) api.GetResult {
	res := api.GetResult{Header: f.v.header(f.rev), Found: f.found}
	if f.found {
		table.FillKV(&res.KV, key, &f.rec)
	}
	return res
}

func (s *Service) find(ctx context.Context, r *api.GetRequest) (f finding, err error) {
	s.metrics.gets.Inc()
	if err := s.checkKey(r.Key); err != nil {
		return f, err
	}
	if f.v, err = s.view(ctx, r.Stale); err != nil {
		return f, err
	}
	f.rev = f.v.meta.Revision
	if r.Revision == 0 || r.Revision == f.rev {
		f.rec, f.found, err = table.Latest(f.v.View, r.Key)
	} else if err = f.v.meta.CheckRevision(r.Revision); err == nil {
		f.rev = r.Revision
		f.rec, f.found, err = table.At(f.v.View, r.Key, f.rev)
		f.found = f.found && !f.rec.Deleted
	}
	if err != nil {
		f.v.Release()
		return f, damaged(err)
	}
	return f, nil
}

// copier makes copies that share larger allocations.
type copier struct{ free []byte }

const copyChunk = 16 << 10

func (c *copier) clone(b []byte) []byte {
	if len(b) > copyChunk/4 {
		return bytes.Clone(b)
	}
	if len(b) > len(c.free) {
		c.free = make([]byte, copyChunk)
	}
	n := copy(c.free, b)
	out := c.free[:n:n]
	c.free = c.free[n:]
	return out
}

// List gives a page of a range, now or at a revision. All pages of a list show the
// revision of the first; when compaction passes it the next page is refused.
func (s *Service) List(ctx context.Context, r *api.ListRequest) (api.ListResult, error) {
	s.metrics.lists.Inc()
	limit, err := s.checkList(r)
	if err != nil {
		return api.ListResult{}, err
	}
	start, rev := r.Start, r.Revision
	if r.PageToken != "" {
		if start, rev, err = openToken(r); err != nil {
			return api.ListResult{}, err
		}
	}
	v, err := s.view(ctx, r.Stale)
	if err != nil {
		return api.ListResult{}, err
	}
	defer v.Release()
	if rev == 0 {
		rev = v.meta.Revision
	} else if err := v.meta.CheckRevision(rev); err != nil {
		return api.ListResult{}, err
	}
	out := api.ListResult{Header: v.header(rev), Items: []api.KV{}}
	bytesLeft := s.cfg.MaxPageBytes
	more := false
	var keep copier
	err = visible(v, v.meta, start, bound(r.End), rev, func(key []byte, rec *table.Record) bool {
		if len(out.Items) == limit || bytesLeft <= 0 {
			more = true
			return false
		}
		bytesLeft -= int64(len(key))
		var kv api.KV
		if r.KeysOnly {
			rec.Value = nil
		}
		table.FillKV(&kv, keep.clone(key), rec)
		if !r.KeysOnly {
			bytesLeft -= int64(len(rec.Value))
			kv.Value = keep.clone(rec.Value)
		}
		out.Items = append(out.Items, kv)
		return true
	})
	if err != nil {
		return api.ListResult{}, damaged(err)
	}
	if more {
		out.NextPageToken = sealToken(r, rev, out.Items[len(out.Items)-1].Key)
	}
	if r.Count {
		out.Counted = true
		out.Count, err = count(v, v.meta, r.Start, bound(r.End), rev)
	}
	if err != nil {
		return api.ListResult{}, damaged(err)
	}
	return out, nil
}

func (s *Service) checkList(r *api.ListRequest) (limit int, err error) {
	if err := s.checkBound("start", r.Start); err != nil {
		return 0, err
	}
	if err := s.checkBound("end", r.End); err != nil {
		return 0, err
	}
	if len(r.End) > 0 && bytes.Compare(r.Start, r.End) >= 0 {
		return 0, errs.Invalid("end", string(r.End), "a key after start")
	}
	return s.limit(r.Limit)
}

func (s *Service) limit(asked int) (int, error) {
	if asked < 0 || asked > s.cfg.MaxListLimit {
		return 0, errs.Invalid("limit", asked, "1 to "+itoa(int64(s.cfg.MaxListLimit)))
	}
	if asked == 0 {
		return s.cfg.DefaultListLimit, nil
	}
	return asked, nil
}

// bound gives an end as the tables take it: nil for none.
func bound(end []byte) []byte {
	if len(end) == 0 {
		return nil
	}
	return end
}

// visible is table.Range without the system's keys.
func visible(r state.Reader, m table.Meta, start, end []byte, rev uint64, fn table.Visit) error {
	if bytes.Compare(start, systemEnd) >= 0 || (end != nil && bytes.Compare(end, systemPrefix) <= 0) {
		return table.Range(r, m, start, end, rev, fn)
	}
	more := true
	if bytes.Compare(start, systemPrefix) < 0 {
		err := table.Range(r, m, start, systemPrefix, rev, func(k []byte, rec *table.Record) bool {
			more = fn(k, rec)
			return more
		})
		if err != nil || !more {
			return err
		}
	}
	if end != nil && bytes.Compare(end, systemEnd) <= 0 {
		return nil
	}
	return table.Range(r, m, systemEnd, end, rev, fn)
}

// count counts the visible keys of a range. Now and over everything it takes the
// number that is kept; else it walks the range.
func count(r state.Reader, m table.Meta, start, end []byte, rev uint64) (uint64, error) {
	n := uint64(0)
	add := func([]byte, *table.Record) bool { n++; return true }
	if len(start) == 0 && end == nil && rev == m.Revision {
		err := table.Range(r, m, systemPrefix, systemEnd, rev, add)
		return m.Keys - n, err
	}
	err := visible(r, m, start, end, rev, add)
	return n, err
}

// History gives the versions of a key, newest first.
func (s *Service) History(ctx context.Context, r *api.HistoryRequest) (api.HistoryResult, error) {
	s.metrics.lists.Inc()
	if err := s.checkKey(r.Key); err != nil {
		return api.HistoryResult{}, err
	}
	limit, err := s.limit(r.Limit)
	if err != nil {
		return api.HistoryResult{}, err
	}
	v, err := s.view(ctx, r.Stale)
	if err != nil {
		return api.HistoryResult{}, err
	}
	defer v.Release()
	out := api.HistoryResult{Header: v.header(v.meta.Revision), CompactRevision: v.meta.Compact, Items: []api.KV{}}
	left := s.cfg.MaxPageBytes
	before := r.Before
	if before == 0 {
		before = ^uint64(0)
	}
	err = table.History(v, r.Key, before, func(rec *table.Record) bool {
		if len(out.Items) == limit || left <= 0 {
			out.More = true
			return false
		}
		left -= int64(len(rec.Value))
		var kv api.KV
		table.FillKV(&kv, r.Key, rec)
		kv.Value = bytes.Clone(kv.Value)
		out.Items = append(out.Items, kv)
		return true
	})
	if err != nil {
		return api.HistoryResult{}, damaged(err)
	}
	return out, nil
}
