package rest_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"nekoq/services/auth/authtest"
)

func (d *door) json(method, path, body string) answer {
	d.t.Helper()
	a := d.do(method, path, body)
	if a.status != http.StatusOK && a.status != http.StatusCreated {
		d.t.Fatalf("%s %s: %d %s", method, path, a.status, a.body)
	}
	return a
}

func TestLeases(t *testing.T) {
	d := open(t)
	a := d.do("POST", "/v1/warehouse/leases", `{"ttl":"1m"}`)
	id, _ := a.json["id"].(string)
	if a.status != http.StatusCreated || id == "" || a.json["ttl"] != "1m0s" || a.json["remaining"] != "1m0s" {
		t.Fatalf("grant: %d %s", a.status, a.body)
	}
	d.has(d.do("POST", "/v1/warehouse/leases", `{"id":"7","ttl":"90s"}`), map[string]any{"id": "7", "ttl": "1m30s"})
	d.ok("PUT", "/v1/warehouse/kv/l/b?lease=7", "x")
	d.ok("PUT", "/v1/warehouse/kv/l/a?lease=7", "x")
	d.ok("PUT", "/v1/warehouse/kv/own?ttl=60s", "x")
	l := d.ok("GET", "/v1/warehouse/leases/7?keys=true", "")
	if keys := fmt.Sprint(l.json["keys"]); keys != "[l/a l/b]" || l.json["ttl"] != "1m30s" || l.json["token"] == nil {
		t.Errorf("with keys: %s", l.body)
	}
	if l := d.ok("GET", "/v1/warehouse/leases/7", ""); l.json["keys"] != nil {
		t.Errorf("keys that were not asked for: %s", l.body)
	}
	if l := d.ok("GET", "/v1/warehouse/leases", ""); len(l.json["leases"].([]any)) != 2 || !strings.Contains(l.body, `"7"`) {
		t.Errorf("list, without that of a key's TTL: %s", l.body)
	}
	d.has(d.ok("POST", "/v1/warehouse/leases/7/keepalive", ""), map[string]any{"id": "7", "remaining": "1m30s"})
	r := d.ok("DELETE", "/v1/warehouse/leases/7", "")
	if gone := d.do("GET", "/v1/warehouse/kv/l/a", ""); gone.status != 404 {
		t.Errorf("a key of a revoked lease: %s", gone.body)
	}
	for _, k := range []string{"l/a", "l/b"} { // both went as one revision, the one that was told
		h := d.ok("GET", "/v1/warehouse/history/"+k, "")
		if member(h.json, "versions", 0, "deleted") != true || member(h.json, "versions", 0, "mod_revision") != r.json["revision"] {
			t.Errorf("revoked at %v: %s", r.json["revision"], h.body)
		}
	}
	for _, c := range [][2]string{{"GET", "/v1/warehouse/leases/7"}, {"DELETE", "/v1/warehouse/leases/7"}, {"POST", "/v1/warehouse/leases/7/keepalive"}, {"PUT", "/v1/warehouse/kv/x?lease=7"}} {
		d.refused(c[0], c[1], "", http.StatusNotFound, "lease_not_found", "")
	}
}

func TestLeasePages(t *testing.T) {
	d := open(t)
	for _, id := range []string{"9", "7", "9223372036854775807", "300", "8"} {
		d.json("POST", "/v1/warehouse/leases", `{"id":"`+id+`","ttl":"1m"}`)
	}
	for i := range 5 { // leases of single keys are no entries of a page
		d.ok("PUT", fmt.Sprintf("/v1/warehouse/kv/own/%d?ttl=60s", i), "x")
	}
	for limit := 1; limit <= 6; limit++ {
		var all []any
		path := fmt.Sprintf("/v1/warehouse/leases?limit=%d", limit)
		for token := "&page_token="; ; {
			page := d.ok("GET", path+token, "")
			ids := page.json["leases"].([]any)
			all = append(all, ids...)
			next, more := page.json["next_page_token"].(string)
			if len(ids) == 0 || len(ids) > limit || more != (len(all) < 5) || page.json["revision"] != 6.0 {
				t.Errorf("a page of %d: %s", limit, page.body)
			}
			if !more {
				break
			}
			token = "&page_token=" + next
		}
		if fmt.Sprint(all) != "[7 8 9 300 9223372036854775807]" {
			t.Errorf("pages of %d: %v", limit, all)
		}
	}
	bad := func(query, code, field string) {
		t.Helper()
		d.refused("GET", "/v1/warehouse/leases?"+query, "", http.StatusBadRequest, code, field)
	}
	bad("limit=-1", "invalid_argument", "limit")
	bad("limit=1000000", "invalid_argument", "limit")
	bad("limit=x", "invalid_argument", "limit")
	bad("page_token=x", "bad_page_token", "page_token")
	bad("prefix=a", "unknown_field", "prefix")
	other := d.ok("GET", "/v1/warehouse/kv?limit=1", "").json["next_page_token"].(string)
	bad("page_token="+other, "bad_page_token", "page_token")
}

