package conf_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"nekoq/client"
	"nekoq/configs"
	"nekoq/services/errs"
	"nekoq/services/localswitch"
	"nekoq/services/testkit/fakeclock"
	"nekoq/warehouse/conf"
	"nekoq/warehouse/conf/api"
)

func stopped(t *testing.T, sw *localswitch.Switch) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := sw.Stop(ctx); err != nil {
		t.Error(err)
	}
}

func changed(t *testing.T, clk *fakeclock.Clock, change func(*conf.Config)) *fixture {
	t.Helper()
	o := localswitch.Options{Change: func(c *configs.Config) { change(&c.Config) }}
	if clk != nil {
		o.Clock = clk
	}
	sw, err := localswitch.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopped(t, sw) })
	return on(t, sw)
}

// eventually polls what another goroutine decides.
func (f *fixture) eventually(what string, ok func() bool) {
	f.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-f.ctx.Done():
			f.t.Fatalf("never came true: %s", what)
		}
	}
}

func TestGrayReleases(t *testing.T) {
	f := start(t)
	a := at("default/app/k")
	f.publish("default/app/k", "all")
	gray := func(r client.ConfGray, content string) error {
		r.Address, r.HasContent, r.Bytes = a, true, []byte(content)
		_, err := f.conf.Gray(f.ctx, r)
		return err
	}
	f.ok(gray(client.ConfGray{Name: "net", Priority: new(2), Rule: &client.ConfRule{IPs: []string{"10.0.0.0/8", "fd00::1-fd00::ff"}}}, "net"))
	f.ok(gray(client.ConfGray{Name: "vip", Priority: new(3), Rule: &client.ConfRule{Labels: map[string][]string{"tier": {"gold", "vip"}}}}, "vip"))
	f.ok(gray(client.ConfGray{Name: "some", Priority: new(1), Rule: &client.ConfRule{Percent: 20}}, "some"))
	base := client.ConfQuery{Group: "app", Client: "fixed"}
	one := func(ip string, labels map[string]string) string {
		q := base
		q.IP, q.Labels = ip, labels
		e, err := f.conf.GetAll(f.ctx, q)
		f.ok(err)
		return string(e.Values[0].Bytes)
	}
	for _, c := range []struct {
		ip     string
		labels map[string]string
		want   string
	}{
		{"10.255.0.1", nil, "net"},
		{"::ffff:10.1.1.1", nil, "net"},
		{"fd00::5", nil, "net"},
		{"10.0.0.1", map[string]string{"tier": "vip"}, "vip"},
		{"11.0.0.1", map[string]string{"tier": "gold"}, "vip"},
	} {
		if got := one(c.ip, c.labels); got != c.want {
			t.Errorf("%+v gets %s", c, got)
		}
	}
	share := func() map[string]bool {
		in := map[string]bool{}
		for i := range 1000 {
			base.Client = fmt.Sprint("client-", i)
			if one("11.0.0.1", nil) == "some" {
				in[base.Client] = true
			}
		}
		return in
	}
	few := share()
	if len(few) < 140 || len(few) > 260 {
		t.Fatalf("20 %% are %d of 1000", len(few))
	}
	_, err := f.conf.Gray(f.ctx, client.ConfGray{Address: a, Name: "some", Rule: &client.ConfRule{Percent: 50}})
	f.ok(err)
	more := share()
	for c := range few {
		if !more[c] {
			t.Fatalf("%s fell out when the share grew", c)
		}
	}
	_, err = f.conf.GrayPromote(f.ctx, a, "vip", "")
	f.ok(err)
	for _, name := range []string{"net", "some"} {
		_, err = f.conf.GrayDrop(f.ctx, a, name)
		f.ok(err)
	}
	f.gets(client.ConfQuery{Group: "app", IP: "10.0.0.1"}, "k=vip")
	f.refused(gray(client.ConfGray{Name: "x", Rule: &client.ConfRule{}}, "x"), errs.InvalidArgument, "at least one")
	f.refused(gray(client.ConfGray{Name: "x", Rule: &client.ConfRule{IPs: []string{"10.0.0.0/99"}}}, "x"), errs.InvalidArgument, "10.0.0.0/99")
	f.refused(gray(client.ConfGray{Name: "x", Rule: &client.ConfRule{Percent: 101}}, "x"), errs.InvalidArgument, "0.01 to 100")
}

