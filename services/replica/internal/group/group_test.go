package group

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/replica"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// takers form entries as a replica does, and answer each command with the number of
// commands in its entry.
func takers(t *testing.T, q *Queue, n int) {
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			var (
				taker Taker
				batch []*Proposal
				ok    bool
			)
			for {
				if batch, _, ok = taker.Take(q, batch, func() int64 { return 1 }); !ok {
					return
				}
				size := uint64(len(batch))
				for _, p := range batch {
					p.Finish(replica.Result{Index: size}, nil)
				}
			}
		})
	}
	t.Cleanup(func() {
		q.Close(errs.New(errs.ShuttingDown, "closed"))
		wg.Wait()
	})
}

func commands(n, size int) []command.Command {
	all := make([]command.Command, n)
	for i := range all {
		all[i] = command.Command{Kind: 1, Payload: make([]byte, size)}
	}
	return all
}

// Commands that come together stay together, however many takers wait.
func TestDoAllSharesAnEntry(t *testing.T) {
	q := New(10_000, 1<<30, 0)
	takers(t, q, 8)
	for range 200 {
		var got []uint64
		q.DoAll(context.Background(), commands(16, 10), func(res replica.Result, err error) {
			require.NoError(t, err)
			got = append(got, res.Index)
		})
		require.Equal(t, []uint64{16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16}, got)
	}
}

// What does not fit into one entry goes into the next ones, though there was only one
// signal for all of it.
func TestDoAllFillsSeveralEntries(t *testing.T) {
	q := New(10_000, 1<<30, 0)
	takers(t, q, 2)
	n := 0
	q.DoAll(context.Background(), commands(2*command.MaxBatchCommands+1, 10), func(res replica.Result, err error) {
		require.NoError(t, err)
		n++
	})
	require.Equal(t, 2*command.MaxBatchCommands+1, n)
}

// A queue that is full takes what fits and tells of the rest; a command that is wrong
// by itself does not harm the others.
func TestDoAllRefusesOneByOne(t *testing.T) {
	q := New(2, 1<<30, 0)
	cmds := commands(4, 10)
	cmds[1].Kind = 0
	started := make(chan struct{})
	var told []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		close(started)
		q.DoAll(context.Background(), cmds, func(_ replica.Result, err error) { told = append(told, fmt.Sprint(errs.CodeOf(err))) })
	}()
	<-started
	takers(t, q, 0)
	var taker Taker
	batch, _, ok := taker.Take(q, nil, func() int64 { return 1 })
	require.True(t, ok)
	require.Len(t, batch, 2)
	for _, p := range batch {
		p.Finish(replica.Result{}, nil)
	}
	<-done
	require.Equal(t, []string{fmt.Sprint(errs.CodeOf(nil)), string(errs.Internal), fmt.Sprint(errs.CodeOf(nil)), string(errs.TooManyRequests)}, told)
}

// entries lets takers form entries that end when the test says so.
type entries struct {
	q     *Queue
	taken chan int // commands of each entry, as it goes
	end   chan struct{}
	wg    sync.WaitGroup
}

func newEntries(hold time.Duration, takers int) *entries {
	e := &entries{q: New(10_000, 1<<30, hold), taken: make(chan int, 100), end: make(chan struct{})}
	for range takers {
		e.wg.Go(func() {
			var (
				taker Taker
				batch []*Proposal
				ok    bool
			)
			for {
				if batch, _, ok = taker.Take(e.q, batch, func() int64 { return 1 }); !ok {
					return
				}
				e.taken <- len(batch)
				<-e.end
				for _, p := range batch {
					p.Finish(replica.Result{}, nil)
				}
			}
		})
	}
	return e
}

// put queues n commands one after the other, as clients of their own.
func (e *entries) put(n int) {
	for range n {
		e.wg.Go(func() { _, _, _ = e.q.Do(context.Background(), &command.Command{Kind: 1}) })
	}
	synctest.Wait()
}

func (e *entries) together(n int) {
	e.wg.Go(func() { e.q.DoAll(context.Background(), commands(n, 1), func(replica.Result, error) {}) })
	synctest.Wait()
}

// sizes tells the entries that went since it was asked last.
func (e *entries) sizes() []int {
	out := []int{}
	for len(e.taken) > 0 {
		out = append(out, <-e.taken)
	}
	return out
}

func (e *entries) finish() {
	e.end <- struct{}{}
	synctest.Wait()
}

func (e *entries) close() {
	e.q.Close(errs.New(errs.ShuttingDown, "closed"))
	close(e.end)
	e.wg.Wait()
}

// bubble runs a test with a clock of its own. Channels belong to the bubble that made
// them, so proposals are not shared with other tests.
func bubble(t *testing.T, test func(t *testing.T)) {
	empty := func() { pool = sync.Pool{New: pool.New} }
	empty()
	defer empty()
	synctest.Test(t, test)
}

func TestFewCommandsWaitForTheEntryUnderWay(t *testing.T) {
	const hold = 3 * time.Millisecond
	bubble(t, func(t *testing.T) {
		e := newEntries(hold, 4)
		defer e.close()
		e.together(2)
		require.Equal(t, []int{2}, e.sizes())
		e.put(5)
		require.Empty(t, e.sizes(), "they wait")
		e.finish()
		require.Equal(t, []int{5}, e.sizes(), "its end lets them go together")

		e.put(3)
		time.Sleep(hold - time.Nanosecond)
		synctest.Wait()
		require.Empty(t, e.sizes())
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.Equal(t, []int{3}, e.sizes(), "or the end of their patience")

		e.put(enoughCommands - 1)
		require.Empty(t, e.sizes())
		e.put(1)
		require.Equal(t, []int{enoughCommands}, e.sizes(), "or that they are many")

		e.wg.Go(func() { _, _, _ = e.q.Do(context.Background(), &commands(1, enoughBytes)[0]) })
		synctest.Wait()
		require.Equal(t, []int{1}, e.sizes(), "or large")
	})
}

func TestTwoClientsDoNotWaitForEachOther(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEntries(time.Second, 4)
		defer e.close()
		for range 4 {
			e.put(1)
			require.Equal(t, []int{1}, e.sizes())
		}
		e.put(2)
		require.Empty(t, e.sizes(), "all takers are out")
		e.finish()
		require.Equal(t, []int{2}, e.sizes())
	})
}

// A queue that is closed gives up what waits at once.
func TestCloseEndsTheWait(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEntries(time.Hour, 4)
		defer e.close()
		e.together(2)
		e.put(3)
		require.Equal(t, []int{2}, e.sizes())
		e.q.Close(errs.New(errs.ShuttingDown, "closed"))
		synctest.Wait()
		require.Equal(t, []int{3}, e.sizes())
	})
}
