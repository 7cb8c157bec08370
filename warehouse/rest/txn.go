package rest

import (
	"context"
	"strconv"
	"time"
	"unicode/utf8"

	"nekoq/services/errs"
	"nekoq/warehouse/api"
)

// Span names keys: one of key, prefix, or start with or without end.
type Span struct {
	Key    string `json:"key,omitempty" doc:"One key."`
	Prefix string `json:"prefix,omitempty" doc:"The keys that begin with this."`
	Start  string `json:"start,omitempty" doc:"The keys from this one on."`
	End    string `json:"end,omitempty" doc:"Up to but not including this key; only with start."`
}

func (s *Span) span(field string) (api.Span, error) {
	given := 0
	for _, v := range []string{s.Key, s.Prefix, s.Start} {
		if v != "" {
			given++
		}
	}
	if given != 1 || (s.End != "" && s.Start == "") {
		return api.Span{}, errs.Invalid(field, s.Key, "one of key, prefix, or start with or without end")
	}
	switch {
	case s.Key != "":
		return api.One([]byte(s.Key)), nil
	case s.Prefix != "":
		return api.Prefix([]byte(s.Prefix)), nil
	case s.End == "":
		return api.FromKey([]byte(s.Start)), nil
	}
	return api.Span{Key: []byte(s.Start), End: []byte(s.End)}, nil
}

// Condition is one condition of a transaction.
type Condition struct {
	Span
	Target string  `json:"target" enum:"version,create_revision,mod_revision,value,lease" doc:"What is compared; all numbers of a missing key are 0."`
	Is     string  `json:"is,omitempty" enum:"equal,not_equal,greater,less" default:"equal"`
	Number int64   `json:"number,omitempty" doc:"For all targets but value and lease."`
	Lease  string  `json:"lease,omitempty" doc:"For the target lease: its id; 0 is none."`
	Value  []byte  `json:"value,omitempty" doc:"For the target value, in base64."`
	Text   *string `json:"text,omitempty" doc:"For the target value, as UTF-8 text."`
}

// Operation is one operation of a transaction: exactly one member.
type Operation struct {
	Put    *PutOperation    `json:"put,omitempty"`
	Delete *DeleteOperation `json:"delete,omitempty"`
	Range  *RangeOperation  `json:"range,omitempty"`
	Txn    *TxnBody         `json:"txn,omitempty" doc:"A nested transaction."`
}

// PutOperation writes a key.
type PutOperation struct {
	Key         string  `json:"key"`
	Value       []byte  `json:"value,omitempty" doc:"In base64."`
	Text        *string `json:"text,omitempty" doc:"The value as UTF-8 text, instead of value."`
	TTL         string  `json:"ttl,omitempty" doc:"Delete the key after this time, such as 30s. Not with lease."`
	Lease       string  `json:"lease,omitempty" doc:"Id of the lease on which the key hangs."`
	Prev        bool    `json:"prev,omitempty" doc:"Answer with the version before."`
	IgnoreValue bool    `json:"ignore_value,omitempty" doc:"Keep the value of the key, which must exist."`
	IgnoreLease bool    `json:"ignore_lease,omitempty" doc:"Keep the lease of the key, which must exist."`
}

// DeleteOperation deletes keys.
type DeleteOperation struct {
	Span
	Prev bool `json:"prev,omitempty" doc:"Answer with what was deleted."`
}

// RangeOperation reads keys.
type RangeOperation struct {
	Span
	Limit     int64  `json:"limit,omitempty" minimum:"0"`
	Revision  uint64 `json:"revision,omitempty" doc:"Read at this revision."`
	SortBy    string `json:"sort_by,omitempty" enum:"key,version,create_revision,mod_revision,value"`
	Order     string `json:"order,omitempty" enum:"ascending,descending"`
	KeysOnly  bool   `json:"keys_only,omitempty"`
	CountOnly bool   `json:"count_only,omitempty"`
}

// Held demands that a lock, an election or a key is still held under a token.
type Held struct {
	Lock     string `json:"lock,omitempty" doc:"Name of a lock."`
	Election string `json:"election,omitempty" doc:"Name of an election."`
	Key      string `json:"key,omitempty" doc:"A key, whose create revision is the token."`
	Token    uint64 `json:"token" minimum:"1" doc:"The fencing token that the lock or election gave."`
}

// TxnBody is a transaction.
type TxnBody struct {
	If      []Condition `json:"if,omitempty" doc:"All must hold for then, else else is carried out."`
	Then    []Operation `json:"then,omitempty"`
	Else    []Operation `json:"else,omitempty"`
	Holding []Held      `json:"if_holding,omitempty" doc:"Refuse the transaction (stale_token) unless these tokens still hold."`
}

