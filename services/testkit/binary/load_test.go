package binary_test

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"nekoq/client"
	"nekoq/services/errs"
	"nekoq/services/testkit/process"
)

// writers put unique values under unique keys until stop is called, which gives
// what was acknowledged. An error that leaves the outcome open is fine here: the
// key is not counted.
func (c *cluster) writers(n int) (stop func() *acked) {
	ctx, cancel := context.WithCancel(c.t.Context())
	a := &acked{values: map[string]string{}}
	var wg sync.WaitGroup
	for w := range n {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				key, value := fmt.Sprintf("w/%03d/%06d", w, i), fmt.Sprintf("value %d of writer %d", i, w)
				if _, err := c.c.KV().Put(ctx, key, []byte(value)); err == nil {
					a.add(key, value)
				}
			}
		})
	}
	return func() *acked {
		cancel()
		wg.Wait()
		return a
	}
}

// registerIn is an operation on one register; found is only looked at for reads.
type registerIn struct {
	key   string
	write bool
	value string
}

// register is the model of single keys that are written and read.
var register = porcupine.Model{
	Partition: func(h []porcupine.Operation) [][]porcupine.Operation {
		by := map[string][]porcupine.Operation{}
		for _, o := range h {
			k := o.Input.(registerIn).key
			by[k] = append(by[k], o)
		}
		var out [][]porcupine.Operation
		for _, o := range by {
			out = append(out, o)
		}
		return out
	},
	Init: func() any { return "" },
	Step: func(state, in, out any) (bool, any) {
		i := in.(registerIn)
		if i.write {
			return true, i.value
		}
		return out.(string) == state.(string), state
	},
	Equal: func(a, b any) bool { return a.(string) == b.(string) },
}

// history records operations on a few hot keys through every node.
type history struct {
	mu  sync.Mutex
	ops []porcupine.Operation
	wg  sync.WaitGroup
	end context.CancelFunc
}

// record drives clients, each keeping to one node, that read and write the hot
// keys of this prefix until stop.
func (c *cluster) record(prefix string, clients int) *history {
	ctx, cancel := context.WithCancel(c.t.Context())
	h := &history{end: cancel}
	start := time.Now()
	for id := range clients {
		cl := c.client(process.Endpoints(c.nodes)[id%len(c.nodes)])
		h.wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				in := registerIn{key: fmt.Sprintf("%s/%d", prefix, i%3), write: (i+id)%3 == 0, value: fmt.Sprintf("%d-%d", id, i)}
				h.one(ctx, cl, id, in, start)
			}
		})
	}
	return h
}

func (h *history) one(ctx context.Context, cl *client.Client, id int, in registerIn, start time.Time) {
	op := porcupine.Operation{ClientId: id, Input: in, Output: "", Call: int64(time.Since(start))}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	var err error
	if in.write {
		_, err = cl.KV().Put(ctx, in.key, []byte(in.value))
	} else {
		var got client.KeyValue
		got, err = cl.KV().Get(ctx, in.key)
		op.Output = string(got.Value)
		if errs.Has(err, errs.NotFound) {
			err = nil
		}
	}
	op.Return = int64(time.Since(start))
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case err == nil:
		h.ops = append(h.ops, op)
	case in.write && mayHaveHappened(err):
		// It may take effect at any later time: its return lies beyond the end.
		// Each such write takes a client id of its own, since the client goes on.
		op.Return, op.ClientId = int64(24*time.Hour), 1000+len(h.ops)
		h.ops = append(h.ops, op)
	}
}

func mayHaveHappened(err error) bool {
	switch errs.CodeOf(err) {
	case errs.NoLeader, errs.Unavailable, errs.TooManyRequests, errs.StorageFull:
		return false
	}
	return true
}

// linearizable stops the clients and checks what they saw.
func (h *history) linearizable(t *testing.T) {
	t.Helper()
	h.end()
	h.wg.Wait()
	reads, writes := 0, 0
	for _, o := range h.ops {
		if o.Input.(registerIn).write {
			writes++
		} else {
			reads++
		}
	}
	require.Greater(t, reads, 20, "too few reads to say anything")
	require.Greater(t, writes, 20, "too few writes to say anything")
	for _, ops := range register.Partition(h.ops) {
		if res := porcupine.CheckOperationsTimeout(register, ops, time.Minute); res != porcupine.Ok {
			t.Fatalf("the history of %d operations is %v; it turns so here:\n%s", len(ops), res, turningPoint(ops))
		}
	}
	t.Logf("%d reads and %d writes are linearizable", reads, writes)
}

// turningPoint prints the operations around the first one that cannot be explained.
func turningPoint(ops []porcupine.Operation) string {
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	n := sort.Search(len(ops), func(n int) bool {
		return porcupine.CheckOperationsTimeout(register, ops[:n+1], time.Minute) != porcupine.Ok
	})
	var b strings.Builder
	for i := max(0, n-60); i < min(len(ops), n+4); i++ {
		o := ops[i]
		in, mark := o.Input.(registerIn), "  "
		if i == n {
			mark = "->"
		}
		what := fmt.Sprintf("read %q", o.Output)
		if in.write {
			what = fmt.Sprintf("write %q", in.value)
		}
		end := time.Duration(o.Return).String()
		if o.Return == int64(24*time.Hour) {
			end = "open"
		}
		fmt.Fprintf(&b, "%s client %d %s %v..%s %s\n", mark, o.ClientId, in.key, time.Duration(o.Call), end, what)
	}
	return b.String()
}
