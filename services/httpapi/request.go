package httpapi

import (
	"context"
	"net/http"
	"sync"
	"time"

	"nekoq/services/auth"
	"nekoq/services/errs"
)

// request is one request's state and its context in a single allocation. It carries
// the request id, the principal and the deadline; nothing stands behind the deadline
// before somebody asks for Done, which a cheap read never does, and then it is the
// server's sweep. It is not pooled: services may keep the context beyond the handler.
type request struct {
	parent    context.Context
	srv       *Server
	route     *route
	path      string // as the client sent it, decoded
	id        string
	idHeader  [1]string // backs the value of the header X-Request-Id without another allocation
	etag      [1]string // of ETag
	principal auth.Principal
	start     time.Time
	asked     bool             // the client set the deadline by the Request-Timeout header
	body      *body            // nil for a request without one
	endSpan   func(status int) // nil when tracing is off
	cause     error            // first server-side error, for the access log; handler's goroutine only
	in, out   http.Header      // of the request and of its answer
	condition string           // the header that demands a revision, "" for none
	parked    bool             // counted under waiting instead of active

	mu       sync.Mutex // taken before that of the sweep
	deadline time.Time  // written under mu and the sweep's
	done     chan struct{}
	err      error // why done is closed
	after    map[*func()]struct{}

	swept // guarded by the sweep
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
	r.mu.Lock()
	own := r.deadline
	r.mu.Unlock()
	if d, ok := r.parent.Deadline(); ok && (own.IsZero() || d.Before(own)) {
		return d, true
	}
	return own, !own.IsZero()
}

func (r *request) Done() <-chan struct{} {
	r.mu.Lock()
	made := r.done == nil
	if made {
		r.done = make(chan struct{})
		if r.err != nil {
			close(r.done)
		}
	}
	look := made && r.err == nil
	r.mu.Unlock()
	if look {
		r.srv.sweep.add(r)
	}
	return r.done
}

func (r *request) Err() error {
	r.mu.Lock()
	err, deadline := r.err, r.deadline
	r.mu.Unlock()
	if err != nil {
		return err
	}
	if err := r.parent.Err(); err != nil {
		return r.cut(err)
	}
	if !deadline.IsZero() && !time.Now().Before(deadline) {
		return r.cut(context.DeadlineExceeded)
	}
	return nil
}

// cut ends the context, and gives the reason for which it ended first.
func (r *request) cut(err error) error {
	r.mu.Lock()
	if r.err != nil {
		defer r.mu.Unlock()
		return r.err
	}
	r.err = err
	if r.done != nil {
		close(r.done)
	}
	after := r.after
	r.after = nil
	r.mu.Unlock()
	for f := range after {
		go (*f)()
	}
	return err
}

// AfterFunc is how package context hangs its own contexts under one that it does not
// know, without a goroutine for each.
func (r *request) AfterFunc(f func()) (stop func() bool) {
	r.Done()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		go f()
		return func() bool { return false }
	}
	if r.after == nil {
		r.after = map[*func()]struct{}{}
	}
	r.after[&f] = struct{}{}
	return func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		_, there := r.after[&f]
		delete(r.after, &f)
		return there
	}
}

func (r *request) Value(key any) any {
	switch key {
	case any(requestKey{}):
		return r
	case auth.ContextKey:
		return &r.principal
	}
	return r.parent.Value(key)
}

// limit sets the deadline, zero for none.
func (r *request) limit(deadline time.Time) {
	r.srv.sweep.move(r, deadline)
}

func (r *request) end() {
	r.srv.sweep.remove(r)
	_ = r.cut(context.Canceled)
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