var (
	targets = map[string]api.CompareTarget{
		"version": api.CompareVersion, "create_revision": api.CompareCreate, "mod_revision": api.CompareMod,
		"value": api.CompareValue, "lease": api.CompareLease,
	}
	relations = map[string]api.CompareResult{"": api.Equal, "equal": api.Equal, "not_equal": api.NotEqual, "greater": api.Greater, "less": api.Less}
	sortings  = map[string]api.SortTarget{
		"": api.SortByKey, "key": api.SortByKey, "version": api.SortByVersion, "create_revision": api.SortByCreate,
		"mod_revision": api.SortByMod, "value": api.SortByValue,
	}
	orders = map[string]api.SortOrder{"": api.Unsorted, "ascending": api.Ascending, "descending": api.Descending}
)

func value(v []byte, text *string) ([]byte, error) {
	if text == nil {
		return v, nil
	}
	if len(v) > 0 {
		return nil, errs.Invalid("text", *text, "value or text, not both")
	}
	return []byte(*text), nil
}

func leaseID(field, v string) (uint64, error) {
	if v == "" {
		return 0, nil
	}
	id, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		return 0, errs.Invalid(field, v, "the id of a lease")
	}
	return id, nil
}

func (t *TxnBody) txn() (*api.Txn, error) {
	out := &api.Txn{}
	for i := range t.If {
		c, err := t.If[i].compare("if[" + strconv.Itoa(i) + "]")
		if err != nil {
			return nil, err
		}
		out.If = append(out.If, c)
	}
	for _, h := range t.Holding {
		tok, err := h.token()
		if err != nil {
			return nil, err
		}
		out.Holding = append(out.Holding, tok)
	}
	var err error
	if out.Then, err = operations("then", t.Then); err != nil {
		return nil, err
	}
	out.Else, err = operations("else", t.Else)
	return out, err
}

func (h *Held) token() (api.Token, error) {
	t := api.Token{Token: h.Token}
	given := 0
	for kind, name := range map[api.TokenKind]string{api.TokenLock: h.Lock, api.TokenElection: h.Election, api.TokenKey: h.Key} {
		if name != "" {
			given++
			t.Kind, t.Name = kind, name
		}
	}
	if given != 1 {
		return t, errs.Invalid("if_holding", given, "one of lock, election, key")
	}
	return t, nil
}

func (c *Condition) compare(field string) (out api.Compare, err error) {
	if out.Span, err = c.span(field); err != nil {
		return out, err
	}
	out.Target, out.Result, out.Number = targets[c.Target], relations[c.Is], c.Number
	if out.Value, err = value(c.Value, c.Text); err != nil || c.Target != "lease" {
		return out, err
	}
	id, err := leaseID(field+".lease", c.Lease)
	out.Number = int64(id)
	return out, err
}

