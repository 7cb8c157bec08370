package conf_test

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"nekoq/client"
	"nekoq/services/errs"
	"nekoq/warehouse/conf/api"
)

// furnish makes items with everything that an item can have.
func furnish(t *testing.T) (*fixture, time.Time) {
	f := start(t)
	for _, c := range []string{"one", "two", "three"} {
		f.publish("default/app/k", c)
	}
	_, err := f.conf.Rollback(f.ctx, client.ConfRollback{Address: at("default/app/k"), Number: 1, Comment: "three was wrong"})
	f.ok(err)
	_, err = f.conf.Draft(f.ctx, client.ConfWrite{Address: at("default/app/k"), Bytes: []byte("draft"), Comment: "not yet"})
	f.ok(err)
	_, err = f.conf.Gray(f.ctx, client.ConfGray{Address: at("default/app/k"), Name: "canary", Priority: new(3), Rule: &client.ConfRule{Percent: 5}, Bytes: []byte("gray"), HasContent: true})
	f.ok(err)
	due := time.Now().Add(24 * time.Hour).UTC().Truncate(time.Second)
	_, err = f.conf.Publish(f.ctx, client.ConfPublish{Direct: true, At: &due, WriteRequest: client.ConfWrite{Address: at("eu/app/later"), Bytes: []byte("tomorrow")}})
	f.ok(err)
	_, err = f.conf.Draft(f.ctx, client.ConfWrite{Address: at("default/app/only.json"), Bytes: []byte(`{"a":1}`)})
	f.ok(err)
	f.publish("default/app/was", "x")
	_, err = f.conf.Delete(f.ctx, at("default/app/was"), "")
	f.ok(err)
	f.publish("default/app/was", "y")
	yes, schema := true, `{"type":"object"}`
	f.publish("eu/app/s.json", `{}`)
	_, err = f.conf.Settings(f.ctx, client.ConfSettings{Address: at("eu/app/s.json"), ReadOnly: &yes, Schema: &schema})
	f.ok(err)
	return f, due
}

var everything = []string{api.WithDrafts, api.WithGray, api.WithHistory}

func (f *fixture) archive(with ...string) []byte {
	f.t.Helper()
	var b bytes.Buffer
	f.ok(f.sw.App().Conf().WriteArchive(f.ctx, api.ExportRequest{With: with}, &b))
	return b.Bytes()
}

// opened gives the files of an archive, and the manifest without what belongs to
// the place where it was made.
func opened(t *testing.T, archive []byte) (map[string]string, client.ConfManifest) {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, x := range z.File {
		r, err := x.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[x.Name] = string(b)
	}
	var m client.ConfManifest
	if err := json.Unmarshal([]byte(files[api.ManifestName]), &m); err != nil {
		t.Fatal(err)
	}
	return files, m
}

func packed(t *testing.T, files map[string]string, m client.ConfManifest) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	about, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	files[api.ManifestName] = string(about)
	for name, text := range files {
		w, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, text)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// What an archive with everything was taken from and where it was taken in are
// alike: contents, numbers, who, when and why of the history.
func TestArchiveWithEverything(t *testing.T) {
	f, due := furnish(t)
	archive := f.archive(everything...)
	files, m := opened(t, archive)
	if len(m.Items) != 5 || m.Revision == 0 || files["_more/default/app/k/history/2"] != "two" || files["_more/default/app/k/gray/canary"] != "gray" {
		t.Fatalf("%+v %+v", m, files)
	}
	other := start(t)
	o, err := other.conf.Import(other.ctx, client.ConfImport{Archive: archive})
	other.ok(err)
	if len(o.Steps) != 5 || slices.ContainsFunc(o.Steps, func(s api.Step) bool { return s.Did != "create" }) {
		t.Fatalf("%+v", o)
	}
	there, n := opened(t, other.archive(everything...))
	delete(files, api.ManifestName)
	delete(there, api.ManifestName)
	if fmt.Sprint(files) != fmt.Sprint(there) {
		t.Fatalf("%v\nbecame\n%v", files, there)
	}
	for _, x := range []*client.ConfManifest{&m, &n} {
		x.Revision = 0
		for i := range x.Items {
			for j := range x.Items[i].Parts {
				if p := &x.Items[i].Parts[j]; p.Kind != api.PartHistory { // those are the importer's
					p.Time, p.Actor = time.Time{}, ""
				}
			}
		}
	}
	want, _ := json.MarshalIndent(m, "", " ")
	if got, _ := json.MarshalIndent(n, "", " "); !bytes.Equal(got, want) {
		t.Fatalf("%s\nbecame\n%s", want, got)
	}
	it, err := other.conf.Item(other.ctx, at("default/app/k"), "")
	other.ok(err)
	if it.Release.Number != 4 || !it.Release.Imported || it.Release.By != api.ByRollback || it.Release.From != 1 || it.Release.Comment != "three was wrong" {
		t.Fatalf("%+v", it.Release)
	}
	it, err = other.conf.Item(other.ctx, at("eu/app/later"), "scheduled")
	other.ok(err)
	if !it.Scheduled.At.Equal(due) || string(it.Bytes) != "tomorrow" {
		t.Fatalf("%+v", it)
	}
	// Once more it is the same, and the next release counts on.
	if o, err = other.conf.Import(other.ctx, client.ConfImport{Archive: archive}); err != nil || o.Revision != 0 || o.Steps[0].Did != "same" {
		t.Fatal(o, err)
	}
	if next := other.publish("default/app/k", "five"); next.Release.Number != 5 {
		t.Fatalf("%+v", next.Release)
	}
	_, err = other.conf.Import(other.ctx, client.ConfImport{Archive: archive})
	other.refused(err, errs.AlreadyExists, "default/app/k")
	// Onto an item that is there its own history goes on.
	yes, no := true, false
	_, err = other.conf.Import(other.ctx, client.ConfImport{Archive: archive, IfExists: api.IfExistsOverwrite})
	other.ok(err)
	h, err := other.conf.History(other.ctx, at("default/app/k"), 0)
	other.ok(err)
	if len(h) != 6 || h[0].By != api.ByImport || h[0].Number != 6 {
		t.Fatalf("%+v", h)
	}
	_, err = other.conf.Settings(other.ctx, client.ConfSettings{Address: at("eu/app/s.json"), ReadOnly: &no})
	other.ok(err)
	_, err = other.conf.Settings(other.ctx, client.ConfSettings{Address: at("eu/app/s.json"), ReadOnly: &yes})
	other.ok(err)
}

