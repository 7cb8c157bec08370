package httpapi

import (
	"context"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"

	"nekoq/services/auth"
)

// Access says what a route asks the authorizer before it reads the body.
type Access struct {
	action   auth.Action
	resource func(c *gin.Context) auth.Resource
	public   bool
	inside   bool
}

// Public is for routes that ask nobody: health, metrics' sisters, the document.
func Public() Access { return Access{public: true} }

// Inside is for routes whose body names what they touch, as a transaction does: the
// handler asks with Allow for each of them before it acts.
func Inside() Access { return Access{inside: true} }

// On asks for a whole kind of resource, such as On(auth.Admin, "numgen", "generator").
func On(a auth.Action, service, kind string) Access {
	return OnFunc(a, func(*gin.Context) auth.Resource {
		return auth.Resource{Service: service, Kind: kind}
	})
}

// OnParam asks for the resource whose name is the path parameter param.
func OnParam(a auth.Action, service, kind, param string) Access {
	return OnFunc(a, func(c *gin.Context) auth.Resource {
		return auth.Resource{Service: service, Kind: kind, Name: Param(c, param)}
	})
}

// OnFunc asks for what fn makes of path and query. Where the names stand in the
// body, fn gives the widest resource that the route can touch and the handler
// asks again with Allow.
func OnFunc(a auth.Action, fn func(c *gin.Context) auth.Resource) Access {
	return Access{action: a, resource: fn}
}

// Option changes one route.
type Option func(*route)

// MaxBody sets the route's own body limit in bytes.
func MaxBody(n int64) Option { return func(r *route) { r.maxBody = n } }

// Timeout sets the route's own deadline; 0 is none.
func Timeout(d time.Duration) Option { return func(r *route) { r.timeout = d } }

// AnyQuery keeps unknown query parameters from being refused, for routes that
// speak another product's protocol.
func AnyQuery() Option { return func(r *route) { r.anyQuery = true } }

// NoHead keeps HEAD from being answered on a GET route that does more than read:
// it would have the effect and not tell the outcome.
func NoHead() Option { return func(r *route) { r.noHead = true } }

// route is what the server knows of one method and path.
type route struct {
	method   string
	path     string // OpenAPI template: /v1/warehouse/kv/{key}
	ginPath  string
	access   Access
	maxBody  int64
	timeout  time.Duration
	query    []string // known query parameters
	lacks    string   // the spelling of a stale read that the handler does not know; see translate
	anyQuery bool
	noHead   bool
	metrics  routeMetrics
}

// Route describes a registered route, for tests and documentation.
type Route struct {
	Method, Path, GinPath string
	Public                bool
	Hidden                bool // served, but on purpose not in the document
	Inside                bool // the handler asks the authorizer, for what the body names
	NoHead                bool // a GET route that does not answer HEAD
}

// Routes gives every route in the order of registration.
func (s *Server) Routes() []Route { return slices.Clone(s.routes) }

// Register adds a typed route: JSON in and out, validated against the schema
// of I, documented by huma. In op.Path a last segment {name...} takes the rest
// of the path. h's error is answered as a problem.
func Register[I, O any](s *Server, op huma.Operation, access Access, h func(context.Context, *I) (*O, error), opts ...Option) {
	rt := s.newRoute(&op, access, opts)
	op.MaxBodyBytes = -1    // the server's own limit counts
	op.BodyReadTimeout = -1 // likewise
	s.documentProblem(&op)
	s.adapter.pending = rt
	defer s.patchStrings()
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := h(ctx, in)
		if err != nil {
			if r := requestOf(ctx); r != nil {
				return nil, r.problem(err, r.path)
			}
			return nil, problemOf(err, "", "")
		}
		return out, nil
	})
}

// Raw adds a route with a plain gin handler. op documents it: parameters,
// request body and responses are the caller's; the problem response is added.
// Query parameters that op does not name are refused.
func Raw(s *Server, op huma.Operation, access Access, h gin.HandlerFunc, opts ...Option) {
	rt := s.newRoute(&op, access, opts)
	s.documentRaw(&op)
	s.mount(rt, &op, h)
}

// Allow asks the authorizer again from within a handler, for names that stand
// in the body.
func (s *Server) Allow(ctx context.Context, a auth.Action, r auth.Resource) error {
	return s.authz.Allow(ctx, auth.FromContext(ctx), a, r)
}

