package httpapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"

	"nekoq/services/errs"
)

// pollRoutes adds a raw and a typed long poll over one channel.
func pollRoutes(s *Server, news <-chan string) {
	wait := func(ctx context.Context, d time.Duration) (string, error) {
		var got string
		timedOut, err := LongPoll(ctx, d, func(ctx context.Context) error {
			select {
			case got = <-news:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		if timedOut {
			got = "nothing new"
		}
		return got, err
	}
	Raw(s, rawOp("poll", "GET", "/poll", WaitParams()...), anyone, func(c *gin.Context) {
		w, err := WaitOf(c)
		if err != nil {
			Fail(c, err)
			return
		}
		got, err := wait(c.Request.Context(), w.For)
		if err != nil {
			Fail(c, err)
			return
		}
		c.String(200, "%s after %d %v", got, w.Revision, w.HasRevision)
	})
	type output struct{ Body string }
	Register(s, huma.Operation{OperationID: "typed", Method: "GET", Path: "/typed"}, anyone, func(ctx context.Context, in *WaitQuery) (*output, error) {
		d, err := in.Duration(s)
		if err != nil {
			return nil, err
		}
		got, err := wait(ctx, d)
		return &output{got}, err
	})
}

func TestLongPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, testConfig(), Deps{})
		news := make(chan string)
		pollRoutes(s, news)
		begin := time.Now()
		// Longer than request_timeout: the poll's own bound counts.
		if got := call(s, "GET", "/poll?wait=5m&revision=7", "").Body.String(); got != "nothing new after 7 true" || time.Since(begin) != 5*time.Minute {
			t.Errorf("%s after %v", got, time.Since(begin))
		}
		begin = time.Now()
		if rec := call(s, "GET", "/poll?wait=5m", "", RequestTimeout, "3s"); rec.Code != 504 || time.Since(begin) != 3*time.Second {
			t.Errorf("the client's own deadline: %s after %v", rec.Body, time.Since(begin))
		}
		for _, path := range []string{"/poll?wait=1m", "/typed?wait=1m"} {
			go func() { news <- "news" }()
			if got := call(s, "GET", path, "").Body.String(); !strings.Contains(got, "news") {
				t.Errorf("%s: %s", path, got)
			}
		}
		for _, q := range []string{"wait=abc", "wait=-1s", "wait=10m1s", "wait=5"} {
			for _, path := range []string{"/poll?", "/typed?"} {
				if p := problemOfRec(t, call(s, "GET", path+q, "")); p.Errors[0].Field != "wait" || !strings.Contains(p.Errors[0].Limit, "http.max_wait = 10m0s") {
					t.Errorf("%s: %+v", q, p)
				}
			}
		}
		for _, q := range []string{"revision=-1", "revision=x", "revision=18446744073709551616"} {
			for _, path := range []string{"/poll?", "/typed?"} {
				if p := problemOfRec(t, call(s, "GET", path+q, "")); p.Errors[0].Field != "revision" || p.Code != "invalid_argument" {
					t.Errorf("%s: %+v", q, p)
				}
			}
		}
	})
}

func TestWaitingHasItsOwnLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig()
		cfg.MaxConcurrentRequests, cfg.MaxWaiting = 1, 2
		s := newServer(t, cfg, Deps{})
		news := make(chan string)
		pollRoutes(s, news)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				if rec := call(s, "GET", "/poll?wait=1m", ""); rec.Code != 200 {
					t.Errorf("%s", rec.Body)
				}
			})
			synctest.Wait()
		}
		if p := problemOfRec(t, call(s, "GET", "/poll?wait=1m", "")); p.Code != "too_many_requests" || !strings.Contains(p.Detail, "http.max_waiting = 2") {
			t.Errorf("%+v", p)
		}
		if rec := call(s, "GET", "/healthz", ""); rec.Code != 200 {
			t.Errorf("waiting requests take the running ones' place: %s", rec.Body)
		}
		wg.Wait()
		if s.active.Load() != 0 || s.waiting.Load() != 0 {
			t.Errorf("%d running, %d waiting at the end", s.active.Load(), s.waiting.Load())
		}
	})
}

