package table

import (
	"bytes"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/state"
	"nekoq/warehouse/api"
)

func TestQuotas(t *testing.T) {
	s := openStore(t)
	set := func(prefix string, q QuotaCommand) error {
		q.Prefix = []byte(prefix)
		return s.apply(command.Command{Kind: KindQuota, Payload: q.Encode()})[0].Err
	}
	write := func(k string, size int) error {
		_, err := s.put(PutCommand{Key: []byte(k), Value: make([]byte, size), IfRevision: AnyRevision})
		return err
	}
	if err := write("a/0", 7); err != nil {
		t.Fatal(err)
	}
	if err := set("a/", QuotaCommand{MaxKeys: 2, MaxBytes: 100}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		key  string
		size int
		code errs.Code
	}{
		{"a/1", 10, ""},
		{"a/2", 1, errs.QuotaExceeded}, // the third key
		{"a/1", 100, errs.QuotaExceeded},
		{"a/1", 80, ""},
		{"b/1", 500, ""}, // others go on
		{"a0", 1, ""},
	} {
		if err := write(c.key, c.size); errs.CodeOf(err) != c.code {
			t.Errorf("%s with %d: %v, want %q", c.key, c.size, err, c.code)
		}
	}
	// A transaction is judged by what it leaves.
	_, err := s.txn(&api.Txn{Then: []api.Op{del("a/0", "a/1"), put("a/9", "v")}})
	if err != nil {
		t.Errorf("one goes, one comes: %v", err)
	}
	if err := set("none", QuotaCommand{}); !errs.Has(err, errs.NotFound) {
		t.Errorf("removing what is not there: %v", err)
	}
	if err := set("r/", QuotaCommand{WriteRate: 3}); err != nil {
		t.Fatal(err)
	}
	passed := 0
	for range 10 { // the harness' clock goes on by 1 µs a command
		if err := write("r/x", 1); err == nil {
			passed++
		} else if !errs.Has(err, errs.TooManyRequests) {
			t.Fatal(err)
		}
	}
	s.now += 400e6
	if err := write("r/x", 1); err != nil || passed != 3 {
		t.Errorf("%d passed, then %v", passed, err)
	}
	v := s.m.View()
	defer v.Release()
	found, err := QuotasOf(v, []byte("r/x/y"))
	if err != nil || len(found) != 1 || string(found[0].Prefix) != "r/" {
		t.Errorf("quotas of r/x/y: %+v %v", found, err)
	}
}

// At the limit of the store growth is refused, deletes and compaction are not, and
// space that returns heals it.
func TestStoreLimit(t *testing.T) {
	s := openStore(t)
	if err := s.apply(command.Command{Kind: KindLimit, Payload: EncodeNumber(100_000)})[0].Err; err != nil {
		t.Fatal(err)
	}
	write := func(i int) error {
		_, err := s.put(PutCommand{Key: fmt.Appendf(nil, "k%d", i%3), Value: make([]byte, 10_000), IfRevision: AnyRevision})
		return err
	}
	n := 0
	for ; n < 1000; n++ {
		if err := write(n); err != nil {
			if !errs.Has(err, errs.QuotaExceeded) {
				t.Fatal(err)
			}
			break
		}
	}
	if n < 5 || n > 10 {
		t.Fatalf("%d writes of 10 kB went into 100 kB", n)
	}
	if _, err := s.del(DeleteCommand{Key: []byte("k0"), IfRevision: AnyRevision}); err != nil {
		t.Fatalf("delete: %v", err)
	}
	s.apply(command.Command{Kind: KindCompact, Payload: EncodeNumber(s.meta().Revision)})
	s.apply(command.Command{Kind: KindSweep, Payload: EncodeNumber(1000)})
	if err := write(n); err != nil {
		t.Fatalf("after the compaction: %v; %+v", err, s.meta())
	}
}

