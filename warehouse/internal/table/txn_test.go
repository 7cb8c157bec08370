package table

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/lease/leasetable"
	"nekoq/services/state"
	"nekoq/warehouse/api"
)

func (s *store) txn(t *api.Txn) (api.TxnResult, error) {
	s.t.Helper()
	r := s.apply(command.Command{Kind: KindTxn, Payload: t.Append(nil)})[0]
	if r.Err != nil {
		return api.TxnResult{}, r.Err
	}
	var out api.TxnResult
	if err := out.Decode(r.Data); err != nil {
		s.t.Fatalf("result: %v", err)
	}
	return out, nil
}

func put(k, v string) api.Op { return api.Op{Put: &api.PutOp{Key: []byte(k), Value: []byte(v)}} }

func get(k string) api.Op { return api.Op{Range: &api.RangeRequest{Span: api.One([]byte(k))}} }

func del(from, to string) api.Op {
	return api.Op{Delete: &api.DeleteOp{Span: api.Span{Key: []byte(from), End: []byte(to)}, Prev: true}}
}

func compareTo(k string, target api.CompareTarget, result api.CompareResult, n int64) api.Compare {
	return api.Compare{Span: api.One([]byte(k)), Target: target, Result: result, Number: n}
}

// plain carries a transaction out on the model, as plainly as can be.
func (m *model) plain(t *api.Txn) (rev uint64, ok bool, answers []string) {
	type step struct {
		ops []api.Op
		ok  bool
	}
	var choose func(t *api.Txn) step
	taken := map[*api.Txn]step{}
	choose = func(t *api.Txn) step {
		st := step{t.Then, true}
		for i := range t.If {
			c := &t.If[i]
			p := m.at(string(c.Key), m.rev)
			have := map[api.CompareTarget]int64{}
			if p != nil {
				have = map[api.CompareTarget]int64{api.CompareVersion: int64(p.ver), api.CompareCreate: int64(p.create), api.CompareMod: int64(p.rev)}
			}
			holds := false
			switch {
			case c.Target == api.CompareValue && p == nil:
			case c.Target == api.CompareValue:
				holds = relation(c.Result, strings.Compare(p.value, string(c.Value)))
			default:
				d := 0
				if have[c.Target] < c.Number {
					d = -1
				} else if have[c.Target] > c.Number {
					d = 1
				}
				holds = relation(c.Result, d)
			}
			if !holds {
				st = step{t.Else, false}
				break
			}
		}
		taken[t] = st
		for _, o := range st.ops {
			if o.Txn != nil {
				choose(o.Txn)
			}
		}
		return st
	}
	before, sub := m.rev, uint32(0)
	note := func(c change) {
		m.rev, c.rev, c.sub = before+1, before+1, sub
		if p := m.at(c.key, before+1); p != nil {
			c.prev = p.rev
			if !c.del {
				c.create, c.ver = p.create, p.ver+1
			}
		} else if !c.del {
			c.create, c.ver = c.rev, 1
		}
		m.changes = append(m.changes, c)
		sub++
	}
	var run func(st step)
	run = func(st step) {
		for _, o := range st.ops {
			switch {
			case o.Put != nil:
				note(change{key: string(o.Put.Key), value: string(o.Put.Value)})
				answers = append(answers, fmt.Sprintf("put %d", m.rev))
			case o.Delete != nil:
				n := 0
				for _, k := range m.keys(m.rev) {
					if k >= string(o.Delete.Key) && k < string(o.Delete.End) {
						note(change{key: k, del: true})
						n++
					}
				}
				answers = append(answers, fmt.Sprintf("deleted %d %d", n, m.rev))
			case o.Range != nil:
				a := "none"
				if p := m.at(string(o.Range.Key), m.rev); p != nil {
					a = p.show()
				}
				answers = append(answers, fmt.Sprintf("%s %d", a, m.rev))
			case o.Txn != nil:
				st := taken[o.Txn]
				answers = append(answers, fmt.Sprint("txn ", st.ok))
				run(st)
			}
		}
	}
	st := choose(t)
	run(st)
	return m.rev, st.ok, answers
}

