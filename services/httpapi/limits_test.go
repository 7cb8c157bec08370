package httpapi

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"

	"nekoq/services/errs"
)

func echo(c *gin.Context) {
	b, err := io.ReadAll(c.Request.Body)
	if err != nil {
		Fail(c, err)
		return
	}
	c.Data(200, "application/octet-stream", b)
}

func TestBodyLimit(t *testing.T) {
	cfg := testConfig()
	cfg.MaxBodyBytes = 100
	s := newServer(t, cfg, Deps{})
	raw(s, "PUT", "/default", echo)
	raw(s, "PUT", "/wide", echo, MaxBody(1000))
	type input struct{ Body map[string]string }
	Register(s, huma.Operation{OperationID: "typed", Method: "PUT", Path: "/typed"}, anyone,
		func(context.Context, *input) (*struct{}, error) { return nil, nil })
	base, client := start(t, s)
	for _, c := range []struct {
		path    string
		size    int
		chunked bool
		status  int
		limit   string
	}{
		{"/default", 100, false, 200, ""},
		{"/default", 101, false, 413, "100"},
		{"/default", 100, true, 200, ""},
		{"/default", 101, true, 413, "100"},
		{"/default", 1 << 20, true, 413, "100"},
		{"/wide", 1000, false, 200, ""},
		{"/wide", 1001, true, 413, "1000"},
		{"/typed", 100, false, 204, ""},
		{"/typed", 101, false, 413, "100"},
		{"/typed", 101, true, 413, "100"},
	} {
		body := bytes.Repeat([]byte("x"), c.size)
		if c.path == "/typed" {
			body = []byte(`{"a":"` + strings.Repeat("x", c.size-8) + `"}`)
		}
		var r io.Reader = bytes.NewReader(body)
		if c.chunked {
			r = io.MultiReader(r)
		}
		req, _ := http.NewRequest("PUT", base+c.path, r)
		res, err := client.Do(req)
		if err != nil {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		got, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != c.status {
			t.Errorf("%+v: status %d %s", c, res.StatusCode, got)
		}
		if c.status == 413 {
			if p := problemIn(t, res.StatusCode, res.Header, got); p.Errors[0].Field != "body" || p.Errors[0].Limit != c.limit {
				t.Errorf("%+v: %+v", c, p)
			}
		} else if c.status == 200 && !bytes.Equal(got, body) {
			t.Errorf("%+v: got %d bytes back", c, len(got))
		}
	}
}

func TestSlowBody(t *testing.T) {
	cfg := testConfig()
	cfg.BodyReadTimeout = 50 * time.Millisecond
	s := newServer(t, cfg, Deps{})
	raw(s, "PUT", "/body", echo)
	base, _ := start(t, s)
	conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, _ = io.WriteString(conn, "PUT /body HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(res.Body)
	if p := problemIn(t, res.StatusCode, res.Header, b); p.Code != "deadline_exceeded" || res.StatusCode != 504 {
		t.Errorf("%+v", p)
	}
}

// The body's read deadline must not end a handler that works on after the body
// is in.
func TestHandlerOutlivesBodyDeadline(t *testing.T) {
	cfg := testConfig()
	cfg.BodyReadTimeout = 30 * time.Millisecond
	s := newServer(t, cfg, Deps{})
	raw(s, "PUT", "/work", func(c *gin.Context) {
		if _, err := io.ReadAll(c.Request.Body); err != nil {
			Fail(c, err)
			return
		}
		work := time.NewTimer(150 * time.Millisecond)
		defer work.Stop()
		select {
		case <-work.C:
			c.String(200, "done")
		case <-c.Request.Context().Done():
			Fail(c, c.Request.Context().Err())
		}
	})
	base, client := start(t, s)
	req, _ := http.NewRequest("PUT", base+"/work", strings.NewReader("body"))
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if b, _ := io.ReadAll(res.Body); string(b) != "done" {
		t.Errorf("%s", b)
	}
}

func TestHeaderLimit(t *testing.T) {
	cfg := testConfig()
	cfg.MaxHeaderBytes = 2048
	s := newServer(t, cfg, Deps{})
	base, client := start(t, s)
	for size, status := range map[int]int{1000: 200, 3000: 413, 100000: 431} {
		req, _ := http.NewRequest("GET", base+"/healthz", nil)
		req.Header.Set("X-Large", strings.Repeat("a", size))
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != status {
			t.Errorf("%d bytes: %d %s", size, res.StatusCode, b)
		}
		if status == 413 {
			if p := problemIn(t, res.StatusCode, res.Header, b); p.Code != "too_large" || p.Errors[0].Limit != "2048" {
				t.Errorf("%+v", p)
			}
		}
	}
}

func TestConcurrencyLimit(t *testing.T) {
	cfg := testConfig()
	cfg.MaxConcurrentRequests = 2
	s := newServer(t, cfg, Deps{})
	entered, release := make(chan struct{}), make(chan struct{})
	raw(s, "GET", "/hold", func(*gin.Context) { entered <- struct{}{}; <-release })
	done := make(chan int, 2)
	for range 2 {
		go func() { done <- call(s, "GET", "/hold", "").Code }()
		<-entered
	}
	rec := call(s, "GET", "/healthz", "")
	if p := problemOfRec(t, rec); p.Code != "too_many_requests" || !p.Retryable || rec.Header().Get("Retry-After") != "1" || !strings.Contains(p.Detail, "http.max_concurrent_requests = 2") {
		t.Errorf("%s %v", rec.Body, rec.Header())
	}
	close(release)
	for range 2 {
		if code := <-done; code != 200 {
			t.Errorf("status %d", code)
		}
	}
	if rec := call(s, "GET", "/healthz", ""); rec.Code != 200 {
		t.Errorf("after the others were through: %d", rec.Code)
	}
}

func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, testConfig(), Deps{})
		block := func(c *gin.Context) {
			<-c.Request.Context().Done()
			Fail(c, c.Request.Context().Err())
		}
		raw(s, "GET", "/block", block)
		raw(s, "GET", "/long", block, Timeout(time.Hour))
		raw(s, "GET", "/child", func(c *gin.Context) {
			ctx, cancel := context.WithTimeout(c.Request.Context(), time.Hour)
			defer cancel()
			<-ctx.Done()
			Fail(c, ctx.Err())
		})
		raw(s, "GET", "/left", func(c *gin.Context) {
			d, ok := c.Request.Context().Deadline()
			c.String(200, "%v %v", ok, time.Until(d))
		})
		for _, c := range []struct {
			path, header string
			took         time.Duration
		}{
			{"/block", "", 30 * time.Second},
			{"/block", "1.5s", 1500 * time.Millisecond},
			{"/block", "1h", 30 * time.Second},
			{"/long", "", time.Hour},
			{"/child", "2s", 2 * time.Second},
		} {
			begin := time.Now()
			rec := call(s, "GET", c.path, "", RequestTimeout, c.header)
			if c.header == "" {
				begin = time.Now()
				rec = call(s, "GET", c.path, "")
			}
			if p := problemOfRec(t, rec); p.Code != "deadline_exceeded" || rec.Code != 504 || time.Since(begin) != c.took {
				t.Errorf("%+v: %+v after %v", c, p, time.Since(begin))
			}
		}
		if rec := call(s, "GET", "/left", ""); rec.Body.String() != "true 30s" {
			t.Errorf("%s", rec.Body)
		}
		for _, bad := range []string{"0s", "-1s", "5", "soon"} {
			if p := problemOfRec(t, call(s, "GET", "/left", "", RequestTimeout, bad)); p.Errors[0].Field != RequestTimeout {
				t.Errorf("%s: %+v", bad, p)
			}
		}
	})
}

