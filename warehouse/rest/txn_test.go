package rest_test

import (
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"nekoq/services/auth"
	"nekoq/services/auth/authtest"
	"nekoq/services/errs"
)

// refused wants a problem with a code, and details that name the field.
func (d *door) refused(method, path, body string, status int, code, field string, words ...string) {
	d.t.Helper()
	a := d.do(method, path, body)
	if a.status != status || a.json["code"] != code {
		d.t.Errorf("%s %s %s: %d %s, want %d %s", method, path, body, a.status, a.body, status, code)
		return
	}
	named := field == ""
	if list, ok := a.json["errors"].([]any); ok {
		for _, e := range list {
			f, _ := e.(map[string]any)["field"].(string)
			named = named || f == field
		}
	}
	if !named {
		d.t.Errorf("%s %s %s: no detail names %s: %s", method, path, body, field, a.body)
	}
	for _, w := range words {
		if !strings.Contains(a.body, w) {
			d.t.Errorf("%s %s %s: %s does not say %s", method, path, body, a.body, w)
		}
	}
}

func member(a any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := a.(map[string]any)
			a = m[p]
		case int:
			l, _ := a.([]any)
			if p >= len(l) {
				return nil
			}
			a = l[p]
		}
	}
	return a
}

func TestTransactions(t *testing.T) {
	d := open(t)
	b64 := base64.StdEncoding.EncodeToString
	a := d.ok("POST", "/v1/warehouse/txn", `{"if":[{"key":"a","target":"version"}],
		"then":[{"put":{"key":"a","text":"1","prev":true}},{"put":{"key":"b","value":"`+b64([]byte{0, 255})+`"}},{"range":{"prefix":"a"}}],
		"else":[{"range":{"key":"a"}}]}`)
	if a.json["succeeded"] != true || a.json["revision"] != 2.0 || member(a.json, "results", 0, "put", "version") != 1.0 ||
		member(a.json, "results", 2, "range", "count") != 1.0 || member(a.json, "results", 2, "range", "items", 0, "value") != b64([]byte("1")) {
		t.Errorf("then: %s", a.body)
	}
	a = d.ok("POST", "/v1/warehouse/txn", `{"if":[{"key":"a","target":"version"}],"then":[{"delete":{"prefix":"a"}}],"else":[{"range":{"key":"b"}}]}`)
	if a.json["succeeded"] != false || a.json["revision"] != 2.0 || member(a.json, "results", 0, "range", "items", 0, "value") != b64([]byte{0, 255}) {
		t.Errorf("else: %s", a.body)
	}
	// Every target and every relation, as they stand for a.
	lease := d.do("POST", "/v1/warehouse/leases", `{"ttl":"60s"}`).json["id"].(string)
	d.ok("PUT", "/v1/warehouse/kv/a?lease="+lease, "1")
	for cond, want := range map[string]bool{
		`"target":"version","number":2`: true, `"target":"version","is":"greater","number":2`: false, `"target":"version","is":"less","number":3`: true,
		`"target":"create_revision","number":2`: true, `"target":"mod_revision","is":"not_equal","number":2`: true, `"target":"mod_revision","number":3`: true,
		`"target":"value","text":"1"`: true, `"target":"value","value":"` + b64([]byte("2")) + `"`: false, `"target":"value","is":"greater","text":"0"`: true,
		`"target":"lease","lease":"` + lease + `"`: true, `"target":"lease","lease":"0"`: false,
	} {
		if a := d.ok("POST", "/v1/warehouse/txn", `{"if":[{"key":"a",`+cond+`}]}`); a.json["succeeded"] != want {
			t.Errorf("%s: %s", cond, a.body)
		}
	}
	// A transaction in a transaction, with its own branch.
	a = d.ok("POST", "/v1/warehouse/txn", `{"then":[{"txn":{"if":[{"key":"none","target":"create_revision","is":"greater"}],
		"then":[{"put":{"key":"x","text":"no"}}],"else":[{"put":{"key":"y","text":"yes"}},{"delete":{"start":"b","end":"c","prev":true}}]}}]}`)
	if member(a.json, "results", 0, "txn", "succeeded") != false || member(a.json, "results", 0, "txn", "results", 1, "delete", "deleted") != 1.0 ||
		member(a.json, "results", 0, "txn", "results", 1, "delete", "prev", 0, "key") != "b" {
		t.Errorf("nested: %s", a.body)
	}
	d.ok("GET", "/v1/warehouse/kv/y", "")
	if a := d.do("GET", "/v1/warehouse/kv/x", ""); a.status != 404 {
		t.Errorf("the branch not taken was: %s", a.body)
	}
	// A read-only one takes no revision.
	before := d.ok("GET", "/v1/warehouse/status", "").json["revision"]
	a = d.ok("POST", "/v1/warehouse/txn", `{"then":[{"range":{"prefix":"","start":"a","limit":1,"order":"descending","sort_by":"mod_revision","keys_only":true}}]}`)
	if a.json["revision"] != before || member(a.json, "results", 0, "range", "more") != true {
		t.Errorf("read only: %s", a.body)
	}
}

