package warehousetest

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"nekoq/services/errs"
	"nekoq/warehouse/api"
)

func put(t *testing.T, n *Node, key, value string) api.WriteResult {
	t.Helper()
	w, err := n.kv().Put(within(t), &api.PutRequest{Key: []byte(key), Value: []byte(value)})
	if err != nil {
		t.Fatalf("put %q: %v", key, err)
	}
	return w
}

func del(t *testing.T, n *Node, key string) api.WriteResult {
	t.Helper()
	w, err := n.kv().Delete(within(t), &api.DeleteRequest{Key: []byte(key)})
	if err != nil {
		t.Fatalf("delete %q: %v", key, err)
	}
	return w
}

func get(t *testing.T, n *Node, key string, rev uint64) api.GetResult {
	t.Helper()
	r, err := n.kv().Get(within(t), &api.GetRequest{Key: []byte(key), Revision: rev})
	if err != nil {
		t.Fatalf("get %q at %d: %v", key, rev, err)
	}
	return r
}

// row: nekoq 8. What one node acknowledged, every node reads.
func testWrites(t *testing.T, nodes []*Node) {
	last := uint64(1)
	for i, n := range nodes {
		key := fmt.Sprintf("k%d", i)
		w := put(t, n, key, "one")
		if w.Revision != last+1 || w.CreateRevision != w.Revision || w.Version != 1 || w.StoreRevision == 0 {
			t.Fatalf("put: %+v after revision %d", w, last)
		}
		for _, other := range nodes {
			r := get(t, other, key, 0)
			if !r.Found || string(r.KV.Value) != "one" || r.KV.ModRevision != w.Revision || r.KV.StoreRevision != w.StoreRevision || r.Revision < w.Revision {
				t.Fatalf("read of %q: %+v", key, r)
			}
		}
		if w = put(t, n, key, ""); w.Version != 2 || w.PrevRevision != w.Revision-1 {
			t.Fatalf("second put: %+v", w)
		}
		if r := get(t, n, key, 0); !r.Found || len(r.KV.Value) != 0 || r.KV.Version != 2 {
			t.Fatalf("an empty value: %+v", r)
		}
		if d := del(t, n, key); d.PrevRevision != w.Revision || d.Revision != w.Revision+1 {
			t.Fatalf("delete: %+v", d)
		}
		for _, other := range nodes {
			if r := get(t, other, key, 0); r.Found {
				t.Fatalf("a deleted key: %+v", r)
			}
		}
		d := del(t, n, key)
		if d.PrevRevision != 0 || d.Revision != w.Revision+1 {
			t.Fatalf("deleting nothing: %+v", d)
		}
		last = d.Revision
	}
}

