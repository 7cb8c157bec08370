package httpapitest_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"

	"nekoq/services/auth"
	"nekoq/services/auth/authtest"
	"nekoq/services/httpapi"
	"nekoq/services/httpapi/httpapitest"
)

var public = []string{"GET /healthz", "GET /readyz", "GET /openapi.json", "GET /docs", "GET /docs/{file}"}

func build(t testing.TB, a auth.Authorizer) *httpapi.Server {
	t.Helper()
	cfg := httpapi.DefaultConfig()
	cfg.Pprof = true
	s, err := httpapi.New(cfg, httpapi.Deps{Auth: a, Gatherer: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	type input struct {
		Name string `path:"name"`
		Body struct {
			N int `json:"n"`
		}
	}
	httpapi.Register(s, huma.Operation{OperationID: "put-thing", Method: "PUT", Path: "/v1/things/{name}", Summary: "Put", Tags: []string{"things"}},
		httpapi.OnParam(auth.Write, "things", "thing", "name"), func(context.Context, *input) (*struct{}, error) {
			t.Error("the handler was reached")
			return nil, nil
		})
	httpapi.Raw(s, huma.Operation{
		OperationID: "get-thing", Method: "GET", Path: "/v1/kv/{key...}", Summary: "Get", Tags: []string{"things"},
		Parameters: []*huma.Param{{Name: "key", In: "path", Schema: &huma.Schema{Type: "string"}}},
		Responses:  map[string]*huma.Response{"200": httpapi.Text("value")},
	}, httpapi.OnParam(auth.Read, "things", "key", "key"), func(*gin.Context) { t.Error("the handler was reached") })
	return s
}

func TestGoodServer(t *testing.T) {
	httpapitest.CheckDocument(t, build(t, nil))
	httpapitest.CheckAsks(t, func(deny *authtest.Recorder) *httpapi.Server { return build(t, deny) }, nil, public...)
}

// faults collects what a check finds instead of failing the test.
type faults struct {
	testing.TB
	found []string
}

func (f *faults) Errorf(format string, args ...any) {
	f.found = append(f.found, fmt.Sprintf(format, args...))
}
func (f *faults) Error(args ...any) { f.found = append(f.found, fmt.Sprint(args...)) }
func (f *faults) Helper()           {}

func TestChecksFind(t *testing.T) {
	s := build(t, nil)
	s.Engine().GET("/behind/the/back", func(*gin.Context) {})
	httpapi.Raw(s, huma.Operation{OperationID: "bare", Method: "GET", Path: "/bare/{x}"}, httpapi.Public(), func(*gin.Context) {})
	s.API().OpenAPI().AddOperation(&huma.Operation{OperationID: "ghost", Method: "GET", Path: "/ghost", Responses: map[string]*huma.Response{}})
	f := &faults{TB: t}
	httpapitest.CheckDocument(f, s)
	all := strings.Join(f.found, "\n")
	for _, want := range []string{
		"gin serves GET /behind/the/back", "GET /ghost is documented but not served", `GET /bare/{x}: operationId "bare", summary ""`,
		"GET /bare/{x}: path parameter x is not documented", "GET /bare/{x}: no answer but the problem", "GET /ghost: no problem answer",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("not found: %s\n%s", want, all)
		}
	}
	f = &faults{TB: t}
	httpapitest.CheckAsks(f, func(*authtest.Recorder) *httpapi.Server { return build(f, nil) }, nil, public[1:]...)
	all = strings.Join(f.found, "\n")
	for _, want := range []string{"GET /healthz: public is true", "PUT /v1/things/{name} asked nobody", "GET /v1/kv/{key} under an authorizer that refuses all: 200"} {
		if !strings.Contains(all, want) {
			t.Errorf("not found: %s\n%s", want, all)
		}
	}
}