// A deadline that passes without anybody asking for Done still shows in Err, and
// a context kept beyond its request is ended.
func TestRequestContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, testConfig(), Deps{})
		var kept context.Context
		raw(s, "GET", "/x", func(c *gin.Context) {
			kept = c.Request.Context()
			if kept.Err() != nil {
				t.Error(kept.Err())
			}
			time.Sleep(31 * time.Second)
			if !errors.Is(kept.Err(), context.DeadlineExceeded) || !errors.Is(context.Cause(kept), context.DeadlineExceeded) {
				t.Error(kept.Err())
			}
		})
		raw(s, "GET", "/y", func(c *gin.Context) { kept = c.Request.Context() })
		call(s, "GET", "/x", "")
		call(s, "GET", "/y", "")
		if !errors.Is(kept.Err(), context.Canceled) {
			t.Errorf("kept beyond the request: %v", kept.Err())
		}
		<-kept.Done()
		child, cancel := context.WithCancel(kept)
		defer cancel()
		<-child.Done()
	})
}

func TestGzip(t *testing.T) {
	s := newServer(t, testConfig(), Deps{})
	long := strings.Repeat("text ", 1000)
	raw(s, "GET", "/long", func(c *gin.Context) { c.String(200, long) })
	raw(s, "GET", "/short", func(c *gin.Context) { c.String(200, "short") })
	raw(s, "GET", "/bytes", func(c *gin.Context) { c.Data(200, "application/octet-stream", []byte(long)) })
	for path, want := range map[string]string{"/long": "gzip", "/short": "", "/bytes": "", "/openapi.json": "gzip", "/nope": ""} {
		if rec := call(s, "GET", path, ""); rec.Header().Get("Content-Encoding") != "" {
			t.Errorf("%s: not asked for, yet %v", path, rec.Header())
		}
		rec := call(s, "GET", path, "", "Accept-Encoding", "gzip")
		if got := rec.Header().Get("Content-Encoding"); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
		if want == "gzip" && !strings.Contains(rec.Header().Get("Vary"), "Accept-Encoding") {
			t.Errorf("%s: Vary is %q", path, rec.Header().Get("Vary"))
		}
	}
	rec := call(s, "GET", "/long", "", "Accept-Encoding", "gzip")
	zr, err := gzip.NewReader(rec.Body)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(zr); err != nil || string(b) != long {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	cfg := testConfig()
	cfg.Gzip = false
	if rec := call(newServer(t, cfg, Deps{}), "GET", "/openapi.json", "", "Accept-Encoding", "gzip"); rec.Header().Get("Content-Encoding") != "" {
		t.Error("gzip is off")
	}
}

func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	cfg := testConfig()
	for listen, want := range map[string]string{
		l.Addr().String(): "address already in use",
		"192.0.2.1:9310":  "cannot assign requested address",
	} {
		cfg.Listen = listen
		err := newServer(t, cfg, Deps{}).Start(t.Context())
		if err == nil || !strings.Contains(err.Error(), `http.listen = "`+listen+`": `+want) || !strings.Contains(err.Error(), "--set http.listen=") {
			t.Errorf("%v", err)
		}
		if e := errs.From(err); e.Details[0].Field != "http.listen" {
			t.Errorf("%+v", e)
		}
	}
}

