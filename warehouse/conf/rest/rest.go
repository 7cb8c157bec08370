// Package rest is the configuration centre under /v1/warehouse/config: items and
// their drafts, releases and gray releases, what clients get, who listens, groups,
// scopes, clone, compare, import and export.
//
// Contents are strings here, since all are UTF-8. The routes ask the authorizer
// through httpapi. Only the composition and tests import it.
package rest

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"

	"nekoq/services/auth"
	"nekoq/services/httpapi"
	"nekoq/warehouse/conf"
	"nekoq/warehouse/conf/api"
)

type door struct {
	srv *httpapi.Server
	svc *conf.Service
}

const (
	base = "/v1/warehouse/config"
	item = base + "/items/{area}/{group}/{key}"
	tag  = "config"
)

// Register adds the routes to s.
func Register(s *httpapi.Server, svc *conf.Service) {
	d := &door{srv: s, svc: svc}
	d.items(s)
	d.versions(s)
	d.clients(s)
	d.sets(s)
}

func op(id, method, path, summary, description string) huma.Operation {
	return huma.Operation{OperationID: "config-" + id, Method: method, Path: path, Summary: summary, Description: description, Tags: []string{tag}}
}

// on asks about the item that the path names.
func on(a auth.Action) httpapi.Access {
	return httpapi.OnFunc(a, func(c *gin.Context) auth.Resource {
		return conf.Resource(httpapi.Param(c, "area"), httpapi.Param(c, "group"), httpapi.Param(c, "key"))
	})
}

func all(a auth.Action) httpapi.Access { return httpapi.On(a, "warehouse", "config") }

func filtered(a auth.Action) httpapi.Access {
	return httpapi.OnFunc(a, func(c *gin.Context) auth.Resource { return conf.Resource(c.Query("area"), c.Query("group"), "") })
}

type output[T any] struct {
	Body T
}

func answer[T any](v *T, err error) (*output[T], error) {
	if err != nil {
		return nil, err
	}
	return &output[T]{Body: *v}, nil
}

// ItemPath is the address in a path; exported, since huma looks into it.
type ItemPath struct {
	Area  string `path:"area" doc:"Area."`
	Group string `path:"group" doc:"Group."`
	Key   string `path:"key" doc:"Key."`
}

func (p ItemPath) address() api.Address { return api.Address{Area: p.Area, Group: p.Group, Key: p.Key} }

// hidden asks for more where contents of a hidden key would show.
func (d *door) hidden(ctx context.Context, a api.Address) error {
	if !api.Hidden(a.Key) {
		return nil
	}
	return d.srv.Allow(ctx, auth.Admin, conf.Resource(a.Area, a.Group, a.Key))
}

// references asks whether the writer may read what a content refers to.
func (d *door) references(ctx context.Context, a api.Address, b []byte) error {
	for _, n := range conf.ReferenceDemands(a, b) {
		if err := d.srv.Allow(ctx, n.Action, n.Resource); err != nil {
			return err
		}
	}
	return nil
}

// Condition is the query parameter of every write to an item.
type Condition struct {
	IfRevision string `query:"if_revision" doc:"Only if the item is at this revision; 0 means that it must not exist."`
}

func (c Condition) revision(ctx context.Context) (*uint64, error) {
	return httpapi.IfRevision(ctx, c.IfRevision)
}

// guarded documents a write to an item that can demand its revision.
func guarded(id, method, path, summary, description string) huma.Operation {
	o := op(id, method, path, summary, description)
	httpapi.WriteTags(&o)
	return o
}

// itemOutput answers with an item, and its revision as ETag.
type itemOutput struct {
	Body api.Item
}

func answerItem(ctx context.Context, v *api.Item, err error) (*itemOutput, error) {
	if err != nil {
		return nil, err
	}
	httpapi.SetETag(ctx, strconv.FormatUint(v.Revision, 10))
	return &itemOutput{Body: *v}, nil
}

// content is a content in a body.
type content struct {
	Type    string `json:"content_type,omitempty" enum:"text,json,yaml,toml,properties" doc:"Content type; without it that of the item, else what the key's ending says."`
	Content string `json:"content" doc:"The content."`
	Comment string `json:"comment,omitempty" doc:"Why; up to 256 bytes."`
}

