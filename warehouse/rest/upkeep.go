package rest

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"nekoq/services/auth"
	"nekoq/services/httpapi"
	"nekoq/warehouse"
	"nekoq/warehouse/api"
	"nekoq/warehouse/form"
)

// upkeep adds quotas, rollback, diff, space.
func (d *door) upkeep(doc func(id, method, path, summary, description string) huma.Operation) {
	httpapi.Register(d.srv, doc("quota-list", http.MethodGet, "quotas", "List quotas", "With what is used of each."), allKeys(auth.Read), d.quotas)
	httpapi.Register(d.srv, doc("quota-set", http.MethodPut, "quotas", "Set the quota of a prefix",
		"Every limit that is 0 or missing is none; all of them missing remove the quota. Growth beyond is refused with quota_exceeded, faster writes with too_many_requests."),
		allKeys(auth.Admin), d.setQuota)
	httpapi.Register(d.srv, doc("space", http.MethodGet, "space", "Space of the store",
		"The store-wide limit, what counts toward it (keys, values, history), its alarms, and the size of this node's state file."), allKeys(auth.Read), d.space)
	httpapi.Register(d.srv, doc("limit-set", http.MethodPut, "space", "Set the store-wide limit", "0 restores the default of 8 GiB. At the limit puts are refused, deletes and compaction are not."),
		allKeys(auth.Admin), d.setLimit)
	httpapi.Register(d.srv, doc("defrag", http.MethodPost, "defrag", "Give free space of this node's state file back to the disk", "The node goes on serving."), allKeys(auth.Admin), d.defrag)
	httpapi.Register(d.srv, doc("diff", http.MethodGet, "diff", "Keys that differ between two revisions", "Of one key, a prefix, a range, or without any of them of all keys."),
		httpapi.OnFunc(auth.Read, d.rangeOf), d.diff)
	httpapi.Register(d.srv, doc("rollback", http.MethodPost, "rollback", "Roll a key or a prefix back",
		"The keys become what they were at the revision, as one new revision. Keys that did not exist then are deleted. "+
			`Such as {"prefix":"app/","revision":120}.`), httpapi.Inside(), d.rollback)
}

// Quota is the quota of a prefix.
type Quota struct {
	Prefix     string `json:"prefix" doc:"May be empty: all keys."`
	MaxBytes   uint64 `json:"max_bytes,omitempty" doc:"Bytes of latest keys and values."`
	MaxKeys    uint64 `json:"max_keys,omitempty"`
	MaxWatches uint64 `json:"max_watches,omitempty" doc:"Watches open on one server."`
	WriteRate  uint64 `json:"write_rate,omitempty" doc:"Puts a second."`
}

// QuotaUse is a quota with what is used of it.
type QuotaUse struct {
	Quota
	Bytes   uint64 `json:"bytes"`
	Keys    uint64 `json:"keys"`
	Watches uint64 `json:"watches" doc:"Open on this server."`
}

type quotasOut struct {
	Body struct {
		Quotas []QuotaUse `json:"quotas"`
	}
}

func (d *door) quotas(ctx context.Context, _ *struct{}) (*quotasOut, error) {
	qs, err := d.svc.Quotas(ctx, false)
	if err != nil {
		return nil, err
	}
	out := &quotasOut{}
	out.Body.Quotas = make([]QuotaUse, 0, len(qs))
	for _, q := range qs {
		out.Body.Quotas = append(out.Body.Quotas, QuotaUse{
			Quota: Quota{Prefix: string(q.Prefix), MaxBytes: q.MaxBytes, MaxKeys: q.MaxKeys, MaxWatches: q.MaxWatches, WriteRate: q.WriteRate},
			Bytes: q.Bytes, Keys: q.Keys, Watches: q.Watches,
		})
	}
	return out, nil
}

type quotaIn struct{ Body Quota }

type quotaOut struct{ Body Quota }

func (d *door) setQuota(ctx context.Context, in *quotaIn) (*quotaOut, error) {
	q := in.Body
	err := d.svc.SetQuota(ctx, api.Quota{
		Prefix: []byte(q.Prefix), MaxBytes: q.MaxBytes, MaxKeys: q.MaxKeys, MaxWatches: q.MaxWatches, WriteRate: q.WriteRate,
	})
	if err != nil {
		return nil, err
	}
	return &quotaOut{Body: q}, nil
}

// SpaceBody is the space of the store.
type SpaceBody struct {
	LimitBytes     int64    `json:"limit_bytes"`
	UsedBytes      int64    `json:"used_bytes" doc:"Keys, values and history."`
	Alarms         []string `json:"alarms" doc:"space_80, space_95, no_space: the marks that are passed."`
	FileBytes      int64    `json:"file_bytes" doc:"State file of this node."`
	FileInUseBytes int64    `json:"file_in_use_bytes" doc:"The rest is free, and reused or given back by defrag."`
}

