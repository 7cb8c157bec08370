package rest

import (
	"context"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"nekoq/numgen/api"
	"nekoq/numgen/idgen"
	"nekoq/services/auth"
	"nekoq/services/errs"
	"nekoq/services/httpapi"
)

type listInput struct {
	httpapi.PageQuery
	Prefix string `query:"prefix" doc:"Only generators whose names begin with this."`
	Stale  bool   `query:"stale" doc:"Answer at once from this node's own state."`
}

type listBody struct {
	Generators    []api.Generator `json:"generators" doc:"Generators in the order of their names."`
	NextPageToken string          `json:"next_page_token,omitempty" doc:"Token of the next page; none on the last."`
}

type workersInput struct {
	httpapi.PageQuery
	Stale bool `query:"stale" doc:"Answer at once from this node's own state."`
}

type workersBody struct {
	Workers       []api.WorkerInfo `json:"workers" doc:"Worker numbers that were ever used."`
	NextPageToken string           `json:"next_page_token,omitempty" doc:"Token of the next page; none on the last."`
}

type output[T any] struct {
	Status int
	Body   T
}

type createInput struct {
	Body api.CreateRequest
}

type putInput struct {
	Name string `path:"name" doc:"Generator."`
	Body api.CreateRequest
}

type nameInput struct {
	Name  string `path:"name" doc:"Generator."`
	Stale bool   `query:"stale" doc:"Answer at once from this node's own state."`
}

type deleteInput struct {
	Name string `path:"name" doc:"Generator."`
}

type patchInput struct {
	Name string `path:"name" doc:"Generator."`
	Body api.UpdateRequest
}

func operation(id, method, path, summary, description string) huma.Operation {
	return huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary, Description: description, Tags: tags}
}

const generators = "/v1/numgen/generators"

// manage adds the routes over generators and workers.
func (d *door) manage(s *httpapi.Server) {
	one := func(a auth.Action) httpapi.Access { return httpapi.OnParam(a, service, resource, "name") }
	httpapi.Register(s, operation("numgen-list", http.MethodGet, generators, "List generators", ""),
		httpapi.On(auth.Read, service, resource), d.list)
	create := operation("numgen-create", http.MethodPost, generators, "Create a generator",
		"Created again with the same kind and options it is no change (200); with others it is already_exists, which names the difference.")
	create.DefaultStatus = http.StatusCreated
	httpapi.Register(s, create, httpapi.On(auth.Admin, service, resource), d.create)
	put := operation("numgen-put", http.MethodPut, generators+"/{name}", "Create a generator under a name", "As POST, with the name in the path.")
	put.DefaultStatus = http.StatusCreated
	httpapi.Register(s, put, one(auth.Admin), d.put)
	httpapi.Register(s, operation("numgen-get", http.MethodGet, generators+"/{name}", "Get a generator", ""), one(auth.Read), d.get)
	httpapi.Register(s, operation("numgen-update", http.MethodPatch, generators+"/{name}", "Change a generator",
		"Changes what can be changed without an id coming twice: the description, and the steps of a segment."), one(auth.Admin), d.patch)
	del := operation("numgen-delete", http.MethodDelete, generators+"/{name}", "Delete a generator",
		"Its element is never given out again. A sequence or segment made anew under the name starts again.")
	del.DefaultStatus = http.StatusNoContent
	httpapi.Register(s, del, one(auth.Delete), d.delete)
	httpapi.Register(s, operation("numgen-workers", http.MethodGet, "/v1/numgen/workers", "List worker numbers",
		"Who holds which worker number, under which fencing token, and up to which high-water time."),
		httpapi.On(auth.Read, service, "worker"), d.workers)
}

func (d *door) list(ctx context.Context, in *listInput) (*output[listBody], error) {
	page, err := d.srv.PageOf(in.PageQuery, "numgen-list", in.Prefix)
	if err != nil {
		return nil, err
	}
	l, err := d.svc.List(ctx, api.ListRequest{Prefix: in.Prefix, After: string(page.Cursor), Limit: page.Limit, Stale: in.Stale})
	if err != nil {
		return nil, err
	}
	out := &output[listBody]{Status: http.StatusOK, Body: listBody{Generators: l.Generators}}
	if l.More {
		out.Body.NextPageToken = page.Next([]byte(l.Generators[len(l.Generators)-1].Name))
	}
	return out, nil
}

func (d *door) create(ctx context.Context, in *createInput) (*output[api.Generator], error) {
	if err := d.srv.Allow(ctx, auth.Admin, auth.Resource{Service: service, Kind: resource, Name: in.Body.Name}); err != nil {
		return nil, err
	}
	return d.make(ctx, in.Body)
}

