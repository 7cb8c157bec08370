package httpapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"nekoq/services/errs"
	"nekoq/services/telemetry"
)

func TestHealth(t *testing.T) {
	var health, ready error
	s := newServer(t, testConfig(), Deps{
		Healthy: func(context.Context) error { return health },
		Ready:   func(context.Context) error { return ready },
		Report:  func(context.Context) string { return "raft ready\n" },
	})
	if rec := call(s, "GET", "/readyz", ""); rec.Code != 200 || rec.Body.String() != "ok\n" {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	if rec := call(s, "GET", "/readyz?verbose", ""); rec.Body.String() != "raft ready\n" {
		t.Errorf("%s", rec.Body)
	}
	ready = errors.New("raft: no leader yet")
	if p := problemOfRec(t, call(s, "GET", "/readyz", "")); p.Code != "unavailable" || p.Detail != "raft: no leader yet" {
		t.Errorf("%+v", p)
	}
	if rec := call(s, "GET", "/healthz", ""); rec.Code != 200 {
		t.Errorf("%d", rec.Code)
	}
	health = errs.New(errs.Corrupt, "state halted")
	if p := problemOfRec(t, call(s, "GET", "/healthz", "")); p.Code != "corrupt" {
		t.Errorf("%+v", p)
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	s := newServer(t, testConfig(), Deps{Metrics: reg, Gatherer: reg})
	raw(s, "GET", "/v1/things/{name}", func(c *gin.Context) { c.String(200, "x") })
	call(s, "GET", "/v1/things/a", "")
	call(s, "GET", "/v1/things/b", "")
	call(s, "GET", "/made/up/1", "")
	call(s, "GET", "/made/up/2", "")
	got := call(s, "GET", "/metrics", "").Body.String()
	for _, want := range []string{
		`nekoq_http_requests_total{class="2xx",method="GET",route="/v1/things/{name}"} 2`,
		`nekoq_http_requests_total{class="4xx",method="any",route="not found"} 2`,
		`nekoq_http_request_seconds_count{method="GET",route="/v1/things/{name}"} 2`,
		"nekoq_http_active 1", "nekoq_http_waiting 0",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s", want)
		}
	}
	if strings.Contains(got, "/made/up") {
		t.Error("a path that a client made up became a label")
	}
	if rec := call(newServer(t, testConfig(), Deps{}), "GET", "/metrics", ""); rec.Code != 404 {
		t.Errorf("without a registry: %d", rec.Code)
	}
}

func TestPprofOnRequest(t *testing.T) {
	if rec := call(newServer(t, testConfig(), Deps{}), "GET", "/debug/pprof/", ""); rec.Code != 404 {
		t.Errorf("off: %d", rec.Code)
	}
	cfg := testConfig()
	cfg.Pprof = true
	s := newServer(t, cfg, Deps{})
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap?debug=1", "/debug/pprof/cmdline", "/debug/pprof/symbol"} {
		if rec := call(s, "GET", path, ""); rec.Code != 200 || rec.Body.Len() == 0 {
			t.Errorf("%s: %d", path, rec.Code)
		}
	}
}

func TestAccessLog(t *testing.T) {
	for level, want := range map[string][]string{
		AccessLogOff:    {"status=500"},
		AccessLogErrors: {"status=503", "status=500"},
		AccessLogAll:    {"status=200", "status=404", "status=503", "status=500"},
	} {
		var log bytes.Buffer
		cfg := testConfig()
		cfg.AccessLog = level
		s := newServer(t, cfg, Deps{AccessLog: slog.New(slog.NewTextHandler(&log, nil))})
		raw(s, "GET", "/bad", func(c *gin.Context) { Fail(c, errs.New(errs.NoLeader, "no leader").Wrap(errors.New("lost n1"))) })
		call(s, "GET", "/healthz", "", "X-Request-Id", "r1")
		call(s, "GET", "/nope", "")
		call(s, "GET", "/bad", "")
		raw(s, "GET", "/defect", func(c *gin.Context) { Fail(c, errors.New("lost n1")) })
		call(s, "GET", "/defect", "")
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		if len(lines) != len(want) {
			t.Errorf("%s: %s", level, log.String())
			continue
		}
		for i := range want {
			if !strings.Contains(lines[i], want[i]) || !strings.Contains(lines[i], "request_id=") || !strings.Contains(lines[i], "method=GET") {
				t.Errorf("%s: %s", level, lines[i])
			}
		}
		if len(lines) > 0 && !strings.Contains(lines[len(lines)-1], "lost n1") {
			t.Errorf("the cause is missing: %s", lines[len(lines)-1])
		}
	}
}

