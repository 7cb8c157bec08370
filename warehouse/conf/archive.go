package conf

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/state"
	areasapi "nekoq/warehouse/areas/api"
	"nekoq/warehouse/conf/api"
	"nekoq/warehouse/conf/internal/table"
)

// Export calls fn with what is published, item by item, hidden ones too: of one
// group, of an area, or all; and with the parts that r asks for, one at a time,
// each under the address of the item before. All of it is as of one revision, which
// every call is told: changes made meanwhile do not show. fn delays the reuse of
// space in the state file, so it must not wait for long.
func (s *Service) Export(ctx context.Context, r api.ExportRequest, fn func(api.Archived) error) error {
	prefix, err := prefixOf(r.Area, r.Group, "")
	if err != nil {
		return err
	}
	if err := r.Check(); err != nil {
		return err
	}
	v, err := s.view(ctx, false)
	if err != nil {
		return err
	}
	defer v.Release()
	if err := knownArea(v, r.Area); err != nil {
		return err
	}
	asOf, some := v.Revision(), false
	give := func(x api.Archived) error {
		if err := ctx.Err(); err != nil {
			return errs.From(err)
		}
		x.AsOf, some = asOf, true
		return fn(x)
	}
	indexOf(v).Ascend(prefix, func(k string, row *table.Row) bool {
		if !strings.HasPrefix(k, prefix) {
			return false
		}
		if !row.Deleted {
			err = exportOne(v, row, &r, give)
		}
		return err == nil
	})
	if err == nil && !some && r.Group != "" { // groups are there by their items
		err = errs.New(errs.NotFound, "group: %s/%s has nothing to export", r.Area, r.Group).With(errs.Detail{Field: "group", Value: r.Group})
	}
	return err
}

// exportOne gives one item, unless it has nothing of what is asked for.
func exportOne(v *state.View, row *table.Row, r *api.ExportRequest, give func(api.Archived) error) error {
	parts, err := partsOf(v, row, r)
	if err != nil || row.Release == nil && len(parts) == 0 {
		return err
	}
	x, err := archived(v, row)
	if err != nil {
		return err
	}
	if len(r.With) > 0 {
		x.ReadOnly = row.ReadOnly
	}
	if row.Release != nil && r.Has(api.WithHistory) {
		x.Number = row.Release.Number
	}
	if err := give(x); err != nil {
		return err
	}
	for i := range parts {
		p := &parts[i]
		if p.key != nil {
			b, err := contentAt(v, p.key)
			if err != nil {
				return err
			}
			p.Bytes = bytes.Clone(b)
		}
		if err := give(api.Archived{Address: row.Address, Parts: []api.ArchivedPart{p.ArchivedPart}}); err != nil {
			return err
		}
		p.Bytes = nil
	}
	return nil
}

// keyedPart is a part and where its bytes are.
type keyedPart struct {
	api.ArchivedPart
	key []byte
}

func stamped(kind, typ string, s *api.Stamp) api.ArchivedPart {
	return api.ArchivedPart{Kind: kind, Type: typ, Time: s.Time, Actor: s.Actor, Comment: s.Comment}
}

// partsOf gives the parts of an item that are asked for, the oldest release first.
func partsOf(v *state.View, row *table.Row, r *api.ExportRequest) (out []keyedPart, err error) {
	if r.Has(api.WithHistory) {
		err = table.Releases(v, row.ID, 0, func(rel api.Release) bool {
			p := keyedPart{ArchivedPart: stamped(api.PartHistory, rel.Type, &rel.Stamp)}
			p.Number, p.By, p.From, p.Name = rel.Number, rel.By, rel.From, rel.Gray
			if rel.By != api.ByDelete {
				p.key = table.ReleaseKey(row.ID, rel.Number)
			}
			out = append(out, p)
			return true
		})
		if err != nil {
			return nil, damaged(err)
		}
		slices.Reverse(out)
	}
	if d := row.Draft; d != nil && r.Has(api.WithDrafts) {
		out = append(out, keyedPart{stamped(api.PartDraft, d.Type, &d.Stamp), table.SlotKey(row.ID, table.SlotDraft)})
	}
	if c := row.Scheduled; c != nil && r.Has(api.WithDrafts) {
		p := keyedPart{stamped(api.PartScheduled, c.Type, &c.Stamp), table.SlotKey(row.ID, table.SlotScheduled)}
		p.At = &c.At
		out = append(out, p)
	}
	if r.Has(api.WithGray) {
		for i := range row.Gray {
			g := &row.Gray[i]
			p := keyedPart{stamped(api.PartGray, g.Type, &g.Stamp), table.GrayKey(row.ID, g.Name)}
			p.Name, p.Priority, p.Rule = g.Name, g.Priority, &g.Rule
			out = append(out, p)
		}
	}
	return out, nil
}

