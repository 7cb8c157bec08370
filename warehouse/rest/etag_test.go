package rest_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// with is do that expects a status, and of errors the code and the header at fault.
func (d *door) with(method, path string, status int, code, field string, header ...string) answer {
	d.t.Helper()
	a := d.do(method, strings.Replace("/v1/warehouse/kv/"+path, "/?", "?", 1), "v", header...)
	if a.status != status || code != "" && (a.json["code"] != code || member(a.json, "errors", 0, "field") != field) {
		d.t.Errorf("%s %s %q: %d %s, want %d %s of %s", method, path, header, a.status, a.body, status, code, field)
	}
	return a
}

func TestReadsByETag(t *testing.T) {
	d := open(t)
	put := d.with("PUT", "k", 200, "", "")
	if put.header.Get("ETag") != `"2"` {
		t.Errorf("put: %v", put.header)
	}
	d.with("PUT", "other", 200, "", "") // the store goes on, the key does not
	for _, path := range []string{"k", "k?raw=true", "k?consistency=stale", "k?revision=2"} {
		get := d.with("GET", path, 200, "", "")
		if get.header.Get("ETag") != `"2"` {
			t.Errorf("%s: %v", path, get.header)
		}
		same := d.with("GET", path, 304, "", "", "If-None-Match", `"2"`)
		if same.header.Get("ETag") != `"2"` || same.body != "" || same.header.Get("Nekoq-Revision") != get.header.Get("Nekoq-Revision") {
			t.Errorf("%s: %v %q", path, same.header, same.body)
		}
		d.with("GET", path, 200, "", "", "If-None-Match", `"1", "3"`)
		d.with("GET", path, 200, "", "", "If-Match", `"2"`)
		d.with("GET", path, 412, "failed_precondition", "If-Match", "If-Match", `"3"`)
		d.with("GET", path, 400, "invalid_argument", "If-None-Match", "If-None-Match", `2`)
	}
	d.with("PUT", "k", 200, "", "")
	if a := d.with("GET", "k", 200, "", "", "If-None-Match", `"2"`); a.header.Get("ETag") != `"4"` {
		t.Errorf("after a change: %v", a.header)
	}
	d.with("GET", "k?revision=3", 304, "", "", "If-None-Match", `"2"`)
	d.with("GET", "none", 404, "not_found", "key", "If-None-Match", `*`)
	d.with("GET", "none", 404, "not_found", "key", "If-Match", `"2"`)
	// A poll that nothing came of.
	if a := d.with("GET", "k?wait=1ms&revision=4", 304, "", "", "If-None-Match", `"4"`); a.header.Get("Nekoq-Changed") != "false" {
		t.Errorf("poll: %v", a.header)
	}
}

// row: nekoq 8. Compare and set by the headers of HTTP.
func TestWritesByETag(t *testing.T) {
	d := open(t)
	const refused = "failed_precondition"
	d.with("PUT", "k", 412, refused, "If-Match", "If-Match", "*")
	d.with("DELETE", "k", 412, refused, "If-Match", "If-Match", "*")
	d.with("PUT", "k", 412, refused, "If-Match", "If-Match", `"2"`)
	d.with("PUT", "k", 200, "", "", "If-None-Match", "*")
	a := d.with("PUT", "k", 412, refused, "If-None-Match", "If-None-Match", "*")
	if !strings.Contains(a.body, "the key exists at revision 2") {
		t.Error(a.body)
	}
	tag := d.with("PUT", "k", 200, "", "", "If-Match", `"2"`).header.Get("ETag")
	a = d.with("PUT", "k", 412, refused, "If-Match", "If-Match", `"2"`)
	if a.json["detail"] != "If-Match: the key is at revision 3, not 2" || member(a.json, "errors", 0, "value") != `"2"` || member(a.json, "errors", 0, "limit") != "3" {
		t.Error(a.body)
	}
	d.with("PUT", "k?if_revision=2", 409, "revision_mismatch", "if_revision")
	d.with("PUT", "k?if_revision=2", 412, refused, "If-Match", "If-Match", `"2"`)
	d.with("PUT", "k?if_revision=3", 400, "invalid_argument", "If-Match", "If-Match", `"2"`)
	d.with("PUT", "k?if_revision=3", 400, "invalid_argument", "If-None-Match", "If-None-Match", `*`)
	d.with("PUT", "k?if_revision=0", 400, "invalid_argument", "If-Match", "If-Match", `*`)
	d.with("PUT", "k", 400, "invalid_argument", "If-Match", "If-Match", `*`, "If-None-Match", `*`)
	d.with("PUT", "k", 400, "invalid_argument", "If-None-Match", "If-None-Match", `"3"`)
	d.with("PUT", "k", 412, refused, "If-Match", "If-Match", `W/"3"`)
	d.has(d.with("PUT", "k?ttl=60s", 200, "", "", "If-Match", "*"), map[string]any{"mod_revision": 4, "version": 3, "create_revision": 2, "prev_revision": 3})
	d.with("DELETE", "k", 412, refused, "If-Match", "If-Match", tag)
	d.with("DELETE", "k", 412, refused, "If-None-Match", "If-None-Match", "*")
	d.with("DELETE", "?prefix=k", 400, "invalid_argument", "If-Match", "If-Match", `"4"`)
	d.has(d.with("DELETE", "k", 200, "", "", "If-Match", `"4"`), map[string]any{"deleted": true, "prev_revision": 4})
	d.has(d.with("DELETE", "k", 200, "", "", "If-None-Match", "*"), map[string]any{"deleted": false})
	d.with("PUT", "k", 200, "", "")
	d.has(d.with("DELETE", "k", 200, "", "", "If-Match", "*"), map[string]any{"deleted": true})

	// A lost token goes before a revision that is another.
	lock := d.ok("PUT", "/v1/warehouse/locks/l", `{"holder":"one","ttl":"60s"}`)
	held := fmt.Sprintf("k?if_lock=l&token=%.0f", lock.json["token"])
	d.with("PUT", held, 412, refused, "If-Match", "If-Match", "*")
	d.with("PUT", held, 200, "", "", "If-None-Match", "*")
	d.with("PUT", held, 200, "", "", "If-Match", "*")
	d.ok("DELETE", fmt.Sprintf("/v1/warehouse/locks/l?lease=%s", lock.json["lease"]), "")
	d.with("PUT", held, http.StatusConflict, "stale_token", "token", "If-None-Match", "*")
}
