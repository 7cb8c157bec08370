package table

import (
	"bytes"
	"strconv"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/lease/leasetable"
	"nekoq/services/state"
	"nekoq/services/watch"
)

// Change is the event of watch.TopicKV. Row is the record as it stands in the
// table, nil when it is larger than MaxEventRow: who wants it reads it from the
// history, so that a full event ring stays small.
type Change struct {
	Kind     ChangeKind
	Sub      uint32
	Revision uint64 // key revision
	Prev     uint64 // mod revision before; 0 for none
	Key      []byte
	Row      []byte
}

// MaxEventRow is the largest record that an event carries, in bytes.
const MaxEventRow = 8 << 10

// Register declares warehouse's tables and appliers and its part in the end of a
// lease.
func Register(reg *state.Registry, leases *leasetable.Owners) {
	reg.Table(TableKV, "warehouse_kv")
	reg.Table(TableHist, "warehouse_hist")
	reg.Table(TableLog, "warehouse_log")
	reg.Table(TableMeta, "warehouse_meta")
	reg.Table(TableQuota, "warehouse_quota")
	reg.AddIndex(IndexCount, []state.TableID{TableKV}, newCountIndex)
	reg.Handle(KindPut, "warehouse_put", 1, applyPut)
	reg.Handle(KindDelete, "warehouse_delete", 1, applyDelete)
	reg.Handle(KindCompact, "warehouse_compact", 1, applyCompact)
	reg.Handle(KindSweep, "warehouse_sweep", 1, applySweep)
	reg.Handle(KindTxn, "warehouse_txn", 1, applyTxn)
	reg.Handle(KindQuota, "warehouse_quota", 1, applyQuota)
	reg.Handle(KindLimit, "warehouse_limit", 1, applyLimit)
	reg.Handle(KindRevert, "warehouse_revert", 1, applyRevert)
	leases.OnRevoke(leasetable.OwnerWarehouse, leaseEnded)
}

// writer changes keys within one write transaction: all changes share one key
// revision.
type writer struct {
	tx    *state.Tx
	meta  Meta // as it will be; Revision is this transaction's
	time  int64
	actor string
	sub   uint32
	used  []Quota // quotas that the changes touched, as they will be

	changes []Change // room for the events of many changes in one allocation
}

func newWriter(tx *state.Tx, time int64, actor string) (writer, error) {
	m, err := ReadMeta(tx)
	m.Revision++
	return writer{tx: tx, meta: m, time: time, actor: actor}, err
}

// resize follows a change of a key in the count index and in its quotas, before the
// row is written.
func (w *writer) resize(key []byte, keys, size int64) {
	w.tx.Index(IndexCount).(*countIndex).resize(key, size)
	w.account(key, keys, size)
}

// finish writes what all changes share. It is called once when something changed.
func (w *writer) finish() {
	w.tx.Put(TableMeta, metaKey, w.meta.encode())
	for i := range w.used {
		w.used[i].write(w.tx)
	}
}

// put writes a record over old, the key's row (nil for none). All rows stand in
// one allocation.
func (w *writer) put(key, value []byte, lease uint64, old []byte, prev *Record) Record {
	r := Record{
		CreateRevision: w.meta.Revision, ModRevision: w.meta.Revision, Version: 1, Lease: lease,
		StoreRevision: w.tx.Next(), Created: w.time, Modified: w.time,
		Actor: []byte(w.actor), Value: value,
	}
	if prev != nil {
		r.CreateRevision, r.Version, r.Created = prev.CreateRevision, prev.Version+1, prev.Created
	}
	size := len(key) + 12 + 1 + len(key) + recordOverhead + len(w.actor) + len(value)
	if old != nil {
		size += escapedLen(key) + 8
	}
	a := arena{make([]byte, 0, size)}
	k := a.add(key)
	row := a.cut(func(b []byte) []byte { return appendRecord(b, &r) })
	if prev != nil {
		hk := a.cut(func(b []byte) []byte { return appendHistKey(b, key, prev.ModRevision) })
		w.tx.Put(TableHist, hk, old)
		w.meta.Past += uint64(len(hk) + len(old))
		w.meta.Bytes -= uint64(len(key) + len(prev.Value))
		w.resize(key, 0, int64(len(value)-len(prev.Value)))
	} else {
		w.meta.Keys++
		w.resize(key, 1, int64(len(key)+len(value)))
	}
	w.meta.Bytes += uint64(len(key) + len(value))
	w.tx.Put(TableKV, k, row)
	w.log(&a, Put, k, row, prev)
	return r
}

