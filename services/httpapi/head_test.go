package httpapi

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"
)

// HEAD answers what GET does without the body, on hand-written and typed routes, for
// errors too; a stream that never ends is answered at once.
func TestHead(t *testing.T) {
	s := newServer(t, testConfig(), Deps{})
	raw(s, "GET", "/raw/:name", func(c *gin.Context) {
		c.Header("Content-Length", "5")
		c.String(200, "hello")
	})
	raw(s, "GET", "/effect", func(c *gin.Context) { t.Error("HEAD had an effect") }, NoHead())
	streamed := make(chan struct{})
	raw(s, "GET", "/stream", func(c *gin.Context) {
		defer close(streamed)
		Stream(c, func(ctx context.Context) ([]Event, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
	})
	raw(s, "POST", "/post", func(c *gin.Context) {})
	type out struct{ Body struct{ A string } }
	Register(s, huma.Operation{OperationID: "typed", Method: "GET", Path: "/typed"}, anyone, func(context.Context, *struct{}) (*out, error) {
		return &out{}, nil
	})
	base, client := start(t, s)
	ask := func(method, path string, header ...string) (*http.Response, string) {
		req, err := http.NewRequestWithContext(t.Context(), method, base+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i+1 < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res, string(b)
	}
	for _, path := range []string{"/raw/x", "/typed", "/healthz", "/openapi.json", "/nothing/here"} {
		want, body := ask("GET", path)
		got, none := ask("HEAD", path)
		if got.StatusCode != want.StatusCode || got.Header.Get("Content-Type") != want.Header.Get("Content-Type") || none != "" {
			t.Errorf("HEAD %s: %d %v %q, GET: %d %v", path, got.StatusCode, got.Header, none, want.StatusCode, want.Header)
		}
		if n := got.Header.Get("Content-Length"); n != "" && want.StatusCode == 200 && n != strconv.Itoa(len(body)) {
			t.Errorf("HEAD %s: length %s, GET %d", path, n, len(body))
		}
	}
	if res, _ := ask("HEAD", "/stream", "Accept", StreamType); res.StatusCode != 200 || res.Header.Get("Content-Type") != StreamType {
		t.Errorf("HEAD of a stream: %d %v", res.StatusCode, res.Header)
	}
	select {
	case <-streamed:
	case <-time.After(time.Minute):
		t.Error("the stream that HEAD asked for goes on")
	}
	for path, allow := range map[string]string{"/effect": "GET", "/post": "POST"} {
		if res, _ := ask("HEAD", path); res.StatusCode != 405 || res.Header.Get("Allow") != allow {
			t.Errorf("HEAD %s: %d %v", path, res.StatusCode, res.Header)
		}
	}
}

// A stale read may be asked for in two ways on every route that knows one of them.
func TestBothSpellingsOfAStaleRead(t *testing.T) {
	s := newServer(t, testConfig(), Deps{})
	Raw(s, rawOp("consistency", "GET", "/a", &huma.Param{Name: "consistency", In: "query", Schema: &huma.Schema{Type: "string"}}, &huma.Param{Name: "x", In: "query"}),
		anyone, func(c *gin.Context) { c.String(200, "%s,%s", c.Query("consistency"), c.Query("x")) })
	type in struct {
		Stale bool `query:"stale"`
	}
	type out struct{ Body bool }
	Register(s, huma.Operation{OperationID: "stale", Method: "GET", Path: "/b"}, anyone, func(_ context.Context, i *in) (*out, error) {
		return &out{i.Stale}, nil
	})
	raw(s, "GET", "/c", func(c *gin.Context) {})
	for target, want := range map[string]string{
		"/a": ",", "/a?stale=true": "stale,", "/a?stale": "stale,", "/a?x=stale&stale=false": "linearizable,stale", "/a?consistency=stale": "stale,", "/a?x=1&stale=1": "stale,1",
		"/b": "false", "/b?stale=true": "true", "/b?consistency=stale": "true", "/b?consistency=linearizable": "false",
		"/b?consistency=linearizable&consistency=stale": "false", "/a?stale=true&stale=false": "stale,", "/a?consistency=stale&consistency=linearizable": "stale,",
	} {
		if rec := call(s, "GET", target, ""); rec.Code != 200 || rec.Body.String() != want && rec.Body.String() != want+"\n" {
			t.Errorf("%s: %d %q, want %q", target, rec.Code, rec.Body, want)
		}
	}
	for target, want := range map[string][2]string{
		"/a?stale=maybe":                   {"invalid_argument", "stale"},
		"/b?consistency=maybe":             {"invalid_argument", "consistency"},
		"/a?stale=true&consistency=stale":  {"invalid_argument", "stale"},
		"/b?consistency=stale&stale=false": {"invalid_argument", "consistency"},
		"/c?stale=true":                    {"unknown_field", "stale"},
		"/c?consistency=stale":             {"unknown_field", "consistency"},
	} {
		if p := problemOfRec(t, call(s, "GET", target, "")); p.Code != want[0] || len(p.Errors) == 0 || p.Errors[0].Field != want[1] {
			t.Errorf("%s: %+v", target, p)
		}
	}
	doc, err := s.Document()
	if err != nil {
		t.Fatal(err)
	}
	var parsed struct {
		Paths map[string]map[string]struct {
			Parameters []struct{ Name string }
		}
	}
	if err := json.Unmarshal(doc, &parsed); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/a", "/b"} {
		names := map[string]bool{}
		for _, p := range parsed.Paths[path]["get"].Parameters {
			names[p.Name] = true
		}
		if !names["stale"] || !names["consistency"] {
			t.Errorf("%s documents %v", path, names)
		}
	}
}