// WriteArchive writes an export as a zip file: area/group/key, the parts below a
// folder of their own, and the manifest.
func (s *Service) WriteArchive(ctx context.Context, r api.ExportRequest, w io.Writer) error {
	z := zip.NewWriter(w)
	m := api.Manifest{Items: []api.Archived{}}
	err := s.Export(ctx, r, func(x api.Archived) error {
		for _, f := range x.Files() {
			out, err := z.Create(f.Name)
			if err != nil {
				return err
			}
			if _, err := out.Write(f.Bytes); err != nil {
				return err
			}
		}
		m.Add(x)
		return nil
	})
	if err != nil {
		return err
	}
	f, err := z.Create(api.ManifestName)
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

// maxFiles bounds the files of an archive.
const maxFiles = 20 * maxIntake

// unpack reads an archive. Files that are no item's and no part's are refused.
func (s *Service) unpack(r *api.ImportRequest) ([]api.Archived, error) {
	z, err := zip.NewReader(bytes.NewReader(r.Archive), int64(len(r.Archive)))
	if err != nil {
		return nil, badArchive("it is not a zip file: %s", err)
	}
	if len(z.File) > maxFiles {
		return nil, badArchive("it has %d files; the limit is %d", len(z.File), maxFiles)
	}
	room := s.cfg.MaxImportBytes + 1<<20 // and some for the manifest
	files := map[string][]byte{}
	var order []string
	var m api.Manifest
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
		if _, twice := files[name]; twice {
			return nil, badArchive("%q stands in it twice", name)
		}
		files[name] = b
		if name == api.ManifestName {
			if err := readManifest(b, &m); err != nil {
				return nil, badArchive("%s cannot be read: %s", api.ManifestName, err)
			}
			continue
		}
		order = append(order, name)
	}
	return assemble(r, &m, files, order)
}

// readManifest refuses fields that are not known: what they say would be lost.
func readManifest(b []byte, m *api.Manifest) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(m); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("something follows its end")
	}
	return nil
}

// assemble puts the files together with what the manifest says of them.
func assemble(r *api.ImportRequest, m *api.Manifest, files map[string][]byte, order []string) (list []api.Archived, err error) {
	about := map[string]*api.Archived{}
	used := 0
	for i := range m.Items {
		x := &m.Items[i]
		switch {
		case about[x.Path()] != nil:
			return nil, badArchive("%s names %q twice", api.ManifestName, x.Path())
		case x.Unpublished && len(x.Parts) == 0:
			return nil, badArchive("%s names %q, of which nothing is published, and nothing else either", api.ManifestName, x.Path())
		}
		about[x.Path()] = x
		for j := range x.Parts {
			name := x.Parts[j].File(x.Address)
			if name == "" {
				continue
			}
			b, ok := files[name]
			if !ok {
				return nil, badArchive("%s names %q, which is missing", api.ManifestName, name)
			}
			x.Parts[j].Bytes = b
			used++
		}
		if x.Unpublished {
			order = append(order, x.Path())
		} else if _, ok := files[x.Path()]; !ok {
			return nil, badArchive("%s names %q, which is missing; take it out there, or leave %s away", api.ManifestName, x.Path(), api.ManifestName)
		}
	}
	for _, name := range order {
		if api.PartsFile(name) {
			used--
			continue
		}
		var x api.Archived
		if said := about[name]; said != nil {
			x = *said
		}
		x.Bytes = files[name]
		if x.Address, err = place(r, name); err != nil {
			return nil, err
		}
		list = append(list, x)
	}
	if len(list) == 0 {
		return nil, badArchive("there is no item in it")
	}
	if used != 0 {
		return nil, badArchive("the files below _more/ are not those that %s names", api.ManifestName)
	}
	return list, nil
}

// maxNumber bounds the numbers of releases in an archive; an item counts on from
// there.
const maxNumber = math.MaxInt64 / 2

