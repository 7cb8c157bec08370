package table

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/lease/leasetable"
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

// VisibleRange is the newest keys of [start, end) without the system's, unless the
// range lies wholly among them.
func VisibleRange(r state.Reader, start, end []byte, fn Visit) error {
	return VisibleRangeAt(r, Meta{}, start, end, ^uint64(0), fn)
}

// VisibleRangeAt is VisibleRange at revision rev.
func VisibleRangeAt(r state.Reader, m Meta, start, end []byte, rev uint64, fn Visit) error {
	return visible(start, end, func(start, end []byte) error {
		more := true
		err := Range(r, m, start, end, rev, func(k []byte, rec *Record) bool {
			more = fn(k, rec)
			return more
		})
		if err == nil && !more {
			return errStop
		}
		return err
	})
}

// errStop ends a range whose reader has enough.
var errStop = errors.New("stop")

// visible splits a range around the system's keys.
func visible(start, end []byte, part func(start, end []byte) error) error {
	err := splitVisible(start, end, part)
	if err == errStop {
		return nil
	}
	return err
}

func splitVisible(start, end []byte, part func(start, end []byte) error) error {
	if end != nil && bytes.Compare(start, end) >= 0 {
		return nil
	}
	inside := bytes.HasPrefix(start, systemPrefix) && end != nil && bytes.Compare(end, systemEnd) <= 0
	if inside || bytes.Compare(start, systemEnd) >= 0 || (end != nil && bytes.Compare(end, systemPrefix) <= 0) {
		return part(start, end)
	}
	if bytes.Compare(start, systemPrefix) < 0 {
		if err := part(start, systemPrefix); err != nil {
			return err
		}
	}
	if end != nil && bytes.Compare(end, systemEnd) <= 0 {
		return nil
	}
	return part(systemEnd, end)
}

// Query is where a range is read: the newest state with its counts.
type Query struct {
	R      state.Reader
	Meta   Meta
	Counts Counter
}

// CheckQuery refuses what Range would.
func (m Meta) CheckQuery(q *api.RangeRequest) error {
	if q.Revision == 0 {
		return nil
	}
	return m.CheckRevision(q.Revision)
}

// Range answers a range request. Keys and values are copies made by keep.
func (q *Query) Range(req *api.RangeRequest, keep func([]byte) []byte, kv func(key []byte, rec *Record) api.KV) (api.RangeResult, error) {
	rev := req.Revision
	if rev == 0 {
		rev = q.Meta.Revision
	}
	start, end := req.Bounds()
	res := api.RangeResult{Items: []api.KV{}}
	res.Revision = q.Meta.Revision
	if req.CountOnly {
		var err error
		res.Count, err = q.Count(start, end, rev)
		return res, err
	}
	if req.Single() {
		rec, ok, err := At(q.R, req.Key, rev)
		if err != nil || !ok || rec.Deleted {
			return res, err
		}
		res.Count = 1
		if within(req, &rec) {
			item := kv(req.Key, &rec)
			item.Value = nil
			if !req.KeysOnly {
				item.Value = keep(rec.Value)
			}
			res.Items = append(res.Items, item)
		}
		return res, nil
	}
	sorted, filtered := sorting(req), req.MinMod|req.MaxMod|req.MinCreate|req.MaxCreate != 0
	most := int64(-1)
	if req.Limit > 0 && !sorted && !filtered {
		most = req.Limit
	}
	n := uint64(0)
	err := VisibleRangeAt(q.R, q.Meta, start, end, rev, func(k []byte, rec *Record) bool {
		if most >= 0 && int64(len(res.Items)) == most {
			res.More = true
			return false
		}
		n++
		if !within(req, rec) {
			return true
		}
		if req.KeysOnly && req.SortBy != api.SortByValue {
			rec.Value = nil
		}
		item := kv(keep(k), rec)
		item.Value = keep(rec.Value)
		res.Items = append(res.Items, item)
		return true
	})
	if err != nil {
		return res, err
	}
	res.Count = n
	if res.More {
		if res.Count, err = q.Count(start, end, rev); err != nil {
			return res, err
		}
	}
	if sorted {
		sortItems(res.Items, req)
	}
	if req.Limit > 0 && int64(len(res.Items)) > req.Limit {
		res.Items, res.More = res.Items[:req.Limit:req.Limit], true
	}
	if req.KeysOnly {
		for i := range res.Items {
			res.Items[i].Value = nil
		}
	}
	return res, nil
}

func within(req *api.RangeRequest, rec *Record) bool {
	return rec.ModRevision >= req.MinMod && (req.MaxMod == 0 || rec.ModRevision <= req.MaxMod) &&
		rec.CreateRevision >= req.MinCreate && (req.MaxCreate == 0 || rec.CreateRevision <= req.MaxCreate)
}

// sorting tells whether key order is not the order asked for.
func sorting(req *api.RangeRequest) bool {
	return req.SortBy != api.SortByKey || req.Order == api.Descending
}

func sortItems(items []api.KV, req *api.RangeRequest) {
	by := func(a, b *api.KV) int {
		switch req.SortBy {
		case api.SortByVersion:
			return order(a.Version, b.Version)
		case api.SortByCreate:
			return order(a.CreateRevision, b.CreateRevision)
		case api.SortByMod:
			return order(a.ModRevision, b.ModRevision)
		case api.SortByValue:
			return bytes.Compare(a.Value, b.Value)
		}
		return bytes.Compare(a.Key, b.Key)
	}
	sort.SliceStable(items, func(i, j int) bool {
		c := by(&items[i], &items[j])
		if req.Order == api.Descending {
			return c > 0
		}
		return c < 0
	})
}

