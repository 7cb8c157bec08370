package wire

import (
	"context"
	"sync"
	"time"

	"nekoq/services/auth"
	"nekoq/services/command"
	"nekoq/services/errs"
)

// call is one request under way on the server, and the context of its handler:
// deadline, cancellation and the two values that handlers ask for, in one
// allocation and without a timer of its own (the connection sweeps deadlines).
// It is never reused, since a handler may have given its context away.
type call struct {
	sc       *servConn
	method   *method
	id       uint32
	deadline int64 // nano(), 0 for none
	start    int64 // nano()
	rid      command.RequestID
	req      *buffer

	mu     sync.Mutex
	done   chan struct{} // made when first asked for
	err    error         // context.Canceled or DeadlineExceeded; set once
	cause  *errs.Error   // what the caller is told, nil for nothing in particular
	after  []*afterFunc
	credit int64         // stream: bytes that may still be sent
	more   chan struct{} // stream: credit came, cap 1
}

type afterFunc struct{ f func() }

// requestIDKey is the key under which command keeps its value in a context. Its
// type is that package's own, so we learn it by asking.
var requestIDKey = func() any {
	p := &keyProbe{Context: context.Background()}
	command.RequestIDFrom(p)
	return p.key
}()

// keyProbe notes the key it is asked for.
type keyProbe struct {
	context.Context
	key any
}

func (p *keyProbe) Value(key any) any {
	p.key = key
	return nil
}

func (c *call) Deadline() (time.Time, bool) {
	if c.deadline == 0 {
		return time.Time{}, false
	}
	return epoch.Add(time.Duration(c.deadline)), true
}

func (c *call) Done() <-chan struct{} {
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

func (c *call) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *call) Value(key any) any {
	switch key {
	case auth.ContextKey:
		return &c.sc.principal
	case requestIDKey:
		if c.rid == (command.RequestID{}) {
			return nil
		}
		return c.rid
	}
	return nil
}

// AfterFunc is what the context package looks for in a parent that is not its
// own, so that a derived context needs no goroutine to follow this one.
func (c *call) AfterFunc(f func()) (stop func() bool) {
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

func (c *call) removeAfter(a *afterFunc) bool {
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

// end cancels the context; only the first call counts. cause is what the caller
// is told if the handler ends with a mere context error.
func (c *call) end(err error, cause *errs.Error) {
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

// endCause gives what end was told.
func (c *call) endCause() *errs.Error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// addCredit lets a stream send n more bytes. It refuses an overflow.
func (c *call) addCredit(n uint64) bool {
	const most = 1 << 40
	c.mu.Lock()
	ok := n <= most && c.credit+int64(n) <= most
	if ok {
		c.credit += int64(n)
	}
	c.mu.Unlock()
	select {
	case c.more <- struct{}{}:
	default:
	}
	return ok
}

// takeCredit waits until credit is positive and takes n bytes of it. One message
// larger than what is left may pass, so a message of any size can be sent.
func (c *call) takeCredit(n int) error {
	for {
		c.mu.Lock()
		if c.err != nil {
			err := c.err
			c.mu.Unlock()
			return err
		}
		if c.credit > 0 {
			c.credit -= int64(n)
			c.mu.Unlock()
			return nil
		}
		c.mu.Unlock()
		select {
		case <-c.more:
		case <-c.Done():
		}
	}
}
