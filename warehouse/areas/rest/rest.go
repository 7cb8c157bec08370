// Package rest is areas under /v1/warehouse/areas: the tree, its levels, and a
// watch over it by long poll and server-sent events.
//
// The routes ask the authorizer through httpapi. Only the composition and tests
// import it.
package rest

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"

	"nekoq/services/auth"
	"nekoq/services/errs"
	"nekoq/services/httpapi"
	"nekoq/warehouse/areas"
	"nekoq/warehouse/areas/api"
)

type door struct {
	srv *httpapi.Server
	svc *areas.Service
}

const (
	base = "/v1/warehouse/areas"
	tag  = "areas"
)

// Register adds the routes to s.
func Register(s *httpapi.Server, svc *areas.Service) {
	d := &door{srv: s, svc: svc}
	all := func(a auth.Action) httpapi.Access { return httpapi.On(a, "warehouse", "area") }
	one := func(a auth.Action) httpapi.Access { return httpapi.OnParam(a, "warehouse", "area", "name") }
	created := func(o huma.Operation) huma.Operation { o.DefaultStatus = http.StatusCreated; return o }

	list := op("areas-list", http.MethodGet, base, "List or watch areas",
		"A page of all areas, or of those right below parent. With Accept: text/event-stream it is a watch: an event of type tree with all areas, then one "+
			"of type change for each change; their ids are revisions to resume from. With wait it is a long poll that answers with all areas once the tree has "+
			"changed after revision, or with changed: false at the end of the wait.")
	list.Parameters = append(append(httpapi.PageParams(), httpapi.WaitParams()...),
		&huma.Param{Name: "parent", In: "query", Description: "Only the areas right below this one.", Schema: &huma.Schema{Type: "string"}},
		&huma.Param{Name: "stale", In: "query", Description: "Answer at once from this node's own state.", Schema: &huma.Schema{Type: "boolean"}})
	list.Responses = map[string]*huma.Response{"200": httpapi.JSON[listBody](s, "The areas")}
	httpapi.Raw(s, list, all(auth.Read), d.list)

	httpapi.Register(s, created(op("areas-create", http.MethodPost, base, "Create an area", "An area of that name is already_exists.")), all(auth.Admin), d.create)
	httpapi.Register(s, created(op("areas-put", http.MethodPut, base+"/{name}", "Create an area under a name", "As POST, with the name in the path.")),
		one(auth.Admin), d.put)
	get := op("areas-get", http.MethodGet, base+"/{name}", "Get an area", "")
	httpapi.ReadTags(&get)
	httpapi.Register(s, get, one(auth.Read), d.get)
	httpapi.Register(s, guarded("areas-update", http.MethodPatch, base+"/{name}", "Move or describe an area",
		"Everything below moves with it. A move below itself, or one that makes the tree deeper than 16 levels, is refused."), one(auth.Admin), d.patch)
	httpapi.Register(s, guarded("areas-delete", http.MethodDelete, base+"/{name}", "Delete an area",
		"Refused while it has areas below it or is used, such as by config items. The root cannot be deleted."), one(auth.Delete), d.delete)
	httpapi.Register(s, op("areas-levels", http.MethodGet, base+"/{name}/levels", "Levels of an area", "The area first, then each parent, the root last."),
		one(auth.Read), d.levels)
}

func op(id, method, path, summary, description string) huma.Operation {
	return huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary, Description: description, Tags: []string{tag}}
}