func (d *door) put(ctx context.Context, in *putInput) (*output[api.Generator], error) {
	if in.Body.Name != "" && in.Body.Name != in.Name {
		return nil, errs.Invalid("name", in.Body.Name, "the name in the path, "+strconv.Quote(in.Name)+", or none")
	}
	in.Body.Name = in.Name
	return d.make(ctx, in.Body)
}

func (d *door) make(ctx context.Context, r api.CreateRequest) (*output[api.Generator], error) {
	g, created, err := d.svc.Create(ctx, r)
	if err != nil {
		return nil, err
	}
	out := &output[api.Generator]{Status: http.StatusOK, Body: *g}
	if created {
		out.Status = http.StatusCreated
	}
	return out, nil
}

func (d *door) get(ctx context.Context, in *nameInput) (*output[api.Generator], error) {
	g, err := d.svc.Get(ctx, api.NameRequest{Name: in.Name, Stale: in.Stale})
	if err != nil {
		return nil, err
	}
	return &output[api.Generator]{Status: http.StatusOK, Body: *g}, nil
}

func (d *door) patch(ctx context.Context, in *patchInput) (*output[api.Generator], error) {
	if in.Body.Name != "" && in.Body.Name != in.Name {
		return nil, errs.Invalid("name", in.Body.Name, "the name in the path: a generator cannot be renamed")
	}
	in.Body.Name = in.Name
	g, err := d.svc.Update(ctx, in.Body)
	if err != nil {
		return nil, err
	}
	return &output[api.Generator]{Status: http.StatusOK, Body: *g}, nil
}

func (d *door) delete(ctx context.Context, in *deleteInput) (*struct{}, error) {
	return nil, d.svc.Delete(ctx, in.Name)
}

func (d *door) workers(ctx context.Context, in *workersInput) (*output[workersBody], error) {
	page, err := d.srv.PageOf(in.PageQuery, "numgen-workers")
	if err != nil {
		return nil, err
	}
	from := 0
	if len(page.Cursor) > 0 {
		if from, err = strconv.Atoi(string(page.Cursor)); err != nil {
			return nil, errs.New(errs.BadPageToken, "page_token: it belongs to another query")
		}
	}
	l, err := d.svc.Workers(ctx, api.WorkersRequest{From: from, Limit: page.Limit, Stale: in.Stale})
	if err != nil {
		return nil, err
	}
	out := &output[workersBody]{Status: http.StatusOK, Body: workersBody{Workers: l.Workers}}
	if l.More {
		out.Body.NextPageToken = page.Next([]byte(strconv.Itoa(l.Workers[len(l.Workers)-1].Number + 1)))
	}
	return out, nil
}

type decodeInput struct {
	Name string `path:"name" doc:"Generator."`
	ID   string `path:"id" doc:"The id."`
}

type decodeNamedInput struct {
	Name string `path:"name" doc:"Generator."`
	Body struct {
		ID string `json:"id" doc:"The id."`
	}
}

type decodeKindInput struct {
	Body api.DecodeRequest
}

// decode adds the routes that take ids apart.
func (d *door) decode(s *httpapi.Server) {
	read := httpapi.OnParam(auth.Read, service, resource, "name")
	const parts = "Gives the id's parts by name, and its time where it carries one."
	httpapi.Register(s, operation("numgen-decode", http.MethodGet, generators+"/{name}/decode/{id...}", "Decode an id of a generator", parts), read,
		func(ctx context.Context, in *decodeInput) (*output[idgen.Decoded], error) {
			return d.decoded(ctx, api.DecodeRequest{Name: in.Name, ID: in.ID})
		})
	httpapi.Register(s, operation("numgen-decode-post", http.MethodPost, generators+"/{name}/decode", "Decode an id of a generator", parts), read,
		func(ctx context.Context, in *decodeNamedInput) (*output[idgen.Decoded], error) {
			return d.decoded(ctx, api.DecodeRequest{Name: in.Name, ID: in.Body.ID})
		})
	httpapi.Register(s, operation("numgen-decode-kind", http.MethodPost, "/v1/numgen/decode", "Decode an id of a kind",
		parts+" The kind is named, with its options; or a generator."), httpapi.On(auth.Read, service, resource),
		func(ctx context.Context, in *decodeKindInput) (*output[idgen.Decoded], error) {
			if in.Body.Name != "" {
				if err := d.srv.Allow(ctx, auth.Read, auth.Resource{Service: service, Kind: resource, Name: in.Body.Name}); err != nil {
					return nil, err
				}
			}
			return d.decoded(ctx, in.Body)
		})
}

func (d *door) decoded(ctx context.Context, r api.DecodeRequest) (*output[idgen.Decoded], error) {
	out, err := d.svc.Decode(ctx, r)
	if err != nil {
		return nil, err
	}
	return &output[idgen.Decoded]{Status: http.StatusOK, Body: *out}, nil
}
