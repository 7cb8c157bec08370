package conf_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"nekoq/client"
	"nekoq/configs"
	"nekoq/services/app"
	"nekoq/services/auth/authtest"
	"nekoq/services/errs"
)

// Both doors ask before they act: about the item, for more where a hidden content
// shows, and about what a content refers to.
func TestDoorsAskTheAuthorizer(t *testing.T) {
	rec := authtest.DenyAll()
	refuse := rec.Answer
	cfg := configs.Default()
	cfg.Node.DataDir = ""
	a, err := app.New(cfg, app.Deps{Log: t.Output(), Auth: rec, InProcess: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := a.Stop(ctx); err != nil {
			t.Error(err)
		}
	}()
	// from questions are answered with yes, and the next with no.
	asked := ""
	from := 0
	rec.Answer = func(x authtest.Ask) error {
		if x.Resource.Service == "system" { // the client's session
			return nil
		}
		asked += fmt.Sprintf("%s %s; ", x.Action, x.Resource)
		if from--; from < 0 {
			return refuse(x)
		}
		return nil
	}
	c, err := client.New(client.Config{Endpoints: []string{"x"}, FailFast: true, Dialer: func(ctx context.Context, _ string) (net.Conn, error) { return a.Dial(ctx) }})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	ctx := t.Context()
	conf := c.Conf()
	item := at("eu/app/k")
	const writes = "write warehouse/config/eu/app/k; "
	for name, x := range map[string]struct {
		want string
		call func() error
	}{
		"draft": {writes, func() error {
			_, err := conf.Draft(ctx, client.ConfWrite{Address: item, Bytes: []byte("x")})
			return err
		}},
		"publish": {writes, func() error {
			_, err := conf.Publish(ctx, client.ConfPublish{WriteRequest: client.ConfWrite{Address: item}})
			return err
		}},
		"rollback": {writes, func() error {
			_, err := conf.Rollback(ctx, client.ConfRollback{Address: item, Number: 1})
			return err
		}},
		"delete":    {"delete warehouse/config/eu/app/k; ", func() error { _, err := conf.Delete(ctx, item, ""); return err }},
		"item":      {"read warehouse/config/eu/app/k; ", func() error { _, err := conf.Item(ctx, item, ""); return err }},
		"hidden":    {"admin warehouse/config/eu/app/_k; ", func() error { _, err := conf.Item(ctx, at("eu/app/_k"), ""); return err }},
		"settings":  {"admin warehouse/config/eu/app/k; ", func() error { _, err := conf.Settings(ctx, client.ConfSettings{Address: item}); return err }},
		"items":     {"read warehouse/config/eu/..eu0; ", func() error { _, err := conf.Items(ctx, "eu", "", "", false); return err }},
		"effective": {"read warehouse/config/eu/app/..eu/app0; ", func() error { _, err := conf.GetAll(ctx, client.ConfQuery{Area: "eu", Group: "app"}); return err }},
		"listen": {"watch warehouse/config/eu/app/..eu/app0; ", func() error {
			_, err := conf.Subscribe(ctx, client.ConfSubscription{Area: "eu", Group: "app"})
			return err
		}},
		"export": {"admin warehouse/config; ", func() error { return conf.Export(ctx, client.ConfExport{}, nil) }},
		"clone": {"admin warehouse/config/eu/app/..eu/app0; ", func() error {
			_, err := conf.Clone(ctx, client.ConfClone{FromArea: "eu", FromGroup: "app", ToArea: "us"})
			return err
		}},
		"scope": {"admin warehouse/config; ", func() error { return conf.DeleteScope(ctx, "s") }},
		"area":  {"admin warehouse/area/eu; ", func() error { _, err := c.Areas().Create(ctx, "eu", "", ""); return err }},
		"tree":  {"read warehouse/area; ", func() error { _, err := c.Areas().List(ctx, ""); return err }},
	} {
		asked, from = "", 0
		if err := x.call(); !errs.Has(err, errs.Forbidden) || asked != x.want {
			t.Errorf("native %s: %v, asked %q, want %q", name, err, asked, x.want)
		}
	}
	asked, from = "", 1
	if _, err := conf.Draft(ctx, client.ConfWrite{Address: item, Bytes: []byte("${other/_secret@us}")}); !errs.Has(err, errs.Forbidden) ||
		asked != writes+"read warehouse/config/us/other/_secret; " {
		t.Errorf("a reference: %v, asked %q", err, asked)
	}
	const base, k = "/v1/warehouse/config", "/v1/warehouse/config/items/eu/app/k"
	for _, x := range []struct {
		method, path, body string
		pass               int
		want               string
	}{
		{"GET", k, "", 0, "read warehouse/config/eu/app/k; "},
		{"GET", base + "/items/eu/app/_k", "", 1, "read warehouse/config/eu/app/_k; admin warehouse/config/eu/app/_k; "},
		{"GET", base + "/items/eu/app/_k/diff?from=1&to=2", "", 1, "read warehouse/config/eu/app/_k; admin warehouse/config/eu/app/_k; "},
		{"PUT", k + "/draft", `{"content":"${a/b}"}`, 1, writes + "read warehouse/config/eu/a/b; "},
		{"POST", k + "/publish", `{"content":"${a/b}"}`, 1, writes + "read warehouse/config/eu/a/b; "},
		{"PUT", k + "/gray/g", `{"content":"${a/b}"}`, 1, writes + "read warehouse/config/eu/a/b; "},
		{"PATCH", k, `{"read_only":true}`, 0, "admin warehouse/config/eu/app/k; "},
		{"DELETE", k, "", 0, "delete warehouse/config/eu/app/k; "},
		{"GET", base + "/effective/app?area=eu", "", 0, "read warehouse/config/eu/app/..eu/app0; "},
		{"GET", base + "/compare?left_area=eu&left_group=app&right_area=us", "", 1, "read warehouse/config/eu/app/..eu/app0; read warehouse/config/us/app/..us/app0; "},
		{"GET", base + "/export", "", 0, "admin warehouse/config; "},
		{"POST", base + "/import?area=eu", "x", 0, "admin warehouse/config/eu/..eu0; "},
		{"POST", base + "/clone", `{"from_area":"eu","from_group":"app","to_area":"us"}`, 0, "admin warehouse/config; "},
		{"PUT", "/v1/warehouse/areas/eu", "", 0, "admin warehouse/area/eu; "},
		{"GET", "/v1/warehouse/areas", "", 0, "read warehouse/area; "},
	} {
		asked, from = "", x.pass
		req := httptest.NewRequestWithContext(ctx, x.method, x.path, strings.NewReader(x.body))
		if x.body != "" {
			req.Header.Set("Content-Type", "application/json")
		}
		w := httptest.NewRecorder()
		a.Handler().ServeHTTP(w, req)
		if w.Code != http.StatusForbidden || asked != x.want {
			t.Errorf("%s %s: %d %s, asked %q, want %q", x.method, x.path, w.Code, w.Body, asked, x.want)
		}
	}
}
