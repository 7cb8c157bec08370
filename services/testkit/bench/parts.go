package main

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"nekoq/services/testkit/process"
)

// keySpace is the number of keys that puts write and gets read.
const keySpace = 10_000

func key(worker, n int) string { return fmt.Sprintf("bench/%08d", (worker*7919+n)%keySpace) }

// kv compares durable puts and linearizable gets of 256 B with etcd.
func (s *settings) kv(ctx context.Context) error {
	value := bytes.Repeat([]byte("v"), 256)
	for _, nodes := range s.nodes {
		if err := s.kvNodes(ctx, nodes, value); err != nil {
			return fmt.Errorf("%d nodes: %w", nodes, err)
		}
	}
	return nil
}

func (s *settings) kvNodes(ctx context.Context, nodes int, value []byte) error {
	neko, err := s.cluster(ctx, fmt.Sprintf("kv%d", nodes), nodes)
	if err != nil {
		return err
	}
	defer neko.close()
	etcd, err := startEtcd(ctx, s.etcd, s.etcdConn, nodes)
	if err != nil {
		return err
	}
	defer etcd.close()
	head(fmt.Sprintf("keys, %d node(s), 256 B values; NekoQ: Raft log synced on a majority before the answer; etcd: write-ahead log synced on a majority before the answer", nodes))
	for _, clients := range s.clients {
		err := s.againstEtcd(ctx, "put, Go client", clients,
			side{"nekoq", func(ctx context.Context, worker, n int) error { return neko.put(ctx, key(worker, n), value) }, neko.cpu},
			etcd, func(ctx context.Context, worker, n int) error { return etcd.put(ctx, worker, key(worker, n), value) })
		if err != nil {
			return err
		}
	}
	for i := range keySpace { // gets must find every key
		if i%64 == 0 {
			err = fill(ctx, i, min(i+64, keySpace), func(ctx context.Context, i int) error {
				k := key(0, i)
				if err := neko.put(ctx, k, value); err != nil {
					return err
				}
				return etcd.put(ctx, i, k, value)
			})
			if err != nil {
				return err
			}
		}
	}
	for _, clients := range s.clients {
		err := s.againstEtcd(ctx, "linearizable get, Go client", clients,
			side{"nekoq", func(ctx context.Context, worker, n int) error { return neko.get(ctx, key(worker, n)) }, neko.cpu},
			etcd, func(ctx context.Context, worker, n int) error { return etcd.get(ctx, worker, key(worker, n)) })
		if err != nil {
			return err
		}
	}
	for _, clients := range s.clients {
		conns, err := newHTTPConns(neko.httpAddrs(), clients)
		if err != nil {
			return err
		}
		err = s.againstEtcd(ctx, "put, REST", clients,
			side{"nekoq", func(_ context.Context, worker, n int) error {
				return conns.do(worker, putRequest("/v1/warehouse/kv/"+key(worker, n), value))
			}, neko.cpu},
			etcd, func(ctx context.Context, worker, n int) error { return etcd.put(ctx, worker, key(worker, n), value) })
		if err == nil {
			err = s.againstEtcd(ctx, "linearizable get, REST", clients,
				side{"nekoq", func(_ context.Context, worker, n int) error {
					return conns.do(worker, getRequest("/v1/warehouse/kv/"+key(worker, n)+"?raw=true"))
				}, neko.cpu},
				etcd, func(ctx context.Context, worker, n int) error { return etcd.get(ctx, worker, key(worker, n)) })
		}
		conns.close()
		if err != nil {
			return err
		}
	}
	return s.printEntrySize(ctx, neko)
}

// againstEtcd compares a with etcd, whose client uses as many connections as suit
// it best.
func (s *settings) againstEtcd(ctx context.Context, what string, clients int, a side, etcd *etcdSide, f op) error {
	if s.only == "" || s.only == "etcd" {
		if err := etcd.tune(ctx, clients, max(s.duration/4, 100*time.Millisecond), f); err != nil {
			return fmt.Errorf("%s, %d clients, etcd: %w", what, clients, err)
		}
	}
	return s.compare(ctx, what, clients, a, side{"etcd", f, etcd.cpu})
}

