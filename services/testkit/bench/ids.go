package main

import (
	"bufio"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"nekoq/client"
	"nekoq/numgen/api"
	"nekoq/numgen/idgen"
)

var idKinds = []idgen.Kind{idgen.ID128, idgen.Snowflake, idgen.UUIDv7, idgen.ULID, idgen.Segment, idgen.Sequence, idgen.Format}

// ids prints the rates of every kind of id: over the native door one at a time
// and a thousand at a time, and generated in this process under a leased worker.
func (s *settings) ids(ctx context.Context) error {
	for _, nodes := range s.nodes {
		if err := s.idsNodes(ctx, nodes); err != nil {
			return fmt.Errorf("%d nodes: %w", nodes, err)
		}
	}
	return nil
}

func (s *settings) idsNodes(ctx context.Context, nodes int) error {
	neko, err := s.cluster(ctx, fmt.Sprintf("ids%d", nodes), nodes)
	if err != nil {
		return err
	}
	defer neko.close()
	g := neko.c.Numgen()
	for _, k := range idKinds {
		r := api.CreateRequest{Name: "bench-" + k.String(), Kind: k.String()}
		if k == idgen.Format {
			r.Options.Template = "ORD-{yyyyMMdd}-{n:8}"
		}
		if _, err := g.Create(ctx, r); err != nil {
			return fmt.Errorf("%s: %w", k, err)
		}
	}
	fmt.Printf("\n## ids, %d node(s), Go client, 64 clients; sequence and format: one synced log entry batch a request; the others: leased ahead through the log\n", nodes)
	w := table()
	fmt.Fprintln(w, "kind\tone at a time, ids/s\tp99\tby 1,000, ids/s\tin process, by 10,000, one core, ids/s")
	for _, k := range idKinds {
		name := "bench-" + k.String()
		one, err := load(ctx, 64, s.duration, func(ctx context.Context, _, _ int) error { _, err := g.Next(ctx, name); return err }, neko.cpu)
		if err != nil {
			return fmt.Errorf("%s: %w", k, err)
		}
		thousand, err := load(ctx, 64, s.duration, func(ctx context.Context, _, _ int) error { _, _, err := g.Packed(ctx, name, 1000); return err }, neko.cpu)
		if err != nil {
			return fmt.Errorf("%s by 1,000: %w", k, err)
		}
		local := "-"
		if rate, ok, err := s.localIDs(ctx, g, k); err != nil {
			return fmt.Errorf("%s in process: %w", k, err)
		} else if ok {
			local = fmt.Sprintf("%.0f", rate)
		}
		fmt.Fprintf(w, "%s\t%.0f\t%v\t%.0f\t%s\n", k, one.rate(), one.p99.Round(time.Microsecond), thousand.rate()*1000, local)
	}
	return w.Flush()
}

// localIDs generates in this process; not every kind can.
func (s *settings) localIDs(ctx context.Context, g client.Numgen, k idgen.Kind) (rate float64, ok bool, err error) {
	var gen *client.LocalGenerator
	switch k {
	case idgen.ID128, idgen.Snowflake, idgen.UUIDv7, idgen.ULID:
		lease := g.LeaseWorker(client.LocalOptions{})
		defer lease.Close(ctx)
		gen, err = lease.Generator(ctx, "bench-"+k.String())
	case idgen.Segment:
		gen, err = g.LeaseSegment(ctx, "bench-"+k.String(), client.LocalOptions{})
	default:
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer gen.Close(ctx)
	var buf []byte
	n, began := 0, time.Now()
	for time.Since(began) < s.duration {
		if buf, err = gen.Append(ctx, buf[:0], 10_000); err != nil {
			return 0, false, err
		}
		n += 10_000
	}
	return float64(n) / time.Since(began).Seconds(), true, nil
}

// printEntrySize drives 256 concurrent writers and prints how many commands
// shared a log entry, from the leader's own metrics.
func (s *settings) printEntrySize(ctx context.Context, neko *nekoqSide) error {
	before, err := entryStats(ctx, neko)
	if err != nil {
		return err
	}
	_, err = load(ctx, 256, s.duration, func(ctx context.Context, worker, n int) error {
		return neko.put(ctx, key(worker, n), []byte("entry"))
	}, nil)
	if err != nil {
		return err
	}
	after, err := entryStats(ctx, neko)
	if err != nil {
		return err
	}
	fmt.Printf("group commit at 256 concurrent writers: %.1f commands a log entry\n", (after[0]-before[0])/(after[1]-before[1]))
	return nil
}

// entryStats sums commands and entries over the nodes: followers propose none.
func entryStats(ctx context.Context, neko *nekoqSide) (out [2]float64, err error) {
	for _, node := range neko.nodes {
		b, err := node.Get(ctx, "/metrics")
		if err != nil {
			return out, err
		}
		sc := bufio.NewScanner(strings.NewReader(string(b)))
		for sc.Scan() {
			for i, name := range []string{"nekoq_raftnode_commands_per_entry_sum ", "nekoq_raftnode_commands_per_entry_count "} {
				if v, ok := strings.CutPrefix(sc.Text(), name); ok {
					f, err := strconv.ParseFloat(v, 64)
					if err != nil {
						return out, err
					}
					out[i] += f
				}
			}
		}
	}
	return out, nil
}
