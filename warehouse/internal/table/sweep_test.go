package table

import (
	"bytes"
	"fmt"
	"testing"

	"nekoq/services/command"
	"nekoq/services/state"
	"nekoq/warehouse/api"
)

// What the compact revision itself deleted takes no space once it is swept, though its
// log rows stay for a watch from there: a store that is emptied by one request and
// compacted at it is empty.
func TestSweepAtTheCompactRevision(t *testing.T) {
	s := openStore(t)
	value := bytes.Repeat([]byte("v"), 1000)
	const keys = 50
	for i := range keys {
		if _, err := s.put(PutCommand{Key: fmt.Appendf(nil, "k%02d", i), Value: value, IfRevision: AnyRevision}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.put(PutCommand{Key: []byte("stays"), Value: value, IfRevision: AnyRevision}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.txn(&api.Txn{Then: []api.Op{del("k", "l"), put("stays", "new")}}); err != nil {
		t.Fatal(err)
	}
	rev := s.meta().Revision
	s.apply(command.Command{Kind: KindCompact, Payload: EncodeNumber(rev)})
	commands := 0
	for more := true; more; commands++ {
		r := s.apply(command.Command{Kind: KindSweep, Payload: EncodeNumber(7)})[0]
		c, err := DecodeCompacted(r.Data)
		if err != nil || c.Rows > 8*2 {
			t.Fatalf("%+v %v", c, err)
		}
		more = c.More
	}
	if r := s.apply(command.Command{Kind: KindSweep, Payload: EncodeNumber(7)})[0]; r.Changed {
		t.Fatal("a sweep with nothing left wrote something")
	}
	m := s.meta()
	if !m.SweepDone() || m.Past > keys*200 {
		t.Fatalf("after %d sweeps %d bytes of history are left: %+v", commands, m.Past, m)
	}
	v := s.m.View()
	defer v.Release()
	rec, ok, err := At(v, []byte("stays"), rev)
	if err != nil || !ok || string(rec.Value) != "new" {
		t.Fatalf("at the compact revision: %+v %v %v", rec, ok, err)
	}
	if n := logRows(v, rev); n != keys+1 {
		t.Fatalf("%d of %d changes of the compact revision are left for a watch from there", n, keys+1)
	}
	// The next compaction takes those as well.
	if _, err := s.put(PutCommand{Key: []byte("later"), Value: value, IfRevision: AnyRevision}); err != nil {
		t.Fatal(err)
	}
	s.apply(command.Command{Kind: KindCompact, Payload: EncodeNumber(rev + 1)})
	for range commands + 10 {
		s.apply(command.Command{Kind: KindSweep, Payload: EncodeNumber(7)})
	}
	later := s.m.View()
	defer later.Release()
	if m := s.meta(); !m.SweepDone() || m.Past > 200 || logRows(later, rev) != 0 {
		t.Fatalf("%d rows, %+v", logRows(later, rev), m)
	}
}

func logRows(v *state.View, rev uint64) (n int) {
	v.Scan(TableLog, logKey(rev, 0), logKey(rev+1, 0), func(_, _ []byte) bool { n++; return true })
	return n
}
