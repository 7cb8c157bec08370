package rest_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"
	"go.uber.org/goleak"

	"nekoq/numgen"
	"nekoq/numgen/numgentest"
	"nekoq/numgen/rest"
	"nekoq/services/clock"
	"nekoq/services/httpapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func serve(t testing.TB, cfg numgen.Config) http.Handler {
	svc, _ := numgentest.Start(t, numgentest.Local(t, clock.System()), clock.System(), cfg)
	s, err := httpapi.New(httpapi.DefaultConfig(), httpapi.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	rest.Register(s, svc)
	return s.Handler()
}

func call(t testing.TB, h http.Handler, method, path, body string, header ...string) (int, string) {
	t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req := httptest.NewRequest(method, path, r)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w.Code, w.Body.String()
}

// row: nekoq 1: n of 1 to the limit gives n lines of 32 lower-case hex digits
// and no final newline; any other n gives 400. NekoQ's limit is a setting.
func TestPlainLines(t *testing.T) {
	cfg := numgen.DefaultConfig()
	cfg.MaxBatch = 100
	h := serve(t, cfg)
	line := regexp.MustCompile(`^[0-9a-f]{32}$`)
	var j numgentest.Judge
	for n, path := range map[int]string{1: "/v1/numgen/orders/1", 7: "/v1/numgen/orders/7", 100: "/v1/numgen/orders/100"} {
		code, body := call(t, h, "GET", path, "")
		lines := strings.Split(body, "\n")
		if code != 200 || len(lines) != n {
			t.Fatalf("%s: %d, %d lines", path, code, len(lines))
		}
		for _, l := range lines {
			if !line.MatchString(l) {
				t.Fatalf("%q", l)
			}
		}
		j.Add(t, "orders", lines)
	}
	for _, n := range []string{"0", "-1", "101", "abc", "1.5", "+1", "99999999999999999999", "%20"} {
		problem(t, h, "GET", "/v1/numgen/orders/"+n, "", 400, "invalid_argument", "count", "1 to 100")
	}
}

func problem(t testing.TB, h http.Handler, method, path, body string, status int, code string, words ...string) {
	t.Helper()
	got, answer := call(t, h, method, path, body)
	var p httpapi.Problem
	if err := json.Unmarshal([]byte(answer), &p); err != nil || got != status || p.Code != code {
		t.Errorf("%s %s %s: %d %s, want %d %s", method, path, body, got, answer, status, code)
		return
	}
	for _, w := range words {
		if !strings.Contains(answer, w) {
			t.Errorf("%s %s %s: %s does not say %q", method, path, body, answer, w)
		}
	}
}

