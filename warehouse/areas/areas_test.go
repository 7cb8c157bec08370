package areas_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"nekoq/client"
	"nekoq/configs"
	"nekoq/services/errs"
	"nekoq/services/localswitch"
	"nekoq/warehouse/areas"
	"nekoq/warehouse/areas/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// row: nekoq 3, 5: default always exists; a child is created under a parent;
// duplicate, unknown parent and bad name are refused; the levels go from the child
// to the root.
func TestClient(t *testing.T) {
	a := localswitch.ForTest(t).Client().Areas()
	ctx := t.Context()
	if root, err := a.Get(ctx, "default"); err != nil || root.Parent != "" {
		t.Fatal(root, err)
	}
	for _, c := range [][2]string{{"eu", ""}, {"eu.north", "eu"}, {"rack-1", "eu.north"}} {
		if got, err := a.Create(ctx, c[0], c[1], "about "+c[0]); err != nil || got.Name != c[0] || got.Actor == "" {
			t.Fatal(got, err)
		}
	}
	if l, err := a.Levels(ctx, "rack-1"); err != nil || !slices.Equal(l, []string{"rack-1", "eu.north", "eu", "default"}) {
		t.Fatal(l, err)
	}
	refused := func(want errs.Code, err error) {
		t.Helper()
		if !errs.Has(err, want) {
			t.Fatalf("%v, want %s", err, want)
		}
	}
	_, err := a.Create(ctx, "eu", "", "")
	refused(errs.AlreadyExists, err)
	_, err = a.Create(ctx, "us", "nowhere", "")
	refused(errs.NotFound, err)
	for _, bad := range []string{"", "a b", ".a", "a.", "a..b", "ä", "a/b", strings.Repeat("x", 64), strings.Repeat("x.", 64) + "x"} {
		_, err = a.Create(ctx, bad, "", "")
		refused(errs.InvalidArgument, err)
	}
	refused(errs.Conflict, a.Delete(ctx, "default"))
	refused(errs.Conflict, a.Delete(ctx, "eu"))
	under := "rack-1"
	_, err = a.Update(ctx, client.AreaChanges{Name: "eu", Parent: &under})
	refused(errs.Conflict, err)
	to := "default"
	if moved, err := a.Update(ctx, client.AreaChanges{Name: "rack-1", Parent: &to}); err != nil || moved.Parent != to || moved.Description != "about rack-1" {
		t.Fatal(moved, err)
	}
	if err := a.Delete(ctx, "eu.north"); err != nil {
		t.Fatal(err)
	}
	if l, err := a.List(ctx, ""); err != nil || len(l) != 3 {
		t.Fatal(l, err)
	}
	if l, err := a.List(ctx, "default"); err != nil || len(l) != 2 {
		t.Fatal(l, err)
	}
}

func TestWatch(t *testing.T) {
	a := localswitch.ForTest(t).Client().Areas()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	w, err := a.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if u, err := w.Next(ctx); err != nil || !u.Full || len(u.Areas) != 1 {
		t.Fatal(u, err)
	}
	if _, err := a.Create(ctx, "eu", "", ""); err != nil {
		t.Fatal(err)
	}
	if u, err := w.Next(ctx); err != nil || u.Full || len(u.Areas) != 1 || u.Areas[0].Name != "eu" {
		t.Fatal(u, err)
	}
	if err := a.Delete(ctx, "eu"); err != nil {
		t.Fatal(err)
	}
	if u, err := w.Next(ctx); err != nil || u.Full || !slices.Equal(u.Deleted, []string{"eu"}) {
		t.Fatal(u, err)
	}
}