func relation(r api.CompareResult, order int) bool {
	return r == api.Equal && order == 0 || r == api.Greater && order > 0 || r == api.Less && order < 0 || r == api.NotEqual && order != 0
}

func shown(r *api.TxnResult) (out []string) {
	for i := range r.Ops {
		switch o := &r.Ops[i]; {
		case o.Put != nil:
			out = append(out, fmt.Sprintf("put %d", o.Revision))
		case o.Delete != nil:
			out = append(out, fmt.Sprintf("deleted %d %d", o.Delete.Deleted, o.Revision))
		case o.Range != nil:
			a := "none"
			if len(o.Range.Items) > 0 {
				kv := &o.Range.Items[0]
				a = fmt.Sprintf("%q=%q@%d/%d v%d", kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version)
			}
			out = append(out, fmt.Sprintf("%s %d", a, o.Revision))
		case o.Txn != nil:
			out = append(out, fmt.Sprint("txn ", o.Txn.Succeeded))
			out = append(out, shown(o.Txn)...)
		}
	}
	return out
}

func drawTxn(rt *rapid.T, depth int) *api.Txn {
	t := &api.Txn{}
	for range rapid.IntRange(0, 2).Draw(rt, "conditions") {
		c := api.Compare{
			Span: api.One([]byte(keyGen.Draw(rt, "key"))), Target: api.CompareTarget(rapid.IntRange(0, 3).Draw(rt, "target")),
			Result: api.CompareResult(rapid.IntRange(0, 3).Draw(rt, "relation")), Number: rapid.Int64Range(-1, 6).Draw(rt, "number"),
			Value: []byte(rapid.SampledFrom([]string{"", "x", "cas"}).Draw(rt, "value")),
		}
		t.If = append(t.If, c)
	}
	ops := func() (out []api.Op) {
		for range rapid.IntRange(0, 3).Draw(rt, "operations") {
			switch k := keyGen.Draw(rt, "key"); rapid.IntRange(0, 3).Draw(rt, "kind") {
			case 0, 1:
				out = append(out, put(k, rapid.SampledFrom([]string{"", "x", "y"}).Draw(rt, "value")))
			case 2:
				out = append(out, get(k))
			case 3:
				if depth < 2 && rapid.Bool().Draw(rt, "nested") {
					out = append(out, api.Op{Txn: drawTxn(rt, depth+1)})
				} else {
					out = append(out, del(k, keyGen.Draw(rt, "end")))
				}
			}
		}
		return out
	}
	t.Then, t.Else = ops(), ops()
	return t
}

func modelTxn(rt *rapid.T, s *store, m *model) {
	t := drawTxn(rt, 0)
	if err := CheckTxn(t, 10); err != nil {
		if !errs.Has(err, errs.DuplicateKey) {
			rt.Fatalf("check: %v", err)
		}
		return
	}
	for _, o := range append(t.Then, t.Else...) {
		if o.Delete != nil && len(o.Delete.End) == 1 && o.Delete.End[0] == 0 {
			return // "\x00" as an end means everything, which the model does not know
		}
	}
	if strings.Contains(fmt.Sprintf("%q", t.Append(nil)), `\x04`) { // nested: may hold such an end too
		if nestedAll(t) {
			return
		}
	}
	res, err := s.txn(t)
	if err != nil {
		rt.Fatalf("txn: %v", err)
	}
	rev, ok, want := m.plain(t)
	if got := shown(&res); res.Revision != rev || res.Succeeded != ok || fmt.Sprint(got) != fmt.Sprint(want) {
		rt.Fatalf("txn gave %d %v %q; model %d %v %q", res.Revision, res.Succeeded, got, rev, ok, want)
	}
}

func nestedAll(t *api.Txn) bool {
	for _, ops := range [][]api.Op{t.Then, t.Else} {
		for _, o := range ops {
			if o.Delete != nil && string(o.Delete.End) == "\x00" || o.Txn != nil && nestedAll(o.Txn) {
				return true
			}
		}
	}
	return false
}

