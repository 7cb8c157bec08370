package leasetable

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/state"
)

type machine struct {
	m     *state.Machine
	index uint64
	ended []uint64
	t     interface{ Fatalf(string, ...any) }
}

func open(t interface{ Fatalf(string, ...any) }, dir string) *machine {
	k := &machine{t: t}
	reg := state.NewRegistry()
	owners := Register(reg)
	owners.OnRevoke(OwnerNaming, func(_ *state.Tx, ends []End) error {
		for _, e := range ends {
			k.ended = append(k.ended, e.Lease)
		}
		return nil
	})
	// A command that attaches a key, as a service's own commands do.
	reg.Handle(0x3000, "attach", 1, func(tx *state.Tx, cmd *command.Command) ([]byte, error) {
		l, ok := Find(tx, uint64(cmd.Payload[0]))
		if !ok {
			return nil, ErrNotFound(uint64(cmd.Payload[0]))
		}
		Attach(tx, l.ID, OwnerNaming, cmd.Payload[1:])
		return nil, nil
	})
	m, err := state.Open(state.Options{Path: filepath.Join(dir, "s.db"), Registry: reg, Mode: state.Volatile})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	k.m = m
	return k
}

func (k *machine) do(kind command.Kind, payload []byte) state.Result {
	k.index++
	r, err := k.m.ApplyEntry(k.index, 1, command.AppendBatch(nil, []command.Command{{Kind: kind, Time: int64(k.index), Payload: payload}}))
	if err != nil {
		k.t.Fatalf("apply: %v", err)
	}
	return r[0]
}

func (k *machine) clock() (step, now uint64) {
	v := k.m.View()
	defer v.Release()
	return Clock(v)
}

// A lease never ends before its time and always at the first look after its
// deadline, whatever renewals, steps and expiries do in between.
func TestLeasesNeverEndEarly(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		k := open(rt, t.TempDir())
		defer k.m.Close()
		deadlines := map[uint64]uint64{} // lease to the clock at which it may end
		ttls := map[uint64]uint64{}
		ids := rapid.Uint64Range(1, 6)
		rt.Repeat(map[string]func(*rapid.T){
			"grant": func(rt *rapid.T) {
				id, ttl := ids.Draw(rt, "id"), rapid.Uint64Range(MinTTL, 3000).Draw(rt, "ttl")
				r := k.do(KindGrant, AppendGrant(nil, Grant{ID: id, TTL: ttl}))
				if _, there := ttls[id]; there {
					if !errs.Has(r.Err, errs.AlreadyExists) {
						rt.Fatalf("grant of a taken id: %v", r.Err)
					}
					return
				}
				if r.Err != nil {
					rt.Fatalf("grant: %v", r.Err)
				}
				_, now := k.clock()
				ttls[id], deadlines[id] = ttl, now+ttl+Slack
				k.do(0x3000, append([]byte{byte(id)}, "key"...))
			},
			"renew": func(rt *rapid.T) {
				named := rapid.SliceOfN(ids, 1, 4).Draw(rt, "named")
				var payload []byte
				for _, id := range named {
					payload = AppendID(payload, id)
				}
				r := k.do(KindRenew, payload)
				if r.Err != nil {
					rt.Fatalf("renew: %v", r.Err)
				}
				_, now := k.clock()
				rest := r.Data
				for _, id := range named {
					var ttl uint64
					var err error
					if ttl, _, rest, err = NextRenewed(rest); err != nil {
						rt.Fatalf("result %x: %v", r.Data, err)
					}
					if ttls[id] == 0 || deadlines[id] <= now {
						if ttl != 0 {
							rt.Fatalf("renewal of lease %d, which has ended: TTL %d", id, ttl)
						}
						delete(ttls, id) // its keys too, if its end still waited in line
						delete(deadlines, id)
						continue
					}
					if ttl != ttls[id] {
						rt.Fatalf("renewal of lease %d: TTL %d, granted %d", id, ttl, ttls[id])
					}
					room := min(ttl/4, 1000)
					if full := now + Slack + ttl; deadlines[id] < full+room/2 {
						deadlines[id] = full + room
					}
				}
			},
			"keep alive": func(rt *rapid.T) { // answered from a view where that will do
				id := ids.Draw(rt, "id")
				_, now := k.clock()
				v := k.m.View()
				l, spare, covered := Covered(v, id)
				v.Release()
				if alive := deadlines[id] > now; (l.ID != 0) != alive {
					rt.Fatalf("lease %d with the deadline %d at %d: %+v", id, deadlines[id], now, l)
				}
				if !covered {
					return
				}
				if deadlines[id] < now+Slack+ttls[id] {
					rt.Fatalf("lease %d has %d of its %d ms left and counts as covered", id, deadlines[id]-now-Slack, ttls[id])
				}
				if spare != deadlines[id]-now-Slack-ttls[id] {
					rt.Fatalf("lease %d has %d ms to spare, said to be %d", id, deadlines[id]-now-Slack-ttls[id], spare)
				}
			},
			"revoke": func(rt *rapid.T) {
				id := ids.Draw(rt, "id")
				r := k.do(KindRevoke, AppendID(nil, id))
				if _, there := ttls[id]; there != (r.Err == nil) {
					rt.Fatalf("revocation of lease %d, there: %v: %v", id, there, r.Err)
				}
				delete(ttls, id)
				delete(deadlines, id)
			},
			"step": func(rt *rapid.T) {
				step, now := k.clock()
				ms := rapid.Uint64Range(0, 2*MaxStep).Draw(rt, "ms")
				if r := k.do(KindStep, AppendStep(nil, step, ms)); r.Err != nil {
					rt.Fatalf("step: %v", r.Err)
				}
				if _, after := k.clock(); after != now+min(ms, MaxStep) {
					rt.Fatalf("the clock went from %d to %d by a step of %d", now, after, ms)
				}
				if r := k.do(KindStep, AppendStep(nil, step, ms)); !errs.Has(r.Err, errs.Conflict) {
					rt.Fatalf("the same step again: %v", r.Err)
				}
			},
			"expire": func(rt *rapid.T) {
				k.ended = nil
				for more := true; more; {
					e, err := DecodeExpired(k.do(KindExpire, AppendExpire(nil, rapid.IntRange(1, 3).Draw(rt, "most"))).Data)
					if err != nil {
						rt.Fatalf("expire: %v", err)
					}
					more = e.More
				}
				_, now := k.clock()
				for _, id := range k.ended {
					if deadlines[id] > now {
						rt.Fatalf("lease %d ended at %d, before %d", id, now, deadlines[id])
					}
					delete(ttls, id)
					delete(deadlines, id)
				}
				for id, d := range deadlines {
					if d <= now {
						rt.Fatalf("lease %d is overdue: %d at %d", id, d, now)
					}
				}
			},
			"": func(rt *rapid.T) { k.check(rt, deadlines, ttls) },
		})
	})
}