// row: nekoq 8. Users cannot write below /_sys/.
func testRefusals(t *testing.T, nodes []*Node) {
	ctx, n := within(t), nodes[len(nodes)-1]
	put(t, n, "there", "v")
	lim := n.KV.Limits()
	long := strings.Repeat("k", int(lim.MaxKeyBytes)+1)
	for _, c := range []struct {
		name string
		r    api.PutRequest
		code errs.Code
	}{
		{"no key", api.PutRequest{}, errs.InvalidArgument},
		{"long key", api.PutRequest{Key: []byte(long)}, errs.TooLarge},
		{"longest key", api.PutRequest{Key: []byte(long[1:])}, ""},
		{"large value", api.PutRequest{Key: []byte("k"), Value: make([]byte, lim.MaxValueBytes+1)}, errs.TooLarge},
		{"largest value", api.PutRequest{Key: []byte("k"), Value: make([]byte, lim.MaxValueBytes)}, ""},
		{"system", api.PutRequest{Key: []byte("/_sys/x")}, errs.Forbidden},
		{"beside system", api.PutRequest{Key: []byte("/_sys")}, ""},
		{"absent but there", api.PutRequest{Key: []byte("there"), If: api.If(0)}, errs.RevisionMismatch},
		{"other revision", api.PutRequest{Key: []byte("there"), If: api.If(999)}, errs.RevisionMismatch},
		{"revision of nothing", api.PutRequest{Key: []byte("nothing"), If: api.If(2)}, errs.RevisionMismatch},
		{"no such lease", api.PutRequest{Key: []byte("k"), Lease: 4711}, errs.LeaseNotFound},
		{"short ttl", api.PutRequest{Key: []byte("k"), TTL: time.Millisecond}, errs.InvalidArgument},
		{"negative ttl", api.PutRequest{Key: []byte("k"), TTL: -time.Hour}, errs.InvalidArgument},
		{"ttl and lease", api.PutRequest{Key: []byte("k"), TTL: time.Hour, Lease: 3}, errs.InvalidArgument},
	} {
		if _, err := n.kv().Put(ctx, &c.r); errs.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %q", c.name, err, c.code)
		}
	}
	for _, c := range []struct {
		r    api.GetRequest
		code errs.Code
	}{
		{api.GetRequest{Key: []byte("/_sys/x")}, errs.Forbidden},
		{api.GetRequest{Key: []byte("there"), Revision: 1 << 40}, errs.FutureRevision},
		{api.GetRequest{}, errs.InvalidArgument},
	} {
		if _, err := n.kv().Get(ctx, &c.r); errs.CodeOf(err) != c.code {
			t.Errorf("get %q at %d: %v, want %q", c.r.Key, c.r.Revision, err, c.code)
		}
	}
	if _, err := n.kv().Delete(ctx, &api.DeleteRequest{Key: []byte("/_sys/x")}); !errs.Has(err, errs.Forbidden) {
		t.Errorf("delete below /_sys/: %v", err)
	}
}

