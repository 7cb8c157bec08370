package etcd_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"nekoq/configs"
	"nekoq/services/app"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(os.Exit))
}

// quick is the configuration of a LocalSwitch with its doors at free ports, quiet and
// cheap to log in to.
func quick() configs.Config {
	cfg := configs.Default()
	cfg.Node.DataDir = ""
	cfg.HTTP.Listen, cfg.Native.Listen, cfg.Etcd.Listen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.Telemetry.LogLevel = "error"
	cfg.Etcd.BcryptCost = 4
	return cfg
}

// node is a LocalSwitch with its etcd door at a free port.
func node(t testing.TB, change ...func(*configs.Config)) *app.App {
	t.Helper()
	cfg := quick()
	for _, c := range change {
		c(&cfg)
	}
	return start(t, cfg)
}

func start(t testing.TB, cfg configs.Config) *app.App {
	t.Helper()
	return startWith(t, cfg, app.Deps{})
}

func startWith(t testing.TB, cfg configs.Config, deps app.Deps) *app.App {
	t.Helper()
	a, _ := startStoppable(t, cfg, deps)
	return a
}

// startStoppable starts a node that may be stopped before the test ends.
func startStoppable(t testing.TB, cfg configs.Config, deps app.Deps) (a *app.App, stop func()) {
	t.Helper()
	a, err := app.New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := a.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	t.Cleanup(stop)
	return a, stop
}

func freeAddrs(t testing.TB, n int) []string {
	t.Helper()
	var out []string
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		out = append(out, ln.Addr().String())
	}
	return out
}

// three is a cluster over TCP, ready.
func three(t testing.TB) []*app.App {
	t.Helper()
	addrs := freeAddrs(t, 3)
	var peers []string
	for i, a := range addrs {
		peers = append(peers, fmt.Sprintf("n%d=%s", i+1, a))
	}
	dir := t.TempDir()
	var out []*app.App
	for i, a := range addrs {
		id := fmt.Sprintf("n%d", i+1)
		cfg := member(id, a, filepath.Join(dir, id))
		cfg.Cluster.Peer.Peers = peers
		out = append(out, start(t, cfg))
	}
	for _, a := range out {
		eventually(t, "the cluster is ready", func() bool { return a.Ready(context.Background()) == nil })
	}
	return out
}

// member is the configuration of a node of a cluster at an address.
func member(id, addr, dir string) configs.Config {
	cfg := quick()
	cfg.Mode, cfg.Insecure = configs.ModeCluster, true
	cfg.Node.ID, cfg.Node.DataDir = id, dir
	cfg.Cluster.Peer.Listen = addr
	return cfg
}

// eventually polls; the deadline is for a broken program.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not in 30 s: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func client(t testing.TB, nodes ...*app.App) *clientv3.Client {
	t.Helper()
	return clientAs(t, "", "", nodes...)
}

func clientAs(t testing.TB, user, password string, nodes ...*app.App) *clientv3.Client {
	t.Helper()
	var ends []string
	for _, n := range nodes {
		ends = append(ends, n.EtcdAddr().String())
	}
	c, err := clientv3.New(clientv3.Config{
		Endpoints: ends, DialTimeout: 10 * time.Second, Username: user, Password: password, Logger: zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// wire is a connection on which a test speaks the protocol itself.
func wire(t testing.TB, addr string) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}
