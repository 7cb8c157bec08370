package table

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/state"
	"nekoq/services/testkit/replay"
	"nekoq/services/watch"
	"nekoq/warehouse/areas/api"
)

type sink struct{ events []watch.Event }

func (s *sink) Publish(b []watch.Event) { s.events = append(s.events, b...) }
func (s *sink) Reset()                  {}

type store struct {
	m     *state.Machine
	sink  sink
	index uint64
}

func open(t interface{ Fatalf(string, ...any) }, dir string) *store {
	reg := state.NewRegistry()
	Register(reg).Add("things", func(_ state.Reader, area string) bool { return area == "used" })
	s := &store{}
	m, err := state.Open(state.Options{Path: filepath.Join(dir, "state.db"), Registry: reg, Events: &s.sink, Mode: state.Volatile})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	s.m = m
	return s
}

func (s *store) apply(t interface{ Fatalf(string, ...any) }, kind command.Kind, payload any) state.Result {
	s.index++
	cmd := command.Command{Kind: kind, Time: int64(1_700_000_000+s.index) * 1e9, Actor: "test:me", Payload: Encode(payload)}
	res, err := s.m.ApplyEntry(s.index, 1, command.AppendBatch(nil, []command.Command{cmd}))
	if err != nil {
		t.Fatalf("apply: %v", err)
	}
	return res[0]
}

// model is the tree as a plain map, with the rules written down once more.
type model map[string]string // name → parent

func (m model) levels(name string) []string {
	out := []string{name}
	for name != api.Root {
		name = m[name]
		out = append(out, name)
	}
	return out
}

func (m model) deepest(name string) int {
	d := 0
	for n := range m {
		if l := m.levels(n); slices.Contains(l, name) {
			d = max(d, slices.Index(l, name)+1)
		}
	}
	return d
}

func (m model) create(name, parent string) errs.Code {
	_, dup := m[name]
	_, ok := m[parent]
	switch {
	case dup:
		return errs.AlreadyExists
	case !ok:
		return errs.NotFound
	case len(m.levels(parent)) >= api.MaxDepth:
		return errs.InvalidArgument
	}
	m[name] = parent
	return ""
}

func (m model) move(name, parent string) errs.Code {
	old, ok := m[name]
	_, there := m[parent]
	switch {
	case !ok:
		return errs.NotFound
	case old == parent:
		return ""
	case name == api.Root:
		return errs.Conflict
	case !there:
		return errs.NotFound
	case slices.Contains(m.levels(parent), name):
		return errs.Conflict
	case len(m.levels(parent))+m.deepest(name) > api.MaxDepth:
		return errs.InvalidArgument
	}
	m[name] = parent
	return ""
}

func (m model) remove(name string) errs.Code {
	if name == api.Root {
		return errs.Conflict
	}
	if _, ok := m[name]; !ok {
		return errs.NotFound
	}
	for _, p := range m {
		if p == name {
			return errs.Conflict
		}
	}
	if name == "used" {
		return errs.Conflict
	}
	delete(m, name)
	return ""
}

// row: nekoq 3, 5 (level list). The tables, the index and the model agree after
// any sequence of commands, and a refused command changes nothing.
func TestTreeAgreesWithModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := open(rt, t.TempDir())
		defer func() { _ = s.m.Close() }()
		m := model{api.Root: ""}
		name := rapid.SampledFrom([]string{"default", "a", "a.b", "b", "c", "used", "a-1", "d", "e"})
		for range rapid.IntRange(1, 40).Draw(rt, "commands") {
			before := s.m.View()
			n, p := name.Draw(rt, "name"), name.Draw(rt, "parent")
			var got state.Result
			var want errs.Code
			switch rapid.IntRange(0, 3).Draw(rt, "what") {
			case 0, 1:
				got, want = s.apply(rt, KindCreate, api.CreateRequest{Name: n, Parent: p}), m.create(n, p)
			case 2:
				got, want = s.apply(rt, KindUpdate, api.UpdateRequest{Name: n, Parent: &p}), m.move(n, p)
			case 3:
				got, want = s.apply(rt, KindDelete, api.DeleteRequest{Name: n}), m.remove(n)
			}
			if code := errs.CodeOf(got.Err); code != want {
				rt.Fatalf("%q below %q: %v, want %q", n, p, got.Err, want)
			}
			if want != "" && got.Revision != before.Revision() {
				rt.Fatalf("a refused command moved the revision")
			}
			before.Release()
			agree(rt, s.m, m)
		}
	})
}

