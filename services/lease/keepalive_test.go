package lease

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/lease/leasetable"
	"nekoq/services/replica"
)

// counted counts the commands of a kind.
func (m *member) counted(kind command.Kind) func() int {
	var mu sync.Mutex
	n := 0
	m.node.hold = func(k command.Kind) {
		mu.Lock()
		defer mu.Unlock()
		if k == kind {
			n++
		}
	}
	return func() int { mu.Lock(); defer mu.Unlock(); return n }
}

// A renewal covers the keep-alives that follow it for a while: they are answered
// without a command. What was acknowledged without one holds over a change of the
// leader, and never is more than the TTL left.
func TestCoveredKeepAlives(t *testing.T) {
	const ttl = 8 * time.Second
	s := newShared(t)
	ctx := context.Background()
	a, b := newMember(t, s, "a", time.Time{}), newMember(t, s, "b", time.Time{})
	a.elect()
	l, err := a.Grant(ctx, 0, ttl, nil)
	if err != nil {
		t.Fatal(err)
	}
	a.pass(t, 2*time.Second)
	renewals := b.counted(leasetable.KindRenew)
	for i, want := range []int{1, 1, 1, 2, 2, 2, 3, 3} { // one each half second: half of the headroom
		if i > 0 {
			a.pass(t, 200*time.Millisecond)
		}
		k, err := b.KeepAlive(ctx, l.ID)
		if err != nil || k.TTL != ttl || k.Remaining != ttl || k.Revision != l.Revision {
			t.Fatalf("keep-alive %d: %+v, %v", i, k, err)
		}
		if i, err := b.TimeToLive(ctx, l.ID, replica.Linearizable, false); err != nil || i.Remaining != ttl || i.TTL != ttl {
			t.Fatalf("after a keep-alive: %+v, %v", i, err)
		}
		if got := renewals(); got != want {
			t.Fatalf("keep-alive %d: %d renewals in the log, want %d", i, got, want)
		}
	}
	a.depose()
	b.elect()
	b.pass(t, 200*time.Millisecond) // nobody's time until its first step
	b.pass(t, ttl-200*time.Millisecond)
	if !b.alive(l.ID) {
		t.Fatal("the lease ended before the TTL that the last keep-alive was promised")
	}
	b.pass(t, leasetable.Slack*time.Millisecond+leasetable.MaxHeadroom*time.Millisecond+DefaultConfig().Tick)
	if b.alive(l.ID) {
		t.Fatal("the lease did not end")
	}
	if _, err := b.KeepAlive(ctx, l.ID); !errs.Has(err, errs.LeaseNotFound) {
		t.Fatalf("keep-alive of an ended lease: %v", err)
	}
}

// A node whose own state is old keeps nothing alive by it.
func TestStaleNodeCoversNothing(t *testing.T) {
	s, old := newShared(t), newShared(t)
	ctx := context.Background()
	a := newMember(t, s, "a", time.Time{})
	for _, x := range []*shared{s, old} {
		m := newMember(t, x, "m", time.Time{})
		m.elect()
		if _, err := m.Grant(ctx, 7, 5*time.Second, nil); err != nil {
			t.Fatal(err)
		}
		m.pass(t, 400*time.Millisecond)
		if _, err := m.KeepAlive(ctx, 7); err != nil {
			t.Fatal(err)
		}
		m.depose()
	}
	a.node.behind = old
	renewals := a.counted(leasetable.KindRenew)
	if _, err := a.KeepAlive(ctx, 7); err != nil || renewals() != 0 {
		t.Fatalf("%v, %d renewals", err, renewals())
	}
	if _, err := a.Revoke(ctx, 7); err != nil {
		t.Fatal(err)
	}
	if l, err := a.KeepAlive(ctx, 7); !errs.Has(err, errs.LeaseNotFound) {
		t.Fatalf("a revoked lease was kept alive: %+v, %v", l, err)
	}
}

