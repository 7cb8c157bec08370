// Package httpapitest checks a whole HTTP door, with whatever routes the
// services have added: that the OpenAPI document and the routes agree both
// ways, and that no route acts before the authorizer was asked. It owns
// nothing. Only tests import it.
package httpapitest

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"nekoq/services/auth/authtest"
	"nekoq/services/httpapi"
)

// document is the part of the OpenAPI document that is checked.
type document struct {
	OpenAPI string `json:"openapi"`
	Paths   map[string]map[string]struct {
		OperationID string   `json:"operationId"`
		Summary     string   `json:"summary"`
		Tags        []string `json:"tags"`
		Parameters  []struct {
			Name string `json:"name"`
			In   string `json:"in"`
		} `json:"parameters"`
		Responses map[string]struct {
			Content map[string]json.RawMessage `json:"content"`
		} `json:"responses"`
	} `json:"paths"`
}

var paramPattern = regexp.MustCompile(`\{([^}]+)\}`)

// CheckDocument fails t unless every route that is served is documented, every
// documented route is served, and every operation has an id, a summary, a tag,
// its path parameters, an answer and the problem answer.
func CheckDocument(t testing.TB, s *httpapi.Server) {
	t.Helper()
	rec := do(s, httptest.NewRequest(http.MethodGet, "/openapi.json", nil))
	var doc document
	if err := json.Unmarshal(rec.Body.Bytes(), &doc); err != nil {
		t.Fatalf("/openapi.json: %d: %v", rec.Code, err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Errorf("openapi is %q, want 3.1", doc.OpenAPI)
	}
	served := map[string]bool{}
	for _, g := range s.Engine().Routes() {
		served[g.Method+" "+g.Path] = true
	}
	documented := map[string]bool{}
	for _, r := range s.Routes() {
		name := r.Method + " " + r.Path
		if !served[r.Method+" "+r.GinPath] {
			t.Errorf("%s is registered but gin does not serve it", name)
		}
		delete(served, r.Method+" "+r.GinPath)
		if r.Method == http.MethodGet && !r.NoHead { // HEAD goes with GET, and needs no words of its own
			if !served["HEAD "+r.GinPath] {
				t.Errorf("%s does not answer HEAD", name)
			}
			delete(served, "HEAD "+r.GinPath)
		}
		documented[name] = true
		_, has := doc.Paths[r.Path][strings.ToLower(r.Method)]
		if has == r.Hidden {
			t.Errorf("%s: in the document is %v, hidden is %v", name, has, r.Hidden)
		}
	}
	for name := range served {
		t.Errorf("gin serves %s, which was not added with Register or Raw and so is not in the document", name)
	}
	for path, item := range doc.Paths {
		for method, op := range item {
			name := strings.ToUpper(method) + " " + path
			if !documented[name] {
				t.Errorf("%s is documented but not served", name)
			}
			if op.OperationID == "" || op.Summary == "" || len(op.Tags) == 0 {
				t.Errorf("%s: operationId %q, summary %q, tags %v: all three are wanted", name, op.OperationID, op.Summary, op.Tags)
			}
			for _, m := range paramPattern.FindAllStringSubmatch(path, -1) {
				if !slices.ContainsFunc(op.Parameters, func(p struct {
					Name string `json:"name"`
					In   string `json:"in"`
				},
				) bool {
					return p.In == "path" && p.Name == m[1]
				}) {
					t.Errorf("%s: path parameter %s is not documented", name, m[1])
				}
			}
			if _, ok := op.Responses["default"].Content[httpapi.ProblemType]; !ok {
				t.Errorf("%s: no problem answer", name)
			}
			if len(op.Responses) < 2 {
				t.Errorf("%s: no answer but the problem", name)
			}
		}
	}
}

// CheckAsks fails t unless every route that is not public answers 403 under an
// authorizer that refuses all. build makes the server with the given authorizer
// in Deps.Auth and all routes; nothing behind them need work, for they must not
// be reached. Routes listed in public must be exactly those that ask nobody, those in
// inside the ones that ask for what their body names, each with a body that names
// something.
func CheckAsks(t testing.TB, build func(deny *authtest.Recorder) *httpapi.Server, inside map[string]string, public ...string) {
	t.Helper()
	deny := authtest.DenyAll()
	s := build(deny)
	for _, r := range s.Routes() {
		name := r.Method + " " + r.Path
		if r.Public != slices.Contains(public, name) {
			t.Errorf("%s: public is %v; the list of public routes says otherwise", name, r.Public)
		}
		if r.Public {
			continue
		}
		body, given := inside[name]
		if given != r.Inside {
			t.Errorf("%s: inside is %v; the list of such routes says otherwise", name, r.Inside)
		}
		if !given {
			body = "{}"
		}
		deny.Take()
		path := paramPattern.ReplaceAllString(r.Path, "1")
		rec := do(s, httptest.NewRequest(r.Method, path, strings.NewReader(body)))
		asks := deny.Take()
		if rec.Code != http.StatusForbidden || rec.Header().Get("Content-Type") != httpapi.ProblemType {
			t.Errorf("%s under an authorizer that refuses all: %d %s, want a 403 problem", name, rec.Code, rec.Body)
		}
		if len(asks) == 0 {
			t.Errorf("%s asked nobody", name)
			continue
		}
		for _, a := range asks {
			if a.Resource.Service == "" || a.Resource.Kind == "" || a.Principal.Door != "http" {
				t.Errorf("%s asked for %q as %+v: service, kind and door are wanted", name, a.Resource, a.Principal)
			}
		}
	}
}

func do(s *httpapi.Server, r *http.Request) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	s.Handler().ServeHTTP(rec, r)
	return rec
}
