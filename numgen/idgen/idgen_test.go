package idgen

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"nekoq/services/clock"
	"nekoq/services/errs"
	"nekoq/services/testkit/fakeclock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// leaser is a fake of the replicated state: function fields over one table row.
type leaser struct {
	mu    sync.Mutex
	token uint64
	high  int64
	next  uint16
	fail  error
	calls int
}

func (l *leaser) Acquire(_ context.Context, r AcquireRequest) (Grant, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls++
	if l.fail != nil {
		return Grant{}, l.fail
	}
	l.token++
	g := Grant{Numbers: []uint16{uint16(r.Min) + 1}, Token: l.token, Floor: l.high, High: max(r.NowMS, l.high) + r.ReserveMS}
	l.high, l.next = g.High, g.Numbers[0]+1
	return g, nil
}

func (l *leaser) Extend(_ context.Context, r ExtendRequest) (Grant, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls++
	if l.fail != nil {
		return Grant{}, l.fail
	}
	if r.Token != l.token {
		return Grant{}, errs.New(errs.StaleToken, "superseded")
	}
	l.high = max(l.high, r.NowMS+r.ReserveMS)
	g := Grant{Numbers: append([]uint16(nil), r.Numbers...), Token: l.token, High: l.high}
	for len(g.Numbers) < r.Count {
		g.Numbers = append(g.Numbers, l.next)
		l.next++
	}
	return g, nil
}

func (l *leaser) Release(_ context.Context, r ReleaseRequest) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.high = r.LastMS
	return l.fail
}

func (l *leaser) set(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

func newTestWorker(t testing.TB, clk clock.Clock, l *leaser) *Worker {
	w := NewWorker(WorkerConfig{
		Holder: "h", Min: 0, Max: 1024, MaxNumbers: 4,
		Limits:  Limits{MaxDrift: 10 * time.Second, MaxAhead: time.Second},
		Reserve: 5 * time.Second, TTL: time.Minute, Idle: time.Minute, Timeout: time.Second, Clock: clk,
	}, l)
	t.Cleanup(func() { _ = w.Close(context.Background()) })
	return w
}

func layouts() []Layout {
	return []Layout{{Kind: ID128, Element: 7}, DefaultSnowflake(), {Kind: UUIDv7}, {Kind: ULID}}
}

// row: nekoq 1 and 2: form and parts of each kind, against the libraries that
// people parse them with.
func TestForms(t *testing.T) {
	clk := fakeclock.New(time.Date(2026, 3, 4, 5, 6, 7, 891e6, time.UTC))
	w := newTestWorker(t, clk, &leaser{})
	for _, l := range layouts() {
		packed, err := w.Append(t.Context(), w.Stream(l), nil, 3)
		if err != nil {
			t.Fatal(err)
		}
		texts := l.Kind.Texts(packed, 3)
		if lines := string(l.Kind.AppendLines(nil, packed)); lines != strings.Join(texts, "\n") {
			t.Fatal(lines)
		}
		for i, id := range texts {
			d, err := l.Decode(id)
			if err != nil || d.Time != "2026-03-04T05:06:07.891Z" {
				t.Fatal(l.Kind, id, d, err)
			}
			parts := map[string]string{}
			for _, p := range d.Parts {
				parts[p.Name] = p.Value
			}
			seq := parts["sequence"] + parts["counter"]
			if parts["worker"] != "1" || seq != string(rune('0'+i)) {
				t.Fatal(l.Kind, id, d)
			}
		}
	}
	id := string(ID128.AppendText(nil, []byte{0, 0, 0, 0, 0, 1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4}))
	if id != "00000000000100020000000300000004" {
		t.Fatal(id)
	}
	packed, _ := w.Append(t.Context(), w.Stream(Layout{Kind: UUIDv7}), nil, 1)
	u, err := uuid.FromBytes(packed)
	if d, _ := (Layout{Kind: UUIDv7}).Decode(u.String()); d.Parts[1].Value != "3" { // another generator, the same counter
		t.Fatal(d)
	}
	if err != nil || u.Version() != 7 || u.Variant() != uuid.RFC4122 || u.String() != UUIDv7.Texts(packed, 1)[0] {
		t.Fatal(u, err)
	}
	if sec, ns := u.Time().UnixTime(); sec != clk.Now().Unix() || ns/1e6 != 891 {
		t.Fatal(sec, ns)
	}
	packed, _ = w.Append(t.Context(), w.Stream(Layout{Kind: ULID}), nil, 1)
	x, err := ulid.ParseStrict(ULID.Texts(packed, 1)[0])
	if err != nil || !bytes.Equal(x[:], packed) || x.Time() != uint64(clk.Now().UnixMilli()) {
		t.Fatal(x, err)
	}
}

// Every split of bits and every span over milliseconds and workers packs ids
// that increase and decode to what went in.
func TestSnowflakeSpans(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Layout{Kind: Snowflake, Epoch: EpochMS}
		l.TimeBits = uint(rapid.IntRange(41, 46).Draw(t, "time"))
		l.WorkerBits = uint(rapid.IntRange(3, 10).Draw(t, "worker"))
		l.SlotBits = uint(rapid.IntRange(1, 63-int(l.TimeBits+l.WorkerBits)).Draw(t, "slot"))
		if l.SlotBits > MaxSlotBits {
			t.Skip("too wide")
		}
		workers := []uint16{1, 4, 7}[:rapid.IntRange(1, 3).Draw(t, "workers")]
		perMS := l.slots() * uint64(len(workers))
		s := Span{MS: EpochMS + 5, Slot: rapid.Uint64Range(0, perMS-1).Draw(t, "first"), N: rapid.IntRange(1, 300).Draw(t, "n"), Workers: workers, Slots: l.slots()}
		packed := l.Append(nil, s, nil)
		if len(packed) != 8*s.N {
			t.Fatal(len(packed))
		}
		var last uint64
		for id, rest, ok := l.Kind.Next(packed); ok; id, rest, ok = l.Kind.Next(rest) {
			v := Unpack(id).Lo
			if v <= last || v > 1<<63-1 {
				t.Fatalf("%d after %d", v, last)
			}
			last = v
		}
	})
}

