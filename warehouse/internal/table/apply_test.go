package table

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/lease/leasetable"
	"nekoq/services/state"
	"nekoq/services/testkit/replay"
	"nekoq/warehouse/api"
)

func any1(key, value string) PutCommand {
	return PutCommand{Key: []byte(key), Value: []byte(value), IfRevision: AnyRevision}
}

// row: nekoq 8. Revisions count as etcd's do.
func TestRevisionsCountAsEtcd(t *testing.T) {
	s := openStore(t)
	if rev := s.meta().Revision; rev != 1 {
		t.Fatalf("an empty store is at %d", rev)
	}
	w, err := s.put(any1("a", "1"))
	if err != nil || w.Revision != 2 || w.CreateRevision != 2 || w.Version != 1 {
		t.Fatalf("first put: %+v %v", w, err)
	}
	if w, err = s.del(DeleteCommand{Key: []byte("none"), IfRevision: AnyRevision}); err != nil || w.Revision != 2 || w.PrevRevision != 0 {
		t.Fatalf("deleting nothing: %+v %v", w, err)
	}
	if _, err = s.put(PutCommand{Key: []byte("a"), IfRevision: 0}); !errs.Has(err, errs.RevisionMismatch) {
		t.Fatalf("a refused put: %v", err)
	}
	if w, err = s.del(DeleteCommand{Key: []byte("a"), IfRevision: 2}); err != nil || w.Revision != 3 || w.PrevRevision != 2 {
		t.Fatalf("delete: %+v %v", w, err)
	}
	if w, err = s.put(any1("a", "2")); err != nil || w.Revision != 4 || w.CreateRevision != 4 || w.Version != 1 {
		t.Fatalf("put after delete: %+v %v", w, err)
	}
}

