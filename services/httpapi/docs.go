package httpapi

import (
	"embed"
	"net/http"
	"path"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"

	"nekoq/services/errs"
)

//go:embed docs
var docsFiles embed.FS

// docsTypes are the page's files; nothing else of the folder is served.
var docsTypes = map[string]string{
	"index.html": "text/html; charset=utf-8",
	"docs.css":   "text/css; charset=utf-8",
	"docs.js":    "text/javascript; charset=utf-8",
	"h.js":       "text/javascript; charset=utf-8",
	"schema.js":  "text/javascript; charset=utf-8",
	"try.js":     "text/javascript; charset=utf-8",
}

// docsPolicy lets the page load its own files and call its own server only, so
// that it works without any other network, and cannot do more than that.
const docsPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"

func (s *Server) docsRoutes() {
	file := func(c *gin.Context, name string) {
		ct, ok := docsTypes[name]
		if !ok {
			Fail(c, errs.New(errs.NotFound, "%s: no such file", shorten(name)))
			return
		}
		b, err := docsFiles.ReadFile(path.Join("docs", name))
		if err != nil {
			Fail(c, err)
			return
		}
		h := c.Writer.Header()
		h.Set("Content-Security-Policy", docsPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-cache")
		c.Data(http.StatusOK, ct, b)
	}
	page := &huma.Response{Description: "The page", Content: map[string]*huma.MediaType{"text/html": {Schema: &huma.Schema{Type: "string"}}}}
	Raw(s, huma.Operation{
		OperationID: "docs", Method: "GET", Path: "/docs", Tags: []string{"system"}, Summary: "This document as a page",
		Responses: map[string]*huma.Response{"200": page},
	}, Public(), func(c *gin.Context) { file(c, "index.html") })
	Raw(s, huma.Operation{
		OperationID: "docs-file", Method: "GET", Path: "/docs/{file}", Tags: []string{"system"}, Summary: "A file of the page",
		Parameters: []*huma.Param{{Name: "file", In: "path", Schema: &huma.Schema{Type: "string"}}},
		Responses:  map[string]*huma.Response{"200": {Description: "Script or style sheet"}},
	}, Public(), func(c *gin.Context) { file(c, Param(c, "file")) })
}

// errorCodes is the table of codes for the document's x-error-codes.
func errorCodes() []map[string]any {
	list := make([]map[string]any, 0, len(errs.Table))
	for _, i := range errs.Table {
		list = append(list, map[string]any{"code": string(i.Code), "status": i.Status, "retryable": i.Retryable, "doc": i.Doc})
	}
	return list
}
