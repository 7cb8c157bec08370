package cli

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/client"
	"nekoq/services/localswitch"
)

// kept is a Backend over a whole NekoQ, whose connection outlives the commands.
type kept struct{ backend }

func (kept) Close() error { return nil }

type shell struct {
	t *testing.T
	b Backend
}

func (s shell) run(line string) (string, int) {
	s.t.Helper()
	var out, errOut strings.Builder
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	code := Main(ctx, strings.Fields(line), Env{
		Stdin: strings.NewReader("from stdin"), Stdout: &out, Stderr: &errOut, Terminal: true,
		Connect: func([]string, time.Duration) (Backend, error) { return s.b, nil },
	})
	return out.String() + errOut.String(), code
}

var spaces = regexp.MustCompile(` +`)

func (s shell) has(line string, want ...string) string {
	s.t.Helper()
	out, code := s.run(line)
	require.Zero(s.t, code, "%s: %s", line, out)
	flat := spaces.ReplaceAllString(out, " ")
	for _, w := range want {
		require.Contains(s.t, flat, w, line)
	}
	return out
}

func (s shell) fails(line string, code int, want string) {
	s.t.Helper()
	out, got := s.run(line)
	require.Equal(s.t, code, got, "%s: %s", line, out)
	require.Contains(s.t, out, want, line)
}

func newShell(t *testing.T) shell {
	return shell{t, kept{backend{localswitch.ForTest(t).Client()}}}
}

func TestAreaCommands(t *testing.T) {
	s := newShell(t)
	s.has("area create eu --description Europe", "name eu", "parent default", "description Europe")
	s.has("area create north --parent eu", "parent eu")
	s.has("area tree", "AREA DESCRIPTION", "\n eu Europe", "\n north")
	s.has("area list", "AREA DESCRIPTION", "\n eu Europe", "\n north")
	s.has("area levels north", "north\neu\ndefault\n")
	s.has("area move north default", "parent default")
	s.has("area describe north cold", "description cold")
	s.has("area get north -o json", `"description": "cold"`)
	s.has("area watch -n 1", `has north below "default"`)
	s.has("area delete north", "deleted north")
	s.fails("area delete default", exitConflict, "root")
	s.fails("area get north", exitNotFound, "north")
	s.fails("area create a/b", exitUsage, "letters")
	s.has("__complete area get e", "eu")
}

func TestConfCommands(t *testing.T) {
	s := newShell(t)
	s.has("area create eu")
	dir := t.TempDir()
	file := filepath.Join(dir, "app.yaml")
	require.NoError(t, os.WriteFile(file, []byte("port: 80\n"), 0o600))
	s.has("conf publish default/shop/app.yaml --file "+file+" --comment first", "release 1: yaml, 9 bytes, by publish")
	s.has("conf draft default/shop/app.yaml port:81", "draft yaml, 7 bytes, on release 1")
	s.has("conf diff default/shop/app.yaml", "-port: 80", "+port:81")
	s.fails("conf publish default/shop/app.yaml [", exitUsage, "not valid yaml")
	s.has("conf publish default/shop/app.yaml", "release 2:")
	s.has("conf rollback default/shop/app.yaml --to 1", "release 3:")
	s.has("conf history default/shop/app.yaml", "3 rollback to 1 yaml", "1 publish yaml 9", "first")
	require.Equal(t, "port: 80\n", s.has("conf get default/shop/app.yaml"))
	s.has("conf get default/shop/app.yaml --which 2 -o json", `"content": "port:81"`)
	s.has("conf get default/shop/app.yaml --info", "release 3")
	s.has("conf publish eu/shop/text -", "release 1: text, 10 bytes")
	s.has("conf publish eu/shop/piped --file -", "release 1: text, 10 bytes")
	s.has("conf gray default/shop/app.yaml canary port:90 --ip 10.0.0.0/8 --label env=a --label env=b --percent 100", "gray canary ip in 10.0.0.0/8 and env in a,b and 100 %")
	s.has("conf effective shop --area eu", "app.yaml yaml", "default/shop/app.yaml release 3", "eu/shop/text release 1")
	s.has("conf effective shop --ip 10.0.0.1 --label env=b --key app.yaml", "port:90", "gray canary")
	s.has("conf gray-promote default/shop/app.yaml canary", "release 4:")
	s.has("conf set default/shop/app.yaml --read-only --description what", "read-only yes", "description what")
	s.fails("conf delete default/shop/app.yaml", exitConflict, "read-only")
	s.has("conf list default/shop", "default/shop/app.yaml yaml 7 4", "what")
	at := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	s.has("conf publish eu/shop/text later --at "+at, "scheduled for "+at)
	s.has("conf unschedule eu/shop/text", "draft text, 5 bytes")
	s.has("conf discard eu/shop/text")
	s.fails("conf publish eu/shop/text --at soon", exitUsage, "--at")
	s.fails("conf publish shop/text", exitUsage, "AREA/GROUP/KEY")

	s.has("conf clone default/shop eu/copy --dry-run", "eu/copy/app.yaml create")
	s.has("conf clone default/shop eu/copy", "eu/copy/app.yaml create")
	s.has("conf compare default/shop eu/copy", "app.yaml same")
	s.has("conf publish eu/copy/app.yaml port:91")
	s.has("conf compare default/shop eu/copy --diff", "app.yaml differs", "-port:90", "+port:91")
	out := filepath.Join(dir, "out")
	s.has("conf export "+out, "4 items as of revision")
	b, err := os.ReadFile(filepath.Join(out, "eu", "copy", "app.yaml"))
	require.NoError(t, err)
	require.Equal(t, "port:91", string(b))
	s.has("conf import "+out+" --dry-run", "eu/copy/app.yaml same")
	require.NoError(t, os.WriteFile(filepath.Join(out, "eu", "copy", "app.yaml"), []byte("port: 1"), 0o600))
	s.fails("conf import "+out, exitConflict, "eu/copy/app.yaml")
	s.has("conf import "+out+" --if-exists overwrite", "eu/copy/app.yaml change")
	zip := filepath.Join(dir, "x.zip")
	s.has("conf export "+zip+" --area eu --group copy", "1 item as of")
	s.has("conf import "+zip+" --area eu --group third", "eu/third/app.yaml create")
	s.fails("conf import "+filepath.Join(dir, "none"), exitUsage, "none")

	s.has("conf group put shop --quote lib,other", "quotes lib, other")
	s.has("conf group list", "shop lib,other")
	s.has("conf group delete shop", "deleted shop")
	s.has("conf scope put office --ip 10.0.0.0/8 --area eu", "ip in 10.0.0.0/8 get area eu")
	s.has("conf scope list", "office 0 ip in 10.0.0.0/8 eu")
	s.has("conf effective shop --ip 10.1.1.1", "in area eu")
	s.has("conf scope delete office", "deleted office")
	s.fails("conf scope put office --area eu", exitUsage, "rule")
	s.has("conf watch shop -n 1 --client me", "group shop in area default")
	s.has("conf watch shop -n 1 -o json", `"content":"port:90"`)
	s.has("conf listeners", "CLIENT ADDRESS")
	s.has("conf delete eu/third/app.yaml --comment gone", "deleted yes")
	s.has("conf list eu/third --deleted", "eu/third/app.yaml - - deleted")
	s.has("__complete conf get eu/c", "eu/copy/app.yaml")
	require.Implements(t, (*Configuration)(nil), s.b)
	var _ client.Conf = s.b.Conf()
}