func TestBadLeases(t *testing.T) {
	d := open(t)
	d.json("POST", "/v1/warehouse/leases", `{"id":"7","ttl":"90s"}`)
	bad := func(method, path, body, field string, words ...string) {
		t.Helper()
		d.refused(method, path, body, http.StatusBadRequest, "invalid_argument", field, words...)
	}
	const leases = "/v1/warehouse/leases"
	bad("POST", leases, `{}`, "ttl", "required")
	bad("POST", leases, `{"ttl":"999ms"}`, "ttl", "999ms", "1s to 9000000000s")
	bad("POST", leases, `{"ttl":"-5s"}`, "ttl", "1s to 9000000000s")
	bad("POST", leases, `{"ttl":"9000000001s"}`, "ttl", "1s to 9000000000s")
	bad("POST", leases, `{"ttl":"soon"}`, "ttl", "soon", "a duration such as 30s")
	bad("POST", leases, `{"ttl":30}`, "ttl")
	bad("POST", leases, `{"ttl":"30s","id":"x"}`, "id", "a number")
	bad("POST", leases, `{"ttl":"30s","id":"9223372036854775808"}`, "id", "1 to 9223372036854775807")
	d.refused("POST", leases, `{"ttl":"30s","id":"7"}`, http.StatusConflict, "already_exists", "")
	d.refused("POST", leases, `{"tll":"30s"}`, http.StatusBadRequest, "unknown_field", "tll", "did you mean ttl?")
	bad("GET", leases+"/x", "", "id", "a number")
	bad("DELETE", leases+"/-1", "", "id")
	bad("GET", leases+"/7?keys=maybe", "", "keys", "want true or false")
	d.refused("GET", leases+"/7?key=true", "", http.StatusBadRequest, "unknown_field", "key", "keys")
	d.refused("POST", leases+"/8/keepalive", "", http.StatusNotFound, "lease_not_found", "")
	bad("PUT", "/v1/warehouse/kv/a?lease=7&ttl=5s", "", "ttl", "not both")
	bad("PUT", "/v1/warehouse/kv/a?lease=0", "", "lease")
	bad("PUT", "/v1/warehouse/kv/a?lease=x", "", "lease")
}