// An export shows one revision, whatever is changed while it is read.
func TestExportIsOfOneRevision(t *testing.T) {
	f := start(t)
	for _, k := range []string{"a", "b", "c"} {
		f.publish("default/app/"+k, "old")
	}
	var got []string
	f.ok(f.sw.App().Conf().Export(f.ctx, api.ExportRequest{}, func(x api.Archived) error {
		got = append(got, fmt.Sprint(x.Key, "=", string(x.Bytes), "@", x.AsOf-f.revision("a")))
		if x.Key == "a" {
			f.publish("default/app/b", "new")
			_, err := f.conf.Delete(f.ctx, at("default/app/c"), "")
			f.ok(err)
			f.publish("default/app/d", "new")
		}
		return nil
	}))
	if s := strings.Join(got, " "); s != "a=old@2 b=old@2 c=old@2" {
		t.Fatal(s)
	}
}

func (f *fixture) revision(key string) uint64 {
	it, err := f.conf.Item(f.ctx, at("default/app/"+key), "")
	f.ok(err)
	return it.Revision
}

func TestArchivesThatAreRefused(t *testing.T) {
	f, _ := furnish(t)
	archive := f.archive(everything...)
	for _, c := range []struct {
		change func(files map[string]string, m *client.ConfManifest)
		code   errs.Code
		text   string
	}{
		{func(files map[string]string, _ *client.ConfManifest) { delete(files, "_more/default/app/k/draft") }, errs.InvalidArgument, "missing"},
		{func(files map[string]string, _ *client.ConfManifest) { files["_more/default/app/k/other"] = "x" }, errs.InvalidArgument, "_more/"},
		{func(_ map[string]string, m *client.ConfManifest) { slices.Reverse(m.Items[0].Parts) }, errs.InvalidArgument, "ascending"},
		{func(_ map[string]string, m *client.ConfManifest) { m.Items[0].Parts[0].By = "magic" }, errs.InvalidArgument, "rollback"},
		{func(files map[string]string, _ *client.ConfManifest) { files["eu/app/s.json"] = "[]" }, errs.InvalidArgument, "eu/app/s.json"},
		{func(files map[string]string, _ *client.ConfManifest) { files["nowhere/app/x"] = "x" }, errs.NotFound, "nowhere"},
	} {
		other := start(t)
		files, m := opened(t, archive)
		c.change(files, &m)
		_, err := other.conf.Import(other.ctx, client.ConfImport{Archive: packed(t, files, m)})
		other.refused(err, c.code, c.text)
		if l, err := other.conf.Items(other.ctx, "", "", "", true); err != nil || len(l) != 0 {
			t.Fatal("a part of it was taken in", l, err)
		}
	}
	other := start(t)
	_, err := other.conf.Import(other.ctx, client.ConfImport{Archive: archive, Draft: true})
	other.refused(err, errs.InvalidArgument, "draft")
	err = f.conf.Export(f.ctx, client.ConfExport{With: []string{"all"}}, nil)
	f.refused(err, errs.InvalidArgument, "history")
}

// What names nothing that is there is refused, not answered with an empty archive;
// so is an archive from which something is missing.
func TestArchivesOfNothing(t *testing.T) {
	f := start(t)
	none := func(client.ConfArchived) error { return nil }
	f.refused(f.conf.Export(f.ctx, client.ConfExport{Area: "nowhere"}, none), errs.NotFound, "nowhere")
	f.ok(f.conf.Export(f.ctx, client.ConfExport{Area: "eu"}, none))
	dry := false
	take := func(files ...string) error {
		var buf bytes.Buffer
		z := zip.NewWriter(&buf)
		for i := 0; i < len(files); i += 2 {
			w, err := z.Create(files[i])
			f.ok(err)
			_, err = w.Write([]byte(files[i+1]))
			f.ok(err)
		}
		f.ok(z.Close())
		_, err := f.conf.Import(f.ctx, client.ConfImport{Archive: buf.Bytes(), DryRun: dry})
		return err
	}
	const about = `{"items":[{"area":"default","group":"app","key":"a"}]}`
	f.refused(take(), errs.InvalidArgument, "no item")
	f.refused(take("nekoq.json", `{"items":[]}`), errs.InvalidArgument, "no item")
	f.refused(take("nekoq.json", about, "default/app/b", "x"), errs.InvalidArgument, `names "default/app/a", which is missing`)
	f.ok(take("nekoq.json", about, "default/app/a", "x"))
	for _, dry = range []bool{true, false} { // a trial tells what the import would
		f.refused(take("nowhere/app/a", "x"), errs.NotFound, "nowhere/app/a: area")
	}
}
