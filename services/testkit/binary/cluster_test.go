// Package binary_test runs the built nekoq binary: processes that are killed,
// frozen, starved of disk and started again. What was acknowledged is counted
// afterwards, on every node, and histories are checked for linearizability.
//
// Steps of the clock are not among the faults: all processes of a machine share its
// clock, so they are tested with fake clocks, in the packages that read the time.
package binary_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/client"
	peerapi "nekoq/services/peer/api"
	"nekoq/services/testkit/process"
)

// bin is the binary under test, built once.
var bin string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		if bin = os.Getenv(binVar); bin != "" {
			return m.Run() // in a mount namespace of its own; see disk_test.go
		}
		dir, err := os.MkdirTemp("", "nekoq-binary-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		if bin, err = process.Build(context.Background(), dir, "nekoq/cmd/nekoq"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// soak is NEKOQ_SOAK, the time that the soak tests run; else the time that fits
// into an ordinary test run.
func soak(t *testing.T, ordinary time.Duration) time.Duration {
	text := os.Getenv("NEKOQ_SOAK")
	if text == "" {
		return ordinary
	}
	d, err := time.ParseDuration(text)
	require.NoError(t, err, "NEKOQ_SOAK")
	return d
}

// cluster is processes of the binary and a client of all of them.
type cluster struct {
	t     *testing.T
	dir   string
	nodes []*process.Nekoq
	c     *client.Client
}

func startCluster(t *testing.T, n int, set ...string) *cluster {
	t.Helper()
	c := prepareCluster(t, n, set...)
	c.start()
	return c
}

// prepareCluster makes the folder of a cluster and starts nothing.
func prepareCluster(t *testing.T, n int, set ...string) *cluster {
	t.Helper()
	dir := t.TempDir()
	nodes, err := process.NewNekoq(process.Options{Bin: bin, Dir: dir, Nodes: n, Set: set})
	require.NoError(t, err)
	c := &cluster{t: t, dir: dir, nodes: nodes}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			if n.Process != nil {
				_ = n.Thaw()
				n.Kill()
			}
		}
		if t.Failed() {
			c.logTails()
		}
	})
	return c
}

// start starts all nodes and waits until they serve.
func (c *cluster) start() {
	c.t.Helper()
	for _, n := range c.nodes {
		require.NoError(c.t, n.Start())
	}
	c.allReady()
	c.c = c.client(process.Endpoints(c.nodes)...)
}

func (c *cluster) logTails() {
	logs, _ := filepath.Glob(filepath.Join(c.dir, "*.log"))
	for _, l := range logs {
		b, _ := os.ReadFile(l)
		lines := strings.Split(string(b), "\n")
		c.t.Logf("%s:\n%s", filepath.Base(l), strings.Join(lines[max(0, len(lines)-30):], "\n"))
	}
}

func (c *cluster) client(endpoints ...string) *client.Client {
	cl, err := client.New(client.Config{Endpoints: endpoints, Timeout: 15 * time.Second, NoDiscovery: len(endpoints) == 1})
	require.NoError(c.t, err)
	c.t.Cleanup(func() { _ = cl.Close() })
	return cl
}

// leader finds the node that leads, by asking the nodes that run.
func (c *cluster) leader() *process.Nekoq {
	c.t.Helper()
	var found *process.Nekoq
	err := process.Until(c.t.Context(), 30*time.Second, func(ctx context.Context) error {
		for _, n := range c.nodes {
			if !running(n) {
				continue
			}
			b, err := n.Get(ctx, "/v1/system/node")
			if err != nil {
				continue
			}
			var self struct {
				ID       string `json:"id"`
				LeaderID string `json:"leader_id"`
			}
			if json.Unmarshal(b, &self) == nil && self.LeaderID == self.ID {
				found = n
				return nil
			}
		}
		return fmt.Errorf("no node leads")
	})
	require.NoError(c.t, err)
	return found
}

func running(n *process.Nekoq) bool {
	select {
	case <-n.Done():
		return false
	default:
		return true
	}
}

// follower is a running node other than the leader.
func (c *cluster) follower() *process.Nekoq {
	leader := c.leader()
	i := slices.IndexFunc(c.nodes, func(n *process.Nekoq) bool { return n != leader && running(n) })
	require.GreaterOrEqual(c.t, i, 0)
	return c.nodes[i]
}

// restart starts a node again and waits until it serves.
func (c *cluster) restart(n *process.Nekoq) {
	c.t.Helper()
	require.NoError(c.t, n.Start())
	require.NoError(c.t, n.Ready(c.t.Context(), 60*time.Second))
}

func (c *cluster) allReady() {
	c.t.Helper()
	for _, n := range c.nodes {
		require.NoError(c.t, n.Ready(c.t.Context(), 60*time.Second))
	}
}

// call sends one HTTP request and gives status and body.
func call(t *testing.T, n *process.Nekoq, method, path, body string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+n.HTTP+path, strings.NewReader(body))
	require.NoError(t, err)
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(b)
}

// equalHashes asks for a comparison of the content hashes of all members. Nodes
// that are still catching up are unknown, so it asks again for a while.
func (c *cluster) equalHashes() {
	c.t.Helper()
	err := process.Until(c.t.Context(), 60*time.Second, func(context.Context) error {
		code, body := call(c.t, c.nodes[len(c.nodes)-1], "POST", "/v1/system/cluster/hashes", `{"content":true}`)
		if code != http.StatusOK {
			return fmt.Errorf("%d: %s", code, body)
		}
		var r peerapi.HashReport
		if err := json.Unmarshal([]byte(body), &r); err != nil {
			return err
		}
		for _, n := range r.Nodes {
			require.NotEqual(c.t, peerapi.HashDiverged, n.Verdict, body)
			if n.Verdict != peerapi.HashEqual || n.Content == "" {
				return fmt.Errorf("not compared yet: %s", body)
			}
		}
		if len(r.Nodes) != len(c.nodes) {
			return fmt.Errorf("%d nodes compared, want %d", len(r.Nodes), len(c.nodes))
		}
		return nil
	})
	require.NoError(c.t, err)
}

// acked is the writes that were acknowledged, by key.
type acked struct {
	mu     sync.Mutex
	values map[string]string
}

func (a *acked) add(key, value string) {
	a.mu.Lock()
	a.values[key] = value
	a.mu.Unlock()
}

// everywhere checks that every node has every acknowledged value in its own state.
func (a *acked) everywhere(c *cluster) {
	c.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	require.NotEmpty(c.t, a.values, "nothing was acknowledged, so nothing was tested")
	for _, n := range c.nodes {
		cl := c.client(n.Native)
		// A linearizable read brings the node up to date; the stale ones after it see its own state.
		_, err := cl.KV().Status(c.t.Context())
		require.NoError(c.t, err)
		have := map[string][]byte{}
		for kv, err := range cl.KV().All(c.t.Context(), "w/", client.Stale()) {
			require.NoError(c.t, err)
			have[string(kv.Key)] = kv.Value
		}
		lost := 0
		for key, value := range a.values {
			if !bytes.Equal(have[key], []byte(value)) {
				lost++
				c.t.Errorf("%s: key %s: acknowledged %q, found %q", n.ID, key, value, have[key])
				if lost > 10 {
					break
				}
			}
		}
	}
	c.t.Logf("%d acknowledged writes found on %d nodes", len(a.values), len(c.nodes))
}
