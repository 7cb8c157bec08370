package etcd_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"nekoq/services/app"
)

// rest sends a request to a node's HTTP door.
func rest(t *testing.T, n *app.App, method, path, body string) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	n.Handler().ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
}

func isNoSpace(t *testing.T, what string, err error) {
	t.Helper()
	if s := status.Convert(err); s.Code() != codes.ResourceExhausted || s.Message() != "etcdserver: mvcc: database space exceeded" {
		t.Errorf("%s of a full store: %v", what, err)
	}
}

// A store at its limit raises etcd's alarm and refuses what makes it larger; deletes
// and compaction go on, and with space it serves again, by itself.
func TestNoSpace(t *testing.T) {
	n := node(t)
	rest(t, n, http.MethodPut, "/v1/warehouse/space", `{"limit_bytes": 1048576}`)
	c, ctl := client(t, n), newCtl(t, n)
	kv := pb.NewKVClient(wire(t, n.EtcdAddr().String()))
	ctx := within(t, time.Minute)
	value := []byte(strings.Repeat("v", 16<<10))
	_, err := c.Put(ctx, "last", "x")
	puts := 0
	for ; err == nil && puts < 1000; puts++ {
		_, err = kv.Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "k/%03d", puts), Value: value})
	}
	isNoSpace(t, "a put", err)
	if puts < 40 {
		t.Errorf("full after %d puts", puts)
	}
	_, err = kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("t"), Value: value}}}}})
	isNoSpace(t, "a transaction", err)
	ctl.says("", []string{"alarm", "list"}, "alarm:NOSPACE")
	ctl.says(string(value), []string{"put", "x"}, "etcdserver: mvcc: database space exceeded")
	ctl.says("", []string{"endpoint", "status", "-w", "json"}, "alarm:NOSPACE")
	ctl.says("", []string{"alarm", "disarm"}, "alarm:NOSPACE")
	if a, err := c.AlarmList(ctx); err != nil || len(a.Alarms) != 1 || a.Alarms[0].Alarm != pb.AlarmType_NOSPACE || a.Alarms[0].MemberID != a.Header.MemberId {
		t.Errorf("%v %v", a, err)
	}

	if r, err := c.Get(ctx, "k/", clientv3.WithPrefix(), clientv3.WithCountOnly()); err != nil || r.Count < 40 {
		t.Errorf("reads of a full store: %v %v", r, err)
	}
	d, err := c.Delete(ctx, "k/", clientv3.WithPrefix())
	if err != nil || d.Deleted != int64(puts-1) {
		t.Fatalf("deletes of a full store: %v %v", d, err)
	}
	// What the last revision itself has deleted goes with the compaction after it.
	if d, err = c.Delete(ctx, "last"); err != nil || d.Deleted != 1 {
		t.Fatalf("deletes of a full store: %v %v", d, err)
	}
	if _, err := c.Compact(ctx, d.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatalf("compaction of a full store: %v", err)
	}
	eventually(t, "the alarm ends by itself", func() bool {
		a, err := c.AlarmList(ctx)
		return err == nil && len(a.Alarms) == 0
	})
	if out := ctl.says("", []string{"alarm", "list"}); strings.Contains(out, "NOSPACE") {
		t.Errorf("%s", out)
	}
	if _, err := c.Put(ctx, "k/000", string(value)); err != nil {
		t.Errorf("after it: %v", err)
	}
}

// A prefix at its quota is refused as a full store is, and the rest goes on.
func TestPrefixAtItsQuota(t *testing.T) {
	n := node(t)
	rest(t, n, http.MethodPut, "/v1/warehouse/quotas", `{"prefix": "tenant/", "max_keys": 2, "max_bytes": 100}`)
	c := client(t, n)
	kv := pb.NewKVClient(wire(t, n.EtcdAddr().String()))
	ctx := within(t, time.Minute)
	put := func(key, value string) error {
		_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(value)})
		return err
	}
	for _, k := range []string{"tenant/a", "tenant/b", "other"} {
		if err := put(k, "x"); err != nil {
			t.Fatal(err)
		}
	}
	isNoSpace(t, "a third key", put("tenant/c", "x"))
	isNoSpace(t, "a longer value", put("tenant/a", strings.Repeat("v", 100)))
	if err := put("other", strings.Repeat("v", 1000)); err != nil {
		t.Error(err)
	}
	if err := put("tenant/a", "y"); err != nil {
		t.Errorf("a change that does not grow: %v", err)
	}
	if _, err := c.Delete(ctx, "tenant/b"); err != nil {
		t.Fatal(err)
	}
	if err := put("tenant/c", "x"); err != nil {
		t.Errorf("after a delete: %v", err)
	}
	if a, err := c.AlarmList(ctx); err != nil || len(a.Alarms) != 0 {
		t.Errorf("a prefix raises no alarm: %v %v", a, err)
	}
}
