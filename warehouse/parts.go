package warehouse

import (
	"context"

	"nekoq/services/errs"
	"nekoq/warehouse/api"
	"nekoq/warehouse/internal/table"
)

// itemBytes is what an item counts for in a part beside its key and its value.
const itemBytes = 64

// Parts reads a span as Range does and gives it to use in parts, in key order, each
// with its items alone and the last one with the rest of the answer. A part ends with
// the item that brings it to size bytes, and is valid until use returns. All show one
// revision, the newest at the first unless r names one. No view is held while use
// runs, so a reader may be slow; when a compaction passes the revision meanwhile, the
// next part fails with compacted. Other orders and bounds on items are refused with
// unimplemented. An error of use ends it.
func (s *Service) Parts(ctx context.Context, r *api.RangeRequest, size int64, use func(part *api.RangeResult, last bool) error) error {
	if r.SortBy != api.SortByKey || r.Order == api.Descending || r.MinMod|r.MaxMod|r.MinCreate|r.MaxCreate != 0 {
		return errs.New(errs.Unimplemented, "parts come in key order and without bounds on revisions; take Range for others")
	}
	if r.Single() || r.CountOnly {
		res, err := s.Range(ctx, r)
		if err != nil {
			return err
		}
		return use(&res, true)
	}
	s.metrics.lists.Inc()
	if err := s.checkSpan(&r.Span); err != nil {
		return err
	}
	p := parts{s: s, req: *r, size: size}
	p.next, p.end = r.Bounds()
	for last := false; !last; {
		var err error
		if last, err = p.read(ctx); err != nil {
			return err
		}
		if err := use(&p.part, last); err != nil {
			return err
		}
		p.req.Stale = true // this node's own state has the revision
	}
	return nil
}

// parts is where a read in parts stands.
type parts struct {
	s         *Service
	req       api.RangeRequest
	size      int64
	next, end []byte     // what is left to read
	rev       uint64     // that all parts show, 0 before the first
	header    api.Header // of the first part
	sent      uint64     // items of all parts
	part      api.RangeResult
}

// read makes the next part.
func (p *parts) read(ctx context.Context) (last bool, err error) {
	v, err := p.s.view(ctx, p.req.Stale)
	if err != nil {
		return false, err
	}
	defer v.Release()
	if p.rev == 0 {
		p.header = v.header(v.meta.Revision)
		if p.rev = p.req.Revision; p.rev == 0 {
			p.rev = v.meta.Revision
		}
	}
	if err := v.meta.CheckRevision(p.rev); err != nil {
		return false, err
	}
	full, met, err := p.collect(&v)
	if err != nil {
		return false, damaged(err)
	}
	if n := len(p.part.Items); n > 0 {
		p.next = append(p.part.Items[n-1].Key, 0)
	}
	p.sent += uint64(len(p.part.Items))
	if full {
		return false, nil
	}
	p.part.Header, p.part.More, p.part.Count = p.header, met, p.sent
	if met {
		q := v.query()
		rest, err := q.Count(p.next, p.end, p.rev)
		if err != nil {
			return false, damaged(err)
		}
		p.part.Count += rest
	}
	return true, nil
}

// collect takes items until the part is full or the limit is met, and there are more.
func (p *parts) collect(v *view) (full, met bool, err error) {
	clear(p.part.Items) // what the part before held may go
	p.part = api.RangeResult{Items: p.part.Items[:0]}
	left := p.size
	var keep copier
	err = table.VisibleRangeAt(v.View, v.meta, p.next, p.end, p.rev, func(k []byte, rec *table.Record) bool {
		met = p.req.Limit > 0 && p.sent+uint64(len(p.part.Items)) == uint64(p.req.Limit)
		full = !met && left <= 0
		if met || full {
			return false
		}
		item := table.NoteKV(keep.clone(k), rec)
		item.Value = nil
		if !p.req.KeysOnly {
			item.Value = keep.clone(rec.Value)
		}
		left -= int64(len(k)+len(item.Value)) + itemBytes
		p.part.Items = append(p.part.Items, item)
		return true
	})
	return full, met, err
}
