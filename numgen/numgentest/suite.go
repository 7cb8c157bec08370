package numgentest

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"nekoq/numgen"
	"nekoq/numgen/api"
	"nekoq/numgen/idgen"
	"nekoq/services/clock"
	"nekoq/services/errs"
)

// Suite runs what every replica must give numgen. start makes a fresh cluster
// of one or several nodes whose state has numgen's tables.
func Suite(t *testing.T, start func(t *testing.T) []Node) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, nodes []Node)
	}{
		{"row: nekoq 2: concurrent batches over all nodes", concurrent},
		{"row: nekoq 2: element survives a restart of the service", elementSurvives},
		{"sequences have no gap over all nodes", noGap},
		{"an orderly stop leaves no gap in a segment", segmentStop},
		{"a worker lease is superseded by a restart", workerRestart},
		{"generators are managed from any node", managed},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, start(t)) })
	}
}

func services(t *testing.T, nodes []Node) []*numgen.Service {
	var out []*numgen.Service
	for _, n := range nodes {
		s, _ := Start(t, n, clock.System(), numgen.DefaultConfig())
		out = append(out, s)
	}
	return out
}

// Options are generators of every kind, for tests.
func Options() map[string]api.CreateRequest {
	return map[string]api.CreateRequest{
		"id128": {Kind: "id128"}, "snowflake": {Kind: "snowflake"}, "uuidv7": {Kind: "uuidv7"}, "ulid": {Kind: "ulid"},
		"segment": {Kind: "segment", Options: api.Options{MinStep: 50, MaxStep: 400}}, "sequence": {Kind: "sequence"},
		"format":       {Kind: "format", Options: api.Options{Template: "ORD-{yyyyMMdd}-{n:6}{check=luhn}", Reset: "day", TimeZone: "Asia/Shanghai"}},
		"format-flake": {Kind: "format", Options: api.Options{Template: "{n:13,base=36}-{check=mod37_36}", Of: "snowflake"}},
	}
}

// Judge collects ids and finds what must not be: an id twice, a zero, or one
// that does not come after the one before it from the same source.
type Judge struct {
	mu   sync.Mutex
	seen map[string]string
	last map[string]string
}

// Add judges the ids that source got, in their order. Kinds with numbers of
// varying width are compared by length first.
func (j *Judge) Add(t testing.TB, source string, ids []string) {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.seen == nil {
		j.seen, j.last = map[string]string{}, map[string]string{}
	}
	for _, id := range ids {
		if strings.Trim(id, "0-") == "" {
			t.Fatalf("%s: a zero id %q", source, id)
		}
		if by, dup := j.seen[id]; dup {
			t.Fatalf("%s: id %s was given to %s already", source, id, by)
		}
		j.seen[id] = source
		if last := j.last[source]; last != "" && (len(id) < len(last) || len(id) == len(last) && id <= last) {
			t.Fatalf("%s: id %s after %s", source, id, last)
		}
		j.last[source] = id
	}
}

func concurrent(t *testing.T, nodes []Node) {
	svcs := services(t, nodes)
	for name, req := range Options() {
		req.Name = name
		if _, _, err := svcs[0].Create(t.Context(), req); err != nil {
			t.Fatal(name, err)
		}
	}
	for name := range Options() {
		t.Run(name, func(t *testing.T) {
			var j Judge
			var wg sync.WaitGroup
			for i, svc := range svcs {
				for w := range 3 {
					wg.Go(func() {
						// What one caller sees increases; what a node gives does too.
						source := "node " + strconv.Itoa(i) + " caller " + strconv.Itoa(w)
						for r := range 20 {
							ids, err := svc.IDs(t.Context(), name, 1+r*7%100)
							if err != nil {
								t.Error(err)
								return
							}
							j.Add(t, source, ids)
						}
					})
				}
			}
			wg.Wait()
		})
	}
}

func elementSurvives(t *testing.T, nodes []Node) {
	n := nodes[0]
	svc, stop := Start(t, n, clock.System(), numgen.DefaultConfig())
	first, err := svc.IDs(t.Context(), "orders", 3)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := svc.IDs(t.Context(), "others", 1); err != nil {
		t.Fatal(err)
	}
	stop()
	svc, _ = Start(t, n, clock.System(), numgen.DefaultConfig())
	second, err := svc.IDs(t.Context(), "orders", 3)
	if err != nil {
		t.Fatal(err)
	}
	var j Judge
	j.Add(t, "node", first)
	j.Add(t, "node", second)
	if a, b := elementOf(t, svc, first[0]), elementOf(t, svc, second[0]); a != b {
		t.Fatalf("element %s became %s", a, b)
	}
}

func elementOf(t *testing.T, svc *numgen.Service, id string) string {
	d, err := svc.Decode(t.Context(), api.DecodeRequest{Kind: "id128", ID: id})
	if err != nil {
		t.Fatal(err)
	}
	return Part(d, "element")
}