func TestHighWater(t *testing.T) {
	clk := fakeclock.New(time.Time{})
	l := &leaser{}
	w := newTestWorker(t, clk, l)
	s := w.Stream(DefaultSnowflake())
	if _, err := w.Append(t.Context(), s, nil, 10); err != nil {
		t.Fatal(err)
	}
	// The leader is gone: ids go on to the high-water time and no further.
	l.set(func() { l.fail = errs.New(errs.NoLeader, "no leader") })
	clk.Step(5 * time.Second)
	if _, err := w.Append(t.Context(), s, nil, 10); err != nil {
		t.Fatal(err)
	}
	clk.Step(2 * time.Second)
	if _, err := w.Append(t.Context(), s, nil, 1); !errs.Has(err, errs.NoLeader) || !strings.Contains(err.Error(), "high-water") {
		t.Fatal(err)
	}
	g, _ := w.Grant()
	if last := s.reach(nil, 0); last > g.High {
		t.Fatalf("an id at %d, past the high-water time %d", last, g.High)
	}
	l.set(func() { l.fail = nil })
	if _, err := w.Append(t.Context(), s, nil, 1); err != nil {
		t.Fatal(err)
	}
	// Superseded: a new lease, after everything the old one was granted.
	var high int64
	l.set(func() { l.token += 10; high = l.high })
	clk.Step(7 * time.Second)
	packed, err := w.Append(t.Context(), s, nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	if at := s.layout.TimeOf(Unpack(packed)).UnixMilli(); at <= high {
		t.Fatalf("an id at %d, not after the floor %d", at, high)
	}
}

// The high-water time is kept ahead in the background while ids are made, and
// no longer when none are.
func TestKeeping(t *testing.T) {
	clk := fakeclock.New(time.Time{})
	l := &leaser{}
	w := newTestWorker(t, clk, l)
	s := w.Stream(Layout{Kind: ID128})
	if _, err := w.Append(t.Context(), s, nil, 1); err != nil {
		t.Fatal(err)
	}
	for range 60 { // of 2 s each
		poll(t, func() bool { return clk.Waiters() == 1 || !w.keeping.Load() })
		clk.Advance(2 * time.Second)
	}
	poll(t, func() bool { return !w.keeping.Load() })
	l.mu.Lock()
	calls := l.calls
	l.mu.Unlock()
	if calls < 20 || calls > 40 {
		t.Fatalf("%d calls in a minute of keeping", calls)
	}
}

func poll(t testing.TB, ok func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("it did not come about within 10 s")
		}
	}
}

