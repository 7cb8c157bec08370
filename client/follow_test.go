package client

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/services/wire"
)

// TestFollowsTheLeader: requests go to the leader, to the next one when another
// node leads, and to whoever lives when the leader is gone.
func TestFollowsTheLeader(t *testing.T) {
	f := newFakeCluster()
	var leader atomic.Pointer[string]
	addrs := map[string]string{}
	stop := map[string]func(){}
	for _, name := range []string{"a", "b"} {
		n := newFakeNode(t, f, name)
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		addrs[name] = ln.Addr().String()
		mux := n.mux()
		info := func() wire.ServerInfo {
			l := *leader.Load()
			return wire.ServerInfo{NodeID: name, ClusterID: "c", Leader: l, LeaderEndpoint: addrs[l], Endpoints: []string{addrs[l]}}
		}
		mux.Unary(wire.MethodHello, "hello", wire.JSON(func(context.Context, *struct{}) (*wire.ServerInfo, error) {
			i := info()
			return &i, nil
		}))
		srv := wire.NewServer(mux, wire.ServerOptions{Hello: info})
		done := make(chan error, 1)
		go func() { done <- srv.Serve(ln) }()
		stop[name] = func() {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			_ = srv.Shutdown(ctx)
			require.NoError(t, <-done)
		}
	}
	defer stop["b"]()
	set := func(name string) { leader.Store(&name) }
	set("b")
	// Only one node is named: the leader is found through it.
	c, err := New(Config{Endpoints: []string{addrs["a"]}})
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	reaches := func(want string) {
		t.Helper()
		require.Eventually(t, func() bool {
			out, err := c.read(t.Context(), mRead, nil)
			return err == nil && string(out) == want
		}, 20*time.Second, 5*time.Millisecond)
	}
	reaches("b")
	set("a")
	reaches("a")
	stop["a"]()
	out, err := c.read(t.Context(), mRead, nil)
	require.NoError(t, err)
	require.Equal(t, "b", string(out))
}
