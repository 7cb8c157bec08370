package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"nekoq/client"
	"nekoq/configs"
	ids "nekoq/numgen/api"
	"nekoq/numgen/idgen"
	"nekoq/services/errs"
	"nekoq/services/lifecycle"
	"nekoq/services/peer/api"
	keys "nekoq/warehouse/api"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	if string(want) == got {
		return
	}
	old, now := strings.Split(string(want), "\n"), strings.Split(got, "\n")
	i := 0
	for i < min(len(old), len(now)) && old[i] == now[i] {
		i++
	}
	at := func(lines []string) string {
		if i < len(lines) {
			return lines[i]
		}
		return "(end)"
	}
	t.Fatalf("%s differs at line %d:\n  file: %s\n  now:  %s\nrun make fix-golden if the change is meant", path, i+1, at(old), at(now))
}

var at = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// fake is a Backend of function fields over the answers of an imagined server.
type fake struct {
	Backend
	puts    []keys.PutRequest
	dels    []keys.DeleteRequest
	lists   []keys.ListRequest
	watches []keys.WatchRequest
	creates []ids.CreateRequest
	updates []ids.UpdateRequest
	closed  bool
	get     func(keys.GetRequest) (keys.GetResult, error)
	status  func() (api.Cluster, error)
	compare func() (api.HashReport, error)
	next    func(ctx context.Context) ([]string, error)
}

func (f *fake) Close() error { f.closed = true; return nil }

func (f *fake) NextIDs(ctx context.Context, name string, n int) ([]string, error) {
	if f.next != nil {
		return f.next(ctx)
	}
	out := []string{}
	for i := range n {
		out = append(out, name+"-"+string(rune('1'+i)))
	}
	return out, nil
}

var orders = ids.Generator{
	Name: "orders", Kind: "snowflake", Element: 3, Options: ids.Options{TimeBits: 41, WorkerBits: 10, SequenceBits: 12},
	CreatedRevision: 7, UpdatedRevision: 8, Created: "2026-01-02T03:04:05Z",
}

func (f *fake) CreateGenerator(_ context.Context, r ids.CreateRequest) (ids.Generator, error) {
	f.creates = append(f.creates, r)
	return orders, nil
}

func (f *fake) Generator(_ context.Context, name string) (ids.Generator, error) {
	if name != "orders" {
		return ids.Generator{}, errs.New(errs.NotFound, "generator: %q does not exist", name)
	}
	return orders, nil
}

func (f *fake) Generators(_ context.Context, r ids.ListRequest) (ids.GeneratorList, error) {
	if r.After == "" {
		return ids.GeneratorList{Generators: []ids.Generator{orders}, More: true}, nil
	}
	return ids.GeneratorList{Generators: []ids.Generator{{Name: "tickets", Kind: "format", Options: ids.Options{Template: "T-{n:6}", Of: "sequence"}, Description: "support desk"}}}, nil
}

func (f *fake) UpdateGenerator(_ context.Context, r ids.UpdateRequest) (ids.Generator, error) {
	f.updates = append(f.updates, r)
	return orders, nil
}
func (f *fake) DeleteGenerator(context.Context, string) error { return nil }
func (f *fake) DecodeID(_ context.Context, r ids.DecodeRequest) (idgen.Decoded, error) {
	return idgen.Decoded{Kind: "ulid", Time: "2026-01-02T03:04:05.000Z", Parts: []idgen.Part{{Name: "random", Value: r.ID}}}, nil
}

func (f *fake) Workers(_ context.Context, r ids.WorkersRequest) (ids.WorkerList, error) {
	if r.From == 0 {
		return ids.WorkerList{Workers: []ids.WorkerInfo{{Number: 0, Holder: "node:n1", Held: true, Token: 12, HighWater: "2026-01-02T03:04:05Z", Expires: "2026-01-02T03:05:05Z"}}, More: true}, nil
	}
	return ids.WorkerList{Workers: []ids.WorkerInfo{{Number: r.From, Holder: "node:n2", HighWater: "2026-01-02T03:04:05Z"}}}, nil
}

