package conf_test

import (
	"archive/zip"
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"nekoq/client"
	"nekoq/services/errs"
	"nekoq/warehouse/conf"
	"nekoq/warehouse/conf/api"
)

// A filter by something that is not there is refused, not answered with nothing.
func TestFiltersNameWhatIsThere(t *testing.T) {
	f := start(t)
	_, err := f.conf.Items(f.ctx, "nowhere", "", "", false)
	f.refused(err, errs.NotFound, `area: there is no area named "nowhere"`)
	_, err = f.conf.Items(f.ctx, "eu", "app", "a/b", false)
	f.refused(err, errs.InvalidArgument, "prefix")
	for _, prefix := range []string{"", ".", "..", "a"} {
		_, err = f.conf.Items(f.ctx, "eu", "app", prefix, false)
		f.ok(err)
	}
	_, err = f.conf.Listeners(f.ctx, "nowhere", "", "")
	f.refused(err, errs.NotFound, "nowhere")
	for _, c := range [][3]string{{"a b", "", ""}, {"", "a b", ""}, {"", "", "a b"}} {
		_, err = f.conf.Listeners(f.ctx, c[0], c[1], c[2])
		f.refused(err, errs.InvalidArgument, "a b")
	}
	none := func(client.ConfArchived) error { return nil }
	f.refused(f.conf.Export(f.ctx, client.ConfExport{Area: "eu", Group: "app"}, none), errs.NotFound, "eu/app has nothing")
	f.publish("default/app/k", "x")
	_, err = f.conf.Diff(f.ctx, at("default/app/k"), "1", "7")
	f.refused(err, errs.NotFound, "to: the item default/app/k has no release 7")
	_, err = f.conf.Item(f.ctx, at("default/app/k"), "gray:g")
	f.refused(err, errs.NotFound, `which: the item default/app/k has no gray release "g"`)
}

// A type says something of a content only.
func TestTypeWithoutContent(t *testing.T) {
	f := start(t)
	f.publish("default/app/k", "{}")
	_, err := f.conf.Draft(f.ctx, client.ConfWrite{Address: at("default/app/k"), Bytes: []byte("[]")})
	f.ok(err)
	_, err = f.conf.Publish(f.ctx, client.ConfPublish{WriteRequest: client.ConfWrite{Address: at("default/app/k"), Type: api.JSON}})
	f.refused(err, errs.InvalidArgument, "content_type")
	g := client.ConfGray{Address: at("default/app/k"), Name: "g", Rule: &client.ConfRule{Percent: 5}, Bytes: []byte("[]"), HasContent: true}
	_, err = f.conf.Gray(f.ctx, g)
	f.ok(err)
	_, err = f.conf.Gray(f.ctx, client.ConfGray{Address: g.Address, Name: "g", Type: api.JSON})
	f.refused(err, errs.InvalidArgument, "content_type")
	long := client.ConfQuery{Group: "app", Client: "\xff"}
	_, err = f.sw.App().Conf().Effective(f.ctx, long)
	f.refused(err, errs.InvalidArgument, "UTF-8")
}

