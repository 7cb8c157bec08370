package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newTelemetry(t *testing.T, cfg Config, out io.Writer) *Telemetry {
	t.Helper()
	tel, err := New(t.Context(), cfg, Info{Version: "1.2.3", Commit: "abc", NodeID: "n1"}, out)
	if err != nil {
		t.Fatal(err)
	}
	return tel
}

func TestLevelChangesAtRunTime(t *testing.T) {
	var out bytes.Buffer
	tel := newTelemetry(t, DefaultConfig(), &out)
	tel.Log.Debug("one")
	if err := tel.SetLevel("debug"); err != nil || tel.Level() != slog.LevelDebug {
		t.Fatal(err)
	}
	tel.Log.With("a", 1).Debug("two")
	if err := tel.SetLevel("loud"); err == nil || !strings.Contains(err.Error(), "debug, info, warn or error") {
		t.Errorf("%v", err)
	}
	if err := tel.SetLevel("ERROR"); err != nil {
		t.Error(err)
	}
	tel.Log.Warn("three")
	if got := out.String(); strings.Contains(got, "one") || !strings.Contains(got, "msg=two a=1") || strings.Contains(got, "three") {
		t.Errorf("%s", got)
	}
}

func TestJSONAndSource(t *testing.T) {
	var out bytes.Buffer
	cfg := DefaultConfig()
	cfg.LogFormat, cfg.LogSource = FormatJSON, true
	newTelemetry(t, cfg, &out).Log.Info("hello", slog.Int("n", 5))
	var line struct {
		Msg    string
		N      int
		Source struct{ File string }
	}
	if err := json.Unmarshal(out.Bytes(), &line); err != nil || line.Msg != "hello" || line.N != 5 || !strings.HasSuffix(line.Source.File, "telemetry_test.go") {
		t.Errorf("%v: %s", err, out.String())
	}
}

func TestSecretsStayOut(t *testing.T) {
	var out bytes.Buffer
	log := newTelemetry(t, DefaultConfig(), &out).Log
	s := Secret("hunter2")
	log.Info("x", slog.String("password", "hunter2"), slog.String("join_token", "hunter2"), slog.Any("any", s), slog.Group("auth", slog.String("token", "hunter2")),
		slog.String("fencing_token", "17"), slog.String("text", fmt.Sprintf("%v %s %#v %+v", s, s, s, struct{ S Secret }{s})))
	if got := out.String(); strings.Contains(got, "hunter2") || !strings.Contains(got, "fencing_token=17") {
		t.Errorf("%s", got)
	}
	if s.Reveal() != "hunter2" || Secret("").String() != "" {
		t.Error("Reveal or empty")
	}
	for name, want := range map[string]bool{
		"cluster.join_token": true, "token": true, "db_password": true, "client_secret": true, "auth.token": true,
		"page_token": false, "tokens": false, "secretary": false, "http.listen": false,
	} {
		if IsSecretName(name) != want {
			t.Errorf("%s: want %v", name, want)
		}
	}
}

// counter counts the writes that reach the output.
type counter struct {
	mu  sync.Mutex
	buf bytes.Buffer
	n   int
}

func (c *counter) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	return c.buf.Write(p)
}

func (c *counter) writes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

func (c *counter) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.String()
}

func TestLineBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out counter
		b := NewLineBuffer(&out, time.Second)
		for i := range 10 {
			_, _ = fmt.Fprintf(b, "line %d\n", i)
		}
		if out.writes() != 0 {
			t.Errorf("%d writes at once", out.writes())
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if out.writes() != 1 || strings.Count(out.String(), "\n") != 10 {
			t.Errorf("%d writes: %s", out.writes(), out.String())
		}
		line := strings.Repeat("x", 999) + "\n"
		for range 100 {
			_, _ = io.WriteString(b, line)
		}
		if out.writes() != 1+100*1000/lineBufferSize {
			t.Errorf("%d writes", out.writes())
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		before := out.writes()
		_, _ = io.WriteString(b, "late\n")
		if out.writes() != before+1 || strings.Count(out.String(), "\n") != 111 {
			t.Errorf("%d writes after close", out.writes()-before)
		}
	})
}

func TestLineBufferConcurrent(t *testing.T) {
	var out counter
	b := NewLineBuffer(&lockedWriter{w: &out}, time.Millisecond)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				_, _ = io.WriteString(b, "0123456789\n")
			}
		})
	}
	wg.Wait()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(out.String(), "0123456789\n"); got != 8000 {
		t.Errorf("%d whole lines", got)
	}
}