func TestDrain(t *testing.T) {
	for _, inProcess := range []bool{true, false} {
		t.Run("in process "+strconv.FormatBool(inProcess), func(t *testing.T) {
			s := newServer(t, testConfig(), Deps{})
			pollRoutes(s, nil)
			entered, release := make(chan struct{}), make(chan struct{})
			raw(s, "GET", "/work", func(c *gin.Context) {
				close(entered)
				<-release
				c.String(200, "finished")
			})
			get := func(path string) (int, string) {
				rec := call(s, "GET", path, "")
				return rec.Code, rec.Body.String()
			}
			if !inProcess {
				base, client := start(t, s)
				get = func(path string) (int, string) {
					res, err := client.Get(base + path)
					if err != nil {
						return 0, err.Error()
					}
					defer func() { _ = res.Body.Close() }()
					b, _ := io.ReadAll(res.Body)
					return res.StatusCode, string(b)
				}
				// A connection that never sends anything must not hold up the stop.
				idle, err := net.Dial("tcp", s.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = idle.Close() }()
			}
			var wg sync.WaitGroup
			wg.Go(func() {
				if code, body := get("/work"); code != 200 || body != "finished" {
					t.Errorf("running request: %d %s", code, body)
				}
			})
			<-entered
			polled := make(chan struct{})
			wg.Go(func() {
				defer close(polled)
				if code, body := get("/poll?wait=10m"); code != 503 || !strings.Contains(body, `"shutting_down"`) {
					t.Errorf("long poll: %d %s", code, body)
				}
			})
			eventually(t, func() bool { return s.waiting.Load() == 1 })
			drained := make(chan error, 1)
			go func() { drained <- s.Drain(t.Context()) }()
			<-polled
			select {
			case err := <-drained:
				t.Errorf("the drain did not wait for the running request: %v", err)
			default:
			}
			if inProcess {
				if code, body := get("/healthz"); code != 503 || !strings.Contains(body, `"shutting_down"`) {
					t.Errorf("new request: %d %s", code, body)
				}
			}
			close(release)
			begin := time.Now()
			if err := <-drained; err != nil {
				t.Error(err)
			}
			if took := time.Since(begin); took > 4*time.Second {
				t.Errorf("the drain took %v after the last request", took)
			}
			wg.Wait()
		})
	}
}

func TestDrainDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, testConfig(), Deps{})
		release := make(chan struct{})
		raw(s, "GET", "/work", func(*gin.Context) { <-release })
		go call(s, "GET", "/work", "")
		synctest.Wait()
		begin := time.Now()
		err := s.Drain(t.Context())
		if errs.CodeOf(err) != errs.DeadlineExceeded || !strings.Contains(err.Error(), "1 running request") || time.Since(begin) != 15*time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		close(release)
	})
}

func eventually(t testing.TB, ok func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("did not come true within 10 s")
		}
	}
}

// feed is a source of numbered events for streams.
type feed struct{ ch chan Event }

