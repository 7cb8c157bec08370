package client

import (
	"context"
	"encoding/json"
	"io"
	"strconv"

	"nekoq/services/errs"
	"nekoq/services/wire"
	"nekoq/warehouse/conf/api"
)

// The words of the configuration centre.
type (
	ConfAddress    = api.Address
	ConfItem       = api.Item
	ConfContent    = api.ItemContent
	ConfRelease    = api.Release
	ConfRule       = api.Rule
	ConfDiff       = api.Diff
	ConfOutcome    = api.Outcome
	ConfComparison = api.Comparison
	ConfArchived   = api.Archived
	ConfGroup      = api.Group
	ConfScope      = api.Scope
	ConfListenerOf = api.Listener
	ConfWrite      = api.WriteRequest
	ConfPublish    = api.PublishRequest
	ConfRollback   = api.RollbackRequest
	ConfSettings   = api.SettingsRequest
	ConfGray       = api.GrayRequest
	ConfClone      = api.CloneRequest
	ConfCompare    = api.CompareRequest
	ConfImport     = api.ImportRequest
	ConfExport     = api.ExportRequest
	ConfManifest   = api.Manifest
	ConfFile       = api.File
	ConfQuery      = api.EffectiveRequest
	ConfEffective  = api.Effective
)

// Conf is the configuration centre. Programs that use configuration need Get,
// GetAll and Subscribe; the rest manages it.
type Conf struct {
	c  *Client
	at *uint64 // the revision that changes demand
}

// IfRevision gives a Conf whose changes of an item happen only while the item is at
// this revision, unless they name one of their own. 0: only if it does not exist.
func (c Conf) IfRevision(revision uint64) Conf {
	c.at = &revision
	return c
}

// guard fills in the revision that a change demands.
func (c Conf) guard(own *uint64) *uint64 {
	if own != nil {
		return own
	}
	return c.at
}

// Conf is the configuration centre.
func (c *Client) Conf() Conf { return Conf{c: c} }

func confCall[Out any](ctx context.Context, c Conf, m wire.Method, in any, write bool) (out Out, err error) {
	err = c.c.callJSON(ctx, m, in, &out, write)
	return out, err
}

// Draft writes the draft of an item, which is created when it is not there.
func (c Conf) Draft(ctx context.Context, r ConfWrite) (ConfItem, error) {
	r.IfRevision = c.guard(r.IfRevision)
	return confCall[ConfItem](ctx, c, api.MethodDraft, r, true)
}

// Discard drops the draft.
func (c Conf) Discard(ctx context.Context, a ConfAddress) (ConfItem, error) {
	return confCall[ConfItem](ctx, c, api.MethodDiscard, api.ItemRequest{Address: a, IfRevision: c.at}, true)
}

// Publish publishes the draft, or with Direct the content given, now or at a time.
func (c Conf) Publish(ctx context.Context, r ConfPublish) (ConfItem, error) {
	r.IfRevision = c.guard(r.IfRevision)
	return confCall[ConfItem](ctx, c, api.MethodPublish, r, true)
}

// Unschedule cancels what is to be published at a time.
func (c Conf) Unschedule(ctx context.Context, a ConfAddress) (ConfItem, error) {
	return confCall[ConfItem](ctx, c, api.MethodUnschedule, api.ItemRequest{Address: a, IfRevision: c.at}, true)
}

// Rollback publishes an older release once more.
func (c Conf) Rollback(ctx context.Context, r ConfRollback) (ConfItem, error) {
	r.IfRevision = c.guard(r.IfRevision)
	return confCall[ConfItem](ctx, c, api.MethodRollback, r, true)
}

// Delete deletes an item; its history stays for a while.
func (c Conf) Delete(ctx context.Context, a ConfAddress, comment string) (ConfItem, error) {
	return confCall[ConfItem](ctx, c, api.MethodDelete, api.ItemRequest{Address: a, Comment: comment, IfRevision: c.at}, true)
}