func TestBadTransactions(t *testing.T) {
	d := open(t)
	many := strings.Repeat(`{"range":{"key":"a"}},`, 129)
	for _, c := range []struct {
		body        string
		status      int
		code, field string
		words       []string
	}{
		{body: `{"then":[{"put":{"key":"a","text":"x"}},{"put":{"key":"a","text":"y"}}]}`, status: 400, code: "duplicate_key", field: "key"},
		{body: `{"then":[{"put":{"key":"a"}},{"delete":{"prefix":"a"}}]}`, status: 400, code: "duplicate_key", field: "key"},
		{body: `{"then":[` + strings.TrimSuffix(many, ",") + `]}`, status: 400, code: "too_many_operations", field: "", words: []string{"128"}},
		{body: `{"then":[{}]}`, status: 400, code: "invalid_argument", field: "then[0]", words: []string{"one of put, delete, range, txn"}},
		{body: `{"then":[{"put":{"key":"a"},"delete":{"key":"b"}}]}`, status: 400, code: "invalid_argument", field: "then[0]"},
		{body: `{"else":[{"txn":{"then":[{"range":{}}]}}]}`, status: 400, code: "invalid_argument", field: "else[0].txn.then[0].range", words: []string{"one of key, prefix"}},
		{body: `{"if":[{"target":"version"}]}`, status: 400, code: "invalid_argument", field: "if[0]", words: []string{"one of key, prefix"}},
		{body: `{"if":[{"key":"a","target":"size"}]}`, status: 400, code: "invalid_argument", field: "if[0].target"},
		{body: `{"if":[{"key":"a","target":"lease","lease":"x"}]}`, status: 400, code: "invalid_argument", field: "if[0].lease"},
		{body: `{"then":[{"put":{"key":"a","text":"x","value":"eA=="}}]}`, status: 400, code: "invalid_argument", field: "then[0].put.text"},
		{body: `{"then":[{"put":{"key":"a","ttl":"1ms"}}]}`, status: 400, code: "invalid_argument", field: "then[0].put.ttl", words: []string{"1s"}},
		{body: `{"then":[{"put":{"key":"a","ttl":"5s","lease":"4"}}]}`, status: 400, code: "invalid_argument", field: "ttl", words: []string{"not both"}},
		{body: `{"then":[{"put":{"key":"a","lease":"4"}}]}`, status: 404, code: "lease_not_found", field: ""},
		{body: `{"then":[{"put":{"key":""}}]}`, status: 400, code: "invalid_argument", field: "key", words: []string{"4096"}},
		{body: `{"then":[{"put":{"key":"` + strings.Repeat("k", 4097) + `"}}]}`, status: 413, code: "too_large", field: "key", words: []string{"4097", "4096"}},
		{body: `{"then":[{"put":{"key":"/_sys/x"}}]}`, status: 403, code: "forbidden", field: "key", words: []string{"/_sys/"}},
		{body: `{"then":[{"range":{"key":"a","revision":99}}]}`, status: 400, code: "future_revision", field: ""},
		{body: `{"if_holding":[{"lock":"l","election":"e","token":1}]}`, status: 400, code: "invalid_argument", field: "if_holding[0]", words: []string{"one of lock, election, key"}},
		{body: `{"if_holding":[{"lock":"l","token":7}],"then":[{"put":{"key":"a"}}]}`, status: 409, code: "stale_token", field: ""},
		{body: `{"when":[]}`, status: 400, code: "unknown_field", field: "when"},
		{body: `{"then":{}}`, status: 400, code: "invalid_argument", field: "then"},
		{body: `{`, status: 400, code: "invalid_argument", field: "body"},
	} {
		d.refused("POST", "/v1/warehouse/txn", c.body, c.status, c.code, c.field, c.words...)
	}
	if a := d.ok("GET", "/v1/warehouse/kv?prefix=", ""); len(a.json["items"].([]any)) != 0 {
		t.Errorf("a refused transaction wrote: %s", a.body)
	}
}

