package client_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/client"
	"nekoq/services/errs"
)

func TestLocks(t *testing.T) {
	s := newStore(t, "a")
	c, ctx := s.client("a"), t.Context()
	one, two := s.session(c, time.Minute), s.session(c, time.Minute)
	first, err := c.Locks().Acquire(ctx, one, "l", "one")
	require.NoError(t, err)
	again, err := c.Locks().Acquire(ctx, one, "l", "one")
	require.NoError(t, err)
	require.Equal(t, first.Token, again.Token, "asked again by the same session")
	held, now, err := c.Locks().Try(ctx, two, "l", "two")
	require.NoError(t, err)
	require.Nil(t, held)
	require.Equal(t, "one", now.Holder)
	require.Equal(t, first.Token, now.Token)
	require.Empty(t, now.Waiting)

	// Who gives up waiting leaves the line.
	short, cancel := context.WithCancel(ctx)
	gaveUp := make(chan error, 1)
	go func() { gaveUp <- second(c.Locks().Acquire(short, two, "l", "two")) }()
	waiting := func(n int) func() bool {
		return func() bool {
			c, err := c.Locks().Look(ctx, "l")
			return err == nil && len(c.Waiting) == n
		}
	}
	s.until("it waits", waiting(1))
	cancel()
	require.True(t, errs.Has(<-gaveUp, errs.Canceled))
	s.until("it left", waiting(0))

	next := make(chan *client.Lock, 1)
	go func() {
		l, err := c.Locks().Acquire(ctx, two, "l", "two")
		if err != nil {
			t.Error(err)
		}
		next <- l
	}()
	s.until("it waits", waiting(1))
	_, err = c.KV().Txn().Holding(first.Proof()).Then(client.OpPut("k", []byte("1"))).Commit(ctx)
	require.NoError(t, err)
	_, err = c.KV().Put(ctx, "k", []byte("1b"), client.WhileHeld(first.Proof()), client.IfRevision(2), client.WithTTL(time.Hour))
	require.True(t, errs.Has(err, errs.RevisionMismatch), "%v", err)
	require.Contains(t, err.Error(), "if_revision: the key is at revision ")
	got, err := c.KV().Get(ctx, "k")
	require.NoError(t, err)
	w, err := c.KV().Put(ctx, "k", []byte("1c"), client.WhileHeld(first.Proof()), client.IfRevision(got.ModRevision), client.WithTTL(time.Hour))
	require.NoError(t, err)
	require.Equal(t, got.ModRevision, w.PrevRevision)
	require.Equal(t, got.CreateRevision, w.CreateRevision)
	require.Equal(t, got.Version+1, w.Version)
	require.NotZero(t, w.Lease)
	w, err = c.KV().Delete(ctx, "none", client.WhileHeld(first.Proof()))
	require.NoError(t, err)
	require.Zero(t, w.PrevRevision)
	require.NoError(t, first.Release(ctx))
	l := <-next
	require.Greater(t, l.Token, first.Token)
	_, err = c.KV().Txn().Holding(first.Proof()).Then(client.OpPut("k", []byte("2"))).Commit(ctx)
	require.True(t, errs.Has(err, errs.StaleToken), "%v", err)
	for what, err := range map[string]error{
		"put":    second(c.KV().Put(ctx, "k", nil, client.WhileHeld(first.Proof()))),
		"delete": second(c.KV().Delete(ctx, "k", client.WhileHeld(first.Proof()), client.IfRevision(w.Revision))),
		"both":   second(c.KV().Delete(ctx, "k", client.WhileHeld(l.Proof()), client.WhileHeld(first.Proof()))),
	} {
		require.True(t, errs.Has(err, errs.StaleToken), "%s: %v", what, err)
	}
	_, _, err = c.KV().DeletePrefix(ctx, "k", client.WhileHeld(first.Proof()))
	require.True(t, errs.Has(err, errs.StaleToken), "%v", err)
	_, _, err = c.KV().DeletePrefix(ctx, "k", client.IfRevision(1))
	require.True(t, errs.Has(err, errs.InvalidArgument), "%v", err)
	n, _, err := c.KV().DeletePrefix(ctx, "k", client.WhileHeld(l.Proof()))
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	require.True(t, errs.Has(first.Release(ctx), errs.NotLeader), "released twice")
	require.NoError(t, two.Close(ctx))
	<-l.Done()
	s.until("nobody holds it", func() bool {
		c, err := c.Locks().Look(ctx, "l")
		return err == nil && c.Token == 0
	})
	_, err = c.Locks().Acquire(ctx, two, "l", "two")
	require.True(t, errs.Has(err, errs.LeaseNotFound), "a session that ended: %v", err)
	for name, err := range map[string]error{
		"name":   second(c.Locks().Acquire(ctx, one, "", "x")),
		"holder": second(c.Locks().Acquire(ctx, one, "l", strings.Repeat("h", 1025))),
	} {
		require.True(t, errs.Has(err, errs.InvalidArgument), "%s: %v", name, err)
		require.Equal(t, name, errs.From(err).Details[0].Field)
	}
}

