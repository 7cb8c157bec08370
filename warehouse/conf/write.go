package conf

import (
	"context"
	"errors"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/state"
	areasapi "nekoq/warehouse/areas/api"
	"nekoq/warehouse/conf/api"
	"nekoq/warehouse/conf/internal/table"
)

func checkText(field, text string) error {
	if len(text) > api.MaxText || !utf8.ValidString(text) {
		return errs.Invalid(field, text, "up to 256 bytes of UTF-8")
	}
	return nil
}

// schemaOf compiles an item's schema; nil when it has none.
func (s *Service) schemaOf(v *state.View, row *table.Row, known bool) (*jsonschema.Schema, error) {
	if !known || row.Schema == nil {
		return nil, nil
	}
	b, ok := table.Content(v, table.SlotKey(row.ID, table.SlotSchema))
	if !ok {
		return nil, damaged(errors.New("conf: a schema is missing"))
	}
	return compile(b)
}

// bring writes an op with a content. Without a type it has that of the item, else
// the one that the key's ending says. It is checked against the item's schema as
// this node has it; where that is another when the op is carried out, it is checked
// once more against the newest.
func (s *Service) bring(ctx context.Context, op table.Op, typ string, b []byte) (*api.Item, error) {
	if err := op.Address.Check(); err != nil {
		return nil, err
	}
	for try := 0; ; try++ {
		c, under, err := s.prepare(ctx, op.Address, typ, b, try == 0)
		if err != nil {
			return nil, err
		}
		op.Content, op.Bytes, op.Under = &c, b, &under
		item, err := s.one(ctx, op)
		if try < 3 && errs.Has(err, errs.Conflict) {
			ctx = onceMore(ctx)
			continue
		}
		return item, err
	}
}

// onceMore is for a change that was refused and is proposed anew: under its request id
// it would get the first answer again. Such a change may be carried out twice when its
// answer is lost, which leaves the same content.
func onceMore(ctx context.Context) context.Context {
	return command.NewContext(ctx, command.RequestID{})
}

// prepare checks a content that is to be written and describes it. It tells the hash
// of the schema that it was checked against.
func (s *Service) prepare(ctx context.Context, a api.Address, typ string, b []byte, stale bool) (api.Content, string, error) {
	v, err := s.view(ctx, stale)
	if err != nil {
		return api.Content{}, "", err
	}
	defer v.Release()
	under := ""
	if row, known := indexOf(v).Item(a); known {
		under = row.Under()
	}
	c, err := s.prepareAt(v, a, typ, b, nil)
	return c, under, err
}

func (s *Service) prepareAt(v *state.View, a api.Address, typ string, b []byte, with candidates) (api.Content, error) {
	x := indexOf(v)
	row, known := x.Item(a)
	c, err := s.describe(typeAt(a, row, known, typ), b)
	if err != nil {
		return c, err
	}
	if !known {
		if err := s.roomFor(x, 1); err != nil {
			return c, err
		}
	}
	return c, s.check(v, a, c, b, with)
}

// typeAt is the type of a content for an item: the one given, else that of the
// item, else the one that the key's ending says.
func typeAt(a api.Address, row *table.Row, known bool, typ string) string {
	switch {
	case typ != "":
		return typ
	case known && row.Draft != nil:
		return row.Draft.Type
	case known && row.Release != nil:
		return row.Release.Type
	}
	return typeOf(a.Key)
}

// roomFor refuses more items than there may be.
func (s *Service) roomFor(x *table.Index, more int) error {
	if x.Counters.Items+uint64(more) <= uint64(s.cfg.MaxItems) {
		return nil
	}
	return errs.New(errs.Exhausted, "there are %d items, and config.max_items = %d", x.Counters.Items, s.cfg.MaxItems).
		With(errs.Detail{Field: "config.max_items", Limit: itoa(s.cfg.MaxItems)})
}

// Draft writes the draft of an item, which nobody sees before it is published. The
// item is created when it is not there.
func (s *Service) Draft(ctx context.Context, r api.WriteRequest) (*api.Item, error) {
	if err := checkText("comment", r.Comment); err != nil {
		return nil, err
	}
	return s.bring(ctx, table.Op{Do: table.DoDraft, Address: r.Address, If: r.IfRevision, Comment: r.Comment}, r.Type, r.Bytes)
}

// Discard drops the draft.
func (s *Service) Discard(ctx context.Context, r api.ItemRequest) (*api.Item, error) {
	return s.simple(ctx, table.DoDiscard, r)
}