func order(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// maxRecount bounds the log rows that are read to correct a count for an older
// revision; beyond it the range is walked.
const maxRecount = 20_000

// Count counts the visible keys of [start, end) at rev. At the newest revision it
// sums blocks; a little before it, it corrects that sum by what changed since.
func (q *Query) Count(start, end []byte, rev uint64) (uint64, error) {
	if rev >= q.Meta.Revision {
		return q.countNow(start, end)
	}
	if q.Meta.Revision-rev > maxRecount {
		return q.countWalk(start, end, rev)
	}
	n, err := q.countNow(start, end)
	if err != nil {
		return 0, err
	}
	left := maxRecount
	change := int64(0)
	seen := make(map[string]struct{})
	var bad error
	err = Changes(q.R, rev+1, q.Meta.Revision, func(l Log) bool {
		left--
		if left < 0 {
			return false
		}
		if bytes.Compare(l.Key, start) < 0 || (end != nil && bytes.Compare(l.Key, end) >= 0) {
			return true
		}
		if bytes.HasPrefix(l.Key, systemPrefix) && !bytes.HasPrefix(start, systemPrefix) {
			return true
		}
		if _, ok := seen[string(l.Key)]; ok {
			return true
		}
		seen[string(l.Key)] = struct{}{}
		then, ok, e := At(q.R, l.Key, rev)
		if e != nil {
			bad = e
			return false
		}
		if ok && !then.Deleted {
			change++
		}
		if _, now := q.R.Get(TableKV, l.Key); now {
			change--
		}
		return true
	})
	if err != nil || bad != nil {
		return 0, firstError(err, bad)
	}
	if left < 0 {
		return q.countWalk(start, end, rev)
	}
	return uint64(int64(n) + change), nil
}

func firstError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func (q *Query) countNow(start, end []byte) (n uint64, err error) {
	err = visible(start, end, func(start, end []byte) error {
		n += q.Counts.Count(q.R, start, end)
		return nil
	})
	return n, err
}

func (q *Query) countWalk(start, end []byte, rev uint64) (n uint64, err error) {
	err = VisibleRangeAt(q.R, q.Meta, start, end, rev, func([]byte, *Record) bool { n++; return true })
	return n, err
}

// liveCounts is the count index inside an applier.
func liveCounts(tx *state.Tx) Counter { return &tx.Index(IndexCount).(*countIndex).Counts }

// FrozenCounts is that of a view.
func FrozenCounts(v *state.View) Counter { return v.Frozen(IndexCount).(*Counts) }

// NoteKV makes the answer's form of a record, which aliases it.
func NoteKV(key []byte, r *Record) api.KV {
	return api.KV{
		Key: key, Value: r.Value, CreateRevision: r.CreateRevision, ModRevision: r.ModRevision,
		Version: r.Version, Lease: r.Lease, StoreRevision: r.StoreRevision,
		Created: r.Created, Modified: r.Modified, Actor: string(r.Actor), Deleted: r.Deleted,
	}
}

// check refuses a branch that cannot be carried out, before anything is written, and
// sums what it adds.
func (b *Branch) check(tx *state.Tx, m Meta, g *growth, answer *int) error {
	for i := range b.ops {
		var err error
		switch o := &b.ops[i]; {
		case o.Range != nil:
			err = checkRange(tx, m, o.Range, answer)
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
	return nil
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
			r, err := q.Range(o.Range, bytes.Clone, NoteKV)
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
		lease = rehang(w.tx, &PutCommand{Key: p.Key, TTL: p.TTL, Lease: p.Lease}, prev.Lease)
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
		if f.rec.Lease != 0 {
			leasetable.Detach(w.tx, f.rec.Lease, leasetable.OwnerWarehouse, f.key)
		}
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
		r, err := q.Range(b.ops[i].Range, bytes.Clone, NoteKV)
		if err != nil {
			return res, err
		}
		out.Range = &r
	}
	return res, nil
}

// CheckTxn refuses a transaction whose form is wrong: too many operations (nested
// ones count on top of those around them), or a key that could be written twice.
func CheckTxn(t *api.Txn, most int) error {
	if err := countOps(t, most, most); err != nil {
		return err
	}
	for _, ops := range [][]api.Op{t.Then, t.Else} {
		if _, _, err := writes(ops); err != nil {
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

// writes gives the keys that ops put and the spans they delete. A key may be put
// once, and not when the transaction also deletes it; the two branches of a nested
// transaction exclude each other.
func writes(ops []api.Op) (puts map[string]struct{}, dels []api.Span, err error) {
	puts = make(map[string]struct{})
	for i := range ops {
		if d := ops[i].Delete; d != nil {
			dels = append(dels, d.Span)
		}
	}
	for i := range ops {
		t := ops[i].Txn
		if t == nil {
			continue
		}
		then, thenDels, err := writes(t.Then)
		if err != nil {
			return nil, nil, err
		}
		other, otherDels, err := writes(t.Else)
		if err != nil {
			return nil, nil, err
		}
		for k := range other {
			then[k] = struct{}{}
		}
		for k := range then {
			if _, dup := puts[k]; dup || covered(dels, k) {
				return nil, nil, duplicate(k)
			}
			puts[k] = struct{}{}
		}
		dels = slices.Concat(dels, thenDels, otherDels)
	}
	for i := range ops {
		p := ops[i].Put
		if p == nil {
			continue
		}
		if _, dup := puts[string(p.Key)]; dup || covered(dels, string(p.Key)) {
			return nil, nil, duplicate(string(p.Key))
		}
		puts[string(p.Key)] = struct{}{}
	}
	return puts, dels, nil
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