// row: stardust 8: scheduled publish, and clients are notified.
func TestSchedule(t *testing.T) {
	clk := fakeclock.New(time.Time{})
	f := changed(t, clk, func(*conf.Config) {})
	a := at("default/app/k")
	soon := clk.Now().Add(time.Hour)
	it, err := f.conf.Publish(f.ctx, client.ConfPublish{Direct: true, At: &soon, WriteRequest: client.ConfWrite{Address: a, Bytes: []byte("later")}})
	f.ok(err)
	if it.Scheduled == nil || it.Release != nil {
		t.Fatalf("%+v", it)
	}
	past := clk.Now().Add(-time.Second)
	_, err = f.conf.Publish(f.ctx, client.ConfPublish{Direct: true, At: &past, WriteRequest: client.ConfWrite{Address: a, Bytes: []byte("x")}})
	f.refused(err, errs.InvalidArgument, "from now on")
	l, err := f.sw.App().Conf().Listen(f.ctx, api.EffectiveRequest{Group: "app"}, conf.Peer{})
	f.ok(err)
	defer l.Close()
	e, err := l.Next(f.ctx)
	f.ok(err)
	if len(e.Values) != 0 {
		t.Fatalf("%+v", e)
	}
	f.eventually("the schedule fires", func() bool {
		clk.Advance(time.Minute)
		c, err := f.conf.Item(f.ctx, a, "")
		f.ok(err)
		if c.Release == nil && clk.Now().After(soon.Add(10*time.Minute)) {
			return false
		}
		if c.Release != nil && c.Release.Time.Before(soon) {
			t.Fatalf("published at %s, before %s", c.Release.Time, soon)
		}
		return c.Release != nil
	})
	if e, err = l.Next(f.ctx); err != nil || string(e.Values[0].Bytes) != "later" {
		t.Fatal(e, err)
	}
	h, err := f.conf.History(f.ctx, a, 0)
	f.ok(err)
	if len(h) != 1 || h[0].By != api.BySchedule {
		t.Fatalf("%+v", h)
	}
}

func TestRetention(t *testing.T) {
	clk := fakeclock.New(time.Time{})
	f := changed(t, clk, func(c *conf.Config) { c.HistoryAge, c.HistoryCount, c.RetentionInterval = time.Hour, 3, time.Minute })
	for i := range 6 {
		f.publish("default/app/k", fmt.Sprint("v", i))
	}
	f.publish("default/app/gone", "x")
	_, err := f.conf.Delete(f.ctx, at("default/app/gone"), "")
	f.ok(err)
	numbers := func() string {
		h, err := f.conf.History(f.ctx, at("default/app/k"), 0)
		f.ok(err)
		out := ""
		for _, r := range h {
			out += fmt.Sprint(r.Number, " ")
		}
		return out
	}
	f.eventually("the count is kept", func() bool { clk.Advance(30 * time.Second); return numbers() == "6 5 4 " })
	if _, err := f.conf.History(f.ctx, at("default/app/gone"), 0); err != nil {
		t.Fatal(err)
	}
	clk.Advance(2 * time.Hour)
	f.eventually("the age is kept", func() bool { clk.Advance(30 * time.Second); return numbers() == "6 " })
	f.eventually("a deleted item is forgotten", func() bool {
		_, err := f.conf.History(f.ctx, at("default/app/gone"), 0)
		return errs.Has(err, errs.NotFound)
	})
	f.gets(client.ConfQuery{Group: "app"}, "k=v5")
}

