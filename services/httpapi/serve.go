package httpapi

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humagin"
	"github.com/gin-gonic/gin"

	"nekoq/services/auth"
	"nekoq/services/errs"
)

// Handle implements huma.Adapter.
func (a *adapter) Handle(op *huma.Operation, handler func(huma.Context)) {
	rt := a.pending
	a.pending = nil
	if rt == nil {
		panic("httpapi: " + op.Method + " " + op.Path + " was registered with huma directly; use httpapi.Register")
	}
	if op.Metadata == nil {
		op.Metadata = map[string]any{}
	}
	op.Metadata[registryKey] = a.s.api.OpenAPI().Components.Schemas
	a.s.mount(rt, op, func(c *gin.Context) { handler(humagin.NewContext(op, c)) })
}

const registryKey = "nekoq.registry"

// wrap is all that happens around a handler, in one frame: no chain of
// middlewares, no goroutine, no timer unless somebody waits.
func (s *Server) wrap(rt *route, h gin.HandlerFunc) gin.HandlerFunc {
	return func(c *gin.Context) {
		r := &request{srv: s, route: rt, parent: c.Request.Context(), path: c.Request.URL.Path, start: time.Now()}
		r.in, r.out = c.Request.Header, c.Writer.Header()
		r.id = s.requestID(r.in)
		r.idHeader[0] = r.id
		r.out["X-Request-Id"] = r.idHeader[:]
		r.principal = auth.Principal{Name: "anonymous", Door: "http", Addr: c.Request.RemoteAddr}
		if rt.timeout > 0 {
			r.deadline = r.start.Add(rt.timeout)
		}
		if s.tracing != nil {
			r.parent, r.endSpan = s.tracing.Request(r.parent, c.Request, rt.path)
		}
		admitted := s.enter()
		defer s.finish(c, r, admitted == nil)
		c.Request = c.Request.WithContext(r)
		if admitted != nil {
			Fail(c, admitted)
			return
		}
		if err := s.check(c, r); err != nil {
			Fail(c, err)
			return
		}
		h(c)
	}
}

// enter counts the request in or refuses it. The running count is released by
// finish.
func (s *Server) enter() error {
	n := s.active.Add(1)
	if s.draining.Load() {
		s.leave(&s.active)
		return errs.New(errs.ShuttingDown, "the server is stopping")
	}
	if n > s.cfg.MaxConcurrentRequests {
		s.leave(&s.active)
		return errs.New(errs.TooManyRequests, "too many requests at once: the limit is http.max_concurrent_requests = %d", s.cfg.MaxConcurrentRequests).
			With(errs.Detail{Field: "http.max_concurrent_requests", Limit: itoa(s.cfg.MaxConcurrentRequests)})
	}
	return nil
}

// check is what is asked of every request before its handler runs.
func (s *Server) check(c *gin.Context, r *request) error {
	rt, req := r.route, c.Request
	if err := s.checkHeader(req, r); err != nil {
		return err
	}
	if err := unescapeParams(c); err != nil {
		return err
	}
	if rt.lacks != "" && req.URL.RawQuery != "" {
		q, err := translate(req.URL.RawQuery, rt.lacks)
		if err != nil {
			return err
		}
		req.URL.RawQuery = q // before anything has read it
	}
	if rt.access.resource != nil {
		if err := s.authz.Allow(r, r.principal, rt.access.action, rt.access.resource(c)); err != nil {
			return err
		}
	}
	if req.URL.RawQuery != "" && !rt.anyQuery {
		if err := checkQuery(req.URL.RawQuery, rt.query); err != nil {
			return err
		}
	}
	if req.Body != nil && req.Body != http.NoBody {
		// A compressed body would be kept as it came, and read back without a word
		// of how to unpack it.
		if enc := req.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
			return errs.New(errs.UnsupportedMedia, "Content-Encoding: %q is not supported: send the body as it is", enc).
				With(errs.Detail{Field: "Content-Encoding", Value: enc, Limit: "none, or identity"})
		}
		if rt.maxBody > 0 && req.ContentLength > rt.maxBody {
			req.Close = true // the rest of the body is not read
			c.Writer.Header().Set("Connection", "close")
			return bodyTooLarge(rt.maxBody, req.ContentLength)
		}
		r.body = &body{ReadCloser: req.Body, left: rt.maxBody, limit: rt.maxBody, timeout: s.cfg.BodyReadTimeout, w: c.Writer, r: r}
		req.Body = r.body
	}
	return nil
}

