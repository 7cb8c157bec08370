package httpapi

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"

	"nekoq/services/auth"
	"nekoq/services/auth/authtest"
)

type makeInput struct {
	Name string `path:"name" maxLength:"5"`
	PageQuery
	Body struct {
		Start uint64 `json:"start,string" doc:"First id."`
		Delta int64  `json:"delta,string,omitempty"`
		Count int    `json:"count,omitempty" minimum:"1" maximum:"10"`
		Kind  string `json:"kind,omitempty" enum:"a,b"`
		Parts []struct {
			Colour string `json:"colour" maxLength:"3"`
		} `json:"parts,omitempty"`
	}
}

type makeOutput struct {
	Body struct {
		ID   uint64 `json:"id,string"`
		Name string `json:"name"`
	}
}

func typedServer(t *testing.T, deps Deps) *Server {
	s := newServer(t, testConfig(), deps)
	Register(s, huma.Operation{OperationID: "make", Method: "POST", Path: "/v1/make/{name}", Summary: "Make", Tags: []string{"test"}},
		OnParam(auth.Write, "test", "thing", "name"), func(_ context.Context, in *makeInput) (*makeOutput, error) {
			out := &makeOutput{}
			out.Body.ID, out.Body.Name = in.Body.Start, in.Name
			return out, nil
		})
	return s
}

