package group

import (
	"context"
	"fmt"
	"sync"
	"testing"

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
	q := New(10_000, 1<<30)
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
	q := New(10_000, 1<<30)
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
	q := New(2, 1<<30)
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
