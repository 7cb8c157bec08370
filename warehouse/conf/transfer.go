package conf

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
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
	total := int64(0)
	seen := map[api.Address]bool{}
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
		if total += int64(len(op.Bytes) + len(op.SchemaBytes)); total > s.cfg.MaxImportBytes {
			return nil, errs.New(errs.TooLarge, "more than config.max_import_bytes = %d bytes of contents at once; take them in by groups", s.cfg.MaxImportBytes).
				With(errs.Detail{Field: "config.max_import_bytes", Limit: itoa(s.cfg.MaxImportBytes) + " bytes"})
		}
		ops = append(ops, *op)
	}
	return ops, nil
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
	if exists {
		op.If, did = &row.Revision, "change"
	}
	c, err := s.intakeContent(v, row, exists, x, &op)
	if err != nil {
		return nil, "", err
	}
	op.Content = &c
	switch {
	case !exists:
		return &op, did, nil
	case in.ifExists == api.IfExistsSkip:
		return nil, "skip", nil
	case !in.draft && row.Release != nil && row.Release.Content == c && (x.Description == "" || x.Description == row.Description) &&
		(op.Schema == nil || row.Schema != nil && *row.Schema == *op.Schema):
		return nil, "same", nil
	case in.ifExists == api.IfExistsFail:
		return nil, "", errs.New(errs.AlreadyExists, "it exists already, with another content; if_exists = skip or overwrite says what to do")
	}
	return &op, did, nil
}

