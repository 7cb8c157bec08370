package watch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ev(rev uint64, key string) Event {
	return Event{Topic: TopicKV, Revision: rev, Key: []byte(key), Data: rev}
}

func exact(key string) Filter { return Filter{Topic: TopicKV, Start: []byte(key)} }
func span2(from, to string) Filter {
	return Filter{Topic: TopicKV, Start: []byte(from), End: []byte(to)}
}

func from(key string) Filter { return Filter{Topic: TopicKV, Start: []byte(key), End: []byte{0}} }

// ready gives what is buffered, in the order of delivery, and the end if there is one.
func ready(s Subscription) (got []Event, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for {
		events, err := s.Next(ctx)
		if errors.Is(err, context.Canceled) {
			return got, nil
		}
		if err != nil {
			return got, err
		}
		got = append(got, events...)
	}
}

func revs(events []Event) []uint64 {
	out := []uint64{}
	for _, e := range events {
		out = append(out, e.Revision)
	}
	return out
}

func TestFilters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub(Options{Registerer: prometheus.NewRegistry()})
		defer h.Close()
		subs := map[string]Subscription{
			"exact":     h.Subscribe(exact("b"), 0),
			"range":     h.Subscribe(span2("b", "d"), 0),
			"open":      h.Subscribe(from("b"), 0),
			"all":       h.Subscribe(Filter{Topic: TopicKV}, 0),
			"below":     h.Subscribe(span2("", "b"), 0),
			"empty":     h.Subscribe(span2("d", "b"), 0),
			"elsewhere": h.Subscribe(Filter{Topic: TopicLease}, 0),
		}
		h.Publish([]Event{ev(1, "a"), ev(2, "b"), ev(2, "ba")})
		h.Publish([]Event{ev(3, "d"), ev(4, "z")})
		synctest.Wait()
		want := map[string][]uint64{
			"exact": {2}, "range": {2, 2}, "open": {2, 2, 3, 4}, "all": {1, 2, 2, 3, 4},
			"below": {1}, "empty": {}, "elsewhere": {},
		}
		for name, s := range subs {
			got, err := ready(s)
			require.NoError(t, err, name)
			require.Equal(t, want[name], revs(got), name)
		}
	})
}

func TestSubscriberThatJoinsLateSeesOnlyWhatCameLater(t *testing.T) {
	h := &Hub{opts: Options{RingEvents: 100, Buffer: 100}, wanted: map[Topic]int{}, lost: map[Topic]uint64{}, next: 1, first: 1, wake: make(chan struct{}, 1)}
	h.index.topics = map[Topic]*topicIndex{}
	h.metrics = newMetrics(nil) // no dispatcher: the test takes its place
	early := h.Subscribe(from("a"), 0)
	h.Publish([]Event{ev(1, "a")})
	late := h.Subscribe(from("a"), 0)
	h.Publish([]Event{ev(2, "a"), ev(3, "b")})
	never := h.Subscribe(from("a"), 0)
	h.handOut(h.queue, h.first, h.epoch)
	for s, want := range map[Subscription][]uint64{early: {1, 2, 3}, late: {2, 3}, never: {}} {
		got, err := ready(s)
		require.NoError(t, err)
		require.Equal(t, want, revs(got))
	}
}

func TestSlowReaderLagsAloneAndIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub(Options{})
		defer h.Close()
		slow, other := h.Subscribe(from("a"), 3), h.Subscribe(from("a"), 10)
		for rev := uint64(1); rev <= 3; rev++ {
			h.Publish([]Event{ev(rev, "a")})
		}
		synctest.Wait()
		h.Publish([]Event{ev(4, "a")})
		synctest.Wait()
		_, err := ready(slow)
		require.ErrorIs(t, err, ErrLagged)
		got, err := ready(other)
		require.NoError(t, err)
		require.Equal(t, []uint64{1, 2, 3, 4}, revs(got))
		require.Len(t, other.(*Sub).group.subs, 1)
		slow.Close()
		_, err = ready(slow)
		require.ErrorIs(t, err, ErrLagged, "the first reason stays")
	})
}

func TestABatchLargerThanTheBufferPassesWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub(Options{RingEvents: 2})
		defer h.Close()
		s := h.Subscribe(from(""), 2)
		h.Publish([]Event{ev(1, "a"), ev(1, "b"), ev(1, "c"), ev(1, "d")})
		events, err := s.Next(context.Background())
		require.NoError(t, err)
		require.Len(t, events, 4)
	})
}

func TestFullRingLagsTheTopicsThatLost(t *testing.T) {
	h := &Hub{opts: Options{RingEvents: 4, Buffer: 100}, wanted: map[Topic]int{}, lost: map[Topic]uint64{}, next: 1, first: 1, wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{})}
	h.opts.Logger = slog.New(slog.DiscardHandler)
	h.index.topics = map[Topic]*topicIndex{}
	h.metrics = newMetrics(nil)
	kv, lease := h.Subscribe(from(""), 0), h.Subscribe(Filter{Topic: TopicLease}, 0)
	h.Publish([]Event{ev(1, "a"), ev(2, "b"), ev(3, "c")})
	after := h.Subscribe(from(""), 0)
	h.Publish([]Event{{Topic: TopicLease, Revision: 4}, {Topic: TopicLease, Revision: 5}}) // no room: the first batch goes
	go h.dispatch()
	events, err := lease.Next(context.Background())
	require.NoError(t, err)
	require.Equal(t, []uint64{4, 5}, revs(events))
	_, err = kv.Next(context.Background())
	require.ErrorIs(t, err, ErrLagged)
	got, err := ready(after)
	require.NoError(t, err)
	require.Empty(t, got)
	h.Close()
	_, err = after.Next(context.Background())
	require.ErrorIs(t, err, ErrClosed)
}

func TestResetEndsAllAndDropsWhatWasNotHandedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub(Options{})
		defer h.Close()
		old := h.Subscribe(from("a"), 0)
		h.Publish([]Event{ev(1, "a")})
		h.Reset()
		fresh := h.Subscribe(from("a"), 0)
		h.Publish([]Event{ev(2, "a")})
		synctest.Wait()
		_, err := ready(old)
		require.ErrorIs(t, err, ErrReset)
		require.NotErrorIs(t, err, ErrLagged)
		got, err := ready(fresh)
		require.NoError(t, err)
		require.Equal(t, []uint64{2}, revs(got))
	})
}

func TestCloseEndsWaitingReaders(t *testing.T) {
	h := NewHub(Options{})
	s := h.Subscribe(from("a"), 0)
	end := make(chan error)
	go func() { _, err := s.Next(context.Background()); end <- err }()
	h.Close()
	require.ErrorIs(t, <-end, ErrClosed)
	h.Close()
	h.Publish([]Event{ev(1, "a")})
	_, err := h.Subscribe(from("a"), 0).Next(context.Background())
	require.ErrorIs(t, err, ErrClosed)
}

func TestNextEndsWithItsContext(t *testing.T) {
	h := NewHub(Options{})
	defer h.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := h.Subscribe(from("a"), 0).Next(ctx)
	require.ErrorIs(t, err, context.Canceled)
}