// remove deletes a key that exists: its record goes to hist, and a tombstone says
// who deleted it and when.
func (w *writer) remove(key, old []byte, prev *Record) {
	t := Record{
		CreateRevision: w.meta.Revision, ModRevision: w.meta.Revision, StoreRevision: w.tx.Next(),
		Created: w.time, Modified: w.time, Deleted: true, Actor: []byte(w.actor),
	}
	a := arena{make([]byte, 0, 2*len(key)+13+2*(escapedLen(key)+8)+recordOverhead+len(w.actor))}
	k := a.add(key)
	hk := a.cut(func(b []byte) []byte { return appendHistKey(b, key, prev.ModRevision) })
	w.tx.Put(TableHist, hk, old)
	w.meta.Past += uint64(len(hk) + len(old))
	hk = a.cut(func(b []byte) []byte { return appendHistKey(b, key, w.meta.Revision) })
	row := a.cut(func(b []byte) []byte { return appendRecord(b, &t) })
	w.tx.Put(TableHist, hk, row)
	w.meta.Past += uint64(len(hk) + len(row))
	w.resize(key, -1, -int64(len(key)+len(prev.Value)))
	w.tx.DeleteFound(TableKV, k)
	w.meta.Keys--
	w.meta.Bytes -= uint64(len(key) + len(prev.Value))
	w.log(&a, Delete, k, row, prev)
}

func (w *writer) log(a *arena, kind ChangeKind, key, row []byte, prev *Record) {
	lk := a.cut(func(b []byte) []byte { return appendLogKey(b, w.meta.Revision, w.sub) })
	lv := a.cut(func(b []byte) []byte { return append(append(b, byte(kind)), key...) })
	w.tx.Put(TableLog, lk, lv)
	w.meta.Past += uint64(len(lk) + len(lv))
	if len(w.changes) == cap(w.changes) {
		w.changes = make([]Change, 0, 1)
	}
	if len(row) > MaxEventRow {
		// The key is part of the row's allocation: an event that waits for a watcher
		// would keep all of it.
		key, row = bytes.Clone(key), nil
	}
	w.changes = append(w.changes, Change{Kind: kind, Sub: w.sub, Revision: w.meta.Revision, Key: key, Row: row})
	c := &w.changes[len(w.changes)-1]
	if prev != nil {
		c.Prev = prev.ModRevision
	}
	w.tx.Emit(watch.TopicKV, key, c)
	w.sub++
}

// arena hands out parts of one allocation, each with no room to grow into the next.
type arena struct{ b []byte }

func (a *arena) cut(add func([]byte) []byte) []byte {
	n := len(a.b)
	a.b = add(a.b)
	return a.b[n:len(a.b):len(a.b)]
}

func (a *arena) add(p []byte) []byte {
	n := len(a.b)
	a.b = append(a.b, p...)
	return a.b[n:len(a.b):len(a.b)]
}

func checkSize(key, value []byte) error {
	if len(key) == 0 {
		return errs.Invalid("key", "", "1 to "+strconv.Itoa(MaxKey)+" bytes")
	}
	if len(key) > MaxKey {
		return TooLarge("key", len(key), MaxKey)
	}
	if len(value) > MaxValue {
		return TooLarge("value", len(value), MaxValue)
	}
	return nil
}

// TooLarge is the refusal of a key or value over its limit.
func TooLarge(field string, size int, limit int64) error {
	return errs.New(errs.TooLarge, "%s: %d bytes, over the limit of %d", field, size, limit).
		With(errs.Detail{Field: field, Value: strconv.Itoa(size) + " bytes", Limit: strconv.FormatInt(limit, 10) + " bytes"})
}

