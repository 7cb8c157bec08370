// Package form is warehouse in JSON: keys, spans, transactions and their answers, as
// the REST door and the command line read and write them.
//
// It owns the words and which of them go together; what they mean is the Service's.
// It keeps nothing. The doors and the command line import it.
package form

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

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

// Span reads the span; field names it in the error.
func (s *Span) Span(field string) (api.Span, error) {
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
	Txn    *Txn             `json:"txn,omitempty" doc:"A nested transaction."`
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
	Number   uint64 `json:"token" minimum:"1" doc:"The fencing token that the lock or election gave."`
}

// Txn is a transaction.
type Txn struct {
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

// oneOf gives what a word stands for.
func oneOf[T any](field, word string, words map[string]T) (T, error) {
	v, ok := words[word]
	if !ok {
		list := slices.Sorted(maps.Keys(words))
		if list[0] == "" {
			list = list[1:]
		}
		return v, errs.Invalid(field, word, "one of "+strings.Join(list, ", "))
	}
	return v, nil
}

func value(field string, v []byte, text *string) ([]byte, error) {
	if text == nil {
		return v, nil
	}
	if len(v) > 0 {
		return nil, errs.Invalid(field+".text", *text, "value or text, not both")
	}
	return []byte(*text), nil
}

// Lease reads the id of a lease; "" is 0.
func Lease(field, v string) (uint64, error) {
	if v == "" {
		return 0, nil
	}
	id, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		return 0, errs.Invalid(field, v, "the id of a lease, a number")
	}
	return id, nil
}

// Txn reads the transaction. An error names the member at fault by its path.
func (t *Txn) Txn() (*api.Txn, error) { return t.read("") }

func (t *Txn) read(path string) (*api.Txn, error) {
	out := &api.Txn{}
	for i := range t.If {
		c, err := t.If[i].compare(path + "if[" + strconv.Itoa(i) + "]")
		if err != nil {
			return nil, err
		}
		out.If = append(out.If, c)
	}
	for i := range t.Holding {
		tok, err := t.Holding[i].Token(path + "if_holding[" + strconv.Itoa(i) + "]")
		if err != nil {
			return nil, err
		}
		out.Holding = append(out.Holding, tok)
	}
	var err error
	if out.Then, err = operations(path+"then", t.Then); err != nil {
		return nil, err
	}
	out.Else, err = operations(path+"else", t.Else)
	return out, err
}

// Token reads what is held; field names it in the error.
func (h *Held) Token(field string) (api.Token, error) {
	t := api.Token{Token: h.Number}
	given := 0
	for kind, name := range map[api.TokenKind]string{api.TokenLock: h.Lock, api.TokenElection: h.Election, api.TokenKey: h.Key} {
		if name != "" {
			given++
			t.Kind, t.Name = kind, name
		}
	}
	switch {
	case given != 1:
		return t, errs.Invalid(field, strconv.Itoa(given)+" of them", "one of lock, election, key, and the token that it gave")
	case t.Token == 0:
		return t, errs.Invalid("token", 0, "the token that the lock or election gave, from 1 on")
	}
	return t, nil
}

func (c *Condition) compare(field string) (out api.Compare, err error) {
	if out.Span, err = c.Span.Span(field); err != nil {
		return out, err
	}
	if out.Target, err = oneOf(field+".target", c.Target, targets); err != nil {
		return out, err
	}
	if out.Result, err = oneOf(field+".is", c.Is, relations); err != nil {
		return out, err
	}
	out.Number = c.Number
	if out.Value, err = value(field, c.Value, c.Text); err != nil || c.Target != "lease" {
		return out, err
	}
	id, err := Lease(field+".lease", c.Lease)
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
		out.Put, err = o.Put.op(field + ".put")
	}
	if o.Delete != nil && err == nil {
		given++
		out.Delete = &api.DeleteOp{Prev: o.Delete.Prev}
		out.Delete.Span, err = o.Delete.Span.Span(field + ".delete")
	}
	if o.Range != nil && err == nil {
		given++
		out.Range, err = o.Range.op(field + ".range")
	}
	if o.Txn != nil && err == nil {
		given++
		out.Txn, err = o.Txn.read(field + ".txn.")
	}
	if err == nil && given != 1 {
		err = errs.Invalid(field, strconv.Itoa(given)+" of them", "one of put, delete, range, txn")
	}
	return out, err
}

func (r *RangeOperation) op(field string) (*api.RangeRequest, error) {
	out := &api.RangeRequest{Limit: r.Limit, Revision: r.Revision, KeysOnly: r.KeysOnly, CountOnly: r.CountOnly}
	var err error
	if out.Span, err = r.Span.Span(field); err != nil {
		return nil, err
	}
	if r.Limit < 0 {
		return nil, errs.Invalid(field+".limit", r.Limit, "0 (all) or more")
	}
	if out.SortBy, err = oneOf(field+".sort_by", r.SortBy, sortings); err != nil {
		return nil, err
	}
	out.Order, err = oneOf(field+".order", r.Order, orders)
	return out, err
}

func (p *PutOperation) op(field string) (*api.PutOp, error) {
	out := &api.PutOp{Key: []byte(p.Key), Prev: p.Prev, IgnoreValue: p.IgnoreValue, IgnoreLease: p.IgnoreLease}
	var err error
	if out.Value, err = value(field, p.Value, p.Text); err != nil {
		return nil, err
	}
	if out.Lease, err = Lease(field+".lease", p.Lease); err != nil {
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
