package httpapi

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"
	"go.uber.org/goleak"

	"nekoq/services/auth"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

func testConfig() Config {
	c := DefaultConfig()
	c.Listen = "127.0.0.1:0"
	return c
}

func newServer(t testing.TB, cfg Config, deps Deps) *Server {
	t.Helper()
	if deps.Log == nil {
		deps.Log = quiet
	}
	s, err := New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// start opens s on a free port and gives its base URL and a client of its own.
func start(t testing.TB, s *Server) (string, *http.Client) {
	t.Helper()
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{DisableCompression: true}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return "http://" + s.Addr().String(), &http.Client{Transport: tr}
}

var anyone = On(auth.Read, "test", "thing")

func rawOp(id, method, path string, params ...*huma.Param) huma.Operation {
	return huma.Operation{
		OperationID: id, Method: method, Path: path, Summary: id, Tags: []string{"test"}, Parameters: params,
		Responses: map[string]*huma.Response{"200": Text("text")},
	}
}

func raw(s *Server, method, path string, h gin.HandlerFunc, opts ...Option) {
	Raw(s, rawOp(method+path, method, path), anyone, h, opts...)
}

func call(s *Server, method, target, body string, header ...string) *httptest.ResponseRecorder {
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req := httptest.NewRequest(method, target, r)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	s.Handler().ServeHTTP(rec, req)
	return rec
}

// problemIn reads a problem and checks what every one of them must have.
func problemIn(t testing.TB, status int, h http.Header, body []byte) Problem {
	t.Helper()
	var p Problem
	if err := json.Unmarshal(body, &p); err != nil {
		t.Fatalf("no problem document: %v: %q", err, body)
	}
	if h.Get("Content-Type") != ProblemType {
		t.Errorf("content type %q", h.Get("Content-Type"))
	}
	if p.Status != status || p.Code == "" || p.Title == "" || p.Detail == "" || p.Type != "/docs#code-"+p.Code {
		t.Errorf("incomplete problem for status %d: %s", status, body)
	}
	if p.RequestID == "" || p.RequestID != h.Get("X-Request-Id") {
		t.Errorf("request_id %q, header %q", p.RequestID, h.Get("X-Request-Id"))
	}
	return p
}

func problemOfRec(t testing.TB, rec *httptest.ResponseRecorder) Problem {
	t.Helper()
	return problemIn(t, rec.Code, rec.Header(), rec.Body.Bytes())
}