// CheckRevision compares the demanded mod revision with the present one (0: the
// key does not exist).
func CheckRevision(want, have uint64) error {
	if want == AnyRevision || want == have {
		return nil
	}
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

// latest gives a key's row and record from kv.
func latest(r state.Reader, key []byte) (row []byte, rec Record, err error) {
	row, ok := r.Get(TableKV, key)
	if !ok {
		return nil, Record{}, nil
	}
	rec, err = DecodeRecord(row)
	return row, rec, err
}

func applyPut(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	c, err := DecodePut(cmd.Payload)
	if err != nil {
		return nil, err
	}
	if err := checkSize(c.Key, c.Value); err != nil {
		return nil, err
	}
	old, prev, err := latest(tx, c.Key)
	if err != nil {
		return nil, err
	}
	if err := CheckRevision(c.IfRevision, prev.ModRevision); err != nil {
		return nil, err
	}
	if err := checkLease(tx, &c); err != nil {
		return nil, err
	}
	w, err := newWriter(tx, cmd.Time, cmd.Actor)
	if err != nil {
		return nil, err
	}
	g := growth{w: &w}
	g.put(c.Key, len(c.Value), old != nil, len(prev.Value))
	if err := g.check(); err != nil {
		return nil, err
	}
	lease := rehang(tx, &c, prev.Lease)
	var before *Record
	if old != nil {
		before = &prev
	}
	r := w.put(c.Key, c.Value, lease, old, before)
	w.finish()
	return Written{
		Revision: r.ModRevision, CreateRevision: r.CreateRevision, Version: r.Version,
		Lease: lease, PrevRevision: prev.ModRevision,
	}.encode(), nil
}

func checkLease(tx *state.Tx, c *PutCommand) error {
	if c.Lease != 0 && c.TTL != 0 {
		return errs.Invalid("ttl", c.TTL, "ttl or lease, not both")
	}
	if c.TTL != 0 {
		return leasetable.CheckTTL(c.TTL)
	}
	if c.Lease != 0 {
		if _, ok := leasetable.Find(tx, c.Lease); !ok {
			return leasetable.ErrNotFound(c.Lease)
		}
	}
	return nil
}

// rehang takes a key from the lease it hung on and hangs it on the one that the
// command asks for. A key with a TTL has a lease of its own, which a new TTL
// keeps.
func rehang(tx *state.Tx, c *PutCommand, old uint64) uint64 {
	want := c.Lease
	if c.TTL != 0 {
		if l, ok := leasetable.Find(tx, old); old != 0 && ok && l.Auto {
			leasetable.Retime(tx, l, c.TTL)
			return old
		}
		g := leasetable.Grant{TTL: c.TTL, Owner: leasetable.OwnerWarehouse, Auto: true}
		want = g.Apply(tx).ID
	}
	if old == want {
		return want
	}
	if old != 0 {
		leasetable.Detach(tx, old, leasetable.OwnerWarehouse, c.Key)
	}
	if want != 0 {
		leasetable.Attach(tx, want, leasetable.OwnerWarehouse, c.Key)
	}
	return want
}

func applyDelete(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	c, err := DecodeDelete(cmd.Payload)
	if err != nil {
		return nil, err
	}
	if err := checkSize(c.Key, nil); err != nil {
		return nil, err
	}
	old, prev, err := latest(tx, c.Key)
	if err != nil {
		return nil, err
	}
	if err := CheckRevision(c.IfRevision, prev.ModRevision); err != nil {
		return nil, err
	}
	w, err := newWriter(tx, cmd.Time, cmd.Actor)
	if err != nil {
		return nil, err
	}
	if old == nil {
		return Written{Revision: w.meta.Revision - 1}.encode(), nil
	}
	w.remove(c.Key, old, &prev)
	w.finish()
	if prev.Lease != 0 {
		leasetable.Detach(tx, prev.Lease, leasetable.OwnerWarehouse, c.Key)
	}
	return Written{Revision: w.meta.Revision, PrevRevision: prev.ModRevision}.encode(), nil
}

// leaseEnded deletes the keys of ended leases, those of each lease at a revision of
// their own.
func leaseEnded(tx *state.Tx, ends []leasetable.End) error {
	w, err := newWriter(tx, ends[0].Time, "")
	if err != nil {
		return err
	}
	keys := 0
	for i := range ends {
		keys += len(ends[i].Keys)
	}
	w.changes = make([]Change, 0, keys)
	before := w.meta.Revision
	for i := range ends {
		if err := w.leaseEnded(&ends[i]); err != nil {
			return err
		}
	}
	if w.meta.Revision > before {
		w.meta.Revision-- // none was given to the lease after the last
		w.finish()
	}
	return nil
}

func (w *writer) leaseEnded(e *leasetable.End) error {
	why := "lease-revoked:"
	if e.Expired {
		why = "lease-expired:"
	}
	w.actor, w.sub = why+strconv.FormatUint(e.Lease, 10), 0
	for _, k := range e.Keys {
		old, prev, err := latest(w.tx, k)
		if err != nil {
			return err
		}
		if old == nil || prev.Lease != e.Lease {
			continue
		}
		w.remove(k, old, &prev)
	}
	if w.sub > 0 {
		w.meta.Revision++
	}
	return nil
}

func applyCompact(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	d := decoder{b: cmd.Payload}
	rev := d.uvarint()
	if err := d.err("compact"); err != nil {
		return nil, err
	}
	m, err := ReadMeta(tx)
	if err != nil {
		return nil, err
	}
	if rev > m.Revision {
		return nil, FutureRevision(rev, m.Revision)
	}
	if rev <= m.Compact {
		return nil, CompactedError(rev, m.Compact)
	}
	m.Compact = rev
	tx.Put(TableMeta, metaKey, m.encode())
	return Compacted{Revision: rev, More: true}.encode(), nil
}

// applySweep removes a bounded number of log rows below the compact revision, and
// with each of them what it superseded. The rows at that revision stay, since a watch
// may begin there, but what they superseded goes too.
func applySweep(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	d := decoder{b: cmd.Payload}
	most := min(d.uvarint(), MaxSweep)
	if err := d.err("sweep"); err != nil {
		return nil, err
	}
	m, err := ReadMeta(tx)
	if err != nil {
		return nil, err
	}
	if m.SweepDone() || most == 0 {
		return Compacted{Revision: m.Compact}.encode(), nil
	}
	start, end := logKey(m.Swept, 0), logKey(m.Compact, 0)
	last := m.Swept == m.Compact // the rows at the compact revision
	if last {
		start, end = logKey(m.Compact, uint32(m.SweptSub)), logKey(m.Compact+1, 0)
	}
	rows, more, err := scanLog(tx, start, end, most)
	if err != nil {
		return nil, err
	}
	removed := uint64(0)
	for i := range rows {
		n, size := sweepRow(tx, &rows[i], last)
		removed += n
		m.Past -= min(size, m.Past) // rows from before Past was counted
	}
	switch {
	case last && more:
		m.SweptSub = uint64(rows[len(rows)-1].Sub) + 1
	case last:
		m.SweptSub = sweptAll
	case more:
		m.Swept = rows[len(rows)-1].Revision
	default:
		m.Swept, m.SweptSub, more = m.Compact, 0, true
	}
	tx.Put(TableMeta, metaKey, m.encode())
	return Compacted{Revision: m.Compact, Rows: removed, More: more}.encode(), nil
}

// scanLog gives the first most rows of a part of the log, and whether there are more.
func scanLog(tx *state.Tx, start, end []byte, most uint64) (rows []Log, more bool, err error) {
	tx.Scan(TableLog, start, end, func(k, v []byte) bool {
		if uint64(len(rows)) == most {
			more = true
			return false
		}
		var l Log
		if l, err = decodeLog(k, v); err != nil {
			return false
		}
		l.Key = append([]byte(nil), l.Key...)
		rows = append(rows, l)
		return true
	})
	return rows, more, err
}

// sweepRow removes every older version of a log row's key, and unless keep the row,
// with the tombstone if it is a delete.
func sweepRow(tx *state.Tx, l *Log, keep bool) (rows, size uint64) {
	end := l.Revision
	if l.Kind == Delete && !keep {
		end++
	}
	var dead [][]byte
	tx.Scan(TableHist, histKey(l.Key, 0), histKey(l.Key, end), func(k, v []byte) bool {
		dead = append(dead, append([]byte(nil), k...))
		size += uint64(len(k) + len(v))
		return true
	})
	for _, k := range dead {
		tx.Delete(TableHist, k)
	}
	if keep {
		return uint64(len(dead)), size
	}
	tx.Delete(TableLog, logKey(l.Revision, l.Sub))
	return uint64(len(dead)) + 1, size + uint64(12+1+len(l.Key))
}

// FutureRevision is the refusal of a revision ahead of the store's.
func FutureRevision(want, have uint64) error {
	return errs.New(errs.FutureRevision, "revision: %d lies ahead of the store, which is at %d", want, have).
		With(errs.Detail{Field: "revision", Value: strconv.FormatUint(want, 10), Limit: "at most " + strconv.FormatUint(have, 10)})
}

// CompactedError is the refusal of a revision whose history is gone. The detail's
// limit starts with the compact revision.
func CompactedError(want, compact uint64) error {
	return errs.New(errs.Compacted, "revision: the history at %d is gone: compacted up to %d", want, compact).
		With(errs.Detail{
			Field: "revision", Value: strconv.FormatUint(want, 10),
			Limit: strconv.FormatUint(compact, 10), Help: "read the keys anew, then watch from the revision of that read",
		})
}
