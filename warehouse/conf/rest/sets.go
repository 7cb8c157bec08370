package rest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"

	"nekoq/services/auth"
	"nekoq/services/errs"
	"nekoq/services/httpapi"
	"nekoq/warehouse/conf"
	"nekoq/warehouse/conf/api"
)

type cloneInput struct {
	Body api.CloneRequest
}

type compareInput struct {
	LeftArea   string `query:"left_area" required:"true" doc:"Area of the left side."`
	LeftGroup  string `query:"left_group" required:"true" doc:"Group of the left side."`
	RightArea  string `query:"right_area" required:"true" doc:"Area of the right side."`
	RightGroup string `query:"right_group" doc:"Group of the right side; left_group without."`
	Effective  bool   `query:"effective" doc:"Compare what clients get, with what is inherited, not only what stands in the two."`
	Diff       bool   `query:"diff" doc:"With the differences as unified diffs."`
	Stale      bool   `query:"stale" doc:"Answer at once from this node's own state."`
}

type staleInput struct {
	Stale bool `query:"stale" doc:"Answer at once from this node's own state."`
}

type groupInput struct {
	Name string `path:"name" doc:"Group."`
	Body struct {
		Description string   `json:"description,omitempty" doc:"Free text of up to 256 bytes."`
		Quotes      []string `json:"quotes,omitempty" doc:"Groups whose keys this one has too; the first that has a key gives it."`
	}
}

type scopeInput struct {
	Name string `path:"name" doc:"Scope."`
	Body struct {
		Priority int      `json:"priority,omitempty" doc:"The greater is asked first."`
		Rule     api.Rule `json:"rule" doc:"Whom it fits."`
		Area     string   `json:"area" doc:"The area that they get."`
	}
}

type nameInput struct {
	Name string `path:"name" doc:"Name."`
}

// sets adds the routes over many items, and over groups and scopes.
func (d *door) sets(s *httpapi.Server) {
	httpapi.Register(s, op("clone", http.MethodPost, base+"/clone", "Copy a group to another group or area",
		"What is published there is copied in one step, all or nothing, with descriptions and schemas."), all(auth.Admin), d.clone)
	httpapi.Register(s, op("compare", http.MethodGet, base+"/compare", "Compare two groups key by key", ""), httpapi.OnFunc(auth.Read, func(c *gin.Context) auth.Resource {
		return conf.Resource(c.Query("left_area"), c.Query("left_group"), "")
	}), d.compare)
	d.archives(s)
	httpapi.Register(s, op("groups", http.MethodGet, base+"/groups", "List groups that have settings", ""), all(auth.Read), func(ctx context.Context, in *staleInput) (*output[api.GroupList], error) {
		return answer(d.svc.Groups(ctx, api.ListRequest{Stale: in.Stale}))
	})
	httpapi.Register(s, op("group-put", http.MethodPut, base+"/groups/{name}", "Set what belongs to a group", "Its description, and the groups that it quotes, in every area."), all(auth.Admin),
		func(ctx context.Context, in *groupInput) (*output[api.Group], error) {
			return answer(d.svc.GroupPut(ctx, api.Group{Name: in.Name, Description: in.Body.Description, Quotes: in.Body.Quotes}))
		})
	httpapi.Register(s, op("group-delete", http.MethodDelete, base+"/groups/{name}", "Forget what belongs to a group", "Its items stay."), all(auth.Admin),
		func(ctx context.Context, in *nameInput) (*output[api.Done], error) {
			return answer(d.svc.GroupDelete(ctx, api.NameRequest{Name: in.Name}))
		})
	httpapi.Register(s, op("scopes", http.MethodGet, base+"/scopes", "List scopes", "In the order in which they are asked."), all(auth.Read), func(ctx context.Context, in *staleInput) (*output[api.ScopeList], error) {
		return answer(d.svc.Scopes(ctx, api.ListRequest{Stale: in.Stale}))
	})
	httpapi.Register(s, op("scope-put", http.MethodPut, base+"/scopes/{name}", "Set a scope", "Clients that name no area get that of the first scope that fits them."), all(auth.Admin),
		func(ctx context.Context, in *scopeInput) (*output[api.Scope], error) {
			return answer(d.svc.ScopePut(ctx, api.Scope{Name: in.Name, Priority: in.Body.Priority, Rule: in.Body.Rule, Area: in.Body.Area}))
		})
	httpapi.Register(s, op("scope-delete", http.MethodDelete, base+"/scopes/{name}", "Delete a scope", ""), all(auth.Admin),
		func(ctx context.Context, in *nameInput) (*output[api.Done], error) {
			return answer(d.svc.ScopeDelete(ctx, api.NameRequest{Name: in.Name}))
		})
}

func (d *door) clone(ctx context.Context, in *cloneInput) (*output[api.Outcome], error) {
	return answer(d.svc.Clone(ctx, in.Body))
}

