package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"nekoq/services/testkit/process"
)

// etcdSide is Debian's etcd with its default durability: every entry of its
// write-ahead log is fdatasynced before it is acknowledged.
type etcdSide struct {
	dir     string
	procs   []*process.Process
	args    [][]string
	bin     string
	clients []*clientv3.Client
	use     int // how many of clients share the load
}

func startEtcd(ctx context.Context, bin string, conns, nodes int) (*etcdSide, error) {
	dir, err := os.MkdirTemp("", "bench-etcd-")
	if err != nil {
		return nil, err
	}
	s := &etcdSide{dir: dir, bin: bin}
	addrs, err := process.FreePorts(2 * nodes)
	if err != nil {
		return nil, err
	}
	var initial, endpoints []string
	for i := range nodes {
		initial = append(initial, fmt.Sprintf("e%d=http://%s", i+1, addrs[2*i]))
		endpoints = append(endpoints, "http://"+addrs[2*i+1])
	}
	for i := range nodes {
		s.args = append(s.args, []string{
			"--name", fmt.Sprintf("e%d", i+1), "--data-dir", filepath.Join(dir, fmt.Sprintf("e%d", i+1)),
			"--listen-peer-urls", "http://" + addrs[2*i], "--initial-advertise-peer-urls", "http://" + addrs[2*i],
			"--listen-client-urls", "http://" + addrs[2*i+1], "--advertise-client-urls", "http://" + addrs[2*i+1],
			"--initial-cluster", strings.Join(initial, ","), "--initial-cluster-state", "new",
			"--quota-backend-bytes", "8589934592", "--log-level", "error",
		})
	}
	if err := s.up(); err != nil {
		s.close()
		return nil, err
	}
	for range conns {
		c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
		if err != nil {
			s.close()
			return nil, err
		}
		s.clients = append(s.clients, c)
	}
	s.use = len(s.clients)
	if err := s.ready(ctx); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *etcdSide) up() error {
	for i, a := range s.args {
		p, err := process.Start(s.dir, fmt.Sprintf("etcd%d", i+1), []string{"ETCD_UNSUPPORTED_ARCH="}, s.bin, a...)
		if err != nil {
			return err
		}
		s.procs = append(s.procs, p)
	}
	return nil
}

func (s *etcdSide) ready(ctx context.Context) error {
	return process.Until(ctx, 60*time.Second, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := s.clients[0].Get(ctx, "ready")
		return err
	})
}

func (s *etcdSide) restart(ctx context.Context) (time.Duration, error) {
	for _, p := range s.procs {
		p.Stop()
	}
	s.procs = nil
	began := time.Now()
	if err := s.up(); err != nil {
		return 0, err
	}
	err := s.ready(ctx)
	return time.Since(began), err
}

func (s *etcdSide) put(ctx context.Context, worker int, key string, value []byte) error {
	_, err := s.clients[worker%s.use].Put(ctx, key, string(value))
	return err
}

func (s *etcdSide) get(ctx context.Context, worker int, key string) error {
	r, err := s.clients[worker%s.use].Get(ctx, key)
	if err == nil && len(r.Kvs) != 1 {
		return fmt.Errorf("key %q: %d values", key, len(r.Kvs))
	}
	return err
}

// tune chooses how many connections etcd's client uses for a load: the number of
// 1, 4 and 16 that is fastest in a short trial.
func (s *etcdSide) tune(ctx context.Context, clients int, d time.Duration, f op) error {
	best, rate := s.use, 0.0
	for n := 1; n <= len(s.clients); n *= 4 {
		s.use = n
		r, err := load(ctx, clients, d, f, nil)
		if err != nil && !errors.Is(err, errNothing) {
			return err
		}
		if err == nil && r.rate() > rate {
			best, rate = n, r.rate()
		}
	}
	s.use = best
	return nil
}

func (s *etcdSide) cpu() (sum time.Duration) {
	for _, p := range s.procs {
		sum += p.CPU()
	}
	return sum
}

func (s *etcdSide) server() *process.Process { return s.procs[0] }

func (s *etcdSide) close() {
	for _, c := range s.clients {
		_ = c.Close()
	}
	for _, p := range s.procs {
		p.Kill()
	}
	_ = os.RemoveAll(s.dir)
}
