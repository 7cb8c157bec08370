// Command bench prints NekoQ's speed and memory beside its peers on the same
// machine in the same run: etcd for durable puts and linearizable gets, a bare
// gin handler for REST. Runs alternate between the sides; what is printed are
// ratios of medians, with what each side had synced when it answered.
//
// It starts every server itself on loopback, in temporary folders, and bounds
// every load in clients and time. `make bench` runs it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime/pprof"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"nekoq/services/testkit/process"
)

// ginEnv makes this program serve as the bare gin side.
const ginEnv = "NEKOQ_BENCH_GIN"

type settings struct {
	duration time.Duration
	rounds   int
	clients  []int
	nodes    []int
	parts    map[string]bool
	keys     int
	leases   int
	etcd     string
	nekoq    string
	only     string
	set      []string
	scatter  bool
	etcdConn int
	match    *regexp.Regexp // nil is every operation
	profile  string
	dir      string
}

func main() {
	if addr := os.Getenv(ginEnv); addr != "" {
		fail(serveGin(addr))
	}
	s, err := parse()
	if err != nil {
		fail(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	fail(s.all(ctx))
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse() (*settings, error) {
	var s settings
	clients := flag.String("clients", "1,64,1000", "numbers of concurrent clients")
	nodes := flag.String("nodes", "1,3", "cluster sizes")
	parts := flag.String("parts", "kv,etcd,rest,ids,failover,start,million,expiry", "what to measure")
	flag.DurationVar(&s.duration, "duration", 2*time.Second, "counted time of one run (at most 30s)")
	flag.IntVar(&s.rounds, "rounds", 3, "runs a side; the median counts (at most 15)")
	flag.IntVar(&s.keys, "keys", 1_000_000, "keys of the memory and restart part")
	flag.IntVar(&s.leases, "leases", 100_000, "leases of the expiry part (100 to 1000000)")
	flag.StringVar(&s.nekoq, "nekoq", "", "a built nekoq binary; built anew when empty")
	flag.StringVar(&s.etcd, "etcd", "etcd", "the etcd server to compare with; .ci/etcd builds a newer one than Debian's")
	flag.StringVar(&s.only, "only", "", "run one side only: nekoq, etcd or gin")
	flag.Func("match", "measure only the operations whose name this regular expression finds", func(v string) (err error) {
		s.match, err = regexp.Compile(v)
		return err
	})
	flag.IntVar(&s.etcdConn, "etcd-connections", 16, "most connections of etcd's client (1 to 256): each load uses the best of 1, 4, 16 and so on up to it")
	flag.BoolVar(&s.scatter, "scatter", false, "put the keys of the memory and restart part in no order")
	flag.Func("set", "key=value for every NekoQ node, such as cluster.log_store=bolt; may be repeated", func(v string) error {
		s.set = append(s.set, v)
		return nil
	})
	flag.StringVar(&s.profile, "profile", "", "write a CPU profile of this process, the load generator, to this file")
	flag.Parse()
	if s.duration < 100*time.Millisecond || s.duration > 30*time.Second || s.rounds < 1 || s.rounds > 15 {
		return nil, fmt.Errorf("-duration must be 100ms to 30s and -rounds 1 to 15")
	}
	if s.leases < 100 || s.leases > 1_000_000 {
		return nil, fmt.Errorf("-leases must be 100 to 1000000")
	}
	if s.etcdConn < 1 || s.etcdConn > 256 {
		return nil, fmt.Errorf("-etcd-connections must be 1 to 256")
	}
	for _, list := range []struct {
		text string
		max  int
		to   *[]int
	}{{*clients, 2000, &s.clients}, {*nodes, 5, &s.nodes}} {
		for f := range strings.SplitSeq(list.text, ",") {
			n, err := strconv.Atoi(f)
			if err != nil || n < 1 || n > list.max {
				return nil, fmt.Errorf("%q: want numbers from 1 to %d", list.text, list.max)
			}
			*list.to = append(*list.to, n)
		}
	}
	s.parts = map[string]bool{}
	for p := range strings.SplitSeq(*parts, ",") {
		s.parts[p] = true
	}
	return &s, nil
}

func (s *settings) all(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "nekoq-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s.dir = dir
	if s.nekoq == "" {
		if s.nekoq, err = process.Build(ctx, dir, "nekoq/cmd/nekoq"); err != nil {
			return err
		}
	}
	if s.etcd, err = exec.LookPath(s.etcd); err != nil {
		return fmt.Errorf("%w: run .ci/deps etcd, or give -etcd", err)
	}
	version, err := exec.CommandContext(ctx, s.etcd, "--version").Output()
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(string(version), "\n")
	fmt.Printf("Peers: %s with the best of 1 to %d client connections, gin bare handler; %s a run, %d runs a side, alternating; ratios of medians.\n%s\nLoad average at the start: %s\n",
		first, s.etcdConn, s.duration, s.rounds, legend, loadAverage())
	if s.profile != "" {
		f, err := os.Create(s.profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	for _, part := range []struct {
		name string
		run  func(context.Context) error
	}{{"kv", s.kv}, {"etcd", s.etcdDoor}, {"rest", s.rest}, {"ids", s.ids}, {"failover", s.failover}, {"start", s.startUp}, {"million", s.million}, {"expiry", s.expiry}} {
		if !s.parts[part.name] {
			continue
		}
		if err := part.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return nil
}

// loadAverage tells how busy the machine is with other work.
func loadAverage() string {
	b, _ := os.ReadFile("/proc/loadavg")
	return strings.TrimSpace(string(b))
}

// side is one of two things compared.
type side struct {
	name string
	op   op
	cpu  func() time.Duration // of its servers
}

const (
	rowFormat = "| %-29s | %7s | %-5s | %8s | %9s | %9s | %9s | %9s | %5s |\n"
	legend    = "µs/op: processor time of all servers and of the load generator for each operation, which other work on the machine does not change."
)

// head prints the head of a comparison, in Markdown.
func head(title string) {
	fmt.Printf("\n## %s\n\n", title)
	fmt.Printf(rowFormat, "operation", "clients", "side", "ops/s", "p50", "p99", "server µs", "client µs", "ratio")
	fmt.Println("|---|---|---|---|---|---|---|---|---|")
}

// compare runs the sides in turn and prints their medians and the ratio of the
// first to the second.
func (s *settings) compare(ctx context.Context, what string, clients int, a, b side) error {
	if !s.wants(what) {
		return nil
	}
	var ra, rb []run
	for range s.rounds {
		for _, x := range []struct {
			side side
			to   *[]run
		}{{a, &ra}, {b, &rb}} {
			if s.only != "" && s.only != x.side.name {
				continue
			}
			r, err := load(ctx, clients, s.duration, x.side.op, x.side.cpu)
			if err != nil {
				return fmt.Errorf("%s, %d clients, %s: %w", what, clients, x.side.name, err)
			}
			*x.to = append(*x.to, r)
		}
	}
	for i, rs := range [][]run{ra, rb} {
		if len(rs) == 0 {
			continue
		}
		m, ratio := median(rs), ""
		if i == 1 && len(ra) > 0 {
			ratio = fmt.Sprintf("%.2f", median(ra).rate()/m.rate())
		}
		fmt.Printf(rowFormat, what, strconv.Itoa(clients), []side{a, b}[i].name, fmt.Sprintf("%.0f", m.rate()),
			m.p50.Round(time.Microsecond), m.p99.Round(time.Microsecond),
			fmt.Sprintf("%.1f", m.each(m.server)), fmt.Sprintf("%.1f", m.each(m.client)), ratio)
	}
	return nil
}

// wants says whether the operation is to be measured.
func (s *settings) wants(what string) bool { return s.match == nil || s.match.MatchString(what) }

func table() *tabwriter.Writer { return tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0) }

// self starts this program again as the bare gin side.
func (s *settings) bareGin(addr string) (*process.Process, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return process.Start(s.dir, "gin", []string{ginEnv + "=" + addr}, exe)
}

func (s *settings) cluster(ctx context.Context, name string, nodes int) (*nekoqSide, error) {
	dir := filepath.Join(s.dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return startNekoq(ctx, process.Options{Bin: s.nekoq, Dir: dir, Nodes: nodes, Set: s.set})
}
