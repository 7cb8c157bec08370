package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/client"
	"nekoq/services/errs"
	"nekoq/services/localswitch"
	"nekoq/warehouse/form"
)

// shared is the client of a server in this process, which stays open over many commands.
type shared struct{ backend }

func (shared) Close() error { return nil }

// terminal runs commands against one server in this process.
type terminal struct {
	t testing.TB
	c *client.Client
}

func newTerminal(t *testing.T) *terminal {
	return &terminal{t, localswitch.ForTest(t).Client()}
}

// safeBuffer is read while a command writes it.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// background is a command that runs.
type background struct {
	out, errOut safeBuffer
	cancel      context.CancelFunc
	code        chan int
}

func (s *terminal) start(stdin string, args ...string) *background {
	b := &background{code: make(chan int, 1)}
	ctx, cancel := context.WithCancel(s.t.Context())
	b.cancel = cancel
	connect := func([]string, time.Duration) (Backend, error) { return shared{backend{s.c}}, nil }
	env := Env{
		Stdin: strings.NewReader(stdin), Stdout: &b.out, Stderr: &b.errOut, Environ: os.Environ(), Terminal: true, Connect: connect, Patient: connect,
	}
	go func() { b.code <- Main(ctx, args, env) }()
	return b
}

func (s *terminal) run(stdin string, args ...string) result {
	s.t.Helper()
	b := s.start(stdin, args...)
	defer b.cancel()
	return s.end(b)
}

func (s *terminal) end(b *background) result {
	s.t.Helper()
	select {
	case code := <-b.code:
		return result{code: code, out: b.out.String(), errOut: b.errOut.String()}
	case <-time.After(time.Minute):
		require.FailNow(s.t, "the command does not end", "out %s, err %s", b.out.String(), b.errOut.String())
		return result{}
	}
}

// until polls, since another command's doing is awaited.
func (s *terminal) until(what string, cond func() bool) {
	s.t.Helper()
	require.Eventually(s.t, cond, time.Minute, 5*time.Millisecond, what)
}

func TestTxn(t *testing.T) {
	s := newTerminal(t)
	r := s.run("", "kv", "txn", "--if", "missing(a)", "--then", `put a "one two"`, "--then", "put b 'x y' --prev", "--else", "get a")
	require.Zero(t, r.code, r.errOut)
	require.Regexp(t, `succeeded\nput a +revision 2, version 1\nput b +revision 2, version 1\nrevision +2\n`, r.out)
	r = s.run("", "kv", "txn", "--if", "missing(a)", "--then", "put a no", "--else", "get a")
	require.Zero(t, r.code, r.errOut)
	require.Regexp(t, `a condition does not hold\nget a +1 of 1\n  a +one two +revision 2, version 1\n`, r.out)
	r = s.run("", "kv", "txn", "--if", "missing(a)", "--then", "put a no", "--must")
	require.Equal(t, exitConflict, r.code)
	require.Contains(t, r.errOut, "a condition of the transaction does not hold (failed_precondition)")

	for cond, holds := range map[string]bool{
		"version(a) = 1": true, "ver(a)==1": true, "mod(a) > 1": true, "mod(a) < 2": false, "create(a) != 2": false, `value(a) = "one two"`: true,
		"value(a) > one": true, "lease(a) = 0": true, "exists(a)": true, "missing( a )": false, `exists("a")`: true, `mod("a") > "1"`: true,
	} {
		r := s.run("", "kv", "txn", "--if", cond, "-o", "json")
		require.Zero(t, r.code, "%s: %s", cond, r.errOut)
		var got form.Result
		require.NoError(t, json.Unmarshal([]byte(r.out), &got))
		require.Equal(t, holds, got.Succeeded, cond)
	}

	// A file, as JSON and as blocks of lines; a transaction in the transaction.
	file := filepath.Join(t.TempDir(), "txn")
	require.NoError(t, os.WriteFile(file, []byte(`{"if":[{"key":"a","target":"version","number":1}],"then":[{"txn":{"then":[{"delete":{"prefix":"a","prev":true}},{"put":{"key":"c","text":"3"}}]}}]}`), 0o600))
	r = s.run("", "kv", "txn", file)
	require.Zero(t, r.code, r.errOut)
	require.Regexp(t, `succeeded\ntxn\n  del a +1 deleted\n    was a +one two +revision 2, version 1\n  put c +revision 3, version 1\nrevision +3\n`, r.out)
	r = s.run("# who is there\nmod(\"c\") > \"0\"\nmissing(a)\n\nput k1 \"overwrote k1\"\nget b c0\ntxn {\"then\":[{\"range\":{\"key\":\"c\"}}]}\n\nput k2 else\n", "kv", "txn", "-", "-o", "json")
	require.Zero(t, r.code, r.errOut)
	var got form.Result
	require.NoError(t, json.Unmarshal([]byte(r.out), &got))
	require.True(t, got.Succeeded)
	require.Len(t, got.Results, 3)
	require.EqualValues(t, 2, got.Results[1].Range.Count)
	require.Equal(t, []byte("3"), got.Results[2].Txn.Results[0].Range.Items[0].Value)

	r = s.run("", "kv", "txn", "--then", "put t x --ttl 1m", "--then", "get k --prefix --keys-only --limit 1", "--then", "del none")
	require.Zero(t, r.code, r.errOut)
	require.Contains(t, s.run("", "kv", "get", "t").out, "lease")
}