func modelRevert(rt *rapid.T, s *store, m *model) {
	rev := rapid.Uint64Range(max(m.compact, 1), m.rev).Draw(rt, "rev")
	from, to := keyGen.Draw(rt, "from"), keyGen.Draw(rt, "to")
	if to == "\x00" {
		return
	}
	c := RevertCommand{Span: api.Span{Key: []byte(from), End: []byte(to)}, Revision: rev}
	r := s.apply(command.Command{Kind: KindRevert, Payload: c.Encode()})[0]
	if r.Err != nil {
		rt.Fatalf("revert: %v", r.Err)
	}
	before, sub := m.rev, uint32(0)
	keys := map[string]bool{}
	for _, c := range m.changes {
		keys[c.key] = true
	}
	for _, k := range sortedKeys(keys) {
		if k < from || k >= to {
			continue
		}
		then, now := m.at(k, rev), m.at(k, before)
		if then == nil && now == nil || then != nil && now != nil && then.value == now.value {
			continue
		}
		ch := change{rev: before + 1, sub: sub, key: k, del: then == nil}
		if then != nil {
			ch.value, ch.create, ch.ver = then.value, before+1, 1
		}
		if now != nil {
			ch.prev = now.rev
			if then != nil {
				ch.create, ch.ver, ch.leased = now.create, now.ver+1, now.leased
			}
		}
		m.rev = before + 1
		m.changes = append(m.changes, ch)
		sub++
	}
	got, err := DecodeReverted(r.Data)
	if err != nil || got.Revision != m.rev || got.Put+got.Deleted != uint64(sub) {
		rt.Fatalf("revert to %d gave %+v %v; model %d, %d changes", rev, got, err, m.rev, sub)
	}
}

func sortedKeys(set map[string]bool) []string {
	m := &model{rev: 1}
	for k := range set {
		m.changes = append(m.changes, change{rev: 1, key: k})
	}
	return m.keys(1)
}

