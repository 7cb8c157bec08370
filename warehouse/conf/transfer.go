package conf

import (
	"bytes"
	"context"
	"reflect"
	"slices"
	"strings"

	"nekoq/services/errs"
	"nekoq/services/state"
	areasapi "nekoq/warehouse/areas/api"
	"nekoq/warehouse/conf/api"
	"nekoq/warehouse/conf/internal/table"
)

// intake is a set of contents that are taken in as a whole.
type intake struct {
	list     []api.Archived
	ifExists string
	draft    bool
	dryRun   bool
	comment  string
	by       string
	with     candidates // what is published together
}

// maxIntake bounds the items of one import or clone.
const maxIntake = 10_000

// takeIn writes all of it in one command, or nothing.
func (s *Service) takeIn(ctx context.Context, in intake) (*api.Outcome, error) {
	switch in.ifExists {
	case "":
		in.ifExists = api.IfExistsFail
	case api.IfExistsFail, api.IfExistsSkip, api.IfExistsOverwrite:
	default:
		return nil, errs.Invalid("if_exists", in.ifExists, "fail, skip or overwrite")
	}
	if err := checkText("comment", in.comment); err != nil {
		return nil, err
	}
	if len(in.list) > maxIntake {
		return nil, errs.New(errs.TooLarge, "%d items at once: the limit is %d", len(in.list), maxIntake).
			With(errs.Detail{Field: "items", Value: itoa(len(in.list)), Limit: itoa(maxIntake)})
	}
	v, err := s.view(ctx, false)
	if err != nil {
		return nil, err
	}
	out := &api.Outcome{Steps: []api.Step{}}
	ops, err := s.plan(v, &in, out)
	v.Release()
	if err != nil || in.dryRun || len(ops) == 0 {
		return out, err
	}
	_, rev, err := s.write(ctx, ops...)
	out.Revision = rev
	return out, err
}

func (s *Service) plan(v *state.View, in *intake, out *api.Outcome) (ops []table.Op, err error) {
	total, created := int64(0), 0
	seen := map[api.Address]bool{}
	in.with = s.together(v, in)
	for i := range in.list {
		x := &in.list[i]
		if seen[x.Address] {
			return nil, errs.Invalid("key", x.Path(), "each item once")
		}
		seen[x.Address] = true
		op, did, err := s.planOne(v, in, x)
		if err != nil {
			e := errs.From(err)
			return nil, errs.New(e.Code, "%s: %s", x.Path(), e.Message).With(errs.Detail{Field: x.Path(), Help: e.Message})
		}
		out.Steps = append(out.Steps, api.Step{Address: x.Address, Did: did})
		if op == nil {
			continue
		}
		if did == "create" {
			created++
		}
		if total += int64(op.Size()); total > s.cfg.MaxImportBytes {
			return nil, errs.New(errs.TooLarge, "more than config.max_import_bytes = %d bytes of contents at once; take them in by groups, or without history", s.cfg.MaxImportBytes).
				With(errs.Detail{Field: "config.max_import_bytes", Limit: itoa(s.cfg.MaxImportBytes) + " bytes"})
		}
		ops = append(ops, *op)
	}
	return ops, s.roomFor(indexOf(v), created)
}

// together gives the contents that the intake publishes. They come at once, so each
// is checked as it will stand beside the others.
func (s *Service) together(v *state.View, in *intake) candidates {
	out := candidates{}
	if in.draft {
		return out
	}
	for i := range in.list {
		x := &in.list[i]
		row, exists := indexOf(v).Item(x.Address)
		if x.Unpublished || exists && in.ifExists == api.IfExistsSkip {
			continue
		}
		c, err := s.describe(typeAt(x.Address, row, exists && x.Schema == "", x.Type), x.Bytes)
		if err == nil { // else it is refused when its turn comes
			out[x.Address] = &candidate{address: x.Address, content: c, bytes: x.Bytes}
		}
	}
	return out
}