// Settings changes an item's description, schema or read-only flag.
func (c Conf) Settings(ctx context.Context, r ConfSettings) (ConfItem, error) {
	r.IfRevision = c.guard(r.IfRevision)
	return confCall[ConfItem](ctx, c, api.MethodSettings, r, true)
}

// Gray makes or changes a gray release; without HasContent its content stays.
func (c Conf) Gray(ctx context.Context, r ConfGray) (ConfItem, error) {
	r.IfRevision = c.guard(r.IfRevision)
	return confCall[ConfItem](ctx, c, api.MethodGray, r, true)
}

// GrayDrop takes a gray release back.
func (c Conf) GrayDrop(ctx context.Context, a ConfAddress, name string) (ConfItem, error) {
	return confCall[ConfItem](ctx, c, api.MethodGrayDrop, api.GrayRequest{Address: a, Name: name, IfRevision: c.at}, true)
}

// GrayPromote gives the content of a gray release to everybody.
func (c Conf) GrayPromote(ctx context.Context, a ConfAddress, name, comment string) (ConfItem, error) {
	return confCall[ConfItem](ctx, c, api.MethodGrayPromote, api.GrayRequest{Address: a, Name: name, Comment: comment, IfRevision: c.at}, true)
}

// Item gives an item with one of its contents: "" or "release", "draft",
// "scheduled", "schema", "gray:NAME", or the number of a release.
func (c Conf) Item(ctx context.Context, a ConfAddress, which string) (ConfContent, error) {
	return confCall[ConfContent](ctx, c, api.MethodItem, api.ItemRequest{Address: a, Which: which}, false)
}

// Items lists items. Empty members of r are no filter.
func (c Conf) Items(ctx context.Context, area, group, prefix string, deleted bool) ([]ConfItem, error) {
	all := []ConfItem{}
	r := api.ItemsRequest{Area: area, Group: group, Prefix: prefix, Deleted: deleted}
	for {
		page, err := confCall[api.ItemList](ctx, c, api.MethodItems, r, false)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		if !page.More || len(page.Items) == 0 {
			return all, nil
		}
		r.After = all[len(all)-1].Address
	}
}

// History lists the releases of an item, newest first, at most limit (0 is all).
func (c Conf) History(ctx context.Context, a ConfAddress, limit int) ([]ConfRelease, error) {
	all := []ConfRelease{}
	r := api.HistoryRequest{Address: a}
	for {
		if limit > 0 {
			r.Limit = limit - len(all)
		}
		page, err := confCall[api.HistoryList](ctx, c, api.MethodHistory, r, false)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Releases...)
		if !page.More || len(page.Releases) == 0 || limit > 0 && len(all) >= limit {
			return all, nil
		}
		r.Before = all[len(all)-1].Number
	}
}

// Diff compares two contents of an item, named as in Item.
func (c Conf) Diff(ctx context.Context, a ConfAddress, from, to string) (ConfDiff, error) {
	return confCall[ConfDiff](ctx, c, api.MethodDiff, api.DiffRequest{Address: a, From: from, To: to}, false)
}

// Clone copies what is published in a group to another group or area.
func (c Conf) Clone(ctx context.Context, r ConfClone) (ConfOutcome, error) {
	return confCall[ConfOutcome](ctx, c, api.MethodClone, r, true)
}

// Compare compares two groups key by key.
func (c Conf) Compare(ctx context.Context, r ConfCompare) (ConfComparison, error) {
	return confCall[ConfComparison](ctx, c, api.MethodCompare, r, false)
}

// Import takes a zip file of area/group/key in, as a whole or not at all. It travels
// as base64 in one frame, so it has at most three quarters of MaxFrameBytes.
func (c Conf) Import(ctx context.Context, r ConfImport) (ConfOutcome, error) {
	if n, most := int64(len(r.Archive)), c.c.cfg.MaxFrameBytes/4*3-4096; n > most {
		return ConfOutcome{}, errs.New(errs.TooLarge, "archive: %d bytes: at most %d fit into a request of the native door; import it in parts, or over REST", n, most).
			With(errs.Detail{Field: "archive", Value: strconv.FormatInt(n, 10), Limit: strconv.FormatInt(most, 10) + " bytes"})
	}
	return confCall[ConfOutcome](ctx, c, api.MethodImport, r, true)
}

