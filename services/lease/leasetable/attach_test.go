package leasetable

import (
	"encoding/binary"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"nekoq/services/command"
	"nekoq/services/state"
)

// Kinds of commands that grant, tie and untie: payload id, owner, key.
const (
	kindGrantAuto command.Kind = 0x3010
	kindTie       command.Kind = 0x3011
	kindUntie     command.Kind = 0x3012
)

func openTying(t *rapid.T, path string) (k *machine, told map[string]bool) {
	k, told = &machine{t: t}, map[string]bool{}
	reg := state.NewRegistry()
	owners := Register(reg)
	for _, o := range []Owner{OwnerWarehouse, OwnerNaming} {
		owners.OnRevoke(o, func(_ *state.Tx, ends []End) error {
			for _, e := range ends {
				if !slices.IsSortedFunc(e.Keys, func(a, b []byte) int { return strings.Compare(string(a), string(b)) }) {
					return fmt.Errorf("keys in no order: %q", e.Keys)
				}
				for _, key := range e.Keys {
					told[hungName(e.Lease, o, key)] = true
				}
			}
			return nil
		})
	}
	handle := func(kind command.Kind, do func(tx *state.Tx, id uint64, o Owner, key []byte)) {
		reg.Handle(kind, fmt.Sprintf("tying %x", kind), 1, func(tx *state.Tx, cmd *command.Command) ([]byte, error) {
			do(tx, uint64(cmd.Payload[0]), Owner(cmd.Payload[1]), cmd.Payload[2:])
			return nil, nil
		})
	}
	handle(kindGrantAuto, func(tx *state.Tx, id uint64, o Owner, _ []byte) {
		Grant{ID: id, TTL: MinTTL, Auto: o == OwnerNaming, Meta: []byte("meta")}.Apply(tx)
	})
	handle(kindTie, Attach)
	handle(kindUntie, func(tx *state.Tx, id uint64, o Owner, key []byte) {
		if Detach(tx, id, o, key) {
			CloseIdle(tx, id)
		}
	})
	m, err := state.Open(state.Options{Path: path, Registry: reg, Mode: state.Volatile})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	k.m = m
	return k, told
}

func hungName(id uint64, o Owner, key []byte) string { return fmt.Sprintf("%d/%d/%s", id, o, key) }

// Keys that hang on leases, in a lease's row and beside it, are those of a model,
// whatever ties, unties, renewals and ends come between; an Auto lease ends with its
// last key, others at their time, and each key is told to its owner.
func TestKeysThatHangOnLeases(t *testing.T) {
	keys := []string{"", "a", "b", "c", strings.Repeat("d", maxHeld), strings.Repeat("e", maxHeld+1)}
	rapid.Check(t, func(rt *rapid.T) {
		k, told := openTying(rt, filepath.Join(t.TempDir(), "s.db"))
		defer k.m.Close()
		model := map[uint64]map[string]bool{} // lease to its keys
		auto := map[uint64]bool{}
		ids := rapid.Uint64Range(1, 3)
		owners := rapid.SampledFrom([]Owner{OwnerWarehouse, OwnerNaming})
		gone := func(rt *rapid.T, id uint64) {
			for name := range model[id] {
				if !told[name] {
					rt.Fatalf("%s was not told", name)
				}
				delete(told, name)
			}
			if len(told) > 0 {
				rt.Fatalf("told of %v", told)
			}
			delete(model, id)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"grant": func(rt *rapid.T) {
				id, o := ids.Draw(rt, "id"), owners.Draw(rt, "auto")
				if model[id] == nil {
					k.do(kindGrantAuto, []byte{byte(id), byte(o)})
					model[id], auto[id] = map[string]bool{}, o == OwnerNaming
				}
			},
			"tie": func(rt *rapid.T) {
				id, o, key := ids.Draw(rt, "id"), owners.Draw(rt, "owner"), rapid.SampledFrom(keys).Draw(rt, "key")
				if model[id] != nil {
					k.do(kindTie, append([]byte{byte(id), byte(o)}, key...))
					model[id][hungName(id, o, []byte(key))] = true
				}
			},
			"untie": func(rt *rapid.T) {
				id, o, key := ids.Draw(rt, "id"), owners.Draw(rt, "owner"), rapid.SampledFrom(keys).Draw(rt, "key")
				k.do(kindUntie, append([]byte{byte(id), byte(o)}, key...))
				delete(model[id], hungName(id, o, []byte(key)))
				if auto[id] && len(model[id]) == 0 {
					delete(model, id)
				}
			},
			"renew": func(rt *rapid.T) { k.do(KindRenew, AppendID(nil, ids.Draw(rt, "id"))) },
			"revoke": func(rt *rapid.T) {
				id := ids.Draw(rt, "id")
				k.do(KindRevoke, AppendID(nil, id))
				gone(rt, id)
			},
			"end": func(rt *rapid.T) {
				v := k.m.View()
				defer v.Release()
				if len(model) > 1 { // one lease, so that what is told is its own
					return
				}
				for range 8 {
					step, _ := k.clock()
					k.do(KindStep, AppendStep(nil, step, MaxStep))
				}
				k.do(KindExpire, AppendExpire(nil, 2))
				for id := range model {
					gone(rt, id)
				}
			},
			"": func(rt *rapid.T) { checkTied(rt, k, model) },
		})
	})
}

func checkTied(rt *rapid.T, k *machine, model map[uint64]map[string]bool) {
	v := k.m.View()
	defer v.Release()
	checkIndex(rt, v)
	rows := 0
	for id := uint64(1); id <= 3; id++ {
		if l, ok := Present(v, id); ok != (model[id] != nil) || ok && string(l.Meta) != "meta" {
			rt.Fatalf("lease %d: %+v, wanted: %v", id, l, model[id] != nil)
		}
		got, last := map[string]bool{}, hung{}
		Keys(v, id, func(o Owner, key []byte) bool {
			if last.Key != nil && last.compare(o, key) >= 0 {
				rt.Fatalf("lease %d: %d %q after %d %q", id, o, key, last.Owner, last.Key)
			}
			last = hung{o, append([]byte{}, key...)}
			got[hungName(id, o, key)] = true
			return true
		})
		if !maps.Equal(got, model[id]) {
			rt.Fatalf("lease %d has %v, want %v", id, got, model[id])
		}
		first := 0
		Keys(v, id, func(Owner, []byte) bool { first++; return false })
		if first != min(len(got), 1) {
			rt.Fatalf("lease %d: %d keys after the first", id, first)
		}
		rows += len(got)
	}
	beside := 0
	v.Scan(TableAttached, nil, nil, func(k, _ []byte) bool {
		if model[binary.BigEndian.Uint64(k)] == nil {
			rt.Fatalf("an attachment without its lease: %x", k)
		}
		beside++
		return true
	})
	if beside > rows {
		rt.Fatalf("%d rows for %d keys", beside, rows)
	}
}