// Unschedule cancels a scheduled publication; its content becomes the draft again,
// unless there is another.
func (s *Service) Unschedule(ctx context.Context, r api.ItemRequest) (*api.Item, error) {
	return s.simple(ctx, table.DoUnschedule, r)
}

// Delete deletes an item. Its history stays for as long as the retention says, and
// a rollback brings it back.
func (s *Service) Delete(ctx context.Context, r api.ItemRequest) (*api.Item, error) {
	return s.simple(ctx, table.DoDelete, r)
}

func (s *Service) simple(ctx context.Context, do table.Verb, r api.ItemRequest) (*api.Item, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	if err := checkText("comment", r.Comment); err != nil {
		return nil, err
	}
	return s.one(ctx, table.Op{Do: do, Address: r.Address, If: r.IfRevision, Comment: r.Comment})
}

// maxAhead bounds how far ahead a publication is scheduled.
const maxAhead = 10 * 365 * 24 * time.Hour

// Publish publishes the draft, or the content that r brings, now or at a time. A
// content that is published already is no new release.
func (s *Service) Publish(ctx context.Context, r api.PublishRequest) (*api.Item, error) {
	op := table.Op{Do: table.DoPublish, Address: r.Address, If: r.IfRevision, Comment: r.Comment}
	if err := checkText("comment", r.Comment); err != nil {
		return nil, err
	}
	if r.At != nil {
		now := s.clock.Now()
		if !r.At.After(now) || r.At.After(now.Add(maxAhead)) {
			return nil, errs.Invalid("at", r.At.Format(time.RFC3339), "a time from now on, within ten years")
		}
		op.Do, op.At = table.DoSchedule, r.At
	}
	if !r.Direct {
		if r.Type != "" {
			return nil, errs.Invalid("content_type", r.Type, "none without a content: a draft has its own")
		}
		return s.publishDraft(ctx, op)
	}
	return s.bring(ctx, op, r.Type, r.Bytes)
}

// stored runs an op on a content that the item has already. The content is checked
// once more, since the schema and what it refers to may have changed; the op then
// demands that the item is as it was looked at.
func (s *Service) stored(ctx context.Context, op table.Op, find func(v *state.View, row *table.Row) (api.Content, []byte, error)) (*api.Item, error) {
	if err := op.Address.Check(); err != nil {
		return nil, err
	}
	asked := op.If
	for try := 0; ; try++ {
		rev, err := s.look(ctx, op.Address, find)
		if asked == nil {
			op.If = &rev
		}
		if err != nil {
			return s.settled(ctx, op, err)
		}
		item, err := s.one(ctx, op)
		if asked == nil && try < 3 && errs.Has(err, errs.RevisionMismatch) {
			ctx = onceMore(ctx) // changed since it was looked at
			continue
		}
		return item, err
	}
}

// settled asks for the outcome of an op that is refused because what it is about is
// not there. It may be gone because this very request was carried out before, and
// its answer was lost: then the first answer counts. The op demands that the item is
// as it was looked at, so that nothing is carried out that was not checked.
func (s *Service) settled(ctx context.Context, op table.Op, refusal error) (*api.Item, error) {
	missing := errs.Has(refusal, errs.NotFound) || errs.Has(refusal, errs.FailedPrecond)
	if !missing || command.RequestIDFrom(ctx) == (command.RequestID{}) {
		return nil, refusal
	}
	item, err := s.one(ctx, op)
	if errs.Has(err, errs.NotFound) || errs.Has(err, errs.FailedPrecond) {
		return nil, refusal // it says which field
	}
	return item, err
}

func (s *Service) look(ctx context.Context, a api.Address, find func(v *state.View, row *table.Row) (api.Content, []byte, error)) (uint64, error) {
	v, err := s.view(ctx, false)
	if err != nil {
		return 0, err
	}
	defer v.Release()
	row, ok, err := table.GetRow(v, a)
	if err != nil {
		return 0, damaged(err)
	}
	if !ok {
		return 0, table.NotFound(a)
	}
	rev := row.Revision
	if row.Deleted {
		rev = 0
	}
	c, b, err := find(v, &row)
	if err != nil {
		return rev, err
	}
	return rev, s.check(v, a, c, b, nil)
}

func (s *Service) publishDraft(ctx context.Context, op table.Op) (*api.Item, error) {
	return s.stored(ctx, op, func(v *state.View, row *table.Row) (c api.Content, b []byte, err error) {
		if row.Deleted {
			return c, nil, table.NotFound(row.Address)
		}
		if row.Draft == nil {
			return c, nil, errs.New(errs.FailedPrecond, "the item %s has no draft", row.Path()).With(errs.Detail{Field: "draft", Value: row.Path()})
		}
		b, ok := table.Content(v, table.SlotKey(row.ID, table.SlotDraft))
		if !ok {
			return c, nil, damaged(errors.New("conf: a draft is missing"))
		}
		return row.Draft.Content, b, nil
	})
}

