package rest_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"nekoq/services/auth"
	"nekoq/services/clock"
	"nekoq/services/httpapi"
	"nekoq/services/replica/local"
	"nekoq/services/state"
	"nekoq/services/watch"
	"nekoq/warehouse/rest"
	"nekoq/warehouse/warehousetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// door is warehouse behind a real HTTP server.
type door struct {
	t   *testing.T
	url string
	cl  *http.Client
	ctx context.Context
}

func open(t *testing.T) *door { return openAs(t, nil) }

// openAs asks authz; nil allows everything.
func openAs(t *testing.T, authz auth.Authorizer) *door {
	t.Helper()
	reg := state.NewRegistry()
	warehousetest.Register(reg)
	hub := watch.NewHub(watch.Options{})
	m, err := state.Open(state.Options{Path: filepath.Join(t.TempDir(), "state.db"), Registry: reg, Events: hub, Mode: state.Volatile})
	if err != nil {
		t.Fatal(err)
	}
	r, err := local.New(local.Options{NodeID: "n1", Machine: m, Clock: clock.System(), Config: local.DefaultConfig()})
	if err != nil {
		t.Fatal(err)
	}
	n := warehousetest.NewNode(t, r, hub, nil)
	r.Start()
	s, err := httpapi.New(httpapi.DefaultConfig(), httpapi.Deps{Auth: authz})
	if err != nil {
		t.Fatal(err)
	}
	rest.Register(s, n.KV)
	srv := httptest.NewServer(s.Handler())
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
		if err := r.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		hub.Close()
		if err := m.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		cancel()
	})
	return &door{t: t, url: srv.URL, cl: srv.Client(), ctx: ctx}
}

type answer struct {
	status int
	header http.Header
	body   string
	json   map[string]any
}

