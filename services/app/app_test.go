package app_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"nekoq/configs"
	"nekoq/services/app"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func freeAddr(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// startNode starts a node and stops it with the test.
func startNode(t *testing.T, cfg configs.Config) *app.App {
	t.Helper()
	a, err := app.New(cfg, app.Deps{Log: testLog{t}})
	require.NoError(t, err)
	require.NoError(t, a.Start(t.Context()))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		require.NoError(t, a.Stop(ctx))
	})
	return a
}

// testLog sends log lines to the test.
type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	if l.t.Context().Err() == nil {
		l.t.Log(strings.TrimSpace(string(b)))
	}
	return len(b), nil
}

func request(t *testing.T, method, addr, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+addr+path, strings.NewReader(body))
	require.NoError(t, err)
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(b)
}

// await polls until ok, without a fixed sleep: the deadline is for a broken program.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, 30*time.Second, 10*time.Millisecond, what)
}

// A limit holds also where its section is not used.
func TestValuesOutsideTheirLimits(t *testing.T) {
	for key, change := range map[string]func(*configs.Config){
		"cluster.entry_wait": func(c *configs.Config) { c.Cluster.Raft.EntryWait = 5 * time.Second },
		"cluster.dead_after": func(c *configs.Config) { c.Cluster.Peer.DeadAfter = -1 },
		"localswitch.max_pending_commands": func(c *configs.Config) {
			c.Mode, c.Insecure, c.Node.ID, c.Cluster.Peer.Join = configs.ModeCluster, true, "n1", []string{"127.0.0.1:9321"}
			c.LocalSwitch.MaxPending = -1
		},
		"config.max_items": func(c *configs.Config) { c.Services.Warehouse, c.Config.MaxItems = false, 0 },
	} {
		cfg := configs.Default()
		change(&cfg)
		_, err := app.New(cfg, app.Deps{Log: io.Discard})
		require.ErrorContains(t, err, key+": ")
		require.ErrorContains(t, err, "is not valid: want ")
	}
}

func TestLocalSwitchServesOverPorts(t *testing.T) {
	cfg := configs.Default()
	cfg.Node.DataDir = t.TempDir()
	cfg.HTTP.Listen, cfg.Native.Listen, cfg.Etcd.Listen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	a := startNode(t, cfg)
	addr := a.HTTPAddr().String()
	require.NoError(t, a.Ready(t.Context()))
	code, body := request(t, "PUT", addr, "/v1/warehouse/kv/a/b", "hello")
	require.Equal(t, 200, code, body)
	code, body = request(t, "GET", addr, "/v1/warehouse/kv/a/b?raw=true", "")
	require.Equal(t, 200, code, body)
	require.Equal(t, "hello", body)
	code, body = request(t, "GET", addr, "/readyz?verbose", "")
	require.Equal(t, 200, code)
	require.Contains(t, body, "warehouse: ready")
	for _, path := range []string{"/v1/system/node", "/v1/system/services", "/v1/system/cluster", "/openapi.json", "/metrics", "/docs"} {
		code, body = request(t, "GET", addr, path, "")
		require.Equal(t, 200, code, path+": "+body)
	}
}

func TestThreeNodesServeOneState(t *testing.T) {
	var peers []string
	addrs := map[string]string{}
	for i := 1; i <= 3; i++ {
		id := fmt.Sprintf("n%d", i)
		addrs[id] = freeAddr(t)
		peers = append(peers, id+"="+addrs[id])
	}
	nodes := map[string]*app.App{}
	dir := t.TempDir()
	for id, addr := range addrs {
		cfg := configs.Default()
		cfg.Mode, cfg.Insecure, cfg.Node.ID, cfg.Node.DataDir = configs.ModeCluster, true, id, filepath.Join(dir, id)
		cfg.HTTP.Listen, cfg.Native.Listen, cfg.Etcd.Listen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
		cfg.Cluster.Peer.Listen, cfg.Cluster.Peer.Peers = addr, peers
		nodes[id] = startNode(t, cfg)
	}
	for id, n := range nodes {
		await(t, id+" is ready", func() bool { return n.Ready(t.Context()) == nil })
	}
	for id, n := range nodes {
		code, body := request(t, "PUT", n.HTTPAddr().String(), "/v1/warehouse/kv/from/"+id, id)
		require.Equal(t, 200, code, body)
	}
	for _, n := range nodes {
		for id := range nodes {
			code, body := request(t, "GET", n.HTTPAddr().String(), "/v1/warehouse/kv/from/"+id+"?raw=true", "")
			require.Equal(t, 200, code, body)
			require.Equal(t, id, body)
		}
		code, body := request(t, "POST", n.HTTPAddr().String(), "/v1/system/cluster/hashes", `{"content":true}`)
		require.Equal(t, 200, code, body)
		require.Contains(t, body, `"equal":true`)
	}
}