// What does not change what a client gets wakes nobody.
func TestListenersWakeOnlyForWhatTheyGet(t *testing.T) {
	f := start(t)
	svc := f.sw.App().Conf()
	f.publish("default/app/k", "one")
	listen := func(r api.EffectiveRequest) *conf.Listening {
		l, err := svc.Listen(f.ctx, r, conf.Peer{Addr: "10.0.0.1", Door: "test"})
		f.ok(err)
		t.Cleanup(l.Close)
		_, err = l.Next(f.ctx)
		f.ok(err)
		return l
	}
	all, key := listen(api.EffectiveRequest{Area: "north", Group: "app", Client: "c1"}), listen(api.EffectiveRequest{Group: "app", Key: "other", Client: "c2"})
	for _, change := range []func(){
		func() { f.publish("default/other/x", "y") },
		func() { f.publish("default/app/_hidden", "y") },
		func() {
			_, err := f.conf.Draft(f.ctx, client.ConfWrite{Address: at("default/app/k"), Bytes: []byte("draft")})
			f.ok(err)
		},
		func() { f.publish("eu/app/k", "one") }, // another origin, the same content
		func() {
			_, err := f.conf.Gray(f.ctx, client.ConfGray{Address: at("eu/app/k"), Name: "g", Rule: &client.ConfRule{IPs: []string{"1.1.1.1"}}, HasContent: true, Bytes: []byte("z")})
			f.ok(err)
		},
	} {
		change()
		short, cancel := context.WithTimeout(f.ctx, 20*time.Millisecond)
		if e, err := all.Next(short); !errs.Has(err, errs.DeadlineExceeded) {
			t.Fatalf("woken with %+v %v", e, err)
		}
		cancel()
	}
	f.publish("default/app/other", "new")
	for _, l := range []*conf.Listening{all, key} {
		e, err := l.Next(f.ctx)
		f.ok(err)
		if v := e.Values[len(e.Values)-1]; v.Key != "other" || string(v.Bytes) != "new" {
			t.Fatalf("%+v", e)
		}
	}
	list, err := f.conf.Listeners(f.ctx, "", "app", "")
	f.ok(err)
	if len(list) != 2 || list[0].Client != "c2" || list[1].Hash != all.Hash() || list[1].Area != "north" || list[1].Addr != "10.0.0.1" {
		t.Fatalf("%+v", list)
	}
	if l, err := f.conf.Listeners(f.ctx, "eu", "", ""); err != nil || len(l) != 0 {
		t.Fatal(l, err)
	}
}

func TestCloneCompareImportExport(t *testing.T) {
	f := start(t)
	f.publish("default/app/a.json", `{"a":1}`)
	f.publish("default/app/_b", "hidden")
	schema, text := `{"type":"object"}`, "about a"
	_, err := f.conf.Settings(f.ctx, client.ConfSettings{Address: at("default/app/a.json"), Schema: &schema, Description: &text})
	f.ok(err)
	clone := client.ConfClone{FromArea: "default", FromGroup: "app", ToArea: "eu", ToGroup: "app2"}
	o, err := f.conf.Clone(f.ctx, clone)
	f.ok(err)
	if len(o.Steps) != 2 || o.Steps[0].Did != "create" || o.Revision == 0 {
		t.Fatalf("%+v", o)
	}
	c, err := f.conf.Item(f.ctx, at("eu/app2/a.json"), "schema")
	f.ok(err)
	if string(c.Bytes) != schema || c.Description != text || c.Release.By != api.ByClone {
		t.Fatalf("%+v", c)
	}
	if o, err = f.conf.Clone(f.ctx, clone); err != nil || o.Steps[0].Did != "same" || o.Revision != 0 {
		t.Fatal(o, err)
	}
	f.publish("eu/app2/a.json", `{"a":2}`)
	f.publish("eu/app2/only", "x")
	_, err = f.conf.Clone(f.ctx, clone)
	f.refused(err, errs.AlreadyExists, "eu/app2/a.json")
	cmp, err := f.conf.Compare(f.ctx, client.ConfCompare{LeftArea: "default", LeftGroup: "app", RightArea: "eu", RightGroup: "app2", Diff: true})
	f.ok(err)
	got := ""
	for _, k := range cmp.Keys {
		got += k.Key + "=" + k.Status + " "
	}
	if got != "_b=same a.json=differs only=right " || cmp.Same || !strings.Contains(cmp.Keys[1].Unified, `+{"a":2}`) {
		t.Fatalf("%s %+v", got, cmp)
	}
	clone.Keys, clone.IfExists, clone.Draft = []string{"a.json"}, api.IfExistsOverwrite, true
	if o, err = f.conf.Clone(f.ctx, clone); err != nil || o.Steps[0].Did != "change" {
		t.Fatal(o, err)
	}
	f.gets(client.ConfQuery{Area: "eu", Group: "app2", Key: "a.json"}, `a.json={"a":2}`)

	var zip bytes.Buffer
	f.ok(f.sw.App().Conf().WriteArchive(f.ctx, api.ExportRequest{}, &zip))
	other := start(t)
	if o, err = other.conf.Import(f.ctx, client.ConfImport{Archive: zip.Bytes()}); err != nil || len(o.Steps) != 5 {
		t.Fatal(o, err)
	}
	if c, err = other.conf.Item(f.ctx, at("default/app/a.json"), "schema"); err != nil || string(c.Bytes) != schema {
		t.Fatal(c, err)
	}
	_, err = other.conf.Import(f.ctx, client.ConfImport{Archive: []byte("no zip")})
	f.refused(err, errs.InvalidArgument, "zip")
	_, err = other.conf.Import(f.ctx, client.ConfImport{Archive: zip.Bytes(), IfExists: "perhaps"})
	f.refused(err, errs.InvalidArgument, "overwrite")
}