// Bad command lines of areas and the configuration centre are told apart from what
// the server refuses, and say what is wrong.
func TestConfAndAreaRefusals(t *testing.T) {
	s := newShell(t)
	s.has("area create eu")
	s.has("area create north --parent eu")
	s.has("area move north --parent default", "parent default")
	s.fails("area move eu eu", exitConflict, "itself")
	s.fails("area move north", exitUsage, "give the area to move it below")
	s.fails("area move north eu --parent eu", exitUsage, "either PARENT or --parent")
	s.fails("area move north eu --if-revision 1", exitConflict, "revision_mismatch")
	s.fails("area describe north cold --if-revision 1", exitConflict, "revision_mismatch")
	s.fails("area delete north --if-revision 1", exitConflict, "revision_mismatch")
	s.fails("area describe eu "+strings.Repeat("x", 5000), exitUsage, "(5000 bytes)")
	for _, watch := range []string{"area watch", "conf watch shop", "kv watch a", "kv folder a/", "kv lock a --watch"} {
		s.fails(watch+" -n -1", exitUsage, "--count")
	}

	s.has("conf publish default/shop/k one")
	s.fails("conf rollback default/shop/k", exitUsage, `required flag(s) "to" not set; see nekoq conf rollback --help`)
	s.fails("conf scope put office --ip 10.0.0.1", exitUsage, `"area" not set`)
	s.fails("conf rollback default/shop/k --to 7", exitNotFound, "no release 7")
	s.has("conf draft default/shop/k two")
	for _, change := range []string{"discard default/shop/k", "delete default/shop/k", "set default/shop/k --description x", "publish default/shop/k", "draft default/shop/k x"} {
		s.fails("conf "+change+" --if-revision 1", exitConflict, "revision_mismatch")
	}
	s.has("conf gray default/shop/k g new --percent 5 --priority 3", "priority 3")
	s.has("conf gray default/shop/k g --percent 10", "10 %", "priority 3")
	s.has("conf gray default/shop/k g --priority 0", "10 %", "priority 0")
	s.fails("conf gray-drop default/shop/k g --if-revision 1", exitConflict, "revision_mismatch")
	s.fails("conf gray-promote default/shop/k g --if-revision 1", exitConflict, "revision_mismatch")
	s.has("conf gray-promote default/shop/k g --comment enough", "release 2")
	s.has("conf history default/shop/k", "promote of g", "enough")

	s.fails("conf list nowhere", exitNotFound, `no area named "nowhere"`)
	s.fails("conf listeners --area nowhere", exitNotFound, "nowhere")
	s.fails("conf publish default/shop/k --type json", exitUsage, "a draft has its own")
	s.fails("conf gray default/shop/k h x --percent NaN", exitUsage, "0.01 to 100")
	s.fails("conf gray default/shop/k h x --percent 0", exitUsage, "at least one of")
	s.fails("conf scope put office --area eu --ip 10.0.0.0/99", exitUsage, "10.0.0.0/99")
	s.has("conf publish eu/shop/one 1", "text, 1 byte, by")
	s.fails("conf export "+t.TempDir()+" --area eu --group none", exitNotFound, "eu/none has nothing")
	s.has("conf export "+t.TempDir()+" --area north", "0 items to ")

	empty := t.TempDir()
	s.fails("conf import "+empty, exitUsage, "no item")
	s.fails("conf export "+filepath.Join(empty, "x.zip")+" --area nowhere", exitNotFound, "nowhere")
	_, err := os.Stat(filepath.Join(empty, "x.zip"))
	require.ErrorIs(t, err, os.ErrNotExist)
}
