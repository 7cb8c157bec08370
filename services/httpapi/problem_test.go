package httpapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"

	"nekoq/services/errs"
)

func TestEveryCodeIsAProblem(t *testing.T) {
	s := newServer(t, testConfig(), Deps{})
	type input struct {
		Code string `path:"code"`
	}
	fail := func(code string) error {
		e := errs.New(errs.Code(code), "about %s", code).With(errs.Detail{Field: "f", Value: "v", Limit: "l", Help: "h"})
		return fmt.Errorf("around it: %w", e.Wrap(errors.New("secret cause")))
	}
	Register(s, huma.Operation{OperationID: "typed", Method: "GET", Path: "/typed/{code}"}, anyone,
		func(_ context.Context, in *input) (*struct{}, error) { return nil, fail(in.Code) })
	raw(s, "GET", "/raw/{code}", func(c *gin.Context) { Fail(c, fail(Param(c, "code"))) })
	for _, info := range errs.Table {
		for _, base := range []string{"/typed/", "/raw/"} {
			rec := call(s, "GET", base+string(info.Code), "")
			if rec.Code != info.Status {
				t.Errorf("%s%s: status %d, want %d", base, info.Code, rec.Code, info.Status)
			}
			p := problemOfRec(t, rec)
			want := ProblemDetail{Field: "f", Value: "v", Limit: "l", Help: "h"}
			if p.Code != string(info.Code) || p.Retryable != info.Retryable || p.Title != info.Doc || p.Detail != "about "+string(info.Code) ||
				p.Instance != base+string(info.Code) || len(p.Errors) != 1 || p.Errors[0] != want {
				t.Errorf("%s%s: %+v", base, info.Code, p)
			}
			if got := rec.Header().Get("Retry-After"); got != retryAfter(info.Code) {
				t.Errorf("%s: Retry-After %q", info.Code, got)
			}
			if strings.Contains(rec.Body.String(), "secret cause") {
				t.Errorf("%s: the cause is shown", info.Code)
			}
		}
	}
}

func TestForeignErrors(t *testing.T) {
	var log bytes.Buffer
	s := newServer(t, testConfig(), Deps{Log: slog.New(slog.NewTextHandler(&log, nil))})
	raw(s, "GET", "/plain", func(c *gin.Context) { Fail(c, errors.New("disk on fire")) })
	raw(s, "GET", "/late", func(c *gin.Context) { Fail(c, context.DeadlineExceeded) })
	rec := call(s, "GET", "/plain", "")
	if p := problemOfRec(t, rec); p.Code != "internal" || strings.Contains(rec.Body.String(), "fire") {
		t.Errorf("%s", rec.Body)
	}
	if !strings.Contains(log.String(), "disk on fire") {
		t.Errorf("the log lacks the cause: %s", log.String())
	}
	if p := problemOfRec(t, call(s, "GET", "/late", "")); p.Code != "deadline_exceeded" || !p.Retryable {
		t.Errorf("%+v", p)
	}
}

func TestNoRouteNoMethod(t *testing.T) {
	s := newServer(t, testConfig(), Deps{})
	p := problemOfRec(t, call(s, "GET", "/v1/nothing/here?x=1", ""))
	if p.Code != "not_found" || p.Instance != "/v1/nothing/here" {
		t.Errorf("%+v", p)
	}
	rec := call(s, "DELETE", "/healthz", "")
	if p := problemOfRec(t, rec); p.Code != "method_not_allowed" || rec.Header().Get("Allow") != "GET, HEAD" || p.Errors[0].Limit != "GET, HEAD" {
		t.Errorf("%+v %v", p, rec.Header())
	}
	// A trailing slash is another path, not a redirect that drops the body.
	if rec := call(s, "GET", "/healthz/", ""); rec.Code != 404 {
		t.Errorf("status %d", rec.Code)
	}
}

func TestPanic(t *testing.T) {
	var log bytes.Buffer
	s := newServer(t, testConfig(), Deps{Log: slog.New(slog.NewTextHandler(&log, nil))})
	raw(s, "GET", "/early", func(*gin.Context) { panic("boom") })
	raw(s, "GET", "/half", func(c *gin.Context) {
		_, _ = c.Writer.WriteString("half an ans")
		c.Writer.Flush()
		panic("boom")
	})
	base, client := start(t, s)
	res, body := get(t, client, base+"/early")
	p := problemIn(t, res.StatusCode, res.Header, body)
	if p.Code != "internal" || !strings.Contains(p.Detail, p.RequestID) {
		t.Errorf("%+v", p)
	}
	if !strings.Contains(log.String(), p.RequestID) || !strings.Contains(log.String(), "problem_test.go") {
		t.Errorf("the log lacks request id or stack: %s", log.String())
	}
	if res, err := client.Get(base + "/half"); err == nil {
		if _, err := new(bytes.Buffer).ReadFrom(res.Body); err == nil {
			t.Error("half an answer looked whole")
		}
		_ = res.Body.Close()
	}
	if n := s.active.Load(); n != 0 {
		t.Errorf("%d requests still counted", n)
	}
}

func TestRequestID(t *testing.T) {
	s := newServer(t, testConfig(), Deps{})
	raw(s, "GET", "/id", func(c *gin.Context) { c.String(200, RequestID(c.Request.Context())) })
	first := call(s, "GET", "/id", "").Body.String()
	if second := call(s, "GET", "/id", "").Body.String(); first == "" || first == second {
		t.Errorf("made ids %q and %q", first, second)
	}
	for id, keep := range map[string]bool{
		"abc-123_x.y:z/+=@": true, strings.Repeat("a", 128): true, strings.Repeat("a", 129): false, "a b": false, "ä": false, `"`: false, "a\tb": false,
	} {
		rec := call(s, "GET", "/id", "", "X-Request-Id", id)
		if got := rec.Header().Get("X-Request-Id"); (got == id) != keep || got != rec.Body.String() {
			t.Errorf("%q: header %q, context %q", id, got, rec.Body)
		}
	}
	if RequestID(context.Background()) != "" {
		t.Error("an id out of nowhere")
	}
}

func TestProblemValueIsCut(t *testing.T) {
	s := newServer(t, testConfig(), Deps{})
	raw(s, "GET", "/cut", func(c *gin.Context) {
		Fail(c, errs.New(errs.InvalidArgument, "x").With(errs.Detail{Value: strings.Repeat("ä", 500)}))
	})
	p := problemOfRec(t, call(s, "GET", "/cut", ""))
	if v := p.Errors[0].Value; len(v) > maxValueShown+32 || !strings.HasSuffix(v, "(1000 bytes)") || strings.Contains(v, "\ufffd") {
		t.Errorf("%q", v)
	}
}

func get(t testing.TB, client *http.Client, url string) (*http.Response, []byte) {
	t.Helper()
	res, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	var b bytes.Buffer
	if _, err := b.ReadFrom(res.Body); err != nil {
		t.Fatal(err)
	}
	return res, b.Bytes()
}