// maxBody lets a content through whose every byte is escaped.
func (d *door) maxBody() httpapi.Option {
	return httpapi.MaxBody(6*d.svc.Config().MaxContentBytes + 4096)
}

type itemsInput struct {
	httpapi.PageQuery
	Area    string `query:"area" doc:"Only this area."`
	Group   string `query:"group" doc:"Only this group; needs area."`
	Prefix  string `query:"prefix" doc:"Only keys that begin so; needs group."`
	Deleted bool   `query:"deleted" doc:"Deleted items too, while their history is kept."`
	Stale   bool   `query:"stale" doc:"Answer at once from this node's own state."`
}

type itemsBody struct {
	Items         []api.Item `json:"items" doc:"Items in the order of area, group and key."`
	NextPageToken string     `json:"next_page_token,omitempty" doc:"Token of the next page; none on the last."`
}

// itemBody is an item with one of its contents.
type itemBody struct {
	api.Item
	Which   string `json:"which,omitempty" doc:"Which content this is."`
	Type    string `json:"content_type,omitempty" doc:"Type of the content."`
	Content string `json:"content,omitempty" doc:"The content."`
}

type itemInput struct {
	ItemPath
	Which string `query:"which" doc:"Which content: release (the default), draft, scheduled, schema, gray:NAME, or the number of a release."`
	Stale bool   `query:"stale" doc:"Answer at once from this node's own state."`
}

type writeInput struct {
	ItemPath
	Condition
	Body content
}

type plainInput struct {
	ItemPath
	Condition
	Comment string `query:"comment" doc:"Why; up to 256 bytes."`
}

type publishInput struct {
	ItemPath
	Condition
	Body *publishBody
}

// publishBody may be left out, which publishes the draft now.
type publishBody struct {
	Type    string     `json:"content_type,omitempty" enum:"text,json,yaml,toml,properties" doc:"With content: its type."`
	Content *string    `json:"content,omitempty" doc:"Publish this, not the draft."`
	At      *time.Time `json:"at,omitempty" doc:"Publish at this time, RFC 3339, instead of now."`
	Comment string     `json:"comment,omitempty" doc:"Why; up to 256 bytes."`
}

type settingsInput struct {
	ItemPath
	Condition
	Body struct {
		Description *string `json:"description,omitempty" doc:"Free text of up to 256 bytes."`
		ReadOnly    *bool   `json:"read_only,omitempty" doc:"Refuse every change of contents."`
		Schema      *string `json:"schema,omitempty" doc:"JSON Schema, as text, that contents must fit; empty takes it away."`
	}
}

// items adds the routes over items and drafts.
func (d *door) items(s *httpapi.Server) {
	httpapi.Register(s, op("items", http.MethodGet, base+"/items", "List items", ""), filtered(auth.Read), d.list)
	get := op("item", http.MethodGet, item, "Get an item with one of its contents", "")
	httpapi.ReadTags(&get)
	httpapi.Register(s, get, on(auth.Read), d.get)
	httpapi.Register(s, guarded("settings", http.MethodPatch, item, "Change an item's description, schema or read-only flag", ""), on(auth.Admin), d.settings)
	httpapi.Register(s, guarded("delete", http.MethodDelete, item, "Delete an item", "Its history stays readable, and a rollback brings it back, until the retention forgets it."),
		on(auth.Delete), plain(d.svc.Delete))
	httpapi.Register(s, guarded("draft", http.MethodPut, item+"/draft", "Write the draft", "Nobody sees it before it is published. The item is created when it is not there."),
		on(auth.Write), d.draft, d.maxBody())
	httpapi.Register(s, guarded("discard", http.MethodDelete, item+"/draft", "Drop the draft", ""), on(auth.Write), plain(d.svc.Discard))
	httpapi.Register(s, guarded("publish", http.MethodPost, item+"/publish", "Publish",
		"Publishes the draft, or the content given, now or at a time. What is published already is no new release."), on(auth.Write), d.publish, d.maxBody())
	httpapi.Register(s, guarded("unschedule", http.MethodDelete, item+"/schedule", "Cancel the scheduled publication", "Its content becomes the draft again, unless there is another."),
		on(auth.Write), plain(d.svc.Unschedule))
}

