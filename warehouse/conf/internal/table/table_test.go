package table

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/state"
	"nekoq/services/testkit/replay"
	"nekoq/services/watch"
	"nekoq/warehouse/conf/api"
)

type sink struct{ events []watch.Event }

func (s *sink) Publish(b []watch.Event) { s.events = append(s.events, b...) }
func (s *sink) Reset()                  {}

// anyArea stands in for the tree: every area but "none" exists.
type anyArea struct {
	users []func(state.Reader, string) bool
}

func (*anyArea) Exists(_ state.Reader, area string) bool { return area != "none" }

func (a *anyArea) AddUser(_ string, uses func(state.Reader, string) bool) {
	a.users = append(a.users, uses)
}

type store struct {
	t     *testing.T
	m     *state.Machine
	areas anyArea
	sink  sink
	index uint64
	now   time.Time
}

func open(t *testing.T) *store {
	t.Helper()
	s := &store{t: t, now: time.Unix(1_700_000_000, 0).UTC()}
	reg := state.NewRegistry()
	Register(reg, &s.areas)
	m, err := state.Open(state.Options{Path: filepath.Join(t.TempDir(), "state.db"), Registry: reg, Events: &s.sink, Mode: state.Volatile})
	if err != nil {
		t.Fatal(err)
	}
	s.m = m
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *store) apply(kind command.Kind, payload []byte) state.Result {
	s.t.Helper()
	s.index++
	s.now = s.now.Add(time.Second)
	cmd := command.Command{Kind: kind, Time: s.now.UnixNano(), Actor: "test:me", Payload: payload}
	res, err := s.m.ApplyEntry(s.index, 1, command.AppendBatch(nil, []command.Command{cmd}))
	if err != nil {
		s.t.Fatal(err)
	}
	s.rebuilt()
	return res[0]
}

// rebuilt compares the index with one that is made anew.
func (s *store) rebuilt() {
	s.t.Helper()
	v := s.m.View()
	defer v.Release()
	fresh := newIndex()
	fresh.Rebuild(v)
	if a, b := dump(fresh.Freeze().(*Index)), dump(v.Frozen(IndexName).(*Index)); a != b {
		s.t.Fatalf("rebuilt %s\nincremental %s", a, b)
	}
}

func dump(x *Index) string {
	var rows []*Row
	x.Ascend("", func(_ string, r *Row) bool { rows = append(rows, r); return true })
	b, _ := json.Marshal([]any{x.Counters, rows, x.Groups(), x.Scopes()})
	return string(b)
}

func (s *store) revision() uint64 {
	v := s.m.View()
	defer v.Release()
	return v.Revision()
}

func text(s string) (*api.Content, []byte) {
	return &api.Content{Type: api.Text, Size: len(s), Hash: "h-" + s}, []byte(s)
}

func address(key string) api.Address { return api.Address{Area: "default", Group: "app", Key: key} }

func (s *store) op(o Op, content string) (*api.Item, error) {
	s.t.Helper()
	if content != "" {
		o.Content, o.Bytes = text(content)
	}
	before := s.revision()
	r := s.apply(KindWrite, Batch{o}.Encode())
	if r.Err != nil {
		if s.revision() != before {
			s.t.Fatal("a refused command moved the revision")
		}
		return nil, r.Err
	}
	w, err := Decode[Written](r.Data)
	if err != nil {
		s.t.Fatal(err)
	}
	return w.Item, nil
}

func (s *store) must(o Op, content string) *api.Item {
	s.t.Helper()
	it, err := s.op(o, content)
	if err != nil {
		s.t.Fatal(err)
	}
	return it
}

func (s *store) refused(code errs.Code, o Op, content string) {
	s.t.Helper()
	if _, err := s.op(o, content); !errs.Has(err, code) {
		s.t.Fatalf("%v, want %s", err, code)
	}
}

// rows counts the rows of the tables that hold an item's parts.
func (s *store) rows() string {
	v := s.m.View()
	defer v.Release()
	out := ""
	for _, t := range []state.TableID{Items, Contents, History, Schedule} {
		n := 0
		v.Scan(t, nil, nil, func(_, _ []byte) bool { n++; return true })
		out += fmt.Sprint(n, " ")
	}
	return out
}