// A transaction is asked for key by key: who may write a/ needs nothing beyond it.
func TestTransactionsAreAskedForKeyByKey(t *testing.T) {
	r := &authtest.Recorder{Answer: func(a authtest.Ask) error {
		if !strings.HasPrefix(a.Resource.Name, "a/") && a.Resource.Kind == "kv" || a.Action == auth.Delete {
			return errs.New(errs.Forbidden, "no %s of %s", a.Action, a.Resource)
		}
		return nil
	}}
	d := openAs(t, r)
	a := d.ok("POST", "/v1/warehouse/txn", `{"if":[{"prefix":"a/","target":"version"}],
		"then":[{"put":{"key":"a/1","text":"x"}},{"range":{"start":"a/","end":"a/9"}},{"txn":{"then":[{"put":{"key":"a/2"}}]}}],"else":[{"range":{"key":"a/3"}}]}`)
	if a.json["succeeded"] != true {
		t.Error(a.body)
	}
	var got []string
	for _, ask := range r.Take() {
		got = append(got, string(ask.Action)+" "+ask.Resource.String())
	}
	want := []string{
		"read warehouse/kv/a/..a0", "write warehouse/kv/a/1", "read warehouse/kv/a/..a/9", "write warehouse/kv/a/2", "read warehouse/kv/a/3..a/3\x00",
	}
	if !slices.Equal(got, want) {
		t.Errorf("asked %q, want %q", got, want)
	}
	before := d.do("GET", "/v1/warehouse/kv/a/1", "").json["revision"]
	for _, body := range []string{
		`{"then":[{"put":{"key":"a/1"}},{"put":{"key":"b"}}]}`,
		`{"then":[{"put":{"key":"a/1"}}],"else":[{"put":{"key":"b"}}]}`,
		`{"if":[{"key":"b","target":"version"}],"then":[{"put":{"key":"a/1"}}]}`,
		`{"then":[{"put":{"key":"a/1"}},{"range":{"start":"a/1"}},{"range":{"key":"b"}}]}`,
		`{"then":[{"delete":{"key":"a/1"}}]}`,
		`{"then":[{"put":{"key":"a/1"}},{"txn":{"else":[{"txn":{"then":[{"put":{"key":"b"}}]}}]}}]}`,
		`{"if_holding":[{"key":"b","token":2}],"then":[{"put":{"key":"a/1"}}]}`,
	} {
		d.refused("POST", "/v1/warehouse/txn", body, http.StatusForbidden, "forbidden", "")
	}
	// A rollback deletes what did not exist, so it needs that too.
	d.refused("POST", "/v1/warehouse/rollback", `{"prefix":"a/","revision":1}`, http.StatusForbidden, "forbidden", "")
	d.refused("GET", "/v1/warehouse/diff?prefix=b&from=1", "", http.StatusForbidden, "forbidden", "")
	d.ok("GET", "/v1/warehouse/diff?prefix=a/&from=1", "")
	if a := d.do("GET", "/v1/warehouse/kv/a/1", ""); a.json["revision"] != before {
		t.Errorf("a forbidden transaction was carried out: %s", a.body)
	}
}

// Of many transactions that want the same, one gets it.
func TestConcurrentTransactions(t *testing.T) {
	d := open(t)
	const n = 16
	won := make(chan bool, n)
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			a := d.do("POST", "/v1/warehouse/txn", `{"if":[{"key":"one","target":"version"}],"then":[{"put":{"key":"one"}}]}`)
			won <- a.json["succeeded"] == true
		})
	}
	wg.Wait()
	close(won)
	winners := 0
	for w := range won {
		if w {
			winners++
		}
	}
	if winners != 1 {
		t.Errorf("%d of %d transactions found the key missing", winners, n)
	}
}
