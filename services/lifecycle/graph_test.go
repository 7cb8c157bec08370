package lifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"nekoq/services/errs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// journal notes which hook ran when.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) note(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

func (j *journal) hook(line string, took time.Duration, err error) func(context.Context) error {
	return func(ctx context.Context) error {
		j.note(line)
		select {
		case <-time.After(took):
		case <-ctx.Done():
			return ctx.Err()
		}
		j.note(line + " done")
		return err
	}
}

// at tells the place of a line, -1 when it is not there.
func (j *journal) at(line string) int { return slices.Index(j.all(), line) }

func (j *journal) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.lines)
}

func (j *journal) component(name string, needs ...string) Component {
	return Component{
		Name: name, Needs: needs,
		Start: j.hook("start "+name, time.Second, nil),
		Drain: j.hook("drain "+name, time.Second, nil),
		Stop:  j.hook("stop "+name, time.Second, nil),
	}
}

func graph(components ...Component) *Graph {
	g := New(Options{})
	for _, c := range components {
		g.Add(c)
	}
	return g
}

func states(g *Graph) string {
	var out []string
	for _, s := range g.Snapshot() {
		out = append(out, s.Name+"="+string(s.State))
	}
	return strings.Join(out, " ")
}

func names(plan []Planned) (out []string) {
	for _, p := range plan {
		out = append(out, p.Name)
	}
	return out
}

func TestPlanOrder(t *testing.T) {
	g := graph(
		Component{Name: "http", Needs: []string{"state", "auth"}},
		Component{Name: "naming", Off: "services.naming = false", Needs: []string{"state"}},
		Component{Name: "state"}, Component{Name: "auth"},
		Component{Name: "portal", Needs: []string{"http"}},
	)
	plan, err := g.Plan()
	require.NoError(t, err)
	require.Equal(t, []string{"auth", "state", "http", "portal", "naming"}, names(plan))
	require.Equal(t, "auth=pending state=pending http=pending portal=pending naming=off", states(g))
}

func TestPlanMistakes(t *testing.T) {
	for name, tc := range map[string]struct {
		components []Component
		want       []string
	}{
		"unknown": {[]Component{{Name: "a", Needs: []string{"b"}}}, []string{"a needs b, which does not exist"}},
		"cycle": {[]Component{
			{Name: "x", Needs: []string{"c"}},
			{Name: "c", Needs: []string{"b"}},
			{Name: "b", Needs: []string{"a"}},
			{Name: "a", Needs: []string{"c"}},
		}, []string{"circle: a needs c needs b needs a"}},
		"itself": {[]Component{{Name: "a", Needs: []string{"a"}}}, []string{"circle: a needs a"}},
		"off": {[]Component{
			{Name: "portal", Needs: []string{"http"}},
			{Name: "http", Needs: []string{"state"}},
			{Name: "state", Off: "services.x = false"},
		}, []string{"portal needs http needs state, which is off by services.x = false"}},
		"twice and nameless": {[]Component{{Name: "a"}, {Name: "a"}, {}}, []string{"component a is there twice", "has no name"}},
	} {
		t.Run(name, func(t *testing.T) {
			g := graph(tc.components...)
			_, err := g.Plan()
			require.Error(t, err)
			for _, w := range tc.want {
				require.ErrorContains(t, err, w)
			}
			require.Equal(t, len(tc.want), strings.Count(err.Error(), "invalid_argument"), err.Error())
			require.Error(t, g.Start(t.Context()))
			require.NoError(t, g.Stop(t.Context()))
		})
	}
}

func TestStartsInParallelAndStopsInReverse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		g := graph(j.component("a"), j.component("b"), j.component("c", "a", "b"))
		begin := time.Now()
		require.NoError(t, g.Start(t.Context()))
		require.Equal(t, 2*time.Second, time.Since(begin), "a and b start side by side")
		require.Equal(t, "a=ready b=ready c=ready", states(g))
		require.NoError(t, g.Ready(t.Context()))
		require.NoError(t, g.WaitReady(t.Context()))
		require.NoError(t, g.Stop(t.Context()))
		require.NoError(t, g.Wait())
		require.Equal(t, "a=stopped b=stopped c=stopped", states(g))
		require.Less(t, j.at("drain c done"), j.at("drain a"))
		require.Less(t, max(j.at("drain a done"), j.at("drain b done")), j.at("stop c"))
		require.Less(t, j.at("stop c done"), min(j.at("stop a"), j.at("stop b")))
		require.Len(t, g.Steps(), 6)
		require.Error(t, g.Start(t.Context()), "a graph starts once")
		require.NoError(t, g.Stop(t.Context()))
	})
}

func TestFirstCauseStopsTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		cause := errors.New("port in use")
		bad := j.component("bad", "a")
		bad.Start = j.hook("start bad", time.Second, cause)
		slow := j.component("slow")
		slow.Start = j.hook("start slow", time.Hour, nil)
		g := graph(j.component("a"), bad, slow, j.component("after", "bad"))
		err := g.Start(t.Context())
		require.ErrorIs(t, err, cause)
		require.ErrorContains(t, err, "bad failed to start")
		require.Equal(t, err, g.Wait())
		require.Equal(t, "a=stopped bad=failed after=pending slow=stopped", states(g))
		require.Equal(t, -1, j.at("start after"))
		require.Equal(t, -1, j.at("stop bad"), "what failed to start cleans up by itself")
		require.Positive(t, j.at("stop a done"))
	})
}

func TestStartDeadlineAndLateStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		deaf := Component{
			Name: "deaf", StartTimeout: time.Second,
			Start: func(context.Context) error { time.Sleep(time.Minute); return nil },
			Stop:  j.hook("stop deaf", 0, nil),
		}
		err := graph(deaf).Start(t.Context())
		require.True(t, errs.Has(err, errs.DeadlineExceeded), err)
		require.ErrorContains(t, err, "not started within 1s")
		time.Sleep(time.Hour)
		require.Equal(t, []string{"stop deaf", "stop deaf done"}, j.all(), "what comes up late is stopped")
	})
}

func TestPanicsAreFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		err := graph(Component{Name: "a", Start: func(context.Context) error { panic("ouch") }}).Start(t.Context())
		require.ErrorContains(t, err, "a failed to start: internal: panic: ouch")
		g := graph(Component{Name: "a", Stop: func(context.Context) error { panic("ouch") }})
		require.NoError(t, g.Start(t.Context()))
		require.ErrorContains(t, g.Stop(t.Context()), "a failed to stop: internal: panic: ouch")
	})
}

func TestReadyFollowsTheHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		why := errors.New("no leader")
		g := graph(Component{Name: "a", Ready: func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			return why
		}}, Component{Name: "b", Needs: []string{"a"}})
		require.Error(t, g.Ready(t.Context()))
		require.NoError(t, g.Start(t.Context()))
		synctest.Wait()
		err := g.Ready(t.Context())
		require.True(t, errs.Has(err, errs.Unavailable))
		require.ErrorContains(t, err, "a is started: no leader")
		require.Equal(t, "no leader", g.Snapshot()[0].Error)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, g.WaitReady(ctx), context.DeadlineExceeded)
		mu.Lock()
		why = nil
		mu.Unlock()
		require.NoError(t, g.WaitReady(t.Context()))
		require.Equal(t, "a=ready b=ready", states(g))
		mu.Lock()
		why = errors.New("lost it")
		mu.Unlock()
		time.Sleep(2 * time.Second)
		require.Equal(t, "a=started b=ready", states(g))
		require.NoError(t, g.Stop(t.Context()))
	})
}

func TestFailureWhileRunningStopsEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		failed := make(chan error, 1)
		a := j.component("a")
		a.Failed = failed
		g := graph(a, j.component("b", "a"))
		require.NoError(t, g.Start(t.Context()))
		cause := errors.New("disk gone")
		failed <- cause
		err := g.Wait()
		require.ErrorIs(t, err, cause)
		require.ErrorContains(t, err, "a failed to run")
		require.ErrorIs(t, g.WaitReady(t.Context()), cause)
		require.Equal(t, "a=failed b=stopped", states(g))
		require.Less(t, j.at("stop b done"), j.at("stop a"))
		require.Equal(t, -1, j.at("drain a"), "what failed has nothing to drain")
	})
}

func TestMissedDeadlinesAreNotedAndLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		a := j.component("a")
		a.DrainTimeout, a.Drain = 2*time.Second, j.hook("drain a", time.Hour, nil)
		a.StopTimeout, a.Stop = time.Second, func(context.Context) error { time.Sleep(time.Hour); return nil }
		g := graph(a, j.component("z"))
		require.NoError(t, g.Start(t.Context()))
		err := g.Stop(t.Context())
		require.ErrorContains(t, err, "a failed to drain: deadline_exceeded: not done within 2s")
		require.ErrorContains(t, err, "a failed to stop: deadline_exceeded: not done within 1s")
		require.NoError(t, g.Wait(), "a slow stop is not the cause of the end")
		missed := 0
		for _, s := range g.Steps() {
			if s.Missed {
				missed++
				require.Equal(t, "a", s.Component)
			}
		}
		require.Equal(t, 2, missed)
		require.Positive(t, j.at("stop z done"))
		time.Sleep(2 * time.Hour)
	})
}

func TestStopBreaksTheStartOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		slow := j.component("slow", "a")
		slow.Start = j.hook("start slow", time.Hour, nil)
		g := graph(j.component("a"), slow)
		end := make(chan error)
		go func() { end <- g.Start(t.Context()) }()
		time.Sleep(2 * time.Second)
		require.NoError(t, g.Stop(t.Context()))
		require.True(t, errs.Has(<-end, errs.Canceled))
		require.Equal(t, "a=stopped slow=stopped", states(g))
	})
}

func TestRunDrainsOnTheFirstSignal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		g := graph(j.component("a"))
		signals := make(chan os.Signal, 2)
		end := make(chan error)
		go func() { end <- g.Run(t.Context(), signals) }()
		time.Sleep(2 * time.Second)
		signals <- syscall.SIGTERM
		require.NoError(t, <-end)
		require.Equal(t, []string{"start a", "start a done", "drain a", "drain a done", "stop a", "stop a done"}, j.all())
	})
}

// A supervisor that signals the process and then its group means one stop.
func TestASignalDeliveredTwiceDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		a := j.component("a")
		a.Drain = j.hook("drain a", 10*time.Second, nil)
		g := graph(a)
		signals := make(chan os.Signal, 2)
		end := make(chan error)
		go func() { end <- g.Run(t.Context(), signals) }()
		time.Sleep(2 * time.Second)
		signals <- syscall.SIGTERM
		signals <- syscall.SIGTERM
		require.NoError(t, <-end)
		require.Equal(t, []string{"start a", "start a done", "drain a", "drain a done", "stop a", "stop a done"}, j.all())
	})
}

func TestASecondSignalStopsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		a := j.component("a")
		a.Drain = j.hook("drain a", 10*time.Second, nil)
		g := graph(a)
		signals := make(chan os.Signal, 2)
		end := make(chan error)
		go func() { end <- g.Run(t.Context(), signals) }()
		time.Sleep(2 * time.Second)
		signals <- syscall.SIGTERM
		time.Sleep(2 * time.Second)
		begin := time.Now()
		signals <- os.Interrupt
		require.ErrorIs(t, <-end, ErrForced)
		require.Zero(t, time.Since(begin))
		<-g.Done()
		require.Equal(t, -1, j.at("drain a done"))
		require.Positive(t, j.at("stop a"))
	})
}

func TestRunTellsWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("disk gone")
		failed := make(chan error, 1)
		g := graph(Component{Name: "a", Failed: failed})
		end := make(chan error)
		go func() { end <- g.Run(t.Context(), nil) }()
		failed <- cause
		require.ErrorIs(t, <-end, cause)

		var j journal
		ctx, cancel := context.WithCancel(t.Context())
		g = graph(j.component("a"))
		go func() { end <- g.Run(ctx, nil) }()
		cancel()
		require.NoError(t, <-end, "broken off from outside while starting")

		g = graph(Component{Name: "a", Start: func(context.Context) error { return cause }})
		require.ErrorIs(t, g.Run(t.Context(), nil), cause)
		require.ErrorContains(t, graph(Component{Name: "a", Needs: []string{"b"}}).Run(t.Context(), nil), "does not exist")
	})
}