// Param gives a path parameter: decoded, and for a {name...} parameter without
// the slash that parts it from the path before it.
func Param(c *gin.Context, name string) string {
	for i := range c.Params {
		if c.Params[i].Key == name {
			return c.Params[i].Value
		}
	}
	return ""
}

func (s *Server) newRoute(op *huma.Operation, access Access, opts []Option) *route {
	if !access.public && !access.inside && access.resource == nil {
		panic("httpapi: " + op.Method + " " + op.Path + " has no access rule; use On, OnParam, OnFunc, Inside or Public")
	}
	rt := &route{method: op.Method, access: access, maxBody: s.cfg.MaxBodyBytes, timeout: s.cfg.RequestTimeout}
	if op.MaxBodyBytes > 0 {
		rt.maxBody = op.MaxBodyBytes
	}
	rt.path, rt.ginPath = splitPath(op.Path)
	op.Path = rt.path
	for _, o := range opts {
		o(rt)
	}
	return rt
}

// splitPath gives the template for the document and the one for gin.
func splitPath(p string) (doc, forGin string) {
	var d, g strings.Builder
	for i, seg := range strings.Split(p, "/") {
		if i > 0 {
			d.WriteByte('/')
			g.WriteByte('/')
		}
		name, isParam := strings.CutPrefix(seg, "{")
		if !isParam {
			d.WriteString(seg)
			g.WriteString(seg)
			continue
		}
		name = strings.TrimSuffix(name, "}")
		tail, rest := strings.CutSuffix(name, "...")
		d.WriteString("{" + tail + "}")
		if rest {
			g.WriteString("*" + tail)
		} else {
			g.WriteString(":" + tail)
		}
	}
	return d.String(), g.String()
}

// documentRaw puts a hand-written operation into the document.
func (s *Server) documentRaw(op *huma.Operation) {
	s.documentProblem(op)
	for _, p := range op.Parameters {
		if p.In == "path" {
			p.Required = true
		}
	}
	if !op.Hidden {
		s.api.OpenAPI().AddOperation(op)
	}
}

func (s *Server) documentProblem(op *huma.Operation) {
	if op.Responses == nil {
		op.Responses = map[string]*huma.Response{}
	}
	op.Responses["default"] = &huma.Response{
		Description: "Error: a problem document (RFC 9457)",
		Content:     map[string]*huma.MediaType{ProblemType: {Schema: s.problemSchema}},
	}
}

// Schema gives the document's schema of T, for the hand-written operation of a
// Raw route.
func Schema[T any](s *Server) *huma.Schema {
	sc := s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[T](), true, "")
	s.patchStrings()
	return sc
}

// JSON documents a JSON answer of type T of a Raw route.
func JSON[T any](s *Server, description string) *huma.Response {
	return &huma.Response{Description: description, Content: map[string]*huma.MediaType{"application/json": {Schema: Schema[T](s)}}}
}

// mount hangs the route into gin. A GET route answers HEAD too, with all but the
// body, which net/http leaves out (RFC 9110, 9.3.2).
func (s *Server) mount(rt *route, op *huma.Operation, h gin.HandlerFunc) {
	rt.lacks = bothSpellings(op)
	for _, p := range op.Parameters {
		if p.In == "query" {
			rt.query = append(rt.query, p.Name)
		}
	}
	s.routes = append(s.routes, Route{Method: rt.method, Path: rt.path, GinPath: rt.ginPath, Public: rt.access.public, Hidden: op.Hidden, Inside: rt.access.inside, NoHead: rt.noHead})
	rt.metrics = s.metricsFor(rt.method, rt.path)
	serve := s.wrap(rt, h)
	s.engine.Handle(rt.method, rt.ginPath, serve)
	if rt.method == http.MethodGet && !rt.noHead {
		s.engine.Handle(http.MethodHead, rt.ginPath, serve)
	}
	s.specChanged()
}

// adapter lets huma register its routes with the server's own wrapper around
// them instead of huma's bare gin adapter.
type adapter struct {
	s       *Server
	pending *route // the route that Register is about to add
}

func (a *adapter) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.s.engine.ServeHTTP(w, r) }
