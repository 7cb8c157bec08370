package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"nekoq/client"
	"nekoq/services/testkit/process"
)

// nekoqSide is the built binary in Cluster mode with its defaults: every entry
// of its log is synced on a majority before it is acknowledged.
type nekoqSide struct {
	dir   string
	nodes []*process.Nekoq
	c     *client.Client
}

func startNekoq(ctx context.Context, o process.Options) (*nekoqSide, error) {
	nodes, err := process.NewNekoq(o)
	if err != nil {
		return nil, err
	}
	s := &nekoqSide{dir: o.Dir, nodes: nodes}
	if err := s.up(ctx); err != nil {
		s.close()
		return nil, err
	}
	s.c, err = client.New(client.Config{Endpoints: process.Endpoints(nodes), Timeout: 20 * time.Second})
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *nekoqSide) up(ctx context.Context) error {
	for _, n := range s.nodes {
		if err := n.Start("--set", "telemetry.log_level=warn"); err != nil {
			return err
		}
	}
	for _, n := range s.nodes {
		if err := n.Ready(ctx, 60*time.Second); err != nil {
			return err
		}
	}
	return nil
}

// restart stops all nodes and gives the time from the start of the processes
// until they are ready.
func (s *nekoqSide) restart(ctx context.Context) (time.Duration, error) {
	for _, n := range s.nodes {
		n.Stop()
	}
	began := time.Now()
	err := s.up(ctx)
	return time.Since(began), err
}

func (s *nekoqSide) put(ctx context.Context, key string, value []byte) error {
	_, err := s.c.KV().Put(ctx, key, value)
	return err
}

func (s *nekoqSide) get(ctx context.Context, key string) error {
	r, err := s.c.KV().Get(ctx, key)
	if err == nil && len(r.Value) == 0 {
		return fmt.Errorf("key %q: no value", key)
	}
	return err
}

func (s *nekoqSide) cpu() (sum time.Duration) {
	for _, n := range s.nodes {
		sum += n.CPU()
	}
	return sum
}

func (s *nekoqSide) httpAddrs() []string {
	var out []string
	for _, n := range s.nodes {
		out = append(out, n.HTTP)
	}
	return out
}

func (s *nekoqSide) close() {
	if s.c != nil {
		_ = s.c.Close()
	}
	for _, n := range s.nodes {
		if n.Process != nil {
			n.Kill()
		}
	}
	_ = os.RemoveAll(s.dir)
}

// nekoqStore is the side as the million part sees it.
type nekoqStore struct{ *nekoqSide }

func (s nekoqStore) put(ctx context.Context, _ int, key string, value []byte) error {
	return s.nekoqSide.put(ctx, key, value)
}

func (s nekoqStore) server() *process.Process { return s.nodes[0].Process }