func plain(f func(context.Context, api.ItemRequest) (*api.Item, error)) func(context.Context, *plainInput) (*itemOutput, error) {
	return func(ctx context.Context, in *plainInput) (*itemOutput, error) {
		rev, err := in.revision(ctx)
		if err != nil {
			return nil, err
		}
		item, err := f(ctx, api.ItemRequest{Address: in.address(), IfRevision: rev, Comment: in.Comment})
		return answerItem(ctx, item, err)
	}
}

func (d *door) list(ctx context.Context, in *itemsInput) (*output[itemsBody], error) {
	page, err := d.srv.PageOf(in.PageQuery, "config-items", in.Area, in.Group, in.Prefix, strconv.FormatBool(in.Deleted))
	if err != nil {
		return nil, err
	}
	r := api.ItemsRequest{Area: in.Area, Group: in.Group, Prefix: in.Prefix, Deleted: in.Deleted, Limit: page.Limit, Stale: in.Stale}
	r.After = parseCursor(page.Cursor)
	l, err := d.svc.Items(ctx, r)
	if err != nil {
		return nil, err
	}
	out := &output[itemsBody]{Body: itemsBody{Items: l.Items}}
	if l.More {
		out.Body.NextPageToken = page.Next([]byte(l.Items[len(l.Items)-1].Path()))
	}
	return out, nil
}

// contentOutput is an item with a content; Status is 304 for what the client has.
type contentOutput struct {
	Status int
	Body   itemBody
}

func (d *door) get(ctx context.Context, in *itemInput) (*contentOutput, error) {
	if err := d.hidden(ctx, in.address()); err != nil {
		return nil, err
	}
	x, err := d.svc.Item(ctx, api.ItemRequest{Address: in.address(), Which: in.Which, Stale: in.Stale})
	if err != nil {
		return nil, err
	}
	known, err := httpapi.NotModified(ctx, strconv.FormatUint(x.Revision, 10))
	switch {
	case err != nil:
		return nil, err
	case known:
		return &contentOutput{Status: http.StatusNotModified}, nil
	}
	return &contentOutput{Status: http.StatusOK, Body: itemBody{Item: x.Item, Which: x.Which, Type: x.Type, Content: string(x.Bytes)}}, nil
}

func (d *door) draft(ctx context.Context, in *writeInput) (*itemOutput, error) {
	rev, err := in.revision(ctx)
	if err != nil {
		return nil, err
	}
	b := []byte(in.Body.Content)
	if err := d.references(ctx, in.address(), b); err != nil {
		return nil, err
	}
	item, err := d.svc.Draft(ctx, api.WriteRequest{Address: in.address(), Type: in.Body.Type, Bytes: b, Comment: in.Body.Comment, IfRevision: rev})
	return answerItem(ctx, item, err)
}

func (d *door) publish(ctx context.Context, in *publishInput) (*itemOutput, error) {
	rev, err := in.revision(ctx)
	if err != nil {
		return nil, err
	}
	r := api.PublishRequest{WriteRequest: api.WriteRequest{Address: in.address(), IfRevision: rev}}
	if b := in.Body; b != nil {
		r.Comment, r.At, r.Type = b.Comment, b.At, b.Type
		if b.Content != nil {
			r.Direct, r.Bytes = true, []byte(*b.Content)
		}
	}
	if err := d.references(ctx, in.address(), r.Bytes); err != nil {
		return nil, err
	}
	item, err := d.svc.Publish(ctx, r)
	return answerItem(ctx, item, err)
}

func (d *door) settings(ctx context.Context, in *settingsInput) (*itemOutput, error) {
	rev, err := in.revision(ctx)
	if err != nil {
		return nil, err
	}
	item, err := d.svc.Settings(ctx, api.SettingsRequest{
		Address: in.address(), Description: in.Body.Description, ReadOnly: in.Body.ReadOnly, Schema: in.Body.Schema, IfRevision: rev,
	})
	return answerItem(ctx, item, err)
}