// RequestTimeout is the header by which a client shortens the deadline of its
// request: a Go duration such as "1.5s".
const RequestTimeout = "Request-Timeout"

func (s *Server) checkHeader(req *http.Request, r *request) error {
	size := int64(len(req.Method) + len(req.RequestURI) + len(req.Host) + 16)
	for k, vs := range req.Header {
		for _, v := range vs {
			size += int64(len(k) + len(v) + 4)
		}
	}
	if size > s.cfg.MaxHeaderBytes {
		return errs.New(errs.TooLarge, "the request header has %d bytes: the limit is http.max_header_bytes = %d", size, s.cfg.MaxHeaderBytes).
			With(errs.Detail{Field: "header", Value: itoa(size), Limit: itoa(s.cfg.MaxHeaderBytes)})
	}
	if v := req.Header[RequestTimeout]; len(v) > 0 {
		d, err := time.ParseDuration(v[0])
		if err != nil || d <= 0 {
			return errs.Invalid(RequestTimeout, v[0], "a duration above 0, such as 1.5s")
		}
		if at := r.start.Add(d); r.deadline.IsZero() || at.Before(r.deadline) {
			r.deadline, r.asked = at, true
		}
	}
	return nil
}

// unescapeParams decodes path parameters that gin matched on the raw path (only
// then is an encoded slash in a name told from a real one; gin's own decoding
// would turn + into a space), and takes the leading slash off catch-alls.
func unescapeParams(c *gin.Context) error {
	raw := c.Request.URL.RawPath != ""
	for i := range c.Params {
		p := &c.Params[i]
		if len(p.Value) > 0 && p.Value[0] == '/' {
			p.Value = p.Value[1:]
		}
		if raw {
			v, err := url.PathUnescape(p.Value)
			if err != nil {
				return errs.Invalid(p.Key, p.Value, "a correctly percent-encoded path")
			}
			p.Value = v
		}
	}
	return nil
}

// checkQuery refuses a parameter that the route does not know. It allocates
// nothing for a query of known, plain names.
func checkQuery(raw string, known []string) error {
	for raw != "" {
		var pair string
		pair, raw, _ = strings.Cut(raw, "&")
		if pair == "" {
			continue
		}
		// net/url drops a pair that it cannot decode, so it has to be found here.
		if strings.IndexByte(pair, ';') >= 0 || badEscape(pair) {
			return errs.Invalid("query", shorten(pair), "a correctly encoded query")
		}
		name, _, _ := strings.Cut(pair, "=")
		if slices.Contains(known, name) {
			continue
		}
		plain, _ := url.QueryUnescape(name)
		if slices.Contains(known, plain) {
			continue
		}
		d := errs.Detail{Field: shorten(plain)}
		switch near := nearest(plain, known); {
		case near != "":
			d.Help = "did you mean " + near + "?"
		case len(known) > 0:
			d.Help = "known are " + strings.Join(known, ", ")
		default:
			d.Help = "this route takes no query parameters"
		}
		return errs.New(errs.UnknownField, "%s: no such query parameter; %s", d.Field, d.Help).With(d)
	}
	return nil
}