// rest compares a cheap REST read with a bare gin handler: LocalSwitch, so that
// what is measured is the door and the state.
func (s *settings) rest(ctx context.Context) error {
	neko, err := s.cluster(ctx, "rest", 0)
	if err != nil {
		return err
	}
	defer neko.close()
	if err := neko.put(ctx, "bench", bytes.Repeat([]byte("v"), 256)); err != nil {
		return err
	}
	addrs, err := process.FreePorts(1)
	if err != nil {
		return err
	}
	gin, err := s.bareGin(addrs[0])
	if err != nil {
		return err
	}
	defer gin.Kill()
	err = process.Until(ctx, 20*time.Second, func(ctx context.Context) error { return httpReady(ctx, "http://"+addrs[0]+"/kv/x") })
	if err != nil {
		return err
	}
	head("REST beside a bare gin handler (one node; reads, nothing synced)")
	for _, clients := range s.clients {
		a, err := newHTTPConns(neko.httpAddrs(), clients)
		if err != nil {
			return err
		}
		b, err := newHTTPConns(addrs, clients)
		if err != nil {
			return err
		}
		requests := func(h *httpConns, path string) op {
			r := getRequest(path)
			return func(_ context.Context, worker, _ int) error { return h.do(worker, r) }
		}
		err = s.compare(ctx, "GET key, raw", clients,
			side{"nekoq", requests(a, "/v1/warehouse/kv/bench?raw=true"), neko.cpu}, side{"gin", requests(b, "/kv/bench"), gin.CPU})
		if err == nil {
			err = s.compare(ctx, "GET one id128", clients,
				side{"nekoq", requests(a, "/v1/numgen/bench/1"), neko.cpu}, side{"gin", requests(b, "/id/bench/1"), gin.CPU})
		}
		a.close()
		b.close()
		if err != nil {
			return err
		}
	}
	return nil
}

// startUp prints the time from the start of the process until it is ready, and
// the memory of an idle LocalSwitch.
func (s *settings) startUp(ctx context.Context) error {
	fmt.Println("\n## start and idle memory of LocalSwitch (built binary, empty data folder)")
	neko, err := s.cluster(ctx, "start", 0)
	if err != nil {
		return err
	}
	defer neko.close()
	var times []run
	for range max(s.rounds, 3) {
		d, err := neko.restart(ctx)
		if err != nil {
			return err
		}
		times = append(times, run{ops: 1, took: d})
	}
	pause(ctx, time.Second)
	rss, anon := neko.nodes[0].Memory()
	fmt.Printf("ready after %v; idle memory %d MiB resident, %d MiB of it not backed by files\n", median(times).took.Round(time.Millisecond), rss>>20, anon>>20)
	return nil
}

// million compares memory and restart with many keys.
func (s *settings) million(ctx context.Context) error {
	fmt.Printf("\n## %d keys of 256 B, one node, synced as above; memory in MiB resident (of it not backed by files)\n\n", s.keys)
	format := "| %-5s | %8s | %9s | %6s | %-12s | %-12s | %8s | %-13s |\n"
	fmt.Printf(format, "side", "puts/s", "server µs", "peak", "after load", "10 s later", "restart", "after restart")
	fmt.Println("|---|---|---|---|---|---|---|---|")
	for _, name := range []string{"nekoq", "etcd"} {
		if s.only != "" && s.only != name {
			continue
		}
		if err := s.millionOf(ctx, name, format); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// store is what the million part needs of a side.
type store interface {
	put(ctx context.Context, worker int, key string, value []byte) error
	server() *process.Process
	restart(context.Context) (time.Duration, error)
	cpu() time.Duration
	close()
}

func (s *settings) millionOf(ctx context.Context, name, format string) error {
	var x store
	if name == "nekoq" {
		neko, err := s.cluster(ctx, "million", 1)
		if err != nil {
			return err
		}
		x = nekoqStore{neko}
	} else {
		etcd, err := startEtcd(ctx, s.etcd, s.etcdConn, 1)
		if err != nil {
			return err
		}
		x = etcd
	}
	defer x.close()
	memory := func() string {
		rss, anon := x.server().Memory()
		return fmt.Sprintf("%d (%d)", rss>>20, anon>>20)
	}
	value := bytes.Repeat([]byte("v"), 256)
	began, cpu := time.Now(), x.cpu()
	err := fill(ctx, 0, s.keys, func(ctx context.Context, i int) error {
		n := i
		if s.scatter { // a bijection of the numbers below 2^32, so keys come in no order
			n = int(uint32(i) * 2654435761)
		}
		return x.put(ctx, i, fmt.Sprintf("m/%010d", n), value)
	})
	if err != nil {
		return err
	}
	filled := time.Since(began)
	cpu = x.cpu() - cpu
	peak, loaded := x.server().Peak()>>20, memory()
	pause(ctx, 10*time.Second)
	later := memory()
	d, err := x.restart(ctx)
	if err != nil {
		return err
	}
	fmt.Printf(format, name, fmt.Sprintf("%.0f", float64(s.keys)/filled.Seconds()),
		fmt.Sprintf("%.1f", float64(cpu.Microseconds())/float64(s.keys)), fmt.Sprint(peak), loaded, later,
		d.Round(time.Millisecond), memory())
	return nil
}

// fill calls f for every number of [from, to) from 512 goroutines.
func fill(ctx context.Context, from, to int, f func(ctx context.Context, i int) error) error {
	return fillWith(ctx, 512, from, to, f)
}

// fillWith is fill from so many goroutines.
func fillWith(ctx context.Context, workers, from, to int, f func(ctx context.Context, i int) error) error {
	workers = min(workers, to-from)
	errs := make(chan error, workers)
	for w := range workers {
		go func() {
			for i := from + w; i < to; i += workers {
				if err := f(ctx, i); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	var first error
	for range workers {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	return first
}
