package etcd_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// web is a client whose connections end with the test.
func web(t *testing.T) *http.Client {
	t.Helper()
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

func post(t *testing.T, addr, path string, body string, header ...string) (int, map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(within(t, 30*time.Second), http.MethodPost, "http://"+addr+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := web(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]any{}
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatalf("%s: %s", err, b)
	}
	return res.StatusCode, out
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// trap: int64 as JSON strings.
func TestGateway(t *testing.T) {
	n := node(t)
	addr := n.EtcdAddr().String()
	if code, r := post(t, addr, "/v3/kv/put", `{"key":"`+b64("k")+`","value":"`+b64("v")+`"}`); code != 200 || r["header"].(map[string]any)["revision"] != "2" {
		t.Errorf("%d %v", code, r)
	}
	code, r := post(t, addr, "/v3/kv/range", `{"key":"`+b64("k")+`"}`)
	kvs, _ := r["kvs"].([]any)
	if code != 200 || len(kvs) != 1 || r["count"] != "1" {
		t.Fatalf("%d %v", code, r)
	}
	for field, want := range map[string]string{"key": b64("k"), "value": b64("v"), "create_revision": "2", "mod_revision": "2", "version": "1"} {
		if got := kvs[0].(map[string]any)[field]; got != want {
			t.Errorf("%s: %v, want %q", field, got, want)
		}
	}
	if code, r := post(t, addr, "/v3/kv/range", `{}`); code != 400 || r["message"] != "etcdserver: key is not provided" || r["code"] != float64(3) {
		t.Errorf("%d %v", code, r)
	}
	for path, body := range map[string]string{
		"/v3/kv/txn":                 `{"success":[{"request_put":{"key":"` + b64("t") + `","value":"` + b64("v") + `"}}]}`,
		"/v3/kv/deleterange":         `{"key":"` + b64("t") + `"}`,
		"/v3/lease/grant":            `{"TTL":"60","ID":"77"}`,
		"/v3/lease/timetolive":       `{"ID":"77"}`,
		"/v3/kv/lease/timetolive":    `{"ID":"77"}`,
		"/v3/lease/keepalive":        `{"ID":"77"}`,
		"/v3/lease/leases":           `{}`,
		"/v3/cluster/member/list":    `{}`,
		"/v3/maintenance/status":     `{}`,
		"/v3/maintenance/hashkv":     `{}`,
		"/v3/maintenance/alarm":      `{}`,
		"/v3/auth/status":            `{}`,
		"/v3/auth/user/add":          `{"name":"u","password":"p"}`,
		"/v3/auth/role/list":         `{}`,
		"/v3/lock/lock":              `{"name":"` + b64("lock") + `"}`,
		"/v3/election/campaign":      `{"name":"` + b64("e") + `","value":"` + b64("v") + `"}`,
		"/v3/election/leader":        `{"name":"` + b64("e") + `"}`,
		"/v3/maintenance/defragment": `{}`,
	} {
		if path == "/v3/lease/timetolive" || path == "/v3/kv/lease/timetolive" || path == "/v3/lease/keepalive" {
			_, _ = post(t, addr, "/v3/lease/grant", `{"TTL":"60","ID":"77"}`)
		}
		if path == "/v3/election/leader" {
			_, _ = post(t, addr, "/v3/election/campaign", `{"name":"`+b64("e")+`","value":"`+b64("v")+`"}`)
		}
		if path == "/v3/lease/grant" {
			body = `{"TTL":"60"}`
		}
		if path == "/v3/election/campaign" {
			body = `{"name":"` + b64("e2") + `","value":"` + b64("v") + `"}`
		}
		if code, r := post(t, addr, path, body); code != 200 {
			t.Errorf("%s: %d %v", path, code, r)
		}
	}
}

// trap: watch answers are wrapped in {"result": …}.
func TestGatewayWatch(t *testing.T) {
	n := node(t)
	addr := n.EtcdAddr().String()
	ctx := within(t, 30*time.Second)
	body := `{"create_request":{"key":"` + b64("k") + `"}}`
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/v3/watch", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res, err := web(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewReader(res.Body)
	next := func() map[string]any {
		t.Helper()
		b, err := lines.ReadBytes('\n')
		if err != nil {
			t.Fatal(err)
		}
		var out struct {
			Result map[string]any `json:"result"`
		}
		if err := json.Unmarshal(bytes.TrimSpace(b), &out); err != nil || out.Result == nil {
			t.Fatalf("%s: %v", b, err)
		}
		return out.Result
	}
	if r := next(); r["created"] != true {
		t.Errorf("%v", r)
	}
	if _, err := client(t, n).Put(ctx, "k", "v"); err != nil {
		t.Fatal(err)
	}
	r := next()
	events, _ := r["events"].([]any)
	if len(events) != 1 || events[0].(map[string]any)["kv"].(map[string]any)["mod_revision"] != "2" {
		t.Errorf("%v", r)
	}
}

func TestGatewayAuth(t *testing.T) {
	n := node(t)
	_, _ = guarded(t, n)
	addr := n.EtcdAddr().String()
	if code, r := post(t, addr, "/v3/kv/range", `{"key":"`+b64("shared")+`"}`); code != 400 || r["message"] != "etcdserver: user name is empty" {
		t.Errorf("%d %v", code, r)
	}
	_, r := post(t, addr, "/v3/auth/authenticate", `{"name":"alice","password":"pw"}`)
	token, _ := r["token"].(string)
	for _, form := range []string{token, "Bearer " + token} {
		if code, r := post(t, addr, "/v3/kv/range", `{"key":"`+b64("shared")+`"}`, "Authorization", form); code != 200 {
			t.Errorf("%d %v", code, r)
		}
	}
}

// trap: /version answers with versions that parse, and Status has a real one.
func TestPathsBesideTheGateway(t *testing.T) {
	n := node(t)
	addr := n.EtcdAddr().String()
	c := web(t)
	for path, want := range map[string]string{
		"/version": `"etcdserver":"3.6.5"`, "/health": `"health":"true"`, "/health?serializable=true": `"health":"true"`,
		"/metrics": "nekoq_etcd_requests_total", "/livez": "ok", "/readyz": "ok",
	} {
		res, err := c.Get("http://" + addr + path)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != 200 || !strings.Contains(string(b), want) {
			t.Errorf("%s: %d %.200s", path, res.StatusCode, b)
		}
	}
	s, err := client(t, n).Status(within(t, 10*time.Second), addr)
	if err != nil || s.Version != "3.6.5" {
		t.Errorf("%v %v", s, err)
	}
}
