package rest_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"nekoq/services/auth/authtest"
)

// A delete, of a key or of many, can demand that a lock or election is still held, as
// a put can.
func TestHeldDeletes(t *testing.T) {
	for many, param := range map[string]string{"locks": "if_lock", "elections": "if_election"} {
		t.Run(many, func(t *testing.T) {
			d := open(t)
			first := d.ok("PUT", "/v1/warehouse/"+many+"/jobs", `{"holder":"one","ttl":"60s"}`)
			held := fmt.Sprintf("%s=jobs&token=%.0f", param, first.json["token"])
			keys := "/v1/warehouse/kv/"
			for _, k := range []string{"k", "p/1", "p/2", "q"} {
				d.ok("PUT", keys+k, "x")
			}
			d.refused("DELETE", keys+"k?if_revision=99&"+held, "", http.StatusConflict, "revision_mismatch", "if_revision")
			d.refused("DELETE", keys+"none?if_revision=99&"+held, "", http.StatusConflict, "revision_mismatch", "if_revision", "does not exist")
			k := d.ok("GET", keys+"k", "")
			gone := d.ok("DELETE", fmt.Sprintf("%sk?if_revision=%.0f&%s", keys, k.json["mod_revision"], held), "")
			d.has(gone, map[string]any{"key": "k", "deleted": true, "prev_revision": int(k.json["mod_revision"].(float64))})
			if gone.json["revision"].(float64) <= k.json["revision"].(float64) || gone.json["store_revision"].(float64) == 0 {
				t.Errorf("deleted: %s", gone.body)
			}
			d.has(d.ok("DELETE", keys+"k?"+held, ""), map[string]any{"deleted": false, "prev_revision": 0, "revision": int(gone.json["revision"].(float64))})
			d.has(d.ok("DELETE", "/v1/warehouse/kv?prefix=p/&"+held, ""), map[string]any{"deleted": 2, "revision": int(gone.json["revision"].(float64)) + 1})

			d.ok("DELETE", fmt.Sprintf("/v1/warehouse/%s/jobs?lease=%s", many, first.json["lease"]), "")
			d.ok("PUT", "/v1/warehouse/"+many+"/jobs", `{"holder":"two","ttl":"60s"}`)
			for _, lost := range []string{keys + "q?" + held, keys + "none?" + held, keys + "q?if_revision=99&" + held, "/v1/warehouse/kv?prefix=q&" + held} {
				d.refused("DELETE", lost, "", http.StatusConflict, "stale_token", "token", "jobs")
			}
			d.ok("GET", keys+"q", "")
		})
	}
}

func TestDeleteRange(t *testing.T) {
	d := open(t)
	for _, k := range []string{"a", "p/1", "p/2", "q/1", "q/2", "r"} {
		d.ok("PUT", "/v1/warehouse/kv/"+k, "x")
	}
	deleted := func(query string, n int) {
		t.Helper()
		d.has(d.ok("DELETE", "/v1/warehouse/kv?"+query, ""), map[string]any{"deleted": n})
	}
	deleted("prefix=none", 0)
	deleted("prefix=p/", 2)
	deleted("start=q/2&end=r", 1)
	deleted("start=r", 1)
	bad := func(query, field string, words ...string) {
		t.Helper()
		d.refused("DELETE", "/v1/warehouse/kv"+query, "", http.StatusBadRequest, "invalid_argument", field, words...)
	}
	bad("", "prefix", "start=%00")
	bad("?prefix=", "prefix")
	bad("?start=", "prefix")
	bad("?end=b", "prefix")
	bad("?prefix=a&start=b", "prefix", "not both")
	bad("?start=b&end=b", "end", "after start")
	bad("?start=a&end=%00", "end", "after start")
	bad("?start=%FF", "start", "UTF-8")
	bad("?prefix=a&token=4", "token", "if_lock or if_election")
	bad("?prefix=a&if_lock=l", "token", "from 1 on")
	bad("?prefix=a&if_lock=l&if_election=e&token=1", "if_election", "not both")
	d.refused("DELETE", "/v1/warehouse/kv?prefix="+strings.Repeat("a", 5000), "", http.StatusRequestEntityTooLarge, "too_large", "key", "4096")
	d.refused("DELETE", "/v1/warehouse/kv?prefix=a&limit=1", "", http.StatusBadRequest, "unknown_field", "limit")
	d.refused("DELETE", "/v1/warehouse/kv?prefix=/_sys/", "", http.StatusForbidden, "forbidden", "key")
	deleted("start=%00", 2)
	d.has(d.ok("GET", "/v1/warehouse/kv?count=true", ""), map[string]any{"count": 0})
}

func TestHeldDeletesAsk(t *testing.T) {
	r := &authtest.Recorder{}
	d := openAs(t, r)
	a := d.ok("PUT", "/v1/warehouse/locks/l", `{"holder":"x","ttl":"60s"}`)
	for path, want := range map[string]string{"/k?": "delete warehouse/kv/k", "?prefix=p/&": "delete warehouse/kv/p/..p0"} {
		r.Take()
		d.ok("DELETE", fmt.Sprintf("/v1/warehouse/kv%sif_lock=l&token=%.0f", path, a.json["token"]), "")
		var got []string
		for _, a := range r.Take() {
			got = append(got, string(a.Action)+" "+a.Resource.String())
		}
		if want += ", read warehouse/lock/l"; strings.Join(got, ", ") != want {
			t.Errorf("asked %q, want %q", got, want)
		}
	}
}