func TestLifeOfAnItem(t *testing.T) {
	s := open(t)
	a := address("k")
	s.refused(errs.NotFound, Op{Do: DoPublish, Address: a}, "")
	s.refused(errs.NotFound, Op{Do: DoDraft, Address: api.Address{Area: "none", Group: "g", Key: "k"}}, "x")
	s.must(Op{Do: DoDraft, Address: a, Comment: "first"}, "one")
	one := s.must(Op{Do: DoPublish, Address: a}, "")
	if one.Release.Number != 1 || one.Release.Comment != "first" || one.Draft != nil || one.Release.Actor != "test:me" {
		t.Fatalf("%+v", one)
	}
	if same := s.must(Op{Do: DoPublish, Address: a}, "one"); same.Revision != one.Revision {
		t.Fatalf("the same content became release %+v", same.Release)
	}
	s.must(Op{Do: DoPublish, Address: a}, "two")
	back := s.must(Op{Do: DoRollback, Address: a, Number: 1}, "")
	if back.Release.Number != 3 || back.Release.Hash != "h-one" || back.Release.From != 1 {
		t.Fatalf("%+v", back.Release)
	}
	s.refused(errs.NotFound, Op{Do: DoRollback, Address: a, Number: 9}, "")
	wrong := uint64(1)
	s.refused(errs.RevisionMismatch, Op{Do: DoPublish, Address: a, If: &wrong}, "x")
	yes, no := true, false
	s.must(Op{Do: DoSettings, Address: a, ReadOnly: &yes}, "")
	for _, do := range []Verb{DoDraft, DoPublish, DoDelete, DoGray} {
		s.refused(errs.FailedPrecond, Op{Do: do, Address: a, Gray: "g", Rule: &api.Rule{Percent: 1}}, "x")
	}
	s.must(Op{Do: DoSettings, Address: a, ReadOnly: &no}, "")
	gone := s.must(Op{Do: DoDelete, Address: a, Comment: "why"}, "")
	if !gone.Deleted || gone.Release != nil {
		t.Fatalf("%+v", gone)
	}
	s.refused(errs.NotFound, Op{Do: DoDelete, Address: a}, "")
	s.refused(errs.NotFound, Op{Do: DoSettings, Address: a, ReadOnly: &no}, "")
	again := s.must(Op{Do: DoRollback, Address: a, Number: 2}, "")
	if again.Release.Number != 5 || again.Release.Hash != "h-two" {
		t.Fatalf("%+v", again.Release)
	}
	if got := s.rows(); got != "1 4 5 0 " {
		t.Fatalf("rows %s", got)
	}
}

func TestScheduleFiresOnce(t *testing.T) {
	s := open(t)
	a := address("k")
	at := s.now.Add(time.Hour)
	it := s.must(Op{Do: DoSchedule, Address: a, At: &at, Comment: "at night"}, "one")
	if it.Release != nil || !it.Scheduled.At.Equal(at) {
		t.Fatalf("%+v", it)
	}
	fire := Op{Do: DoFire, Address: a, Number: it.Scheduled.Revision}
	s.refused(errs.FailedPrecond, fire, "") // not due
	later := at.Add(time.Hour)
	moved := s.must(Op{Do: DoSchedule, Address: a, At: &later}, "two")
	s.now = later
	s.refused(errs.Conflict, fire, "") // means the schedule before
	fire.Number = moved.Scheduled.Revision
	done := s.must(fire, "")
	if done.Release.Hash != "h-two" || done.Release.By != api.BySchedule || done.Scheduled != nil {
		t.Fatalf("%+v", done)
	}
	s.refused(errs.Conflict, fire, "")
	at = s.now.Add(time.Hour)
	s.must(Op{Do: DoSchedule, Address: a, At: &at}, "three")
	yes := true
	s.refused(errs.Conflict, Op{Do: DoSettings, Address: a, ReadOnly: &yes}, "")
	back := s.must(Op{Do: DoUnschedule, Address: a}, "")
	if back.Draft == nil || back.Draft.Hash != "h-three" || back.Scheduled != nil {
		t.Fatalf("%+v", back)
	}
	s.must(Op{Do: DoSchedule, Address: a, At: &at}, "")
	s.must(Op{Do: DoDelete, Address: a}, "")
	if got := s.rows(); got != "1 1 2 0 " {
		t.Fatalf("rows %s", got)
	}
}

