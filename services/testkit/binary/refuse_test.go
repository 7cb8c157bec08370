package binary_test

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	peerapi "nekoq/services/peer/api"
	"nekoq/services/testkit/process"
)

func hasRole(cluster, id, role string) bool {
	var c peerapi.Cluster
	if json.Unmarshal([]byte(cluster), &c) != nil {
		return false
	}
	for _, n := range c.Nodes {
		if n.ID == id {
			return n.Role == role
		}
	}
	return false
}

// refuses waits for the process to end by itself and wants words in what it said.
func refuses(t *testing.T, n *process.Nekoq, words ...string) {
	t.Helper()
	select {
	case <-n.Done():
	case <-time.After(30 * time.Second):
		t.Fatalf("%s still runs:\n%s", n.ID, n.Logs())
	}
	require.NotZero(t, n.ExitCode())
	for _, w := range words {
		require.Contains(t, n.Logs(), w)
	}
}

func TestPortInUseNamesTheSetting(t *testing.T) {
	c := startCluster(t, 0)
	for setting, addr := range map[string]string{"http.listen": c.nodes[0].HTTP, "native.listen": c.nodes[0].Native, "warehouse.etcd.listen": c.nodes[0].Etcd} {
		other, err := process.NewNekoq(process.Options{Bin: bin, Dir: t.TempDir()})
		require.NoError(t, err)
		require.NoError(t, other[0].Start("--set", setting+"="+addr))
		refuses(t, other[0], setting, addr)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	node, err := process.NewNekoq(process.Options{Bin: bin, Dir: t.TempDir(), Nodes: 1, Set: []string{"cluster.listen=" + ln.Addr().String(), `cluster.peers=["n1=` + ln.Addr().String() + `"]`}})
	require.NoError(t, err)
	require.NoError(t, node[0].Start())
	refuses(t, node[0], "cluster.listen", ln.Addr().String())
}

func TestDataFolderInUse(t *testing.T) {
	c := startCluster(t, 0)
	other, err := process.NewNekoq(process.Options{Bin: bin, Dir: c.dir})
	require.NoError(t, err)
	require.NoError(t, other[0].Start())
	refuses(t, other[0], "state.db")
}

// damage overwrites the middle of a file.
func damage(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	info, err := f.Stat()
	require.NoError(t, err)
	junk := []byte(strings.Repeat("damaged!", 1024))
	for at := int64(0); at < min(info.Size(), 64<<10); at += int64(len(junk)) {
		_, err = f.WriteAt(junk, at)
		require.NoError(t, err)
	}
}

func TestCorruptStateFileIsRefused(t *testing.T) {
	c := startCluster(t, 0)
	c.nodes[0].Kill()
	damage(t, filepath.Join(c.nodes[0].Dir, "state.db"))
	require.NoError(t, c.nodes[0].Start())
	refuses(t, c.nodes[0], filepath.Join(c.nodes[0].Dir, "state.db"))
}

func TestCorruptLogIsRefused(t *testing.T) {
	for _, store := range []string{"wal", "bolt"} {
		t.Run(store, func(t *testing.T) {
			c := startCluster(t, 1, "cluster.log_store="+store)
			for i := range 50 {
				_, err := c.c.KV().Put(t.Context(), "k", []byte(strings.Repeat("v", i)))
				require.NoError(t, err)
			}
			c.nodes[0].Kill()
			var biggest string
			var size int64
			require.NoError(t, filepath.Walk(filepath.Join(c.nodes[0].Dir, "raft"), func(p string, info os.FileInfo, err error) error {
				if err == nil && !info.IsDir() && info.Size() > size {
					biggest, size = p, info.Size()
				}
				return err
			}))
			require.NotEmpty(t, biggest)
			damage(t, biggest)
			require.NoError(t, c.nodes[0].Start())
			refuses(t, c.nodes[0], filepath.Join(c.nodes[0].Dir, "raft"))
		})
	}
}

// A node that comes back with an empty disk under its old id is refused, and
// told what to do.
func TestEmptyDiskUnderAnOldID(t *testing.T) {
	c := startCluster(t, 3)
	n := c.follower()
	n.Kill()
	require.NoError(t, os.RemoveAll(n.Dir))
	require.NoError(t, n.Start())
	refuses(t, n, "cluster remove "+n.ID, "cluster.join")
	_, err := c.c.KV().Put(t.Context(), "still", []byte("works"))
	require.NoError(t, err)
}

// Services are switched off one by one; what needs one that is off says so.
func TestServicesOff(t *testing.T) {
	for _, service := range []string{"numgen", "warehouse"} {
		c := startCluster(t, 0, "services."+service+"=false")
		code, body := call(t, c.nodes[0], "GET", "/readyz?verbose", "")
		require.Equal(t, 200, code)
		require.Contains(t, body, service+": off (services."+service+" = false)")
		code, body = call(t, c.nodes[0], "GET", "/v1/"+service+"/x/1", "")
		require.Equal(t, 503, code)
		require.Contains(t, body, "service_off")
		require.Contains(t, body, "services."+service)
	}
}
