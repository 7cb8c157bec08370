package conf_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// ask wants an answer with that status and text, and gives its ETag and body.
func (f *fixture) ask(status int, has, method, path, body string, header ...string) (etag, answer string) {
	f.t.Helper()
	r := f.http(method, path, body, header...)
	if r.status != status || !strings.Contains(r.body, has) || status == http.StatusNotModified && len(r.body) > 0 {
		f.t.Errorf("%s %s %q: %d %s; want %d with %q", method, path, header, r.status, r.body, status, has)
	}
	return r.etag, r.body
}

// The ETag of an item is its revision: If-Match says with it what if_revision does.
func TestItemETags(t *testing.T) {
	f := start(t)
	const k, none, match = "/items/default/app/k", "If-None-Match", "If-Match"
	const refused = `"failed_precondition"`
	f.ask(412, refused, "PUT", k+"/draft", `{"content":"1"}`, match, `"7"`)
	first, _ := f.ask(200, "", "PUT", k+"/draft", `{"content":"1"}`, none, "*")
	_, body := f.ask(412, refused, "PUT", k+"/draft", `{"content":"1"}`, none, "*")
	if !strings.Contains(body, "If-None-Match: the item default/app/k is at revision") {
		t.Error(body)
	}
	published, _ := f.ask(200, "", "POST", k+"/publish", "", match, first)
	if got := f.http("GET", k, ""); published != fmt.Sprintf(`"%.0f"`, got.json["revision"]) || first == published {
		t.Errorf("%s, then %s: %s", first, published, got.body)
	}
	f.ask(304, "", "GET", k, "", none, published)
	f.ask(304, "", "GET", k+"?which=1", "", none, published)
	f.ask(200, `"content":"1"`, "GET", k, "", none, first)
	f.ask(412, refused, "GET", k, "", match, first)
	f.ask(404, "", "GET", "/items/default/app/none", "", none, "*")
	for _, write := range [][3]string{
		{"PUT", "/draft", `{"content":"2"}`},
		{"POST", "/publish", `{"content":"2"}`},
		{"PATCH", "", `{"description":"x"}`},
		{"DELETE", "", ""},
		{"POST", "/rollback", `{"number":1}`},
		{"PUT", "/gray/g", `{"rule":{"percent":10},"content":"2"}`},
	} {
		f.ask(412, refused, write[0], k+write[1], write[2], match, first)
		f.ask(409, `"revision_mismatch"`, write[0], k+write[1]+"?if_revision="+strings.Trim(first, `"`), write[2])
		f.ask(400, `"invalid_argument"`, write[0], k+write[1]+"?if_revision=1", write[2], match, published)
		f.ask(400, "the ETag that GET gave", write[0], k+write[1], write[2], match, "*")
	}
	draft, _ := f.ask(200, "", "PUT", k+"/draft", `{"content":"2"}`, match, published)
	dropped, _ := f.ask(200, "", "DELETE", k+"/draft", "", match, draft)
	gray, _ := f.ask(200, "", "PUT", k+"/gray/g", `{"rule":{"percent":10},"content":"2"}`, match, dropped)
	f.ask(412, refused, "DELETE", k+"/gray/g", "", match, dropped)
	f.ask(412, refused, "POST", k+"/gray/g/promote", "", match, dropped)
	promoted, _ := f.ask(200, "", "POST", k+"/gray/g/promote", "", match, gray)
	described, _ := f.ask(200, "", "PATCH", k, `{"description":"x"}`, match, promoted)
	f.ask(200, `"deleted":true`, "DELETE", k, "", match, described)
}

// The ETag of what a client gets is its hash: If-None-Match says with it what hash
// does, and nothing new is 304, also at the end of a wait.
func TestEffectiveETags(t *testing.T) {
	f := start(t)
	f.publish("default/app/k", "one")
	const none = "If-None-Match"
	for _, path := range []string{"/effective/app", "/effective/app/k"} {
		tag, body := f.ask(200, `"changed":true`, "GET", path, "")
		if !strings.Contains(body, `"hash":`+tag) {
			t.Errorf("%s: %s is not the hash of %s", path, tag, body)
		}
		hash := strings.Trim(tag, `"`)
		again, _ := f.ask(304, "", "GET", path, "", none, tag)
		waited, _ := f.ask(304, "", "GET", path+"?wait=10ms", "", none, tag)
		if again != tag || waited != tag {
			t.Errorf("%s: %s, %s, want %s", path, again, waited, tag)
		}
		f.ask(304, "", "GET", path+"?hash="+hash, "", none, tag)
		f.ask(304, "", "GET", path, "", none, `"x", `+tag)
		f.ask(200, `"content":"one"`, "GET", path, "", none, `"x"`)
		f.ask(200, `"content":"one"`, "GET", path+"?wait=10m", "", none, `"x"`)
		f.ask(200, `"changed":false`, "GET", path+"?hash="+hash, "")
		f.ask(400, "hash", "GET", path+"?hash=x", "", none, tag)
		f.ask(400, "one entity tag", "GET", path+"?wait=10ms", "", none, `"x", "y"`)
		f.ask(400, "one entity tag", "GET", path+"?wait=10ms", "", none, "*")
		f.ask(400, none, "GET", path, "", none, "x")
		f.ask(412, `"failed_precondition"`, "GET", path, "", "If-Match", `"x"`)
	}
	tag, _ := f.ask(200, "", "GET", "/effective/app", "")
	f.publish("default/app/k", "two")
	if now, _ := f.ask(200, `"content":"two"`, "GET", "/effective/app?wait=10m", "", none, tag); now == tag {
		t.Error("another version has the same tag")
	}
}
