package binary_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A client of the JSON gateway that goes away in the middle of an answer is no news:
// the log has lines of its own form only.
func TestLogHasOneForm(t *testing.T) {
	n := startCluster(t, 0).nodes[0]
	client := &http.Client{Timeout: 20 * time.Second}
	for i := range 8 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, fmt.Sprintf("http://%s/v1/warehouse/kv/k%d", n.HTTP, i), strings.NewReader(strings.Repeat("x", 1<<20)))
		require.NoError(t, err)
		res, err := client.Do(req)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusOK, res.StatusCode)
	}
	client.CloseIdleConnections()
	for range 3 {
		c, err := net.DialTimeout("tcp", n.Etcd, 5*time.Second)
		require.NoError(t, err)
		require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
		_, err = fmt.Fprintf(c, "POST /v3/maintenance/snapshot HTTP/1.1\r\nHost: %s\r\nContent-Length: 2\r\n\r\n{}", n.Etcd)
		require.NoError(t, err)
		_, err = io.ReadFull(c, make([]byte, 1000))
		require.NoError(t, err)
		require.NoError(t, c.Close())
	}
	require.NoError(t, n.Signal(os.Interrupt))
	select {
	case <-n.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("the node still runs")
	}
	for line := range strings.Lines(n.Logs()) {
		require.True(t, strings.HasPrefix(line, "time="), "%s", line)
	}
}