func TestTxnRefusals(t *testing.T) {
	s := newTerminal(t)
	for _, c := range []struct {
		stdin, want string
		args        []string
		code        int
	}{
		{"", "no transaction: give it with --if", []string{}, exitUsage},
		{"", "--if: \"size(a) = 1\" is not valid: want a condition such as", []string{"--if", "size(a) = 1"}, exitUsage},
		{"", "is not valid", []string{"--if", "version(a)"}, exitUsage},
		{"", "is not valid", []string{"--if", "version(a) = one"}, exitUsage},
		{"", "is not valid", []string{"--if", "exists(a) = 1"}, exitUsage},
		{"", "double quote is not closed", []string{"--if", `value(a) = "x`}, exitUsage},
		{"", "single quote is not closed", []string{"--then", "put a 'x"}, exitUsage},
		{"", "--then: \"putt a b\" is not valid: want an operation such as", []string{"--then", "putt a b"}, exitUsage},
		{"", "--else: \"put a\"", []string{"--else", "put a"}, exitUsage},
		{"", "unknown flag: --tll", []string{"--then", "put a b --tll 3s"}, exitUsage},
		{"", "then[0].put.ttl: \"1ms\"", []string{"--then", "put a b --ttl 1ms"}, exitUsage},
		{"", "written twice", []string{"--then", "put a b", "--then", "put a c"}, exitUsage},
		{"", "too_many_operations", strings.Split(strings.Repeat("--then=get a,", 129), ",")[:129], exitUsage},
		{"", "--holding: \"lock:a\" is not valid: want lock:NAME=TOKEN", []string{"--holding", "lock:a"}, exitUsage},
		{"", "stale_token", []string{"--holding", "lock:a=7", "--then", "put a b"}, exitConflict},
		{"", "FILE: ", []string{"/does/not/exist"}, exitUsage},
		{"{}", "given twice", []string{"-", "--then", "get a"}, exitUsage},
		{"{", "not JSON in the words of POST /v1/warehouse/txn", []string{"-"}, exitUsage},
		{`{"when":[]}`, `unknown field "when"`, []string{"-"}, exitUsage},
		{`{} {}`, "more stands behind its closing brace", []string{"-"}, exitUsage},
		{`{"then":[{"put":{"key":"a"},"range":{"key":"b"}}]}`, "then[0]", []string{"-"}, exitUsage},
		{`{"if":[{"key":"a","target":"size"}]}`, "if[0].target: \"size\" is not valid: want one of create_revision, lease, mod_revision, value, version", []string{"-"}, exitUsage},
		{"\n\n", "the file holds no transaction", []string{"-"}, exitUsage},
		{"exists(a)\n\nget a\n\nget b\n\nget c\n", "behind the third block", []string{"-"}, exitUsage},
	} {
		r := s.run(c.stdin, append([]string{"kv", "txn"}, c.args...)...)
		require.Equal(t, c.code, r.code, "%q %q: %s%s", c.args, c.stdin, r.out, r.errOut)
		require.Contains(t, r.errOut, c.want, "%q %q", c.args, c.stdin)
		require.Empty(t, r.out)
	}
	require.Contains(t, s.run("", "kv", "list").out, "KEY")
	require.NotContains(t, s.run("", "kv", "list").out, "a ")
}