func TestTypedRoute(t *testing.T) {
	s := typedServer(t, Deps{})
	rec := call(s, "POST", "/v1/make/x", `{"start":"18446744073709551615","delta":"-5"}`)
	if rec.Code != 200 || strings.TrimSpace(rec.Body.String()) != `{"id":"18446744073709551615","name":"x"}` {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	if rec = call(s, "POST", "/v1/make/a%2Fb%2B+", `{"start":"0"}`); !strings.Contains(rec.Body.String(), `"a/b++"`) {
		t.Errorf("name: %s", rec.Body)
	}
}

func TestBadInput(t *testing.T) {
	s := typedServer(t, Deps{})
	for _, c := range []struct {
		name, target, body, ct string
		status                 int
		code, field, want      string // want: a part of the detail
	}{
		{"unknown field", "/v1/make/x", `{"strat":"1"}`, "", 400, "unknown_field", "strat", "did you mean start?"},
		{"unknown field in a list", "/v1/make/x", `{"start":"1","parts":[{"color":"a"}]}`, "", 400, "unknown_field", "parts[0].color", "did you mean colour?"},
		{"unknown field, nothing near", "/v1/make/x", `{"start":"1","zebra":1}`, "", 400, "unknown_field", "zebra", "known are count, delta, kind, parts, start"},
		{"field in other case", "/v1/make/x", `{"Start":"1"}`, "", 400, "unknown_field", "Start", "did you mean start?"},
		{"unknown parameter", "/v1/make/x?limt=1", `{"start":"1"}`, "", 400, "unknown_field", "limt", "did you mean limit?"},
		{"unknown parameter, encoded", "/v1/make/x?li%6dt=1", `{"start":"1"}`, "", 400, "unknown_field", "limt", "did you mean limit?"},
		{"semicolon", "/v1/make/x?limit=1;page_token=2", `{"start":"1"}`, "", 400, "invalid_argument", "query", "correctly encoded"},
		{"wrong type in query", "/v1/make/x?limit=abc", `{"start":"1"}`, "", 400, "invalid_argument", "limit", "abc"},
		{"missing field", "/v1/make/x", `{}`, "", 400, "invalid_argument", "start", "required"},
		{"wrong type", "/v1/make/x", `{"start":"1","count":"many"}`, "", 400, "invalid_argument", "count", `"many" is not valid: want integer`},
		{"too small", "/v1/make/x", `{"start":"1","count":0}`, "", 400, "invalid_argument", "count", `"0" is not valid: want number >= 1`},
		{"too large", "/v1/make/x", `{"start":"1","count":11}`, "", 400, "invalid_argument", "count", `want number <= 10`},
		{"enum", "/v1/make/x", `{"start":"1","kind":"c"}`, "", 400, "invalid_argument", "kind", `"c" is not valid: want value to be one of "a, b"`},
		{"path too long", "/v1/make/toolong", `{"start":"1"}`, "", 400, "invalid_argument", "name", `"toolong" is not valid: want length <= 5`},
		{"64-bit as number", "/v1/make/x", `{"start":1}`, "", 400, "invalid_argument", "start", "want string"},
		{"64-bit not a number", "/v1/make/x", `{"start":"1x"}`, "", 400, "invalid_argument", "start", "64-bit"},
		{"64-bit negative", "/v1/make/x", `{"start":"-1"}`, "", 400, "invalid_argument", "start", "64-bit"},
		{"64-bit too big", "/v1/make/x", `{"start":"18446744073709551616"}`, "", 400, "invalid_argument", "body", "does not fit uint64"},
		{"int too big", "/v1/make/x", `{"start":"1","count":1e40}`, "", 400, "invalid_argument", "count", "<= 10"},
		{"not JSON", "/v1/make/x", `{"start":`, "", 400, "invalid_argument", "body", "at byte 9"},
		{"more than one value", "/v1/make/x", `{"start":"1"} {}`, "", 400, "invalid_argument", "body", "not valid JSON"},
		{"a list", "/v1/make/x", `[]`, "", 400, "invalid_argument", "body", "want object"},
		{"a string", "/v1/make/x", `"s"`, "", 400, "invalid_argument", "body", "want object"},
		{"bad UTF-8", "/v1/make/x", "{\"start\":\"1\",\"kind\":\"\xff\"}", "", 400, "invalid_argument", "body", "UTF-8"},
		{"no body", "/v1/make/x", ``, "", 400, "invalid_argument", "body", "missing"},
		{"form", "/v1/make/x", `start=1`, "application/x-www-form-urlencoded", 415, "unsupported_media_type", "Content-Type", "application/json"},
	} {
		t.Run(c.name, func(t *testing.T) {
			header := []string{}
			if c.ct != "" {
				header = append(header, "Content-Type", c.ct)
			}
			rec := call(s, "POST", c.target, c.body, header...)
			p := problemOfRec(t, rec)
			if rec.Code != c.status || p.Code != c.code || !strings.Contains(p.Detail, c.want) || len(p.Errors) == 0 || p.Errors[0].Field != c.field {
				t.Errorf("%s", rec.Body)
			}
			for _, leak := range []string{"Go struct", "unmarshal", "want string to be", "json:"} {
				if strings.Contains(p.Detail, leak) {
					t.Errorf("the detail shows the decoder's words (%s): %s", leak, p.Detail)
				}
			}
		})
	}
}

func TestBadPath(t *testing.T) {
	s := newServer(t, testConfig(), Deps{})
	raw(s, "GET", "/kv/{key...}", func(c *gin.Context) { c.String(200, "%q", Param(c, "key")) })
	for target, want := range map[string]string{
		"/kv/a": `"a"`, "/kv/a/b": `"a/b"`, "/kv/a%2Fb": `"a/b"`, "/kv//a": `"/a"`, "/kv/%2Fa": `"/a"`, "/kv/a+b%20c": `"a+b c"`,
		"/kv/a%2Bb": `"a+b"`, "/kv/": `""`, "/kv/a/": `"a/"`, "/kv/%25": `"%"`, "/kv/%FF": `"\xff"`, "/kv/a%2F%252F": `"a/%2F"`,
	} {
		if rec := call(s, "GET", target, ""); rec.Code != 200 || rec.Body.String() != want {
			t.Errorf("%s: %d %s, want %s", target, rec.Code, rec.Body, want)
		}
	}
	if p := problemOfRec(t, call(s, "GET", "/kv/a?raw=true", "")); p.Code != "unknown_field" || !strings.Contains(p.Detail, "takes no query") {
		t.Errorf("%+v", p)
	}
}

// The document says what the server does: 64-bit numbers are strings.
func TestDocumentOf64Bit(t *testing.T) {
	s := typedServer(t, Deps{})
	b, err := s.Document()
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Components struct {
			Schemas map[string]struct {
				Properties map[string]struct {
					Type            any
					Format, Pattern string
				} `json:"properties"`
			} `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	in := doc.Components.Schemas["MakeInputBody"].Properties
	if p := in["start"]; p.Type != "string" || p.Format != "uint64" || p.Pattern != uint64Pattern {
		t.Errorf("start: %+v", p)
	}
	if p := in["delta"]; p.Type != "string" || p.Format != "int64" {
		t.Errorf("delta: %+v", p)
	}
	if p := doc.Components.Schemas["MakeOutputBody"].Properties["id"]; p.Type != "string" {
		t.Errorf("id: %+v", p)
	}
}

// The authorizer is asked before the body is read and before anything else of
// the input is judged.
func TestAuthorizerComesFirst(t *testing.T) {
	deny := authtest.DenyAll()
	s := typedServer(t, Deps{Auth: deny})
	rec := call(s, "POST", "/v1/make/secret?limt=1", `not json`)
	if p := problemOfRec(t, rec); p.Code != "forbidden" {
		t.Errorf("%s", rec.Body)
	}
	asks := deny.Take()
	if len(asks) != 1 || asks[0].Action != auth.Write || asks[0].Resource.String() != "test/thing/secret" || asks[0].Principal.Door != "http" || asks[0].Principal.Addr == "" {
		t.Errorf("asked %+v", asks)
	}
}

func TestPrincipalInContext(t *testing.T) {
	rec := &authtest.Recorder{}
	s := newServer(t, testConfig(), Deps{Auth: rec})
	raw(s, "GET", "/who", func(c *gin.Context) {
		ctx := c.Request.Context()
		if err := s.Allow(ctx, auth.Watch, auth.Resource{Service: "a", Kind: "b", Name: "c"}); err != nil {
			Fail(c, err)
			return
		}
		c.String(200, auth.FromContext(ctx).Actor())
	})
	if got := call(s, "GET", "/who", "").Body.String(); got != "http:anonymous" {
		t.Errorf("%s", got)
	}
	if asks := rec.Take(); len(asks) != 2 || asks[1].Resource.Name != "c" {
		t.Errorf("%+v", asks)
	}
}

func TestRouteWithoutAccessPanics(t *testing.T) {
	s := newServer(t, testConfig(), Deps{})
	defer func() {
		if recover() == nil {
			t.Error("a route without an access rule was taken")
		}
	}()
	Raw(s, rawOp("x", "GET", "/x"), Access{}, func(*gin.Context) {})
}

// A body that is compressed is refused, since nothing unpacks it.
func TestCompressedBodyIsRefused(t *testing.T) {
	s := typedServer(t, Deps{})
	rec := call(s, "POST", "/v1/make/x", `{"start":"1"}`, "Content-Encoding", "gzip")
	p := problemOfRec(t, rec)
	if rec.Code != 415 || p.Code != "unsupported_media_type" || len(p.Errors) != 1 || p.Errors[0].Field != "Content-Encoding" || p.Errors[0].Value != "gzip" {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	if rec := call(s, "POST", "/v1/make/x", `{"start":"1"}`, "Content-Encoding", "identity"); rec.Code != 200 {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
}
