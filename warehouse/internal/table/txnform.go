package table

import (
	"slices"
	"strconv"

	"nekoq/services/errs"
	"nekoq/warehouse/api"
)

// CheckTxn refuses a transaction whose form is wrong: too many operations (nested
// ones count on top of those around them), or a key that could be written twice.
func CheckTxn(t *api.Txn, most int) error {
	if err := countOps(t, most, most); err != nil {
		return err
	}
	for _, ops := range [][]api.Op{t.Then, t.Else} {
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
	keys []string
	set  map[string]struct{}
	dels []api.Span
}

func (w *written) has(key string) bool {
	_, ok := w.set[key]
	return ok
}

// put notes a key; one that is put already, or deleted, is written twice.
func (w *written) put(key string) error {
	if w.has(key) || covered(w.dels, key) {
		return duplicate(key)
	}
	w.keys = append(w.keys, key)
	w.set[key] = struct{}{}
	return nil
}

// writes gives what ops write. A key may be put once, and not when the transaction
// also deletes it; the two branches of a nested transaction exclude each other.
func writes(ops []api.Op) (*written, error) {
	w := &written{set: make(map[string]struct{})}
	for i := range ops {
		if d := ops[i].Delete; d != nil {
			w.dels = append(w.dels, d.Span)
		}
	}
	for i := range ops {
		t := ops[i].Txn
		if t == nil {
			continue
		}
		then, err := writes(t.Then)
		if err != nil {
			return nil, err
		}
		other, err := writes(t.Else)
		if err != nil {
			return nil, err
		}
		for _, k := range then.keys {
			if err := w.put(k); err != nil {
				return nil, err
			}
		}
		for _, k := range other.keys {
			if then.has(k) {
				continue
			}
			if err := w.put(k); err != nil {
				return nil, err
			}
		}
		w.dels = slices.Concat(w.dels, then.dels, other.dels)
	}
	for i := range ops {
		if p := ops[i].Put; p != nil {
			if err := w.put(string(p.Key)); err != nil {
				return nil, err
			}
		}
	}
	return w, nil
}

func covered(dels []api.Span, key string) bool {
	for _, d := range dels {
		start, end := d.Bounds()
		if key >= string(start) && (end == nil || key < string(end)) {
			return true
		}
	}
	return false
}

func duplicate(key string) error {
	return errs.New(errs.DuplicateKey, "key: %q is written twice in the transaction", key).
		With(errs.Detail{Field: "key", Value: key[:min(len(key), 64)]})
}