// One at a time holds it, whatever happens to the connections; tokens grow.
func TestLockExcludes(t *testing.T) {
	s := newStore(t, "a", "b")
	const clients, each = 4, 6
	var inside atomic.Int64
	var last atomic.Uint64
	var wg sync.WaitGroup
	for i := range clients {
		c := s.client("a", "b")
		wg.Go(func() {
			on, err := c.Leases().Session(t.Context(), time.Minute)
			if err != nil {
				t.Error(err)
				return
			}
			defer on.Abandon()
			for range each {
				l, err := c.Locks().Acquire(t.Context(), on, "l", fmt.Sprint(i))
				if err != nil {
					t.Error(err)
					return
				}
				if inside.Add(1) != 1 {
					t.Error("two hold it")
				}
				if before := last.Swap(l.Token); before >= l.Token {
					t.Errorf("token %d after %d", l.Token, before)
				}
				inside.Add(-1)
				if err := l.Release(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	stop := make(chan struct{})
	var trouble sync.WaitGroup
	trouble.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
				s.cut([]string{"a", "b"}[i%2])
			}
		}
	})
	wg.Wait()
	close(stop)
	trouble.Wait()
}

// A lock is held on over the stop of the server that gave it, through another one. When
// none is left for a whole TTL, its holder is told, before another can have it.
func TestLockOverServersThatStop(t *testing.T) {
	s := newStore(t, "a", "b")
	c, ctx := s.client("a", "b"), t.Context()
	on := s.session(c, time.Second)
	l, err := c.Locks().Acquire(ctx, on, "l", "one")
	require.NoError(t, err)
	used, other := "a", "b"
	if s.doors["b"].keeps.Load() > 0 {
		used, other = "b", "a"
	}
	before := s.doors[other].keeps.Load()
	s.stop(used)
	s.until("the other one keeps it alive, longer than a TTL", func() bool { return s.doors[other].keeps.Load() >= before+5 })
	select {
	case <-l.Done():
		t.Fatalf("lost: %v", on.Err())
	default:
	}
	now, err := c.Locks().Look(ctx, "l")
	require.NoError(t, err)
	require.Equal(t, l.Token, now.Token)

	s.stop(other)
	<-l.Done()
	require.True(t, errs.Has(on.Err(), errs.LeaseNotFound), "%v", on.Err())
	s.start(used)
	later := s.session(c, time.Minute)
	next, err := c.Locks().Acquire(ctx, later, "l", "two")
	require.NoError(t, err)
	require.Greater(t, next.Token, l.Token)
	require.True(t, errs.Has(l.Release(ctx), errs.NotLeader))
}

// A claim that waits goes on waiting when its server stops, in the same place.
func TestWaiterOverAServerThatStops(t *testing.T) {
	s := newStore(t, "a", "b", "c")
	ctx := t.Context()
	holder := s.client("c")
	l, err := holder.Locks().Acquire(ctx, s.session(holder, time.Minute), "l", "one")
	require.NoError(t, err)
	c := s.client("a", "b")
	got := make(chan *client.Lock, 1)
	on := s.session(c, time.Minute)
	go func() {
		next, err := c.Locks().Acquire(ctx, on, "l", "two")
		if err != nil {
			t.Error(err)
		}
		got <- next
	}()
	token := func() uint64 {
		now, err := holder.Locks().Look(ctx, "l")
		if err != nil || len(now.Waiting) != 1 {
			return 0
		}
		return now.Revision
	}
	s.until("it waits", func() bool { return token() != 0 })
	in := token()
	used := "a"
	if s.doors["b"].keeps.Load() > 0 {
		used = "b"
	}
	s.stop(used)
	other := map[string]string{"a": "b", "b": "a"}[used]
	s.until("it asks the other one", func() bool { return s.doors[other].claims.Load() > 0 })
	require.NoError(t, l.Release(ctx))
	next := <-got
	require.NotNil(t, next)
	require.LessOrEqual(t, next.Token, in, "it kept its place: the token is that of its first claim")
}

// row: nekoq 10: who asks is told the holder; when that one dies another holds, and
// both hear of it.
func TestAcquireAfterTheHolderDies(t *testing.T) {
	s := newStore(t, "a", "b")
	ctx := t.Context()
	first, second := s.client("a"), s.client("b")
	one, two := s.session(first, time.Second), s.session(second, time.Minute)
	now, err := first.Elections().Acquire(ctx, one, "node", "n1")
	require.NoError(t, err)
	require.True(t, now.Held)
	told := now.Token
	now, err = second.Elections().Acquire(ctx, two, "node", "n2")
	require.NoError(t, err)
	require.False(t, now.Held)
	require.Equal(t, "n1", now.Holder)
	var seen []*client.Observation
	for _, c := range []*client.Client{first, second} {
		o, err := c.Elections().Observe(ctx, "node")
		require.NoError(t, err)
		defer o.Close()
		now, err = o.Next(ctx)
		require.NoError(t, err)
		require.Equal(t, "n1", now.Holder)
		seen = append(seen, o)
	}
	one.Abandon()
	for _, o := range seen {
		for now, err = o.Next(ctx); err == nil && now.Holder != "n2"; now, err = o.Next(ctx) {
			require.Contains(t, []string{"n1", ""}, now.Holder)
		}
		require.NoError(t, err)
		require.Greater(t, now.Token, told)
	}
}

func TestElections(t *testing.T) {
	s := newStore(t, "a", "b")
	c, ctx := s.client("a", "b"), t.Context()
	o, err := c.Elections().Observe(ctx, "e")
	require.NoError(t, err)
	defer o.Close()
	state := func() client.Claim {
		t.Helper()
		now, err := o.Next(ctx)
		require.NoError(t, err)
		return now
	}
	require.Zero(t, state().Token)
	one, two := s.session(c, time.Minute), s.session(c, time.Minute)
	lead, err := c.Elections().Campaign(ctx, one, "e", "one")
	require.NoError(t, err)
	require.Equal(t, "one", state().Holder)
	none, now, err := c.Elections().Try(ctx, two, "e", "two")
	require.NoError(t, err)
	require.Nil(t, none)
	require.Equal(t, "one", now.Holder)

	// Acquire tells at once, and the candidate stays in line.
	now, err = c.Elections().Acquire(ctx, two, "e", "two")
	require.NoError(t, err)
	require.False(t, now.Held)
	require.Equal(t, lead.Token, now.Token)
	require.Equal(t, []string{"two"}, now.Waiting)
	for _, d := range []string{"a", "b"} { // whichever it is: the watch comes back with the present state
		s.stop(d)
		s.start(d)
	}
	require.NoError(t, lead.Release(ctx))
	for st := state(); st.Holder != "two"; st = state() {
		require.Contains(t, []string{"one", ""}, st.Holder)
	}
	now, err = c.Elections().Leader(ctx, "e")
	require.NoError(t, err)
	require.Equal(t, "two", now.Holder)
	require.Greater(t, now.Token, lead.Token)
	lockWatch, err := c.Locks().Observe(ctx, "e")
	require.NoError(t, err)
	defer lockWatch.Close()
	st, err := lockWatch.Next(ctx)
	require.NoError(t, err)
	require.Zero(t, st.Token, "a lock of the same name is another thing")
	_, err = c.Elections().Campaign(ctx, one, "e", "")
	require.True(t, errs.Has(err, errs.InvalidArgument), "%v", err)
	_, err = c.Elections().Observe(ctx, strings.Repeat("n", 513))
	if err == nil { // the server refuses a stream in its first answer
		bad, _ := c.Elections().Observe(ctx, strings.Repeat("n", 513))
		defer bad.Close()
		_, err = bad.Next(ctx)
	}
	require.True(t, errs.Has(err, errs.InvalidArgument), "%v", err)
}

// row: nekoq 9. A folder is told whole, once and in order, while doors stop and connections break.
func TestFolderOverServersThatStop(t *testing.T) {
	s := newStore(t, "a", "b")
	c, ctx := s.client("a", "b"), t.Context()
	_, err := c.KV().Put(ctx, "f/old", nil)
	require.NoError(t, err)
	w, err := c.KV().WatchFolder(ctx, "f/")
	require.NoError(t, err)
	defer w.Close()
	existing, err := w.Next(ctx)
	require.NoError(t, err)
	require.Len(t, existing, 1)
	require.Equal(t, client.FolderExisting, existing[0].Kind)
	const n = 40
	writer := s.client("b")
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range n {
			if _, err := writer.KV().Put(ctx, fmt.Sprintf("f/%d", i%4), []byte(fmt.Sprint(i))); err != nil {
				t.Error(err)
				return
			}
			s.cut("a")
			if i%10 == 5 {
				s.stop("a")
			}
			if i%10 == 8 {
				s.start("a")
			}
		}
	})
	last := existing[0].KV.ModRevision
	for seen := 0; seen < n; {
		events, err := w.Next(ctx)
		require.NoError(t, err)
		for _, e := range events {
			require.Equal(t, last+1, e.KV.ModRevision)
			last = e.KV.ModRevision
			require.Equal(t, fmt.Sprint(seen), string(e.KV.Value))
			want := client.FolderModified
			if seen < 4 {
				want = client.FolderCreated
			}
			require.Equal(t, want, e.Kind)
			seen++
		}
	}
	wg.Wait()
	require.Equal(t, last, w.Revision())
	_, err = c.KV().WatchFolder(ctx, "f")
	require.True(t, errs.Has(err, errs.InvalidArgument), "%v", err)
}