// Demand beyond 4,096 ids a millisecond first runs ahead of the clock, then
// takes further worker numbers, and then waits.
func TestDemand(t *testing.T) {
	clk := fakeclock.New(time.Time{})
	w := newTestWorker(t, clk, &leaser{})
	s := w.Stream(DefaultSnowflake())
	last := uint64(0)
	take := func(ctx context.Context) error {
		packed, err := w.Append(ctx, s, nil, 4096*250)
		for id, rest, ok := Snowflake.Next(packed); ok && err == nil; id, rest, ok = Snowflake.Next(rest) {
			v := Unpack(id).Lo
			if v <= last {
				t.Fatalf("%d after %d", v, last)
			}
			last = v
		}
		return err
	}
	for range 12 {
		if err := take(t.Context()); err != nil {
			t.Fatal(err)
		}
		clk.Advance(63 * time.Millisecond) // 16 M ids/s, what four numbers make
	}
	if g, _ := w.Grant(); len(g.Numbers) < 3 {
		t.Fatal("numbers", g.Numbers)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		for {
			if err := take(ctx); err != nil {
				done <- err
				return
			}
		}
	}()
	if err := clk.BlockUntil(t.Context(), 2); err != nil { // the keeper's timer, and the wait for the clock
		t.Fatal(err)
	}
	cancel()
	if err := <-done; !errs.Has(err, errs.TooManyRequests) {
		t.Fatal(err)
	}
}

func TestLayoutChecks(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()
	for field, change := range map[string]func(*Layout){
		"time_bits":     func(l *Layout) { l.TimeBits = 31 },
		"worker_bits":   func(l *Layout) { l.WorkerBits = 17 },
		"sequence_bits": func(l *Layout) { l.SlotBits = 0 },
		"at most 63":    func(l *Layout) { l.TimeBits, l.WorkerBits = 44, 10 },
		"epoch":         func(l *Layout) { l.Epoch = now + 1 },
		"run out":       func(l *Layout) { l.TimeBits = 32 },
	} {
		l := DefaultSnowflake()
		change(&l)
		if err := l.Check(now); !errs.Has(err, errs.InvalidArgument) || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	if err := DefaultSnowflake().Check(now); err != nil {
		t.Fatal(err)
	}
}

func TestParseTextRefuses(t *testing.T) {
	for _, c := range []struct {
		kind Kind
		bad  []string
	}{
		{ID128, []string{"", "0", strings.Repeat("0", 33), strings.Repeat("A", 32), strings.Repeat("g", 32), "\xff" + strings.Repeat("0", 31)}},
		{Snowflake, []string{"", "-1", "+1", "01", "1.5", "9223372036854775808", "abc"}},
		{UUIDv7, []string{"", "0190163d-8694-439b-aea5-966c26f8ad91", "0190163d8694739baea5966c26f8ad91", "{0190163d-8694-739b-aea5-966c26f8ad91}"}},
		{ULID, []string{"", "01ARZ3NDEKTSV4RRFFQ69G5FA", "81ARZ3NDEKTSV4RRFFQ69G5FAV", "01ARZ3NDEKTSV4RRFFQ69G5FA!"}},
	} {
		for _, s := range c.bad {
			if n, err := c.kind.ParseText(s); !errs.Has(err, errs.InvalidArgument) {
				t.Errorf("%s %q: %v %v", c.kind, s, n, err)
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("0190163d-8694-739b-aea5-966c26f8ad91")
	f.Add("00000000000100020000000300000004")
	f.Add("01ARZ3NDEKTSV4RRFFQ69G5FAV")
	f.Add("9223372036854775807")
	f.Fuzz(func(t *testing.T, s string) {
		for _, l := range layouts() {
			n, err := l.Kind.ParseText(s)
			if err != nil {
				continue
			}
			b := n.bytes()
			back := string(l.Kind.AppendText(nil, b[16-l.Kind.Size():]))
			if l.Kind == UUIDv7 || l.Kind == ULID {
				s = strings.ToLower(s)
				back = strings.ToLower(back)
			}
			if back != s {
				t.Fatalf("%s: %q came back as %q", l.Kind, s, back)
			}
			if _, err := l.Decode(back); err != nil && l.Kind != ULID {
				t.Fatal(err)
			}
		}
	})
}