func agree(t interface{ Fatalf(string, ...any) }, machine *state.Machine, m model) {
	v := machine.View()
	defer v.Release()
	tree := v.Frozen(IndexName).(*Tree)
	if tree.Len() != len(m) {
		t.Fatalf("the tree has %d areas, want %d", tree.Len(), len(m))
	}
	for n, p := range m {
		a, ok := tree.Get(n)
		if !ok || a.Parent != p {
			t.Fatalf("%q: %+v %v, want parent %q", n, a, ok, p)
		}
		want := m.levels(n)
		got, err := Levels(v, n)
		if err != nil || !slices.Equal(got, want) || !slices.Equal(tree.Levels(n), want) {
			t.Fatalf("levels of %q: %v %v in the tables, %v in the tree, want %v", n, got, err, tree.Levels(n), want)
		}
		var below []string
		tree.Children(n, "", func(a api.Area) bool { below = append(below, a.Name); return true })
		if got := children(v, n); !slices.Equal(got, below) {
			t.Fatalf("children of %q: %v in the tables, %v in the tree", n, got, below)
		}
	}
	fresh := newIndex()
	fresh.Rebuild(v)
	if a, b := dump(fresh.Freeze().(*Tree)), dump(tree); a != b {
		t.Fatalf("rebuilt %s\nincremental %s", a, b)
	}
}

func dump(t *Tree) string {
	var all []api.Area
	t.Ascend("", func(a api.Area) bool { all = append(all, a); return true })
	var keys []string
	t.byParent.Scan(func(k string, _ struct{}) bool { keys = append(keys, k); return true })
	b, _ := json.Marshal(all)
	return fmt.Sprintf("%d %s %q", t.Revision(), b, keys)
}

func TestRootMayBeDescribed(t *testing.T) {
	s := open(t, t.TempDir())
	defer func() { _ = s.m.Close() }()
	text, zero := "the top", uint64(0)
	for range 2 { // the second changes nothing
		if r := s.apply(t, KindUpdate, api.UpdateRequest{Name: api.Root, Description: &text}); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	if len(s.sink.events) != 1 {
		t.Fatalf("%d events, want 1", len(s.sink.events))
	}
	agree(t, s.m, model{api.Root: ""})
	r := s.apply(t, KindUpdate, api.UpdateRequest{Name: api.Root, Description: new(string), IfRevision: &zero})
	if !errs.Has(r.Err, errs.RevisionMismatch) {
		t.Fatal(r.Err)
	}
}

func TestReplay(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var cmds []command.Command
	names := []string{"default", "a", "b", "c", "d", "a.a", "used"}
	pick := func() string { return names[r.IntN(len(names))] }
	for i := range 200 {
		c := command.Command{Time: int64(i) * 1e9, Actor: "test:me"}
		p, d := pick(), fmt.Sprint(i)
		switch r.IntN(4) {
		case 0, 1:
			c.Kind, c.Payload = KindCreate, Encode(api.CreateRequest{Name: pick(), Parent: p, Description: d})
		case 2:
			c.Kind, c.Payload = KindUpdate, Encode(api.UpdateRequest{Name: pick(), Parent: &p, Description: &d})
		case 3:
			c.Kind, c.Payload = KindDelete, Encode(api.DeleteRequest{Name: pick()})
		}
		cmds = append(cmds, c)
	}
	replay.Check(t, func(reg *state.Registry) { Register(reg) }, cmds)
}