// A reader that is slower than the node's buffer gets the whole tree.
func TestWatchBeyondTheBuffer(t *testing.T) {
	sw := localswitch.ForTest(t)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	svc := sw.App().Areas()
	w, err := svc.Watch(ctx, api.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Next(ctx); err != nil {
		t.Fatal(err)
	}
	last := uint64(0)
	for i := range 3000 {
		text := strings.Repeat("x", 1+i%9)
		r, err := svc.Update(ctx, api.UpdateRequest{Name: "default", Description: &text})
		if err != nil {
			t.Fatal(err)
		}
		last = r.Revision
	}
	full := false
	for w.At() < last {
		u, err := w.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		full = full || u.Full
	}
	if !full {
		t.Fatal("3000 events were buffered for a reader that did not read")
	}
}

func TestLimitOfAreas(t *testing.T) {
	sw, err := localswitch.Start(t.Context(), localswitch.Options{Change: func(c *configs.Config) { c.Areas = areas.Config{MaxAreas: 2, MaxWatchers: 1} }})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sw.Stop(context.Background()) }()
	a := sw.Client().Areas()
	if _, err := a.Create(t.Context(), "a", "", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Create(t.Context(), "b", "", ""); !errs.Has(err, errs.Exhausted) {
		t.Fatal(err)
	}
	if _, err := a.Create(t.Context(), "a", "", ""); !errs.Has(err, errs.AlreadyExists) {
		t.Fatal(err)
	}
	svc := sw.App().Areas()
	w, err := svc.Watch(t.Context(), api.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := svc.Watch(t.Context(), api.WatchRequest{}); !errs.Has(err, errs.TooManyRequests) {
		t.Fatal(err)
	}
	w.Close()
	if _, err := w.Next(t.Context()); err == nil {
		t.Fatal("a closed watch goes on")
	}
	if _, err := svc.Watch(t.Context(), api.WatchRequest{After: 1 << 40}); !errs.Has(err, errs.FutureRevision) {
		t.Fatal(err)
	}
}

type answer struct {
	status int
	body   string
	etag   string
	json   map[string]any
}

func call(t *testing.T, c *http.Client, method, path, body string, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://nekoq"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	out := answer{status: res.StatusCode, body: string(b), etag: res.Header.Get("ETag")}
	_ = json.Unmarshal(b, &out.json)
	return out
}

func TestREST(t *testing.T) {
	c := localswitch.ForTest(t).HTTPClient()
	const base = "/v1/warehouse/areas"
	for _, s := range []struct {
		method, path, body string
		status             int
		has                string
	}{
		{"GET", base + "/default", "", 200, `"name":"default"`},
		{"PUT", base + "/eu", "", 201, `"parent":"default"`},
		{"PUT", base + "/north", `{"parent":"eu","description":"cold"}`, 201, `"parent":"eu"`},
		{"POST", base, `{"name":"south","parent":"eu"}`, 201, `"name":"south"`},
		{"GET", base + "/north/levels", "", 200, `["north","eu","default"]`},
		{"GET", base + "?parent=eu", "", 200, `"north"`},
		{"GET", base + "?limit=1", "", 200, `"next_page_token"`},
		{"PATCH", base + "/north", `{"parent":"default"}`, 200, `"description":"cold"`},
		{"PATCH", base + "/north?if_revision=1", `{"parent":"eu"}`, 409, "revision_mismatch"},
		{"PUT", base + "/eu", `{}`, 409, "already_exists"},
		{"PUT", base + "/x", `{"parent":"nowhere"}`, 404, `"field":"parent"`},
		{"PUT", base + "/a%20b", ``, 400, "letters, digits"},
		{"POST", base, `{"parent":"eu"}`, 400, `"name"`},
		{"POST", base, `{"name":"x","perent":"eu"}`, 400, "did you mean parent?"},
		{"PATCH", base + "/north", `{}`, 400, "nothing to change"},
		{"PATCH", base + "/north?if_revision=x", `{"parent":"eu"}`, 400, "if_revision"},
		{"PATCH", base + "/north", `{"description":"` + strings.Repeat("x", 257) + `"}`, 400, "256 bytes"},
		{"PATCH", base + "/default", `{"parent":"eu"}`, 409, "root"},
		{"DELETE", base + "/eu", "", 409, "south"},
		{"DELETE", base + "/default", "", 409, "root"},
		{"DELETE", base + "/nope", "", 404, "nope"},
		{"DELETE", base + "/south", "", 200, "revision"},
		{"GET", base + "/nope/levels", "", 404, "nope"},
		{"GET", base + "?parent=nope", "", 404, "nope"},
		{"GET", base + "?limit=x", "", 400, "limit"},
		{"GET", base + "?limit=100000", "", 400, "http.max_page_size"},
		{"GET", base + "?stale=maybe", "", 400, "true or false"},
		{"GET", base + "?what=1", "", 400, "what"},
		{"GET", base + "?wait=1s&limit=5", "", 400, "no limit together with wait"},
		{"GET", base + "?wait=soon", "", 400, "http.max_wait"},
		{"GET", base + "?wait=1ms&revision=99999", "", 400, "future_revision"},
	} {
		if got := call(t, c, s.method, s.path, s.body); got.status != s.status || !strings.Contains(got.body, s.has) {
			t.Errorf("%s %s %s: %d %s; want %d with %q", s.method, s.path, s.body, got.status, got.body, s.status, s.has)
		}
	}
}

// The ETag of an area is its revision: If-Match says with it what if_revision does.
func TestETags(t *testing.T) {
	c := localswitch.ForTest(t).HTTPClient()
	const north, match, none = "/v1/warehouse/areas/north", "If-Match", "If-None-Match"
	created := call(t, c, "PUT", north, "")
	moved := call(t, c, "PATCH", north, `{"description":"cold"}`, match, created.etag)
	if created.etag == "" || moved.status != 200 || moved.etag == created.etag || moved.etag != fmt.Sprintf(`"%.0f"`, moved.json["revision"]) {
		t.Fatalf("%+v, then %+v", created, moved)
	}
	for _, s := range []struct {
		method, body, name, tag string
		status                  int
	}{
		{"GET", "", none, moved.etag, 304},
		{"GET", "", none, created.etag, 200},
		{"GET", "", match, created.etag, 412},
		{"PATCH", `{"description":"x"}`, match, created.etag, 412},
		{"PATCH", `{"description":"x"}`, match, "*", 400},
		{"DELETE", "", match, created.etag, 412},
		{"DELETE", "", match, moved.etag, 200},
	} {
		if got := call(t, c, s.method, north, s.body, s.name, s.tag); got.status != s.status {
			t.Errorf("%s with %s: %s: %d %s, want %d", s.method, s.name, s.tag, got.status, got.body, s.status)
		}
	}
	if root := call(t, c, "GET", "/v1/warehouse/areas/default", "", none, "*"); root.status != 200 || root.etag != "" {
		t.Errorf("a root that was never changed: %+v", root)
	}
}

func TestLongPollAndStream(t *testing.T) {
	sw := localswitch.ForTest(t)
	c := sw.HTTPClient()
	const base = "/v1/warehouse/areas"
	if got := call(t, c, "GET", base+"?wait=20ms&revision=0", ""); got.json["changed"] != false {
		t.Fatal(got.body)
	}
	done := make(chan answer, 1)
	go func() { done <- call(t, c, "GET", base+"?wait=20s&revision=0", "") }()
	if got := call(t, c, "PUT", base+"/eu", ""); got.status != 201 {
		t.Fatal(got.body)
	}
	got := <-done
	if got.json["changed"] != true || !strings.Contains(got.body, `"eu"`) {
		t.Fatal(got.body)
	}
	srv := httptest.NewServer(sw.Handler())
	defer srv.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "GET", srv.URL+base, nil)
	req.Header.Set("Accept", "text/event-stream")
	cl := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := cl.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	lines := bufio.NewScanner(res.Body)
	expect := func(prefix string) {
		t.Helper()
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), prefix) {
				return
			}
		}
		t.Fatalf("the stream ended before %q: %v", prefix, lines.Err())
	}
	expect("event: tree")
	if got := call(t, c, "DELETE", base+"/eu", ""); got.status != 200 {
		t.Fatal(got.body)
	}
	expect("event: change")
	expect(`data: {"revision":`)
	cancel()
}