var tokenOut = regexp.MustCompile(`token (\d+)`)

func TestLockIsHeldWhileACommandRuns(t *testing.T) {
	s := newTerminal(t)
	first := s.start("", "lock", "deploy", "--holder", "one")
	s.until("it is held", func() bool { return tokenOut.MatchString(first.out.String()) })
	token := tokenOut.FindStringSubmatch(first.out.String())[1]
	require.Contains(t, s.run("", "kv", "lock", "deploy").out, token)

	r := s.run("", "lock", "deploy", "--try", "--holder", "two", "--", "sh", "-c", "echo never")
	require.Equal(t, exitConflict, r.code)
	require.Contains(t, r.errOut, `lock "deploy": "one" has it under token `+token+` (conflict)`)
	require.Empty(t, r.out)
	r = s.run("", "lock", "deploy", "--wait", "20ms", "--holder", "two", "-o", "json")
	require.Equal(t, exitConflict, r.code)
	require.Contains(t, r.errOut, "did not give it up within 20ms")

	// A write under the token goes while it is held.
	require.Zero(t, s.run("", "kv", "txn", "--holding", "lock:deploy="+token, "--then", "put v 1").code)

	second := s.start("in", "lock", "deploy", "--holder", "two", "--", "sh", "-c", `cat; echo " $NEKOQ_LOCK $NEKOQ_FENCING_TOKEN $NEKOQ_LEASE"; exit 7`)
	s.until("it waits", func() bool { return strings.Contains(s.run("", "kv", "lock", "deploy").out, "two") })
	require.Contains(t, second.errOut.String(), `waiting for the lock deploy: "one" has it`)
	first.cancel()
	require.Zero(t, s.end(first).code)
	r = s.end(second)
	require.Equal(t, 7, r.code, "the exit code is the command's: %s", r.errOut)
	require.Regexp(t, `^in deploy \d+ \d+\n$`, r.out)
	require.NotContains(t, r.out, " "+token+" ", "a new holder has a new token")
	require.Contains(t, s.run("", "kv", "lock", "deploy").out, "nobody")
	require.Equal(t, exitConflict, s.run("", "kv", "txn", "--holding", "lock:deploy="+token, "--then", "put v 2").code)
	require.Equal(t, "1", s.run("", "kv", "get", "v", "--raw").out)
}

func TestLostLockEndsItsCommand(t *testing.T) {
	s := newTerminal(t)
	b := s.start("", "lock", "l", "--ttl", "1s", "-o", "json", "--", "sh", "-c", "trap 'echo ended; exit 0' TERM; echo up; while :; do sleep 0.05; done")
	s.until("it runs", func() bool { return strings.Contains(b.out.String(), "up") })
	var told heldJSON
	require.NoError(t, json.Unmarshal([]byte(b.errOut.String()), &told))
	require.Equal(t, "l", told.Name)
	require.Zero(t, s.run("", "kv", "lease", "revoke", told.Lease).code)
	r := s.end(b)
	require.Equal(t, exitConflict, r.code, r.errOut)
	require.Contains(t, r.errOut, "the lock l is lost")
	require.Contains(t, r.errOut, `"code":"not_leader"`)
	require.Contains(t, r.out, "ended")

	// Without a command too.
	b = s.start("", "elect", "e", "v", "--ttl", "1s", "-o", "json")
	s.until("it leads", func() bool { return strings.Contains(b.out.String(), "\n") })
	require.NoError(t, json.Unmarshal([]byte(b.out.String()), &told))
	require.Zero(t, s.run("", "kv", "lease", "revoke", told.Lease).code)
	r = s.end(b)
	require.Equal(t, exitConflict, r.code, r.errOut)
	require.Contains(t, r.errOut, "the election e is lost")
}

