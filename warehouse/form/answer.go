package form

import (
	"strconv"
	"time"
	"unicode/utf8"

	"nekoq/warehouse/api"
)

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

// KeyOf is kv in an answer; nil stays nil.
func KeyOf(kv *api.KV) *Key {
	if kv == nil {
		return nil
	}
	k := &Key{
		Key: string(kv.Key), Value: kv.Value, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version,
		Lease: LeaseText(kv.Lease), Created: time.Unix(0, kv.Created).UTC(), Modified: time.Unix(0, kv.Modified).UTC(), Actor: kv.Actor, StoreRevision: kv.StoreRevision,
	}
	if !utf8.Valid(kv.Key) {
		k.KeyBytes = kv.Key
	}
	if k.Value == nil {
		k.Value = []byte{}
	}
	return k
}

// LeaseText is the id of a lease in an answer, "" for none.
func LeaseText(id uint64) string {
	if id == 0 {
		return ""
	}
	return strconv.FormatUint(id, 10)
}

// KeysOf is KeyOf of each.
func KeysOf(kvs []api.KV) []Key {
	out := make([]Key, 0, len(kvs))
	for i := range kvs {
		out = append(out, *KeyOf(&kvs[i]))
	}
	return out
}

// OperationResult answers one operation, in the member of its name.
type OperationResult struct {
	Put    *PutAnswer    `json:"put,omitempty"`
	Delete *DeleteAnswer `json:"delete,omitempty"`
	Range  *RangeAnswer  `json:"range,omitempty"`
	Txn    *Result       `json:"txn,omitempty"`
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

// Result answers a transaction.
type Result struct {
	Succeeded     bool              `json:"succeeded" doc:"Whether all conditions held."`
	Revision      uint64            `json:"revision" doc:"Key revision: the transaction's own if it changed a key."`
	StoreRevision uint64            `json:"store_revision"`
	Results       []OperationResult `json:"results"`
}

// ResultOf is the answer of a transaction.
func ResultOf(t *api.TxnResult) *Result {
	out := &Result{Succeeded: t.Succeeded, Revision: t.Revision, StoreRevision: t.StoreRevision, Results: make([]OperationResult, len(t.Ops))}
	for i := range t.Ops {
		o, r := &t.Ops[i], &out.Results[i]
		switch {
		case o.Put != nil:
			r.Put = &PutAnswer{
				Revision: o.Put.Revision, CreateRevision: o.Put.CreateRevision, Version: o.Put.Version, Lease: LeaseText(o.Put.Lease), Prev: KeyOf(o.Put.Prev),
			}
		case o.Delete != nil:
			r.Delete = &DeleteAnswer{Deleted: o.Delete.Deleted, Prev: KeysOf(o.Delete.Prev)}
		case o.Range != nil:
			r.Range = &RangeAnswer{Items: KeysOf(o.Range.Items), Count: o.Range.Count, More: o.Range.More}
		case o.Txn != nil:
			r.Txn = ResultOf(o.Txn)
		}
	}
	return out
}
