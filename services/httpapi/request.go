package httpapi

import (
	"context"
	"net/http"
	"sync"
	"time"

	"nekoq/services/auth"
	"nekoq/services/errs"
)

// request is one request's state and its context in a single allocation. It
// carries the request id, the principal and the deadline; the timer behind the
// deadline is only made when somebody asks for Done, which a cheap read never
// does. It is not pooled: services may keep the context beyond the handler.
type request struct {
	parent    context.Context
	srv       *Server
	route     *route
	path      string // as the client sent it, decoded
	id        string
	idHeader  [1]string // backs the X-Request-Id header value without another allocation
	principal auth.Principal
	start     time.Time
	deadline  time.Time
	asked     bool             // the client set the deadline by the Request-Timeout header
	body      *body            // nil for a request without one
	endSpan   func(status int) // nil when tracing is off
	cause     error            // first server-side error, for the access log; handler's goroutine only
	in, out   http.Header      // of the request and of its answer
	condition string           // the header that demands a revision, "" for none

	mu     sync.Mutex
	inner  context.Context // made by the first Done
	cancel context.CancelFunc
	ended  bool
	parked bool // counted under waiting instead of active
}

type requestKey struct{}

// requestOf gives the state behind ctx, nil outside of a request of this package.
func requestOf(ctx context.Context) *request {
	r, _ := ctx.Value(requestKey{}).(*request)
	return r
}

// RequestID gives the request's id as it stands in the X-Request-Id header, ""
// outside of a request.
func RequestID(ctx context.Context) string {
	if r := requestOf(ctx); r != nil {
		return r.id
	}
	return ""
}

func (r *request) Deadline() (time.Time, bool) {
	if d, ok := r.parent.Deadline(); ok && (r.deadline.IsZero() || d.Before(r.deadline)) {
		return d, true
	}
	return r.deadline, !r.deadline.IsZero()
}

// Done makes the cancellable context on first use. Package context recognises
// it through Value, so that children of r need no goroutine.
func (r *request) Done() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.inner == nil {
		if r.deadline.IsZero() {
			r.inner, r.cancel = context.WithCancel(r.parent)
		} else {
			r.inner, r.cancel = context.WithDeadline(r.parent, r.deadline)
		}
		if r.ended {
			r.cancel()
		}
	}
	return r.inner.Done()
}

func (r *request) Err() error {
	r.mu.Lock()
	inner, ended := r.inner, r.ended
	r.mu.Unlock()
	if inner != nil {
		return inner.Err()
	}
	if err := r.parent.Err(); err != nil {
		return err
	}
	if ended {
		return context.Canceled
	}
	if !r.deadline.IsZero() && !time.Now().Before(r.deadline) {
		// Settle it: a later Done must agree.
		<-r.Done()
		return context.DeadlineExceeded
	}
	return nil
}

func (r *request) Value(key any) any {
	switch key {
	case any(requestKey{}):
		return r
	case auth.ContextKey:
		return &r.principal
	}
	r.mu.Lock()
	inner := r.inner
	r.mu.Unlock()
	if inner != nil {
		return inner.Value(key)
	}
	return r.parent.Value(key)
}

func (r *request) end() {
	r.mu.Lock()
	r.ended = true
	cancel := r.cancel
	r.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}

// park moves the request from the running to the waiting ones, which have a
// limit of their own.
func (r *request) park() error {
	if r.parked {
		return nil
	}
	s := r.srv
	if n := s.waiting.Add(1); n > s.cfg.MaxWaiting {
		s.waiting.Add(-1)
		return errs.New(errs.TooManyRequests, "too many waiting requests: the limit is http.max_waiting = %d", s.cfg.MaxWaiting).
			With(errs.Detail{Field: "http.max_waiting", Limit: itoa(s.cfg.MaxWaiting)})
	}
	s.active.Add(-1)
	r.parked = true
	return nil
}