// One of many who want a lock at once has it; each next one has a greater token, and a
// write under an old token is refused.
func TestLocks(t *testing.T) {
	for _, many := range []string{"locks", "elections"} {
		t.Run(many, func(t *testing.T) {
			d := open(t)
			path := "/v1/warehouse/" + many + "/jobs%2Fnightly"
			param := map[string]string{"locks": "if_lock", "elections": "if_election"}[many]
			const n = 8
			var inside atomic.Int64
			var mu sync.Mutex
			var tokens []float64
			var wg sync.WaitGroup
			for i := range n {
				wg.Go(func() {
					a := d.do("PUT", path, fmt.Sprintf(`{"holder":"h%d","ttl":"60s","wait":"1m"}`, i))
					if a.json["held"] != true || a.json["own_token"] != a.json["token"] {
						t.Errorf("claim %d: %d %s", i, a.status, a.body)
						return
					}
					if inside.Add(1) != 1 {
						t.Error("two hold it")
					}
					mu.Lock()
					tokens = append(tokens, a.json["token"].(float64))
					mu.Unlock()
					inside.Add(-1)
					if r := d.do("DELETE", fmt.Sprintf("%s?lease=%s&token=%.0f&revoke=true", path, a.json["lease"], a.json["token"]), ""); r.status != 200 {
						t.Errorf("release: %s", r.body)
					}
				})
			}
			wg.Wait()
			for i := 1; i < len(tokens); i++ {
				if tokens[i] <= tokens[i-1] {
					t.Errorf("tokens %v", tokens)
				}
			}
			if a := d.ok("GET", "/v1/warehouse/leases", ""); len(a.json["leases"].([]any)) != 0 {
				t.Errorf("leases are left: %s", a.body)
			}
			first := d.ok("PUT", path, `{"holder":"one","ttl":"60s"}`)
			put := func(token any) answer {
				return d.do("PUT", fmt.Sprintf("/v1/warehouse/kv/k?%s=jobs/nightly&token=%v", param, token), "x")
			}
			if a := put(first.json["token"]); a.status != 200 {
				t.Errorf("a write of the holder: %s", a.body)
			}
			// Who does not get it in time is told by whom it is held, and leaves no trace.
			loser := d.ok("PUT", path, `{"holder":"two","ttl":"60s","wait":"1ms"}`)
			if loser.json["held"] != false || loser.json["holder"] != "one" || loser.json["token"] != first.json["token"] || loser.json["lease"] != nil ||
				loser.json["own_token"] != nil || len(loser.json["waiting"].([]any)) != 0 {
				t.Errorf("not in time: %s", loser.body)
			}
			if a := d.ok("GET", path, ""); len(a.json["waiting"].([]any)) != 0 {
				t.Errorf("who left still waits: %s", a.body)
			}
			stays := d.ok("PUT", path, `{"holder":"two","ttl":"60s","stay":true}`)
			if stays.json["held"] != false || stays.json["own_token"] == nil || stays.json["lease"] == nil || fmt.Sprint(stays.json["waiting"]) != "[two]" {
				t.Errorf("stay: %s", stays.body)
			}
			// Asked again under the same lease, nothing changes.
			again := d.ok("PUT", path, fmt.Sprintf(`{"holder":"two","lease":"%s","stay":true}`, stays.json["lease"]))
			if again.json["own_token"] != stays.json["own_token"] || len(again.json["waiting"].([]any)) != 1 {
				t.Errorf("again: %s", again.body)
			}
			d.refused("DELETE", fmt.Sprintf("%s?lease=%s&token=99999", path, first.json["lease"]), "", http.StatusConflict, "not_leader", "token", "99999")
			d.ok("DELETE", "/v1/warehouse/leases/"+first.json["lease"].(string), "")
			now := d.ok("GET", fmt.Sprintf("%s?wait=1m&token=%.0f", path, first.json["token"]), "")
			if now.json["holder"] != "two" || now.json["token"].(float64) <= first.json["token"].(float64) || now.json["since"] == nil {
				t.Errorf("the next: %s", now.body)
			}
			if a := put(first.json["token"]); a.status != http.StatusConflict || a.json["code"] != "stale_token" {
				t.Errorf("a write of the one before: %d %s", a.status, a.body)
			}
			if a := put(now.json["token"]); a.status != 200 {
				t.Errorf("a write of the new holder: %s", a.body)
			}
		})
	}
}

// A look that waits answers at the change, and at the end of its wait without one.
func TestLookWaits(t *testing.T) {
	d := open(t)
	if a := d.ok("GET", "/v1/warehouse/elections/e?wait=20ms&token=0", ""); a.json["token"] != 0.0 || a.json["holder"] != "" {
		t.Errorf("nobody: %s", a.body)
	}
	got := make(chan answer, 1)
	go func() { got <- d.do("GET", "/v1/warehouse/elections/e?wait=1m&token=0", "") }()
	lead := d.ok("PUT", "/v1/warehouse/elections/e", `{"holder":"me","ttl":"60s"}`)
	if a := <-got; a.json["holder"] != "me" || a.json["token"] != lead.json["token"] || a.json["held"] != false {
		t.Errorf("observed: %s", a.body)
	}
	if a := d.ok("GET", "/v1/warehouse/elections/e?consistency=stale", ""); a.json["holder"] != "me" {
		t.Errorf("stale: %s", a.body)
	}
	if a := d.ok("GET", "/v1/warehouse/elections/e?stale=true", ""); a.json["holder"] != "me" {
		t.Errorf("stale: %s", a.body)
	}
}