// Part is one part of a decoded id, "" when it has none of the name.
func Part(d *idgen.Decoded, name string) string {
	for _, p := range d.Parts {
		if p.Name == name {
			return p.Value
		}
	}
	return ""
}

func noGap(t *testing.T, nodes []Node) {
	svcs := services(t, nodes)
	if _, _, err := svcs[0].Create(t.Context(), api.CreateRequest{Name: "bills", Kind: "sequence"}); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	seen := map[string]bool{}
	total := 0
	var wg sync.WaitGroup
	for _, svc := range svcs {
		for range 4 {
			wg.Go(func() {
				for r := range 25 {
					ids, err := svc.IDs(t.Context(), "bills", 1+r%5)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					for _, id := range ids {
						seen[id] = true
					}
					total += len(ids)
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	for i := 1; i <= total; i++ {
		if !seen[strconv.Itoa(i)] {
			t.Fatalf("%d of %d numbers are different, and %d is missing", len(seen), total, i)
		}
	}
}

func segmentStop(t *testing.T, nodes []Node) {
	n := nodes[0]
	next := 1
	for range 5 {
		svc, stop := Start(t, n, clock.System(), numgen.DefaultConfig())
		if _, _, err := svc.Create(t.Context(), api.CreateRequest{Name: "seg", Kind: "segment", Options: api.Options{MinStep: 10, MaxStep: 1000}}); err != nil {
			t.Fatal(err)
		}
		for _, k := range []int{1, 7, 33} {
			ids, err := svc.IDs(t.Context(), "seg", k)
			if err != nil {
				t.Fatal(err)
			}
			for _, id := range ids {
				if id != strconv.Itoa(next) {
					t.Fatalf("number %s, want %d", id, next)
				}
				next++
			}
		}
		stop()
	}
}

func workerRestart(t *testing.T, nodes []Node) {
	n := nodes[0]
	cfg := numgen.DefaultConfig()
	old, _ := Start(t, n, clock.System(), cfg)
	var j Judge
	take := func(svc *numgen.Service) {
		ids, err := svc.IDs(t.Context(), "flakes", 500)
		if err != nil {
			t.Fatal(err)
		}
		j.Add(t, "node", ids)
	}
	if _, _, err := old.Create(t.Context(), api.CreateRequest{Name: "flakes", Kind: "snowflake"}); err != nil {
		t.Fatal(err)
	}
	take(old)
	// The node comes back while its former life, which was never stopped, still
	// believes in its lease: the new one starts after all that was granted.
	fresh, _ := Start(t, n, clock.System(), cfg)
	take(fresh)
	ids, err := old.IDs(t.Context(), "flakes", 500)
	if err != nil {
		t.Fatal(err)
	}
	j.Add(t, "former life", ids)
	take(fresh)
	l, err := fresh.Workers(t.Context(), api.WorkersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Workers) == 0 || !l.Workers[0].Held || l.Workers[0].Token == 0 {
		t.Fatalf("workers: %+v", l.Workers)
	}
}

func managed(t *testing.T, nodes []Node) {
	svcs := services(t, nodes)
	ctx := t.Context()
	first, last := svcs[0], svcs[len(svcs)-1]
	req := api.CreateRequest{Name: "a:b.c", Kind: "segment", Options: api.Options{MinStep: 5, MaxStep: 10}}
	g, created, err := first.Create(ctx, req)
	if err != nil || !created || g.Element == 0 || g.CreatedRevision == 0 {
		t.Fatal(g, created, err)
	}
	again, created, err := last.Create(ctx, req)
	if err != nil || created || *again != *g {
		t.Fatal(again, created, err)
	}
	req.Options.MaxStep = 11
	if _, _, err := last.Create(ctx, req); !errs.Has(err, errs.AlreadyExists) || !strings.Contains(err.Error(), "max_step") {
		t.Fatal(err)
	}
	if _, err := last.IDs(ctx, "a:b.c", 3); err != nil {
		t.Fatal(err)
	}
	step := int64(20)
	if g, err = first.Update(ctx, api.UpdateRequest{Name: "a:b.c", MaxStep: &step}); err != nil || g.Options.MaxStep != 20 {
		t.Fatal(g, err)
	}
	l, err := last.List(ctx, api.ListRequest{Prefix: "a:"})
	if err != nil || len(l.Generators) != 1 || l.Generators[0] != *g {
		t.Fatal(l, err)
	}
	if err := first.Delete(ctx, "a:b.c"); err != nil {
		t.Fatal(err)
	}
	if _, err := last.Get(ctx, api.NameRequest{Name: "a:b.c"}); !errs.Has(err, errs.NotFound) {
		t.Fatal(err)
	}
	req.Options = api.Options{}
	fresh, created, err := last.Create(ctx, req)
	if err != nil || !created || fresh.Element <= g.Element {
		t.Fatal(fresh, created, err)
	}
	eventually(t, func() bool {
		ids, err := last.IDs(ctx, "a:b.c", 1)
		return err == nil && ids[0] == "1"
	})
}

// eventually waits until ok, which another node's events decide.
func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("it did not come about within 10 s")
		}
	}
}
