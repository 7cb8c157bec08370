package etcd_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"nekoq/services/app"
)

// socket is a WebSocket to a path of the JSON gateway.
func socket(t *testing.T, n *app.App, path string, opts *websocket.DialOptions) *websocket.Conn {
	t.Helper()
	c, err := trySocket(t, n, path, opts)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func trySocket(t *testing.T, n *app.App, path string, opts *websocket.DialOptions) (*websocket.Conn, error) {
	t.Helper()
	if opts == nil {
		opts = &websocket.DialOptions{}
	}
	opts.HTTPClient = web(t)
	opts.HTTPClient.Timeout = 0
	c, res, err := websocket.Dial(within(t, 30*time.Second), "ws://"+n.EtcdAddr().String()+path, opts)
	if res != nil && res.Body != nil {
		_ = res.Body.Close()
	}
	if err == nil {
		t.Cleanup(func() { _ = c.CloseNow() })
	}
	return c, err
}

func say(t *testing.T, c *websocket.Conn, text string) {
	t.Helper()
	if err := c.Write(within(t, 30*time.Second), websocket.MessageText, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// hear reads one frame as JSON.
func hear(t *testing.T, c *websocket.Conn) map[string]any {
	t.Helper()
	kind, b, err := c.Read(within(t, 30*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]any{}
	if err := json.Unmarshal(b, &out); err != nil || kind != websocket.MessageText {
		t.Fatalf("%s %s: %v", kind, b, err)
	}
	return out
}

func result(t *testing.T, c *websocket.Conn) map[string]any {
	t.Helper()
	m := hear(t, c)
	r, ok := m["result"].(map[string]any)
	if !ok {
		t.Fatalf("%v", m)
	}
	return r
}

// A watch over a WebSocket: a frame a request, a frame an answer, several watches on
// one connection, and the end by the client.
func TestWebSocketWatch(t *testing.T) {
	n := node(t)
	for _, path := range []string{"/v3/watch", "/v3beta/watch"} {
		c := socket(t, n, path, nil)
		for i, key := range []string{"a", "b"} {
			say(t, c, `{"create_request":{"key":"`+b64(path+key)+`"}}`)
			if r := result(t, c); r["created"] != true || i == 1 && r["watch_id"] != "1" {
				t.Fatalf("%v", r)
			}
		}
		if _, err := client(t, n).Put(within(t, 30*time.Second), path+"b", "v"); err != nil {
			t.Fatal(err)
		}
		r := result(t, c)
		if events, _ := r["events"].([]any); r["watch_id"] != "1" || len(events) != 1 {
			t.Fatalf("%v", r)
		}
		say(t, c, `{"cancel_request":{"watch_id":"1"}}`)
		if r := result(t, c); r["canceled"] != true {
			t.Fatalf("%v", r)
		}
		if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the watches of clients that are gone have ended", func() bool {
		return strings.Contains(scrape(t, n), "\netcd_debugging_mvcc_watcher_total 0\n")
	})
}

func TestWebSocketOfEveryKind(t *testing.T) {
	n := node(t)
	_, _ = post(t, n.EtcdAddr().String(), "/v3/lease/grant", `{"TTL":"60","ID":"77"}`)
	beats := socket(t, n, "/v3/lease/keepalive", nil)
	for range 3 {
		say(t, beats, `{"ID":"77"}`)
		if r := result(t, beats); r["ID"] != "77" || r["TTL"] != "60" {
			t.Fatalf("%v", r)
		}
	}
	// A path that does not stream answers once and closes.
	put := socket(t, n, "/v3/kv/put", nil)
	say(t, put, `{"key":"`+b64("k")+`"}`)
	if r := hear(t, put); r["header"] == nil {
		t.Fatalf("%v", r)
	}
	if _, _, err := put.Read(within(t, 30*time.Second)); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		t.Fatal(err)
	}
	bad := socket(t, n, "/v3/kv/put", nil)
	say(t, bad, `{}`)
	if r := hear(t, bad); r["code"] != float64(3) || r["error"] != "etcdserver: key is not provided" {
		t.Fatalf("%v", r)
	}
	// A page of another origin is refused: it must not use the door of whoever looks at it.
	if _, err := trySocket(t, n, "/v3/watch", &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"http://elsewhere.example"}}}); err == nil {
		t.Fatal("a page of another origin was let in")
	}
	// A frame that is too large ends the connection.
	large := socket(t, n, "/v3/kv/put", nil)
	say(t, large, strings.Repeat(" ", 5<<20))
	if _, _, err := large.Read(within(t, 30*time.Second)); websocket.CloseStatus(err) != websocket.StatusMessageTooBig {
		t.Fatal(err)
	}
}

// The token of a browser comes in the one header that it can set.
func TestWebSocketAuth(t *testing.T) {
	n := node(t)
	_, _ = guarded(t, n)
	_, r := post(t, n.EtcdAddr().String(), "/v3/auth/authenticate", `{"name":"alice","password":"pw"}`)
	token, _ := r["token"].(string)
	for _, opts := range []*websocket.DialOptions{
		{Subprotocols: []string{"Bearer", token}},
		{HTTPHeader: http.Header{"Authorization": {token}}},
	} {
		c := socket(t, n, "/v3/watch", opts)
		say(t, c, `{"create_request":{"key":"`+b64("shared")+`"}}`)
		if r := result(t, c); r["canceled"] == true {
			t.Fatalf("%v", r)
		}
	}
	c := socket(t, n, "/v3/watch", nil)
	say(t, c, `{"create_request":{"key":"`+b64("shared")+`"}}`)
	if r := result(t, c); r["canceled"] != true {
		t.Fatalf("%v", r)
	}
}

