package table

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/state"
	"nekoq/services/watch"
	"nekoq/warehouse/conf/api"
)

// writer carries one batch out: ops change copies of rows and note what is to be
// written; commit writes when all of them were allowed.
type writer struct {
	tx     *state.Tx
	cmd    *command.Command
	areas  Areas
	counts Counters
	stamp  api.Stamp
	writes []write
	seen   map[string]bool
}

type write struct {
	table      state.TableID
	key, value []byte // value nil deletes
}

func (w *writer) put(t state.TableID, key, value []byte) {
	if value == nil {
		value = []byte{}
	}
	w.writes = append(w.writes, write{t, key, value})
}

func (w *writer) del(t state.TableID, key []byte) {
	w.writes = append(w.writes, write{t, key, nil})
}

func applyWrite(tx *state.Tx, cmd *command.Command, areas Areas) ([]byte, error) {
	ops, err := decodeBatch(cmd.Payload)
	if err != nil {
		return nil, err
	}
	w := &writer{tx: tx, cmd: cmd, areas: areas, seen: map[string]bool{}}
	if w.counts, err = ReadCounters(tx); err != nil {
		return nil, err
	}
	out := Written{Changed: make([]bool, len(ops))}
	for i := range ops {
		w.stamp = stamp(tx, cmd, ops[i].Comment)
		row, changed, err := w.op(&ops[i])
		if err != nil {
			return nil, err
		}
		out.Changed[i] = changed
		if len(ops) == 1 {
			out.Item = &row.Item
		}
	}
	w.commit()
	return Encode(out), nil
}

func (w *writer) commit() {
	if len(w.writes) == 0 {
		return
	}
	for _, x := range w.writes {
		if x.value == nil {
			w.tx.Delete(x.table, x.key)
			continue
		}
		w.tx.Put(x.table, x.key, x.value)
		if x.table == Items {
			w.tx.Emit(watch.TopicConfig, x.key, Event{})
		}
	}
	putCounters(w.tx, w.counts)
}

// op checks one op and notes its writes.
func (w *writer) op(o *Op) (Row, bool, error) {
	key := ItemKey(o.Address)
	if w.seen[string(key)] {
		return Row{}, false, errs.Invalid("key", o.Path(), "each item once in a batch")
	}
	w.seen[string(key)] = true
	row, known, err := RowAt(w.tx, key)
	if err != nil {
		return row, false, err
	}
	live := known && !row.Deleted
	if err := checkCondition(o, &row, live); err != nil {
		return row, false, err
	}
	if o.Do != DoSettings && live && row.ReadOnly {
		return row, false, isReadOnly(o)
	}
	if !live {
		if row, err = w.revive(o, row, known); err != nil {
			return row, false, err
		}
	}
	if o.Under != nil && *o.Under != row.Under() {
		return row, false, errs.New(errs.Conflict, "schema: that of the item %s was changed meanwhile; try again", o.Path()).
			With(errs.Detail{Field: "schema", Help: "write the content once more: it is then checked against the schema as it now is"})
	}
	before := Encode(row)
	mark := len(w.writes)
	if err := w.do(o, &row); err != nil {
		return row, false, err
	}
	if live && len(w.writes) == mark && string(Encode(row)) == string(before) {
		return row, false, nil
	}
	if !live {
		w.counts.Items++
		if !known {
			w.counts.NextID++
		}
	}
	row.Revision = w.tx.Next()
	w.put(Items, key, Encode(row))
	return row, true, nil
}

func checkCondition(o *Op, row *Row, live bool) error {
	if o.If == nil {
		return nil
	}
	have := row.Revision
	if !live {
		have = 0
	}
	if *o.If == have {
		return nil
	}
	return errs.New(errs.RevisionMismatch, "if_revision: the item %s is at revision %d, not %d", o.Path(), have, *o.If).
		With(errs.Detail{Field: "if_revision", Value: strconv.FormatUint(*o.If, 10), Limit: strconv.FormatUint(have, 10)})
}

