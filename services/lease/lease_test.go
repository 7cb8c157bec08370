package lease

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"nekoq/services/clock"
	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/lease/leasetable"
	"nekoq/services/replica"
	"nekoq/services/state"
	"nekoq/services/testkit/fakeclock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shared is one replicated state that several nodes lead in turn: what consensus
// gives, without its time.
type shared struct {
	mu    sync.Mutex
	m     *state.Machine
	index uint64
	wall  int64
	ended map[uint64]bool
}

func newShared(tb testing.TB) *shared {
	tb.Helper()
	s := &shared{ended: map[uint64]bool{}}
	reg := state.NewRegistry()
	Register(reg).OnRevoke(leasetable.OwnerNaming, func(*state.Tx, []leasetable.End) error { return nil })
	m, err := state.Open(state.Options{Path: filepath.Join(tb.TempDir(), "s.db"), Registry: reg, Mode: state.Volatile})
	if err != nil {
		tb.Fatal(err)
	}
	s.m = m
	tb.Cleanup(func() { _ = m.Close() })
	return s
}

// node is one node's view of shared.
type node struct {
	*shared
	id     string
	lead   func(ctx context.Context, term uint64)
	hold   func(kind command.Kind) // called before a command is proposed
	behind *shared                 // what stale views show; nil: the newest state
}

var _ replica.Replica = (*node)(nil)

func (n *node) Propose(ctx context.Context, cmd command.Command) (replica.Result, error) {
	if ctx.Err() != nil {
		return replica.Result{}, errs.From(ctx.Err())
	}
	if n.hold != nil {
		n.hold(cmd.Kind)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.index++
	n.wall += 1 + n.wall%7
	cmd.Time = n.wall
	r, err := n.m.ApplyEntry(n.index, 1, command.AppendBatch(nil, []command.Command{cmd}))
	if err != nil {
		return replica.Result{}, err
	}
	return replica.Result{Index: n.index, Revision: r[0].Revision, Changed: r[0].Changed, Data: r[0].Data}, r[0].Err
}

func (n *node) View(_ context.Context, c replica.Consistency) (*state.View, replica.Lag, error) {
	if c == replica.Stale && n.behind != nil {
		return n.behind.m.View(), replica.Lag{}, nil
	}
	return n.m.View(), replica.Lag{}, nil
}
func (n *node) Current(index string) any                         { return n.m.Current(index) }
func (n *node) Written(t ...state.TableID) (at, revision uint64) { return n.m.Written(t...) }
func (n *node) Leader() (string, uint64)                         { return n.id, 1 }
func (n *node) IsLeader() bool                                   { return true }
func (n *node) NodeID() string                                   { return n.id }
func (n *node) OnLeader(_ string, fn func(ctx context.Context, term uint64)) {
	n.lead = fn
}

// member is a node with its service and a clock of its own.
type member struct {
	*Service
	node *node
	clk  *fakeclock.Clock
	stop func()
}

func newMember(tb testing.TB, s *shared, id string, start time.Time) *member {
	tb.Helper()
	n := &node{shared: s, id: id}
	clk := fakeclock.New(start)
	svc, err := New(Deps{Replica: n, Clock: clk}, DefaultConfig())
	if err != nil {
		tb.Fatal(err)
	}
	m := &member{Service: svc, node: n, clk: clk}
	tb.Cleanup(m.depose)
	return m
}

func (m *member) elect() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); m.node.lead(ctx, 1) }()
	m.stop = func() { cancel(); <-done }
	if err := m.clk.BlockUntil(ctx, 1); err != nil {
		panic(err)
	}
}

func (m *member) depose() {
	if m.stop != nil {
		m.stop()
		m.stop = nil
	}
}

func (s *shared) now() (step, ms uint64) {
	v := s.m.View()
	defer v.Release()
	return leasetable.Clock(v)
}

// pass lets d pass on the leader, tick by tick, and waits for each step.
func (m *member) pass(tb testing.TB, d time.Duration) {
	tb.Helper()
	for ; d > 0; d -= DefaultConfig().Tick {
		before, _ := m.node.now()
		m.clk.Advance(DefaultConfig().Tick)
		wait(tb, "a step of the lease clock", func() bool {
			after, _ := m.node.now()
			return after > before || !m.node.any()
		})
	}
}

func (s *shared) any() bool {
	v := s.m.View()
	defer v.Release()
	return leasetable.Any(v)
}