// A node that is not ready yet is asked many times a second; that is no error.
func TestProbesAreNotLoggedAsErrors(t *testing.T) {
	var log bytes.Buffer
	s := newServer(t, testConfig(), Deps{
		AccessLog: slog.New(slog.NewTextHandler(&log, nil)),
		Ready:     func(context.Context) error { return errs.New(errs.NoLeader, "no leader") },
	})
	if rec := call(s, "GET", "/readyz", ""); rec.Code != 503 {
		t.Fatalf("status %d", rec.Code)
	}
	if log.Len() > 0 {
		t.Errorf("logged: %s", log.String())
	}
}

func TestDocsPage(t *testing.T) {
	s := newServer(t, testConfig(), Deps{})
	page := call(s, "GET", "/docs", "")
	if page.Code != 200 || !strings.Contains(page.Header().Get("Content-Security-Policy"), "default-src 'none'") {
		t.Fatalf("%d %v", page.Code, page.Header())
	}
	for name, ct := range docsTypes {
		rec := call(s, "GET", "/docs/"+name, "")
		if rec.Code != 200 || rec.Header().Get("Content-Type") != ct {
			t.Errorf("%s: %d %s", name, rec.Code, rec.Header().Get("Content-Type"))
		}
		if strings.Contains(rec.Body.String(), "http://") || strings.Contains(rec.Body.String(), "https://") {
			t.Errorf("%s points to another host: it must work offline", name)
		}
	}
	if p := problemOfRec(t, call(s, "GET", "/docs/..%2Fdocs.go", "")); p.Code != "not_found" {
		t.Errorf("%+v", p)
	}
}

func TestTracing(t *testing.T) {
	got := make(chan string, 4)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- string(b)
	}))
	defer collector.Close()
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	cfg := telemetry.DefaultConfig()
	cfg.TraceEndpoint = collector.URL
	tel, err := telemetry.New(t.Context(), cfg, telemetry.Info{}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, testConfig(), Deps{Tracing: tel.Tracing})
	raw(s, "GET", "/v1/traced/{name}", func(c *gin.Context) {
		if !trace.SpanContextFromContext(c.Request.Context()).IsValid() {
			t.Error("no span in the request's context")
		}
		panic("boom")
	})
	if rec := call(s, "GET", "/v1/traced/a", ""); rec.Code != 500 {
		t.Errorf("%d", rec.Code)
	}
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if body := <-got; !strings.Contains(body, "GET /v1/traced/{name}") || !strings.Contains(body, "Internal Server Error") {
		t.Errorf("%q", body)
	}
}

// A refusal that is the caller's own doing is not logged as an error, though its status
// is a 507.
func TestQuotaIsNoErrorOfTheServer(t *testing.T) {
	var log bytes.Buffer
	cfg := testConfig()
	cfg.AccessLog = AccessLogErrors
	s := newServer(t, cfg, Deps{Log: slog.New(slog.NewTextHandler(&log, nil))})
	raw(s, "GET", "/quota", func(c *gin.Context) { Fail(c, errs.New(errs.QuotaExceeded, "too many keys")) })
	raw(s, "GET", "/full", func(c *gin.Context) { Fail(c, errs.New(errs.StorageFull, "the disk is full")) })
	if rec := call(s, "GET", "/quota", ""); rec.Code != 507 || log.Len() != 0 {
		t.Errorf("%d, logged %q", rec.Code, log.String())
	}
	if rec := call(s, "GET", "/full", ""); rec.Code != 507 || !strings.Contains(log.String(), "level=ERROR") {
		t.Errorf("%d, logged %q", rec.Code, log.String())
	}
}