var db = keys.KV{
	Key: []byte("app/db"), Value: []byte("host=db1"), CreateRevision: 4, ModRevision: 9, Version: 2, StoreRevision: 30,
	Created: at.UnixNano(), Modified: at.Add(time.Minute).UnixNano(), Actor: "native:anonymous",
}

func (f *fake) Put(_ context.Context, r keys.PutRequest, _ ...client.KVOption) (keys.WriteResult, error) {
	f.puts = append(f.puts, r)
	return keys.WriteResult{Revision: 9, CreateRevision: 4, Version: 2, PrevRevision: 4, StoreRevision: 30}, nil
}

func (f *fake) Get(_ context.Context, r keys.GetRequest) (keys.GetResult, error) {
	if f.get != nil {
		return f.get(r)
	}
	if string(r.Key) != "app/db" {
		return keys.GetResult{Header: keys.Header{Revision: 9}}, nil
	}
	h := keys.Header{Revision: 9, StoreRevision: 30, Stale: r.Stale, LagEntries: 2, LagAge: 5 * time.Millisecond, LagKnown: r.Stale}
	return keys.GetResult{Header: h, Found: true, KV: db}, nil
}

func (f *fake) Delete(_ context.Context, r keys.DeleteRequest, _ ...client.KVOption) (keys.WriteResult, error) {
	f.dels = append(f.dels, r)
	w := keys.WriteResult{Revision: 10, StoreRevision: 31}
	if string(r.Key) == "app/db" {
		w.PrevRevision = 9
	}
	return w, nil
}

func (f *fake) List(_ context.Context, r keys.ListRequest) (keys.ListResult, error) {
	f.lists = append(f.lists, r)
	if r.PageToken == "" {
		return keys.ListResult{Header: keys.Header{Revision: 9}, Items: []keys.KV{db}, NextPageToken: "next"}, nil
	}
	odd := keys.KV{Key: []byte("b\xff"), Value: bytes.Repeat([]byte("long "), 30), CreateRevision: 5, ModRevision: 5, Version: 1, Modified: at.UnixNano()}
	return keys.ListResult{Header: keys.Header{Revision: 9}, Items: []keys.KV{odd}}, nil
}

func (f *fake) History(context.Context, keys.HistoryRequest) (keys.HistoryResult, error) {
	return keys.HistoryResult{CompactRevision: 2, Items: []keys.KV{db, {Key: db.Key, ModRevision: 5, Deleted: true, Modified: at.UnixNano(), Actor: "http:eve"}}}, nil
}

func (f *fake) Watch(ctx context.Context, r keys.WatchRequest, fn func([]keys.Event) error) error {
	f.watches = append(f.watches, r)
	gone := keys.Event{Kind: keys.EventDelete, KV: keys.KV{Key: db.Key, ModRevision: 10, Modified: at.UnixNano()}, PrevRevision: 9, Prev: &db}
	if err := fn([]keys.Event{{Kind: keys.EventPut, KV: db}, gone}); err != nil {
		return err
	}
	<-ctx.Done()
	return errs.From(ctx.Err())
}
func (f *fake) Compact(_ context.Context, rev uint64) (uint64, error) { return rev, nil }
func (f *fake) KeyStatus(context.Context, bool) (keys.Status, error) {
	return keys.Status{Header: keys.Header{Revision: 9, StoreRevision: 30}, CompactRevision: 2, Keys: 1, Bytes: 14}, nil
}

func (f *fake) Node(context.Context) (client.Node, error) {
	return client.Node{ID: "n1", Mode: "cluster", Version: "v1", Go: "go1.26", Insecure: true, Uptime: "1m0s", LeaderID: "n2", Term: 3, AppliedIndex: 40, DurableIndex: 38, Revision: 30, Cluster: 1}, nil
}