// guarded documents a write that can demand the area's revision.
func guarded(id, method, path, summary, description string) huma.Operation {
	o := op(id, method, path, summary, description)
	httpapi.WriteTags(&o)
	return o
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

// tagged answers with an area, whose revision is the ETag. A root that was never
// changed has none.
func tagged(ctx context.Context, a *api.Area, err error) (*output[api.Area], error) {
	if err == nil && a.Revision != 0 {
		httpapi.SetETag(ctx, strconv.FormatUint(a.Revision, 10))
	}
	return answer(a, err)
}

type createInput struct {
	Body api.CreateRequest
}

func (d *door) create(ctx context.Context, in *createInput) (*output[api.Area], error) {
	if err := d.srv.Allow(ctx, auth.Admin, auth.Resource{Service: "warehouse", Kind: "area", Name: in.Body.Name}); err != nil {
		return nil, err
	}
	a, err := d.svc.Create(ctx, in.Body)
	return tagged(ctx, a, err)
}

type putInput struct {
	Name string `path:"name" doc:"Area."`
	Body *putBody
}

// putBody may be left out.
type putBody struct {
	Parent      string `json:"parent,omitempty" doc:"The area above; default without."`
	Description string `json:"description,omitempty" doc:"Free text of up to 256 bytes."`
}

func (d *door) put(ctx context.Context, in *putInput) (*output[api.Area], error) {
	r := api.CreateRequest{Name: in.Name}
	if in.Body != nil {
		r.Parent, r.Description = in.Body.Parent, in.Body.Description
	}
	a, err := d.svc.Create(ctx, r)
	return tagged(ctx, a, err)
}

type nameInput struct {
	Name  string `path:"name" doc:"Area."`
	Stale bool   `query:"stale" doc:"Answer at once from this node's own state."`
}

// areaOutput is an area; Status is 304 for what the client has.
type areaOutput struct {
	Status int
	Body   api.Area
}

func (d *door) get(ctx context.Context, in *nameInput) (*areaOutput, error) {
	a, err := d.svc.Get(ctx, api.GetRequest{Name: in.Name, Stale: in.Stale})
	if err != nil {
		return nil, err
	}
	if a.Revision != 0 {
		known, err := httpapi.NotModified(ctx, strconv.FormatUint(a.Revision, 10))
		switch {
		case err != nil:
			return nil, err
		case known:
			return &areaOutput{Status: http.StatusNotModified}, nil
		}
	}
	return &areaOutput{Status: http.StatusOK, Body: *a}, nil
}

func (d *door) levels(ctx context.Context, in *nameInput) (*output[api.Levels], error) {
	return answer(d.svc.Levels(ctx, api.GetRequest{Name: in.Name, Stale: in.Stale}))
}

type patchInput struct {
	Name       string `path:"name" doc:"Area."`
	IfRevision string `query:"if_revision" doc:"Only if the area is at this revision."`
	Body       struct {
		Parent      *string `json:"parent,omitempty" doc:"Move below this area."`
		Description *string `json:"description,omitempty" doc:"Free text of up to 256 bytes."`
	}
}

func (d *door) patch(ctx context.Context, in *patchInput) (*output[api.Area], error) {
	rev, err := httpapi.IfRevision(ctx, in.IfRevision)
	if err != nil {
		return nil, err
	}
	a, err := d.svc.Update(ctx, api.UpdateRequest{Name: in.Name, Parent: in.Body.Parent, Description: in.Body.Description, IfRevision: rev})
	return tagged(ctx, a, err)
}

type deleteInput struct {
	Name       string `path:"name" doc:"Area."`
	IfRevision string `query:"if_revision" doc:"Only if the area is at this revision."`
}

func (d *door) delete(ctx context.Context, in *deleteInput) (*output[api.Deleted], error) {
	rev, err := httpapi.IfRevision(ctx, in.IfRevision)
	if err != nil {
		return nil, err
	}
	return answer(d.svc.Delete(ctx, api.DeleteRequest{Name: in.Name, IfRevision: rev}))
}

// listBody is a page, or the answer of a long poll.
type listBody struct {
	Areas         []api.Area `json:"areas" doc:"Areas in the order of their names; none when nothing changed."`
	Revision      uint64     `json:"revision" doc:"Revision of the tree."`
	Changed       *bool      `json:"changed,omitempty" doc:"Of a long poll: whether the tree has changed after revision."`
	NextPageToken string     `json:"next_page_token,omitempty" doc:"Token of the next page; none on the last."`
}

func (d *door) list(c *gin.Context) {
	if httpapi.WantsStream(c) {
		d.stream(c)
		return
	}
	wait, err := httpapi.WaitOf(c)
	if err != nil {
		httpapi.Fail(c, err)
		return
	}
	if wait.For > 0 {
		d.poll(c, wait)
		return
	}
	d.page(c)
}

func (d *door) page(c *gin.Context) {
	q := httpapi.PageQuery{PageToken: c.Query("page_token")}
	if v, ok := c.GetQuery("limit"); ok {
		n, err := strconv.Atoi(v)
		if err != nil {
			httpapi.Fail(c, errs.Invalid("limit", v, "a number"))
			return
		}
		q.Limit = n
	}
	stale, err := flag(c, "stale")
	if err != nil {
		httpapi.Fail(c, err)
		return
	}
	parent := c.Query("parent")
	page, err := d.srv.PageOf(q, "areas-list", parent)
	if err != nil {
		httpapi.Fail(c, err)
		return
	}
	l, err := d.svc.List(c.Request.Context(), api.ListRequest{Parent: parent, After: string(page.Cursor), Limit: page.Limit, Stale: stale})
	if err != nil {
		httpapi.Fail(c, err)
		return
	}
	out := listBody{Areas: l.Areas, Revision: l.Revision}
	if l.More {
		out.NextPageToken = page.Next([]byte(l.Areas[len(l.Areas)-1].Name))
	}
	c.JSON(http.StatusOK, out)
}

func flag(c *gin.Context, name string) (bool, error) {
	v, ok := c.GetQuery(name)
	if !ok {
		return false, nil
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, errs.Invalid(name, v, "true or false")
	}
	return b, nil
}

// alone refuses what a watch does not take.
func alone(c *gin.Context, how string, names ...string) error {
	for _, n := range names {
		if v, ok := c.GetQuery(n); ok {
			return errs.Invalid(n, v, "no "+n+" together with "+how)
		}
	}
	return nil
}

// poll waits for a tree that is newer than the caller's.
func (d *door) poll(c *gin.Context, wait httpapi.Wait) {
	if err := alone(c, "wait", "limit", "page_token", "parent", "stale"); err != nil {
		httpapi.Fail(c, err)
		return
	}
	w, err := d.svc.Watch(c.Request.Context(), api.WatchRequest{After: wait.Revision})
	if err != nil {
		httpapi.Fail(c, err)
		return
	}
	defer w.Close()
	_, err = httpapi.LongPoll(c.Request.Context(), wait.For, func(ctx context.Context) error {
		for {
			u, err := w.Next(ctx)
			if err != nil || !wait.HasRevision || u.Revision > wait.Revision {
				return err
			}
		}
	})
	if err != nil {
		httpapi.Fail(c, err)
		return
	}
	changed := w.At() > wait.Revision || !wait.HasRevision
	out := listBody{Areas: []api.Area{}, Revision: w.At(), Changed: &changed}
	if changed {
		t, err := d.svc.Tree(c.Request.Context(), true)
		if err != nil {
			httpapi.Fail(c, err)
			return
		}
		out.Revision = t.Revision()
		t.Ascend("", func(a api.Area) bool {
			out.Areas = append(out.Areas, a)
			return true
		})
	}
	c.JSON(http.StatusOK, out)
}

func (d *door) stream(c *gin.Context) {
	if err := alone(c, "Accept: text/event-stream", "wait", "limit", "page_token", "parent", "stale"); err != nil {
		httpapi.Fail(c, err)
		return
	}
	after, _, err := httpapi.ResumeFrom(c)
	if err != nil {
		httpapi.Fail(c, err)
		return
	}
	w, err := d.svc.Watch(c.Request.Context(), api.WatchRequest{After: after})
	if err != nil {
		httpapi.Fail(c, err)
		return
	}
	defer w.Close()
	httpapi.Stream(c, func(ctx context.Context) ([]httpapi.Event, error) {
		u, err := w.Next(ctx)
		if err != nil {
			return nil, err
		}
		kind := "change"
		if u.Full {
			kind = "tree"
		}
		data, err := json.Marshal(u)
		if err != nil {
			return nil, err
		}
		return []httpapi.Event{{ID: u.Revision, Type: kind, Data: data}}, nil
	})
}
