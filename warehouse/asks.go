package warehouse

import (
	"nekoq/services/auth"
	"nekoq/warehouse/api"
)

// SpanResource names the keys of a span for the authorizer.
func SpanResource(s api.Span) auth.Resource {
	start, end := s.Bounds()
	return RangeResource(start, end)
}

// KeyResource names one key for the authorizer.
func KeyResource(key []byte) auth.Resource {
	return auth.Resource{Service: "warehouse", Kind: "kv", Name: string(key)}
}

// ClaimResource names a lock or election for the authorizer.
func ClaimResource(kind api.TokenKind, name string) auth.Resource {
	r := auth.Resource{Service: "warehouse", Kind: "lock", Name: name}
	if kind == api.TokenElection {
		r.Kind = "election"
	}
	return r
}

// TokenResource names what a fencing token is of.
func TokenResource(t *api.Token) auth.Resource {
	if t.Kind == api.TokenKey {
		return KeyResource([]byte(t.Name))
	}
	return ClaimResource(t.Kind, t.Name)
}

// AskTxn asks for every key that a transaction may touch, in both its branches and
// those of the transactions in it, and for the tokens that it demands. The first
// refusal ends it.
func AskTxn(t *api.Txn, ask func(a auth.Action, r auth.Resource) error) error {
	for i := range t.If {
		if err := ask(auth.Read, SpanResource(t.If[i].Span)); err != nil {
			return err
		}
	}
	for i := range t.Holding {
		if err := ask(auth.Read, TokenResource(&t.Holding[i])); err != nil {
			return err
		}
	}
	for _, ops := range [][]api.Op{t.Then, t.Else} {
		for i := range ops {
			if err := askOp(&ops[i], ask); err != nil {
				return err
			}
		}
	}
	return nil
}

func askOp(o *api.Op, ask func(a auth.Action, r auth.Resource) error) error {
	switch {
	case o.Range != nil:
		return ask(auth.Read, SpanResource(o.Range.Span))
	case o.Put != nil:
		return ask(auth.Write, KeyResource(o.Put.Key))
	case o.Delete != nil:
		return ask(auth.Delete, SpanResource(o.Delete.Span))
	case o.Txn != nil:
		return AskTxn(o.Txn, ask)
	}
	return nil
}
