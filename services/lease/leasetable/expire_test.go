package leasetable

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"nekoq/services/command"
	"nekoq/services/state"
)

// kindHang grants a lease and hangs keys on it: payload id, owner, number of keys.
const kindHang command.Kind = 0x3001

// openHanging is a machine of two owners that count the keys they are told of.
func openHanging(t *testing.T) (k *machine, told map[string]int) {
	k = &machine{t: t}
	told = map[string]int{}
	reg := state.NewRegistry()
	owners := Register(reg)
	for _, o := range []Owner{OwnerScheduling, OwnerWarehouse} {
		owners.OnRevoke(o, func(_ *state.Tx, ends []End) error {
			for _, e := range ends {
				if len(e.Keys) == 0 || !e.Expired {
					return fmt.Errorf("told of %+v", e)
				}
				for _, key := range e.Keys {
					told[fmt.Sprintf("%d/%d/%s", o, e.Lease, key)]++
				}
			}
			return nil
		})
	}
	reg.Handle(kindHang, "hang", 1, func(tx *state.Tx, cmd *command.Command) ([]byte, error) {
		var id, ttl, keys uint64
		if err := fields(cmd, &id, &ttl, &keys); err != nil {
			return nil, err
		}
		l := Grant{ID: id, TTL: ttl, Auto: id == 0}.Apply(tx)
		for i := range keys {
			o := OwnerWarehouse
			if i%3 == 2 {
				o = OwnerScheduling
			}
			Attach(tx, l.ID, o, fmt.Appendf(nil, "k%d", i))
		}
		return binary.AppendUvarint(nil, l.ID), nil
	})
	m, err := state.Open(state.Options{Path: filepath.Join(t.TempDir(), "s.db"), Registry: reg, Mode: state.Volatile})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	k.m = m
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return k, told
}

// Leases whose ids lie close together and far apart, among others that stay, with no
// key, few, and more than a command takes: each key goes to its owner once, and no
// command takes away more than its bound and the rest of one lease.
func TestExpiryTakesEveryKeyOnce(t *testing.T) {
	k, told := openHanging(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	want := map[string]bool{}
	hang := func(id, ttl, keys uint64) {
		var payload []byte
		for _, v := range []uint64{id, ttl, keys} {
			payload = binary.AppendUvarint(payload, v)
		}
		r := k.do(kindHang, payload)
		id, _ = binary.Uvarint(r.Data)
		for i := range keys {
			o := OwnerWarehouse
			if i%3 == 2 {
				o = OwnerScheduling
			}
			if ttl < 100_000 {
				want[fmt.Sprintf("%d/%d/k%d", o, id, i)] = true
			}
		}
	}
	for i := range uint64(2000) {
		id := []uint64{0, i + 1, rnd.Uint64N(1<<60) + 10_000}[rnd.IntN(3)]
		ttl := []uint64{1000 + rnd.Uint64N(50), 1000, 200_000}[rnd.IntN(3)]
		keys := rnd.Uint64N(3)
		if i%500 == 0 {
			keys = 3000
		}
		hang(id, ttl, keys)
	}
	for range 7 {
		step, _ := k.clock()
		k.do(KindStep, AppendStep(nil, step, MaxStep))
	}
	for more, most := true, uint64(0); more; {
		e, err := DecodeExpired(k.do(KindExpire, AppendExpire(nil, MaxExpire)).Data)
		if err != nil {
			t.Fatal(err)
		}
		if e.Leases == 0 || e.Keys >= maxExpireKeys+3000 {
			t.Fatalf("%+v", e)
		}
		most, more = max(most, e.Keys), e.More
		if !more && most < 3000 {
			t.Fatalf("no command took a long lease: %d keys at most", most)
		}
	}
	for key, n := range told {
		if n != 1 || !want[key] {
			t.Errorf("key %s was told %d times, wanted: %v", key, n, want[key])
		}
	}
	if len(told) != len(want) {
		t.Errorf("%d keys were told, want %d", len(told), len(want))
	}
	v := k.m.View()
	defer v.Release()
	if Due(v) {
		t.Error("something is still due")
	}
	v.Scan(TableAttached, nil, nil, func(row, _ []byte) bool {
		if l, ok := Find(v, binary.BigEndian.Uint64(row)); !ok || l.TTL != 200_000 {
			t.Errorf("an attachment without its lease: %x", row)
		}
		return true
	})
}

// A renewal that comes while the lease's end waits in line ends it with its keys.
func TestLateRenewalEndsTheLease(t *testing.T) {
	k, told := openHanging(t)
	k.do(kindHang, []byte{7, 0xe8, 7, 2}) // lease 7, 1000 ms, 2 keys
	for range 5 {
		step, _ := k.clock()
		k.do(KindStep, AppendStep(nil, step, MaxStep))
	}
	v := k.m.View()
	if _, ok := Find(v, 7); ok {
		t.Error("the lease has not ended")
	}
	if l, ok := Present(v, 7); !ok || l.Remaining(2000) != 0 {
		t.Errorf("the lease is not there: %+v", l)
	}
	v.Release()
	r := k.do(KindRenew, AppendID(nil, 7))
	if ttl, _, _, err := NextRenewed(r.Data); err != nil || ttl != 0 {
		t.Fatalf("renewal: %d %v", ttl, err)
	}
	if len(told) != 2 {
		t.Fatalf("told of %v", told)
	}
	v = k.m.View()
	defer v.Release()
	if Any(v) {
		t.Fatal("something is left")
	}
}