// Keep-alives of many leases, some covered, some not, some gone, some named twice.
func TestKeepAliveAll(t *testing.T) {
	s := newShared(t)
	ctx := context.Background()
	m := newMember(t, s, "a", time.Time{})
	m.elect()
	const n = 3 * leasetable.MaxRenew
	var ids []uint64
	for id := uint64(1); id <= n; id++ {
		if id%3 != 0 {
			if _, err := m.Grant(ctx, id, time.Duration(id)*time.Second, nil); err != nil {
				t.Fatal(err)
			}
		}
		ids = append(ids, id)
	}
	m.pass(t, 400*time.Millisecond)
	for id := uint64(1); id <= n; id += 3 { // headroom for these
		if _, err := m.KeepAlive(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	ids = append(slices.Insert(ids, 10, 500), 2, 3, 4)
	renewals := m.counted(leasetable.KindRenew)
	out, err := m.KeepAliveAll(command.NewContext(ctx, command.RequestID{}), ids, []Info{{ID: 99}})
	if err != nil || len(out) != len(ids)+1 || out[0].ID != 99 {
		t.Fatalf("%d answers for %d: %v", len(out), len(ids), err)
	}
	if got := renewals(); got != 3 {
		t.Fatalf("%d commands", got)
	}
	for i, o := range out[1:] {
		want := time.Duration(ids[i]) * time.Second
		if ids[i]%3 == 0 {
			want = 0
		}
		if o.ID != ids[i] || o.TTL != want || o.Remaining != want || (o.Revision == 0) != (want == 0) {
			t.Fatalf("answer %d, lease %d: %+v", i, ids[i], o)
		}
	}
	if out, err := m.KeepAliveAll(ctx, nil, nil); len(out) != 0 || err != nil {
		t.Fatal(out, err)
	}
}

// The lease clock goes on while what has come up ends, however long that takes.
func TestClockGoesOnDuringExpiry(t *testing.T) {
	s := newShared(t)
	ctx := context.Background()
	m := newMember(t, s, "a", time.Time{})
	held, reached := make(chan struct{}), make(chan struct{}, 1)
	release := sync.OnceFunc(func() { close(held) })
	t.Cleanup(release) // before the member's own, which waits for its loop
	m.node.hold = func(k command.Kind) {
		if k == leasetable.KindExpire {
			select {
			case reached <- struct{}{}:
			default:
			}
			<-held
		}
	}
	m.elect()
	for id, ttl := range []time.Duration{time.Second, 5 * time.Second} {
		if _, err := m.Grant(ctx, uint64(id+1), ttl, nil); err != nil {
			t.Fatal(err)
		}
	}
	m.pass(t, 2*time.Second)
	<-reached
	m.pass(t, 3*time.Second)
	if _, now := s.now(); now != 5000 {
		t.Fatalf("the clock is at %d ms", now)
	}
	release()
	wait(t, "the first lease is gone", func() bool {
		v := s.m.View()
		defer v.Release()
		_, found := v.Get(leasetable.TableLeases, []byte{0, 0, 0, 0, 0, 0, 0, 1})
		return !found
	})
	if !m.alive(2) {
		t.Fatal("the second lease ended early")
	}
}

func BenchmarkKeepAlive(b *testing.B) {
	s := newShared(b)
	m := newMember(b, s, "a", time.Time{})
	ctx := context.Background()
	if _, err := m.Grant(ctx, 1, time.Hour, nil); err != nil {
		b.Fatal(err)
	}
	m.elect()
	m.pass(b, 400*time.Millisecond)
	b.Run("covered", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := m.KeepAlive(ctx, 1); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("covered/256", func(b *testing.B) {
		ids, out := make([]uint64, 256), []Info(nil)
		for i := range ids {
			ids[i] = 1
		}
		b.ReportAllocs()
		for b.Loop() {
			var err error
			if out, err = m.KeepAliveAll(ctx, ids, out[:0]); err != nil {
				b.Fatal(err)
			}
		}
	})
}
