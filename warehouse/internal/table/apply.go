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
	used  []Quota  // quotas that the changes touched, as they will be
	idle  []uint64 // leases that a key was untied from, and may be no more

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
	for _, id := range w.idle {
		leasetable.CloseIdle(w.tx, id)
	}
}

// put writes a record over old, the key's row (nil for none).
func (w *writer) put(key, value []byte, lease uint64, old []byte, prev *Record) Record {
	r := Record{
		CreateRevision: w.meta.Revision, ModRevision: w.meta.Revision, Version: 1, Lease: lease,
		StoreRevision: w.tx.Next(), Created: w.time, Modified: w.time,
		Actor: []byte(w.actor), Value: value,
	}
	l := Log{Kind: Put}
	if prev != nil {
		r.CreateRevision, r.Version, r.Created = prev.CreateRevision, prev.Version+1, prev.Created
		l.Prev, l.old = prev.ModRevision, old
	}
	size := len(key) + recordOverhead + len(w.actor) + len(value)
	if prev == nil {
		size += pastSize(key, &l, nil) // small: all rows in one allocation
	} else {
		size += 2 * (len(prev.links) + mostLink)
	}
	a := arena{b: make([]byte, 0, size)}
	l.Key = a.add(key)
	if prev != nil {
		r.links = a.cut(func(b []byte) []byte {
			b = appendLink(b, r.ModRevision-prev.ModRevision, w.sub)
			if prev.Version%markEvery == 0 {
				return b // prev has a mark
			}
			return append(b, prev.links...)
		})
	}
	row := a.cut(func(b []byte) []byte { return appendRecord(b, &r) })
	if prev != nil {
		w.meta.Bytes -= uint64(len(key) + len(prev.Value))
		w.resize(key, 0, int64(len(value)-len(prev.Value)))
	} else {
		w.meta.Keys++
		w.resize(key, 1, int64(len(key)+len(value)))
	}
	w.meta.Bytes += uint64(len(key) + len(value))
	w.tx.Put(TableKV, l.Key, row)
	w.past(a, &l, prev)
	w.emit(&l, row)
	return r
}

// remove deletes a key that exists: the log takes its record, and a tombstone that
// says who deleted it and when.
func (w *writer) remove(key, old []byte, prev *Record) {
	l := w.bury(&arena{}, key, old, prev)
	w.take(&l, prev)
	w.past(arena{}, &l, prev)
	w.emit(&l, l.tombstone)
}

// bury makes the log row of the deletion of a key, and its event's parts in a.
func (w *writer) bury(a *arena, key, old []byte, prev *Record) Log {
	t := Record{
		CreateRevision: w.meta.Revision, ModRevision: w.meta.Revision, StoreRevision: w.tx.Next(),
		Created: w.time, Modified: w.time, Deleted: true, Actor: []byte(w.actor),
	}
	l := Log{Kind: Delete, Prev: prev.ModRevision, old: old}
	a.room(len(key) + recordOverhead + len(w.actor))
	l.Key = a.add(key)
	l.tombstone = a.cut(func(b []byte) []byte { return appendRecord(b, &t) })
	return l
}

// take takes a key away.
func (w *writer) take(l *Log, prev *Record) {
	size := len(l.Key) + len(prev.Value)
	w.resize(l.Key, -1, -int64(size))
	w.tx.DeleteFound(TableKV, l.Key)
	w.meta.Keys--
	w.meta.Bytes -= uint64(size)
}

// pastSize bounds the bytes that past writes.
func pastSize(key []byte, l *Log, prev *Record) int {
	n := logOverhead + len(key) + len(l.tombstone) + len(l.old)
	if marked(l.Kind, prev) {
		n += markSize(key, prev.links)
	}
	return n
}

// marked tells whether a change writes a mark of the record that it supersedes.
func marked(kind ChangeKind, prev *Record) bool {
	return prev != nil && (kind == Delete || prev.Version%markEvery == 0)
}

// past writes a change to the log, with the record that it supersedes, and the mark of
// that. The rows take what room a has, or an allocation of their own: events share that
// of a, and should not keep what was superseded.
func (w *writer) past(a arena, l *Log, prev *Record) {
	l.Revision, l.Sub = w.meta.Revision, w.sub
	a.room(pastSize(l.Key, l, prev))
	if marked(l.Kind, prev) {
		w.mark(&a, l, prev)
	}
	w.log(&a, l)
}

func (w *writer) mark(a *arena, l *Log, prev *Record) {
	m := mark{mod: l.Prev, create: prev.CreateRevision, at: place{l.Revision, l.Sub}, links: prev.links}
	k := a.cut(func(b []byte) []byte { return appendHistKey(b, l.Key, m.mod) })
	v := a.cut(m.append)
	w.tx.Put(TableHist, k, v)
	w.meta.Past += uint64(len(k) + len(v))
}

func (w *writer) log(a *arena, l *Log) {
	k := a.cut(func(b []byte) []byte { return appendLogKey(b, l.Revision, l.Sub) })
	v := a.cut(l.append)
	w.tx.Put(TableLog, k, v)
	w.meta.Past += uint64(len(k) + len(v))
}