func zipped(t *testing.T, files ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	for i := 0; i < len(files); i += 2 {
		w, err := z.Create(files[i])
		if err == nil {
			_, err = io.WriteString(w, files[i+1])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Contents that are taken in together are asked about together: whether they close
// a loop, and whether they fit once what they refer to is there.
func TestReferencesOfWhatIsTakenInTogether(t *testing.T) {
	f := start(t)
	take := func(files ...string) error {
		_, err := f.conf.Import(f.ctx, client.ConfImport{Archive: zipped(t, files...), IfExists: api.IfExistsOverwrite})
		return err
	}
	f.refused(take("default/h/a", "${h/b}", "default/h/b", "${h/a}"), errs.InvalidArgument, "loop")
	if l, err := f.conf.Items(f.ctx, "default", "h", "", true); err != nil || len(l) != 0 {
		t.Fatal(l, err)
	}
	f.refused(take("default/h/a.json", "${h/n}", "default/h/n", "{"), errs.InvalidArgument, "json")
	// What points the other way afterwards closes none.
	f.ok(take("default/h/a", "end", "default/h/b", "${h/a}"))
	f.ok(take("default/h/a", "${h/b}", "default/h/b", "end"))
	f.gets(client.ConfQuery{Group: "h"}, "a=end b=end")
	// Items that are skipped stay as they are.
	_, err := f.conf.Import(f.ctx, client.ConfImport{Archive: zipped(t, "default/h/b", "${h/c}", "default/h/c", "${h/a}"), IfExists: api.IfExistsSkip})
	f.ok(err)
	f.gets(client.ConfQuery{Group: "h"}, "a=end b=end c=end")
	// Nor does a clone close one.
	f.publish("default/one/a", "${two/b}")
	f.publish("default/one/b", "${two/a}")
	_, err = f.conf.Clone(f.ctx, client.ConfClone{FromArea: "default", FromGroup: "one", ToArea: "default", ToGroup: "two"})
	f.refused(err, errs.InvalidArgument, "loop")
}

// A gray release that refers back to what refers to its item is none to promote.
func TestPromotedGrayReleaseClosesNoLoop(t *testing.T) {
	f := start(t)
	a := at("default/app/a")
	f.publish("default/app/a", "end")
	_, err := f.conf.Gray(f.ctx, client.ConfGray{Address: a, Name: "g", Rule: &client.ConfRule{Percent: 5}, Bytes: []byte("${app/b}"), HasContent: true})
	f.ok(err)
	f.publish("default/app/b", "${app/a}")
	_, err = f.conf.GrayPromote(f.ctx, a, "g", "")
	f.refused(err, errs.InvalidArgument, "loop")
	_, err = f.conf.GrayPromote(f.ctx, a, "none", "")
	f.refused(err, errs.NotFound, `no gray release "none"`)
	f.publish("default/app/b", "b")
	it, err := f.conf.GrayPromote(f.ctx, a, "g", "")
	f.ok(err)
	if it.Release.By != api.ByPromote || len(it.Gray) != 0 {
		t.Fatalf("%+v", it)
	}
}

// A trial refuses what the import would.
func TestTrialImportRefusesWhatTheImportDoes(t *testing.T) {
	f := changed(t, nil, func(c *conf.Config) { c.MaxItems = 3 })
	yes := true
	f.publish("default/app/locked", "x")
	_, err := f.conf.Settings(f.ctx, client.ConfSettings{Address: at("default/app/locked"), ReadOnly: &yes})
	f.ok(err)
	grays := func(n int) (files []string, parts string) {
		for i := range n {
			name := "g" + string(rune('a'+i))
			files = append(files, "_more/default/app/k/gray/"+name, "x")
			parts += `,{"kind":"gray","name":"` + name + `","type":"text","rule":{"percent":5}}`
		}
		return files, parts[1:]
	}
	about := func(more string) string {
		return `{"items":[{"area":"default","group":"app","key":"k","type":"text",` + more + `}]}`
	}
	ten, tenParts := grays(10)
	eleven, elevenParts := grays(11)
	at := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	for _, c := range []struct {
		files []string
		code  errs.Code
		text  string
	}{
		{append(eleven, "default/app/k", "x", "nekoq.json", about(`"parts":[`+elevenParts+`]`)), errs.Exhausted, "10 gray releases"},
		{[]string{"default/app/locked", "y"}, errs.FailedPrecond, "read-only"},
		{[]string{"default/app/k", "x", "_more/default/app/k/scheduled", "y", "nekoq.json", about(`"read_only":true,"parts":[{"kind":"scheduled","type":"text","at":"` + at + `"}]`)}, errs.Conflict, "scheduled release"},
		{[]string{"default/app/1", "", "default/app/2", "", "default/app/3", ""}, errs.Exhausted, "config.max_items"},
	} {
		for _, dry := range []bool{true, false} {
			_, err := f.conf.Import(f.ctx, client.ConfImport{Archive: zipped(t, c.files...), DryRun: dry, IfExists: api.IfExistsOverwrite})
			f.refused(err, c.code, c.text)
		}
	}
	_, err = f.conf.Import(f.ctx, client.ConfImport{Archive: zipped(t, append(ten, "default/app/k", "x", "nekoq.json", about(`"parts":[`+tenParts+`]`))...)})
	f.ok(err)
}

// What a manifest says and nothing reads would be lost.
func TestManifestsThatAreRefused(t *testing.T) {
	f := start(t)
	const item = `"area":"default","group":"app","key":"k","type":"text"`
	for _, c := range []struct {
		text  string
		files []string
	}{
		{`unknown field "descripton"`, []string{"nekoq.json", `{"items":[{` + item + `,"descripton":"x"}]}`, "default/app/k", "x"}},
		{"something follows", []string{"nekoq.json", `{"items":[]} {"items":[]}`, "default/app/k", "x"}},
		{`names "default/app/k" twice`, []string{"nekoq.json", `{"items":[{` + item + `},{` + item + `}]}`, "default/app/k", "x"}},
		{`"nekoq.json" stands in it twice`, []string{"nekoq.json", `{"items":[]}`, "nekoq.json", `{"items":[]}`, "default/app/k", "x"}},
		{"nothing is published", []string{"nekoq.json", `{"items":[{` + item + `,"unpublished":true}]}`}},
		{`scheduled: at: "" is not valid: want when it is published`, []string{"nekoq.json", `{"items":[{` + item + `,"parts":[{"kind":"scheduled","type":"text"}]}]}`, "default/app/k", "x", "_more/default/app/k/scheduled", "y"}},
		{`history 9223372036854775808: number`, []string{"nekoq.json", `{"items":[{` + item + `,"parts":[{"kind":"history","number":9223372036854775808,"by":"publish","type":"text"}]}]}`, "default/app/k", "x", "_more/default/app/k/history/9223372036854775808", "y"}},
		{"history 1: name", []string{"nekoq.json", `{"items":[{` + item + `,"parts":[{"kind":"history","number":1,"by":"promote","name":"a b","type":"text"}]}]}`, "default/app/k", "x", "_more/default/app/k/history/1", "y"}},
	} {
		_, err := f.conf.Import(f.ctx, client.ConfImport{Archive: zipped(t, c.files...)})
		f.refused(err, errs.InvalidArgument, c.text)
	}
	_, err := f.conf.Import(f.ctx, client.ConfImport{Archive: make([]byte, 13<<20)})
	f.refused(err, errs.TooLarge, "in parts, or over REST")
}

// lossy is a connection whose next answer is lost, with the connection, when it is
// armed.
type lossy struct {
	net.Conn
	armed *atomic.Bool
}

func (l lossy) Read(b []byte) (int, error) {
	n, err := l.Conn.Read(b)
	if n > 0 && l.armed.CompareAndSwap(true, false) {
		_ = l.Conn.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

// What uses up a draft or a gray release is carried out once, and told so, when the
// answer is lost and the client asks again.
func TestPublishedOnceWhenTheAnswerIsLost(t *testing.T) {
	f := start(t)
	var armed atomic.Bool
	c, err := client.New(client.Config{
		Endpoints: []string{"test:1"}, BackoffMin: time.Millisecond, BackoffMax: 5 * time.Millisecond,
		Dialer: func(ctx context.Context, _ string) (net.Conn, error) {
			nc, err := f.sw.App().Dial(ctx)
			return lossy{nc, &armed}, err
		},
	})
	f.ok(err)
	defer func() { _ = c.Close() }()
	cc, a := c.Conf(), at("default/app/k")
	_, err = cc.Publish(f.ctx, client.ConfPublish{Direct: true, WriteRequest: client.ConfWrite{Address: a, Bytes: []byte("one")}})
	f.ok(err)
	_, err = cc.Draft(f.ctx, client.ConfWrite{Address: a, Bytes: []byte("two")})
	f.ok(err)
	_, err = cc.Gray(f.ctx, client.ConfGray{Address: a, Name: "g", Rule: &client.ConfRule{Percent: 5}, Bytes: []byte("three"), HasContent: true})
	f.ok(err)
	armed.Store(true)
	it, err := cc.Publish(f.ctx, client.ConfPublish{WriteRequest: client.ConfWrite{Address: a}})
	f.ok(err)
	if it.Release.Number != 2 || armed.Load() {
		t.Fatalf("%+v", it.Release)
	}
	armed.Store(true)
	it, err = cc.GrayPromote(f.ctx, a, "g", "")
	f.ok(err)
	if it.Release.Number != 3 || armed.Load() {
		t.Fatalf("%+v", it.Release)
	}
	_, err = cc.Publish(f.ctx, client.ConfPublish{WriteRequest: client.ConfWrite{Address: a}})
	f.refused(err, errs.FailedPrecond, "has no draft")
	_, err = cc.Rollback(f.ctx, client.ConfRollback{Address: a, Number: 9})
	f.refused(err, errs.NotFound, "no release 9")
	h, err := cc.History(f.ctx, a, 0)
	f.ok(err)
	if len(h) != 3 {
		t.Fatalf("%+v", h)
	}
	_, err = cc.Rollback(f.ctx, client.ConfRollback{Address: at("default/app/none"), Number: 1})
	f.refused(err, errs.NotFound, "there is no item")
	if !strings.Contains(err.Error(), "default/app/none") {
		t.Fatal(err)
	}
}