type reply struct {
	status int
	body   string
	etag   string
	json   map[string]any
}

// http asks, with headers as name and value in turn.
func (f *fixture) http(method, path, body string, header ...string) reply {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.ctx, method, "http://nekoq/v1/warehouse/config"+path, strings.NewReader(body))
	f.ok(err)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := f.sw.HTTPClient().Do(req)
	f.ok(err)
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	f.ok(err)
	out := reply{status: res.StatusCode, body: string(b), etag: res.Header.Get("ETag")}
	_ = json.Unmarshal(b, &out.json)
	return out
}

func TestREST(t *testing.T) {
	f := start(t)
	const k = "/items/default/app/k.json"
	for _, s := range []struct {
		method, path, body string
		status             int
		has                string
	}{
		{"PUT", k + "/draft", `{"content":"{\"a\":1}","comment":"first"}`, 200, `"draft"`},
		{"GET", "/effective/app", "", 200, `"changed":true`},
		{"POST", k + "/publish", "", 200, `"number":1`},
		{"POST", k + "/publish", `{"content":"{\"a\":2}"}`, 200, `"number":2`},
		{"GET", k, "", 200, `"content":"{\"a\":2}"`},
		{"GET", k + "?which=1", "", 200, `"content":"{\"a\":1}"`},
		{"GET", k + "/diff?from=1&to=2", "", 200, `"unified"`},
		{"POST", k + "/rollback", `{"number":1}`, 200, `"from":1`},
		{"GET", k + "/history", "", 200, `"actor":"http:anonymous"`},
		{"GET", k + "/history?limit=1", "", 200, `"next_page_token"`},
		{"GET", "/effective/app/k.json?area=eu", "", 200, `"via":"own"`},
		{"PUT", k + "/gray/g", `{"rule":{"ips":["10.0.0.0/8"]},"content":"{}"}`, 200, `"gray"`},
		{"GET", "/effective/app/k.json?ip=10.0.0.1", "", 200, `"content":"{}"`},
		{"POST", k + "/gray/g/promote", "", 200, `"by":"promote"`},
		{"PATCH", k, `{"read_only":true}`, 200, `"read_only":true`},
		{"DELETE", k, "", 412, "read-only"},
		{"PATCH", k, `{"read_only":false,"schema":"{\"required\":[\"a\"]}"}`, 409, "release"},
		{"PATCH", k, `{"read_only":false}`, 200, ``},
		{"GET", "/items?area=default&limit=1", "", 200, `"k.json"`},
		{"GET", "/items?group=x", "", 400, `"field":"area"`},
		{"GET", "/items?area=nowhere", "", 404, `"field":"area"`},
		{"GET", "/listeners?area=nowhere", "", 404, `"field":"area"`},
		{"GET", "/export?area=eu&group=none", "", 404, `"field":"group"`},
		{"GET", "/effective/app?stale=1", "", 200, `"changed":true`},
		{"GET", "/effective/app?stale=soon", "", 400, "true or false"},
		{"GET", "/effective/app?labels=a=1,a=2", "", 400, "each name once"},
		{"GET", "/effective/app?client=%ff", "", 400, "UTF-8"},
		{"GET", "/items?prefix=x&area=eu", "", 400, `"field":"group"`},
		{"PUT", "/items/default/app/bad%20key/draft", `{"content":"x"}`, 400, "letters, digits"},
		{"PUT", "/items/nowhere/app/k/draft", `{"content":"x"}`, 404, `"field":"area"`},
		{"PUT", k + "/draft", `{"content":"{"}`, 400, "line 1"},
		{"PUT", k + "/draft", `{"content":"{}","content_type":"xml"}`, 400, "content_type"},
		{"PUT", k + "/draft", `{"contents":"{}"}`, 400, "did you mean content?"},
		{"PUT", k + "/draft", `{"content":"{}","comment":"` + strings.Repeat("x", 257) + `"}`, 400, "256 bytes"},
		{"PUT", k + "/draft?if_revision=0", `{"content":"{}"}`, 409, "revision_mismatch"},
		{"PUT", k + "/draft?if_revision=x", `{"content":"{}"}`, 400, "if_revision"},
		{"POST", k + "/publish", "", 412, "draft"},
		{"POST", k + "/publish", `{"content":"{}","at":"2001-01-01T00:00:00Z"}`, 400, "from now on"},
		{"POST", k + "/publish", `{"content_type":"json"}`, 400, "draft has its own"},
		{"POST", k + "/rollback", `{"number":99}`, 404, "99"},
		{"POST", k + "/rollback", `{}`, 400, "number"},
		{"PUT", k + "/gray/g", `{"content":"{}"}`, 400, "rule"},
		{"PUT", k + "/gray/g", `{"rule":{"percent":200},"content":"{}"}`, 400, "0.01 to 100"},
		{"DELETE", k + "/gray/none", "", 404, "none"},
		{"DELETE", k + "/schedule", "", 412, "schedule"},
		{"GET", k + "?which=gray:none", "", 404, "gray:none"},
		{"GET", k + "/diff?from=1", "", 400, "to"},
		{"GET", "/items/default/app/none/history", "", 404, "none"},
		{"GET", "/effective/app/none", "", 404, "none"},
		{"GET", "/effective/app?area=nowhere", "", 404, "nowhere"},
		{"GET", "/effective/app?ip=x", "", 400, "IP address"},
		{"GET", "/effective/app?labels=x", "", 400, "a=1,b=2"},
		{"GET", "/effective/app?wait=soon", "", 400, "http.max_wait"},
		{"GET", "/effective/app?stale=x", "", 400, "true or false"},
		{"GET", "/effective/app?hsah=x", "", 400, "hsah"},
		{"PUT", "/groups/app", `{"quotes":["lib"]}`, 200, `"lib"`},
		{"PUT", "/groups/app", `{"quotes":["app"]}`, 400, "other groups"},
		{"GET", "/groups", "", 200, `"app"`},
		{"DELETE", "/groups/app", "", 200, "revision"},
		{"DELETE", "/groups/app", "", 404, "app"},
		{"PUT", "/scopes/s", `{"rule":{"ips":["10.0.0.0/8"]},"area":"eu"}`, 200, `"eu"`},
		{"PUT", "/scopes/s", `{"rule":{"ips":["10.0.0.0/8"]},"area":"nowhere"}`, 404, "nowhere"},
		{"GET", "/scopes", "", 200, `"s"`},
		{"DELETE", "/scopes/s", "", 200, "revision"},
		{"POST", "/clone", `{"from_area":"default","from_group":"app","to_area":"eu"}`, 200, `"create"`},
		{"POST", "/clone", `{"from_area":"default","from_group":"app","to_area":"default"}`, 400, "another group"},
		{"POST", "/clone", `{"from_area":"default","from_group":"none","to_area":"eu"}`, 404, "none"},
		{"GET", "/compare?left_area=default&left_group=app&right_area=eu", "", 200, `"same":true`},
		{"GET", "/compare?left_area=default&left_group=app", "", 400, "right_area"},
		{"GET", "/export?area=eu&group=app", "", 200, "nekoq.json"},
		{"GET", "/export?group=app", "", 400, "area"},
		{"POST", "/import?dry_run=maybe", "x", 400, "true or false"},
		{"POST", "/import", "x", 400, "zip"},
		{"GET", "/listeners", "", 200, `"listeners":[`},
		{"DELETE", k + "?comment=bye", "", 200, `"deleted":true`},
		{"GET", k, "", 404, "k.json"},
		{"GET", k + "/history", "", 200, `"by":"delete"`},
	} {
		if got := f.http(s.method, s.path, s.body); got.status != s.status || !strings.Contains(got.body, s.has) {
			t.Errorf("%s %s %s: %d %s; want %d with %q", s.method, s.path, s.body, got.status, got.body, s.status, s.has)
		}
	}
}