func (f *feed) next(ctx context.Context) ([]Event, error) {
	select {
	case e, ok := <-f.ch:
		if !ok {
			return nil, errs.New(errs.Compacted, "compacted to 9")
		}
		return []Event{e}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func streamServer(t *testing.T, cfg Config, f *feed) (*Server, string, *http.Client) {
	s := newServer(t, cfg, Deps{})
	Raw(s, rawOp("stream", "GET", "/stream", WaitParams()...), anyone, func(c *gin.Context) {
		rev, ok, err := ResumeFrom(c)
		if err != nil {
			Fail(c, err)
			return
		}
		if !WantsStream(c) {
			c.String(200, "no stream")
			return
		}
		Stream(c, func(ctx context.Context) ([]Event, error) {
			if ok {
				ok = false
				return []Event{{ID: rev, Type: "resumed", Data: rev}}, nil
			}
			return f.next(ctx)
		})
	})
	base, client := start(t, s)
	return s, base, client
}

func openStream(t *testing.T, client *http.Client, url string, header ...string) (*http.Response, *bufio.Scanner) {
	t.Helper()
	req, _ := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	req.Header.Set("Accept", StreamType)
	req.Header.Set("Accept-Encoding", "gzip")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	sc := bufio.NewScanner(res.Body)
	if res.StatusCode == 200 {
		if got := block(sc); got != ": open" {
			t.Errorf("first block: %q", got)
		}
	}
	return res, sc
}

// block reads up to the next empty line.
func block(sc *bufio.Scanner) string {
	var lines []string
	for sc.Scan() && sc.Text() != "" {
		lines = append(lines, sc.Text())
	}
	return strings.Join(lines, "|")
}

func TestStream(t *testing.T) {
	f := &feed{ch: make(chan Event, 10)}
	s, base, client := streamServer(t, testConfig(), f)
	res, sc := openStream(t, client, base+"/stream")
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != StreamType || res.Header.Get("Content-Encoding") != "" {
		t.Fatalf("%d %v", res.StatusCode, res.Header)
	}
	f.ch <- Event{ID: 7, Type: "put", Data: map[string]string{"key": "a"}}
	if got := block(sc); got != `id: 7|event: put|data: {"key":"a"}` {
		t.Errorf("%s", got)
	}
	f.ch <- Event{ID: 8, Data: []byte(`{"raw":1}`)}
	if got := block(sc); got != `id: 8|data: {"raw":1}` {
		t.Errorf("%s", got)
	}
	f.ch <- Event{Data: json.RawMessage(`[]`)}
	if got := block(sc); got != `data: []` {
		t.Errorf("%s", got)
	}
	if s.waiting.Load() != 1 || s.active.Load() != 0 {
		t.Errorf("%d waiting, %d running", s.waiting.Load(), s.active.Load())
	}
	close(f.ch)
	got := block(sc)
	if !strings.HasPrefix(got, `event: error|data: {"type":`) || !strings.Contains(got, `"code":"compacted"`) {
		t.Errorf("%s", got)
	}
	if sc.Scan() {
		t.Errorf("more after the end: %s", sc.Text())
	}
}

func TestStreamResume(t *testing.T) {
	f := &feed{ch: make(chan Event, 1)}
	_, base, client := streamServer(t, testConfig(), f)
	_, sc := openStream(t, client, base+"/stream?revision=5")
	if got := block(sc); got != "id: 5|event: resumed|data: 5" {
		t.Errorf("%s", got)
	}
	_, sc = openStream(t, client, base+"/stream?revision=5", "Last-Event-ID", "9")
	if got := block(sc); got != "id: 9|event: resumed|data: 9" {
		t.Errorf("%s", got)
	}
	res, sc := openStream(t, client, base+"/stream", "Last-Event-ID", "x")
	sc.Scan()
	if p := problemIn(t, res.StatusCode, res.Header, sc.Bytes()); p.Errors[0].Field != "Last-Event-ID" {
		t.Errorf("%+v", p)
	}
}

func TestStreamHeartbeatAndDrain(t *testing.T) {
	cfg := testConfig()
	cfg.StreamHeartbeat = 20 * time.Millisecond
	f := &feed{ch: make(chan Event)}
	s, base, client := streamServer(t, cfg, f)
	_, sc := openStream(t, client, base+"/stream")
	for range 2 {
		if got := block(sc); got != ": still here" {
			t.Errorf("%q", got)
		}
	}
	f.ch <- Event{ID: 1, Data: 1}
	for {
		got := block(sc)
		if got == "id: 1|data: 1" {
			break
		}
		if got != ": still here" {
			t.Fatalf("%q", got)
		}
	}
	drained := make(chan error, 1)
	go func() { drained <- s.Drain(t.Context()) }()
	var last string
	for {
		got := block(sc)
		if got == "" {
			break
		}
		last = got
	}
	if !strings.Contains(last, `"code":"shutting_down"`) {
		t.Errorf("%s", last)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

func TestStreamClientGoes(t *testing.T) {
	f := &feed{ch: make(chan Event)}
	s, base, client := streamServer(t, testConfig(), f)
	res, _ := openStream(t, client, base+"/stream")
	eventually(t, func() bool { return s.waiting.Load() == 1 })
	_ = res.Body.Close()
	eventually(t, func() bool { return s.waiting.Load() == 0 })
}

func TestStreamSlowReader(t *testing.T) {
	cfg := testConfig()
	cfg.StreamWriteTimeout = 50 * time.Millisecond
	f := &feed{ch: make(chan Event)}
	s, base, client := streamServer(t, cfg, f)
	openStream(t, client, base+"/stream") // and never read
	eventually(t, func() bool { return s.waiting.Load() == 1 })
	big := make([]byte, 1<<20)
	for i := range big {
		big[i] = '1'
	}
	for s.waiting.Load() == 1 {
		select {
		case f.ch <- Event{ID: 1, Data: big}:
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func TestStreamMarshalFailure(t *testing.T) {
	f := &feed{ch: make(chan Event, 1)}
	_, base, client := streamServer(t, testConfig(), f)
	_, sc := openStream(t, client, base+"/stream")
	f.ch <- Event{ID: 1, Data: make(chan int)}
	if got := block(sc); !strings.Contains(got, `"code":"internal"`) {
		t.Errorf("%s", got)
	}
}

func TestLongPollOutsideOfARequest(t *testing.T) {
	timedOut, err := LongPoll(t.Context(), time.Millisecond, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	if !timedOut || err != nil {
		t.Errorf("%v %v", timedOut, err)
	}
	// The end of the wait in a service's own words, and an end that is not the wait's.
	timedOut, err = LongPoll(t.Context(), time.Millisecond, func(ctx context.Context) error {
		<-ctx.Done()
		return errs.New(errs.DeadlineExceeded, "no news")
	})
	if !timedOut || err != nil {
		t.Errorf("%v %v", timedOut, err)
	}
	if timedOut, err = LongPoll(t.Context(), time.Hour, func(context.Context) error { return context.DeadlineExceeded }); timedOut || err == nil {
		t.Errorf("a deadline inside is not the wait's: %v %v", timedOut, err)
	}
	other := errors.New("other")
	if _, err := LongPoll(t.Context(), time.Second, func(context.Context) error { return other }); !errors.Is(err, other) {
		t.Errorf("%v", err)
	}
}

// What follows a wait has the request's whole timeout again, however long it was, and
// also when somebody had asked for Done before.
func TestAfterALongPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, testConfig(), Deps{})
		raw(s, "GET", "/poll", func(c *gin.Context) {
			ctx := c.Request.Context()
			done := ctx.Done()
			if timedOut, err := LongPoll(ctx, 5*time.Minute, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }); !timedOut || err != nil {
				t.Error(timedOut, err)
			}
			if at, ok := ctx.Deadline(); ctx.Err() != nil || !ok || time.Until(at) != 30*time.Second {
				t.Errorf("after the wait: %v, deadline in %s", ctx.Err(), time.Until(at))
			}
			began := time.Now()
			<-done
			if took := time.Since(began); took != 30*time.Second || !errors.Is(ctx.Err(), context.DeadlineExceeded) {
				t.Errorf("%v after %s", ctx.Err(), took)
			}
		})
		call(s, "GET", "/poll", "")
	})
}