func TestInterruptEndsTheCommandAndGivesTheLockBack(t *testing.T) {
	s := newTerminal(t)
	b := s.start("", "lock", "l", "--", "sh", "-c", "echo up; exec sleep 600")
	s.until("it runs", func() bool { return strings.Contains(b.out.String(), "up") })
	b.cancel()
	r := s.end(b)
	require.Equal(t, 128+15, r.code, r.errOut)
	require.Contains(t, s.run("", "kv", "lock", "l").out, "nobody")
}

func TestElections(t *testing.T) {
	s := newTerminal(t)
	watch := s.start("", "kv", "election", "e", "--watch", "-n", "3", "-o", "json")
	s.until("it watches", func() bool { return strings.Contains(watch.out.String(), `"holder":""`) })
	r := s.run("", "elect", "e", "host1:80", "--", "sh", "-c", `echo "$NEKOQ_ELECTION"`)
	require.Zero(t, r.code, r.errOut)
	require.Equal(t, "e\n", r.out)
	r = s.end(watch)
	require.Zero(t, r.code, r.errOut)
	require.Contains(t, r.out, `"holder":"host1:80"`)

	lead := s.start("", "elect", "e", "host1:80")
	s.until("it leads", func() bool { return tokenOut.MatchString(lead.out.String()) })
	r = s.run("", "elect", "e", "host2:80", "--try")
	require.Equal(t, exitConflict, r.code)
	require.Contains(t, r.errOut, `"host1:80" has it`)
	require.NotContains(t, s.run("", "kv", "election", "e").out, "waiting", "who only tried does not stay in line")
	require.Contains(t, s.run("", "kv", "election", "e", "-w", "-n1").out, "host1:80 token ")
	lead.cancel()
	require.Zero(t, s.end(lead).code)
}

// Puts and deletes can demand what transactions can: that a lock is still held.
func TestWritesWhileHeld(t *testing.T) {
	s := newTerminal(t)
	r := s.run("", "lock", "l", "--", "sh", "-c", "echo $NEKOQ_FENCING_TOKEN")
	require.Zero(t, r.code, r.errOut)
	session, err := s.c.Leases().Session(t.Context(), time.Minute)
	require.NoError(t, err)
	defer func() { require.NoError(t, session.Close(context.Background())) }()
	lock, err := s.c.Locks().Acquire(t.Context(), session, "l", "me")
	require.NoError(t, err)
	holds, lost := fmt.Sprint("lock:l=", lock.Token), "lock:l="+strings.TrimSpace(r.out)
	for _, args := range [][]string{{"put", "a/1", "x"}, {"put", "a/2", "x"}, {"del", "a/1"}, {"del", "--prefix", "a/"}} {
		args = append([]string{"kv"}, args...)
		r := s.run("", append(args, "--holding", lost)...)
		require.Equal(t, exitConflict, r.code, "%q: %s", args, r.out)
		require.Contains(t, r.errOut, "stale_token", "%q", args)
		r = s.run("", append(args, "--holding", holds)...)
		require.Zero(t, r.code, "%q: %s", args, r.errOut)
	}
	require.Equal(t, exitNotFound, s.run("", "kv", "get", "a/2").code)
}

