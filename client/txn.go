package client

import (
	"context"

	"nekoq/services/errs"
	"nekoq/warehouse/api"
)

// What transactions are made of.
type (
	// TxnResult answers a transaction.
	TxnResult = api.TxnResult
	// TxnOp is one operation: OpPut, OpDelete, OpGet, OpRange, OpTxn.
	TxnOp = api.Op
	// TxnIf is one condition: IfExists, IfMissing, IfModRevision, IfValue.
	TxnIf = api.Compare
	// KeySpan is a key or a range of keys.
	KeySpan = api.Span
	// RangeRequest reads a span with every option that there is.
	RangeRequest = api.RangeRequest
	// RangeResult answers it.
	RangeResult = api.RangeResult
	// Token is the fencing token of a lock, an election or a key.
	Token = api.Token
)

// SpanOf is one key, SpanPrefix the keys with a prefix, SpanRange those from start up
// to but not including end ("" is no bound).
func SpanOf(key string) KeySpan { return api.One([]byte(key)) }

// SpanPrefix: see SpanOf.
func SpanPrefix(prefix string) KeySpan { return api.Prefix([]byte(prefix)) }

// SpanRange: see SpanOf.
func SpanRange(start, end string) KeySpan {
	if end == "" {
		return api.FromKey([]byte(start))
	}
	return api.Span{Key: []byte(start), End: []byte(end)}
}

// OpPut writes a key and answers with the version before. Options: WithTTL, WithLease;
// with another one Commit refuses the transaction.
func OpPut(key string, value []byte, opts ...KVOption) TxnOp {
	p := &api.PutOp{Key: []byte(key), Value: value, Prev: true}
	for _, o := range opts {
		switch o.kind {
		case optTTL:
			p.TTL = uint64(max(o.duration.Milliseconds(), 1))
		case optLease:
			p.Lease = o.number
		default:
			return TxnOp{}
		}
	}
	return TxnOp{Put: p}
}

// OpDelete deletes a span and answers with what was deleted.
func OpDelete(s KeySpan) TxnOp { return TxnOp{Delete: &api.DeleteOp{Span: s, Prev: true}} }

// OpGet reads a key.
func OpGet(key string) TxnOp { return OpRange(RangeRequest{Span: SpanOf(key)}) }

// OpRange reads a span.
func OpRange(r RangeRequest) TxnOp { return TxnOp{Range: &r} }

// IfMissing demands that a key does not exist.
func IfMissing(key string) TxnIf { return TxnIf{Span: SpanOf(key), Target: api.CompareCreate} }

// IfExists demands that a key exists.
func IfExists(key string) TxnIf {
	return TxnIf{Span: SpanOf(key), Target: api.CompareCreate, Result: api.Greater}
}

// IfModRevision demands that a key is at a mod revision.
func IfModRevision(key string, rev uint64) TxnIf {
	return TxnIf{Span: SpanOf(key), Target: api.CompareMod, Number: int64(rev)}
}

// IfValue demands that a key has a value.
func IfValue(key string, value []byte) TxnIf {
	return TxnIf{Span: SpanOf(key), Target: api.CompareValue, Value: value}
}

// Txn is a transaction that is being made. It is used by one goroutine.
type Txn struct {
	k *KV
	t api.Txn
}

// Txn begins a transaction: If, Then, Else, Holding, Commit.
func (k *KV) Txn() *Txn { return &Txn{k: k} }

// If adds conditions, all of which must hold for Then to be carried out.
func (t *Txn) If(c ...TxnIf) *Txn { t.t.If = append(t.t.If, c...); return t }

// Then adds operations for when all conditions hold.
func (t *Txn) Then(o ...TxnOp) *Txn { t.t.Then = append(t.t.Then, o...); return t }

// Else adds operations for when one does not.
func (t *Txn) Else(o ...TxnOp) *Txn { t.t.Else = append(t.t.Else, o...); return t }

// Holding demands that locks or elections are still held under their tokens; when one
// is not, nothing is done and the error has the code stale_token.
func (t *Txn) Holding(tokens ...Token) *Txn { t.t.Holding = append(t.t.Holding, tokens...); return t }

// OpTxn makes a transaction an operation of another one.
func OpTxn(t *Txn) TxnOp { return TxnOp{Txn: &t.t} }

// whole refuses an operation that is none: on the wire it would be an empty transaction.
func whole(t *api.Txn) error {
	for _, ops := range [][]TxnOp{t.Then, t.Else} {
		for i := range ops {
			switch o := &ops[i]; {
			case o.Txn != nil:
				if err := whole(o.Txn); err != nil {
					return err
				}
			case o.Put == nil && o.Delete == nil && o.Range == nil:
				return errs.Invalid("operation", "none", "what OpPut (with WithTTL or WithLease at most), OpDelete, OpGet, OpRange or OpTxn gives")
			}
		}
	}
	return nil
}

// Commit carries it out. A lost answer is asked for again, never carried out twice.
func (t *Txn) Commit(ctx context.Context) (res TxnResult, err error) {
	if err := whole(&t.t); err != nil {
		return res, err
	}
	b, err := t.k.client().write(ctx, api.MethodTxn, t.t.Append(nil))
	if err == nil {
		err = res.Decode(b)
	}
	return res, err
}

// Range reads a span.
func (k *KV) Range(ctx context.Context, r RangeRequest) (res RangeResult, err error) {
	b, err := k.client().read(ctx, api.MethodRange, r.Append(nil))
	if err == nil {
		err = res.Decode(b)
	}
	return res, err
}

// DeletePrefix deletes all keys with a prefix as one revision, and tells how many.
// Options: WhileHeld.
func (k *KV) DeletePrefix(ctx context.Context, prefix string, opts ...KVOption) (deleted, revision uint64, err error) {
	t := k.Txn().Then(TxnOp{Delete: &api.DeleteOp{Span: SpanPrefix(prefix)}})
	for _, o := range opts {
		if o.kind != optHeld {
			return 0, 0, o.misplaced("DeletePrefix")
		}
		t.Holding(o.token)
	}
	res, err := t.Commit(ctx)
	if err != nil {
		return 0, 0, err
	}
	return res.Ops[0].Delete.Deleted, res.Revision, nil
}