func TestStatusJSON(t *testing.T) {
	text, err := json.Marshal(Status{Name: "a", State: StateOff, Needs: []string{}, OffReason: "services.a = false"})
	require.NoError(t, err)
	require.JSONEq(t, `{"name":"a","state":"off","needs":[],"since":"0001-01-01T00:00:00Z","off_reason":"services.a = false"}`, string(text))
}

// TestRandomGraphs checks the order of every hook over random graphs, some with
// a component that fails to start.
func TestRandomGraphs(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(rt, "components")
		bad := rapid.IntRange(-n, n-1).Draw(rt, "bad")
		synctest.Test(t, func(*testing.T) {
			var (
				j     journal
				all   []Component
				needs = map[string][]string{}
			)
			for i := range n {
				name := fmt.Sprintf("c%02d", i)
				for k := range i {
					if rapid.IntRange(0, 3).Draw(rt, "edge") == 0 {
						needs[name] = append(needs[name], fmt.Sprintf("c%02d", k))
					}
				}
				c := j.component(name, needs[name]...)
				took := time.Duration(rapid.IntRange(0, 5).Draw(rt, "took")) * time.Second
				c.Start = j.hook("start "+name, took, nil)
				if i == bad {
					c.Start = j.hook("start "+name, took, errors.New("bad"))
				}
				c.Drain = j.hook("drain "+name, took, nil)
				c.Stop = j.hook("stop "+name, took, nil)
				all = append(all, c)
			}
			g := graph(rapid.Permutation(all).Draw(rt, "added")...)
			plan, err := g.Plan()
			if err != nil {
				rt.Fatal(err)
			}
			order := names(plan)
			err = g.Start(context.Background())
			if (err != nil) != (bad >= 0) {
				rt.Fatalf("bad %d, start: %v", bad, err)
			}
			if err := g.Stop(context.Background()); err != nil {
				rt.Fatal(err)
			}
			before := func(first, second string) {
				if a, b := j.at(first), j.at(second); b >= 0 && (a < 0 || a > b) {
					rt.Fatalf("%q must come before %q:\n%s", first, second, strings.Join(j.all(), "\n"))
				}
			}
			for name, ns := range needs {
				for _, need := range ns {
					if slices.Index(order, need) > slices.Index(order, name) {
						rt.Fatalf("plan %v: %s needs %s", order, name, need)
					}
					before("start "+need+" done", "start "+name)
					if j.at("stop "+name) >= 0 {
						before("drain "+name+" done", "drain "+need)
						before("stop "+name+" done", "stop "+need)
					}
				}
			}
			for _, a := range order {
				up := j.at("start "+a+" done") >= 0 && (bad < 0 || a != fmt.Sprintf("c%02d", bad))
				if up != (j.at("stop "+a+" done") >= 0) {
					rt.Fatalf("%s: up %v\n%s", a, up, strings.Join(j.all(), "\n"))
				}
				for _, b := range order {
					if j.at("drain "+a) >= 0 {
						before("drain "+a+" done", "stop "+b)
					}
				}
			}
		})
	})
}

func TestFailureWhileOthersStartBreaksThemOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		failed := make(chan error, 1)
		a := j.component("a")
		a.Failed = failed
		b := j.component("b", "a")
		b.Start = j.hook("start b", time.Hour, nil)
		g := graph(a, b)
		cause := errors.New("disk gone")
		time.AfterFunc(2*time.Second, func() { failed <- cause })
		begin := time.Now()
		require.ErrorIs(t, g.Start(t.Context()), cause)
		require.Less(t, time.Since(begin), time.Minute)
		require.ErrorIs(t, g.Wait(), cause)
		require.Equal(t, "a=failed b=stopped", states(g))
		require.Positive(t, j.at("stop a done"))
	})
}

func TestAClosedFailedChannelIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := make(chan error)
		g := graph(Component{Name: "a", Failed: failed})
		require.NoError(t, g.Start(t.Context()))
		close(failed)
		synctest.Wait()
		require.NoError(t, g.Ready(t.Context()))
		require.NoError(t, g.Stop(t.Context()))
		require.NoError(t, g.Wait())
	})
}