func (d *door) do(method, path, body string, header ...string) answer {
	d.t.Helper()
	req, err := http.NewRequestWithContext(d.ctx, method, d.url+path, strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := d.cl.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	a := answer{status: res.StatusCode, header: res.Header, body: string(b)}
	if strings.Contains(res.Header.Get("Content-Type"), "json") {
		if err := json.Unmarshal(b, &a.json); err != nil {
			d.t.Fatalf("%s %s: %v in %s", method, path, err, b)
		}
	}
	return a
}

func (d *door) ok(method, path, body string, header ...string) answer {
	d.t.Helper()
	a := d.do(method, path, body, header...)
	if a.status != http.StatusOK {
		d.t.Fatalf("%s %s: %d %s", method, path, a.status, a.body)
	}
	return a
}

// has checks members of the JSON answer; numbers are float64.
func (d *door) has(a answer, want map[string]any) {
	d.t.Helper()
	for k, v := range want {
		if n, ok := v.(int); ok {
			v = float64(n)
		}
		if a.json[k] != v {
			d.t.Errorf("%s is %v, want %v, in %s", k, a.json[k], v, a.body)
		}
	}
}

// row: nekoq 8
func TestKeys(t *testing.T) {
	d := open(t)
	d.has(d.ok("PUT", "/v1/warehouse/kv/app/db%2Fx%20y%C3%A4?if_revision=0", "host=\x00\xff"),
		map[string]any{"key": "app/db/x yä", "revision": 2, "create_revision": 2, "mod_revision": 2, "version": 1, "store_revision": 1})
	if a := d.do("PUT", "/v1/warehouse/kv/app/db/x%20y%C3%A4?if_revision=0", "again"); a.status != 409 || a.json["code"] != "revision_mismatch" {
		t.Errorf("set if absent: %d %s", a.status, a.body)
	}
	a := d.ok("GET", "/v1/warehouse/kv/app/db/x%20y%C3%A4", "")
	d.has(a, map[string]any{
		"key": "app/db/x yä", "value": base64.StdEncoding.EncodeToString([]byte("host=\x00\xff")),
		"mod_revision": 2, "version": 1, "revision": 2, "actor": "http:anonymous",
	})
	if _, err := time.Parse(time.RFC3339Nano, a.json["modified"].(string)); err != nil {
		t.Error(err)
	}
	raw := d.ok("GET", "/v1/warehouse/kv/app/db/x%20y%C3%A4?raw=true", "")
	if raw.body != "host=\x00\xff" || raw.header.Get("Nekoq-Mod-Revision") != "2" || raw.header.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("raw: %q %v", raw.body, raw.header)
	}
	d.has(d.ok("PUT", "/v1/warehouse/kv/app/db/x%20y%C3%A4?if_revision=2", ""), map[string]any{"revision": 3, "version": 2, "prev_revision": 2})
	d.has(d.ok("GET", "/v1/warehouse/kv/app/db/x%20y%C3%A4?revision=2", ""), map[string]any{"mod_revision": 2, "revision": 2})
	stale := d.ok("GET", "/v1/warehouse/kv/app/db/x%20y%C3%A4?consistency=stale", "")
	if stale.json["stale"] == nil || stale.header.Get("Nekoq-Lag-Entries") == "" {
		t.Errorf("a stale answer without its lag: %s %v", stale.body, stale.header)
	}
	d.has(d.ok("DELETE", "/v1/warehouse/kv/app/db/x%20y%C3%A4?if_revision=3", ""), map[string]any{"deleted": true, "revision": 4, "prev_revision": 3})
	d.has(d.ok("DELETE", "/v1/warehouse/kv/app/db/x%20y%C3%A4", ""), map[string]any{"deleted": false, "revision": 4})
	if a := d.do("GET", "/v1/warehouse/kv/app/db/x%20y%C3%A4", ""); a.status != 404 || a.json["code"] != "not_found" {
		t.Errorf("a deleted key: %d %s", a.status, a.body)
	}
	h := d.ok("GET", "/v1/warehouse/history/app/db/x%20y%C3%A4?limit=2", "")
	if v := h.json["versions"].([]any); len(v) != 2 || v[0].(map[string]any)["deleted"] != true || h.json["more"] != true {
		t.Errorf("history: %s", h.body)
	}
	d.ok("PUT", "/v1/warehouse/kv/t?ttl=30s", "x")
	if lease, ok := d.ok("GET", "/v1/warehouse/kv/t", "").json["lease"].(string); !ok || lease == "" {
		t.Error("a key with a TTL has no lease")
	}
	d.has(d.ok("POST", "/v1/warehouse/compact", `{"revision":4}`), map[string]any{"compact_revision": 4})
	d.has(d.ok("GET", "/v1/warehouse/status", ""), map[string]any{"revision": 5, "keys": 1, "compact_revision": 4})
	if a := d.do("GET", "/v1/warehouse/kv/t?revision=3", ""); a.status != 410 || a.json["code"] != "compacted" {
		t.Errorf("below the compaction: %d %s", a.status, a.body)
	}
}

func TestLists(t *testing.T) {
	d := open(t)
	for i := range 7 {
		d.ok("PUT", fmt.Sprintf("/v1/warehouse/kv/l/%d", i), fmt.Sprint(i))
	}
	d.ok("PUT", "/v1/warehouse/kv/z", "")
	var keys []string
	path := "/v1/warehouse/kv?prefix=l/&limit=3&count=true"
	for token := ""; ; {
		a := d.ok("GET", path+token, "")
		d.has(a, map[string]any{"count": 7, "revision": 9})
		for _, it := range a.json["items"].([]any) {
			keys = append(keys, it.(map[string]any)["key"].(string))
		}
		next := a.json["next_page_token"].(string)
		if next == "" {
			break
		}
		token = "&page_token=" + next
		if a := d.do("GET", "/v1/warehouse/kv?prefix=z&limit=3"+token, ""); a.json["code"] != "bad_page_token" {
			t.Errorf("a token of another query: %s", a.body)
		}
	}
	if got := strings.Join(keys, " "); got != "l/0 l/1 l/2 l/3 l/4 l/5 l/6" {
		t.Errorf("keys %s", got)
	}
	a := d.ok("GET", "/v1/warehouse/kv?start=l/5&end=z&keys_only=true", "")
	items := a.json["items"].([]any)
	if len(items) != 2 || items[0].(map[string]any)["value"] != nil {
		t.Errorf("range: %s", a.body)
	}
	if a := d.ok("GET", "/v1/warehouse/kv?prefix=none", ""); len(a.json["items"].([]any)) != 0 {
		t.Errorf("nothing: %s", a.body)
	}
}

