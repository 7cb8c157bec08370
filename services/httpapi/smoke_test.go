package httpapi

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"

	"nekoq/services/auth"
	"nekoq/services/errs"
)

type in struct {
	Name string `path:"name" maxLength:"5"`
	PageQuery
	Body struct {
		Count uint64 `json:"count,string" minimum:"1"`
		Tags  []struct {
			Colour string `json:"colour" maxLength:"3"`
		} `json:"tags,omitempty"`
	}
}
type out struct {
	Body struct {
		ID uint64 `json:"id,string"`
	}
}

func TestSmoke(t *testing.T) {
	s, err := New(DefaultConfig(), Deps{})
	if err != nil {
		t.Fatal(err)
	}
	Register(s, huma.Operation{OperationID: "a", Method: "POST", Path: "/v1/a/{name}"}, OnParam(auth.Write, "a", "b", "name"), func(ctx context.Context, i *in) (*out, error) {
		if i.Name == "no" {
			return nil, errs.New(errs.NoLeader, "none")
		}
		o := &out{}
		o.Body.ID = i.Body.Count
		return o, nil
	})
	Raw(s, huma.Operation{OperationID: "b", Method: "GET", Path: "/v1/kv/{key...}"}, OnParam(auth.Read, "a", "b", "key"), func(c *gin.Context) { c.String(200, Param(c, "key")) })
	for _, q := range [][3]string{
		{"GET", "/v1/kv/a/b%2Fc+d", ""},
		{"GET", "/v1/kv//a", ""},
		{"GET", "/nope", ""},
		{"PUT", "/healthz", ""},
		{"GET", "/healthz?verbos", ""},
		{"POST", "/v1/a/x", `{"count":"5"}`},
		{"POST", "/v1/a/x", `{"cuont":"5"}`},
		{"POST", "/v1/a/x", `{"count":5}`},
		{"POST", "/v1/a/x", `{"count":`},
		{"POST", "/v1/a/x", ``},
		{"POST", "/v1/a/no", `{"count":"5"}`},
		{"POST", "/v1/a/toolong?limit=x", `{"count":"5","tags":[{"color":"reddish"}]}`},
		{"POST", "/v1/a/x", `{"count":"abc"}`},
	} {
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequest(q[0], q[1], strings.NewReader(q[2])))
		t.Log(q, w.Code, w.Header(), w.Body.String())
	}
	d, err := s.Document()
	t.Log(string(d), err)
}
