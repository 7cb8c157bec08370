package table

import (
	"bytes"
	"fmt"
	"strconv"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/state"
	"nekoq/warehouse/api"
)

// MaxTxnOps bounds the operations and conditions on one level of a transaction,
// whatever the configuration says.
const MaxTxnOps = 10_000

// MaxTxnAnswer bounds the keys and values that a transaction with writes answers,
// in bytes, and maxSessionAnswer those of one in a session, whose answer is
// kept for retries.
const (
	MaxTxnAnswer     = 32 << 20
	maxSessionAnswer = 1 << 20
)

// Counter counts the keys of a range at the newest revision; countIndex and Counts
// are it.
type Counter interface {
	Count(r state.Reader, start, end []byte) uint64
}

// Branch is the part of a transaction whose conditions came true.
type Branch struct {
	succeeded bool
	ops       []api.Op
	nested    []*Branch // by operation; nil where it is no transaction
}

// Choose judges all conditions, nested ones too, before anything is written.
func Choose(r state.Reader, t *api.Txn) (*Branch, error) {
	if err := checkTokens(r, t.Holding); err != nil {
		return nil, err
	}
	b := &Branch{succeeded: true, ops: t.Then}
	for i := range t.If {
		ok, err := holds(r, &t.If[i])
		if err != nil {
			return nil, err
		}
		if !ok {
			b.succeeded, b.ops = false, t.Else
			break
		}
	}
	for i := range b.ops {
		if b.ops[i].Txn == nil {
			continue
		}
		if b.nested == nil {
			b.nested = make([]*Branch, len(b.ops))
		}
		var err error
		if b.nested[i], err = Choose(r, b.ops[i].Txn); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// holds judges one condition. A missing key has only zeros, and no value to compare.
func holds(r state.Reader, c *api.Compare) (bool, error) {
	if c.Single() {
		rec, ok, err := Latest(r, c.Key)
		if err != nil {
			return false, err
		}
		return judge(c, &rec, ok), nil
	}
	start, end := c.Bounds()
	any, all := false, true
	err := VisibleRange(r, start, end, func(_ []byte, rec *Record) bool {
		any = true
		all = judge(c, rec, true)
		return all
	})
	if err != nil || any {
		return all, err
	}
	return judge(c, &Record{}, false), nil
}

func judge(c *api.Compare, rec *Record, exists bool) bool {
	var order int
	switch c.Target {
	case api.CompareValue:
		if !exists {
			return false
		}
		order = bytes.Compare(rec.Value, c.Value)
	default:
		have := [...]uint64{
			api.CompareVersion: rec.Version, api.CompareCreate: rec.CreateRevision,
			api.CompareMod: rec.ModRevision, api.CompareLease: rec.Lease,
		}[c.Target]
		switch n := int64(have); {
		case n < c.Number:
			order = -1
		case n > c.Number:
			order = 1
		}
	}
	switch c.Result {
	case api.Equal:
		return order == 0
	case api.Greater:
		return order > 0
	case api.Less:
		return order < 0
	}
	return order != 0
}

// TokenPrefix is where the keys of locks and elections stand: their create revision
// is the fencing token.
func TokenPrefix(kind api.TokenKind, name string) []byte {
	part := "locks/"
	if kind == api.TokenElection {
		part = "elections/"
	}
	return []byte(SystemPrefix + part + name + "\x00")
}

// checkTokens refuses when a lock, election or key that the writer relies on is no
// longer held under its token.
func checkTokens(r state.Reader, tokens []api.Token) error {
	for i := range tokens {
		t := &tokens[i]
		have, err := holder(r, t)
		if err != nil {
			return err
		}
		if have == t.Token && have != 0 {
			continue
		}
		e := errs.New(errs.StaleToken, "token: %q is not held under the token %d; the present one is %d", t.Name, t.Token, have)
		if have == 0 {
			e = errs.New(errs.StaleToken, "token: %q is not held under the token %d; nobody holds it", t.Name, t.Token)
		}
		return e.With(errs.Detail{Field: "token", Value: strconv.FormatUint(t.Token, 10), Limit: strconv.FormatUint(have, 10)})
	}
	return nil
}

// holder gives the token under which a lock, election or key is held, 0 for none. The
// holder of a lock is the claim with the least create revision.
func holder(r state.Reader, t *api.Token) (uint64, error) {
	if t.Kind == api.TokenKey {
		rec, _, err := Latest(r, []byte(t.Name))
		return rec.CreateRevision, err
	}
	prefix := TokenPrefix(t.Kind, t.Name)
	least := uint64(0)
	err := rangeLatest(r, prefix, prefixEnd(prefix), func(_ []byte, rec *Record) bool {
		if least == 0 || rec.CreateRevision < least {
			least = rec.CreateRevision
		}
		return true
	})
	return least, err
}

// check refuses a branch that cannot be carried out, before anything is written, and
// sums what it adds.
func (b *Branch) check(tx *state.Tx, m Meta, g *growth, answer *int) error {
	for i := range b.ops {
		var err error
		switch o := &b.ops[i]; {
		case o.Range != nil:
			if err = checkRange(tx, m, o.Range, answer); err == nil {
				*answer += g.shown(o.Range)
			}
		case o.Put != nil:
			err = checkPut(tx, o.Put, g, answer)
		case o.Delete != nil:
			start, end := o.Delete.Bounds()
			err = VisibleRange(tx, start, end, func(k []byte, rec *Record) bool {
				g.remove(k, len(rec.Value))
				if o.Delete.Prev {
					*answer += len(k) + len(rec.Value)
				}
				return true
			})
		case o.Txn != nil:
			err = b.nested[i].check(tx, m, g, answer)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func checkRange(tx *state.Tx, m Meta, req *api.RangeRequest, answer *int) error {
	if err := m.CheckQuery(req); err != nil || req.CountOnly {
		return err
	}
	rev, n := req.Revision, int64(0)
	if rev == 0 {
		rev = m.Revision
	}
	if filtering(req) || req.Limit > 0 && sorting(req) { // the first keys are not the answer
		if *answer > MaxTxnAnswer {
			return nil
		}
		q := Query{R: tx, Meta: m, Counts: liveCounts(tx)}
		res, err := q.Range(req, func(b []byte) []byte { return b })
		for i := range res.Items {
			*answer += len(res.Items[i].Key) + len(res.Items[i].Value)
		}
		return err
	}
	start, end := req.Bounds()
	return VisibleRangeAt(tx, m, start, end, rev, func(k []byte, rec *Record) bool {
		n++
		*answer += len(k)
		if !req.KeysOnly {
			*answer += len(rec.Value)
		}
		return *answer <= MaxTxnAnswer && (req.Limit == 0 || n < req.Limit)
	})
}

func checkPut(tx *state.Tx, p *api.PutOp, g *growth, answer *int) error {
	if err := checkSize(p.Key, p.Value); err != nil {
		return err
	}
	rec, ok, err := Latest(tx, p.Key)
	if err != nil {
		return err
	}
	if (p.IgnoreValue || p.IgnoreLease) && !ok {
		return errs.New(errs.NotFound, "key: %q does not exist, so its value or lease cannot be kept", p.Key).
			With(errs.Detail{Field: "key", Value: string(p.Key)})
	}
	c := PutCommand{Key: p.Key, TTL: p.TTL, Lease: p.Lease}
	if err := checkLease(tx, &c); err != nil {
		return err
	}
	size := len(p.Value)
	if p.IgnoreValue {
		size = len(rec.Value)
	}
	if p.Prev && ok {
		*answer += len(p.Key) + len(rec.Value)
	}
	g.put(p.Key, size, ok, len(rec.Value))
	g.made = append(g.made, made{p.Key, size, len(rec.Value), ok})
	return nil
}

// made is a put that the operations after it see.
type made struct {
	key       []byte
	size, old int // of the values, in bytes
	existed   bool
}

// shown bounds by how many bytes the puts so far make the answer of a range longer.
func (g *growth) shown(req *api.RangeRequest) int {
	if req.CountOnly || req.Revision != 0 {
		return 0
	}
	start, end := req.Bounds()
	part := req.Limit > 0 || filtering(req) // what was there may not have been in the answer
	sum, most := 0, 0
	for i := range g.made {
		p, n := &g.made[i], 0
		if bytes.Compare(p.key, start) < 0 || end != nil && bytes.Compare(p.key, end) >= 0 {
			continue
		}
		if !p.existed || part {
			n = len(p.key)
		}
		switch {
		case req.KeysOnly:
		case part:
			n += p.size
		default:
			n += max(p.size-p.old, 0)
		}
		sum, most = sum+n, max(most, n)
	}
	if req.Limit > 0 && int64(len(g.made)) > req.Limit {
		sum = min(sum, int(req.Limit)*most)
	}
	return sum
}

func applyTxn(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	var t api.Txn
	if err := t.Decode(cmd.Payload); err != nil {
		return nil, fmt.Errorf("warehouse: %v", err) //nolint:errorlint // a damaged entry halts, it does not refuse
	}
	w, err := newWriter(tx, cmd.Time, cmd.Actor)
	if err != nil {
		return nil, err
	}
	b, err := Choose(tx, &t)
	if err != nil {
		return nil, err
	}
	before := w.meta
	before.Revision--
	g, answer := growth{w: &w}, 0
	if err := b.check(tx, before, &g, &answer); err != nil {
		return nil, err
	}
	most := MaxTxnAnswer
	if cmd.Session != 0 {
		most = maxSessionAnswer
	}
	if answer > most {
		return nil, TooLarge("answer", answer, int64(most))
	}
	if err := g.check(); err != nil {
		return nil, err
	}
	res, err := b.run(&w)
	if err != nil {
		return nil, err
	}
	if w.sub > 0 {
		w.finish()
	}
	return res.Append(nil), nil
}

// revision is the key revision as an operation sees it.
func (w *writer) revision() uint64 {
	if w.sub > 0 {
		return w.meta.Revision
	}
	return w.meta.Revision - 1
}

func (b *Branch) run(w *writer) (api.TxnResult, error) {
	res := api.TxnResult{Succeeded: b.succeeded, Ops: make([]api.OpResult, len(b.ops))}
	for i := range b.ops {
		out := &res.Ops[i]
		switch o := &b.ops[i]; {
		case o.Range != nil:
			m := w.meta
			m.Revision = w.revision()
			q := Query{R: w.tx, Meta: m, Counts: liveCounts(w.tx)}
			r, err := q.Range(o.Range, bytes.Clone)
			if err != nil {
				return res, err
			}
			out.Range = &r
		case o.Put != nil:
			p, err := w.putOp(o.Put)
			if err != nil {
				return res, err
			}
			out.Put = p
		case o.Delete != nil:
			d, err := w.deleteOp(o.Delete)
			if err != nil {
				return res, err
			}
			out.Delete = d
		case o.Txn != nil:
			t, err := b.nested[i].run(w)
			if err != nil {
				return res, err
			}
			out.Txn = &t
		}
		out.Revision = w.revision()
	}
	res.Revision = w.revision()
	return res, nil
}

func (w *writer) putOp(p *api.PutOp) (*api.PutResult, error) {
	old, prev, err := latest(w.tx, p.Key)
	if err != nil {
		return nil, err
	}
	value := p.Value
	if p.IgnoreValue {
		value = prev.Value
	}
	lease := prev.Lease
	if !p.IgnoreLease {
		lease = w.rehang(&PutCommand{Key: p.Key, TTL: p.TTL, Lease: p.Lease}, prev.Lease)
	}
	out := &api.PutResult{}
	var before *Record
	if old != nil {
		before = &prev
		if p.Prev {
			kv := NoteKV(p.Key, &prev)
			kv.Value = bytes.Clone(kv.Value)
			out.Prev = &kv
		}
	}
	r := w.put(p.Key, value, lease, old, before)
	out.CreateRevision, out.Version, out.Lease = r.CreateRevision, r.Version, lease
	return out, nil
}

// found is a row that a delete has found.
type found struct {
	key, row []byte
	rec      Record
}

func (w *writer) deleteOp(d *api.DeleteOp) (*api.DeleteResult, error) {
	out := &api.DeleteResult{}
	start, end := d.Bounds()
	var rows []found
	var bad error
	err := visible(start, end, func(start, end []byte) error {
		w.tx.Scan(TableKV, start, end, func(k, v []byte) bool {
			f := found{key: bytes.Clone(k), row: v}
			if f.rec, bad = DecodeRecord(v); bad != nil {
				return false
			}
			rows = append(rows, f)
			return true
		})
		return bad
	})
	if err != nil {
		return nil, err
	}
	for i := range rows {
		f := &rows[i]
		if d.Prev {
			kv := NoteKV(f.key, &f.rec)
			kv.Value = bytes.Clone(kv.Value)
			out.Prev = append(out.Prev, kv)
		}
		w.remove(f.key, f.row, &f.rec)
		w.untie(f.key, f.rec.Lease)
	}
	out.Deleted = uint64(len(rows))
	return out, nil
}

// ReadOnly carries a branch without writes out on a view.
func (b *Branch) ReadOnly(q *Query) (api.TxnResult, error) {
	res := api.TxnResult{Succeeded: b.succeeded, Ops: make([]api.OpResult, len(b.ops))}
	res.Revision = q.Meta.Revision
	for i := range b.ops {
		out := &res.Ops[i]
		out.Revision = q.Meta.Revision
		if b.ops[i].Txn != nil {
			t, err := b.nested[i].ReadOnly(q)
			if err != nil {
				return res, err
			}
			out.Txn = &t
			continue
		}
		if err := q.Meta.CheckQuery(b.ops[i].Range); err != nil {
			return res, err
		}
		r, err := q.Range(b.ops[i].Range, bytes.Clone)
		if err != nil {
			return res, err
		}
		out.Range = &r
	}
	return res, nil
}