func TestConfigValidate(t *testing.T) {
	if list := DefaultConfig().Validate(); len(list) != 0 {
		t.Errorf("the defaults: %v", list)
	}
	bad := Config{Listen: "9310", AccessLog: "some", SlowRequest: -1, GzipMinBytes: -1, DefaultPageSize: 2, MaxPageSize: 1}
	if _, err := New(bad, Deps{}); err == nil {
		t.Fatal("taken")
	} else {
		for _, f := range []string{
			"listen", "max_body_bytes", "max_header_bytes", "max_concurrent_requests", "max_waiting", "gzip_min_bytes", "request_timeout", "max_wait",
			"stream_heartbeat", "stream_write_timeout", "read_header_timeout", "body_read_timeout", "idle_timeout", "drain_timeout", "slow_request", "default_page_size", "access_log",
		} {
			if !strings.Contains(err.Error(), f+": ") {
				t.Errorf("%s is not reported: %v", f, err)
			}
		}
	}
}

func TestServeHTTPThroughEngineAndHandler(t *testing.T) {
	s := newServer(t, testConfig(), Deps{})
	rec := httptest.NewRecorder()
	s.Engine().ServeHTTP(rec, httptest.NewRequest("GET", "/healthz", nil))
	if rec.Code != 200 || s.Addr() != nil {
		t.Error(rec.Code, s.Addr())
	}
}