// planOne gives the op that takes one item in, nil when nothing is to be done.
func (s *Service) planOne(v *state.View, in *intake, x *api.Archived) (*table.Op, string, error) {
	if err := x.Check(); err != nil {
		return nil, "", err
	}
	op := table.Op{Do: table.DoPublish, Address: x.Address, By: in.by, Comment: in.comment, Bytes: x.Bytes, If: new(uint64)}
	if in.draft {
		op.Do = table.DoDraft
	}
	row, exists := indexOf(v).Item(x.Address)
	did := "create"
	if exists && in.ifExists == api.IfExistsSkip {
		return nil, "skip", nil
	}
	if exists {
		op.If, did = &row.Revision, "change"
	} else if _, ok := newReading(v, &api.Client{}).tree.Get(x.Area); !ok {
		return nil, "", errs.New(errs.NotFound, "area: there is no area named %q; create it first", x.Area)
	}
	check, err := s.intakeContent(v, in, x, &op)
	if err != nil {
		return nil, "", err
	}
	if err := s.intakeParts(in, x, &op, check); err != nil {
		return nil, "", err
	}
	switch {
	case !exists:
		return &op, did, table.Overwrite(&op, &table.Row{})
	case !in.draft && holdsAll(row, x, &op):
		return nil, "same", nil
	case in.ifExists == api.IfExistsFail:
		return nil, "", errs.New(errs.AlreadyExists, "it exists already, with another content; if_exists = skip or overwrite says what to do")
	}
	return &op, did, table.Overwrite(&op, row)
}

// holdsAll tells whether an item has all that would be taken in. Its history is its
// own.
func holdsAll(row *table.Row, x *api.Archived, op *table.Op) bool {
	switch {
	case op.Content != nil && (row.Release == nil || row.Release.Content != *op.Content):
		return false
	case x.Description != "" && x.Description != row.Description, op.ReadOnly != nil && !row.ReadOnly:
		return false
	case op.Schema != nil && (row.Schema == nil || *row.Schema != *op.Schema):
		return false
	}
	for i := range op.Parts {
		p := &op.Parts[i]
		switch p.Kind {
		case api.PartDraft:
			if row.Draft == nil || row.Draft.Content != *p.Content {
				return false
			}
		case api.PartScheduled:
			if row.Scheduled == nil || row.Scheduled.Content != *p.Content || !row.Scheduled.At.Equal(*p.At) {
				return false
			}
		case api.PartGray:
			at := slices.IndexFunc(row.Gray, func(g api.Gray) bool { return g.Name == p.Name })
			if at < 0 || row.Gray[at].Content != *p.Content || row.Gray[at].Priority != p.Priority || !reflect.DeepEqual(row.Gray[at].Rule, *p.Rule) {
				return false
			}
		}
	}
	return true
}

// checker checks one more content of the item that is being taken in.
type checker func(typ string, b []byte) (api.Content, error)

// intakeContent checks what is to be published against the schema that comes with
// it, else against that of the item, and gives how to check the rest.
func (s *Service) intakeContent(v *state.View, in *intake, x *api.Archived, op *table.Op) (checker, error) {
	if x.Description != "" {
		if err := checkText("description", x.Description); err != nil {
			return nil, err
		}
		op.Description = &x.Description
	}
	check := func(typ string, b []byte) (api.Content, error) {
		return s.prepareAt(v, x.Address, typ, b, in.with)
	}
	if x.Schema != "" {
		op.SchemaBytes = []byte(x.Schema)
		op.Schema = &api.Content{Type: api.JSON, Size: len(op.SchemaBytes), Hash: hashOf(api.JSON, op.SchemaBytes)}
		if len(op.SchemaBytes) > api.MaxSchema {
			return nil, errs.Invalid("schema", len(op.SchemaBytes), "at most "+itoa(api.MaxSchema)+" bytes")
		}
		schema, err := compile(op.SchemaBytes)
		if err != nil {
			return nil, err
		}
		check = func(typ string, b []byte) (api.Content, error) {
			if typ == "" {
				typ = typeOf(x.Key)
			}
			c, err := s.describe(typ, b)
			if err != nil {
				return c, err
			}
			return c, s.checkUnder(v, x.Address, c, b, schema, in.with)
		}
	}
	if x.Unpublished {
		return check, nil
	}
	c, err := check(x.Type, x.Bytes)
	op.Content = &c
	return check, err
}