func TestBadInput(t *testing.T) {
	h := serve(t, numgen.DefaultConfig())
	const base = "/v1/numgen/generators"
	for _, n := range []string{"0", "-1", "10001", "abc", ""} {
		problem(t, h, "POST", base+"/x/ids?count="+n, "", 400, "invalid_argument", "count", "1 to 10000")
	}
	problem(t, h, "POST", base+"/x/ids?cuont=1", "", 400, "unknown_field", "cuont", "count")
	for _, name := range []string{"-a", "a-", "a%20b", "a%2Fb", "%FF", strings.Repeat("a", 129), "a%00"} {
		problem(t, h, "POST", base+"/"+name+"/ids", "", 400, "invalid_argument", "name", "128 bytes")
		problem(t, h, "PUT", base+"/"+name, "{}", 400, "invalid_argument", "name")
	}
	problem(t, h, "GET", base+"/nobody", "", 404, "not_found", "nobody")
	problem(t, h, "DELETE", base+"/nobody", "", 404, "not_found", "nobody")
	problem(t, h, "PATCH", base+"/nobody", `{"description":"x"}`, 404, "not_found")
	problem(t, h, "GET", base+"/nobody/decode/1", "", 404, "not_found")
	for body, words := range map[string][]string{
		`{"name":"g","kind":"snowflak"}`:                                               {"kind", "snowflake"},
		`{"name":"g","kind":"snowflake","options":{"time_bits":50}}`:                   {"time_bits", "32 to 48"},
		`{"name":"g","kind":"snowflake","options":{"epoch":"yesterday"}}`:              {"epoch", "RFC 3339"},
		`{"name":"g","kind":"sequence","options":{"epoch":"2020-01-01T00:00:00Z"}}`:    {"options.epoch", "snowflake"},
		`{"name":"g","kind":"sequence","options":{"start":"-5"}}`:                      {"options.start", "1 or more"},
		`{"name":"g","kind":"segment","options":{"min_step":10,"max_step":5}}`:         {"min_step", "max_step"},
		`{"name":"g","kind":"format","options":{"template":"x"}}`:                      {"template", "position 2"},
		`{"name":"g","kind":"format","options":{"template":"{n}","of":"format"}}`:      {"options.of"},
		`{"name":"g","kind":"format","options":{"template":"{n}","time_zone":"Mars"}}`: {"time_zone", "IANA"},
		`{"kind":"sequence"}`: {"name"},
		`{"name":"g","description":"` + strings.Repeat("d", 257) + `"}`: {"description", "256"},
	} {
		problem(t, h, "POST", base, body, 400, "invalid_argument", words...)
	}
	problem(t, h, "POST", base, `{"name":"g","kynd":"ulid"}`, 400, "unknown_field", "kynd", "kind")
	problem(t, h, "POST", base, `{"name":5}`, 400, "invalid_argument", "name")
	problem(t, h, "POST", base, `{"name":`, 400, "invalid_argument")
	problem(t, h, "GET", base+"?page_token=abc", "", 400, "bad_page_token")
	problem(t, h, "GET", base+"?limit=0x", "", 400, "invalid_argument", "limit")
	if code, body := call(t, h, "POST", base+"/x/ids", "", "Accept", "image/png"); code != 406 {
		t.Error(code, body)
	}
	cfg := numgen.DefaultConfig()
	cfg.AutoCreate = false
	problem(t, serve(t, cfg), "POST", base+"/unknown/ids", "", 404, "not_found", "unknown")
}

func TestManage(t *testing.T) {
	h := serve(t, numgen.DefaultConfig())
	const base = "/v1/numgen/generators"
	want := func(method, path, body string, status int, words ...string) string {
		t.Helper()
		code, answer := call(t, h, method, path, body)
		if code != status {
			t.Fatalf("%s %s: %d %s", method, path, code, answer)
		}
		for _, w := range words {
			if !strings.Contains(answer, w) {
				t.Fatalf("%s %s: %s does not say %s", method, path, answer, w)
			}
		}
		return answer
	}
	want("POST", base, `{"name":"flake","kind":"snowflake"}`, 201, `"worker_bits":10`, `"element":1`)
	want("POST", base, `{"name":"flake","kind":"snowflake"}`, 200)
	want("PUT", base+"/flake", `{"kind":"ulid"}`, 409, "already_exists", "kind", "snowflake")
	want("PUT", base+"/bill", `{"kind":"format","options":{"template":"B\"{n:3}","start":"5"}}`, 201)
	want("POST", base+"/bill/ids?count=2", "", 200, `{"ids":["B\"005","B\"006"]}`)
	want("PUT", base+"/seg", `{"kind":"segment"}`, 201, `"max_step":10000000`)
	want("PATCH", base+"/seg", `{"max_step":2000,"description":"d"}`, 200, `"max_step":2000`, `"description":"d"`)
	want("PATCH", base+"/seg", `{"start":"3"}`, 400, "unknown_field", "start")
	want("GET", base+"/seg", "", 200, `"kind":"segment"`)
	var ids struct{ IDs []string }
	if err := json.Unmarshal([]byte(want("POST", base+"/flake/ids?count=3", "", 200)), &ids); err != nil || len(ids.IDs) != 3 {
		t.Fatal(ids, err)
	}
	want("GET", base+"/flake/decode/"+ids.IDs[0], "", 200, `"time":"20`, `"worker"`, `"sequence"`)
	want("POST", base+"/flake/decode", `{"id":"`+ids.IDs[1]+`"}`, 200, `"worker"`)
	want("POST", "/v1/numgen/decode", `{"kind":"snowflake","id":"`+ids.IDs[2]+`"}`, 200, `"unix_ms"`)
	want("GET", "/v1/numgen/workers", "", 200, `"holder":"node:n1/10"`, `"held":true`, `"token":`)
	if code, body := call(t, h, "POST", base+"/flake/ids?count=2", "", "Accept", "text/plain"); code != 200 || len(strings.Split(body, "\n")) != 2 || strings.HasSuffix(body, "\n") {
		t.Fatal(code, body)
	}
	var page struct {
		Generators    []struct{ Name string }
		NextPageToken string `json:"next_page_token"`
	}
	var names []string
	for token := ""; ; token = "&page_token=" + page.NextPageToken {
		page.NextPageToken = ""
		if err := json.Unmarshal([]byte(want("GET", base+"?limit=1"+token, "", 200)), &page); err != nil {
			t.Fatal(err)
		}
		for _, g := range page.Generators {
			names = append(names, g.Name)
		}
		if page.NextPageToken == "" {
			break
		}
	}
	if strings.Join(names, " ") != "bill flake seg" {
		t.Fatal(names)
	}
	want("DELETE", base+"/seg", "", 204)
	want("GET", base+"/seg", "", 404)
}

