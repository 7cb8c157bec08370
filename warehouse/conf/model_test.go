package conf_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"nekoq/client"
)

// What clients get agrees with a plain model after any sequence of changes, and the
// version differs exactly when what they get does.
func TestEffectiveAgreesWithModel(t *testing.T) {
	f := start(t)
	r := rand.New(rand.NewPCG(7, 8))
	levels := map[string][]string{"north": {"north", "eu", "default"}, "eu": {"eu", "default"}, "default": {"default"}}
	areas, groups, keys := []string{"default", "eu", "north"}, []string{"app", "lib", "global"}, []string{"a", "b", "c", "_h"}
	_, err := f.conf.PutGroup(f.ctx, client.ConfGroup{Name: "app", Quotes: []string{"lib"}})
	f.ok(err)
	have := map[string]string{} // path → content
	find := func(area, group, key string) (string, bool) {
		for _, l := range levels[area] {
			if c, ok := have[l+"/"+group+"/"+key]; ok {
				return c, true
			}
		}
		return "", false
	}
	resolve := func(area, c string) string {
		for _, k := range keys { // contents refer to keys of lib, which refer to nothing
			if v, ok := find(area, "lib", k); ok {
				c = strings.ReplaceAll(c, "${lib/"+k+"}", v)
			}
		}
		return c
	}
	hashes := map[string]string{} // by area and what it gets
	seen := map[string]string{}   // and back
	for range 400 {
		path := areas[r.IntN(3)] + "/" + groups[r.IntN(3)] + "/" + keys[r.IntN(4)]
		if _, there := have[path]; there && r.IntN(3) == 0 {
			_, err := f.conf.Delete(f.ctx, at(path), "")
			f.ok(err)
			delete(have, path)
		} else {
			c := fmt.Sprint("v", r.IntN(5))
			if !strings.Contains(path, "/lib/") && r.IntN(3) == 0 {
				c = "<${lib/" + keys[r.IntN(4)] + "}>"
			}
			f.publish(path, c)
			have[path] = c
		}
		for _, area := range areas {
			var want []string
			for _, k := range keys[:3] {
				for _, g := range []string{"app", "lib", "global"} {
					if c, ok := find(area, g, k); ok {
						want = append(want, k+"="+resolve(area, c))
						break
					}
				}
			}
			text := strings.Join(want, " ")
			e := f.gets(client.ConfQuery{Area: area, Group: "app"}, text)
			if h, known := hashes[text]; known && h != e.Hash {
				t.Fatalf("%q has the versions %s and %s", text, h, e.Hash)
			}
			if was, known := seen[e.Hash]; known && was != text {
				t.Fatalf("%q and %q have the version %s", was, text, e.Hash)
			}
			hashes[text], seen[e.Hash] = e.Hash, text
		}
	}
}