func TestHoldRefusals(t *testing.T) {
	s := newTerminal(t)
	for want, args := range map[string][]string{
		"want NAME; see nekoq lock --help":                         {"lock"},
		"and a command behind --: nekoq lock -- COMMAND":           {"lock", "a", "b"},
		"no command stands behind --":                              {"lock", "a", "--"},
		"want NAME and VALUE; see nekoq elect --help":              {"elect", "a"},
		"--ttl: \"1ms\" is not valid: want at least 1s":            {"lock", "a", "--ttl", "1ms"},
		"--wait: \"-1s\" is not valid":                             {"lock", "a", "--wait", "-1s"},
		"--grace: \"0s\" is not valid":                             {"lock", "a", "--grace", "0s"},
		"--try does not wait":                                      {"lock", "a", "--try", "--wait", "1s"},
		"name: ":                                                   {"lock", strings.Repeat("n", 5000)},
		"holder: ":                                                 {"elect", "a", strings.Repeat("v", 1025)},
		"/does/not/exist cannot be run":                            {"lock", "a", "--", "/does/not/exist"},
		"ttl: ":                                                    {"lock", "a", "--ttl", "2550000h"},
		"ID: \"x\" is not valid: want the number of a lease":       {"kv", "lease", "get", "x"},
		"TTL: \"x\" is not valid: want a duration such as 30s":     {"kv", "lease", "grant", "x"},
		"path: \"app\" is not valid: want a path that ends with /": {"kv", "folder", "app"},
		"--ttl and --lease":                                        {"kv", "put", "a", "b", "--ttl", "3s", "--lease", "4"},
		"--limit: \"-1\" is not valid: want 0 or more":             {"kv", "lease", "list", "--limit", "-1"},
		"--holding: \"lock:l\" is not valid":                       {"kv", "del", "a", "--holding", "lock:l"},
		"token: \"0\" is not valid":                                {"kv", "put", "a", "b", "--holding", "lock:l=0"},
		"does not go with --prefix":                                {"kv", "del", "a", "--prefix", "--if-revision", "3"},
	} {
		r := s.run("", args...)
		require.Equal(t, exitUsage, r.code, "%q: %s", args, r.errOut)
		require.Contains(t, r.errOut, want, "%q", args)
	}
	require.Contains(t, s.run("", "kv", "lock", "a").out, "nobody")
	require.Equal(t, exitNotFound, s.run("", "kv", "lease", "keepalive", "77").code)
	require.Equal(t, exitNotFound, s.run("", "kv", "lease", "keepalive", "77", "--hold").code)
}