// row: nekoq 8. Counters that many writers raise by compare-and-set lose nothing.
func testCompareAndSet(t *testing.T, nodes []*Node) {
	const writers, rounds = 6, 15
	ctx := within(t)
	var wg sync.WaitGroup
	for w := range writers {
		n := nodes[w%len(nodes)]
		wg.Go(func() {
			for done := 0; done < rounds; {
				r, err := n.kv().Get(ctx, &api.GetRequest{Key: []byte("counter")})
				if err != nil {
					t.Errorf("get: %v", err)
					return
				}
				have, _ := strconv.Atoi(string(r.KV.Value))
				_, err = n.kv().Put(ctx, &api.PutRequest{
					Key: []byte("counter"), Value: strconv.AppendInt(nil, int64(have+1), 10), If: api.If(r.KV.ModRevision),
				})
				switch {
				case err == nil:
					done++
				case !errs.Has(err, errs.RevisionMismatch):
					t.Errorf("cas: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	for _, n := range nodes {
		r := get(t, n, "counter", 0)
		if string(r.KV.Value) != strconv.Itoa(writers*rounds) || r.KV.Version != writers*rounds {
			t.Fatalf("after %d increments: %s, version %d", writers*rounds, r.KV.Value, r.KV.Version)
		}
	}
}

func testLists(t *testing.T, nodes []*Node) {
	ctx, n := within(t), nodes[0]
	for i := range 25 {
		put(t, n, fmt.Sprintf("app/%02d", i), fmt.Sprint(i))
	}
	put(t, n, "aaa", "before")
	rev := put(t, n, "zzz", "after").Revision
	page := func(n *Node, r api.ListRequest) api.ListResult {
		t.Helper()
		res, err := n.kv().List(ctx, &r)
		if err != nil {
			t.Fatalf("list %+v: %v", r, err)
		}
		return res
	}
	prefix := api.ListRequest{Start: []byte("app/"), End: api.PrefixEnd([]byte("app/")), Limit: 10, Count: true}
	var keys []string
	for i, r := 0, prefix; ; i++ {
		res := page(nodes[i%len(nodes)], r)
		if res.Revision != rev || !res.Counted || res.Count != 25 {
			t.Fatalf("page %d: revision %d, count %d; want %d and 25", i, res.Revision, res.Count, rev)
		}
		for _, kv := range res.Items {
			keys = append(keys, string(kv.Key)+"="+string(kv.Value))
		}
		// Writes between the pages do not show.
		put(t, n, fmt.Sprintf("app/0%d.new", i), "x")
		put(t, n, "app/20", "changed")
		del(t, n, "app/24")
		if r.PageToken = res.NextPageToken; r.PageToken == "" {
			break
		}
	}
	if len(keys) != 25 || keys[20] != "app/20=20" || keys[24] != "app/24=24" {
		t.Fatalf("pages gave %d keys: %v", len(keys), keys)
	}
	if res := page(n, api.ListRequest{Count: true, KeysOnly: true}); res.Count != uint64(len(res.Items)) || len(res.Items[0].Value) != 0 {
		t.Fatalf("everything: count %d of %d", res.Count, len(res.Items))
	}
	if res := page(n, api.ListRequest{Start: []byte("nothing"), End: []byte("nothing2")}); len(res.Items) != 0 || res.NextPageToken != "" {
		t.Fatalf("an empty range: %+v", res)
	}
	first := page(n, prefix)
	other := prefix
	other.End, other.PageToken = []byte("app/2"), first.NextPageToken
	bad := prefix
	bad.PageToken = "Zm9v"
	for name, c := range map[string]struct {
		r    api.ListRequest
		code errs.Code
	}{
		"a token of another query": {other, errs.BadPageToken},
		"a damaged token":          {bad, errs.BadPageToken},
		"limit -1":                 {api.ListRequest{Limit: -1}, errs.InvalidArgument},
		"limit over":               {api.ListRequest{Limit: n.KV.Limits().MaxListLimit + 1}, errs.InvalidArgument},
		"future":                   {api.ListRequest{Revision: 1 << 50}, errs.FutureRevision},
		"end before start":         {api.ListRequest{Start: []byte("b"), End: []byte("a")}, errs.InvalidArgument},
	} {
		if _, err := n.kv().List(ctx, &c.r); !errs.Has(err, c.code) {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
}

func testHistory(t *testing.T, nodes []*Node) {
	ctx, n := within(t), nodes[0]
	var revs []uint64
	for i := range 5 {
		revs = append(revs, put(t, n, "h", fmt.Sprint(i)).Revision)
		put(t, n, "other", "x")
	}
	gone := del(t, n, "h").Revision
	put(t, n, "h", "again")
	for i, rev := range revs {
		for _, at := range []uint64{rev, rev + 1} {
			r := get(t, nodes[i%len(nodes)], "h", at)
			if !r.Found || string(r.KV.Value) != fmt.Sprint(i) || r.KV.ModRevision != rev || r.Revision != at {
				t.Fatalf("at %d: %+v", at, r)
			}
		}
	}
	if r := get(t, n, "h", gone); r.Found {
		t.Fatalf("at its deletion: %+v", r)
	}
	if r := get(t, n, "h", 1); r.Found {
		t.Fatalf("before everything: %+v", r)
	}
	h, err := n.kv().History(ctx, &api.HistoryRequest{Key: []byte("h"), Limit: 3})
	if err != nil || len(h.Items) != 3 || !h.More || !h.Items[1].Deleted || h.Items[1].ModRevision != gone || h.Items[1].Actor == "" || string(h.Items[0].Value) != "again" {
		t.Fatalf("history: %+v %v", h, err)
	}
	h, err = n.kv().History(ctx, &api.HistoryRequest{Key: []byte("h"), Before: h.Items[2].ModRevision})
	if err != nil || len(h.Items) != 4 || h.More || string(h.Items[3].Value) != "0" {
		t.Fatalf("history, second page: %+v %v", h, err)
	}
}
