package history

import (
	"math"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// calls is the operations of a history that porcupine judges.
type calls struct {
	start time.Time
	mu    sync.Mutex
	ops   []porcupine.Operation
}

// Len is the number of operations.
func (c *calls) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.ops)
}

// all gives the operations so far.
func (c *calls) all() []porcupine.Operation {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ops
}

// begin begins an operation; each client has one at a time.
func (c *calls) begin(client int, in any) call {
	return call{of: c, op: porcupine.Operation{ClientId: client, Input: in, Call: int64(time.Since(c.start))}}
}

// call is an operation that has been called and not answered.
type call struct {
	of   *calls
	op   porcupine.Operation
	done bool
}

// end takes the answer. With unknown it may take effect at any time.
func (c *call) end(out any, unknown bool) {
	if c.done {
		panic("history: an operation has two answers")
	}
	c.done = true
	c.op.Output, c.op.Return = out, int64(time.Since(c.of.start))
	if unknown {
		c.op.Return = math.MaxInt64
	}
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.of.ops = append(c.of.ops, c.op)
}