// emit tells watches of a change that wrote row.
func (w *writer) emit(l *Log, row []byte) {
	if len(w.changes) == cap(w.changes) {
		w.changes = make([]Change, 0, 1)
	}
	key := l.Key
	if len(row) > MaxEventRow {
		// The key is part of the row's allocation: an event that waits for a watcher
		// would keep all of it.
		key, row = bytes.Clone(key), nil
	}
	w.changes = append(w.changes, Change{Kind: l.Kind, Sub: l.Sub, Revision: l.Revision, Prev: l.Prev, Key: key, Row: row})
	w.tx.Emit(watch.TopicKV, key, &w.changes[len(w.changes)-1])
	w.sub++
}

// arena hands out parts of one allocation, each with no room to grow into the next.
type arena struct {
	b     []byte
	least int // size of an allocation
}

// room makes sure that so many bytes fit, in an allocation of their own if they did not.
func (a *arena) room(n int) {
	if cap(a.b)-len(a.b) < n {
		a.b = make([]byte, 0, max(n, a.least))
	}
}

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
	lease := w.rehang(&c, prev.Lease)
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
func (w *writer) rehang(c *PutCommand, old uint64) uint64 {
	want := c.Lease
	if c.TTL != 0 {
		if l, ok := leasetable.Find(w.tx, old); old != 0 && ok && l.Auto {
			leasetable.Retime(w.tx, l, c.TTL)
			return old
		}
		g := leasetable.Grant{TTL: c.TTL, Owner: leasetable.OwnerWarehouse, Auto: true}
		want = g.Apply(w.tx).ID
	}
	if old == want {
		return want
	}
	w.untie(c.Key, old)
	if want != 0 {
		leasetable.Attach(w.tx, want, leasetable.OwnerWarehouse, c.Key)
	}
	return want
}

// untie takes a key from its lease (0 for none). An Auto lease ends with its last key,
// but not before all changes are made: another may hang a key on it.
func (w *writer) untie(key []byte, lease uint64) {
	if lease != 0 && leasetable.Detach(w.tx, lease, leasetable.OwnerWarehouse, key) {
		w.idle = append(w.idle, lease)
	}
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
	w.untie(c.Key, prev.Lease)
	w.finish()
	return Written{Revision: w.meta.Revision, PrevRevision: prev.ModRevision}.encode(), nil
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
	var swept sweep
	if err := swept.run(tx, start, end, most, last); err != nil {
		return nil, err
	}
	m.Past -= swept.bytes
	switch {
	case last && swept.more:
		m.SweptSub = uint64(swept.sub) + 1
	case last:
		m.SweptSub = sweptAll
	case swept.more:
		m.Swept = swept.revision
	default:
		m.Swept, m.SweptSub, swept.more = m.Compact, 0, true
	}
	tx.Put(TableMeta, metaKey, m.encode())
	return Compacted{Revision: m.Compact, Rows: swept.rows, More: swept.more}.encode(), nil
}

// sweep is what one command of a compaction has removed.
type sweep struct {
	rows, bytes uint64
	revision    uint64 // of the last log row that it came to
	sub         uint32
	more        bool // there are log rows after it
}

// run removes the first most log rows of a part of the log, or, with keep, the
// superseded records in them. Log rows are swept in their order, so of a key's older
// records only the one is left that the row at hand superseded.
func (s *sweep) run(tx *state.Tx, start, end []byte, most uint64, keep bool) (err error) {
	n := uint64(0)
	tx.Scan(TableLog, start, end, func(k, v []byte) bool {
		if s.more = n == most; s.more {
			return false
		}
		n++
		var l Log
		if l, err = decodeLog(k, v); err != nil {
			return false
		}
		s.revision, s.sub = l.Revision, l.Sub
		if keep {
			err = s.strip(tx, &l, len(v))
			return err == nil
		}
		if err = s.forget(tx, &l); err != nil {
			return false
		}
		s.rows++
		s.bytes += uint64(len(k) + len(v))
		tx.DeleteFound(TableLog, k)
		return true
	})
	return err
}

// strip leaves of a log row what a watch that begins with it needs. The mark of a
// deleted key stays: it tells that the key was there, and when it went.
func (s *sweep) strip(tx *state.Tx, l *Log, size int) error {
	if l.Kind == Put {
		if err := s.forget(tx, l); err != nil {
			return err
		}
	}
	if len(l.old) == 0 {
		return nil
	}
	s.rows++
	stripped := make([]byte, 0, size-len(l.old))
	l.old = nil
	v := l.append(stripped)
	s.bytes += uint64(size - len(v))
	tx.Put(TableLog, logKey(l.Revision, l.Sub), v)
	return nil
}

// forget removes the mark of the record that a change superseded.
func (s *sweep) forget(tx *state.Tx, l *Log) error {
	if l.Kind == Put {
		// A row that was stripped has lost its mark then.
		old, ok, err := l.Superseded()
		if err != nil || !ok || old.Version%markEvery != 0 {
			return err
		}
	}
	k := histKey(l.Key, l.Prev)
	v, ok := tx.Get(TableHist, k)
	if !ok {
		return nil
	}
	s.rows++
	s.bytes += uint64(len(k) + len(v))
	tx.DeleteFound(TableHist, k)
	return nil
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