func TestBadClaims(t *testing.T) {
	d := open(t)
	for _, many := range []string{"locks", "elections"} {
		path := "/v1/warehouse/" + many + "/a"
		bad := func(method, path, body, field string, words ...string) {
			t.Helper()
			d.refused(method, path, body, http.StatusBadRequest, "invalid_argument", field, words...)
		}
		bad("PUT", path, `{}`, "holder", "required")
		bad("PUT", path, `{"holder":""}`, "holder", "1 to 1024 bytes")
		bad("PUT", path, `{"holder":"`+strings.Repeat("h", 1025)+`"}`, "holder", "1 to 1024 bytes")
		bad("PUT", "/v1/warehouse/"+many+"/"+strings.Repeat("n", 513), `{"holder":"x"}`, "name", "1 to 512 bytes")
		bad("PUT", "/v1/warehouse/"+many+"/a%00b", `{"holder":"x"}`, "name")
		bad("PUT", path, `{"holder":"x","ttl":"999ms"}`, "ttl", "1s to 24h")
		bad("PUT", path, `{"holder":"x","ttl":"25h"}`, "ttl", "1s to 24h")
		bad("PUT", path, `{"holder":"x","ttl":"0s"}`, "ttl", "0s", "1s to 24h")
		bad("PUT", path, `{"holder":"x","ttl":"soon"}`, "ttl")
		bad("PUT", path, `{"holder":"x","wait":"2h"}`, "wait", "0 to 1h0m0s")
		bad("PUT", path, `{"holder":"x","wait":"-1s"}`, "wait")
		bad("PUT", path, `{"holder":"x","lease":"z"}`, "lease", "a number")
		bad("PUT", path, `{"holder":"x","lease":"7","ttl":"5s"}`, "ttl", "not both")
		d.refused("PUT", path, `{"holder":"x","lease":"7"}`, http.StatusNotFound, "lease_not_found", "")
		d.refused("PUT", path, `{"holder":"x","lock":"7"}`, http.StatusBadRequest, "unknown_field", "lock")
		bad("GET", path+"?wait=x", "", "wait")
		bad("GET", path+"?wait=100h", "", "wait", "http.max_wait")
		bad("GET", path+"?token=x", "", "token", "a whole number")
		bad("GET", path+"?consistency=old", "", "consistency")
		bad("DELETE", path, "", "lease", "required")
		bad("DELETE", path+"?lease=0", "", "lease")
		bad("DELETE", path+"?lease=1&token=-1", "", "token")
		d.refused("DELETE", path+"?lease=1", "", http.StatusConflict, "not_leader", "lease")
	}
	bad := func(query, field string, words ...string) {
		t.Helper()
		for _, method := range []string{"PUT", "DELETE"} {
			d.refused(method, "/v1/warehouse/kv/k?"+query, "", http.StatusBadRequest, "invalid_argument", field, words...)
		}
	}
	bad("token=4", "token", "if_lock or if_election")
	bad("if_lock=a", "token", "from 1 on")
	bad("if_lock=a&if_election=b&token=4", "if_election", "not both")
	d.refused("PUT", "/v1/warehouse/kv/k?if_lock=a&token=4", "", http.StatusConflict, "stale_token", "")
}

// Claims ask for the lock or election by name; a fenced write also for the lock.
func TestClaimsAsk(t *testing.T) {
	r := &authtest.Recorder{}
	d := openAs(t, r)
	asked := func(want string) {
		t.Helper()
		var got []string
		for _, a := range r.Take() {
			got = append(got, string(a.Action)+" "+a.Resource.String())
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("asked %q, want %q", got, want)
		}
	}
	a := d.ok("PUT", "/v1/warehouse/locks/l%2F1", `{"holder":"x","ttl":"60s"}`)
	asked("write warehouse/lock/l/1")
	d.ok("GET", "/v1/warehouse/elections/e", "")
	asked("read warehouse/election/e")
	d.ok("PUT", fmt.Sprintf("/v1/warehouse/kv/k?if_lock=l/1&token=%.0f", a.json["token"]), "")
	asked("write warehouse/kv/k, read warehouse/lock/l/1")
	d.ok("DELETE", "/v1/warehouse/locks/l%2F1?lease="+a.json["lease"].(string), "")
	asked("write warehouse/lock/l/1")
	d.json("POST", "/v1/warehouse/leases", `{"ttl":"5s"}`)
	asked("write warehouse/lease")
	d.ok("GET", "/v1/warehouse/folders/a/", "")
	asked("watch warehouse/kv/a/..a0")
}