// check compares the tables with the model.
func (k *machine) check(rt *rapid.T, deadlines, ttls map[uint64]uint64) {
	v := k.m.View()
	defer v.Release()
	_, now := Clock(v)
	leases := 0
	v.Scan(TableLeases, nil, nil, func(_, _ []byte) bool { leases++; return true })
	if leases != len(ttls) {
		rt.Fatalf("%d leases: %d rows", len(ttls), leases)
	}
	checkIndex(rt, v)
	for id := range ttls {
		l, ok := Find(v, id)
		if alive := deadlines[id] > now; ok != alive {
			rt.Fatalf("lease %d at %d with deadline %d: found %v", id, now, deadlines[id], ok)
		} else if ok && (l.Deadline != deadlines[id] || l.Remaining(now) > l.TTL) {
			rt.Fatalf("lease %d: %+v, want the deadline %d", id, l, deadlines[id])
		}
	}
}

// checkIndex compares the index of a view with one that is made of its rows.
func checkIndex(t interface{ Fatalf(string, ...any) }, v *state.View) {
	fresh := newDeadlines().(*deadlines)
	fresh.Rebuild(v)
	if got, want := frozen(v).tree.Items(), fresh.tree.Items(); !slices.Equal(got, want) {
		t.Fatalf("deadlines %v, rebuilt %v", got, want)
	}
}

func TestGrantIsChecked(t *testing.T) {
	k := open(t, t.TempDir())
	defer k.m.Close()
	for _, c := range []struct {
		g    Grant
		code errs.Code
	}{
		{Grant{ID: 1, TTL: MinTTL - 1}, errs.InvalidArgument},
		{Grant{ID: 1, TTL: MaxTTL + 1}, errs.InvalidArgument},
		{Grant{ID: 1 << 63, TTL: MinTTL}, errs.InvalidArgument},
		{Grant{ID: 1, TTL: MinTTL, Meta: make([]byte, MaxMeta+1)}, errs.TooLarge},
		{Grant{ID: 1, TTL: MaxTTL, Meta: make([]byte, MaxMeta)}, ""},
		{Grant{TTL: MinTTL}, ""},
		{Grant{TTL: MinTTL}, ""},
	} {
		if r := k.do(KindGrant, AppendGrant(nil, c.g)); errs.CodeOf(r.Err) != c.code {
			t.Errorf("grant %d for %d ms: %v, want %q", c.g.ID, c.g.TTL, r.Err, c.code)
		}
	}
	v := k.m.View()
	defer v.Release()
	seen := map[string]bool{}
	List(v, 0, func(l Lease) bool { seen[fmt.Sprint(l.ID)] = true; return true })
	if len(seen) != 3 {
		t.Fatalf("leases %v", seen)
	}
}

func FuzzRow(f *testing.F) {
	f.Add(Lease{TTL: 5, Deadline: 900, held: hung{3, []byte("key")}, more: true, Owner: 1, Auto: true, Granted: 3, Meta: []byte("m")}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := decode(1, b)
		if err != nil {
			return
		}
		if again, err := decode(1, l.encode()); err != nil || fmt.Sprint(again) != fmt.Sprint(l) {
			t.Fatalf("%+v became %+v: %v", l, again, err)
		}
	})
}
