// Package rest is numgen's part of the HTTP door: /v1/numgen.
//
// It owns routes, content negotiation and the JSON of id lists; everything else
// is the Service's. The routes that give out ids are hand-written, since they
// are the hot ones. Only the composition and tests import it.
package rest

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"

	"nekoq/numgen"
	"nekoq/numgen/idgen"
	"nekoq/services/auth"
	"nekoq/services/errs"
	"nekoq/services/httpapi"
)

type door struct {
	srv *httpapi.Server
	svc *numgen.Service
}

// resource is what the authorizer is asked about.
const (
	service  = "numgen"
	resource = "generator"
)

var tags = []string{"numgen"}

// Register adds the routes.
func Register(s *httpapi.Server, svc *numgen.Service) {
	d := &door{srv: s, svc: svc}
	d.manage(s)
	d.decode(s)
	use := httpapi.OnParam(auth.Write, service, resource, "name")
	str := &huma.Schema{Type: "string"}
	num := &huma.Schema{Type: "integer"}
	limit := strconv.Itoa(svc.Config().MaxBatch)
	httpapi.Raw(s, huma.Operation{
		OperationID: "numgen-issue", Method: http.MethodPost, Path: "/v1/numgen/generators/{name}/ids", Tags: tags,
		Summary:     "Give out ids",
		Description: "Gives count ids, increasing. The generator is created on first use where numgen.auto_create allows. 64-bit ids are strings. With Accept: text/plain one id a line, no final newline.",
		Parameters: []*huma.Param{
			{Name: "name", In: "path", Description: "Generator.", Schema: str},
			{Name: "count", In: "query", Description: "How many, 1 to numgen.max_batch = " + limit + ". Default 1.", Schema: num},
		},
		Responses: map[string]*huma.Response{"200": {Description: "The ids", Content: map[string]*huma.MediaType{
			"application/json": {Schema: &huma.Schema{Type: "object", Required: []string{"ids"}, Properties: map[string]*huma.Schema{
				"ids": {Type: "array", Items: str, Description: "The ids, increasing."},
			}}},
			"text/plain": {Schema: str},
		}}},
	}, use, d.issue)
	httpapi.Raw(s, huma.Operation{
		OperationID: "numgen-issue-plain", Method: http.MethodGet, Path: "/v1/numgen/{name}/{n}", Tags: tags,
		Summary:     "Give out ids as plain lines",
		Description: "Gives n ids, increasing, one a line, without a final newline. n is 1 to numgen.max_batch = " + limit + ". Each request gives new ids, so HEAD is not answered.",
		Parameters: []*huma.Param{
			{Name: "name", In: "path", Description: "Generator.", Schema: str},
			{Name: "n", In: "path", Description: "How many, 1 to " + limit + ".", Schema: num},
		},
		Responses: map[string]*huma.Response{"200": {Description: "The ids", Content: map[string]*huma.MediaType{"text/plain": {Schema: str}}}},
	}, use, d.plain, httpapi.NoHead())
}

// count reads a number of ids; anything else is refused with the limit.
func (d *door) count(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || s[0] == '+' || n < 1 || n > d.svc.Config().MaxBatch {
		return 0, numgen.BadCount(s, d.svc.Config().MaxBatch)
	}
	return n, nil
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

// maxPooled keeps the buffer of a huge batch from living on, in bytes.
const maxPooled = 1 << 20

var (
	plainType = []string{"text/plain; charset=utf-8"}
	jsonType  = []string{"application/json"}
	noStore   = []string{"no-store"}
)

// plain is the hot route.
func (d *door) plain(c *gin.Context) {
	n, err := d.count(httpapi.Param(c, "n"))
	if err != nil {
		httpapi.Fail(c, err)
		return
	}
	d.lines(c, n)
}

func (d *door) lines(c *gin.Context, n int) {
	d.answer(c, plainType, func(ctx context.Context, dst []byte, name string) ([]byte, error) {
		return d.svc.AppendLines(ctx, dst, name, n)
	})
}

// answer sends what fill appends to a pooled buffer.
func (d *door) answer(c *gin.Context, contentType []string, fill func(ctx context.Context, dst []byte, name string) ([]byte, error)) {
	buf := buffers.Get().(*[]byte)
	out, err := fill(c.Request.Context(), (*buf)[:0], httpapi.Param(c, "name"))
	if err != nil {
		buffers.Put(buf)
		httpapi.Fail(c, err)
		return
	}
	h := c.Writer.Header()
	h["Content-Type"] = contentType
	h["Cache-Control"] = noStore
	h["Content-Length"] = []string{strconv.Itoa(len(out))}
	c.Writer.WriteHeader(http.StatusOK)
	_, _ = c.Writer.Write(out) // the client is gone; there is nobody to tell
	if cap(out) <= maxPooled {
		*buf = out
		buffers.Put(buf)
	}
}

func (d *door) issue(c *gin.Context) {
	n := 1
	if s, given := c.GetQuery("count"); given {
		var err error
		if n, err = d.count(s); err != nil {
			httpapi.Fail(c, err)
			return
		}
	}
	plain, ok := wantsPlain(c.Request.Header["Accept"])
	if !ok {
		httpapi.Fail(c, errs.New(errs.NotAcceptable, "Accept: want application/json or text/plain").
			With(errs.Detail{Field: "Accept", Value: strings.Join(c.Request.Header["Accept"], ", "), Limit: "application/json, text/plain"}))
		return
	}
	if plain {
		d.lines(c, n)
		return
	}
	d.answer(c, jsonType, func(ctx context.Context, dst []byte, name string) ([]byte, error) {
		packed := buffers.Get().(*[]byte)
		defer buffers.Put(packed)
		kind, ids, err := d.svc.Append(ctx, (*packed)[:0], name, n)
		if err != nil {
			return dst, err
		}
		if cap(ids) <= maxPooled {
			*packed = ids
		}
		return appendJSON(dst, kind, ids), nil
	})
}

// wantsPlain takes the first content type that can be served; nothing said is JSON.
func wantsPlain(accept []string) (plain, ok bool) {
	if len(accept) == 0 {
		return false, true
	}
	for _, line := range accept {
		for item := range strings.SplitSeq(line, ",") {
			t, params, _ := strings.Cut(item, ";")
			if q := strings.TrimSpace(params); q == "q=0" || q == "q=0.0" {
				continue
			}
			switch strings.ToLower(strings.TrimSpace(t)) {
			case "text/plain", "text/*":
				return true, true
			case "application/json", "application/*", "*/*":
				return false, true
			}
		}
	}
	return false, false
}

// appendJSON writes {"ids":[...]}. Only formatted ids can hold characters that
// JSON escapes, and those are printable ASCII.
func appendJSON(dst []byte, kind idgen.Kind, packed []byte) []byte {
	dst = append(dst, `{"ids":[`...)
	for first := true; ; first = false {
		id, rest, ok := kind.Next(packed)
		if !ok {
			return append(dst, "]}\n"...)
		}
		packed = rest
		if !first {
			dst = append(dst, ',')
		}
		dst = append(dst, '"')
		if kind == idgen.Format {
			for _, ch := range id {
				if ch == '"' || ch == '\\' {
					dst = append(dst, '\\')
				}
				dst = append(dst, ch)
			}
		} else {
			dst = kind.AppendText(dst, id)
		}
		dst = append(dst, '"')
	}
}
