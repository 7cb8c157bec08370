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