// Every mistake gets a problem document that names field, value and limit.
func TestBadInput(t *testing.T) {
	d := open(t)
	d.ok("PUT", "/v1/warehouse/kv/k", "v")
	for _, c := range []struct {
		method, path, body string
		status             int
		code, field        string
	}{
		{"PUT", "/v1/warehouse/kv/", "v", 400, "invalid_argument", "key"},
		{"PUT", "/v1/warehouse/kv/" + strings.Repeat("k", 4097), "v", 413, "too_large", "key"},
		{"PUT", "/v1/warehouse/kv/k", strings.Repeat("v", 3<<19+1), 413, "too_large", "body"},
		{"PUT", "/v1/warehouse/kv/%ff%fe", "v", 400, "invalid_argument", "key"},
		{"GET", "/v1/warehouse/kv/%ff", "", 400, "invalid_argument", "key"},
		{"PUT", "/v1/warehouse/kv/_sys/x", "v", 403, "forbidden", "key"},
		{"PUT", "/v1/warehouse/kv/_system", "v", 200, "", ""},
		{"PUT", "/v1/warehouse/kv//_sys/x", "v", 403, "forbidden", "key"},
		{"PUT", "/v1/warehouse/kv/%2F_sys%2Fx", "v", 403, "forbidden", "key"},
		{"DELETE", "/v1/warehouse/kv/%2F_sys%2Fx", "", 403, "forbidden", "key"},
		{"GET", "/v1/warehouse/kv/%2F_sys%2Fx", "", 403, "forbidden", "key"},
		{"PUT", "/v1/warehouse/kv/k?if_revision=abc", "v", 400, "invalid_argument", "if_revision"},
		{"PUT", "/v1/warehouse/kv/k?if_revision=-1", "v", 400, "invalid_argument", "if_revision"},
		{"PUT", "/v1/warehouse/kv/k?if_revision=18446744073709551615", "v", 400, "invalid_argument", "if_revision"},
		{"PUT", "/v1/warehouse/kv/k?if_revision=7", "v", 409, "revision_mismatch", "if_revision"},
		{"PUT", "/v1/warehouse/kv/k?ttl=abc", "v", 400, "invalid_argument", "ttl"},
		{"PUT", "/v1/warehouse/kv/k?ttl=10ms", "v", 400, "invalid_argument", "ttl"},
		{"PUT", "/v1/warehouse/kv/k?ttl=-5s", "v", 400, "invalid_argument", "ttl"},
		{"PUT", "/v1/warehouse/kv/k?ttl=5s&lease=3", "v", 400, "invalid_argument", "ttl"},
		{"PUT", "/v1/warehouse/kv/k?lease=3", "v", 404, "lease_not_found", ""},
		{"PUT", "/v1/warehouse/kv/k?lease=0", "v", 400, "invalid_argument", "lease"},
		{"PUT", "/v1/warehouse/kv/k?if_revsion=1", "v", 400, "unknown_field", "if_revsion"},
		{"GET", "/v1/warehouse/kv/none", "", 404, "not_found", "key"},
		{"GET", "/v1/warehouse/kv/k?revision=99", "", 400, "future_revision", "revision"},
		{"GET", "/v1/warehouse/kv/k?revision=0", "", 400, "invalid_argument", "revision"},
		{"GET", "/v1/warehouse/kv/k?revision=abc", "", 400, "invalid_argument", "revision"},
		{"GET", "/v1/warehouse/kv/k?raw=maybe", "", 400, "invalid_argument", "raw"},
		{"GET", "/v1/warehouse/kv/k?consistency=eventual", "", 400, "invalid_argument", "consistency"},
		{"GET", "/v1/warehouse/kv/k?wait=1h", "", 400, "invalid_argument", "wait"},
		{"GET", "/v1/warehouse/kv/k?wait=abc", "", 400, "invalid_argument", "wait"},
		{"GET", "/v1/warehouse/kv/k?wait=1s&revision=99", "", 400, "future_revision", "revision"},
		{"GET", "/v1/warehouse/kv?limit=0", "", 400, "invalid_argument", "limit"},
		{"GET", "/v1/warehouse/kv?limit=-1", "", 400, "invalid_argument", "limit"},
		{"GET", "/v1/warehouse/kv?limit=10001", "", 400, "invalid_argument", "limit"},
		{"GET", "/v1/warehouse/kv?limit=abc", "", 400, "invalid_argument", "limit"},
		{"GET", "/v1/warehouse/kv?prefix=a&start=b", "", 400, "invalid_argument", "prefix"},
		{"GET", "/v1/warehouse/kv?start=b&end=a", "", 400, "invalid_argument", "end"},
		{"GET", "/v1/warehouse/kv?prefix=%ff", "", 400, "invalid_argument", "prefix"},
		{"GET", "/v1/warehouse/kv?page_token=abc", "", 400, "bad_page_token", "page_token"},
		{"GET", "/v1/warehouse/kv?revision=99", "", 400, "future_revision", "revision"},
		{"GET", "/v1/warehouse/kv?perfix=a", "", 400, "unknown_field", "perfix"},
		{"GET", "/v1/warehouse/watch?revision=99", "", 400, "future_revision", "revision"},
		{"GET", "/v1/warehouse/watch?key=a&prefix=b", "", 400, "invalid_argument", "prefix"},
		{"GET", "/v1/warehouse/watch?key=%2F_sys%2Fa", "", 403, "forbidden", "key"},
		{"GET", "/v1/warehouse/history/k?before=x", "", 400, "invalid_argument", "before"},
		{"POST", "/v1/warehouse/compact", `{"revision":99}`, 400, "future_revision", "revision"},
		{"POST", "/v1/warehouse/compact", `{"revison":1}`, 400, "unknown_field", ""},
		{"POST", "/v1/warehouse/compact", `{"revision":"x"}`, 400, "invalid_argument", ""},
		{"PATCH", "/v1/warehouse/kv/k", "", 405, "method_not_allowed", ""},
	} {
		a := d.do(c.method, c.path, c.body)
		name := fmt.Sprintf("%s %.60s", c.method, c.path)
		if a.status != c.status {
			t.Errorf("%s: %d, want %d: %.200s", name, a.status, c.status, a.body)
			continue
		}
		if c.code == "" {
			continue
		}
		if a.json["code"] != c.code || a.json["request_id"] == "" || a.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %s, want the code %s", name, a.body, c.code)
		}
		if c.field != "" && !strings.Contains(a.body, `"field":"`+c.field+`"`) {
			t.Errorf("%s: %s does not name %s", name, a.body, c.field)
		}
	}
}