// Clone copies what is released in one group to another group or area.
func (s *Service) Clone(ctx context.Context, r api.CloneRequest) (*api.Outcome, error) {
	if r.ToGroup == "" {
		r.ToGroup = r.FromGroup
	}
	for _, c := range []struct {
		field, name string
		check       func(field, name string) error
	}{
		{"from_area", r.FromArea, areasapi.CheckName},
		{"from_group", r.FromGroup, api.CheckGroup},
		{"to_area", r.ToArea, areasapi.CheckName},
		{"to_group", r.ToGroup, api.CheckGroup},
	} {
		if err := c.check(c.field, c.name); err != nil {
			return nil, err
		}
	}
	if r.FromArea == r.ToArea && r.FromGroup == r.ToGroup {
		return nil, errs.Invalid("to_group", r.ToGroup, "another group or area than the one to copy from")
	}
	v, err := s.view(ctx, false)
	if err != nil {
		return nil, err
	}
	list, err := s.released(v, r.FromArea, r.FromGroup)
	v.Release()
	if err != nil {
		return nil, err
	}
	if len(r.Keys) > 0 {
		list = slices.DeleteFunc(list, func(x api.Archived) bool { return !slices.Contains(r.Keys, x.Key) })
		for _, k := range r.Keys {
			if !slices.ContainsFunc(list, func(x api.Archived) bool { return x.Key == k }) {
				return nil, table.NotFound(api.Address{Area: r.FromArea, Group: r.FromGroup, Key: k})
			}
		}
	}
	if len(list) == 0 {
		return nil, errs.New(errs.NotFound, "from_group: nothing is published in %s/%s", r.FromArea, r.FromGroup).
			With(errs.Detail{Field: "from_group", Value: r.FromGroup})
	}
	for i := range list {
		list[i].Area, list[i].Group = r.ToArea, r.ToGroup
	}
	return s.takeIn(ctx, intake{list: list, ifExists: r.IfExists, draft: r.Draft, dryRun: r.DryRun, comment: r.Comment, by: api.ByClone})
}

// released gives what is published in exactly this area and group, with copies of
// the bytes. Together they are no more than an import takes.
func (s *Service) released(v *state.View, area, group string) (list []api.Archived, err error) {
	prefix := string(table.ItemKey(api.Address{Area: area, Group: group}))
	total := int64(0)
	indexOf(v).Ascend(prefix, func(k string, row *table.Row) bool {
		if !strings.HasPrefix(k, prefix) {
			return false
		}
		if row.Release == nil {
			return true
		}
		if total += int64(row.Release.Size); total > s.cfg.MaxImportBytes {
			err = errs.New(errs.TooLarge, "%s/%s holds more than config.max_import_bytes = %d bytes", area, group, s.cfg.MaxImportBytes).
				With(errs.Detail{Field: "config.max_import_bytes", Limit: itoa(s.cfg.MaxImportBytes) + " bytes"})
			return false
		}
		var x api.Archived
		if x, err = archived(v, row); err != nil {
			return false
		}
		list = append(list, x)
		return true
	})
	return list, err
}

// archived gives an item as an archive holds it, without its parts.
func archived(v *state.View, row *table.Row) (x api.Archived, err error) {
	x = api.Archived{Address: row.Address, Description: row.Description, Unpublished: row.Release == nil}
	if row.Release != nil {
		b, err := contentAt(v, table.ReleaseKey(row.ID, row.Release.Number))
		if err != nil {
			return x, err
		}
		x.Type, x.Bytes = row.Release.Type, bytes.Clone(b)
	}
	if row.Schema != nil {
		b, err := contentAt(v, table.SlotKey(row.ID, table.SlotSchema))
		if err != nil {
			return x, err
		}
		x.Schema = string(b)
	}
	return x, nil
}
