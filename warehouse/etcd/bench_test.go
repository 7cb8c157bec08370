package etcd_test

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"nekoq/configs"
	"nekoq/services/app"
)

// single is a cluster of one, so that writes go through the log.
func single(tb testing.TB) *app.App {
	tb.Helper()
	cfg := configs.Default()
	cfg.Mode, cfg.Insecure, cfg.Node.ID = configs.ModeCluster, true, "n1"
	cfg.Node.DataDir = filepath.Join(tb.TempDir(), "n1")
	cfg.HTTP.Listen, cfg.Native.Listen, cfg.Etcd.Listen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.Cluster.Peer.Listen = freeAddrs(tb, 1)[0]
	cfg.Cluster.Peer.Peers = []string{"n1=" + cfg.Cluster.Peer.Listen}
	cfg.Telemetry.LogLevel = "error"
	a := start(tb, cfg)
	eventually(tb, "the node is ready", func() bool { return a.Ready(context.Background()) == nil })
	return a
}

// BenchmarkDoor is what a request costs server and client together, over TCP.
func BenchmarkDoor(b *testing.B) {
	a := single(b)
	var conns []*grpc.ClientConn
	for range 8 {
		conns = append(conns, wire(b, a.EtcdAddr().String()))
	}
	value := bytes.Repeat([]byte("v"), 256)
	for _, op := range []struct {
		name string
		do   func(c pb.KVClient, key []byte) error
	}{
		{"put", func(c pb.KVClient, key []byte) error {
			_, err := c.Put(context.Background(), &pb.PutRequest{Key: key, Value: value})
			return err
		}},
		{"range", func(c pb.KVClient, key []byte) error {
			_, err := c.Range(context.Background(), &pb.RangeRequest{Key: key})
			return err
		}},
	} {
		for _, clients := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/clients=%d", op.name, clients), func(b *testing.B) {
				b.SetParallelism(max(clients/2, 1))
				b.ReportAllocs()
				var n atomic.Int64
				b.RunParallel(func(p *testing.PB) {
					w := n.Add(1)
					c := pb.NewKVClient(conns[w%8])
					for i := w; p.Next(); i += 7919 {
						if err := op.do(c, fmt.Appendf(nil, "bench/%08d", i%10_000)); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
		}
	}
}