// intakeContent checks a content against the schema that comes with it, else
// against that of the item.
func (s *Service) intakeContent(v *state.View, row *table.Row, exists bool, x *api.Archived, op *table.Op) (api.Content, error) {
	if x.Description != "" {
		if err := checkText("description", x.Description); err != nil {
			return api.Content{}, err
		}
		op.Description = &x.Description
	}
	if x.Schema == "" {
		return s.prepareAt(v, x.Address, x.Type, x.Bytes)
	}
	op.SchemaBytes = []byte(x.Schema)
	op.Schema = &api.Content{Type: api.JSON, Size: len(op.SchemaBytes), Hash: hashOf(api.JSON, op.SchemaBytes)}
	if len(op.SchemaBytes) > api.MaxSchema {
		return api.Content{}, errs.Invalid("schema", len(op.SchemaBytes), "at most "+itoa(api.MaxSchema)+" bytes")
	}
	schema, err := compile(op.SchemaBytes)
	if err != nil {
		return api.Content{}, err
	}
	typ := x.Type
	if typ == "" {
		typ = typeOf(x.Key)
	}
	c, err := s.describe(typ, x.Bytes)
	if err != nil {
		return c, err
	}
	return c, s.checkWith(v, x.Address, c, x.Bytes, schema)
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

func archived(v *state.View, row *table.Row) (x api.Archived, err error) {
	x = api.Archived{Address: row.Address, Type: row.Release.Type, Description: row.Description}
	b, ok := table.Content(v, table.ReleaseKey(row.ID, row.Release.Number))
	if !ok {
		return x, damaged(errors.New("conf: a release is missing"))
	}
	x.Bytes = bytes.Clone(b)
	if row.Schema != nil {
		if b, ok = table.Content(v, table.SlotKey(row.ID, table.SlotSchema)); !ok {
			return x, damaged(errors.New("conf: a schema is missing"))
		}
		x.Schema = string(b)
	}
	return x, nil
}

// Compare compares two groups key by key.
func (s *Service) Compare(ctx context.Context, r api.CompareRequest) (*api.Comparison, error) {
	for _, c := range []struct{ field, area, groupField, group string }{
		{"left_area", r.LeftArea, "left_group", r.LeftGroup}, {"right_area", r.RightArea, "right_group", r.RightGroup},
	} {
		if err := areasapi.CheckName(c.field, c.area); err != nil {
			return nil, err
		}
		if err := api.CheckGroup(c.groupField, c.group); err != nil {
			return nil, err
		}
	}
	v, err := s.view(ctx, r.Stale)
	if err != nil {
		return nil, err
	}
	defer v.Release()
	left, err := s.side(v, r.LeftArea, r.LeftGroup, r.Effective)
	if err != nil {
		return nil, err
	}
	right, err := s.side(v, r.RightArea, r.RightGroup, r.Effective)
	if err != nil {
		return nil, err
	}
	out := &api.Comparison{Same: true, Keys: []api.Compared{}}
	for len(left) > 0 || len(right) > 0 {
		switch {
		case len(right) == 0 || len(left) > 0 && left[0].Key < right[0].Key:
			out.Keys = append(out.Keys, api.Compared{Key: left[0].Key, Status: "left", LeftHash: left[0].Hash})
			left = left[1:]
		case len(left) == 0 || right[0].Key < left[0].Key:
			out.Keys = append(out.Keys, api.Compared{Key: right[0].Key, Status: "right", RightHash: right[0].Hash})
			right = right[1:]
		default:
			out.Keys = append(out.Keys, compared(&r, &left[0], &right[0]))
			left, right = left[1:], right[1:]
		}
		out.Same = out.Same && out.Keys[len(out.Keys)-1].Status == "same"
	}
	return out, nil
}

func compared(r *api.CompareRequest, a, b *api.Value) api.Compared {
	c := api.Compared{Key: a.Key, Status: "same", LeftHash: a.Hash, RightHash: b.Hash}
	if a.Hash != b.Hash {
		c.Status = "differs"
		if r.Diff && !api.Hidden(a.Key) {
			c.Unified = unified(r.LeftArea+"/"+r.LeftGroup+"/"+a.Key, r.RightArea+"/"+r.RightGroup+"/"+b.Key, a.Type, b.Type, a.Bytes, b.Bytes)
		}
	}
	return c
}

// side gives one side of a comparison in the order of keys.
func (s *Service) side(v *state.View, area, group string, effective bool) ([]api.Value, error) {
	d := newReading(v, &api.Client{})
	if _, ok := d.tree.Get(area); !ok {
		return nil, errs.New(errs.NotFound, "area: there is no area named %q", area).With(errs.Detail{Field: "area", Value: area})
	}
	if effective {
		e, err := d.evaluate(area, d.all(area, group), true)
		return e.values, damaged(err)
	}
	list, err := s.released(v, area, group)
	if err != nil {
		return nil, err
	}
	out := make([]api.Value, len(list))
	for i := range list {
		out[i] = api.Value{Key: list[i].Key, Type: list[i].Type, Bytes: list[i].Bytes, Hash: hashOf(list[i].Type, list[i].Bytes)}
	}
	return out, nil
}

// Export calls fn with what is published, item by item, hidden ones too: of one
// group, of an area, or all. Each is as it is when its turn comes.
func (s *Service) Export(ctx context.Context, r api.ExportRequest, fn func(api.Archived) error) error {
	prefix, err := prefixOf(r.Area, r.Group, "")
	if err != nil {
		return err
	}
	v, err := s.view(ctx, false)
	if err != nil {
		return err
	}
	var list []api.Address
	indexOf(v).Ascend(prefix, func(k string, row *table.Row) bool {
		if !strings.HasPrefix(k, prefix) {
			return false
		}
		if row.Release != nil {
			list = append(list, row.Address)
		}
		return true
	})
	v.Release()
	for _, a := range list {
		x, ok, err := s.exported(ctx, a)
		if err == nil && ok {
			err = fn(x)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) exported(ctx context.Context, a api.Address) (x api.Archived, ok bool, err error) {
	v, err := s.view(ctx, true)
	if err != nil {
		return x, false, err
	}
	defer v.Release()
	row, ok := indexOf(v).Item(a)
	if !ok || row.Release == nil {
		return x, false, nil
	}
	x, err = archived(v, row)
	return x, err == nil, err
}

// ManifestName is the file of an archive that says what the files' names do not.
const ManifestName = "nekoq.json"

// manifest is its content. An archive without one is taken in too.
type manifest struct {
	Items []api.Archived `json:"items"`
}

// WriteArchive writes an export as a zip file: area/group/key, and a manifest.
func (s *Service) WriteArchive(ctx context.Context, r api.ExportRequest, w io.Writer) error {
	z := zip.NewWriter(w)
	m := manifest{Items: []api.Archived{}}
	err := s.Export(ctx, r, func(x api.Archived) error {
		f, err := z.Create(x.Path())
		if err != nil {
			return err
		}
		if _, err := f.Write(x.Bytes); err != nil {
			return err
		}
		x.Bytes = nil
		m.Items = append(m.Items, x)
		return nil
	})
	if err != nil {
		return err
	}
	f, err := z.Create(ManifestName)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(f)
	enc.SetIndent("", "  ")
	if err := enc.Encode(m); err != nil {
		return err
	}
	return z.Close()
}

// Import takes a zip file in: area/group/key, or group/key with r.Area, or key with
// r.Area and r.Group. What r names takes the place of what the path says. All of it
// is taken in, or nothing.
func (s *Service) Import(ctx context.Context, r api.ImportRequest) (*api.Outcome, error) {
	if r.Area != "" {
		if err := areasapi.CheckName("area", r.Area); err != nil {
			return nil, err
		}
	}
	if r.Group != "" {
		if err := api.CheckGroup("group", r.Group); err != nil {
			return nil, err
		}
	}
	list, err := s.unpack(&r)
	if err != nil {
		return nil, err
	}
	return s.takeIn(ctx, intake{list: list, ifExists: r.IfExists, draft: r.Draft, dryRun: r.DryRun, comment: r.Comment, by: api.ByImport})
}

func badArchive(format string, args ...any) error {
	return errs.New(errs.InvalidArgument, "archive: "+format, args...).With(errs.Detail{Field: "archive", Limit: "a zip file of area/group/key"})
}

func (s *Service) unpack(r *api.ImportRequest) ([]api.Archived, error) {
	z, err := zip.NewReader(bytes.NewReader(r.Archive), int64(len(r.Archive)))
	if err != nil {
		return nil, badArchive("it is not a zip file: %s", err)
	}
	if len(z.File) > 2*maxIntake {
		return nil, badArchive("it has %d files; the limit is %d", len(z.File), maxIntake)
	}
	room := s.cfg.MaxImportBytes + 1<<20 // and some for the manifest
	var list []api.Archived
	var m manifest
	for _, f := range z.File {
		name := f.Name
		if strings.HasSuffix(name, "/") || strings.HasPrefix(name, "__MACOSX/") || strings.HasSuffix(name, ".DS_Store") {
			continue
		}
		b, err := readEntry(f, room)
		if err != nil {
			return nil, err
		}
		room -= int64(len(b))
		if name == ManifestName {
			if err := json.Unmarshal(b, &m); err != nil {
				return nil, badArchive("%s cannot be read: %s", ManifestName, err)
			}
			continue
		}
		a, err := place(r, name)
		if err != nil {
			return nil, err
		}
		list = append(list, api.Archived{Address: a, Description: name, Bytes: b})
	}
	return describeAll(list, m), nil
}

func readEntry(f *zip.File, room int64) ([]byte, error) {
	rc, err := f.Open()
	if err != nil {
		return nil, badArchive("%s cannot be read: %s", f.Name, err)
	}
	defer func() { _ = rc.Close() }()
	b, err := io.ReadAll(io.LimitReader(rc, room+1))
	if err != nil {
		return nil, badArchive("%s cannot be read: %s", f.Name, err)
	}
	if int64(len(b)) > room {
		return nil, errs.New(errs.TooLarge, "archive: unpacked it is larger than config.max_import_bytes").
			With(errs.Detail{Field: "config.max_import_bytes"})
	}
	return b, nil
}

// place gives the address of a file.
func place(r *api.ImportRequest, name string) (a api.Address, err error) {
	parts := strings.Split(name, "/")
	least := 3
	if r.Area != "" {
		if least = 2; r.Group != "" {
			least = 1
		}
	}
	if len(parts) < least || len(parts) > 3 {
		return a, badArchive("%q is not where an item can stand: want area/group/key, or group/key with an area, or key with an area and a group", name)
	}
	a.Key = parts[len(parts)-1]
	if len(parts) > 1 {
		a.Group = parts[len(parts)-2]
	}
	if len(parts) > 2 {
		a.Area = parts[0]
	}
	if r.Area != "" {
		a.Area = r.Area
	}
	if r.Group != "" {
		a.Group = r.Group
	}
	return a, nil
}

// describeAll adds what the manifest says to the files. Description holds the
// file's name until then.
func describeAll(list []api.Archived, m manifest) []api.Archived {
	by := map[string]*api.Archived{}
	for i := range m.Items {
		by[m.Items[i].Path()] = &m.Items[i]
	}
	for i := range list {
		x := by[list[i].Description]
		list[i].Description = ""
		if x != nil {
			list[i].Type, list[i].Description, list[i].Schema = x.Type, x.Description, x.Schema
		}
	}
	return list
}