func (f *fake) Services(context.Context) (client.Services, error) {
	return client.Services{Ready: false, Reason: "consensus is started: no leader", Services: []lifecycle.Status{
		{Name: "state", State: lifecycle.StateReady, Needs: []string{}, Since: at},
		{Name: "consensus", State: lifecycle.StateStarted, Needs: []string{"state"}, Since: at, Error: "no leader"},
		{Name: "numgen", State: lifecycle.StateOff, Needs: []string{"state"}, Since: at, OffReason: "services.numgen = false"},
	}}, nil
}

func cluster() api.Cluster {
	last := at
	c := api.Cluster{
		ClusterID: "c1", SeenFrom: "n1", LeaderID: "n2", Term: 3, Version: 1, Quorum: api.Quorum{Voters: 3, Alive: 2},
		Nodes: []api.Node{
			{ID: "n1", Address: "127.0.0.1:9311", NativeAddress: "127.0.0.1:9313", HTTPAddress: "127.0.0.1:9310", Role: "voter", Alive: true, Ready: true, State: "equal"},
			{ID: "n2", Address: "127.0.0.1:9321", NativeAddress: "127.0.0.1:9323", HTTPAddress: "127.0.0.1:9320", Role: "voter", Leader: true, Alive: true, Ready: true, State: "equal"},
			{ID: "n3", Address: "127.0.0.1:9331", Role: "voter", LastSeen: &last, Lag: 12, State: "unknown", Reason: "connection refused"},
		},
		Hashes: &api.HashReport{At: at, LeaderID: "n2", Index: 38, Nodes: []api.NodeHash{{ID: "n3", Verdict: api.HashUnknown}}},
	}
	c.Quorum.Judge()
	return c
}

func (f *fake) ClusterStatus(context.Context) (api.Cluster, error) {
	if f.status != nil {
		return f.status()
	}
	return cluster(), nil
}

func (f *fake) RemoveMember(_ context.Context, id string, force bool) (api.Done, error) {
	if !force && id == "n2" {
		return api.Done{}, errs.New(errs.FailedPrecond, "removing n2 leaves no quorum")
	}
	return api.Done{LeaderID: "n2"}, nil
}

func (f *fake) PromoteMember(context.Context, string) (api.Done, error) {
	return api.Done{LeaderID: "n2"}, nil
}

func (f *fake) TransferLeadership(context.Context, string) (api.Done, error) {
	return api.Done{LeaderID: "n1"}, nil
}

func (f *fake) CompareHashes(context.Context, bool) (api.HashReport, error) {
	if f.compare != nil {
		return f.compare()
	}
	return api.HashReport{At: at, LeaderID: "n2", Index: 38, Equal: true, Nodes: []api.NodeHash{{ID: "n1", Verdict: "equal", Index: 38, Chain: "00ff"}}}, nil
}

// result is what one run of the command line did.
type result struct {
	code        int
	out, errOut string
	endpoints   []string
	timeout     time.Duration
	served      *configs.Config
}

type setup struct {
	fake     *fake
	stdin    string
	environ  []string
	pipe     bool // nobody reads the output at a terminal
	serveErr error
	ctx      context.Context
}

func run(t *testing.T, s setup, args ...string) result {
	t.Helper()
	var (
		out, errOut bytes.Buffer
		r           result
	)
	if s.fake == nil {
		s.fake = &fake{}
	}
	if s.ctx == nil {
		s.ctx = t.Context()
	}
	env := Env{
		Stdin: strings.NewReader(s.stdin), Stdout: &out, Stderr: &errOut, Environ: s.environ, Version: "v1.2.3", Terminal: !s.pipe,
		Serve: func(_ context.Context, cfg configs.Config) error { r.served = &cfg; return s.serveErr },
		Connect: func(endpoints []string, timeout time.Duration) (Backend, error) {
			r.endpoints, r.timeout = endpoints, timeout
			return s.fake, nil
		},
	}
	r.code = Main(s.ctx, args, env)
	r.out, r.errOut = out.String(), errOut.String()
	if r.endpoints != nil {
		require.True(t, s.fake.closed, "the connection stays open")
	}
	return r
}

