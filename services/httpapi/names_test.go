package httpapi

import (
	"context"
	"reflect"
	"testing"

	"github.com/danielgtaylor/huma/v2"
)

// Two inputs with inline bodies under one name, as two services may have them.
func registerFirst(s *Server) {
	type listInput struct {
		Body struct {
			A []struct{ X int } `json:"a"`
		}
	}
	Register(s, huma.Operation{OperationID: "one", Method: "POST", Path: "/one"}, anyone,
		func(context.Context, *listInput) (*struct{}, error) { return nil, nil })
}

func registerSecond(s *Server) {
	type listInput struct {
		Body struct {
			B []struct{ Y string } `json:"b"`
		}
	}
	Register(s, huma.Operation{OperationID: "two", Method: "POST", Path: "/two"}, anyone,
		func(context.Context, *listInput) (*struct{}, error) { return nil, nil })
}

func TestSchemaNamesDoNotCollide(t *testing.T) {
	s := newServer(t, testConfig(), Deps{})
	registerFirst(s)
	registerSecond(s)
	if rec := call(s, "POST", "/one", `{"a":[{"X":1}]}`); rec.Code != 204 {
		t.Errorf("%s", rec.Body)
	}
	if rec := call(s, "POST", "/two", `{"b":[{"Y":"y"}]}`); rec.Code != 204 {
		t.Errorf("%s", rec.Body)
	}
	n := newSchemaNames()
	type Problem struct{ Other int }
	first, second := n.name(reflect.TypeFor[*huma.ErrorModel](), ""), n.name(problemGoType, "")
	third, fourth := n.name(reflect.TypeFor[Problem](), ""), n.name(reflect.TypeFor[*Problem](), "")
	if first != "ErrorModel" || second != "Problem" || third != "HttpapiProblem" || fourth != third {
		t.Errorf("%s %s %s %s", first, second, third, fourth)
	}
	if n.name(reflect.TypeFor[struct{ A int }](), "body") != "Body" || n.name(reflect.TypeFor[struct{ B int }](), "body") != "Body2" {
		t.Error("types without a name collide")
	}
}