type spaceOut struct{ Body SpaceBody }

func (d *door) space(ctx context.Context, _ *struct{}) (*spaceOut, error) {
	alarms, err := d.svc.Alarms(ctx)
	if err != nil {
		return nil, err
	}
	s := d.svc.Sizes()
	out := &spaceOut{Body: SpaceBody{LimitBytes: s.Limit, UsedBytes: s.Used, FileBytes: s.File, FileInUseBytes: s.InUse, Alarms: []string{}}}
	for _, a := range alarms {
		out.Body.Alarms = append(out.Body.Alarms, string(a.Kind))
	}
	return out, nil
}

type limitIn struct {
	Body struct {
		LimitBytes uint64 `json:"limit_bytes" doc:"At least 65536, or 0 for the default."`
	}
}

func (d *door) setLimit(ctx context.Context, in *limitIn) (*spaceOut, error) {
	if err := d.svc.SetStoreLimit(ctx, in.Body.LimitBytes); err != nil {
		return nil, err
	}
	return d.space(ctx, nil)
}

func (d *door) defrag(ctx context.Context, _ *struct{}) (*spaceOut, error) {
	if err := d.svc.Defragment(ctx); err != nil {
		return nil, err
	}
	return d.space(ctx, nil)
}

type diffIn struct {
	Key    string `query:"key" doc:"One key."`
	Prefix string `query:"prefix" doc:"The keys that begin with this."`
	Start  string `query:"start" doc:"The keys from this one on."`
	End    string `query:"end" doc:"Up to but not including this key; only with start."`
	From   uint64 `query:"from" required:"true" minimum:"1" doc:"The older revision."`
	To     uint64 `query:"to" doc:"The newer revision; without it, the newest."`
	Limit  int    `query:"limit" minimum:"0"`
}

// Difference is a key that differs; a side that is missing did not exist.
type Difference struct {
	Key  string    `json:"key"`
	From *form.Key `json:"from,omitempty"`
	To   *form.Key `json:"to,omitempty"`
}

type diffOut struct {
	Body struct {
		Differences []Difference `json:"differences"`
		More        bool         `json:"more" doc:"There are more: go on with start after the last key."`
		Revision    uint64       `json:"revision"`
	}
}

func (d *door) diff(ctx context.Context, in *diffIn) (*diffOut, error) {
	s := form.Span{Key: in.Key, Prefix: in.Prefix, Start: in.Start, End: in.End}
	sp := api.FromKey([]byte{0}) // every key
	if s != (form.Span{}) {
		var err error
		if sp, err = s.Span("key"); err != nil {
			return nil, err
		}
	}
	h, changes, more, err := d.svc.Diff(ctx, sp, in.From, in.To, in.Limit, false)
	if err != nil {
		return nil, err
	}
	out := &diffOut{}
	out.Body.More, out.Body.Revision, out.Body.Differences = more, h.Revision, make([]Difference, 0, len(changes))
	for i := range changes {
		c := &changes[i]
		out.Body.Differences = append(out.Body.Differences, Difference{Key: string(c.Key), From: form.KeyOf(c.From), To: form.KeyOf(c.To)})
	}
	return out, nil
}

type rollbackIn struct {
	Body struct {
		form.Span
		Revision uint64 `json:"revision" minimum:"1" doc:"What the keys were at this revision they become again."`
	}
}

type rollbackOut struct {
	Body struct {
		Revision      uint64 `json:"revision" doc:"Key revision afterwards."`
		StoreRevision uint64 `json:"store_revision"`
		Put           uint64 `json:"put" doc:"Keys that were written."`
		Deleted       uint64 `json:"deleted"`
	}
}

func (d *door) rollback(ctx context.Context, in *rollbackIn) (*rollbackOut, error) {
	sp, err := in.Body.Span.Span("key")
	if err != nil {
		return nil, err
	}
	for _, a := range []auth.Action{auth.Write, auth.Delete} { // it deletes what did not exist then
		if err := d.srv.Allow(ctx, a, warehouse.SpanResource(sp)); err != nil {
			return nil, err
		}
	}
	r, err := d.svc.Revert(ctx, sp, in.Body.Revision)
	if err != nil {
		return nil, err
	}
	out := &rollbackOut{}
	out.Body.Revision, out.Body.StoreRevision = r.Revision, r.StoreRevision
	out.Body.Put, out.Body.Deleted = r.Put, r.Deleted
	return out, nil
}