// A claim whose caller goes away while it waits does not stay in line.
func TestWaiterThatGoesAway(t *testing.T) {
	d := open(t)
	d.ok("PUT", "/v1/warehouse/locks/l", `{"holder":"one","ttl":"60s"}`)
	ctx, cancel := context.WithCancel(d.ctx)
	req, err := http.NewRequestWithContext(ctx, "PUT", d.url+"/v1/warehouse/locks/l", strings.NewReader(`{"holder":"two","ttl":"60s","wait":"1h"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	done := make(chan struct{})
	go func() {
		defer close(done)
		if res, err := d.cl.Do(req); err == nil {
			res.Body.Close()
		}
	}()
	line := func(want int) {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; {
			a := d.ok("GET", "/v1/warehouse/locks/l", "")
			if len(a.json["waiting"].([]any)) == want {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("the line stays %s", a.body)
			}
		}
	}
	line(1)
	cancel()
	<-done
	line(0)
}

// row: nekoq 9: a path ends with a slash; first what exists, then what changes.
func TestFolder(t *testing.T) {
	d := open(t)
	d.ok("PUT", "/v1/warehouse/kv/f/a", "1")
	d.ok("PUT", "/v1/warehouse/kv/fa", "not in it")
	a := d.ok("GET", "/v1/warehouse/folders/f/", "")
	if len(a.json["existing"].([]any)) != 1 || member(a.json, "existing", 0, "key") != "f/a" {
		t.Fatalf("existing: %s", a.body)
	}
	since := fmt.Sprintf("%.0f", a.json["revision"])
	got := make(chan answer, 1)
	go func() { got <- d.do("GET", "/v1/warehouse/folders/f/?wait=1m&revision="+since, "") }()
	d.ok("PUT", "/v1/warehouse/kv/f/b", "2")
	if b := <-got; member(b.json, "events", 0, "type") != "created" || member(b.json, "events", 0, "key") != "f/b" || b.json["revision"] != a.json["revision"].(float64)+1 {
		t.Errorf("poll: %s", b.body)
	}
	d.ok("PUT", "/v1/warehouse/kv/f/b", "3")
	d.ok("DELETE", "/v1/warehouse/kv/f/a", "")
	if b := d.ok("GET", "/v1/warehouse/folders/f/?revision="+since, ""); len(b.json["events"].([]any)) == 0 {
		t.Errorf("what was missed: %s", b.body)
	}
	ctx, cancel := context.WithCancel(d.ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", d.url+"/v1/warehouse/folders/f/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Last-Event-ID", since)
	res, err := d.cl.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var events []string
	for lines := bufio.NewScanner(res.Body); lines.Scan() && len(events) < 3; {
		if kind, is := strings.CutPrefix(lines.Text(), "event: "); is {
			events = append(events, kind)
		}
	}
	if want := "created modified deleted"; strings.Join(events, " ") != want {
		t.Errorf("stream: %v, want %s", events, want)
	}
	d.refused("GET", "/v1/warehouse/folders/f", "", http.StatusBadRequest, "invalid_argument", "path", "ends with /")
	d.refused("GET", "/v1/warehouse/folders/f/?revision=0", "", http.StatusBadRequest, "invalid_argument", "revision")
	d.refused("GET", "/v1/warehouse/folders/f/?revision=999", "", http.StatusBadRequest, "future_revision", "revision")
}

func TestUpkeep(t *testing.T) {
	d := open(t)
	d.ok("PUT", "/v1/warehouse/kv/t/a", "1")
	d.ok("PUT", "/v1/warehouse/kv/t/a", "2")
	d.ok("PUT", "/v1/warehouse/kv/t/b", "1")
	a := d.ok("GET", "/v1/warehouse/diff?prefix=t/&from=2", "")
	if len(a.json["differences"].([]any)) != 2 || member(a.json, "differences", 0, "from", "version") != 1.0 || member(a.json, "differences", 0, "to", "version") != 2.0 ||
		member(a.json, "differences", 1, "from") != nil {
		t.Errorf("diff: %s", a.body)
	}
	if a := d.ok("GET", "/v1/warehouse/diff?from=2&limit=1", ""); a.json["more"] != true || len(a.json["differences"].([]any)) != 1 {
		t.Errorf("diff of all, one: %s", a.body)
	}
	d.has(d.ok("POST", "/v1/warehouse/rollback", `{"prefix":"t/","revision":2}`), map[string]any{"revision": 5, "put": 1, "deleted": 1})
	d.has(d.ok("GET", "/v1/warehouse/kv/t/a", ""), map[string]any{"value": "MQ==", "mod_revision": 5, "version": 3})
	d.ok("PUT", "/v1/warehouse/quotas", `{"prefix":"t/","max_keys":1,"max_bytes":100}`)
	d.refused("PUT", "/v1/warehouse/kv/t/b", "", http.StatusInsufficientStorage, "quota_exceeded", "max_keys", "1 keys")
	d.refused("PUT", "/v1/warehouse/kv/t/a", strings.Repeat("x", 200), http.StatusInsufficientStorage, "quota_exceeded", "max_bytes", "100 bytes")
	d.ok("PUT", "/v1/warehouse/kv/u/b", "another tenant goes on")
	q := d.ok("GET", "/v1/warehouse/quotas", "")
	if member(q.json, "quotas", 0, "keys") != 1.0 || member(q.json, "quotas", 0, "max_keys") != 1.0 {
		t.Errorf("quotas: %s", q.body)
	}
	d.ok("PUT", "/v1/warehouse/quotas", `{"prefix":"t/"}`)
	if q := d.ok("GET", "/v1/warehouse/quotas", ""); len(q.json["quotas"].([]any)) != 0 {
		t.Errorf("removed: %s", q.body)
	}
	d.has(d.ok("PUT", "/v1/warehouse/space", `{"limit_bytes":65536}`), map[string]any{"limit_bytes": 65536})
	d.refused("PUT", "/v1/warehouse/kv/big", strings.Repeat("x", 70000), http.StatusInsufficientStorage, "quota_exceeded", "")
	d.has(d.ok("PUT", "/v1/warehouse/space", `{"limit_bytes":0}`), map[string]any{"limit_bytes": 8 << 30})
	d.refused("POST", "/v1/warehouse/defrag", "", http.StatusServiceUnavailable, "service_off", "") // no file stands behind this door

	bad := func(method, path, body, field string, words ...string) {
		t.Helper()
		d.refused(method, path, body, http.StatusBadRequest, "invalid_argument", field, words...)
	}
	bad("GET", "/v1/warehouse/diff", "", "from", "required")
	bad("GET", "/v1/warehouse/diff?from=0", "", "from")
	bad("GET", "/v1/warehouse/diff?from=1&key=a&prefix=b", "", "key", "one of key, prefix")
	bad("GET", "/v1/warehouse/diff?from=1&limit=-1", "", "limit")
	d.refused("GET", "/v1/warehouse/diff?from=99", "", http.StatusBadRequest, "future_revision", "revision")
	bad("POST", "/v1/warehouse/rollback", `{"revision":1}`, "key")
	bad("POST", "/v1/warehouse/rollback", `{"key":"a"}`, "revision", "required")
	bad("PUT", "/v1/warehouse/quotas", `{}`, "prefix", "required")
	bad("PUT", "/v1/warehouse/quotas", `{"prefix":"a","max_keys":-1}`, "max_keys")
	bad("PUT", "/v1/warehouse/quotas", `{"prefix":"a","write_rate":1000000001}`, "write_rate", "1000000000")
	bad("PUT", "/v1/warehouse/space", `{"limit_bytes":65535}`, "limit_bytes", "65536")
	bad("PUT", "/v1/warehouse/space", `{}`, "limit_bytes", "required")
	d.refused("PUT", "/v1/warehouse/quotas", `{"prefix":"/_sys/","max_keys":1}`, http.StatusForbidden, "forbidden", "key")
	d.ok("POST", "/v1/warehouse/compact", `{"revision":4}`)
	d.refused("POST", "/v1/warehouse/rollback", `{"key":"t/a","revision":2}`, http.StatusGone, "compacted", "revision")
	d.refused("GET", "/v1/warehouse/diff?from=2", "", http.StatusGone, "compacted", "revision")
}