// Rollback publishes the content of an older release once more. It brings a deleted
// item back.
func (s *Service) Rollback(ctx context.Context, r api.RollbackRequest) (*api.Item, error) {
	if r.Number == 0 {
		return nil, errs.Invalid("number", r.Number, "the number of a release, 1 or more")
	}
	if err := checkText("comment", r.Comment); err != nil {
		return nil, err
	}
	op := table.Op{Do: table.DoRollback, Address: r.Address, If: r.IfRevision, Number: r.Number, Comment: r.Comment}
	return s.stored(ctx, op, func(v *state.View, row *table.Row) (api.Content, []byte, error) {
		return releaseOf(v, row, "number", r.Number)
	})
}

// releaseOf reads a release, which field names, with its bytes.
func releaseOf(v *state.View, row *table.Row, field string, number uint64) (c api.Content, b []byte, err error) {
	rel, ok, err := table.GetRelease(v, row.ID, number)
	if err != nil {
		return c, nil, damaged(err)
	}
	if !ok || rel.By == api.ByDelete {
		return c, nil, errs.New(errs.NotFound, "%s: the item %s has no release %d", field, row.Path(), number).
			With(errs.Detail{Field: field, Value: strconv.FormatUint(number, 10)})
	}
	if b, ok = table.Content(v, table.ReleaseKey(row.ID, number)); !ok {
		return c, nil, damaged(errors.New("conf: a release is missing"))
	}
	return rel.Content, b, nil
}

// Settings changes what an item says about its contents.
func (s *Service) Settings(ctx context.Context, r api.SettingsRequest) (*api.Item, error) {
	if err := r.Address.Check(); err != nil {
		return nil, err
	}
	if r.Description == nil && r.ReadOnly == nil && r.Schema == nil {
		return nil, errs.New(errs.InvalidArgument, "description, read_only, schema: nothing to change was named").
			With(errs.Detail{Field: "description", Help: "name description, read_only or schema"})
	}
	op := table.Op{Do: table.DoSettings, Address: r.Address, If: r.IfRevision, Description: r.Description, ReadOnly: r.ReadOnly}
	if r.Description != nil {
		if err := checkText("description", *r.Description); err != nil {
			return nil, err
		}
	}
	if r.Schema == nil {
		return s.one(ctx, op)
	}
	op.SchemaBytes = []byte(*r.Schema)
	op.Schema = &api.Content{Type: api.JSON, Size: len(op.SchemaBytes), Hash: hashOf(api.JSON, op.SchemaBytes)}
	if len(op.SchemaBytes) == 0 {
		return s.one(ctx, op)
	}
	if len(op.SchemaBytes) > api.MaxSchema {
		return nil, errs.New(errs.TooLarge, "schema: %d bytes: the limit is %d", len(op.SchemaBytes), api.MaxSchema).
			With(errs.Detail{Field: "schema", Limit: itoa(api.MaxSchema) + " bytes"})
	}
	compiled, err := compile(op.SchemaBytes)
	if err != nil {
		return nil, err
	}
	for try := 0; ; try++ {
		rev, err := s.checkSchema(ctx, r.Address, compiled)
		if err != nil {
			return nil, err
		}
		if r.IfRevision == nil {
			op.If = &rev // what stands there now is what was asked
		}
		item, err := s.one(ctx, op)
		if r.IfRevision == nil && try < 3 && errs.Has(err, errs.RevisionMismatch) {
			ctx = onceMore(ctx)
			continue
		}
		return item, err
	}
}

// checkSchema refuses a schema that what is published, or will be, does not fit. It
// tells the revision of the item that it looked at.
func (s *Service) checkSchema(ctx context.Context, a api.Address, compiled *jsonschema.Schema) (uint64, error) {
	v, err := s.view(ctx, false)
	if err != nil {
		return 0, err
	}
	defer v.Release()
	row, ok := indexOf(v).Item(a)
	if !ok {
		return 0, table.NotFound(a)
	}
	d := newReading(v, &api.Client{})
	fit := func(what string, c api.Content, key []byte) error {
		b, _, err := d.resolve(a.Area, &picked{address: a, content: c, key: key})
		if err != nil {
			return damaged(err)
		}
		if err := fits(c.Type, b, compiled); err != nil {
			e := errs.From(err)
			return errs.New(errs.Conflict, "schema: %s does not fit it: %s", what, e.Message).With(errs.Detail{Field: "schema", Help: e.Message})
		}
		return nil
	}
	if row.Release != nil {
		err = fit("the release", row.Release.Content, table.ReleaseKey(row.ID, row.Release.Number))
	}
	if err == nil && row.Scheduled != nil {
		err = fit("what is scheduled", row.Scheduled.Content, table.SlotKey(row.ID, table.SlotScheduled))
	}
	for i := 0; err == nil && i < len(row.Gray); i++ {
		err = fit("the gray release "+row.Gray[i].Name, row.Gray[i].Content, table.GrayKey(row.ID, row.Gray[i].Name))
	}
	return row.Revision, err
}

