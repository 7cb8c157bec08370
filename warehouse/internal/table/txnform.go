package table

import (
	"bytes"
	"slices"
	"strconv"
	"strings"

	"nekoq/services/errs"
	"nekoq/warehouse/api"
)

// CheckTxn refuses a transaction whose form is wrong: too many operations (nested
// ones count on top of those around them), or a key that could be written twice.
func CheckTxn(t *api.Txn, most int) error {
	if err := countOps(t, most, most); err != nil {
		return err
	}
	return CheckKeys(t)
}

// CheckKeys refuses a transaction that could write a key twice.
func CheckKeys(t *api.Txn) error {
	for _, ops := range [...][]api.Op{t.Then, t.Else} {
		if len(ops) == 1 && ops[0].Txn == nil {
			continue
		}
		if _, err := writes(ops); err != nil {
			return err
		}
	}
	return nil
}

func countOps(t *api.Txn, left, most int) error {
	n := max(len(t.If), len(t.Then), len(t.Else))
	if n > left {
		return errs.New(errs.TooManyOps, "the transaction has more than %d operations or conditions", most).
			With(errs.Detail{Field: "operations", Limit: strconv.Itoa(most)})
	}
	for _, ops := range [][]api.Op{t.Then, t.Else} {
		for i := range ops {
			if ops[i].Txn != nil {
				if err := countOps(ops[i].Txn, left-n, most); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// written is what operations write: the keys they put, in order and as a set, and the
// spans they delete.
type written struct {
	keys    []string
	set     map[string]struct{}
	dels    []api.Span
	deleted cover // dels
}

func (w *written) has(key string) bool {
	_, ok := w.set[key]
	return ok
}

func (w *written) remove(spans ...api.Span) {
	if len(spans) > 0 {
		w.dels = append(w.dels, spans...)
		w.deleted = newCover(w.dels)
	}
}

// put notes a key; one that is put already, or deleted, is written twice.
func (w *written) put(key string) error {
	if w.has(key) || w.deleted.has(key) {
		return duplicate(key)
	}
	if w.set == nil {
		w.set = make(map[string]struct{})
	}
	w.keys = append(w.keys, key)
	w.set[key] = struct{}{}
	return nil
}

// writes gives what ops write. A key may be put once, and not when the transaction
// also deletes it; the two branches of a nested transaction exclude each other.
func writes(ops []api.Op) (w written, err error) {
	var spans []api.Span
	for i := range ops {
		if d := ops[i].Delete; d != nil {
			spans = append(spans, d.Span)
		}
	}
	w.remove(spans...)
	for i := range ops {
		if t := ops[i].Txn; t != nil {
			if err := w.nested(t); err != nil {
				return w, err
			}
		}
	}
	for i := range ops {
		if p := ops[i].Put; p != nil {
			if err := w.put(string(p.Key)); err != nil {
				return w, err
			}
		}
	}
	return w, nil
}

func (w *written) nested(t *api.Txn) error {
	then, err := writes(t.Then)
	if err != nil {
		return err
	}
	other, err := writes(t.Else)
	if err != nil {
		return err
	}
	dels := slices.Concat(then.dels, other.dels)
	if gone := newCover(dels); len(gone) > 0 { // what a transaction beside it has put
		for _, k := range w.keys {
			if gone.has(k) {
				return duplicate(k)
			}
		}
	}
	for _, k := range then.keys {
		if err := w.put(k); err != nil {
			return err
		}
	}
	for _, k := range other.keys {
		if then.has(k) {
			continue
		}
		if err := w.put(k); err != nil {
			return err
		}
	}
	w.remove(dels...)
	return nil
}

// cover is a set of spans, sorted and merged, so that a look-up costs a binary
// search however many deletes a transaction has.
type cover []bounds

type bounds struct{ start, end []byte } // end nil is no bound

func newCover(spans []api.Span) cover {
	all := make([]bounds, 0, len(spans))
	for _, s := range spans {
		if start, end := s.Bounds(); end == nil || bytes.Compare(start, end) < 0 {
			all = append(all, bounds{start, end})
		}
	}
	if len(all) == 0 {
		return nil
	}
	slices.SortFunc(all, func(a, b bounds) int { return bytes.Compare(a.start, b.start) })
	out := all[:1]
	for _, b := range all[1:] {
		last := &out[len(out)-1]
		switch {
		case last.end == nil:
			return out
		case bytes.Compare(b.start, last.end) > 0:
			out = append(out, b)
		case b.end == nil || bytes.Compare(b.end, last.end) > 0:
			last.end = b.end
		}
	}
	return out
}

func (c cover) has(key string) bool {
	at, exact := slices.BinarySearchFunc(c, key, func(b bounds, k string) int { return strings.Compare(string(b.start), k) })
	if !exact {
		at--
	}
	return at >= 0 && (c[at].end == nil || key < string(c[at].end))
}

func duplicate(key string) error {
	return errs.New(errs.DuplicateKey, "key: %q is written twice in the transaction", key).
		With(errs.Detail{Field: "key", Value: key[:min(len(key), 64)]})
}