// Export calls fn with what is published, item by item, and with the parts that r
// asks for: each comes in a call of its own, under the address of the item before.
// All of it is as of one revision. Empty members are no filter.
func (c Conf) Export(ctx context.Context, r ConfExport, fn func(ConfArchived) error) error {
	req, err := json.Marshal(r)
	if err != nil {
		return err
	}
	begun := false
	s, err := c.c.stream(ctx, api.MethodExport, func() ([]byte, error) {
		if begun { // a second stream would begin anew
			return nil, errs.New(errs.Unavailable, "the connection broke within the export; begin again")
		}
		return req, nil
	})
	if err != nil {
		return err
	}
	defer s.close()
	begun = true
	for {
		msg, err := s.recv(ctx)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		var x ConfArchived
		if err := json.Unmarshal(msg, &x); err != nil {
			return errs.New(errs.ProtocolViolation, "the server's answer cannot be read: %s", err)
		}
		if err := fn(x); err != nil {
			return err
		}
	}
}

// Listeners tells who listens and which version each has. Empty members are no
// filter.
func (c Conf) Listeners(ctx context.Context, area, group, key string) ([]ConfListenerOf, error) {
	l, err := confCall[api.ListenerList](ctx, c, api.MethodListeners, api.ListenersRequest{Area: area, Group: group, Key: key}, false)
	return l.Listeners, err
}

// PutGroup sets what belongs to a group in every area.
func (c Conf) PutGroup(ctx context.Context, g ConfGroup) (ConfGroup, error) {
	return confCall[ConfGroup](ctx, c, api.MethodGroupPut, g, true)
}

// DeleteGroup forgets it; the group's items stay.
func (c Conf) DeleteGroup(ctx context.Context, name string) error {
	_, err := confCall[api.Done](ctx, c, api.MethodGroupDelete, api.NameRequest{Name: name}, true)
	return err
}

// Groups lists the groups that have settings.
func (c Conf) Groups(ctx context.Context) ([]ConfGroup, error) {
	l, err := confCall[api.GroupList](ctx, c, api.MethodGroups, api.ListRequest{}, false)
	return l.Groups, err
}

// PutScope sets a rule that puts clients into an area.
func (c Conf) PutScope(ctx context.Context, s ConfScope) (ConfScope, error) {
	return confCall[ConfScope](ctx, c, api.MethodScopePut, s, true)
}

// DeleteScope takes a scope away.
func (c Conf) DeleteScope(ctx context.Context, name string) error {
	_, err := confCall[api.Done](ctx, c, api.MethodScopeDelete, api.NameRequest{Name: name}, true)
	return err
}

// Scopes lists the scopes, first asked first.
func (c Conf) Scopes(ctx context.Context) ([]ConfScope, error) {
	l, err := confCall[api.ScopeList](ctx, c, api.MethodScopes, api.ListRequest{}, false)
	return l.Scopes, err
}

// GetAll gives what a client gets of a group. With q.Hash of the same it gives no
// values.
func (c Conf) GetAll(ctx context.Context, q ConfQuery) (ConfEffective, error) {
	return confCall[ConfEffective](ctx, c, api.MethodEffective, q, false)
}

// Get gives what a client gets of one key, an error of the code not_found when
// there is nothing. An empty area is that of the client's scope.
func (c Conf) Get(ctx context.Context, area, group, key string) (ConfValue, error) {
	e, err := c.GetAll(ctx, ConfQuery{Area: area, Group: group, Key: key, Client: c.c.cfg.instance()})
	if err != nil {
		return ConfValue{}, err
	}
	if len(e.Values) == 0 {
		return ConfValue{}, noSuchKey(e.Area, group, key)
	}
	return ConfValue(e.Values[0]), nil
}

func noSuchKey(area, group, key string) error {
	return errs.New(errs.NotFound, "key: %s/%s has no key %q that clients see", area, group, key).With(errs.Detail{Field: "key", Value: key})
}
