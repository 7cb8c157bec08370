package table

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"nekoq/services/errs"
	"nekoq/warehouse/conf/api"
)

// Part is one more content that DoTakeIn brings for its item.
type Part struct {
	Kind     string       `json:"kind"`               // as in api.ArchivedPart
	Content  *api.Content `json:"content,omitempty"`  // nil for the line of a deletion
	Release  *api.Release `json:"release,omitempty"`  // history: number, who, when, why and how
	Name     string       `json:"name,omitempty"`     // gray
	Priority int          `json:"priority,omitempty"` // gray
	Rule     *api.Rule    `json:"rule,omitempty"`     // gray
	At       *time.Time   `json:"at,omitempty"`       // scheduled
	Comment  string       `json:"comment,omitempty"`
	Bytes    []byte       `json:"-"`
}

// takeIn takes an item of an archive in: its history where the item was not known,
// then what is published, then what stands beside it.
func (w *writer) takeIn(o *Op, row *Row) error {
	restored := row.Last == 0 && w.history(o, row)
	if o.Content != nil && !(restored && w.current(o, row)) {
		w.release(row, api.Release{Content: *o.Content, By: api.ByImport}, o.Bytes)
	}
	for i := range o.Parts {
		p := &o.Parts[i]
		one := Op{Address: o.Address, Content: p.Content, Bytes: p.Bytes, Comment: p.Comment, At: p.At, Gray: p.Name, Priority: &p.Priority, Rule: p.Rule}
		w.stamp.Comment = p.Comment
		var err error
		switch p.Kind {
		case api.PartHistory:
		case api.PartDraft:
			w.draft(&one, row)
		case api.PartScheduled:
			err = w.schedule(&one, row)
		case api.PartGray:
			err = w.gray(&one, row)
		default:
			err = fmt.Errorf("conf: an unknown part %q", p.Kind)
		}
		if err != nil {
			return err
		}
	}
	return w.settings(o, row)
}

// history writes the releases of an item that was not known as they were, and tells
// whether there were any.
func (w *writer) history(o *Op, row *Row) bool {
	for i := range o.Parts {
		p := &o.Parts[i]
		if p.Kind != api.PartHistory {
			continue
		}
		rel := *p.Release
		rel.Revision, rel.Imported = w.stamp.Revision, true
		if p.Content != nil {
			rel.Content = *p.Content
			w.put(Contents, ReleaseKey(row.ID, rel.Number), p.Bytes)
		}
		w.put(History, historyKey(row.ID, rel.Number), Encode(rel))
		row.Last = max(row.Last, rel.Number)
	}
	return row.Last > 0
}

// current makes the release that the archive names the one that is published, and
// tells whether it is there with that content.
func (w *writer) current(o *Op, row *Row) bool {
	i := slices.IndexFunc(o.Parts, func(p Part) bool {
		return p.Kind == api.PartHistory && p.Content != nil && p.Release.Number == o.Number && *p.Content == *o.Content
	})
	if i < 0 {
		return false
	}
	rel := *o.Parts[i].Release
	rel.Content, rel.Revision, rel.Imported = *o.Content, w.stamp.Revision, true
	row.Release = &rel
	return true
}

// Overwrite tells before the log what applying an op that takes an item in would
// refuse, the item being as row.
func Overwrite(o *Op, row *Row) error {
	if row.ReadOnly {
		return isReadOnly(o)
	}
	scheduled, gray := row.Scheduled != nil, len(row.Gray)
	for i := range o.Parts {
		switch p := &o.Parts[i]; p.Kind {
		case api.PartScheduled:
			scheduled = true
		case api.PartGray:
			if slices.ContainsFunc(row.Gray, func(g api.Gray) bool { return g.Name == p.Name }) {
				continue
			}
			if gray++; gray > api.MaxGray {
				return tooManyGray(&Op{Address: o.Address, Gray: p.Name}, api.MaxGray)
			}
		}
	}
	if scheduled && o.ReadOnly != nil && *o.ReadOnly {
		return readOnlyWithSchedule(o)
	}
	return nil
}

func isReadOnly(o *Op) error {
	return errs.New(errs.FailedPrecond, "key: the item %s is read-only; take read_only back first", o.Path()).
		With(errs.Detail{Field: "read_only", Value: "true", Limit: "false"})
}

func readOnlyWithSchedule(o *Op) error {
	return errs.New(errs.Conflict, "read_only: the item %s has a scheduled release; cancel it first", o.Path()).
		With(errs.Detail{Field: "read_only", Value: "true", Limit: "an item without a schedule"})
}

// checkParts refuses an op that was not made by this program.
func checkParts(o *Op) error {
	for i := range o.Parts {
		p := &o.Parts[i]
		bad := p.Content == nil && p.Kind != api.PartHistory || p.Kind == api.PartHistory && p.Release == nil ||
			p.Kind == api.PartScheduled && p.At == nil || p.Kind == api.PartGray && p.Rule == nil
		if bad {
			return fmt.Errorf("conf: part %d of %s without what it needs", i, o.Path())
		}
	}
	return nil
}

// tooManyGray is the refusal of one gray release more.
func tooManyGray(o *Op, have int) error {
	return errs.New(errs.Exhausted, "the item %s has %d gray releases, and that is the limit; promote or drop one", o.Path(), have).
		With(errs.Detail{Field: "gray", Value: o.Gray, Limit: strconv.Itoa(api.MaxGray)})
}
