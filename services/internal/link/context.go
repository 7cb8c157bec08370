package link

import (
	"sync"
	"time"
)

// Context is the part of a request's context that protocols share: deadline and
// cancellation, without a timer of its own (the connection sweeps deadlines). Who
// embeds it adds Value. It is never reused, since a handler may have given its
// context away.
type Context struct {
	// DeadlineAt is of Nano, 0 for none; it is set before the context is used.
	DeadlineAt int64

	mu    sync.Mutex
	done  chan struct{} // made when first asked for
	err   error         // context.Canceled or DeadlineExceeded; set once
	cause error         // what End was told, nil for nothing in particular
	after []*afterFunc
}

type afterFunc struct{ f func() }

// Deadline implements context.Context.
func (c *Context) Deadline() (time.Time, bool) {
	if c.DeadlineAt == 0 {
		return time.Time{}, false
	}
	return Epoch.Add(time.Duration(c.DeadlineAt)), true
}

// Done implements context.Context.
func (c *Context) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		if c.err != nil {
			close(c.done)
		}
	}
	return c.done
}

// Err implements context.Context.
func (c *Context) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// AfterFunc is what the context package looks for in a parent that is not its
// own, so that a derived context needs no goroutine to follow this one.
func (c *Context) AfterFunc(f func()) (stop func() bool) {
	a := &afterFunc{f: f}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		go f()
		return func() bool { return false }
	}
	c.after = append(c.after, a)
	return func() bool { return c.removeAfter(a) }
}

func (c *Context) removeAfter(a *afterFunc) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, x := range c.after {
		if x == a {
			last := len(c.after) - 1
			c.after[i], c.after[last] = c.after[last], nil
			c.after = c.after[:last]
			return true
		}
	}
	return false
}

// End cancels the context; only the first call counts. cause is kept for Cause.
func (c *Context) End(err, cause error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err, c.cause = err, cause
	if c.done != nil {
		close(c.done)
	}
	after := c.after
	c.after = nil
	c.mu.Unlock()
	for _, a := range after {
		go a.f()
	}
}

// Cause gives what End was told.
func (c *Context) Cause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}