// One id by GET, beside a bare gin handler that sends 32 bytes.
func BenchmarkSingle(b *testing.B) {
	bare := gin.New()
	bare.GET("/v1/numgen/:name/:n", func(c *gin.Context) { c.String(200, "00000000000100020000000300000004") })
	for name, h := range map[string]http.Handler{"nekoq": serve(b, numgen.DefaultConfig()), "bare gin": bare} {
		b.Run(name, func(b *testing.B) {
			req := httptest.NewRequest("GET", "/v1/numgen/orders/1", nil)
			b.ReportAllocs()
			for b.Loop() {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, req)
				if w.Code != 200 {
					b.Fatal(w.Body)
				}
			}
		})
	}
}

// A generator that GET /v1/numgen/{name}/{n} could not reach is not made, by no route and
// not on first use.
func TestNamesThatArePathsAreRefused(t *testing.T) {
	h := serve(t, numgen.DefaultConfig())
	for _, name := range []string{"generators", "workers"} {
		for _, req := range [][3]string{
			{"POST", "/v1/numgen/generators", `{"name":"` + name + `"}`},
			{"PUT", "/v1/numgen/generators/" + name, `{}`},
			{"POST", "/v1/numgen/generators/" + name + "/ids", ""},
		} {
			code, body := call(t, h, req[0], req[1], req[2])
			if code != http.StatusForbidden || !strings.Contains(body, `"code":"forbidden"`) || !strings.Contains(body, name) || !strings.Contains(body, "reserved") {
				t.Errorf("%v: %d %s", req, code, body)
			}
		}
	}
	if code, body := call(t, h, "GET", "/v1/numgen/decode/1", ""); code != http.StatusOK {
		t.Errorf("a generator called decode: %d %s", code, body)
	}
}

// Revisions and tokens are numbers, as in all other services; a stale read is asked for
// in the words of all other services.
func TestRevisionsAreNumbers(t *testing.T) {
	h := serve(t, numgen.DefaultConfig())
	if code, body := call(t, h, "POST", "/v1/numgen/generators/orders/ids", ""); code != http.StatusOK {
		t.Fatalf("%d %s", code, body)
	}
	number := regexp.MustCompile(`"created_revision":[0-9]+,"updated_revision":[0-9]+`)
	for _, path := range []string{"/v1/numgen/generators/orders?consistency=stale", "/v1/numgen/generators?stale=true", "/v1/numgen/generators/orders"} {
		if code, body := call(t, h, "GET", path, ""); code != http.StatusOK || !number.MatchString(body) {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	if code, body := call(t, h, "GET", "/v1/numgen/workers?consistency=stale", ""); code != http.StatusOK || !regexp.MustCompile(`"token":[0-9]+`).MatchString(body) {
		t.Errorf("%d %s", code, body)
	}
	if code, body := call(t, h, "GET", "/v1/numgen/generators/orders?consistency=old", ""); code != http.StatusBadRequest || !strings.Contains(body, "linearizable or stale") {
		t.Errorf("%d %s", code, body)
	}
}