func wait(tb testing.TB, what string, cond func() bool) {
	tb.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(200 * time.Microsecond)
	defer tick.Stop()
	for !cond() {
		if time.Now().After(deadline) {
			tb.Fatalf("never came true: %s", what)
		}
		<-tick.C
	}
}

func (m *member) alive(id uint64) bool {
	v := m.node.m.View()
	defer v.Release()
	_, ok := leasetable.Find(v, id)
	return ok
}

// The remaining time survives changes of the leader: no full time again, no early
// end, whatever the wall clocks of the nodes say.
func TestLeaderChanges(t *testing.T) {
	s := newShared(t)
	ctx := context.Background()
	nodes := []*member{
		newMember(t, s, "a", time.Time{}),
		newMember(t, s, "b", fakeclock.Epoch.Add(time.Hour)),
		newMember(t, s, "c", fakeclock.Epoch.Add(-time.Hour)),
	}
	nodes[0].elect()
	l, err := nodes[0].Grant(ctx, 0, 10*time.Second, nil)
	if err != nil {
		t.Fatal(err)
	}
	nodes[0].pass(t, 200*time.Millisecond)
	led := 200 * time.Millisecond
	for i := 0; led < 8800*time.Millisecond; i++ {
		m := nodes[i%3]
		if i > 0 {
			m.elect()
			m.clk.Advance(DefaultConfig().Tick)
			led += DefaultConfig().Tick
			wait(t, "the new leader's first step", func() bool { _, now := s.now(); return now >= uint64(led.Milliseconds()) })
		}
		m.pass(t, time.Second)
		led += time.Second
		if !m.alive(l.ID) {
			t.Fatalf("the lease ended after %s of its 10s", led)
		}
		m.depose()
		// Time without a leader, and a step of the wall clock: neither counts.
		m.clk.Step(time.Duration(i%3-1) * time.Hour)
		m.clk.Advance(5 * time.Second)
	}
	last := nodes[0]
	last.elect()
	last.pass(t, 3*time.Second+leasetable.Slack*time.Millisecond)
	if last.alive(l.ID) {
		_, now := s.now()
		t.Fatalf("the lease got more than its time: %d ms on the lease clock", now)
	}
	if _, err := last.KeepAlive(ctx, l.ID); !errs.Has(err, errs.LeaseNotFound) {
		t.Fatalf("keep-alive of an ended lease: %v", err)
	}
}

// A step of the wall clock under the leader moves the lease clock by at most one
// bounded step, which the slack covers.
func TestWallClockSteps(t *testing.T) {
	s := newShared(t)
	m := newMember(t, s, "a", time.Time{})
	m.elect()
	l, err := m.Grant(context.Background(), 0, 3*time.Second, nil)
	if err != nil {
		t.Fatal(err)
	}
	m.pass(t, time.Second)
	m.clk.Step(time.Hour)
	m.pass(t, 200*time.Millisecond)
	m.clk.Step(-2 * time.Hour)
	m.pass(t, 1800*time.Millisecond)
	if !m.alive(l.ID) {
		t.Fatal("the lease ended early")
	}
	m.pass(t, 2*time.Second)
	if m.alive(l.ID) {
		t.Fatal("the lease did not end")
	}
}

// Two that both think they lead do not run the clock at double speed.
func TestTwoLeaders(t *testing.T) {
	s := newShared(t)
	a, b := newMember(t, s, "a", time.Time{}), newMember(t, s, "b", time.Time{})
	a.elect()
	b.elect()
	if _, err := a.Grant(context.Background(), 0, time.Hour, nil); err != nil {
		t.Fatal(err)
	}
	const ticks = 50
	for range ticks {
		before, _ := s.now()
		a.clk.Advance(200 * time.Millisecond)
		b.clk.Advance(200 * time.Millisecond)
		_ = before
		wait(t, "both have looked", func() bool { return a.clk.Waiters() == 1 && b.clk.Waiters() == 1 })
	}
	if _, now := s.now(); now > ticks*200 {
		t.Fatalf("the lease clock ran %d ms in %d", now, ticks*200)
	}
}

// Renewals keep a lease.
func TestKeepAlive(t *testing.T) {
	s := newShared(t)
	m := newMember(t, s, "a", time.Time{})
	m.elect()
	l, err := m.Grant(context.Background(), 42, 2*time.Second, []byte("m"))
	if err != nil || l.ID != 42 {
		t.Fatal(l, err)
	}
	for range 10 {
		m.pass(t, 1800*time.Millisecond)
		if _, err := m.KeepAlive(context.Background(), 42); err != nil {
			t.Fatal(err)
		}
	}
	if err := func() error { _, err := m.Revoke(context.Background(), 42); return err }(); err != nil || m.alive(42) {
		t.Fatalf("revoke: %v", err)
	}
}

