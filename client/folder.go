package client

import (
	"context"
	"encoding/json"
	"strings"

	"nekoq/services/errs"
	"nekoq/warehouse/api"
)

// FolderEvent is what a watched folder tells: first the keys that exist, then changes.
type FolderEvent struct {
	Kind FolderKind
	KV   KeyValue
}

// FolderKind says what happened.
type FolderKind string

// The kinds. Existing comes in the first answer only.
const (
	FolderExisting FolderKind = "existing"
	FolderCreated  FolderKind = "created"
	FolderModified FolderKind = "modified"
	FolderDeleted  FolderKind = "deleted"
)

// WatchFolder watches the keys below a path that ends with a slash: the first Next
// gives those that exist (none, maybe), each further one changes. It goes on over the
// loss of a connection or server, in order, without gaps or repeats.
func (k *KV) WatchFolder(ctx context.Context, path string) (*FolderWatch, error) {
	if !strings.HasSuffix(path, "/") {
		return nil, errs.Invalid("path", path, "a path that ends with /")
	}
	w := &FolderWatch{req: api.WatchRequest{Start: []byte(path)}, first: true}
	s, err := k.client().stream(ctx, api.MethodFolder, func() ([]byte, error) { return w.req.Append(nil), nil })
	if err != nil {
		return nil, err
	}
	w.s = s
	return w, nil
}

// FolderWatch is read by one goroutine.
type FolderWatch struct {
	s     *stream
	req   api.WatchRequest // After: the last revision that was seen whole
	first bool
}

// Next waits for the keys that exist, then for changes.
func (w *FolderWatch) Next(ctx context.Context) ([]FolderEvent, error) {
	for {
		msg, err := w.s.recv(ctx)
		if err != nil {
			return nil, err
		}
		var b api.WatchBatch
		if err := b.Decode(msg); err != nil {
			return nil, err
		}
		if b.Revision <= w.req.After {
			continue
		}
		w.req.After = b.Revision
		first := w.first
		w.first = false
		if !first && len(b.Events) == 0 {
			continue
		}
		out := make([]FolderEvent, 0, len(b.Events))
		for i := range b.Events {
			e := FolderEvent{Kind: FolderModified, KV: b.Events[i].KV}
			switch {
			case first:
				e.Kind = FolderExisting
			case b.Events[i].Kind == api.EventDelete:
				e.Kind = FolderDeleted
			case e.KV.Version == 1:
				e.Kind = FolderCreated
			}
			out = append(out, e)
		}
		return out, nil
	}
}

// Revision is up to where everything was told.
func (w *FolderWatch) Revision() uint64 { return w.req.After }

// Close ends it.
func (w *FolderWatch) Close() { w.s.close() }

// What upkeep is about.
type (
	// KeyQuota is the quota of a prefix and its use.
	KeyQuota = api.Quota
	// KeyDifference is a key that differs between two revisions.
	KeyDifference = api.Difference
	// KeySpace tells how large the store is.
	KeySpace = api.Space
	// Upkept answers an upkeep request.
	Upkept = api.UpkeepResult
)

// upkeep asks; write uses the session, so that a retry is not carried out twice.
func (k *KV) upkeep(ctx context.Context, r *api.UpkeepRequest, write bool) (res Upkept, err error) {
	req, err := json.Marshal(r)
	if err != nil {
		return res, errs.From(err)
	}
	do := k.client().read
	if write {
		do = k.client().write
	}
	b, err := do(ctx, api.MethodUpkeep, req)
	if err == nil {
		if jerr := json.Unmarshal(b, &res); jerr != nil {
			err = errs.New(errs.ProtocolViolation, "a damaged answer").Wrap(jerr)
		}
	}
	return res, err
}

// Rollback makes the keys of a span what they were at a revision, as one new revision.
func (k *KV) Rollback(ctx context.Context, s KeySpan, rev uint64) (Upkept, error) {
	return k.upkeep(ctx, &api.UpkeepRequest{Do: api.UpkeepRevert, Key: s.Key, End: s.End, From: rev}, true)
}

// Diff gives the keys of a span that differ between two revisions (to 0: the newest).
func (k *KV) Diff(ctx context.Context, s KeySpan, from, to uint64, limit int) (Upkept, error) {
	return k.upkeep(ctx, &api.UpkeepRequest{Do: api.UpkeepDiff, Key: s.Key, End: s.End, From: from, To: to, Limit: limit}, false)
}

// SetQuota sets the quota of a prefix; all limits zero remove it.
func (k *KV) SetQuota(ctx context.Context, q KeyQuota) error {
	_, err := k.upkeep(ctx, &api.UpkeepRequest{Do: api.UpkeepSetQuota, Quota: q}, true)
	return err
}

// Quotas lists the quotas with their use.
func (k *KV) Quotas(ctx context.Context) ([]KeyQuota, error) {
	res, err := k.upkeep(ctx, &api.UpkeepRequest{Do: api.UpkeepQuotas}, false)
	return res.Quotas, err
}

// SetStoreLimit sets the limit of the whole store in bytes; 0 restores the default.
func (k *KV) SetStoreLimit(ctx context.Context, limit uint64) error {
	_, err := k.upkeep(ctx, &api.UpkeepRequest{Do: api.UpkeepSetLimit, Limits: limit}, true)
	return err
}

// Space tells how large the store is, and which marks of its limit are passed.
func (k *KV) Space(ctx context.Context) (KeySpace, []string, error) {
	res, err := k.upkeep(ctx, &api.UpkeepRequest{Do: api.UpkeepSpace}, false)
	return res.Space, res.Alarms, err
}

// Defragment gives the free space of the server at hand back to its disk.
func (k *KV) Defragment(ctx context.Context) (KeySpace, error) {
	res, err := k.upkeep(ctx, &api.UpkeepRequest{Do: api.UpkeepDefrag}, false)
	return res.Space, err
}
