package rest

import (
	"bytes"
	"context"
	"net/http"
	"strconv"

	"nekoq/services/auth"
	"nekoq/services/errs"
	"nekoq/services/httpapi"
	"nekoq/warehouse/conf/api"
)

// parseCursor reads area/group/key out of a page token, whose hash has been checked.
func parseCursor(b []byte) api.Address {
	parts := bytes.SplitN(b, []byte("/"), 3)
	if len(parts) != 3 {
		return api.Address{}
	}
	return api.Address{Area: string(parts[0]), Group: string(parts[1]), Key: string(parts[2])}
}

type historyInput struct {
	ItemPath
	httpapi.PageQuery
	Stale bool `query:"stale" doc:"Answer at once from this node's own state."`
}

type historyBody struct {
	Releases      []api.Release `json:"releases" doc:"Releases, newest first."`
	NextPageToken string        `json:"next_page_token,omitempty" doc:"Token of the next page; none on the last."`
}

type diffInput struct {
	ItemPath
	From  string `query:"from" required:"true" doc:"One side: release, draft, scheduled, schema, gray:NAME, or the number of a release."`
	To    string `query:"to" required:"true" doc:"The other side."`
	Stale bool   `query:"stale" doc:"Answer at once from this node's own state."`
}

type rollbackInput struct {
	ItemPath
	Condition
	Body struct {
		Number  uint64 `json:"number" minimum:"1" doc:"The release whose content comes back."`
		Comment string `json:"comment,omitempty" doc:"Why; up to 256 bytes."`
	}
}

type grayInput struct {
	ItemPath
	Name string `path:"name" doc:"Gray release."`
	Condition
	Body struct {
		Rule     *api.Rule `json:"rule,omitempty" doc:"Who gets it; a new gray release needs one."`
		Priority *int      `json:"priority,omitempty" doc:"The greater is asked first; without it that of a gray release stays, and a new one has 0."`
		Type     string    `json:"content_type,omitempty" enum:"text,json,yaml,toml,properties" doc:"With content: its type."`
		Content  *string   `json:"content,omitempty" doc:"The content; a new gray release needs one."`
		Comment  string    `json:"comment,omitempty" doc:"Why; up to 256 bytes."`
	}
}

type grayEndInput struct {
	ItemPath
	Name string `path:"name" doc:"Gray release."`
	Condition
	Comment string `query:"comment" doc:"Why; up to 256 bytes."`
}

// versions adds the routes over releases and gray releases.
func (d *door) versions(s *httpapi.Server) {
	httpapi.Register(s, op("history", http.MethodGet, item+"/history", "List the releases of an item", "Newest first: who, when, through which door, and why."), on(auth.Read), d.history)
	httpapi.Register(s, op("diff", http.MethodGet, item+"/diff", "Compare two contents of an item", ""), on(auth.Read), d.diff)
	httpapi.Register(s, guarded("rollback", http.MethodPost, item+"/rollback", "Publish an older release once more", "It becomes a new release. A deleted item comes back."), on(auth.Write), d.rollback)
	gray := item + "/gray/{name}"
	httpapi.Register(s, guarded("gray", http.MethodPut, gray, "Make or change a gray release", "At most 10 for an item. Clients that its rule picks get its content."), on(auth.Write), d.gray, d.maxBody())
	httpapi.Register(s, guarded("gray-drop", http.MethodDelete, gray, "Drop a gray release", ""), on(auth.Write), d.grayEnd(d.svc.GrayDrop))
	httpapi.Register(s, guarded("gray-promote", http.MethodPost, gray+"/promote", "Give a gray release to everybody", "Its content is published, and it is gone."), on(auth.Write), d.grayEnd(d.svc.GrayPromote))
}

func (d *door) history(ctx context.Context, in *historyInput) (*output[historyBody], error) {
	page, err := d.srv.PageOf(in.PageQuery, "config-history", in.address().Path())
	if err != nil {
		return nil, err
	}
	r := api.HistoryRequest{Address: in.address(), Limit: page.Limit, Stale: in.Stale}
	if len(page.Cursor) > 0 {
		if r.Before, err = strconv.ParseUint(string(page.Cursor), 10, 64); err != nil {
			return nil, errs.New(errs.BadPageToken, "page_token: it belongs to another query")
		}
	}
	l, err := d.svc.History(ctx, r)
	if err != nil {
		return nil, err
	}
	out := &output[historyBody]{Body: historyBody{Releases: l.Releases}}
	if l.More {
		out.Body.NextPageToken = page.Next(strconv.AppendUint(nil, l.Releases[len(l.Releases)-1].Number, 10))
	}
	return out, nil
}

func (d *door) diff(ctx context.Context, in *diffInput) (*output[api.Diff], error) {
	if err := d.hidden(ctx, in.address()); err != nil {
		return nil, err
	}
	return answer(d.svc.Diff(ctx, api.DiffRequest{Address: in.address(), From: in.From, To: in.To, Stale: in.Stale}))
}

func (d *door) rollback(ctx context.Context, in *rollbackInput) (*itemOutput, error) {
	rev, err := in.revision(ctx)
	if err != nil {
		return nil, err
	}
	item, err := d.svc.Rollback(ctx, api.RollbackRequest{Address: in.address(), Number: in.Body.Number, Comment: in.Body.Comment, IfRevision: rev})
	return answerItem(ctx, item, err)
}

func (d *door) gray(ctx context.Context, in *grayInput) (*itemOutput, error) {
	rev, err := in.revision(ctx)
	if err != nil {
		return nil, err
	}
	b := &in.Body
	r := api.GrayRequest{Address: in.address(), Name: in.Name, Priority: b.Priority, Rule: b.Rule, Type: b.Type, Comment: b.Comment, IfRevision: rev}
	if b.Content != nil {
		r.HasContent, r.Bytes = true, []byte(*b.Content)
		if err := d.references(ctx, in.address(), r.Bytes); err != nil {
			return nil, err
		}
	}
	item, err := d.svc.Gray(ctx, r)
	return answerItem(ctx, item, err)
}

func (d *door) grayEnd(f func(context.Context, api.GrayRequest) (*api.Item, error)) func(context.Context, *grayEndInput) (*itemOutput, error) {
	return func(ctx context.Context, in *grayEndInput) (*itemOutput, error) {
		rev, err := in.revision(ctx)
		if err != nil {
			return nil, err
		}
		item, err := f(ctx, api.GrayRequest{Address: in.address(), Name: in.Name, Comment: in.Comment, IfRevision: rev})
		return answerItem(ctx, item, err)
	}
}