func TestUpkeep(t *testing.T) {
	s := newStore(t, "a")
	kv, ctx := s.client("a").KV(), t.Context()
	for i := range 3 {
		_, err := kv.Put(ctx, fmt.Sprintf("t/%d", i), []byte("1"))
		require.NoError(t, err)
	}
	_, err := kv.Put(ctx, "t/0", []byte("2"))
	require.NoError(t, err)
	d, err := kv.Diff(ctx, client.SpanPrefix("t/"), 2, 0, 0)
	require.NoError(t, err)
	require.Len(t, d.Differences, 3)
	require.Equal(t, "1", string(d.Differences[0].From.Value))
	require.Equal(t, "2", string(d.Differences[0].To.Value))
	require.Nil(t, d.Differences[1].From)
	r, err := kv.Rollback(ctx, client.SpanPrefix("t/"), 2)
	require.NoError(t, err)
	require.EqualValues(t, 1, r.Put)
	require.EqualValues(t, 2, r.Deleted)
	require.EqualValues(t, 6, r.Revision)
	require.NoError(t, kv.SetQuota(ctx, client.KeyQuota{Prefix: []byte("t/"), MaxKeys: 1}))
	_, err = kv.Put(ctx, "t/1", nil)
	require.True(t, errs.Has(err, errs.QuotaExceeded), "%v", err)
	qs, err := kv.Quotas(ctx)
	require.NoError(t, err)
	require.Len(t, qs, 1)
	require.EqualValues(t, 1, qs[0].Keys)
	require.NoError(t, kv.SetStoreLimit(ctx, 1<<20))
	sp, alarms, err := kv.Space(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 1<<20, sp.Limit)
	require.Empty(t, alarms)
	_, err = kv.Compact(ctx, 6)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		err   error
		code  errs.Code
		field string
	}{
		"limit":        {kv.SetStoreLimit(ctx, 5), errs.InvalidArgument, "limit_bytes"},
		"rate":         {kv.SetQuota(ctx, client.KeyQuota{Prefix: []byte("t/"), WriteRate: 1 << 40}), errs.InvalidArgument, "write_rate"},
		"rollback 0":   {second(kv.Rollback(ctx, client.SpanOf("t/0"), 0)), errs.InvalidArgument, "revision"},
		"rollback old": {second(kv.Rollback(ctx, client.SpanOf("t/0"), 2)), errs.Compacted, "revision"},
		"diff old":     {second(kv.Diff(ctx, client.SpanOf("t/0"), 2, 0, 0)), errs.Compacted, "revision"},
		"diff future":  {second(kv.Diff(ctx, client.SpanOf("t/0"), 99, 0, 0)), errs.FutureRevision, "revision"},
		"diff limit":   {second(kv.Diff(ctx, client.SpanOf("t/0"), 6, 0, -1)), errs.InvalidArgument, "limit"},
		"defrag":       {second(kv.Defragment(ctx)), errs.ServiceOff, ""},
	} {
		require.True(t, errs.Has(c.err, c.code), "%s: %v", name, c.err)
		if c.field != "" {
			require.Equal(t, c.field, errs.From(c.err).Details[0].Field, "%s: %v", name, c.err)
		}
	}
}