// revive makes the row of an item that is not there, where the verb brings a
// content; a deleted item keeps its id and its numbers.
func (w *writer) revive(o *Op, old Row, known bool) (Row, error) {
	brings := o.Content != nil && (o.Do == DoDraft || o.Do == DoPublish || o.Do == DoSchedule || o.Do == DoGray) || o.Do == DoTakeIn
	if !brings && !(known && o.Do == DoRollback) {
		return old, NotFound(o.Address)
	}
	if !w.areas.Exists(w.tx, o.Area) {
		return old, errs.New(errs.NotFound, "area: there is no area named %q", o.Area).With(errs.Detail{Field: "area", Value: o.Area})
	}
	row := Row{ID: old.ID, Last: old.Last}
	if !known {
		row.ID = w.counts.NextID + 1
	}
	row.Address = o.Address
	row.Created = w.stamp
	row.Created.Comment = ""
	return row, nil
}

func (w *writer) do(o *Op, row *Row) error {
	if o.Do == DoDraft && o.Content == nil || o.Do == DoSchedule && o.At == nil {
		return fmt.Errorf("conf: the verb %q without what it needs", o.Do)
	}
	if err := checkParts(o); err != nil {
		return err
	}
	switch o.Do {
	case DoDraft:
		w.draft(o, row)
		return w.settings(o, row) // an import brings some
	case DoDiscard:
		if row.Draft == nil {
			return without(o, "draft")
		}
		w.dropDraft(row)
	case DoPublish:
		if err := w.publish(o, row); err != nil {
			return err
		}
		return w.settings(o, row) // an import brings some
	case DoSchedule:
		return w.schedule(o, row)
	case DoUnschedule:
		return w.unschedule(o, row)
	case DoFire:
		return w.fire(o, row)
	case DoRollback:
		return w.rollback(o, row)
	case DoDelete:
		w.delete(o, row)
	case DoSettings:
		return w.settings(o, row)
	case DoGray:
		return w.gray(o, row)
	case DoGrayDrop, DoGrayPromote:
		return w.endGray(o, row)
	case DoTakeIn:
		return w.takeIn(o, row)
	default:
		return fmt.Errorf("conf: the unknown verb %q", o.Do)
	}
	return nil
}

func without(o *Op, what string) error {
	return errs.New(errs.FailedPrecond, "the item %s has no %s", o.Path(), what).With(errs.Detail{Field: what, Value: o.Path()})
}

func (w *writer) draft(o *Op, row *Row) {
	if d := row.Draft; d != nil && d.Content == *o.Content && d.Comment == o.Comment {
		return
	}
	base := uint64(0)
	if row.Draft != nil {
		base = row.Draft.Base
	} else if row.Release != nil {
		base = row.Release.Number
	}
	row.Draft = &api.Draft{Content: *o.Content, Stamp: w.stamp, Base: base}
	w.put(Contents, SlotKey(row.ID, SlotDraft), o.Bytes)
}

func (w *writer) dropDraft(row *Row) {
	row.Draft = nil
	w.del(Contents, SlotKey(row.ID, SlotDraft))
}

// take gives the content that an op brings, else that of the draft, which it uses up.
func (w *writer) take(o *Op, row *Row) (api.Content, []byte, error) {
	if o.Content != nil {
		return *o.Content, o.Bytes, nil
	}
	if row.Draft == nil {
		return api.Content{}, nil, without(o, "draft")
	}
	c := row.Draft.Content
	b, ok := w.tx.Get(Contents, SlotKey(row.ID, SlotDraft))
	if !ok {
		return c, nil, fmt.Errorf("conf: the draft of %s has no content", o.Path())
	}
	if w.stamp.Comment == "" {
		w.stamp.Comment = row.Draft.Comment
	}
	w.dropDraft(row)
	return c, b, nil
}

// release adds a release. The content that stands already is not released again.
func (w *writer) release(row *Row, rel api.Release, bytes []byte) {
	if row.Release != nil && row.Release.Content == rel.Content {
		return
	}
	row.Last++
	rel.Number, rel.Stamp = row.Last, w.stamp
	row.Release = &rel
	w.put(Contents, ReleaseKey(row.ID, rel.Number), bytes)
	w.put(History, historyKey(row.ID, rel.Number), Encode(rel))
}