func TestLongPollAndStream(t *testing.T) {
	f := start(t)
	f.publish("default/app/k", "one")
	first := f.http("GET", "/effective/app", "")
	hash, _ := first.json["hash"].(string)
	if got := f.http("GET", "/effective/app?wait=20ms&hash="+hash, ""); got.json["changed"] != false || got.json["hash"] != hash || strings.Contains(got.body, "values") {
		t.Fatal(got.body)
	}
	done := make(chan reply, 1)
	go func() { done <- f.http("GET", "/effective/app?wait=20s&client=poller&hash="+hash, "") }()
	f.eventually("the poller is listed", func() bool {
		return strings.Contains(f.http("GET", "/listeners?group=app", "").body, "poller")
	})
	f.publish("default/app/k", "two")
	if got := <-done; got.json["changed"] != true || !strings.Contains(got.body, `"two"`) {
		t.Fatal(got.body)
	}
	if !strings.Contains(f.http("GET", "/listeners", "").body, "poller") {
		t.Fatal("between two polls a client is not listed")
	}
	srv := httptest.NewServer(f.sw.Handler())
	defer srv.Close()
	s := f.events(srv.URL, "")
	s.expect(`"content":"two"`)
	f.publish("default/app/k", "three")
	id := s.expect(`"content":"three"`)
	s.close()
	// What changed meanwhile comes at once, and only that.
	s = f.events(srv.URL, id)
	f.publish("default/app/k", "four")
	s.expect(`"content":"four"`)
	s.close()
	s = f.events(srv.URL, id)
	id = s.expect(`"content":"four"`)
	s.close()
	s = f.events(srv.URL, id)
	f.publish("default/app/k", "five")
	s.expect(`"content":"five"`)
	if strings.Contains(s.seen, "four") {
		t.Fatalf("a version that the reader has came again: %s", s.seen)
	}
	s.close()
	if s = f.events(srv.URL, "17"); s.res.StatusCode != http.StatusBadRequest {
		t.Fatal(s.res.Status)
	}
	s.close()
}