// Rebuilt equals incremental, and both equal a walk, over splits and merges.
func TestCountIndex(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := newStore(rt, t.TempDir())
		defer s.m.Close()
		keys := rapid.IntRange(1, 3000)
		var batch []command.Command
		for range rapid.IntRange(1, 12).Draw(rt, "rounds") {
			batch = batch[:0]
			at, n := keys.Draw(rt, "at"), rapid.IntRange(1, 700).Draw(rt, "n")
			step := rapid.IntRange(1, 5).Draw(rt, "step")
			value := bytes.Repeat([]byte("v"), rapid.IntRange(0, 300).Draw(rt, "size"))
			remove := rapid.Bool().Draw(rt, "remove")
			for i := range n {
				k := fmt.Appendf(nil, "%05d", at+i*step)
				c := command.Command{Kind: KindPut, Payload: (&PutCommand{Key: k, Value: value, IfRevision: AnyRevision}).Encode()}
				if remove {
					c = command.Command{Kind: KindDelete, Payload: (&DeleteCommand{Key: k, IfRevision: AnyRevision}).Encode()}
				}
				batch = append(batch, c)
			}
			old := s.m.View()
			before := frozenCounts(old).Sum(old, nil, nil)
			s.apply(batch...)
			if again := frozenCounts(old).Sum(old, nil, nil); again != before {
				rt.Fatalf("a frozen count went from %+v to %+v", before, again)
			}
			old.Release()
		}
		v := s.m.View()
		defer v.Release()
		rebuilt := newCountIndex()
		rebuilt.Rebuild(v)
		fresh := rebuilt.Freeze().(*Counts)
		for range 20 {
			from, to := fmt.Appendf(nil, "%05d", keys.Draw(rt, "from")), fmt.Appendf(nil, "%05d", keys.Draw(rt, "to"))
			if rapid.Bool().Draw(rt, "open") {
				to = nil
			}
			want := Sum{}
			if to == nil || bytes.Compare(from, to) < 0 {
				want = walk(v, from, to)
			}
			if a, b := frozenCounts(v).Sum(v, from, to), fresh.Sum(v, from, to); a != want || b != want {
				rt.Fatalf("[%s,%s): %+v incrementally, %+v rebuilt, %+v by a walk", from, to, a, b, want)
			}
		}
	})
}

func frozenCounts(v *state.View) *Counts { return v.Frozen(IndexCount).(*Counts) }

// A quota over many keys is made without walking them: what it reads does not grow
// with the prefix, and the system's keys below it do not count.
func TestQuotaIsMadeWithoutAWalk(t *testing.T) {
	s := openStore(t)
	const keys = 20_000
	var batch []command.Command
	put := func(k []byte) {
		batch = append(batch, command.Command{Kind: KindPut, Payload: (&PutCommand{Key: k, Value: []byte("12345"), IfRevision: AnyRevision}).Encode()})
	}
	for i := range keys {
		put(fmt.Appendf(nil, "/app/%05d", i))
	}
	for i := range 300 {
		put(fmt.Appendf(nil, SystemPrefix+"%05d", i))
	}
	s.apply(batch...)
	v := s.m.View()
	defer v.Release()
	counts := frozenCounts(v)
	for _, prefix := range []string{"", "/", "/app/", "/app/1", "/_sys/", "/_sys/0001"} {
		r := &countingReader{Reader: v}
		counts.Sum(r, []byte(prefix), prefixEnd([]byte(prefix)))
		if most := 2 * blockSplit; r.rows > most {
			t.Errorf("the sum of %q read %d rows, want at most %d", prefix, r.rows, most)
		}
		c := QuotaCommand{Prefix: []byte(prefix), MaxKeys: 1 << 40}
		if err := s.apply(command.Command{Kind: KindQuota, Payload: c.Encode()})[0].Err; err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]uint64{"": keys, "/": keys, "/app/": keys, "/app/1": keys / 2, "/_sys/": 0, "/_sys/0001": 0}
	now := s.m.View()
	defer now.Release()
	err := Quotas(now, func(q Quota) bool {
		if n := want[string(q.Prefix)]; q.Keys != n || q.Bytes != n*uint64(len("/app/00000")+5) {
			t.Errorf("quota %q: %d keys, %d bytes; want %d keys", q.Prefix, q.Keys, q.Bytes, n)
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
}

// countingReader counts the rows that scans hand out.
type countingReader struct {
	state.Reader
	rows int
}

func (r *countingReader) Scan(t state.TableID, start, end []byte, fn func(k, v []byte) bool) {
	r.Reader.Scan(t, start, end, func(k, v []byte) bool {
		r.rows++
		return fn(k, v)
	})
}

// The count at an older revision is that of a walk, also where the range begins among
// the system's keys and goes on behind them.
func TestCountOfThePast(t *testing.T) {
	s := openStore(t)
	for _, k := range []string{"/_sys/b", "/a", "/b", "0"} {
		if _, err := s.put(PutCommand{Key: []byte(k), IfRevision: AnyRevision}); err != nil {
			t.Fatal(err)
		}
	}
	v := s.m.View()
	defer v.Release()
	q := Query{R: v, Meta: s.meta(), Counts: FrozenCounts(v)}
	for _, start := range []string{"", "/", "/_sys/", "/_sys/a", "/_sys/z", "/b"} {
		for _, end := range []string{"/_sys/c", "/_sys0", "/b", "z", ""} {
			to := []byte(end)
			if end == "" {
				to = nil
			}
			for rev := uint64(1); rev <= q.Meta.Revision; rev++ {
				got, err := q.Count([]byte(start), to, rev)
				want, err2 := q.countWalk([]byte(start), to, rev)
				if err != nil || err2 != nil || got != want {
					t.Errorf("[%q, %q) at %d: %d, a walk finds %d; %v %v", start, end, rev, got, want, err, err2)
				}
			}
		}
	}
}