// transcript runs each line and writes down what it printed.
func transcript(t *testing.T, lines ...string) string {
	var b strings.Builder
	for _, line := range lines {
		r := run(t, setup{}, strings.Fields(line)...)
		b.WriteString("$ nekoq " + line + "\n" + r.out + r.errOut)
		if r.code != 0 {
			b.WriteString("[exit " + string(rune('0'+r.code)) + "]\n")
		}
		b.WriteString("\n")
	}
	return b.String()
}

func TestTranscripts(t *testing.T) {
	golden(t, "testdata/id.golden", transcript(t,
		"id next orders -n 3", "id next orders -o json", "id create orders --kind snowflake", "id list", "id list -o json",
		"id get orders", "id get nope", "id get nope -o json", "id update orders --min-step 5", "id delete orders",
		"id decode --kind ulid 01ARZ", "id decode 01ARZ", "id workers",
	))
	golden(t, "testdata/kv.golden", transcript(t,
		"kv put app/db host=db1", "kv put app/db", "kv put app/db x --ttl 0s", "kv put app/db x -o json", "kv get app/db", "kv get app/db --stale",
		"kv get app/db -o json", "kv get app/db --raw", "kv get nope", "kv del app/db", "kv del nope", "kv del app/db -o json",
		"kv list app/", "kv list --keys-only", "kv list -o json", "kv list --limit -1", "kv watch app/db -n 2", "kv watch --prefix -n 2 -o json",
		"kv watch", "kv history app/db", "kv history app/db -o json", "kv compact 5", "kv compact x", "kv status", "kv status -o json",
	))
	golden(t, "testdata/cluster.golden", transcript(t,
		"cluster status", "cluster status -o json", "cluster node", "cluster join n4", "cluster join n1", "cluster promote n4", "cluster remove n1",
		"cluster remove n2", "cluster transfer", "cluster verify", "services", "services -o json",
	))
}

func TestHelp(t *testing.T) {
	golden(t, "testdata/help.golden", transcript(t, "--help", "serve --help", "kv --help", "kv put --help", "id next --help", "cluster --help"))
	var out bytes.Buffer
	require.NoError(t, WriteReference(&out))
	golden(t, filepath.Join("..", "..", "..", "..", "docs", "cli.md"), out.String())
}

func TestUsageErrors(t *testing.T) {
	for _, args := range [][]string{
		{"nope"},
		{"kv", "nope"},
		{"kv", "get"},
		{"kv", "get", "a", "b"},
		{"serve", "x"},
		{"--nope"},
		{"kv", "list", "--limit", "x"},
		{"id", "next", "a", "-o", "yaml"},
		{"kv", "get", "a", "--timeout", "0s"},
		{"kv", "put", "a", "b", "--file", "c"},
		{"kv", "put", "a", "--file", "/does/not/exist"},
	} {
		r := run(t, setup{}, args...)
		require.Equal(t, exitUsage, r.code, "%q: %s", args, r.errOut)
		require.True(t, strings.HasPrefix(r.errOut, "nekoq: "), r.errOut)
		require.Empty(t, r.out, "%q", args)
	}
	require.Equal(t, exitUsage, run(t, setup{environ: []string{"NEKOQ_TIMEOUT=soon"}}, "kv", "status").code)
}

func TestEndpointsAndTimeout(t *testing.T) {
	r := run(t, setup{}, "kv", "status")
	require.Equal(t, []string{"127.0.0.1:9313"}, r.endpoints)
	require.Equal(t, 5*time.Second, r.timeout)
	env := []string{"NEKOQ_ENDPOINTS=a:1, b:2", "NEKOQ_TIMEOUT=2s", "NEKOQ_OUTPUT=json"}
	r = run(t, setup{environ: env}, "kv", "status")
	require.Equal(t, []string{"a:1", "b:2"}, r.endpoints)
	require.Equal(t, 2*time.Second, r.timeout)
	require.True(t, json.Valid([]byte(r.out)))
	r = run(t, setup{environ: env}, "kv", "status", "--endpoints", "c:3", "--timeout=9s")
	require.Equal(t, []string{"c:3"}, r.endpoints)
	require.Equal(t, 9*time.Second, r.timeout)
}