func operations(field string, ops []Operation) ([]api.Op, error) {
	var out []api.Op
	for i := range ops {
		o, err := ops[i].op(field + "[" + strconv.Itoa(i) + "]")
		if err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, nil
}

func (o *Operation) op(field string) (out api.Op, err error) {
	given := 0
	if o.Put != nil {
		given++
		out.Put, err = o.Put.op(field)
	}
	if o.Delete != nil && err == nil {
		given++
		out.Delete = &api.DeleteOp{Prev: o.Delete.Prev}
		out.Delete.Span, err = o.Delete.span(field)
	}
	if o.Range != nil && err == nil {
		given++
		r := o.Range
		out.Range = &api.RangeRequest{
			Limit: r.Limit, Revision: r.Revision, SortBy: sortings[r.SortBy], Order: orders[r.Order], KeysOnly: r.KeysOnly, CountOnly: r.CountOnly,
		}
		out.Range.Span, err = r.span(field)
	}
	if o.Txn != nil && err == nil {
		given++
		out.Txn, err = o.Txn.txn()
	}
	if err == nil && given != 1 {
		err = errs.Invalid(field, given, "one of put, delete, range, txn")
	}
	return out, err
}

func (p *PutOperation) op(field string) (*api.PutOp, error) {
	out := &api.PutOp{Key: []byte(p.Key), Prev: p.Prev, IgnoreValue: p.IgnoreValue, IgnoreLease: p.IgnoreLease}
	var err error
	if out.Value, err = value(p.Value, p.Text); err != nil {
		return nil, err
	}
	if out.Lease, err = leaseID(field+".lease", p.Lease); err != nil {
		return nil, err
	}
	if p.TTL != "" {
		d, err := time.ParseDuration(p.TTL)
		if err != nil || d < time.Second {
			return nil, errs.Invalid(field+".ttl", p.TTL, "a duration from 1s to 9000000000s, such as 30s")
		}
		out.TTL = uint64(d.Milliseconds())
	}
	return out, nil
}

// Key is a key in an answer.
type Key struct {
	Key            string    `json:"key"`
	KeyBytes       []byte    `json:"key_base64,omitempty" doc:"The bytes of a key that is not UTF-8."`
	Value          []byte    `json:"value" doc:"In base64."`
	CreateRevision uint64    `json:"create_revision"`
	ModRevision    uint64    `json:"mod_revision"`
	Version        uint64    `json:"version"`
	Lease          string    `json:"lease,omitempty"`
	Created        time.Time `json:"created"`
	Modified       time.Time `json:"modified"`
	Actor          string    `json:"actor" doc:"Who wrote this version, as door:principal."`
	StoreRevision  uint64    `json:"store_revision"`
}

func keyOf(kv *api.KV) *Key {
	if kv == nil {
		return nil
	}
	k := &Key{
		Key: string(kv.Key), Value: kv.Value, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version,
		Created: time.Unix(0, kv.Created).UTC(), Modified: time.Unix(0, kv.Modified).UTC(), Actor: kv.Actor, StoreRevision: kv.StoreRevision,
	}
	if !utf8.Valid(kv.Key) {
		k.KeyBytes = kv.Key
	}
	if kv.Lease != 0 {
		k.Lease = strconv.FormatUint(kv.Lease, 10)
	}
	if k.Value == nil {
		k.Value = []byte{}
	}
	return k
}

func keysOf(kvs []api.KV) []Key {
	out := make([]Key, 0, len(kvs))
	for i := range kvs {
		out = append(out, *keyOf(&kvs[i]))
	}
	return out
}

// OperationResult answers one operation, in the member of its name.
type OperationResult struct {
	Put    *PutAnswer    `json:"put,omitempty"`
	Delete *DeleteAnswer `json:"delete,omitempty"`
	Range  *RangeAnswer  `json:"range,omitempty"`
	Txn    *TxnResult    `json:"txn,omitempty"`
}

// PutAnswer answers a put.
type PutAnswer struct {
	Revision       uint64 `json:"revision"`
	CreateRevision uint64 `json:"create_revision"`
	Version        uint64 `json:"version"`
	Lease          string `json:"lease,omitempty"`
	Prev           *Key   `json:"prev,omitempty"`
}

// DeleteAnswer answers a delete.
type DeleteAnswer struct {
	Deleted uint64 `json:"deleted"`
	Prev    []Key  `json:"prev,omitempty"`
}

// RangeAnswer answers a range.
type RangeAnswer struct {
	Items []Key  `json:"items"`
	Count uint64 `json:"count" doc:"Keys of the range, whatever the limit."`
	More  bool   `json:"more"`
}

// TxnResult answers a transaction.
type TxnResult struct {
	Succeeded     bool              `json:"succeeded" doc:"Whether all conditions held."`
	Revision      uint64            `json:"revision" doc:"Key revision: the transaction's own if it changed a key."`
	StoreRevision uint64            `json:"store_revision"`
	Results       []OperationResult `json:"results"`
}

func txnResult(t *api.TxnResult) *TxnResult {
	out := &TxnResult{Succeeded: t.Succeeded, Revision: t.Revision, StoreRevision: t.StoreRevision, Results: make([]OperationResult, len(t.Ops))}
	for i := range t.Ops {
		o, r := &t.Ops[i], &out.Results[i]
		switch {
		case o.Put != nil:
			p := &PutAnswer{}
			p.Revision, p.CreateRevision, p.Version, p.Prev = o.Put.Revision, o.Put.CreateRevision, o.Put.Version, keyOf(o.Put.Prev)
			if o.Put.Lease != 0 {
				p.Lease = strconv.FormatUint(o.Put.Lease, 10)
			}
			r.Put = p
		case o.Delete != nil:
			d := &DeleteAnswer{}
			d.Deleted, d.Prev = o.Delete.Deleted, keysOf(o.Delete.Prev)
			r.Delete = d
		case o.Range != nil:
			g := &RangeAnswer{}
			g.Items, g.Count, g.More = keysOf(o.Range.Items), o.Range.Count, o.Range.More
			r.Range = g
		case o.Txn != nil:
			r.Txn = txnResult(o.Txn)
		}
	}
	return out
}

type txnIn struct{ Body TxnBody }

type txnOut struct{ Body TxnResult }

func (d *door) txn(ctx context.Context, in *txnIn) (*txnOut, error) {
	t, err := in.Body.txn()
	if err != nil {
		return nil, err
	}
	res, err := d.svc.Txn(ctx, t)
	if err != nil {
		return nil, err
	}
	return &txnOut{Body: *txnResult(&res)}, nil
}
