package conf_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"nekoq/client"
	"nekoq/services/errs"
	"nekoq/services/localswitch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is a whole NekoQ with a tree of areas three deep.
type fixture struct {
	t    *testing.T
	sw   *localswitch.Switch
	conf client.Conf
	ctx  context.Context
}

func start(t *testing.T) *fixture {
	t.Helper()
	return on(t, localswitch.ForTest(t))
}

func on(t *testing.T, sw *localswitch.Switch) *fixture {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	f := &fixture{t: t, sw: sw, conf: sw.Client().Conf(), ctx: ctx}
	for _, a := range [][2]string{{"eu", "default"}, {"north", "eu"}} {
		if _, err := sw.Client().Areas().Create(ctx, a[0], a[1], ""); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// at reads area/group/key.
func at(path string) client.ConfAddress {
	p := strings.SplitN(path, "/", 3)
	return client.ConfAddress{Area: p[0], Group: p[1], Key: p[2]}
}

func (f *fixture) publish(path, content string) client.ConfItem {
	f.t.Helper()
	it, err := f.tryPublish(path, content)
	if err != nil {
		f.t.Fatal(err)
	}
	return it
}

func (f *fixture) tryPublish(path, content string) (client.ConfItem, error) {
	return f.conf.Publish(f.ctx, client.ConfPublish{Direct: true, WriteRequest: client.ConfWrite{Address: at(path), Bytes: []byte(content)}})
}

func (f *fixture) ok(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) refused(err error, code errs.Code, text string) {
	f.t.Helper()
	if !errs.Has(err, code) || !strings.Contains(err.Error(), text) {
		f.t.Fatalf("%v, want %s with %q", err, code, text)
	}
}

// gets checks what a client gets, as key=content pairs in order.
func (f *fixture) gets(q client.ConfQuery, want string) client.ConfEffective {
	f.t.Helper()
	e, err := f.conf.GetAll(f.ctx, q)
	f.ok(err)
	var got []string
	for _, v := range e.Values {
		got = append(got, v.Key+"="+string(v.Bytes))
	}
	if s := strings.Join(got, " "); s != want {
		f.t.Fatalf("%+v gets %q, want %q", q, s, want)
	}
	return e
}

func TestInheritanceShowsItsOrigin(t *testing.T) {
	f := start(t)
	f.publish("default/app/a", "top")
	f.publish("default/app/b", "top")
	f.publish("eu/app/b", "eu")
	f.publish("north/app/c", "north")
	e := f.gets(client.ConfQuery{Area: "north", Group: "app"}, "a=top b=eu c=north")
	if o := e.Values[1].Origin; o.Area != "eu" || o.Via != "own" || o.Release != 1 || e.Values[1].Revision == 0 {
		t.Fatalf("%+v", o)
	}
	f.gets(client.ConfQuery{Area: "eu", Group: "app"}, "a=top b=eu")
	f.gets(client.ConfQuery{Group: "app"}, "a=top b=top")
	if v, err := f.conf.Get(f.ctx, "north", "app", "b"); err != nil || v.Text() != "eu" {
		t.Fatal(v, err)
	}
	_, err := f.conf.Get(f.ctx, "north", "app", "zz")
	f.refused(err, errs.NotFound, "zz")
	_, err = f.conf.GetAll(f.ctx, client.ConfQuery{Area: "nowhere", Group: "app"})
	f.refused(err, errs.NotFound, "nowhere")
	// A move of the area changes what is inherited.
	to := "default"
	_, err = f.sw.Client().Areas().Update(f.ctx, client.AreaChanges{Name: "north", Parent: &to})
	f.ok(err)
	f.gets(client.ConfQuery{Area: "north", Group: "app"}, "a=top b=top c=north")
	f.refused(f.sw.Client().Areas().Delete(f.ctx, "north"), errs.Conflict, "config items")
	_, err = f.conf.Delete(f.ctx, at("north/app/c"), "")
	f.ok(err)
	f.ok(f.sw.Client().Areas().Delete(f.ctx, "north"))
}

// row: stardust 8: asking with the current version returns no values; drafts are
// invisible until published; history and rollback.
func TestDraftPublishHistoryRollback(t *testing.T) {
	f := start(t)
	a := at("default/app/k")
	_, err := f.conf.Draft(f.ctx, client.ConfWrite{Address: a, Bytes: []byte("one"), Comment: "first"})
	f.ok(err)
	e := f.gets(client.ConfQuery{Group: "app"}, "")
	it, err := f.conf.Publish(f.ctx, client.ConfPublish{WriteRequest: client.ConfWrite{Address: a}})
	f.ok(err)
	if it.Draft != nil || it.Release.Number != 1 || it.Release.Comment != "first" {
		t.Fatalf("%+v", it)
	}
	now := f.gets(client.ConfQuery{Group: "app", Hash: e.Hash}, "k=one")
	same := f.gets(client.ConfQuery{Group: "app", Hash: now.Hash}, "")
	if !now.Changed || same.Changed || same.Hash != now.Hash {
		t.Fatalf("%+v then %+v", now, same)
	}
	f.publish("default/app/k", "two\nlines")
	d, err := f.conf.Diff(f.ctx, a, "1", "release")
	f.ok(err)
	if d.Equal || !strings.Contains(d.Unified, "-one") || !strings.Contains(d.Unified, "+two") {
		t.Fatal(d.Unified)
	}
	_, err = f.conf.Rollback(f.ctx, client.ConfRollback{Address: a, Number: 1, Comment: "two was bad"})
	f.ok(err)
	f.gets(client.ConfQuery{Group: "app"}, "k=one")
	_, err = f.conf.Delete(f.ctx, a, "no use")
	f.ok(err)
	f.gets(client.ConfQuery{Group: "app"}, "")
	h, err := f.conf.History(f.ctx, a, 0)
	f.ok(err)
	var got []string
	for _, r := range h {
		got = append(got, r.By+":"+r.Comment)
		if r.Actor != "native:anonymous" && r.Actor != "native:go-client" || r.Time.IsZero() || r.Revision == 0 {
			t.Fatalf("%+v", r)
		}
	}
	if s := strings.Join(got, " "); s != "delete:no use rollback:two was bad publish: publish:first" {
		t.Fatal(s)
	}
	_, err = f.conf.Rollback(f.ctx, client.ConfRollback{Address: a, Number: 2})
	f.ok(err)
	f.gets(client.ConfQuery{Group: "app"}, "k=two\nlines")
	c, err := f.conf.Item(f.ctx, a, "1")
	f.ok(err)
	if string(c.Bytes) != "one" {
		t.Fatalf("%+v", c)
	}
	_, err = f.conf.Item(f.ctx, a, "draft")
	f.refused(err, errs.NotFound, "draft")
	_, err = f.conf.Item(f.ctx, a, "nonsense")
	f.refused(err, errs.InvalidArgument, "which:")
	_, err = f.conf.Diff(f.ctx, a, "1", "nonsense")
	f.refused(err, errs.InvalidArgument, "to:")
	_, err = f.conf.Diff(f.ctx, a, "draft", "1")
	f.refused(err, errs.NotFound, "from:")
}

func TestContentsAreValidated(t *testing.T) {
	f := start(t)
	for path, content := range map[string]string{
		"default/app/a.json": `{"a":1,}`, "default/app/a.yaml": "a: [1", "default/app/a.toml": "a = ", "default/app/a.properties": "a=\\u12",
		"default/app/b.json": `{"a":1} x`, "default/app/text": "\xff",
	} {
		_, err := f.tryPublish(path, content)
		f.refused(err, errs.InvalidArgument, "content")
	}
	for path, content := range map[string]string{
		"default/app/a.json": `{"a":1}`, "default/app/a.yml": "a: 1\n---\nb: 2\n", "default/app/a.toml": "a = 1", "default/app/a.properties": "a=${b}\nb=1", "default/app/text": "{",
	} {
		f.publish(path, content)
	}
	_, err := f.conf.Draft(f.ctx, client.ConfWrite{Address: at("default/app/x"), Type: "xml", Bytes: []byte("x")})
	f.refused(err, errs.InvalidArgument, "properties")
	for _, bad := range []client.ConfAddress{{Area: "a b", Group: "g", Key: "k"}, {Area: "eu", Group: "g/h", Key: "k"}, {Area: "eu", Group: "g", Key: ".."}, {Area: "eu", Group: "g"}} {
		_, err := f.conf.Draft(f.ctx, client.ConfWrite{Address: bad, Bytes: []byte("x")})
		f.refused(err, errs.InvalidArgument, "want")
	}
	_, err = f.tryPublish("nowhere/app/k", "x")
	f.refused(err, errs.NotFound, "nowhere")
	_, err = f.tryPublish("default/app/big", strings.Repeat("x", 10<<20+1))
	f.refused(err, errs.TooLarge, "10485760")
	f.publish("default/big/big", strings.Repeat("\x01", 10<<20))
	if v, err := f.conf.Get(f.ctx, "", "big", "big"); err != nil || len(v.Bytes) != 10<<20 {
		t.Fatal(len(v.Bytes), err)
	}
}

func TestSchema(t *testing.T) {
	f := start(t)
	f.publish("default/app/a.yaml", "port: 80")
	a := at("default/app/a.yaml")
	set := func(schema string) error {
		_, err := f.conf.Settings(f.ctx, client.ConfSettings{Address: a, Schema: &schema})
		return err
	}
	f.refused(set(`{`), errs.InvalidArgument, "schema")
	f.refused(set(`{"type":"nothing"}`), errs.InvalidArgument, "schema")
	f.refused(set(`{"$ref":"file:///etc/passwd"}`), errs.InvalidArgument, "outside")
	f.refused(set(`{"properties":{"port":{"type":"string"}}}`), errs.Conflict, "release")
	f.ok(set(`{"properties":{"port":{"type":"integer"}},"required":["port"]}`))
	_, err := f.tryPublish("default/app/a.yaml", "port: high")
	f.refused(err, errs.InvalidArgument, "port")
	_, err = f.tryPublish("default/app/a.yaml", "host: x")
	f.refused(err, errs.InvalidArgument, "port")
	f.publish("default/app/port", "8080")
	f.publish("default/app/a.yaml", "port: ${app/port}")
	f.gets(client.ConfQuery{Group: "app", Key: "a.yaml"}, "a.yaml=port: 8080")
	f.ok(set(""))
	f.publish("default/app/a.yaml", "port: high")
}

// row: stardust 9: own over quoted over global keys; ${key@app:scope} resolved; _
// keys hidden; read-only enforced; scope by IP rule.
func TestComposition(t *testing.T) {
	f := start(t)
	f.publish("default/global/a", "global")
	f.publish("default/global/b", "global")
	f.publish("default/global/c", "global")
	f.publish("default/lib/b", "lib")
	f.publish("default/lib/c", "lib")
	f.publish("default/app/c", "own")
	f.publish("default/app/_secret", "s3cret")
	f.publish("eu/app/_secret", "geheim")
	f.publish("default/app/url", "x:${app/_secret} ${_secret@app:eu} ${HOME} $${app/c} ${app/nope}")
	_, err := f.conf.PutGroup(f.ctx, client.ConfGroup{Name: "app", Quotes: []string{"lib"}})
	f.ok(err)
	e := f.gets(client.ConfQuery{Group: "app"}, "a=global b=lib c=own url=x:s3cret geheim ${HOME} ${app/c} ${app/nope}")
	if e.Values[0].Origin.Via != "global" || e.Values[1].Origin.Via != "quoted" || e.Values[2].Origin.Via != "own" {
		t.Fatalf("%+v", e.Values)
	}
	if p := e.Values[3].Problems; len(p) != 1 || !strings.Contains(p[0], "app/nope") {
		t.Fatal(p)
	}
	f.gets(client.ConfQuery{Area: "north", Group: "app", Key: "url"}, "url=x:geheim geheim ${HOME} ${app/c} ${app/nope}")
	_, err = f.conf.Get(f.ctx, "", "app", "_secret")
	f.refused(err, errs.NotFound, "_secret")

	_, err = f.conf.PutScope(f.ctx, client.ConfScope{Name: "eu-net", Rule: client.ConfRule{IPs: []string{"10.0.0.0/8"}}, Area: "eu"})
	f.ok(err)
	e = f.gets(client.ConfQuery{Group: "app", Key: "url", IP: "10.1.2.3"}, "url=x:geheim geheim ${HOME} ${app/c} ${app/nope}")
	if e.Area != "eu" {
		t.Fatal(e.Area)
	}
	f.gets(client.ConfQuery{Group: "app", Key: "url", IP: "11.1.2.3"}, "url=x:s3cret geheim ${HOME} ${app/c} ${app/nope}")
	f.refused(f.sw.Client().Areas().Delete(f.ctx, "eu"), errs.Conflict, "below")

	yes := true
	_, err = f.conf.Settings(f.ctx, client.ConfSettings{Address: at("default/app/c"), ReadOnly: &yes})
	f.ok(err)
	_, err = f.tryPublish("default/app/c", "other")
	f.refused(err, errs.FailedPrecond, "read-only")
}

func TestReferencesThatCannotWork(t *testing.T) {
	f := start(t)
	_, err := f.tryPublish("default/app/a", "${app/a}")
	f.refused(err, errs.InvalidArgument, "loop")
	f.publish("default/app/a", "${app/b}") // b may come yet
	_, err = f.tryPublish("default/app/b", "${a@app}")
	f.refused(err, errs.InvalidArgument, "loop")
	f.publish("default/app/b", "end")
	f.gets(client.ConfQuery{Group: "app"}, "a=end b=end")
	// A loop that a move of an area closes shows when it is read.
	_, err = f.sw.Client().Areas().Create(f.ctx, "south", "", "")
	f.ok(err)
	f.publish("default/other/x", "end")
	f.publish("south/other/x", "${app/a}")
	f.publish("eu/app/b", "${other/x}")
	under := "eu"
	_, err = f.sw.Client().Areas().Update(f.ctx, client.AreaChanges{Name: "south", Parent: &under})
	f.ok(err)
	e, err := f.conf.GetAll(f.ctx, client.ConfQuery{Area: "south", Group: "app", Key: "a"})
	f.ok(err)
	if len(e.Values[0].Problems) != 1 || !strings.Contains(e.Values[0].Problems[0], "loop") {
		t.Fatalf("%+v", e.Values)
	}
	prev := "leaf"
	for i := range 8 {
		name := "n" + string(rune('0'+i))
		f.publish("default/deep/"+name, prev)
		prev = "${deep/" + name + "}"
	}
	f.publish("default/deep/ok", prev)
	_, err = f.tryPublish("default/deep/more", "${deep/ok}")
	f.refused(err, errs.InvalidArgument, "deeper")
	// References that double each time end at the limit of a content.
	f.publish("default/laugh/l0", strings.Repeat("ha", 1<<18))
	f.publish("default/laugh/l1", strings.Repeat("${laugh/l0}", 10))
	_, err = f.tryPublish("default/laugh/l2", strings.Repeat("${laugh/l1}", 10))
	f.refused(err, errs.InvalidArgument, "larger")
}