func (d *door) compare(ctx context.Context, in *compareInput) (*output[api.Comparison], error) {
	if in.RightGroup == "" {
		in.RightGroup = in.LeftGroup
	}
	if err := d.srv.Allow(ctx, auth.Read, conf.Resource(in.RightArea, in.RightGroup, "")); err != nil {
		return nil, err
	}
	return answer(d.svc.Compare(ctx, api.CompareRequest{
		LeftArea: in.LeftArea, LeftGroup: in.LeftGroup, RightArea: in.RightArea, RightGroup: in.RightGroup,
		Effective: in.Effective, Diff: in.Diff, Stale: in.Stale,
	}))
}

const zipType = "application/zip"

// archives adds import and export.
func (d *door) archives(s *httpapi.Server) {
	query := func(name, kind, doc string) *huma.Param {
		return &huma.Param{Name: name, In: "query", Description: doc, Schema: &huma.Schema{Type: kind}}
	}
	in := op("import", http.MethodPost, base+"/import", "Import an archive",
		"A zip file of area/group/key, all of it or nothing, with the manifest of an export or without. With area, or area and group, the paths may be shorter, and what is named takes the place of what they say.")
	in.Parameters = []*huma.Param{
		query("area", "string", "Put all items into this area."), query("group", "string", "Put all items into this group."),
		query("if_exists", "string", "What to do with items that are there: fail (the default), skip or overwrite."),
		query("draft", "boolean", "Make drafts instead of publishing."), query("dry_run", "boolean", "Only tell what would be done."),
		query("comment", "string", "Why; up to 256 bytes."),
	}
	in.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{zipType: {Schema: &huma.Schema{Type: "string", Format: "binary"}}}}
	in.Responses = map[string]*huma.Response{"200": httpapi.JSON[api.Outcome](s, "What was done with each item")}
	httpapi.Raw(s, in, filtered(auth.Admin), d.takeIn, httpapi.MaxBody(d.svc.Config().MaxImportBytes+1<<20))

	out := op("export", http.MethodGet, base+"/export", "Export as an archive", "A zip file of area/group/key with what is published, and a manifest. All of it is as of one store revision, which the manifest names; with=drafts,gray,history adds those, and an import takes them in again.")
	out.Parameters = []*huma.Param{
		query("area", "string", "Only this area."), query("group", "string", "Only this group; needs area."),
		query("with", "string", "What to add to what is published: drafts (and what is scheduled), gray, history; several with commas."),
	}
	out.Responses = map[string]*huma.Response{"200": {Description: "The archive", Content: map[string]*huma.MediaType{zipType: {Schema: &huma.Schema{Type: "string", Format: "binary"}}}}}
	httpapi.Raw(s, out, filtered(auth.Admin), d.export)
}

func (d *door) takeIn(c *gin.Context) {
	r := api.ImportRequest{Area: c.Query("area"), Group: c.Query("group"), IfExists: c.Query("if_exists"), Comment: c.Query("comment")}
	for _, f := range []struct {
		name string
		to   *bool
	}{{"draft", &r.Draft}, {"dry_run", &r.DryRun}} {
		v, ok := c.GetQuery(f.name)
		if !ok {
			continue
		}
		b, err := strconv.ParseBool(v)
		if err != nil {
			httpapi.Fail(c, errs.Invalid(f.name, v, "true or false"))
			return
		}
		*f.to = b
	}
	var err error
	if r.Archive, err = io.ReadAll(c.Request.Body); err != nil {
		httpapi.Fail(c, err)
		return
	}
	out, err := d.svc.Import(c.Request.Context(), r)
	if err != nil {
		httpapi.Fail(c, err)
		return
	}
	c.JSON(http.StatusOK, out)
}

// export begins the answer with the first bytes, so that what is refused before
// them is still a problem. A reader that is too slow for one write is cut off: the
// view that is read from must not stay open for it.
func (d *door) export(c *gin.Context) {
	w := &late{c: c}
	defer func() { _ = http.NewResponseController(c.Writer).SetWriteDeadline(time.Time{}) }()
	r := api.ExportRequest{Area: c.Query("area"), Group: c.Query("group")}
	if v := c.Query("with"); v != "" {
		r.With = strings.Split(v, ",")
	}
	err := d.svc.WriteArchive(c.Request.Context(), r, w)
	switch {
	case err == nil:
	case !w.begun:
		httpapi.Fail(c, err)
	default:
		_ = c.Error(err)
		panic(http.ErrAbortHandler) // half an archive must not look whole
	}
}

// exportWriteTimeout is the longest time that one write of an export may take.
const exportWriteTimeout = 10 * time.Second

type late struct {
	c     *gin.Context
	begun bool
}

func (w *late) Write(b []byte) (int, error) {
	if !w.begun {
		w.begun = true
		h := w.c.Writer.Header()
		h.Set("Content-Type", zipType)
		h.Set("Content-Disposition", `attachment; filename="nekoq-config.zip"`)
		w.c.Writer.WriteHeader(http.StatusOK)
	}
	_ = http.NewResponseController(w.c.Writer).SetWriteDeadline(time.Now().Add(exportWriteTimeout))
	n, err := w.c.Writer.Write(b)
	if err != nil {
		return n, errors.Join(errs.New(errs.Canceled, "the reader is gone"), err)
	}
	return n, nil
}