func TestLongPolls(t *testing.T) {
	d := open(t)
	d.ok("PUT", "/v1/warehouse/kv/w/a", "1")
	// What has happened already is answered at once.
	a := d.ok("GET", "/v1/warehouse/watch?prefix=w/&revision=1&wait=20s", "")
	d.has(a, map[string]any{"revision": 2})
	ev := a.json["events"].([]any)[0].(map[string]any)
	if ev["type"] != "put" || ev["key"] != "w/a" {
		t.Errorf("event %v", ev)
	}
	d.has(d.ok("GET", "/v1/warehouse/watch?prefix=w/&revision=2", ""), map[string]any{"revision": 2})
	d.has(d.ok("GET", "/v1/warehouse/watch?prefix=w/&revision=2&wait=60ms", ""), map[string]any{"revision": 2})
	d.has(d.ok("GET", "/v1/warehouse/kv/w/a?revision=2&wait=60ms", ""), map[string]any{"changed": false, "mod_revision": 2})
	d.has(d.ok("GET", "/v1/warehouse/kv/w/a?revision=1&wait=20s", ""), map[string]any{"changed": true})
	got := make(chan answer, 2)
	go func() { got <- d.do("GET", "/v1/warehouse/watch?key=w/a&revision=2&wait=20s&prev=true", "") }()
	go func() { got <- d.do("GET", "/v1/warehouse/kv/w/a?revision=2&wait=20s", "") }()
	d.ok("PUT", "/v1/warehouse/kv/w/b", "other")
	d.ok("PUT", "/v1/warehouse/kv/w/a", "2")
	for range 2 {
		a := <-got
		if a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		if evs, ok := a.json["events"].([]any); ok {
			e := evs[0].(map[string]any)
			if len(evs) != 1 || e["mod_revision"] != 4.0 || e["prev_revision"] != 2.0 || e["prev"].(map[string]any)["mod_revision"] != 2.0 {
				t.Errorf("watch: %s", a.body)
			}
			continue
		}
		d.has(a, map[string]any{"changed": true, "mod_revision": 4})
	}
}