func TestCeilings(t *testing.T) {
	s := openStore(t)
	for _, c := range []struct {
		put  PutCommand
		code errs.Code
	}{
		{any1("", "v"), errs.InvalidArgument},
		{any1(strings.Repeat("k", MaxKey+1), ""), errs.TooLarge},
		{any1(strings.Repeat("\x00", MaxKey), ""), ""},
		{any1("big", strings.Repeat("v", MaxValue+1)), errs.TooLarge},
		{PutCommand{Key: []byte("l"), IfRevision: AnyRevision, Lease: 77}, errs.LeaseNotFound},
		{PutCommand{Key: []byte("l"), IfRevision: AnyRevision, TTL: 10}, errs.InvalidArgument},
		{PutCommand{Key: []byte("l"), IfRevision: AnyRevision, TTL: 5000, Lease: 1}, errs.InvalidArgument},
	} {
		before := s.meta()
		_, err := s.put(c.put)
		if errs.CodeOf(err) != c.code {
			t.Errorf("put %.20q: %v, want %q", c.put.Key, err, c.code)
		}
		if err != nil && s.meta() != before {
			t.Errorf("a refused put changed %+v to %+v", before, s.meta())
		}
	}
	// An overwrite and a delete of the longest key fit bbolt's limits.
	k := strings.Repeat("\x00", MaxKey)
	if _, err := s.put(any1(k, "2")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.del(DeleteCommand{Key: []byte(k), IfRevision: AnyRevision}); err != nil {
		t.Fatal(err)
	}
}

// A lease with many keys ends as one write transaction.
func TestLeaseEndIsOneRevision(t *testing.T) {
	s := openStore(t)
	g := leasetable.Grant{ID: 9, TTL: 1000}
	if r := s.apply(command.Command{Kind: leasetable.KindGrant, Payload: leasetable.AppendGrant(nil, g)})[0]; r.Err != nil {
		t.Fatal(r.Err)
	}
	for _, k := range []string{"c", "a", "b", "kept"} {
		c := any1(k, "v")
		c.Lease = 9
		if _, err := s.put(c); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.put(any1("kept", "without the lease")); err != nil {
		t.Fatal(err)
	}
	s.events = nil
	before := s.meta().Revision
	s.step(1000 + leasetable.Slack)
	if e := s.expire(); e.Leases != 1 || e.Keys != 3 || e.More {
		t.Fatalf("expired %+v", e)
	}
	m := s.meta()
	if m.Revision != before+1 || m.Keys != 1 {
		t.Fatalf("after the end: %+v, before at %d", m, before)
	}
	var got []string
	for _, ev := range s.events {
		if c, ok := ev.Data.(*Change); ok {
			rec, err := DecodeRecord(c.Row)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprintf("%s@%d.%d by %s", c.Key, c.Revision-before, c.Sub, rec.Actor))
		}
	}
	want := "a@1.0 by lease-expired:9, b@1.1 by lease-expired:9, c@1.2 by lease-expired:9"
	if strings.Join(got, ", ") != want {
		t.Fatalf("events %q, want %q", got, want)
	}
}

// A key's own lease goes with it, and a new TTL keeps it.
func TestTTLLeases(t *testing.T) {
	s := openStore(t)
	leases := func() int {
		v := s.m.View()
		defer v.Release()
		n := 0
		leasetable.List(v, 0, func(leasetable.Lease) bool { n++; return true })
		return n
	}
	ttl := func(k string, ms uint64) uint64 {
		c := any1(k, "v")
		c.TTL = ms
		w, err := s.put(c)
		if err != nil || w.Lease == 0 {
			t.Fatalf("put with a TTL: %+v %v", w, err)
		}
		return w.Lease
	}
	first := ttl("a", 60_000)
	if second := ttl("a", 2_000); second != first || leases() != 1 {
		t.Fatalf("a second TTL made lease %d beside %d", second, first)
	}
	s.step(2_000 + leasetable.Slack)
	if e := s.expire(); e.Leases != 1 || e.Keys != 1 {
		t.Fatalf("a shortened TTL: %+v", e)
	}
	ttl("a", 5_000)
	if _, err := s.put(any1("a", "permanent")); err != nil || leases() != 0 {
		t.Fatalf("a put without TTL left %d leases: %v", leases(), err)
	}
	ttl("a", 5_000)
	if _, err := s.del(DeleteCommand{Key: []byte("a"), IfRevision: AnyRevision}); err != nil || leases() != 0 {
		t.Fatalf("a delete left %d leases: %v", leases(), err)
	}
}

// row: nekoq 8. The same log gives the same state on every node.
func TestReplay(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	var cmds []command.Command
	step := uint64(0)
	add := func(kind command.Kind, payload []byte) {
		cmds = append(cmds, command.Command{Kind: kind, Time: int64(len(cmds)) * 1_000_003, Actor: "t:" + fmt.Sprint(len(cmds)%3), Payload: payload})
	}
	for range 600 {
		k := fmt.Appendf(nil, "k%d\x00%d", r.IntN(9), r.IntN(3))
		switch r.IntN(14) {
		case 10:
			c := QuotaCommand{Prefix: k[:2], MaxKeys: uint64(r.IntN(9)), WriteRate: uint64(r.IntN(3) * 100)}
			add(KindQuota, c.Encode())
		case 11:
			c := RevertCommand{Span: api.Prefix(k[:1]), Revision: uint64(r.IntN(len(cmds) + 2))}
			add(KindRevert, c.Encode())
		case 12, 13:
			t := api.Txn{
				If:   []api.Compare{{Span: api.One(k), Target: api.CompareVersion, Result: api.Less, Number: int64(r.IntN(3))}},
				Then: []api.Op{put(string(k), "then"), {Range: &api.RangeRequest{Span: api.Prefix(k[:1]), Limit: 2, Order: api.Descending}}},
				Else: []api.Op{del(string(k[:2]), "k5"), put(fmt.Sprintf("k7%d", r.IntN(3)), "else")},
			}
			add(KindTxn, t.Append(nil))
		case 0:
			c := DeleteCommand{Key: k, IfRevision: AnyRevision}
			add(KindDelete, c.Encode())
		case 1:
			add(leasetable.KindStep, leasetable.AppendStep(nil, step, uint64(r.IntN(500))))
			step++
		case 2:
			add(leasetable.KindExpire, leasetable.AppendExpire(nil, 3))
		case 3:
			add(KindCompact, EncodeNumber(uint64(r.IntN(len(cmds)+2))))
		case 4:
			add(KindSweep, EncodeNumber(5))
		case 5:
			add(leasetable.KindGrant, leasetable.AppendGrant(nil, leasetable.Grant{ID: uint64(r.IntN(4) + 1), TTL: 1000}))
		case 6:
			add(leasetable.KindRenew, leasetable.AppendID(nil, uint64(r.IntN(4)+1)))
		case 7:
			if r.IntN(4) == 0 {
				add(leasetable.KindRevoke, leasetable.AppendID(nil, uint64(r.IntN(4)+1)))
			}
		default:
			c := PutCommand{Key: k, Value: bytes.Repeat([]byte{'v'}, r.IntN(300)), IfRevision: AnyRevision}
			switch r.IntN(4) {
			case 0:
				c.TTL = uint64(1000 + r.IntN(1000))
			case 1:
				c.Lease = uint64(r.IntN(4) + 1)
			case 2:
				c.IfRevision = uint64(r.IntN(len(cmds) + 1))
			}
			add(KindPut, c.Encode())
		}
	}
	out := replay.Check(t, func(reg *state.Registry) { Register(reg, leasetable.Register(reg)) }, cmds)
	if out.Hash.Revision < 100 {
		t.Fatalf("only %d commands changed something", out.Hash.Revision)
	}
}

func FuzzRecord(f *testing.F) {
	r := Record{CreateRevision: 3, ModRevision: 9, Version: 2, Lease: 1 << 62, StoreRevision: 100, Created: 5, Modified: 1 << 60, Actor: []byte("http:me"), Value: []byte("value")}
	f.Add(appendRecord(nil, &r))
	r.links = appendLink(appendLink(nil, 2, 0), 4, 3)
	f.Add(appendRecord(nil, &r))
	f.Add(appendRecord(nil, &Record{Deleted: true, ModRevision: 1 << 40}))
	f.Add([]byte{1, 2, 1, 1, 1, 1, 1, 1, 1, 0, 2, 9, 9, 'v'})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeRecord(b)
		if err != nil {
			return
		}
		again, err := DecodeRecord(appendRecord(nil, &r))
		if err != nil || fmt.Sprintf("%+v", again) != fmt.Sprintf("%+v", r) {
			t.Fatalf("%+v became %+v: %v", r, again, err)
		}
	})
}