// Many leases that end in the same second end soon after it, and other writes go on
// meanwhile.
func TestManyEndTogether(t *testing.T) {
	const n = 30_000
	s := newShared(t)
	r := &node{shared: s, id: "a"}
	for id := uint64(1); id <= n; {
		var batch []command.Command
		for ; id <= n && len(batch) < command.MaxBatchCommands; id++ {
			batch = append(batch, command.Command{Kind: leasetable.KindGrant, Payload: leasetable.AppendGrant(nil, leasetable.Grant{ID: id, TTL: 1000})})
		}
		s.index++
		if _, err := s.m.ApplyEntry(s.index, 1, command.AppendBatch(nil, batch)); err != nil {
			t.Fatal(err)
		}
	}
	svc, err := New(Deps{Replica: r, Clock: clock.System()}, DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	began := time.Now()
	done := make(chan struct{})
	go func() { defer close(done); r.lead(ctx, 1) }()
	slowest := time.Duration(0)
	wait(t, "all leases have ended", func() bool {
		t0 := time.Now()
		if _, err := svc.Grant(ctx, 0, time.Hour, nil); err != nil {
			t.Error(err)
		}
		slowest = max(slowest, time.Since(t0))
		_, err := svc.TimeToLive(ctx, n, replica.Stale, false)
		v := s.m.View()
		defer v.Release()
		return err != nil && !leasetable.Due(v)
	})
	took := time.Since(began)
	cancel()
	<-done
	t.Logf("30,000 leases of 1s ended %s after the leader began; slowest other write %s", took, slowest)
	if took < time.Second {
		t.Fatalf("leases of 1s ended after %s", took)
	}
}

func TestConfig(t *testing.T) {
	if bad := DefaultConfig().Validate(); len(bad) > 0 {
		t.Fatal(bad)
	}
	if bad := (Config{}).Validate(); len(bad) != 4 {
		t.Fatalf("%d mistakes: %v", len(bad), fmt.Sprint(bad))
	}
}

// The ticks of a busy machine are not whole milliseconds apart. What is left of each
// counts with the next: a lease of a day would else end minutes late.
func TestClockKeepsPartsOfMilliseconds(t *testing.T) {
	s := newShared(t)
	m := newMember(t, s, "a", time.Time{})
	m.elect()
	if _, err := m.Grant(context.Background(), 0, time.Hour, nil); err != nil {
		t.Fatal(err)
	}
	m.pass(t, 200*time.Millisecond)
	_, from := s.now()
	const odd = 200*time.Millisecond + 900*time.Microsecond
	var passed time.Duration
	for range 600 {
		before, _ := s.now()
		m.clk.Advance(odd)
		passed += odd
		wait(t, "a step of the lease clock", func() bool { after, _ := s.now(); return after > before })
	}
	_, now := s.now()
	if got := time.Duration(now-from) * time.Millisecond; got > passed || got < passed-DefaultConfig().Tick {
		t.Fatalf("%s on the lease clock in %s", got, passed)
	}
}

// Ids that a node chooses follow each other, and those of two nodes do not meet.
func TestChosenIDs(t *testing.T) {
	s := newShared(t)
	ctx := context.Background()
	seen := map[uint64]bool{}
	for _, name := range []string{"a", "b"} {
		m := newMember(t, s, name, time.Time{})
		last := uint64(0)
		for i := range 10 {
			l, err := m.Grant(ctx, 0, time.Minute, nil)
			if err != nil {
				t.Fatal(err)
			}
			if l.ID == 0 || l.ID >= 1<<62 || seen[l.ID] || i > 0 && l.ID != last+1 && l.ID != 1 {
				t.Fatalf("id %d after %d", l.ID, last)
			}
			seen[l.ID], last = true, l.ID
		}
	}
	m := newMember(t, s, "c", time.Time{})
	for _, last := range []uint64{1<<62 - 4, 1<<62 - 3, 1<<62 - 2, 1<<63 - 1, 1<<64 - 1} {
		m.ids.Store(last)
		if id := m.newID(); id == 0 || id >= 1<<62 {
			t.Errorf("id %d after %d", id, last)
		}
	}
}