func TestLeasesAndFolder(t *testing.T) {
	s := newTerminal(t)
	var lease leaseJSON
	r := s.run("", "kv", "lease", "grant", "60s", "-o", "json")
	require.NoError(t, json.Unmarshal([]byte(r.out), &lease), r.errOut)
	require.Equal(t, lease.ID+"\n", s.run("", "kv", "lease", "list").out)
	require.JSONEq(t, `{"leases":["`+lease.ID+`"]}`, s.run("", "kv", "lease", "list", "-o", "json").out)
	var more leaseJSON
	require.NoError(t, json.Unmarshal([]byte(s.run("", "kv", "lease", "grant", "60s", "-o", "json").out), &more))
	require.Len(t, strings.Fields(s.run("", "kv", "lease", "list").out), 2)
	require.Len(t, strings.Fields(s.run("", "kv", "lease", "list", "--limit", "1").out), 1)
	require.Zero(t, s.run("", "kv", "lease", "revoke", more.ID).code)
	require.Zero(t, s.run("", "kv", "put", "f/a", "1", "--lease", lease.ID).code)
	require.Contains(t, s.run("", "kv", "lease", "ttl", lease.ID).out, "f/a")
	keep := s.start("", "kv", "lease", "keepalive", lease.ID, "--hold")

	folder := s.start("", "kv", "folder", "f/", "-n", "4")
	s.until("it tells what is there", func() bool { return strings.Contains(folder.out.String(), "existing f/a 1") })
	require.Zero(t, s.run("", "kv", "put", "f/b", "2").code)
	require.Zero(t, s.run("", "kv", "put", "f/b", "3").code)
	require.Zero(t, s.run("", "kv", "lease", "revoke", lease.ID).code)
	r = s.end(folder)
	require.Zero(t, r.code, r.errOut)
	require.Equal(t, "2 existing f/a 1\n3 created f/b 2\n4 modified f/b 3\n5 deleted f/a\n", r.out)
	keep.cancel()
	require.Contains(t, []int{exitOK, exitNotFound}, s.end(keep).code)

	require.Zero(t, s.run("", "kv", "put", "g", "1").code)
	require.Contains(t, s.run("", "kv", "del", "--prefix", "f/").out, "1 deleted at revision 7")
	require.Contains(t, s.run("", "kv", "del", "--prefix", "f/").out, "nothing to delete")
	require.Zero(t, s.run("", "kv", "get", "g").code)
	require.Contains(t, s.run("", "kv", "diff", "f/", "--prefix", "--from", "4").out, "f/b")
	require.Contains(t, s.run("", "kv", "rollback", "f/", "--prefix", "--revision", "4").out, "2 written, 0 deleted")
	require.Contains(t, s.run("", "kv", "alarms").out, "alarms")
	require.Zero(t, s.run("", "kv", "defrag").code)
	require.Zero(t, s.run("", "kv", "quota", "set", "f/", "--keys", "2").code)
	r = s.run("", "kv", "put", "f/c", "x")
	require.NotZero(t, r.code)
	require.Contains(t, r.errOut, string(errs.QuotaExceeded))
	require.Contains(t, s.run("", "kv", "quota", "list").out, "2/2")
}

// Programs get the words of the REST door from every command, writes too.
func TestJSONInTheWordsOfREST(t *testing.T) {
	s := newTerminal(t)
	require.Zero(t, s.run("", "kv", "put", "f/a", "1").code)
	require.Zero(t, s.run("", "kv", "put", "f/b", "2").code)
	json1 := func(args ...string) map[string]any {
		t.Helper()
		r := s.run("", append(args, "-o", "json")...)
		require.Zero(t, r.code, r.errOut)
		var out map[string]any
		require.NoError(t, json.Unmarshal([]byte(r.out), &out), "%q: %s", args, r.out)
		return out
	}
	d := json1("kv", "diff", "--prefix", "f/", "--from", "2")
	require.Equal(t, "f/b", d["differences"].([]any)[0].(map[string]any)["key"])
	require.Equal(t, "Mg==", d["differences"].([]any)[0].(map[string]any)["to"].(map[string]any)["value"])
	require.Equal(t, map[string]any{"revision": 4.0, "put": 0.0, "deleted": 1.0}, json1("kv", "rollback", "--prefix", "f/", "--revision", "2"))
	require.Equal(t, map[string]any{"prefix": "f/", "max_keys": 3.0}, json1("kv", "quota", "set", "f/", "--keys", "3"))
	q := json1("kv", "quota", "list")["quotas"].([]any)[0]
	require.Equal(t, map[string]any{"prefix": "f/", "max_keys": 3.0, "keys": 1.0, "bytes": 4.0, "watches": 0.0}, q)
	id := json1("kv", "lease", "grant", "1m")["id"].(string)
	require.Equal(t, map[string]any{"id": id}, json1("kv", "lease", "revoke", id))
	require.Equal(t, map[string]any{"deleted": 1.0, "revision": 5.0}, json1("kv", "del", "--prefix", "f/"))
	require.Equal(t, map[string]any{"holder": "", "token": 0.0, "waiting": []any{}}, json1("kv", "lock", "l"))
}

func TestUsageErrorsNameTheCommand(t *testing.T) {
	for want, args := range map[string][]string{
		"see nekoq kv lock --help": {"kv", "lock"}, "see nekoq kv get --help": {"kv", "get", "a", "--nope"}, "see nekoq --help": {"nope"},
	} {
		require.Contains(t, run(t, setup{}, args...).errOut, want)
	}
}
