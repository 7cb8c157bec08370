package httpapi

import (
	"context"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
)

func untilDone(c *gin.Context) {
	<-c.Request.Context().Done()
	c.String(200, "%v", c.Request.Context().Err())
}

// Many requests share the sweep: each ends at its own deadline, or soon after its
// client is gone, whatever the others do; then the timer rests.
func TestSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, testConfig(), Deps{})
		var wg sync.WaitGroup
		timeouts := []time.Duration{0, 7 * time.Millisecond, 40 * time.Millisecond, 3 * time.Second, 31 * time.Second, time.Hour}
		for _, timeout := range timeouts {
			raw(s, "GET", "/"+timeout.String(), untilDone, Timeout(timeout))
		}
		for _, timeout := range timeouts {
			path := "/" + timeout.String()
			for _, gone := range []time.Duration{time.Second, 10 * time.Minute, 2 * time.Hour} {
				wg.Go(func() {
					ctx, cancel := context.WithCancel(t.Context())
					defer time.AfterFunc(gone, cancel).Stop()
					began, rec := time.Now(), httptest.NewRecorder()
					s.Handler().ServeHTTP(rec, httptest.NewRequestWithContext(ctx, "GET", path, nil))
					took, why := time.Since(began), rec.Body.String()
					if timeout > 0 && timeout < gone {
						if took != timeout || why != context.DeadlineExceeded.Error() {
							t.Errorf("%s is the limit: %s after %s", timeout, why, took)
						}
					} else if took < gone || took > gone+latest || why != context.Canceled.Error() {
						t.Errorf("gone after %s: %s after %s", gone, why, took)
					}
				})
			}
		}
		wg.Wait()
		time.Sleep(2 * latest) // of the bubble's clock
		s.sweep.mu.Lock()
		defer s.sweep.mu.Unlock()
		if s.sweep.first != nil || !s.sweep.at.IsZero() {
			t.Error("the timer goes on without requests")
		}
	})
}

// Who reads a body on after its handler has ended is not looked after for ever.
func TestBodyReadAfterItsHandler(t *testing.T) {
	s := newServer(t, testConfig(), Deps{})
	var read func()
	raw(s, "PUT", "/late", func(c *gin.Context) {
		body := c.Request.Body
		read = func() { _, _ = body.Read(make([]byte, 1)) }
	})
	s.Handler().ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("PUT", "/late", strings.NewReader("some")))
	read()
	s.sweep.mu.Lock()
	defer s.sweep.mu.Unlock()
	if s.sweep.first != nil {
		t.Error("a request that has ended is looked after")
	}
}

// A client that goes away ends its request, and the contexts that hang under it, on a
// real connection; a second request on a connection is not disturbed by the first.
func TestClientThatGoesAway(t *testing.T) {
	s := newServer(t, testConfig(), Deps{})
	ended := make(chan error, 1)
	raw(s, "PUT", "/wait", func(c *gin.Context) {
		if _, err := c.GetRawData(); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(c.Request.Context(), time.Hour)
		defer cancel()
		stopped := context.AfterFunc(ctx, func() { t.Error("a stopped function ran") })
		if !stopped() || stopped() {
			t.Error("a function that did not run yet is stopped once")
		}
		<-ctx.Done()
		ended <- ctx.Err()
	})
	raw(s, "PUT", "/echo", echo)
	base, _ := start(t, s)
	conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	const put = " HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"
	for range 3 {
		if _, err := conn.Write([]byte("PUT /echo" + put)); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, 4096)
		for got := ""; !strings.HasSuffix(got, "\r\n\r\nbody"); {
			n, err := conn.Read(answer)
			if err != nil {
				t.Fatalf("%v after %q", err, got)
			}
			got += string(answer[:n])
		}
	}
	if _, err := conn.Write([]byte("PUT /wait" + put)); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != context.Canceled {
		t.Error(err)
	}
}