func TestAccessLogIsFlushedAtShutdown(t *testing.T) {
	var out bytes.Buffer
	cfg := DefaultConfig()
	cfg.AccessLogFlush = time.Hour
	tel := newTelemetry(t, cfg, &out)
	tel.AccessLog.Info("request")
	if out.Len() != 0 {
		t.Error("written at once")
	}
	if err := tel.Shutdown(t.Context()); err != nil || !strings.Contains(out.String(), "msg=request") {
		t.Errorf("%v: %s", err, out.String())
	}
}

func TestRegistry(t *testing.T) {
	tel := newTelemetry(t, DefaultConfig(), io.Discard)
	var waiting atomic.Int64
	waiting.Store(3)
	h := NewHTTP(tel.Registry)
	h.Gauge("waiting", "help", &waiting)
	r := h.Route("GET", "/x")
	r.Observe(200, time.Millisecond)
	r.Observe(204, time.Millisecond)
	r.Observe(999, time.Millisecond)
	families, err := tel.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, f := range families {
		have[f.GetName()] = true
		if f.GetName() != "nekoq_http_requests_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			class := m.GetLabel()[0].GetValue()
			if want := map[string]float64{"2xx": 2, "other": 1}[class]; m.GetCounter().GetValue() != want {
				t.Errorf("%s: %v, want %v", class, m.GetCounter().GetValue(), want)
			}
		}
	}
	for _, name := range []string{"nekoq_build_info", "go_goroutines", "process_open_fds", "nekoq_http_waiting", "nekoq_http_request_seconds"} {
		if !have[name] {
			t.Errorf("no %s", name)
		}
	}
	NewHTTP(nil).Gauge("x", "x", &waiting) // no registry: nothing happens
}

func TestTracingOff(t *testing.T) {
	tel := newTelemetry(t, DefaultConfig(), io.Discard)
	if tel.Tracing.Enabled() {
		t.Fatal("on by default")
	}
	ctx := context.Background()
	if n := testing.AllocsPerRun(100, func() {
		c, end := tel.Tracing.Start(ctx, "x")
		end(nil)
		_ = c
	}); n != 0 {
		t.Errorf("%v allocations while off", n)
	}
}

func TestTracing(t *testing.T) {
	got := make(chan string, 8)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- r.URL.Path + " " + string(b)
	}))
	defer collector.Close()
	cfg := DefaultConfig()
	cfg.TraceEndpoint = collector.URL
	tel := newTelemetry(t, cfg, io.Discard)
	req := httptest.NewRequest("GET", "/v1/x", nil)
	req.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	ctx, end := tel.Tracing.Request(t.Context(), req, "/v1/{name}")
	if id := trace.SpanContextFromContext(ctx).TraceID().String(); id != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("trace id %s", id)
	}
	_, endInner := tel.Tracing.Start(ctx, "inner work")
	endInner(io.EOF)
	end(503)
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	body := <-got
	for _, want := range []string{"/v1/traces ", "GET /v1/{name}", "inner work", "nekoq", "1.2.3", "n1"} {
		if !strings.Contains(body, want) {
			t.Errorf("the export lacks %q", want)
		}
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

func TestConfigValidate(t *testing.T) {
	if list := DefaultConfig().Validate(); len(list) != 0 {
		t.Errorf("the defaults: %v", list)
	}
	_, err := New(t.Context(), Config{LogLevel: "x", LogFormat: "x", TraceEndpoint: "ftp://x", TraceSampleRatio: 2}, Info{}, nil)
	for _, field := range []string{"log_level", "log_format", "access_log_flush", "trace_endpoint", "trace_sample_ratio", "trace_timeout"} {
		if err == nil || !strings.Contains(err.Error(), field+": ") {
			t.Errorf("%s is not reported: %v", field, err)
		}
	}
}

func BenchmarkAccessLine(b *testing.B) {
	tel, err := New(b.Context(), DefaultConfig(), Info{}, io.Discard)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		tel.AccessLog.LogAttrs(b.Context(), slog.LevelInfo, "request", slog.String("request_id", "6a1a83b4f272-1"), slog.String("method", "GET"),
			slog.String("path", "/v1/warehouse/kv/a"), slog.Int("status", 200), slog.Int("bytes", 60), slog.Duration("took", 12345), slog.String("remote", "127.0.0.1:12345"))
	}
}

func BenchmarkObserve(b *testing.B) {
	r := NewHTTP(prometheus.NewRegistry()).Route("GET", "/x")
	for b.Loop() {
		r.Observe(200, 100*time.Microsecond)
	}
}