// A stop does not wait for those who listen.
func TestStopEndsWebSockets(t *testing.T) {
	n := node(t)
	c := socket(t, n, "/v3/watch", nil)
	say(t, c, `{"create_request":{"key":"`+b64("k")+`"}}`)
	_ = result(t, c)
	if err := n.Stop(within(t, 30*time.Second)); err != nil {
		t.Fatal(err)
	}
	for { // the stream may say why it ends
		if _, _, err := c.Read(within(t, 30*time.Second)); err != nil {
			return
		}
	}
}

func scrape(t *testing.T, n *app.App) string {
	t.Helper()
	_, b := fetch(t, n, "/metrics")
	return b
}

func fetch(t *testing.T, n *app.App, path string) (int, string) {
	t.Helper()
	req, _ := http.NewRequestWithContext(within(t, 30*time.Second), http.MethodGet, "http://"+n.EtcdAddr().String()+path, nil)
	res, err := web(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func TestProbes(t *testing.T) {
	n := node(t)
	const all = "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n"
	for path, want := range map[string]string{
		"/livez": "ok\n", "/livez?verbose": "[+]serializable_read ok\nok\n", "/livez/serializable_read": "ok\n",
		"/readyz": "ok\n", "/readyz?verbose": all, "/readyz/linearizable_read?verbose": "[+]linearizable_read ok\nok\n",
		"/readyz?verbose&exclude=linearizable_read&exclude=non_learner": "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read excluded: ok\n[+]non_learner excluded: ok\nok\n",
	} {
		if code, b := fetch(t, n, path); code != 200 || b != want {
			t.Errorf("%s: %d %q, want %q", path, code, b, want)
		}
	}
	if code, _ := fetch(t, n, "/readyz/nothing"); code != 404 {
		t.Error(code)
	}
}

// A node that has lost the others is alive and not ready.
func TestProbesWithoutQuorum(t *testing.T) {
	nodes := three(t)
	for _, n := range nodes[1:] {
		if err := n.Stop(within(t, 30*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	last := nodes[0]
	eventually(t, "the node has noticed", func() bool {
		code, b := fetch(t, last, "/readyz")
		return code == 503 && strings.Contains(b, "[-]linearizable_read failed: ") && strings.Contains(b, "[+]serializable_read ok\n")
	})
	if code, b := fetch(t, last, "/livez"); code != 200 {
		t.Error(code, b)
	}
	if code, b := fetch(t, last, "/health"); code != 503 || !strings.Contains(b, `"health":"false"`) {
		t.Error(code, b)
	}
	if code, b := fetch(t, last, "/health?serializable=true"); code != 200 {
		t.Error(code, b)
	}
	eventually(t, "no leader in the metrics", func() bool { return strings.Contains(scrape(t, last), "\netcd_server_has_leader 0\n") })
}

// What dashboards and alerts for etcd ask for is there, with true values.
func TestFamiliarMetrics(t *testing.T) {
	nodes := three(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := client(t, nodes[0])
	for range 3 {
		if _, err := c.Put(ctx, "k", "v"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Grant(ctx, -1); err != nil { // a second is the least
		t.Fatal(err)
	}
	if code, _ := post(t, nodes[0].EtcdAddr().String(), "/v3/kv/put", `{}`); code != 400 {
		t.Fatal(code)
	}
	eventually(t, "the refusal is counted", func() bool { // it is answered first
		return strings.Contains(scrape(t, nodes[0]), `grpc_server_handled_total{grpc_code="InvalidArgument",grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"} 1`)
	})
	if err := c.ActiveConnection().Invoke(ctx, "/made.Up/Method", &pb.PutRequest{}, &pb.PutResponse{}); status.Code(err) != codes.Unimplemented {
		t.Fatal(err)
	}
	text := scrape(t, nodes[0])
	if strings.Contains(text, "made.Up") {
		t.Error("a method that a client made up is kept")
	}
	for _, want := range []string{
		"\netcd_server_has_leader 1\n", "\netcd_server_leader_changes_seen_total 1\n", "\netcd_debugging_mvcc_current_revision 4\n",
		"\netcd_debugging_mvcc_keys_total 1\n", "\netcd_server_version{server_version=\"3.6.5\"} 1\n",
		`grpc_server_handled_total{grpc_code="OK",grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"} 3`,
		"\netcd_disk_wal_fsync_duration_seconds_bucket{", "\netcd_disk_backend_commit_duration_seconds_count ",
		"\netcd_server_proposals_committed_total ", "\netcd_server_proposals_applied_total ", "\netcd_server_proposals_pending ",
		"\netcd_mvcc_db_total_size_in_bytes ", "\netcd_mvcc_db_total_size_in_use_in_bytes ", "\netcd_server_quota_backend_bytes ",
		"\nprocess_resident_memory_bytes ", "\nnekoq_etcd_requests_total",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing", want)
		}
	}
	leaders := slices.DeleteFunc(slices.Clone(nodes), func(n *app.App) bool { return !strings.Contains(scrape(t, n), "\netcd_server_is_leader 1\n") })
	if len(leaders) != 1 {
		t.Errorf("%d leaders", len(leaders))
	}
}
