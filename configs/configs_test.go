package configs

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"nekoq/services/errs"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares got with a file, or rewrites it with -update.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
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

func write(t *testing.T, text string) string {
	path := filepath.Join(t.TempDir(), "nekoq.toml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

func problems(t *testing.T, src Source) []string {
	t.Helper()
	_, err := Load(src)
	list, ok := errors.AsType[Problems](err)
	require.True(t, ok, "%v", err)
	var out []string
	for _, p := range list {
		out = append(out, p.Err.Message)
	}
	return out
}

func TestEveryKeyIsDocumentedAndCanBeSet(t *testing.T) {
	for _, s := range schema {
		if s.name != "" {
			require.NotEmpty(t, s.doc, "[%s]", s.name)
		}
		require.LessOrEqual(t, len(s.fields), 40)
		for _, f := range s.fields {
			require.NotEmpty(t, f.doc, f.key)
			require.NotEmpty(t, f.wanted(), f.key)
			require.Regexp(t, regexp.MustCompile(`^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*$`), f.key)
			require.NotContains(t, f.key, "__", "the environment could not name it")
		}
	}
}

func TestDefaultsAreValid(t *testing.T) {
	l, err := Load(Source{})
	require.NoError(t, err)
	require.Equal(t, ModeLocalSwitch, l.Mode)
	require.Equal(t, "local", l.Node.ID)
	require.Equal(t, "default", l.Origin("http.listen"))
	require.Empty(t, l.Warnings())
	require.NoError(t, Default().Validate())
	bad := Default()
	bad.Node.ID, bad.HTTP.MaxWait = "", -1
	require.Len(t, bad.Validate(), 2)
}

func TestLaterLayersWin(t *testing.T) {
	file := write(t, "[http]\nlisten = '127.0.0.1:1'\nmax_wait = '1m'\npprof = true\n[state]\nflush_bytes = 1_048_576\n")
	l, err := Load(Source{
		File:    file,
		Environ: []string{"NEKOQ_HTTP__LISTEN=127.0.0.1:2", "NEKOQ_HTTP__MAX_WAIT=2m", "PATH=/bin", "NEKOQ_ENDPOINTS=x", "NEKOQ_PORT_9310_TCP=y", "NEKOQ_SERVICE_HOST=z"},
		Set:     []string{"http.listen=127.0.0.1:3", "cluster.join=a:1, b:2", `cluster.peers=["n1=a:1","n2=b:2"]`},
		Flags:   []Flag{{"--data-dir", "node.data_dir", "/x"}},
	})
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:3", l.HTTP.Listen)
	require.Equal(t, 2*time.Minute, l.HTTP.MaxWait)
	require.True(t, l.HTTP.Pprof)
	require.Equal(t, int64(1<<20), l.State.FlushBytes)
	require.Equal(t, []string{"a:1", "b:2"}, l.Cluster.Peer.Join)
	require.Equal(t, []string{"n1=a:1", "n2=b:2"}, l.Cluster.Peer.Peers)
	require.Equal(t, "/x", l.Node.DataDir)
	for key, want := range map[string]string{
		"http.listen": "--set", "http.max_wait": "env:NEKOQ_HTTP__MAX_WAIT", "http.pprof": "file:" + file,
		"node.data_dir": "--data-dir", "mode": "default",
	} {
		require.Equal(t, want, l.Origin(key), key)
	}
}

func TestAllMistakesAtOnceSorted(t *testing.T) {
	file := write(t, `
mode = "clutser"
colour = "red"
http = { listn = "x", max_body_bytes = "big", gzip = 1 }
[htp]
listen = "y"
[node.id]
a = 1
`)
	require.Equal(t, []string{
		`colour is not a key of the configuration; the nearest is mode`,
		`htp.listen is not a key of the configuration; the nearest is http.listen`,
		`http.gzip: "1" is not valid: want true or false`,
		`http.listn is not a key of the configuration; the nearest is http.listen`,
		`http.max_body_bytes: "big" is not valid: want a whole number`,
		`http.max_wait: "5" is not valid: want a duration such as 30s or 1m30s`,
		`mode: "clutser" is not valid: want localswitch or cluster`,
		`node.id.a is not a key of the configuration; the nearest is node.id`,
	}, problems(t, Source{File: file, Set: []string{"http.max_wait=5"}}))
}

func TestMistakesOfTheOtherLayers(t *testing.T) {
	require.Equal(t, []string{
		`--set "novalue": want key=value, such as http.listen=127.0.0.1:9310`,
		`NEKOQ_HTTP is a section, not a key`,
		`NEKOQ_HTTP__LISTN is not a key of the configuration; the nearest is NEKOQ_HTTP__LISTEN`,
		`NEKOQ_HTTP_LISTEN is not a key of the configuration; the nearest is NEKOQ_HTTP__LISTEN`,
		`NEKOQ_MODUS is not a key of the configuration; the nearest is NEKOQ_MODE`,
		`state.flush_bytes: "1.5" is not valid: want a whole number`,
	}, problems(t, Source{
		Environ: []string{"NEKOQ_HTTP__LISTN=a", "NEKOQ_HTTP_LISTEN=a", "NEKOQ_MODUS=a", "NEKOQ_HTTP=a", "NEKOQ_STATE__FLUSH_BYTES=1.5"},
		Set:     []string{"novalue"},
	}))
	_, err := Load(Source{Environ: []string{"NEKOQ_HTTP__GZIP=maybe"}, Set: []string{"mode=x"}})
	require.EqualError(t, err, `2 mistakes in the configuration:
  http.gzip: "maybe" is not valid: want true or false (env:NEKOQ_HTTP__GZIP)
  mode: "x" is not valid: want localswitch or cluster (--set)`)
	require.True(t, errs.Has(err, errs.InvalidArgument))
}

func TestFilesThatCannotBeRead(t *testing.T) {
	require.Contains(t, problems(t, Source{File: "/does/not/exist.toml"})[0], "/does/not/exist.toml cannot be read: no such file")
	broken := write(t, "mode = \"cluster\"\nhttp = [\n")
	require.Contains(t, problems(t, Source{File: broken})[0], broken+":")
	require.Contains(t, problems(t, Source{File: write(t, "mode='a'\nmode='b'\n")})[0], "is not TOML")
	_, err := Load(Source{File: write(t, "[http]\n[node]\n")})
	require.NoError(t, err, "empty sections are fine")
	require.Contains(t, problems(t, Source{File: write(t, "[[http]]\nlisten='x'\n")})[0], "http is a section")
}

func TestRulesBetweenSections(t *testing.T) {
	cluster := []string{"mode=cluster", "insecure=true", "node.id=n1", "cluster.peers=n1=127.0.0.1:9311,n2=127.0.0.1:9321"}
	for name, tc := range map[string]struct {
		set  []string
		want []string // "" parts of messages
	}{
		"cluster without anything": {[]string{"mode=cluster", "node.data_dir="}, []string{
			"cluster.peers: cluster mode needs", "insecure: cluster mode", "node.data_dir: cluster mode needs", "node.id: cluster mode needs",
		}},
		"good cluster":                        {cluster, nil},
		"join is enough":                      {[]string{"mode=cluster", "insecure=true", "node.id=n4", "cluster.join=127.0.0.1:9321"}, nil},
		"own id not in list":                  {append(cluster, "node.id=n3"), []string{"cluster.peers:"}},
		"bad own id":                          {append(cluster, "node.id=N 3", "cluster.peers=", "cluster.join=127.0.0.1:9321"), []string{"node.id:"}},
		"bad peer":                            {append(cluster, "cluster.peers=n1"), []string{"cluster.peers[0]:"}},
		"raft":                                {append(cluster, "cluster.log_store=x"), []string{"cluster.log_store:"}},
		"advertise of every interface":        {append(cluster, "node.advertise=0.0.0.0", "cluster.listen=127.0.0.1:9311"), []string{"node.advertise:"}},
		"own id not in list of a LocalSwitch": {[]string{"cluster.peers=n1=127.0.0.1:9311"}, nil},
		"no mode":                             {[]string{"mode=x", "http.listen=0.0.0.0:1"}, []string{"mode:"}},
		"same port":                           {[]string{"http.listen=127.0.0.1:9313"}, []string{"native.listen: \"127.0.0.1:9313\" is not valid: want another port than http.listen"}},
		"same port, any host": {
			append(cluster, "http.listen=:9311"),
			[]string{"cluster.listen: \"127.0.0.1:9311\" is not valid: want another port than http.listen"},
		},
		"free ports":     {[]string{"http.listen=127.0.0.1:0", "native.listen=localhost:0"}, nil},
		"loopback":       {[]string{"http.listen=0.0.0.0:1", "native.listen=:2"}, []string{"http.listen: \"0.0.0.0:1\" is not valid: want a loopback", "native.listen:"}},
		"no port":        {[]string{"native.listen=127.0.0.1"}, []string{"native.listen:"}},
		"auth":           {[]string{"auth.enabled=true"}, []string{"auth.enabled:"}},
		"advertise":      {[]string{"node.advertise=host:1"}, []string{"node.advertise:"}},
		"advertise ipv6": {[]string{"node.advertise=::1"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := Load(Source{Set: tc.set})
			if tc.want == nil {
				require.NoError(t, err)
				require.Equal(t, l.Mode == ModeCluster, len(l.Warnings()) == 1)
				return
			}
			got := problems(t, Source{Set: tc.set})
			require.Len(t, got, len(tc.want), "%q", got)
			for i, w := range tc.want {
				require.Contains(t, got[i], w)
			}
		})
	}
}

func TestAdvertisedAddresses(t *testing.T) {
	l, err := Load(Source{Set: []string{"node.advertise=db1.example"}})
	require.NoError(t, err)
	require.Equal(t, "db1.example:9310", l.HTTPAdvertise())
	require.Equal(t, "db1.example:9313", l.NativeAdvertise())
	require.Equal(t, "db1.example:9311", l.Cluster.Peer.Advertise)
	l, err = Load(Source{Set: []string{"cluster.advertise=other:1"}})
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:9313", l.NativeAdvertise())
	require.Equal(t, "other:1", l.Cluster.Peer.Advertise)
}

func TestSecretsAreHidden(t *testing.T) {
	l, err := Load(Source{Set: []string{"cluster.join_token=s3cret"}})
	require.NoError(t, err)
	require.Equal(t, "s3cret", l.Cluster.Peer.JoinToken)
	var out bytes.Buffer
	require.NoError(t, l.Print(&out, true))
	require.NotContains(t, out.String(), "s3cret")
	require.Contains(t, out.String(), `join_token = "(hidden)" # --set`)
	_, err = Load(Source{File: write(t, "[cluster]\njoin_token = ['s3cret']")})
	require.ErrorContains(t, err, "(hidden)")
	require.NotContains(t, err.Error(), "s3cret")
}

// TestPrintIsTOMLThatLoads: what is printed, read again, is the same configuration.
func TestPrintIsTOMLThatLoads(t *testing.T) {
	for _, origin := range []bool{false, true} {
		l, err := Load(Source{Set: []string{`node.data_dir=a "b" \c`, "cluster.join=x:1,y:2", "http.max_wait=1h30m"}})
		require.NoError(t, err)
		var out bytes.Buffer
		require.NoError(t, l.Print(&out, origin))
		var doc map[string]any
		require.NoError(t, toml.Unmarshal(out.Bytes(), &doc))
		again, err := Load(Source{File: write(t, out.String())})
		require.NoError(t, err)
		require.Equal(t, l.Config, again.Config)
		require.Contains(t, out.String(), `max_wait = "1h30m"`)
	}
}

func TestReferenceAndPrintAgree(t *testing.T) {
	var ref, printed bytes.Buffer
	require.NoError(t, WriteReference(&ref))
	golden(t, filepath.Join("..", "docs", "configuration.md"), ref.String())
	require.NoError(t, (&Loaded{Config: Default()}).Print(&printed, false))
	golden(t, filepath.Join("testdata", "print.toml"), printed.String())
	for _, key := range Keys() {
		f := fieldsByKey[key]
		value := (&Loaded{Config: Default()}).shown(f)
		require.Contains(t, ref.String(), fmt.Sprintf("| `%s` | %s | `%s` |", key, typeName(f.typ), value))
		_, name, _ := cutLast(key)
		require.Contains(t, printed.String(), name+" = "+value+"\n")
	}
}

func TestSamples(t *testing.T) {
	ports := map[string]string{}
	for _, name := range []string{"localswitch", "n1", "n2", "n3"} {
		l, err := Load(Source{File: filepath.Join("samples", name+".toml"), Flags: []Flag{{"--insecure", "insecure", "true"}}})
		require.NoError(t, err, name)
		if name == "localswitch" {
			require.Equal(t, ModeLocalSwitch, l.Mode)
			continue
		}
		require.Equal(t, name, l.Node.ID)
		require.Len(t, l.Cluster.Peer.Peers, 3)
		require.Contains(t, l.Cluster.Peer.Peers, name+"="+l.Cluster.Peer.Listen)
		for _, d := range append(l.doors(), door{"node.data_dir", l.Node.DataDir}) {
			require.Empty(t, ports[d.addr], "%s is used by %s too", d.addr, ports[d.addr])
			ports[d.addr] = name + " " + d.key
		}
		_, err = Load(Source{File: filepath.Join("samples", name+".toml")})
		require.ErrorContains(t, err, "--insecure")
	}
}

func TestNearest(t *testing.T) {
	for in, want := range map[string]string{
		"http.lsiten": "http.listen", "listen": "http.listen", "cluster.peer": "cluster.peers",
		"node.datadir": "node.data_dir", "insecrue": "insecure", "servces.numgen": "services.numgen",
	} {
		require.Equal(t, want, nearest(in), in)
	}
}

func TestDistance(t *testing.T) {
	text := rapid.StringMatching(`[ab_.]{0,6}`)
	rapid.Check(t, func(t *rapid.T) {
		a, b := text.Draw(t, "a"), text.Draw(t, "b")
		d := distance(a, b)
		if d != distance(b, a) || (d == 0) != (a == b) || d > max(len(a), len(b)) || d < max(len(a), len(b))-min(len(a), len(b)) {
			t.Fatalf("distance(%q, %q) = %d", a, b, d)
		}
	})
}

// FuzzLayers: no input makes the loader panic, and every mistake names itself.
func FuzzLayers(f *testing.F) {
	f.Add("mode = 'cluster'", "NEKOQ_HTTP__LISTEN=a", "http.gzip=true")
	f.Add("[cluster]\npeers = [1, 'a']", "NEKOQ_=", "=")
	f.Add("http = 1", "NEKOQ___=x", "cluster.peers=[")
	f.Fuzz(func(t *testing.T, file, env, set string) {
		path := filepath.Join(t.TempDir(), "f.toml")
		if os.WriteFile(path, []byte(file), 0o644) != nil {
			return
		}
		l, err := Load(Source{File: path, Environ: []string{env}, Set: []string{set}})
		if err != nil && strings.TrimSpace(err.Error()) == "" {
			t.Fatal("an error without words")
		}
		if err := l.Print(&bytes.Buffer{}, true); err != nil {
			t.Fatal(err)
		}
	})
}