// sse reads one event of a stream.
type sseEvent struct{ id, kind, data string }

func readEvent(r *bufio.Reader) (e sseEvent, err error) {
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return e, err
		}
		line = strings.TrimSuffix(line, "\n")
		name, v, _ := strings.Cut(line, ": ")
		switch {
		case line == "" && e.kind != "":
			return e, nil
		case name == "id":
			e.id = v
		case name == "event":
			e.kind = v
		case name == "data":
			e.data = v
		}
	}
}

func (d *door) stream(path string, header ...string) (*bufio.Reader, func()) {
	d.t.Helper()
	ctx, cancel := context.WithCancel(d.ctx)
	req, err := http.NewRequestWithContext(ctx, "GET", d.url+path, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := d.cl.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	if res.StatusCode != 200 {
		b, _ := io.ReadAll(res.Body)
		d.t.Fatalf("stream: %d %s", res.StatusCode, b)
	}
	return bufio.NewReader(res.Body), func() { cancel(); res.Body.Close() }
}

func TestStream(t *testing.T) {
	d := open(t)
	d.ok("PUT", "/v1/warehouse/kv/s/1", "one")
	r, stop := d.stream("/v1/warehouse/watch?prefix=s/&revision=1")
	defer stop()
	next := func(r *bufio.Reader) sseEvent {
		t.Helper()
		for {
			e, err := readEvent(r)
			if err != nil {
				t.Fatal(err)
			}
			if e.kind != "progress" {
				return e
			}
		}
	}
	if e := next(r); e.kind != "put" || e.id != "2" || !strings.Contains(e.data, `"key":"s/1"`) {
		t.Fatalf("first: %+v", e)
	}
	d.ok("PUT", "/v1/warehouse/kv/other", "x")
	d.ok("DELETE", "/v1/warehouse/kv/s/1", "")
	if e := next(r); e.kind != "delete" || e.id != "4" || !strings.Contains(e.data, `"prev_revision":2`) {
		t.Fatalf("second: %+v", e)
	}
	d.ok("PUT", "/v1/warehouse/kv/s/2", "while away")
	again, stop2 := d.stream("/v1/warehouse/watch?prefix=s/", "Last-Event-ID", "4")
	defer stop2()
	if e := next(again); e.id != "5" {
		t.Fatalf("resumed: %+v", e)
	}
	// An idle stream reports how far it has come.
	d.ok("PUT", "/v1/warehouse/kv/other", "y")
	for {
		e, err := readEvent(again)
		if err != nil {
			t.Fatal(err)
		}
		if e.kind == "progress" && e.id == "6" {
			break
		}
	}
}