// events is an event stream of the group app.
type events struct {
	t      *testing.T
	res    *http.Response
	seen   string
	cancel context.CancelFunc
}

func (f *fixture) events(url, lastID string) *events {
	f.t.Helper()
	ctx, cancel := context.WithCancel(f.ctx)
	f.t.Cleanup(cancel)
	req, _ := http.NewRequestWithContext(ctx, "GET", url+"/v1/warehouse/config/effective/app", nil)
	req.Header.Set("Accept", "text/event-stream")
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	f.ok(err)
	return &events{t: f.t, res: res, cancel: cancel}
}

// expect reads on until the text has come, and gives the id of that event.
func (s *events) expect(text string) string {
	s.t.Helper()
	buf := make([]byte, 4096)
	for !strings.Contains(s.seen, text) {
		n, err := s.res.Body.Read(buf)
		if err != nil {
			s.t.Fatalf("the stream ended before %q: %v", text, err)
		}
		s.seen += string(buf[:n])
	}
	head := s.seen[:strings.Index(s.seen, text)]
	_, id, ok := strings.Cut(head[strings.LastIndex(head, "id: "):], " ")
	id, _, _ = strings.Cut(id, "\n")
	if !ok || id == "" {
		s.t.Fatalf("an event without an id: %s", s.seen)
	}
	return id
}

func (s *events) close() {
	s.cancel()
	_ = s.res.Body.Close()
}

type settings struct {
	Port int    `yaml:"port"`
	Host string `yaml:"host"`
}