// badEscape tells whether a % is not followed by two hex digits.
func badEscape(s string) bool {
	for {
		i := strings.IndexByte(s, '%')
		if i < 0 {
			return false
		}
		s = s[i+1:]
		if len(s) < 2 || !isHex(s[0]) || !isHex(s[1]) {
			return true
		}
	}
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func bodyTooLarge(limit, got int64) error {
	d := errs.Detail{Field: "body", Limit: itoa(limit)}
	if got > 0 {
		d.Value = itoa(got)
		return errs.New(errs.TooLarge, "body: %d bytes: the limit is %d", got, limit).With(d)
	}
	return errs.New(errs.TooLarge, "body: more than %d bytes, which is the limit", limit).With(d)
}

// body enforces the size limit and the time of a request's body. The time must not
// outlast the body: it would end the request's context, because net/http keeps reading
// in the background.
type body struct {
	io.ReadCloser
	left, limit int64
	timeout     time.Duration
	w           http.ResponseWriter
	r           *request
	started     bool
	err         error
}

func (b *body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if !b.started {
		b.started = true
		b.r.srv.sweep.read(b.r, time.Now().Add(b.timeout))
	}
	if b.limit > 0 && int64(len(p)) > b.left+1 {
		p = p[:b.left+1] // one more than allowed tells too large from just right
	}
	n, err := b.ReadCloser.Read(p)
	over := b.limit > 0 && int64(n) > b.left
	if over {
		n, err = int(b.left), bodyTooLarge(b.limit, 0)
	}
	b.left -= int64(n)
	if err == nil {
		return n, nil
	}
	b.r.srv.sweep.read(b.r, time.Time{})
	if errors.Is(err, io.EOF) {
		b.err = err
		return n, err
	}
	// What is left of the body is not worth waiting for.
	b.w.Header().Set("Connection", "close")
	_ = http.NewResponseController(b.w).SetReadDeadline(time.Now())
	switch {
	case over:
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = errs.New(errs.DeadlineExceeded, "body: did not arrive within http.body_read_timeout = %s", b.timeout).
			With(errs.Detail{Field: "body", Limit: b.timeout.String()}).Wrap(err)
	default:
		err = errs.New(errs.Canceled, "body: broke off").Wrap(err)
	}
	b.err = err
	return n, err
}

// abandon bounds the time for which net/http reads on in a body that nobody
// read to its end, to be able to use the connection again.
func (b *body) abandon() {
	if b.err == nil {
		_ = http.NewResponseController(b.w).SetReadDeadline(time.Now().Add(b.timeout))
	}
}

// finish ends a request: answers a panic, counts, logs.
func (s *Server) finish(c *gin.Context, r *request, counted bool) {
	abort := false
	if p := recover(); p != nil {
		abort = s.panicked(c, r, p)
	}
	r.end()
	if r.body != nil {
		r.body.abandon()
	}
	took := time.Since(r.start)
	status := c.Writer.Status()
	r.route.metrics.Observe(status, took)
	if r.endSpan != nil {
		r.endSpan(status)
	}
	s.logAccess(c, r, status, took)
	if counted {
		if r.parked {
			s.leave(&s.waiting)
		} else {
			s.leave(&s.active)
		}
	}
	if abort {
		// Half an answer is out: cutting the connection is the only way left to
		// tell the client that it is not whole.
		panic(http.ErrAbortHandler)
	}
}

// panicked answers and logs a handler's panic; true when the answer had begun.
func (s *Server) panicked(c *gin.Context, r *request, p any) (abort bool) {
	err, isErr := p.(error)
	if isErr && errors.Is(err, http.ErrAbortHandler) {
		return true
	}
	if _, gone := errors.AsType[*net.OpError](err); isErr && gone {
		// huma panics when an answer cannot be written; a client that went away
		// is no defect of ours.
		r.cause = err
		return true
	}
	s.log.Error("panic in a request", slog.String("request_id", r.id), slog.String("method", c.Request.Method),
		slog.String("route", r.route.path), slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
	if c.Writer.Written() {
		return true
	}
	Fail(c, errs.New(errs.Internal, "internal error; the server's log has it under request id %s", r.id).Wrap(fmt.Errorf("panic: %v", p)))
	return false
}