func (w *writer) publish(o *Op, row *Row) error {
	c, b, err := w.take(o, row)
	if err != nil {
		return err
	}
	w.release(row, api.Release{Content: c, By: cmp.Or(o.By, api.ByPublish)}, b)
	return nil
}

func (w *writer) schedule(o *Op, row *Row) error {
	c, b, err := w.take(o, row)
	if err != nil {
		return err
	}
	if row.Scheduled != nil {
		w.del(Schedule, scheduleKey(row.Scheduled.At, row.ID))
	}
	at := o.At.UTC()
	row.Scheduled = &api.Scheduled{Content: c, Stamp: w.stamp, At: at}
	w.put(Contents, SlotKey(row.ID, SlotScheduled), b)
	w.put(Schedule, scheduleKey(at, row.ID), ItemKey(o.Address))
	return nil
}

// scheduled takes what is scheduled out.
func (w *writer) scheduled(o *Op, row *Row) (*api.Scheduled, []byte, error) {
	s := row.Scheduled
	if s == nil {
		return nil, nil, without(o, "schedule")
	}
	b, ok := w.tx.Get(Contents, SlotKey(row.ID, SlotScheduled))
	if !ok {
		return nil, nil, fmt.Errorf("conf: the schedule of %s has no content", o.Path())
	}
	row.Scheduled = nil
	w.del(Contents, SlotKey(row.ID, SlotScheduled))
	w.del(Schedule, scheduleKey(s.At, row.ID))
	return s, b, nil
}

// unschedule makes the content a draft again, unless there is one.
func (w *writer) unschedule(o *Op, row *Row) error {
	s, b, err := w.scheduled(o, row)
	if err != nil || row.Draft != nil {
		return err
	}
	base := uint64(0)
	if row.Release != nil {
		base = row.Release.Number
	}
	row.Draft = &api.Draft{Content: s.Content, Stamp: s.Stamp, Base: base}
	w.put(Contents, SlotKey(row.ID, SlotDraft), b)
	return nil
}

// fire publishes what is due. It happens once, whoever proposes it how often: the
// schedule is gone afterwards, and another one has another revision.
func (w *writer) fire(o *Op, row *Row) error {
	if row.Scheduled == nil || row.Scheduled.Revision != o.Number {
		return errs.New(errs.Conflict, "the schedule of %s was changed meanwhile", o.Path())
	}
	if row.Scheduled.At.UnixNano() > w.tx.Time() {
		return errs.New(errs.FailedPrecond, "the schedule of %s is not due", o.Path())
	}
	s, b, err := w.scheduled(o, row)
	if err != nil {
		return err
	}
	// Who scheduled it published it.
	w.stamp.Actor, w.stamp.Comment = s.Actor, s.Comment
	w.release(row, api.Release{Content: s.Content, By: api.BySchedule}, b)
	return nil
}

func (w *writer) rollback(o *Op, row *Row) error {
	rel, ok, err := GetRelease(w.tx, row.ID, o.Number)
	if err != nil {
		return err
	}
	if !ok || rel.By == api.ByDelete {
		return errs.New(errs.NotFound, "number: the item %s has no release %d", o.Path(), o.Number).
			With(errs.Detail{Field: "number", Value: strconv.FormatUint(o.Number, 10)})
	}
	b, ok := w.tx.Get(Contents, ReleaseKey(row.ID, o.Number))
	if !ok {
		return fmt.Errorf("conf: release %d of %s has no content", o.Number, o.Path())
	}
	w.release(row, api.Release{Content: rel.Content, By: api.ByRollback, From: o.Number}, b)
	return nil
}

