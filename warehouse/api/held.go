package api

import (
	"strconv"

	"nekoq/services/errs"
)

// Held makes the put a transaction that does the same and is refused (stale_token)
// unless the tokens still hold. ttl is in milliseconds, 0 for none.
func (r *PutRequest) Held(ttl uint64, tokens ...Token) *Txn {
	return held(r.Key, r.If, tokens, Op{Put: &PutOp{Key: r.Key, Value: r.Value, Lease: r.Lease, TTL: ttl, Prev: true}})
}

// Held: see PutRequest.Held.
func (r *DeleteRequest) Held(tokens ...Token) *Txn {
	return held(r.Key, r.If, tokens, Op{Delete: &DeleteOp{Span: One(r.Key), Prev: true}})
}

func held(key []byte, c Condition, tokens []Token, op Op) *Txn {
	t := &Txn{Holding: tokens, Then: []Op{op}}
	switch {
	case c.Set:
		t.If = []Compare{{Span: One(key), Target: CompareMod, Number: int64(c.Revision)}}
	case c.Exists:
		t.If = []Compare{{Span: One(key), Target: CompareCreate, Result: Greater}}
	default:
		return t
	}
	t.Else = []Op{{Range: &RangeRequest{Span: One(key), KeysOnly: true}}}
	return t
}

// Written reads the answer to such a transaction; c is the condition of the request.
// One that did not hold is revision_mismatch.
func (r *TxnResult) Written(c Condition) (WriteResult, error) {
	if len(r.Ops) != 1 {
		return WriteResult{}, errs.New(errs.ProtocolViolation, "warehouse: %d answers to one write", len(r.Ops))
	}
	w, op := WriteResult{Revision: r.Revision, StoreRevision: r.StoreRevision}, &r.Ops[0]
	switch {
	case op.Put != nil:
		w.CreateRevision, w.Version, w.Lease = op.Put.CreateRevision, op.Put.Version, op.Put.Lease
		if op.Put.Prev != nil {
			w.PrevRevision = op.Put.Prev.ModRevision
		}
	case op.Delete != nil:
		if len(op.Delete.Prev) > 0 {
			w.PrevRevision = op.Delete.Prev[0].ModRevision
		}
	case op.Range != nil:
		if c.Exists {
			return WriteResult{}, errs.New(errs.RevisionMismatch, "if_revision: the key does not exist").
				With(errs.Detail{Field: "if_revision", Limit: "a key that exists"})
		}
		have := uint64(0)
		if len(op.Range.Items) > 0 {
			have = op.Range.Items[0].ModRevision
		}
		return WriteResult{}, Mismatch(c.Revision, have)
	}
	return w, nil
}

// Mismatch is the error of a write that demanded the mod revision want of a key that
// is at have; 0 is a key that does not exist.
func Mismatch(want, have uint64) error {
	e := errs.New(errs.RevisionMismatch, "if_revision: the key is at revision %d, not %d", have, want)
	switch {
	case have == 0:
		e = errs.New(errs.RevisionMismatch, "if_revision: the key does not exist, so it is not at revision %d", want)
	case want == 0:
		e = errs.New(errs.RevisionMismatch, "if_revision: the key exists at revision %d", have)
	}
	return e.With(errs.Detail{
		Field: "if_revision", Value: strconv.FormatUint(want, 10), Limit: strconv.FormatUint(have, 10),
	})
}
