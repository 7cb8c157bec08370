package table

import (
	"testing"

	"nekoq/services/errs"
	"nekoq/warehouse/api"
)

// What a transaction answers is bounded whatever the order and the filter of its
// ranges: those that a limit leaves are not the first keys then.
func TestBoundOfAnAnswerThatIsSortedOrFiltered(t *testing.T) {
	s := openStore(t)
	for _, p := range []PutCommand{{Key: []byte("a")}, {Key: []byte("b"), Value: make([]byte, MaxTxnAnswer/4)}, {Key: []byte("c")}} {
		p.IfRevision = AnyRevision
		if _, err := s.put(p); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		req   api.RangeRequest
		large bool
	}{
		"first key":   {api.RangeRequest{}, false},
		"by value":    {api.RangeRequest{SortBy: api.SortByValue, Order: api.Descending}, true},
		"last key":    {api.RangeRequest{Order: api.Descending}, false},
		"by revision": {api.RangeRequest{MinMod: 3}, true},
		"filtered":    {api.RangeRequest{MinMod: 4}, false},
		"keys only":   {api.RangeRequest{MinMod: 3, KeysOnly: true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			c.req.Span, c.req.Limit = api.Span{Key: []byte("a"), End: []byte("d")}, 1
			var ops []api.Op
			for range 5 {
				ops = append(ops, api.Op{Range: &c.req})
			}
			ops = append(ops, put("d", "makes it a write"))
			_, err := s.txn(&api.Txn{Then: ops})
			if c.large != errs.Has(err, errs.TooLarge) || !c.large && err != nil {
				t.Fatal(err)
			}
		})
	}
}

// So is what ranges answer of the puts before them.
func TestBoundOfAnAnswerOfOwnPuts(t *testing.T) {
	s := openStore(t)
	value := string(make([]byte, MaxTxnAnswer/4))
	for name, c := range map[string]struct {
		req   api.RangeRequest
		large bool
	}{
		"key":        {api.RangeRequest{Span: api.One([]byte("z1"))}, true},
		"prefix":     {api.RangeRequest{Span: api.Prefix([]byte("z"))}, true},
		"limited":    {api.RangeRequest{Span: api.Prefix([]byte("z")), Limit: 1}, true},
		"keys only":  {api.RangeRequest{Span: api.Prefix([]byte("z")), KeysOnly: true}, false},
		"count only": {api.RangeRequest{Span: api.Prefix([]byte("z")), CountOnly: true}, false},
		"another":    {api.RangeRequest{Span: api.Prefix([]byte("y"))}, false},
		"before":     {api.RangeRequest{Span: api.Prefix([]byte("z")), Revision: 1}, false},
	} {
		t.Run(name, func(t *testing.T) {
			ops := []api.Op{{Txn: &api.Txn{Then: []api.Op{put("z1", value)}}}, put("z2", "small")}
			for range 5 {
				ops = append(ops, api.Op{Range: &c.req})
			}
			ops = append(ops, del("a", "zz")) // for the next one; only doors refuse to write a key twice
			_, err := s.txn(&api.Txn{Then: ops})
			if c.large != errs.Has(err, errs.TooLarge) || !c.large && err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A put of what is there already may bring it into an answer.
func TestBoundOfAnAnswerThatAPutComesInto(t *testing.T) {
	s := openStore(t)
	value := string(make([]byte, MaxTxnAnswer/4))
	if _, err := s.txn(&api.Txn{Then: []api.Op{put("a", value)}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.txn(&api.Txn{Then: []api.Op{put("b", "small")}}); err != nil {
		t.Fatal(err)
	}
	newest := &api.RangeRequest{Span: api.Span{Key: []byte("a"), End: []byte("c")}, Limit: 1, SortBy: api.SortByMod, Order: api.Descending}
	ops := []api.Op{put("a", value)}
	for range 5 {
		ops = append(ops, api.Op{Range: newest})
	}
	if _, err := s.txn(&api.Txn{Then: ops}); !errs.Has(err, errs.TooLarge) {
		t.Fatal(err)
	}
}
