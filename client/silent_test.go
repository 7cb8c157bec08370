package client_test

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/client"
	"nekoq/services/errs"
)

// A port that takes connections and says nothing, as an HTTP door does, is told
// from one that cannot be reached.
func TestPortThatIsNoNativeDoor(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	cl, err := client.New(client.Config{Endpoints: []string{ln.Addr().String()}, DialTimeout: 100 * time.Millisecond, Timeout: 2 * time.Second})
	require.NoError(t, err)
	defer cl.Close()
	_, err = cl.KV().Get(t.Context(), "k")
	require.True(t, errs.Has(err, errs.Unavailable), "%v", err)
	require.ErrorContains(t, err, ln.Addr().String()+": connected, but nothing answered as a native door")
}