func TestGrayReleases(t *testing.T) {
	s := open(t)
	a := address("k")
	rule := &api.Rule{Percent: 10}
	s.refused(errs.InvalidArgument, Op{Do: DoGray, Address: a, Gray: "g"}, "x")
	for i := range api.MaxGray {
		s.must(Op{Do: DoGray, Address: a, Gray: fmt.Sprint("g", i), Priority: new(i / 2), Rule: rule}, fmt.Sprint("c", i))
	}
	s.refused(errs.Exhausted, Op{Do: DoGray, Address: a, Gray: "more", Rule: rule}, "x")
	it := s.must(Op{Do: DoGray, Address: a, Gray: "g0", Priority: new(99)}, "")
	if it.Gray[0].Name != "g0" || it.Gray[1].Name != "g8" || it.Gray[2].Name != "g9" || it.Gray[0].Rule.Percent != 10 || it.Gray[0].Hash != "h-c0" {
		t.Fatalf("%+v", it.Gray)
	}
	if it = s.must(Op{Do: DoGray, Address: a, Gray: "g0", Comment: "why"}, ""); it.Gray[0].Priority != 99 {
		t.Fatalf("a change of something else left the priority at %d", it.Gray[0].Priority)
	}
	it = s.must(Op{Do: DoGrayPromote, Address: a, Gray: "g0"}, "")
	if it.Release == nil || it.Release.Hash != "h-c0" || it.Release.By != api.ByPromote || it.Release.Gray != "g0" || len(it.Gray) != 9 {
		t.Fatalf("%+v", it)
	}
	for i := 1; i < api.MaxGray; i++ {
		it = s.must(Op{Do: DoGrayDrop, Address: a, Gray: fmt.Sprint("g", i)}, "")
	}
	s.refused(errs.NotFound, Op{Do: DoGrayDrop, Address: a, Gray: "g1"}, "")
	if it.Gray != nil || s.rows() != "1 1 1 0 " {
		t.Fatalf("%+v, rows %s", it, s.rows())
	}
}

func TestBatchIsAllOrNothing(t *testing.T) {
	s := open(t)
	c, b := text("x")
	ok := Op{Do: DoPublish, Address: address("a"), Content: c, Bytes: b, By: api.ByImport}
	bad := Op{Do: DoPublish, Address: api.Address{Area: "none", Group: "g", Key: "b"}, Content: c, Bytes: b}
	for _, batch := range []Batch{{ok, bad}, {ok, ok}} {
		if r := s.apply(KindWrite, batch.Encode()); r.Err == nil || s.rows() != "0 0 0 0 " {
			t.Fatal(r.Err, s.rows())
		}
	}
	second := ok
	second.Address = address("b")
	text := "what it is"
	second.Description = &text
	if r := s.apply(KindWrite, Batch{ok, second}.Encode()); r.Err != nil || s.rows() != "2 2 2 0 " {
		t.Fatal(r.Err, s.rows())
	}
	v := s.m.View()
	defer v.Release()
	row, found, err := GetRow(v, second.Address)
	if err != nil || !found || row.Description != text || row.ID != 2 || row.Release.By != api.ByImport {
		t.Fatalf("%+v %v %v", row, found, err)
	}
	if !s.areas.users[0](v, "default") || s.areas.users[0](v, "defaul") || s.areas.users[1](v, "default") {
		t.Fatal("the area's uses are wrong")
	}
}

