package wire

import (
	"context"
	"sync"

	"nekoq/services/auth"
	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/internal/link"
)

// call is one request under way on the server, and the context of its handler:
// deadline, cancellation and the two values that handlers ask for, in one
// allocation and without a timer of its own (the connection sweeps deadlines).
// It is never reused, since a handler may have given its context away.
type call struct {
	link.Context
	sc     *servConn
	method *method
	id     uint32
	start  int64 // link.Nano()
	rid    command.RequestID
	req    *buffer

	mu     sync.Mutex
	credit int64         // stream: bytes that may still be sent
	more   chan struct{} // stream: credit came, cap 1
}

// requestIDKey is the key under which command keeps its value in a context.
var requestIDKey = link.KeyOf(func(ctx context.Context) { command.RequestIDFrom(ctx) })

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

// endCause gives what end was told.
func (c *call) endCause() *errs.Error {
	e, _ := c.Cause().(*errs.Error)
	return e
}

// end cancels the context; only the first call counts. cause is what the caller
// is told if the handler ends with a mere context error, nil for nothing.
func (c *call) end(err error, cause *errs.Error) {
	if cause == nil {
		c.End(err, nil)
		return
	}
	c.End(err, cause)
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
		if err := c.Err(); err != nil {
			return err
		}
		c.mu.Lock()
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