func FuzzHistKey(f *testing.F) {
	f.Add([]byte("a\x00b"), []byte("a"), uint64(1), uint64(2))
	f.Add([]byte("\x00\xff"), []byte("\x00\x01"), uint64(9), uint64(1<<63))
	f.Fuzz(func(t *testing.T, a, b []byte, ra, rb uint64) {
		ka, kb := histKey(a, ra), histKey(b, rb)
		want := bytes.Compare(a, b)
		if want == 0 {
			want = cmpUint(ra, rb)
		}
		if got := bytes.Compare(ka, kb); got != want {
			t.Fatalf("%q@%d and %q@%d: %d, want %d", a, ra, b, rb, got, want)
		}
		if k, rev, err := splitHist(nil, ka); err != nil || !bytes.Equal(k, a) || rev != ra {
			t.Fatalf("split %q@%d: %q %d %v", a, ra, k, rev, err)
		}
		if len(ka) != escapedLen(a)+8 {
			t.Fatalf("escapedLen of %q is %d", a, escapedLen(a))
		}
	})
}

func FuzzLogRow(f *testing.F) {
	l := Log{Revision: 9, Sub: 3, Kind: Put, Key: []byte("k"), Prev: 4, old: []byte("0123456789")}
	f.Add(logKey(l.Revision, l.Sub), l.append(nil))
	l.Kind, l.Prev, l.old, l.tombstone = Delete, 9, nil, []byte("tomb")
	f.Add(logKey(l.Revision, l.Sub), l.append(nil))
	f.Add(histKey([]byte("k"), 7), (&mark{mod: 7, create: 2, at: place{9, 1}, links: appendLink(nil, 3, 4)}).append(nil))
	f.Fuzz(func(t *testing.T, k, v []byte) {
		if l, err := decodeLog(k, v); err == nil {
			again, err := decodeLog(logKey(l.Revision, l.Sub), l.append(nil))
			if err != nil || fmt.Sprintf("%+v", again) != fmt.Sprintf("%+v", l) {
				t.Fatalf("%+v became %+v: %v", l, again, err)
			}
			if size := pastSize(l.Key, &l, nil); len(l.append(nil))+12 > size {
				t.Fatalf("%+v takes more than %d bytes", l, size)
			}
		}
		if m, err := decodeMark(k, v); err == nil {
			b := m.append(nil)
			again, err := decodeMark(k, b)
			if err != nil || fmt.Sprint(again) != fmt.Sprint(m) {
				t.Fatalf("%+v became %+v: %v", m, again, err)
			}
			if size := markSize(nil, m.links); len(b)+10 > size {
				t.Fatalf("%+v takes more than %d bytes", m, size)
			}
			for t := m.trail(); ; {
				before := t.mod
				if _, ok := t.back(); !ok {
					break
				}
				if t.mod == 0 || t.mod >= before {
					panic(fmt.Sprint("a trail from ", before, " to ", t.mod))
				}
			}
		}
	})
}

func cmpUint(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func FuzzCommands(f *testing.F) {
	f.Add((&PutCommand{Key: []byte("k"), Value: []byte("v"), IfRevision: 3, TTL: 5}).Encode())
	f.Add((&DeleteCommand{Key: []byte("k"), IfRevision: AnyRevision}).Encode())
	f.Add(Written{Revision: 3, CreateRevision: 1}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := DecodePut(b); err == nil {
			d, err := DecodePut(c.Encode())
			if err != nil || fmt.Sprint(c) != fmt.Sprint(d) {
				t.Fatalf("put %+v became %+v: %v", c, d, err)
			}
		}
		if c, err := DecodeDelete(b); err == nil {
			d, err := DecodeDelete(c.Encode())
			if err != nil || fmt.Sprint(c) != fmt.Sprint(d) {
				t.Fatalf("delete %+v became %+v: %v", c, d, err)
			}
		}
		if w, err := DecodeWritten(b); err == nil {
			if again, err := DecodeWritten(w.encode()); err != nil || again != w {
				t.Fatalf("%+v became %+v: %v", w, again, err)
			}
		}
		_, _ = splitHistOnly(b)
		_, _ = DecodeCompacted(b)
		_, _ = decodeMeta(b)
	})
}

func splitHistOnly(b []byte) ([]byte, error) {
	k, _, err := splitHist(nil, b)
	return k, err
}