func TestTheDeadlineReachesTheCall(t *testing.T) {
	f := &fake{next: func(ctx context.Context) ([]string, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	r := run(t, setup{fake: f}, "id", "next", "a", "--timeout", "1ms")
	require.Equal(t, exitUnavailable, r.code)
	require.Contains(t, r.errOut, "deadline")
}

func TestPutTakesBytesFromThreePlaces(t *testing.T) {
	f := &fake{}
	file := filepath.Join(t.TempDir(), "v")
	require.NoError(t, os.WriteFile(file, []byte("from a file\x00"), 0o644))
	require.Zero(t, run(t, setup{fake: f, stdin: "in\n\xff"}, "kv", "put", "k", "-", "--if-revision", "0").code)
	require.Zero(t, run(t, setup{fake: f}, "kv", "put", "k", "--file", file, "--ttl", "1m", "--if-revision=7").code)
	require.Zero(t, run(t, setup{fake: f, stdin: "piped"}, "kv", "put", "k", "--file", "-").code)
	require.Zero(t, run(t, setup{fake: f}, "kv", "put", "k", "").code)
	require.Equal(t, []keys.PutRequest{
		{Key: []byte("k"), Value: []byte("in\n\xff"), If: keys.If(0)},
		{Key: []byte("k"), Value: []byte("from a file\x00"), If: keys.If(7), TTL: time.Minute},
		{Key: []byte("k"), Value: []byte("piped")},
		{Key: []byte("k"), Value: []byte{}},
	}, f.puts)
	require.Zero(t, run(t, setup{fake: f}, "kv", "del", "k", "--if-revision=3").code)
	require.Equal(t, keys.If(3), f.dels[0].If)
}

func TestGetIsRawInAPipe(t *testing.T) {
	require.Equal(t, "host=db1", run(t, setup{pipe: true}, "kv", "get", "app/db").out)
	require.Equal(t, "host=db1", run(t, setup{}, "kv", "get", "app/db", "--raw").out)
	require.True(t, json.Valid([]byte(run(t, setup{pipe: true}, "kv", "get", "app/db", "-o", "json").out)))
	require.Contains(t, run(t, setup{pipe: true}, "kv", "get", "app/db", "-o", "table").out, "mod revision")
}

func TestListGoesThroughThePages(t *testing.T) {
	f := &fake{}
	require.Zero(t, run(t, setup{fake: f}, "kv", "list", "app/", "--limit", "5").code)
	require.Len(t, f.lists, 2)
	require.Equal(t, []byte("app0"), f.lists[0].End)
	require.Equal(t, 5, f.lists[0].Limit)
	require.Equal(t, 4, f.lists[1].Limit)
	require.Equal(t, "next", f.lists[1].PageToken)
	f = &fake{}
	require.Zero(t, run(t, setup{fake: f}, "kv", "list", "a", "--end", "b", "--limit", "1").code)
	require.Len(t, f.lists, 1)
	require.Equal(t, []byte("b"), f.lists[0].End)
}

func TestWatchRequests(t *testing.T) {
	f := &fake{}
	require.Zero(t, run(t, setup{fake: f}, "kv", "watch", "k", "-n1").code)
	require.Zero(t, run(t, setup{fake: f}, "kv", "watch", "k", "--prefix", "--after=0", "--prev", "-n1").code)
	require.Equal(t, []keys.WatchRequest{
		{Start: []byte("k"), Exact: true, Now: true},
		{Start: []byte("k"), End: []byte("l"), Prev: true},
	}, f.watches)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Zero(t, run(t, setup{ctx: ctx}, "kv", "watch", "k").code, "an interrupted watch ends well")
}

func TestExitCodes(t *testing.T) {
	for code, want := range map[errs.Code]int{
		errs.InvalidArgument: exitUsage, errs.NotFound: exitNotFound, errs.RevisionMismatch: exitConflict, errs.NoLeader: exitUnavailable,
		errs.OutcomeUnknown: exitUnknown, errs.Forbidden: exitDenied, errs.Internal: exitError,
	} {
		f := &fake{get: func(keys.GetRequest) (keys.GetResult, error) { return keys.GetResult{}, errs.New(code, "so it is") }}
		r := run(t, setup{fake: f}, "kv", "get", "k")
		require.Equal(t, want, r.code, code)
		require.Equal(t, "nekoq: so it is ("+string(code)+")\n", r.errOut)
		r = run(t, setup{fake: f}, "kv", "get", "k", "-o", "json")
		require.Contains(t, r.errOut, `"code":"`+string(code)+`"`)
	}
	for _, i := range errs.Table { // every code has been thought of: 5xx never reads as a usage error
		require.False(t, i.Status >= 500 && exitCode(i.Code) == exitUsage, i.Code)
	}
}

func TestNobodyAnswers(t *testing.T) {
	var out, errOut bytes.Buffer
	code := Main(t.Context(), []string{"kv", "get", "k", "--endpoints", "127.0.0.1:1"}, Env{
		Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errOut, Connect: Dial, Terminal: true,
	})
	require.Equal(t, exitUnavailable, code, errOut.String())
	require.Contains(t, errOut.String(), "no server answered")
	require.Contains(t, errOut.String(), "127.0.0.1:1")
	require.Contains(t, errOut.String(), "nekoq serve")
	require.Contains(t, errOut.String(), "--endpoints")
}

func TestLostQuorumAndDivergenceShowInTheExitCode(t *testing.T) {
	lost := cluster()
	lost.Quorum.Alive = 1
	lost.Quorum.Judge()
	r := run(t, setup{fake: &fake{status: func() (api.Cluster, error) { return lost, nil }}}, "cluster", "status")
	require.Equal(t, exitUnavailable, r.code)
	require.Contains(t, r.out, "n3")
	bad := api.HashReport{Nodes: []api.NodeHash{{ID: "n3", Verdict: api.HashDiverged}}}
	r = run(t, setup{fake: &fake{compare: func() (api.HashReport, error) { return bad, nil }}}, "cluster", "verify")
	require.Equal(t, exitConflict, r.code)
	require.Contains(t, r.out, "DIVERGED")
}

func TestServe(t *testing.T) {
	r := run(t, setup{environ: []string{"NEKOQ_HTTP__PPROF=true"}}, "serve", "--data-dir", "", "--node-id=x", "--set", "http.listen=127.0.0.1:0")
	require.Zero(t, r.code, r.errOut)
	require.Empty(t, r.served.Node.DataDir)
	require.Equal(t, "x", r.served.Node.ID)
	require.True(t, r.served.HTTP.Pprof)
	r = run(t, setup{}, "serve", "--mode", "cluster", "--node-id=n1", "--insecure", "--set", `cluster.peers=["n1=a:1","n2=b:1"]`)
	require.Zero(t, r.code, r.errOut)
	require.Equal(t, []string{"n1=a:1", "n2=b:1"}, r.served.Cluster.Peer.Peers)
	r = run(t, setup{}, "serve", "--mode", "clutser", "--set", "a=1")
	require.Equal(t, exitUsage, r.code)
	require.Nil(t, r.served)
	require.Contains(t, r.errOut, "2 mistakes")
	require.Contains(t, r.errOut, "(--mode)")
	r = run(t, setup{serveErr: errors.New("it broke")}, "serve")
	require.Equal(t, exitError, r.code)
	require.Equal(t, "nekoq: it broke\n", r.errOut)
	r = run(t, setup{serveErr: errs.New(errs.Unavailable, "native.listen: another process listens there")}, "serve")
	require.Equal(t, exitError, r.code)
	require.Equal(t, "nekoq: native.listen: another process listens there (unavailable)\n", r.errOut)
}

func TestConfigCommands(t *testing.T) {
	sample := filepath.Join("..", "..", "..", "..", "configs", "samples", "n1.toml")
	r := run(t, setup{}, "config", "check", "-c", sample, "--insecure")
	require.Zero(t, r.code, r.errOut)
	require.Contains(t, r.out, "mode cluster, node n1")
	require.Contains(t, r.errOut, "warning: INSECURE")
	r = run(t, setup{environ: []string{"NEKOQ_CONFIG=" + sample}}, "config", "check")
	require.Equal(t, exitUsage, r.code)
	require.Contains(t, r.errOut, "--insecure")
	for _, set := range []string{"cluster.entry_wait=5s", "warehouse.etcd.bcrypt_cost=90"} { // not used here
		for _, command := range [][]string{{"config", "check"}, {"serve", "--data-dir="}} {
			key, value, _ := strings.Cut(set, "=")
			r = run(t, setup{}, append(command, "--set", "services.warehouse=false", "--set", set)...)
			require.Equal(t, exitUsage, r.code)
			require.Contains(t, r.errOut, key+`: "`+value+`" is not valid: want `)
		}
	}
	r = run(t, setup{}, "config", "print", "--origin", "--set", "cluster.join_token=abc", "--data-dir=/d")
	require.Zero(t, r.code)
	require.Contains(t, r.out, `data_dir = "/d" # --data-dir`)
	require.Contains(t, r.out, `join_token = "(hidden)" # --set`)
	require.NotContains(t, r.out, "abc")
	r = run(t, setup{}, "config", "print", "--mode=x")
	require.Equal(t, exitUsage, r.code)
	require.Contains(t, r.out, `mode = "x"`)
}

func TestVersionAndCompletion(t *testing.T) {
	require.Contains(t, run(t, setup{}, "version").out, "nekoq v1.2.3 (go")
	require.Contains(t, run(t, setup{}, "version", "-o", "json").out, `"version": "v1.2.3"`)
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		r := run(t, setup{}, "completion", shell)
		require.Zero(t, r.code)
		require.Contains(t, r.out, "nekoq")
	}
	require.Contains(t, run(t, setup{}, "__complete", "serve", "--set", "http.li").out, "http.listen=")
	require.Contains(t, run(t, setup{}, "__complete", "id", "create", "--kind", "").out, "snowflake")
	require.Contains(t, run(t, setup{}, "__complete", "id", "next", "").out, "orders")
	require.Contains(t, run(t, setup{}, "__complete", "kv", "get", "").out, "app/db")
	require.NotContains(t, run(t, setup{}, "__complete", "kv", "put", "k", "").out, "app/db")
	require.Contains(t, run(t, setup{}, "__complete", "cluster", "transfer", "").out, "n2\tleader, ready")
	require.NotContains(t, run(t, setup{}, "__complete", "cluster", "join", "").out, "n2")
}

func TestCompletionAsksTheServersThatAreNamed(t *testing.T) {
	require.Equal(t, []string{defaultEndpoint}, run(t, setup{}, "__complete", "kv", "get", "").endpoints)
	r := run(t, setup{environ: []string{"NEKOQ_ENDPOINTS=h1:1,h2:2"}}, "__complete", "kv", "get", "")
	require.Equal(t, []string{"h1:1", "h2:2"}, r.endpoints)
	require.Contains(t, run(t, setup{}, "__complete", "kv", "get", "--endpoints", "h3:3", "").endpoints, "h3:3")
}

func TestEndpointsAreChecked(t *testing.T) {
	for _, bad := range []string{"", "foo", ":9313", "127.0.0.1:", "127.0.0.1:9313,foo"} {
		r := run(t, setup{}, "kv", "get", "a", "--endpoints", bad)
		require.Equal(t, exitUsage, r.code, bad)
		require.Contains(t, r.errOut, "--endpoints: ", bad)
		require.Contains(t, r.errOut, "host:port, such as 127.0.0.1:9313", bad)
		require.Nil(t, r.endpoints)
	}
}