// compareQuotas checks what the quotas say is used.
func compareQuotas(t *rapid.T, r state.Reader, m *model) {
	err := Quotas(r, func(q Quota) bool {
		keys, size := uint64(0), uint64(0)
		for _, k := range m.keys(m.rev) {
			if strings.HasPrefix(k, string(q.Prefix)) {
				keys++
				size += uint64(len(k) + len(m.at(k, m.rev).value))
			}
		}
		if q.Keys != keys || q.Bytes != size {
			t.Fatalf("quota %q: %d keys, %d bytes; model %d, %d", q.Prefix, q.Keys, q.Bytes, keys, size)
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Every condition of etcd's, on a key that exists, one that does not, and ranges.
func TestConditions(t *testing.T) {
	s := openStore(t)
	for range 3 {
		if _, err := s.put(PutCommand{Key: []byte("k"), Value: []byte("m"), IfRevision: AnyRevision}); err != nil {
			t.Fatal(err)
		}
	}
	value := func(r api.CompareResult, v string) api.Compare {
		return api.Compare{Span: api.One([]byte("k")), Target: api.CompareValue, Result: r, Value: []byte(v)}
	}
	missing := value(api.NotEqual, "x")
	missing.Key = []byte("none")
	all := func(c api.Compare, end string) api.Compare { c.End = []byte(end); return c }
	for i, c := range []struct {
		c    api.Compare
		want bool
	}{
		{compareTo("k", api.CompareVersion, api.Equal, 3), true},
		{compareTo("k", api.CompareVersion, api.Less, 3), false},
		{compareTo("k", api.CompareCreate, api.Equal, 2), true},
		{compareTo("k", api.CompareMod, api.Greater, 3), true},
		{compareTo("k", api.CompareMod, api.NotEqual, 4), false},
		{compareTo("k", api.CompareLease, api.Equal, 0), true},
		{compareTo("none", api.CompareVersion, api.Equal, 0), true},
		{compareTo("none", api.CompareCreate, api.Greater, -1), true},
		{value(api.Equal, "m"), true},
		{value(api.Less, "n"), true},
		{value(api.Greater, "a"), true},
		{missing, false}, // nothing compares with no value
		{all(compareTo("a", api.CompareVersion, api.Equal, 3), "z"), true},
		{all(compareTo("a", api.CompareVersion, api.Equal, 0), "b"), true}, // no keys: judged as a missing one
		{all(compareTo("a", api.CompareVersion, api.Greater, 3), "\x00"), false},
	} {
		r, err := s.txn(&api.Txn{If: []api.Compare{c.c}})
		if err != nil || r.Succeeded != c.want {
			t.Errorf("condition %d: %v %v, want %v", i, r.Succeeded, err, c.want)
		}
	}
	if m := s.meta(); m.Revision != 4 {
		t.Errorf("conditions moved the revision to %d", m.Revision)
	}
}

func TestTxnForm(t *testing.T) {
	nested := func(ops ...api.Op) api.Op { return api.Op{Txn: &api.Txn{Then: ops}} }
	for i, c := range []struct {
		t    api.Txn
		code errs.Code
	}{
		{api.Txn{Then: []api.Op{put("a", ""), put("a", "")}}, errs.DuplicateKey},
		{api.Txn{Then: []api.Op{put("a", "")}, Else: []api.Op{put("a", "")}}, ""},
		{api.Txn{Then: []api.Op{put("a", ""), del("a", "b")}}, errs.DuplicateKey},
		{api.Txn{Then: []api.Op{del("a", "c"), del("b", "d")}}, ""},
		{api.Txn{Then: []api.Op{put("a", ""), nested(put("a", ""))}}, errs.DuplicateKey},
		{api.Txn{Then: []api.Op{del("a", "b"), nested(put("a", ""))}}, errs.DuplicateKey},
		{api.Txn{Then: []api.Op{nested(del("a", "b")), put("a", "")}}, errs.DuplicateKey},
		{api.Txn{Then: []api.Op{{Txn: &api.Txn{Then: []api.Op{put("a", "")}, Else: []api.Op{put("a", "")}}}}}, ""},
		{api.Txn{Then: []api.Op{nested(put("a", "")), nested(put("a", ""))}}, errs.DuplicateKey},
		{api.Txn{Then: []api.Op{nested(put("a", ""), put("a", ""))}}, errs.DuplicateKey},
		{api.Txn{Then: []api.Op{nested(del("a", "b")), nested(put("a", ""))}}, errs.DuplicateKey},
		{api.Txn{Then: []api.Op{nested(put("a", "")), nested(del("a", "b"))}}, errs.DuplicateKey},
		{api.Txn{Then: []api.Op{nested(put("b", "")), nested(del("a", "b"))}}, ""},
		{api.Txn{Then: []api.Op{{Txn: &api.Txn{Then: []api.Op{put("a", "")}, Else: []api.Op{del("a", "b")}}}}}, ""},
		{api.Txn{Then: []api.Op{get("a"), get("b"), get("c"), get("d")}}, errs.TooManyOps},
		{api.Txn{Then: []api.Op{get("a"), nested(get("b"), get("c"))}}, errs.TooManyOps},
		{api.Txn{Then: []api.Op{nested(get("b"), get("c"))}}, ""},
	} {
		if err := CheckTxn(&c.t, 3); errs.CodeOf(err) != c.code {
			t.Errorf("transaction %d: %v, want %q", i, err, c.code)
		}
	}
}

// A cover holds the keys that one of its spans holds, whichever way those overlap.
func TestCover(t *testing.T) {
	key := rapid.StringOfN(rapid.RuneFrom([]rune("ab")), 1, 3, -1)
	rapid.Check(t, func(rt *rapid.T) {
		var spans []api.Span
		for range rapid.IntRange(0, 6).Draw(rt, "spans") {
			s := api.One([]byte(key.Draw(rt, "start")))
			switch rapid.IntRange(0, 8).Draw(rt, "kind") {
			case 0:
				s = api.FromKey(s.Key)
			case 1, 2: // one key
			default:
				s.End = []byte(key.Draw(rt, "end")) // perhaps before the start
			}
			spans = append(spans, s)
		}
		k := key.Draw(rt, "key")
		want := slices.ContainsFunc(spans, func(s api.Span) bool {
			start, end := s.Bounds()
			return k >= string(start) && (end == nil || k < string(end))
		})
		if newCover(spans).has(k) != want {
			rt.Fatalf("%q in %q: want %v", k, spans, want)
		}
	})
}

// What is refused within a transaction refuses all of it.
func TestTxnRefusals(t *testing.T) {
	s := openStore(t)
	if _, err := s.txn(&api.Txn{Then: []api.Op{put("k", "v")}}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		op   api.Op
		code errs.Code
	}{
		{api.Op{Put: &api.PutOp{Key: []byte("x"), Lease: 77}}, errs.LeaseNotFound},
		{api.Op{Put: &api.PutOp{Key: []byte("x"), IgnoreValue: true}}, errs.NotFound},
		{api.Op{Put: &api.PutOp{Key: []byte("x"), IgnoreLease: true}}, errs.NotFound},
		{api.Op{Put: &api.PutOp{}}, errs.InvalidArgument},
		{api.Op{Put: &api.PutOp{Key: make([]byte, MaxKey+1)}}, errs.TooLarge},
		{api.Op{Range: &api.RangeRequest{Span: api.One([]byte("k")), Revision: 99}}, errs.FutureRevision},
	} {
		if _, err := s.txn(&api.Txn{Then: []api.Op{put("other", "v"), c.op}}); !errs.Has(err, c.code) {
			t.Errorf("%+v: %v, want %s", c.op, err, c.code)
		}
	}
	if m := s.meta(); m.Revision != 2 || m.Keys != 1 {
		t.Errorf("refused transactions left %+v", m)
	}
	holding := api.Txn{Holding: []api.Token{{Kind: api.TokenKey, Name: "k", Token: 2}}, Then: []api.Op{put("k", "w")}}
	if _, err := s.txn(&holding); err != nil {
		t.Errorf("a token that holds: %v", err)
	}
	holding.Holding[0].Token = 3
	if _, err := s.txn(&holding); !errs.Has(err, errs.StaleToken) {
		t.Errorf("a token that does not hold: %v", err)
	}
}

// A transaction that takes the last key off a lease of a TTL and hangs another on it
// keeps the lease: the other key ends with it. Without another, the lease is gone.
func TestTxnHangsAnotherKeyOnTheLeaseOfATTL(t *testing.T) {
	with := func(k string, lease uint64) api.Op {
		return api.Op{Put: &api.PutOp{Key: []byte(k), Value: []byte("v"), Lease: lease}}
	}
	for name, ops := range map[string]func(lease uint64) []api.Op{
		"delete":        func(l uint64) []api.Op { return []api.Op{del("a", "b"), with("b", l)} },
		"another lease": func(l uint64) []api.Op { return []api.Op{with("a", 0), with("b", l)} },
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t)
			w, err := s.put(PutCommand{Key: []byte("a"), Value: []byte("v"), TTL: 1000, IfRevision: AnyRevision})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.txn(&api.Txn{Then: ops(w.Lease)}); err != nil {
				t.Fatal(err)
			}
			s.step(2000)
			if e := s.expire(); e.Leases != 1 || e.Keys != 1 {
				t.Fatalf("%+v", e)
			}
			v := s.m.View()
			defer v.Release()
			if _, ok, err := Latest(v, []byte("b")); ok || err != nil {
				t.Fatalf("the key outlived its lease: %v %v", ok, err)
			}
			if w, err = s.put(PutCommand{Key: []byte("c"), Value: []byte("v"), TTL: 1000, IfRevision: AnyRevision}); err != nil {
				t.Fatal(err)
			}
			if _, err := s.txn(&api.Txn{Then: []api.Op{del("c", "d")}}); err != nil {
				t.Fatal(err)
			}
			later := s.m.View()
			defer later.Release()
			if _, ok := leasetable.Find(later, w.Lease); ok {
				t.Fatal("the lease of a TTL is left without its key")
			}
		})
	}
}