// intakeParts checks the parts of an item and adds them to the op that takes it in.
func (s *Service) intakeParts(in *intake, x *api.Archived, op *table.Op, check checker) error {
	if len(x.Parts) == 0 && !x.ReadOnly && !x.Unpublished {
		return nil
	}
	if in.draft {
		return errs.Invalid("draft", true, "false, since the archive holds drafts, gray releases or history of its own")
	}
	op.Do, op.Number = table.DoTakeIn, x.Number
	if x.ReadOnly {
		op.ReadOnly = &x.ReadOnly
	}
	last := uint64(0)
	for i := range x.Parts {
		p := &x.Parts[i]
		part, err := s.intakePart(p, check)
		if err == nil && p.Kind == api.PartScheduled && part.Kind == api.PartDraft && slices.ContainsFunc(x.Parts, isDraft) {
			continue
		}
		if err == nil && p.Kind == api.PartHistory {
			if p.Number <= last || p.Number > maxNumber {
				err = errs.Invalid("number", p.Number, "the numbers of releases in ascending order, from 1")
			}
			last = p.Number
		}
		if err != nil {
			e := errs.From(err)
			return errs.New(e.Code, "%s: %s", partName(p), e.Message)
		}
		op.Parts = append(op.Parts, part)
	}
	return nil
}

func isDraft(p api.ArchivedPart) bool { return p.Kind == api.PartDraft }

func partName(p *api.ArchivedPart) string {
	switch p.Kind {
	case api.PartHistory:
		return p.Kind + " " + strconv.FormatUint(p.Number, 10)
	case api.PartGray:
		return p.Kind + " " + p.Name
	}
	return p.Kind
}

// intakePart checks one part. Old releases need not fit today's schema; a rollback
// asks again.
func (s *Service) intakePart(p *api.ArchivedPart, check checker) (out table.Part, err error) {
	if err := checkText("comment", p.Comment); err != nil {
		return out, err
	}
	out = table.Part{Kind: p.Kind, Bytes: p.Bytes, Comment: p.Comment}
	var c api.Content
	switch p.Kind {
	case api.PartHistory:
		return s.intakeRelease(p, out)
	case api.PartDraft:
	case api.PartScheduled:
		switch now := s.clock.Now(); {
		case p.At == nil:
			return out, errs.Invalid("at", "", "when it is published")
		case p.At.After(now.Add(maxAhead)):
			return out, errs.Invalid("at", p.At.Format(time.RFC3339), "a time within ten years")
		case !p.At.After(now):
			out.Kind = api.PartDraft // its time is over: somebody has to look at it
		default:
			at := p.At.UTC()
			out.At = &at
		}
	case api.PartGray:
		if err := api.CheckGroup("name", p.Name); err != nil {
			return out, err
		}
		if p.Rule == nil {
			return out, errs.Invalid("rule", "", "whom the gray release is for")
		}
		if err := p.Rule.Check("rule"); err != nil {
			return out, err
		}
		out.Name, out.Priority, out.Rule = p.Name, p.Priority, p.Rule
	default:
		return out, errs.Invalid("kind", p.Kind, "draft, scheduled, gray or history")
	}
	c, err = check(p.Type, p.Bytes)
	out.Content = &c
	return out, err
}

func (s *Service) intakeRelease(p *api.ArchivedPart, out table.Part) (table.Part, error) {
	if len(p.Actor) > command.MaxActorBytes {
		return out, errs.Invalid("actor", p.Actor, "up to "+itoa(command.MaxActorBytes)+" bytes")
	}
	if p.Name != "" {
		if err := api.CheckGroup("name", p.Name); err != nil {
			return out, err
		}
	}
	switch p.By {
	case api.ByDelete:
		out.Bytes = nil
	case api.ByPublish, api.BySchedule, api.ByRollback, api.ByPromote, api.ByImport, api.ByClone:
		c, err := s.describe(p.Type, p.Bytes)
		if err != nil {
			return out, err
		}
		out.Content = &c
	default:
		return out, errs.Invalid("by", p.By, "publish, schedule, rollback, promote, import, clone or delete")
	}
	out.Release = &api.Release{
		Number: p.Number, By: p.By, From: p.From, Gray: p.Name,
		Stamp: api.Stamp{Time: p.Time.UTC(), Actor: p.Actor, Comment: p.Comment},
	}
	return out, nil
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