// delete leaves the history, with a line that says who deleted it.
func (w *writer) delete(o *Op, row *Row) {
	if row.Draft != nil {
		w.dropDraft(row)
	}
	if s := row.Scheduled; s != nil {
		w.del(Contents, SlotKey(row.ID, SlotScheduled))
		w.del(Schedule, scheduleKey(s.At, row.ID))
	}
	for i := range row.Gray {
		w.del(Contents, GrayKey(row.ID, row.Gray[i].Name))
	}
	if row.Schema != nil {
		w.del(Contents, SlotKey(row.ID, SlotSchema))
	}
	row.Last++
	w.put(History, historyKey(row.ID, row.Last), Encode(api.Release{Number: row.Last, Stamp: w.stamp, By: api.ByDelete}))
	w.counts.Items--
	item := api.Item{Address: row.Address, Deleted: true, Created: row.Created}
	*row = Row{Item: item, ID: row.ID, Last: row.Last}
}

func (w *writer) settings(o *Op, row *Row) error {
	if o.ReadOnly != nil && *o.ReadOnly && row.Scheduled != nil {
		return readOnlyWithSchedule(o)
	}
	if o.ReadOnly != nil {
		row.ReadOnly = *o.ReadOnly
	}
	if o.Description != nil {
		row.Description = *o.Description
	}
	switch {
	case o.Schema == nil:
	case o.Schema.Size == 0:
		if row.Schema != nil {
			row.Schema = nil
			w.del(Contents, SlotKey(row.ID, SlotSchema))
		}
	case row.Schema == nil || *row.Schema != *o.Schema:
		row.Schema = o.Schema
		w.put(Contents, SlotKey(row.ID, SlotSchema), o.SchemaBytes)
	}
	return nil
}

func (w *writer) gray(o *Op, row *Row) error {
	at := slices.IndexFunc(row.Gray, func(g api.Gray) bool { return g.Name == o.Gray })
	row.Gray = slices.Clone(row.Gray)
	g := api.Gray{Name: o.Gray}
	if at >= 0 {
		g = row.Gray[at]
	} else {
		if len(row.Gray) >= api.MaxGray {
			return tooManyGray(o, len(row.Gray))
		}
		if o.Content == nil || o.Rule == nil {
			return errs.New(errs.InvalidArgument, "gray: the item %s has no gray release %q; a new one needs a rule and a content", o.Path(), o.Gray).
				With(errs.Detail{Field: "gray", Value: o.Gray})
		}
	}
	g.Stamp = w.stamp
	if o.Priority != nil {
		g.Priority = *o.Priority
	}
	if o.Rule != nil {
		g.Rule = *o.Rule
	}
	if o.Content != nil {
		g.Content = *o.Content
		w.put(Contents, GrayKey(row.ID, o.Gray), o.Bytes)
	}
	if at >= 0 {
		row.Gray[at] = g
	} else {
		row.Gray = append(row.Gray, g)
	}
	slices.SortFunc(row.Gray, func(a, b api.Gray) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.Name, b.Name))
	})
	return nil
}

// endGray drops a gray release, after making it the release when it is promoted.
func (w *writer) endGray(o *Op, row *Row) error {
	at := slices.IndexFunc(row.Gray, func(g api.Gray) bool { return g.Name == o.Gray })
	if at < 0 {
		return errs.New(errs.NotFound, "gray: the item %s has no gray release %q", o.Path(), o.Gray).
			With(errs.Detail{Field: "gray", Value: o.Gray})
	}
	if o.Do == DoGrayPromote {
		b, ok := w.tx.Get(Contents, GrayKey(row.ID, o.Gray))
		if !ok {
			return fmt.Errorf("conf: the gray release %q of %s has no content", o.Gray, o.Path())
		}
		if w.stamp.Comment == "" {
			w.stamp.Comment = row.Gray[at].Comment
		}
		w.release(row, api.Release{Content: row.Gray[at].Content, By: api.ByPromote, Gray: o.Gray}, b)
	}
	row.Gray = slices.Delete(slices.Clone(row.Gray), at, at+1)
	if len(row.Gray) == 0 {
		row.Gray = nil
	}
	w.del(Contents, GrayKey(row.ID, o.Gray))
	return nil
}