// Gray makes a gray release, or changes the rule, priority or content of one.
func (s *Service) Gray(ctx context.Context, r api.GrayRequest) (*api.Item, error) {
	if err := r.Address.Check(); err != nil {
		return nil, err
	}
	if err := api.CheckGroup("gray", r.Name); err != nil {
		return nil, err
	}
	if err := checkText("comment", r.Comment); err != nil {
		return nil, err
	}
	if r.Rule != nil {
		if err := r.Rule.Check("rule"); err != nil {
			return nil, err
		}
	}
	op := table.Op{Do: table.DoGray, Address: r.Address, If: r.IfRevision, Gray: r.Name, Priority: r.Priority, Rule: r.Rule, Comment: r.Comment}
	if r.HasContent {
		return s.bring(ctx, op, r.Type, r.Bytes)
	}
	if r.Type != "" {
		return nil, errs.Invalid("content_type", r.Type, "none without a content: that of the gray release stays as it is")
	}
	return s.one(ctx, op)
}

// GrayDrop takes a gray release back.
func (s *Service) GrayDrop(ctx context.Context, r api.GrayRequest) (*api.Item, error) {
	op, err := endGray(table.DoGrayDrop, &r)
	if err != nil {
		return nil, err
	}
	return s.one(ctx, op)
}

// GrayPromote gives the content of a gray release to everybody. Others refer to it
// only from now on, so its references are asked about once more.
func (s *Service) GrayPromote(ctx context.Context, r api.GrayRequest) (*api.Item, error) {
	op, err := endGray(table.DoGrayPromote, &r)
	if err != nil {
		return nil, err
	}
	return s.stored(ctx, op, func(v *state.View, row *table.Row) (api.Content, []byte, error) {
		if row.Deleted {
			return api.Content{}, nil, table.NotFound(row.Address)
		}
		return contentOf(v, row, "gray", "gray:"+r.Name)
	})
}

func endGray(do table.Verb, r *api.GrayRequest) (op table.Op, err error) {
	if err := r.Address.Check(); err != nil {
		return op, err
	}
	if err := api.CheckGroup("gray", r.Name); err != nil {
		return op, err
	}
	if err := checkText("comment", r.Comment); err != nil {
		return op, err
	}
	return table.Op{Do: do, Address: r.Address, If: r.IfRevision, Gray: r.Name, Comment: r.Comment}, nil
}

// GroupPut sets what belongs to a group in every area.
func (s *Service) GroupPut(ctx context.Context, g api.Group) (*api.Group, error) {
	if err := api.CheckGroup("name", g.Name); err != nil {
		return nil, err
	}
	if err := checkText("description", g.Description); err != nil {
		return nil, err
	}
	if len(g.Quotes) > api.MaxQuotes {
		return nil, errs.Invalid("quotes", len(g.Quotes), "at most "+itoa(api.MaxQuotes)+" groups")
	}
	seen := map[string]bool{g.Name: true}
	for _, q := range g.Quotes {
		if err := api.CheckGroup("quotes", q); err != nil {
			return nil, err
		}
		if seen[q] {
			return nil, errs.Invalid("quotes", q, "other groups, each once")
		}
		seen[q] = true
	}
	g.Stamp = api.Stamp{}
	return proposed[api.Group](s.propose(ctx, table.KindGroupPut, table.Encode(g)))
}

// ScopePut sets a rule that puts clients into an area.
func (s *Service) ScopePut(ctx context.Context, c api.Scope) (*api.Scope, error) {
	if err := api.CheckGroup("name", c.Name); err != nil {
		return nil, err
	}
	if err := areasapi.CheckName("area", c.Area); err != nil {
		return nil, err
	}
	if err := c.Rule.Check("rule"); err != nil {
		return nil, err
	}
	c.Stamp = api.Stamp{}
	return proposed[api.Scope](s.propose(ctx, table.KindScopePut, table.Encode(c)))
}