// What was checked against another schema than the item has is not written.
func TestSchemaOfTheCheck(t *testing.T) {
	s := open(t)
	a := address("k")
	rule := &api.Rule{Percent: 10}
	none, one := "", "h-s"
	verbs := []Op{{Do: DoDraft}, {Do: DoPublish}, {Do: DoSchedule, At: &s.now}, {Do: DoGray, Gray: "g", Rule: rule}}
	for _, op := range verbs {
		op.Address, op.Under = a, &one
		s.refused(errs.Conflict, op, "not there")
		op.Under = &none
		s.must(op, "x")
	}
	schema := Op{Do: DoSettings, Address: a, Schema: &api.Content{Type: api.JSON, Size: 1, Hash: one}, SchemaBytes: []byte("s")}
	s.must(schema, "")
	for _, op := range verbs {
		op.Address, op.Under = a, &none
		s.refused(errs.Conflict, op, "y")
		op.Under = &one
		s.must(op, "y")
	}
	s.must(Op{Do: DoDelete, Address: a}, "")
	s.refused(errs.Conflict, Op{Do: DoPublish, Address: a, Under: &one}, "z")
	s.must(Op{Do: DoPublish, Address: a, Under: &none}, "z")
}

func TestPrune(t *testing.T) {
	s := open(t)
	a := address("k")
	for i := range 5 {
		s.must(Op{Do: DoPublish, Address: a}, fmt.Sprint("v", i))
	}
	prune := func(it PruneItem) {
		it.Address = a
		if r := s.apply(KindPrune, Encode(Prune{Items: []PruneItem{it}})); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	prune(PruneItem{Through: 3})
	if s.rows() != "1 2 2 0 " {
		t.Fatal(s.rows())
	}
	prune(PruneItem{Through: 5, Forget: true}) // the published one stays, and so does the item
	if s.rows() != "1 1 1 0 " {
		t.Fatal(s.rows())
	}
	gone := s.must(Op{Do: DoDelete, Address: a}, "")
	prune(PruneItem{Through: 6, Forget: true, Revision: gone.Revision})
	if s.rows() != "0 0 0 0 " {
		t.Fatal(s.rows())
	}
}

func TestGroupsScopesAndReports(t *testing.T) {
	s := open(t)
	s.apply(KindGroupPut, Encode(api.Group{Name: "g", Quotes: []string{"q"}}))
	s.apply(KindScopePut, Encode(api.Scope{Name: "b", Area: "x", Priority: 1}))
	s.apply(KindScopePut, Encode(api.Scope{Name: "a", Area: "y", Priority: 1}))
	s.apply(KindScopePut, Encode(api.Scope{Name: "c", Area: "y", Priority: 2}))
	if r := s.apply(KindScopePut, Encode(api.Scope{Name: "d", Area: "none"})); !errs.Has(r.Err, errs.NotFound) {
		t.Fatal(r.Err)
	}
	v := s.m.View()
	x := v.Frozen(IndexName).(*Index)
	if l := x.Scopes(); len(l) != 3 || l[0].Name != "c" || l[1].Name != "a" || l[2].Name != "b" {
		t.Fatalf("%+v", l)
	}
	if !s.areas.users[1](v, "y") || s.areas.users[1](v, "z") {
		t.Fatal("the area's uses are wrong")
	}
	v.Release()
	for _, k := range []command.Kind{KindGroupDelete, KindScopeDelete} {
		if r := s.apply(k, []byte("nope")); !errs.Has(r.Err, errs.NotFound) {
			t.Fatal(r.Err)
		}
	}
	s.apply(KindGroupDelete, []byte("g"))
	s.apply(KindScopeDelete, []byte("c"))
	reports := func() (n int) {
		v := s.m.View()
		defer v.Release()
		if err := Reports(v, func(Report) { n++ }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	l := []api.Listener{{Client: "c"}}
	s.apply(KindReport, Encode(Report{Node: "n1", Listeners: l}))
	first := s.now
	s.apply(KindReport, Encode(Report{Node: "n2", Listeners: l}))
	s.apply(KindForget, EncodeForget(first))
	if reports() != 2 {
		t.Fatal(reports())
	}
	s.apply(KindForget, EncodeForget(first.Add(time.Millisecond)))
	if reports() != 1 {
		t.Fatal(reports())
	}
	s.apply(KindReport, Encode(Report{Node: "n2"}))
	if reports() != 0 {
		t.Fatal(reports())
	}
}

func TestReplay(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	verbs := []Verb{DoDraft, DoDraft, DoPublish, DoPublish, DoDiscard, DoSchedule, DoUnschedule, DoFire, DoRollback, DoDelete, DoSettings, DoGray, DoGrayDrop, DoGrayPromote, DoTakeIn}
	var cmds []command.Command
	for i := range 400 {
		now := time.Unix(int64(i), 0).UTC()
		c := command.Command{Time: now.UnixNano(), Actor: "test:me"}
		switch r.IntN(12) {
		case 0:
			c.Kind, c.Payload = KindGroupPut, Encode(api.Group{Name: fmt.Sprint("g", r.IntN(3)), Quotes: []string{"q"}})
		case 1:
			c.Kind, c.Payload = KindScopePut, Encode(api.Scope{Name: fmt.Sprint("s", r.IntN(3)), Area: "default", Priority: r.IntN(3)})
		case 2:
			c.Kind, c.Payload = KindScopeDelete, fmt.Append(nil, "s", r.IntN(3))
		case 3:
			c.Kind, c.Payload = KindReport, Encode(Report{Node: fmt.Sprint("n", r.IntN(3)), Listeners: []api.Listener{{Client: "c", Labels: map[string]string{"a": "1", "b": "2"}}}})
		case 4:
			c.Kind, c.Payload = KindForget, EncodeForget(now.Add(-20*time.Second))
		case 5:
			c.Kind, c.Payload = KindPrune, Encode(Prune{Items: []PruneItem{{Address: address(fmt.Sprint("k", r.IntN(4))), Through: uint64(r.IntN(9)), Forget: true}}})
		default:
			var b Batch
			for _, k := range r.Perm(4)[:1+r.IntN(2)] {
				yes := r.IntN(4) == 0
				at := now.Add(time.Duration(r.IntN(9)) * time.Second)
				o := Op{
					Do: verbs[r.IntN(len(verbs))], Address: address(fmt.Sprint("k", k)), Number: uint64(r.IntN(400)), Gray: fmt.Sprint("g", r.IntN(3)),
					Rule: &api.Rule{Percent: 5, Labels: map[string][]string{"x": {"1"}, "y": {"2"}}}, At: &at,
				}
				if o.Do == DoSettings {
					o.ReadOnly = &yes
				}
				if o.Do == DoRollback {
					o.Number = uint64(1 + r.IntN(4))
				}
				if o.Do == DoTakeIn {
					c, bytes := text(fmt.Sprint("p", r.IntN(5)))
					o.Number = 2
					o.Parts = []Part{
						{Kind: api.PartHistory, Content: c, Bytes: bytes, Release: &api.Release{Number: uint64(1 + r.IntN(2)), By: api.ByPublish, Stamp: api.Stamp{Time: now, Actor: "x"}}},
						{Kind: api.PartHistory, Release: &api.Release{Number: 7, By: api.ByDelete, Stamp: api.Stamp{Time: now, Actor: "x"}}},
						{Kind: api.PartDraft, Content: c, Bytes: bytes},
						{Kind: api.PartScheduled, Content: c, Bytes: bytes, At: &at},
						{Kind: api.PartGray, Content: c, Bytes: bytes, Name: "g1", Rule: &api.Rule{Percent: 5}},
					}
				}
				if r.IntN(3) > 0 {
					o.Content, o.Bytes = text(fmt.Sprint("c", r.IntN(5)))
				}
				if o.Do == DoDraft && o.Content == nil || o.Do == DoGray && o.Content == nil {
					o.Content, o.Bytes = text("x")
				}
				b = append(b, o)
			}
			c.Kind, c.Payload = KindWrite, b.Encode()
		}
		cmds = append(cmds, c)
	}
	out := replay.Check(t, func(reg *state.Registry) { Register(reg, &anyArea{}) }, cmds)
	ok := 0
	for _, r := range out.Results {
		if r.Err == nil {
			ok++
		}
	}
	if ok < 150 {
		t.Fatalf("only %d of %d commands did anything", ok, len(cmds))
	}
}

func FuzzBatch(f *testing.F) {
	c, b := text("x")
	f.Add(Batch{{Do: DoPublish, Address: address("a"), Content: c, Bytes: b}}.Encode())
	f.Add([]byte{5, '[', ']'})
	f.Fuzz(func(t *testing.T, p []byte) {
		ops, err := decodeBatch(p)
		if err != nil {
			return
		}
		again, err := decodeBatch(ops.Encode())
		if err != nil || len(again) != len(ops) {
			t.Fatal(again, err)
		}
	})
}
