package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"
	"github.com/klauspost/compress/gzhttp"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"nekoq/services/auth"
	"nekoq/services/errs"
)

var problemGoType = reflect.TypeFor[Problem]()

// compressed puts gzip in front of h for clients that accept it. Clients that
// don't go past it, and so do event streams.
func (s *Server) compressed(h http.Handler) (http.Handler, error) {
	if !s.cfg.Gzip {
		return h, nil
	}
	wrap, err := gzhttp.NewWrapper(gzhttp.MinSize(int(s.cfg.GzipMinBytes)), gzhttp.CompressionLevel(1), gzhttp.SuffixETag(zipped),
		gzhttp.ExceptContentTypes([]string{"text/event-stream", "application/octet-stream"}))
	if err != nil {
		return nil, err
	}
	zipped := wrap(h)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.Header["Accept-Encoding"]) == 0 || strings.Contains(r.Header.Get("Accept"), StreamType) {
			h.ServeHTTP(w, r)
			return
		}
		zipped.ServeHTTP(w, r)
	}), nil
}

// Text documents a plain-text answer.
func Text(description string) *huma.Response {
	return &huma.Response{Description: description, Content: map[string]*huma.MediaType{"text/plain": {Schema: &huma.Schema{Type: "string"}}}}
}

func (s *Server) systemRoutes(deps Deps) {
	verbose := []*huma.Param{{Name: "verbose", In: "query", Description: "One line for each component.", Schema: &huma.Schema{Type: "string"}}}
	health := func(ask func(context.Context) error) gin.HandlerFunc {
		return func(c *gin.Context) {
			if ask != nil {
				if err := ask(c.Request.Context()); err != nil {
					Fail(c, asUnavailable(err))
					return
				}
			}
			text := "ok\n"
			if _, ok := c.GetQuery("verbose"); ok && deps.Report != nil {
				text = deps.Report(c.Request.Context())
			}
			c.Data(http.StatusOK, "text/plain; charset=utf-8", []byte(text))
		}
	}
	ok := map[string]*huma.Response{"200": Text("ok")}
	Raw(s, huma.Operation{OperationID: "healthz", Method: "GET", Path: "/healthz", Tags: []string{"system"}, Summary: "Is the process alive", Parameters: verbose, Responses: ok},
		Public(), health(deps.Healthy))
	Raw(s, huma.Operation{OperationID: "readyz", Method: "GET", Path: "/readyz", Tags: []string{"system"}, Summary: "Can the process serve", Parameters: verbose, Responses: map[string]*huma.Response{"200": Text("ok")}},
		Public(), health(deps.Ready))
	Raw(s, huma.Operation{
		OperationID: "openapi", Method: "GET", Path: "/openapi.json", Tags: []string{"system"}, Summary: "This document",
		Responses: map[string]*huma.Response{"200": {Description: "OpenAPI 3.1", Content: map[string]*huma.MediaType{"application/json": {Schema: &huma.Schema{Type: "object"}}}}},
	}, Public(), s.serveDocument)
	s.docsRoutes()
	if deps.Gatherer != nil {
		Raw(s, huma.Operation{OperationID: "metrics", Method: "GET", Path: "/metrics", Tags: []string{"system"}, Summary: "Prometheus metrics", Responses: map[string]*huma.Response{"200": Text("Prometheus text format")}},
			On(auth.Read, "system", "metrics"), gin.WrapH(promhttp.HandlerFor(deps.Gatherer, promhttp.HandlerOpts{DisableCompression: true})))
	}
	if s.cfg.Pprof {
		s.pprofRoutes()
	}
}

func asUnavailable(err error) error {
	if e := errs.From(err); e.Code != errs.Internal {
		return e
	}
	return errs.New(errs.Unavailable, "%v", err).Wrap(err)
}

func (s *Server) serveDocument(c *gin.Context) {
	b, err := s.Document()
	if err != nil {
		Fail(c, err)
		return
	}
	c.Data(http.StatusOK, "application/json", b)
}

func (s *Server) pprofRoutes() {
	Raw(s, huma.Operation{OperationID: "pprof", Method: "GET", Path: "/debug/pprof/{name...}", Hidden: true},
		On(auth.Admin, "system", "pprof"), func(c *gin.Context) {
			h := http.HandlerFunc(pprof.Index)
			switch Param(c, "name") {
			case "cmdline":
				h = pprof.Cmdline
			case "profile":
				h = pprof.Profile
			case "symbol":
				h = pprof.Symbol
			case "trace":
				h = pprof.Trace
			}
			h(c.Writer, c.Request)
		}, AnyQuery(), Timeout(0))
}

func (s *Server) logAccess(c *gin.Context, r *request, status int, took time.Duration) {
	level := slog.LevelInfo
	ours := status >= 500 && !errs.Has(r.cause, errs.QuotaExceeded) // a tenant at its limit is no fault of the server
	switch s.cfg.AccessLog {
	case AccessLogOff:
		if status != http.StatusInternalServerError { // its problem promises that the log has the cause
			return
		}
	case AccessLogErrors:
		if status == http.StatusServiceUnavailable && (r.path == "/readyz" || r.path == "/healthz") {
			return // a probe that says "not yet" is an answer, polled many times a second
		}
		slow := s.cfg.SlowRequest > 0 && took >= s.cfg.SlowRequest && !r.parked
		if !ours && !slow {
			return
		}
	}
	if ours {
		level = slog.LevelError
	}
	ctx := r.parent
	if !s.access.Enabled(ctx, level) {
		return
	}
	attrs := [8]slog.Attr{
		slog.String("request_id", r.id), slog.String("method", c.Request.Method), slog.String("path", r.path),
		slog.Int("status", status), slog.Int("bytes", max(c.Writer.Size(), 0)), slog.Duration("took", took),
		slog.String("remote", c.Request.RemoteAddr),
	}
	n := 7
	if r.cause != nil {
		attrs[n] = slog.Any("err", r.cause)
		n++
	}
	s.access.LogAttrs(ctx, level, "request", attrs[:n]...)
}