// TestModel compares the hub with the plain rule: a subscriber gets exactly the
// events published while it was open that lie in its range.
func TestModel(t *testing.T) {
	key := rapid.SliceOfN(rapid.SampledFrom([]byte("abc\x00\xff")), 0, 3)
	rapid.Check(t, func(rt *rapid.T) {
		synctest.Test(t, func(*testing.T) {
			h := NewHub(Options{})
			defer h.Close()
			type pair struct {
				s    Subscription
				f    Filter
				want []Event
			}
			var open []*pair
			check := func(p *pair) {
				got, err := ready(p.s)
				if err != nil || fmt.Sprint(got) != fmt.Sprint(p.want) {
					rt.Fatalf("filter %v: got %v (%v), want %v", p.f, got, err, p.want)
				}
				p.want = nil
			}
			rev := uint64(0)
			for range rapid.IntRange(1, 60).Draw(rt, "steps") {
				switch rapid.IntRange(0, 4).Draw(rt, "op") {
				case 0:
					f := Filter{Topic: Topic(rapid.IntRange(1, 2).Draw(rt, "topic")), Start: key.Draw(rt, "start"), End: key.Draw(rt, "end")}
					open = append(open, &pair{s: h.Subscribe(f, 1000), f: f})
				case 1, 2:
					var batch []Event
					for range rapid.IntRange(1, 4).Draw(rt, "events") {
						rev++
						batch = append(batch, Event{Topic: Topic(rapid.IntRange(1, 2).Draw(rt, "topic")), Revision: rev, Key: key.Draw(rt, "key")})
					}
					for _, p := range open {
						for _, e := range batch {
							if wants(p.f, e) {
								p.want = append(p.want, e)
							}
						}
					}
					h.Publish(batch)
				case 3:
					if len(open) > 0 {
						i := rapid.IntRange(0, len(open)-1).Draw(rt, "which")
						synctest.Wait()
						check(open[i])
						open[i].s.Close()
						open = append(open[:i], open[i+1:]...)
					}
				case 4:
					synctest.Wait()
					for _, p := range open {
						check(p)
					}
				}
			}
			synctest.Wait()
			for _, p := range open {
				check(p)
				p.s.Close()
			}
			if len(h.index.topics) != 0 || len(h.wanted) != 0 {
				rt.Fatalf("left behind: %v %v", h.index.topics, h.wanted)
			}
		})
	})
}

func wants(f Filter, e Event) bool {
	if f.Topic != e.Topic {
		return false
	}
	switch {
	case len(f.Start) == 0 && len(f.End) == 0:
		return true
	case len(f.End) == 0:
		return bytes.Equal(f.Start, e.Key)
	case bytes.Equal(f.End, []byte{0}):
		return bytes.Compare(e.Key, f.Start) >= 0
	}
	return bytes.Compare(e.Key, f.Start) >= 0 && bytes.Compare(e.Key, f.End) < 0
}

// TestManyAtOnce is for the race detector: readers come and go while events flow.
func TestManyAtOnce(t *testing.T) {
	h := NewHub(Options{})
	steady := h.Subscribe(from(""), 1<<20)
	const total = 2000
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				s := h.Subscribe(exact(fmt.Sprint("k", i)), 1)
				_, _ = ready(s)
				s.Close()
			}
		})
	}
	wg.Go(func() {
		for rev := uint64(1); rev <= total; rev++ {
			h.Publish([]Event{ev(rev, fmt.Sprint("k", rev%8))})
		}
	})
	seen := uint64(0)
	for seen < total {
		events, err := steady.Next(context.Background())
		require.NoError(t, err)
		for _, e := range events {
			seen++
			require.Equal(t, seen, e.Revision)
		}
	}
	close(stop)
	wg.Wait()
	h.Close()
}

func BenchmarkFanOut(b *testing.B) {
	for _, n := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprintf("same-prefix/%d", n), func(b *testing.B) {
			h := NewHub(Options{Buffer: 1 << 30, RingEvents: 1 << 30})
			defer h.Close()
			var got sync.WaitGroup
			got.Add(n)
			for range n {
				s := h.Subscribe(span2("k", "l"), 0)
				go func() {
					defer got.Done()
					for seen := 0; seen < b.N; {
						events, err := s.Next(context.Background())
						if err != nil {
							b.Error(err)
							return
						}
						seen += len(events)
					}
				}()
			}
			batch := make([]Event, 1)
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				batch[0] = ev(uint64(i), "key")
				h.Publish(batch)
			}
			got.Wait()
			b.ReportMetric(float64(b.N)*float64(n)/b.Elapsed().Seconds(), "events/s")
		})
		b.Run(fmt.Sprintf("own-key/%d", n), func(b *testing.B) {
			h := NewHub(Options{})
			defer h.Close()
			subs := make([]Subscription, n)
			for i := range subs {
				subs[i] = h.Subscribe(exact(fmt.Sprint("k", i)), 0)
			}
			key := []byte("k0")
			b.ReportAllocs()
			for i := range b.N {
				h.Publish([]Event{{Topic: TopicKV, Revision: uint64(i), Key: key}})
				if _, err := subs[0].Next(context.Background()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
