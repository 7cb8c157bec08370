package local_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"nekoq/services/clock"
	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/replica"
	"nekoq/services/replica/local"
	"nekoq/services/state"
	"nekoq/services/testkit/conformance"
	"nekoq/services/testkit/register"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(tb testing.TB, path string, mode state.Mode, faults state.Faults) *state.Machine {
	reg := state.NewRegistry()
	register.Register(reg)
	m, err := state.Open(state.Options{Path: path, Registry: reg, Mode: mode, Faults: faults, Config: state.Config{MmapBytes: 1 << 30}})
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = m.Close() })
	return m
}

func newLocal(tb testing.TB, m *state.Machine, before func(replica.Replica)) *local.Replica {
	r, err := local.New(local.Options{
		NodeID: "n1", Machine: m, Clock: clock.System(), Logger: slog.New(slog.DiscardHandler),
		Metrics: prometheus.NewRegistry(), Config: local.DefaultConfig(),
	})
	require.NoError(tb, err)
	if before != nil {
		before(r)
	}
	r.Start()
	tb.Cleanup(func() { require.NoError(tb, r.Shutdown(context.Background())) })
	return r
}

func TestConformance(t *testing.T) {
	for name, mode := range map[string]state.Mode{"synced": state.Synced, "volatile": state.Volatile} {
		t.Run(name, func(t *testing.T) {
			conformance.Run(t, func(t *testing.T, before func(replica.Replica)) *conformance.Group {
				r := newLocal(t, open(t, filepath.Join(t.TempDir(), "state.db"), mode, state.Faults{}), before)
				return &conformance.Group{
					Replicas: []replica.Replica{r},
					Stop:     func(int) { require.NoError(t, r.Shutdown(context.Background())) },
				}
			})
		})
	}
}

func TestStartIsQuick(t *testing.T) {
	m := open(t, filepath.Join(t.TempDir(), "state.db"), state.Volatile, state.Faults{})
	begin := time.Now()
	r := newLocal(t, m, nil)
	_, err := r.Propose(context.Background(), register.Put("k", "v"))
	require.NoError(t, err)
	require.Less(t, time.Since(begin), 100*time.Millisecond)
}

func TestIndexGoesOnAfterRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	m := open(t, path, state.Synced, state.Faults{})
	r := newLocal(t, m, nil)
	first, err := r.Propose(context.Background(), register.Put("k", "v"))
	require.NoError(t, err)
	require.NoError(t, r.Shutdown(context.Background()))
	require.NoError(t, m.Close())
	r = newLocal(t, open(t, path, state.Synced, state.Faults{}), nil)
	second, err := r.Propose(context.Background(), register.Put("k", "w"))
	require.NoError(t, err)
	require.Equal(t, first.Index+1, second.Index)
	require.Equal(t, first.Revision+1, second.Revision)
}

func TestFullDiskPasses(t *testing.T) {
	var full atomic.Bool
	m := open(t, filepath.Join(t.TempDir(), "state.db"), state.Synced, state.Faults{BeforeCommit: func() error {
		if full.Load() {
			return syscall.ENOSPC
		}
		return nil
	}})
	r := newLocal(t, m, nil)
	ctx := context.Background()
	_, err := r.Propose(ctx, register.Put("k", "before"))
	require.NoError(t, err)
	full.Store(true)
	_, err = r.Propose(ctx, register.Put("k", "during"))
	require.Equal(t, errs.StorageFull, errs.CodeOf(err), "%v", err)
	v, _, err := r.View(ctx, replica.Linearizable)
	require.NoError(t, err)
	require.Equal(t, "before", register.Get(v, "k"))
	v.Release()
	full.Store(false)
	_, err = r.Propose(ctx, register.Put("k", "after"))
	require.NoError(t, err)
}

func TestHaltIsLoud(t *testing.T) {
	m := open(t, filepath.Join(t.TempDir(), "state.db"), state.Synced, state.Faults{})
	r := newLocal(t, m, nil)
	_, err := r.Propose(context.Background(), register.Halt())
	require.Equal(t, errs.OutcomeUnknown, errs.CodeOf(err), "%v", err)
	<-r.Failed()
	require.Error(t, r.Err())
	_, err = r.Propose(context.Background(), register.Put("k", "v"))
	require.Equal(t, errs.Unavailable, errs.CodeOf(err), "%v", err)
}

func TestViewOfAClosedStateIsRefused(t *testing.T) {
	m := open(t, filepath.Join(t.TempDir(), "state.db"), state.Volatile, state.Faults{})
	r := newLocal(t, m, nil)
	require.NoError(t, m.Close())
	for _, c := range []replica.Consistency{replica.Linearizable, replica.Stale} {
		_, _, err := r.View(t.Context(), c)
		require.True(t, errs.Has(err, errs.ShuttingDown), "%v", err)
	}
}

func TestQueueIsBounded(t *testing.T) {
	gate := make(chan struct{})
	var once sync.Once
	m := open(t, filepath.Join(t.TempDir(), "state.db"), state.Synced, state.Faults{BeforeCommit: func() error {
		<-gate
		return nil
	}})
	release := func() { once.Do(func() { close(gate) }) }
	t.Cleanup(release)
	r, err := local.New(local.Options{
		NodeID: "n1", Machine: m, Clock: clock.System(), Logger: slog.New(slog.DiscardHandler),
		Config: local.Config{MaxPending: 4, MaxPendingBytes: 1 << 20},
	})
	require.NoError(t, err)
	r.Start()
	var (
		wg       sync.WaitGroup
		mu       sync.Mutex
		refused  int
		answered int
	)
	for range 64 {
		wg.Go(func() {
			_, err := r.Propose(context.Background(), register.Put("k", "v"))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				answered++
			case errs.Has(err, errs.TooManyRequests):
				refused++
				if refused == 1 {
					release()
				}
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.Positive(t, refused)
	require.Positive(t, answered)
	require.NoError(t, r.Shutdown(context.Background()))
}

func TestDeadlineSaysWhetherItWasSent(t *testing.T) {
	gate := make(chan struct{})
	entered := make(chan struct{}, 16)
	m := open(t, filepath.Join(t.TempDir(), "state.db"), state.Synced, state.Faults{BeforeCommit: func() error {
		entered <- struct{}{}
		<-gate
		return nil
	}})
	r := newLocal(t, m, nil)
	t.Cleanup(func() { close(gate) })
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err := r.Propose(ctx, register.Put("sent", "x"))
	require.Equal(t, errs.OutcomeUnknown, errs.CodeOf(err), "%v", err)
	require.True(t, errors.Is(err, context.DeadlineExceeded))
	<-entered
	ctx, cancel = context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err = r.Propose(ctx, register.Put("waiting", "x"))
	require.Equal(t, errs.DeadlineExceeded, errs.CodeOf(err), "%v", err)
}

func BenchmarkPropose(b *testing.B) {
	m := open(b, filepath.Join(b.TempDir(), "state.db"), state.Volatile, state.Faults{})
	r := newLocal(b, m, nil)
	ctx := context.Background()
	var n atomic.Uint64
	b.ReportAllocs()
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		cmd := command.Command(register.Put(string(rune('a'+n.Add(1)%26)), "value of some bytes"))
		for pb.Next() {
			if _, err := r.Propose(ctx, cmd); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
