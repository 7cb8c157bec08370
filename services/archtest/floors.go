package archtest

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// room is a package, with everything below its path, and the floor it stands
// on. Within a floor, rooms with a greater step may import those with a smaller.
type room struct {
	path        string
	floor, step int
	owns        string
}

// rooms is the house (docs/architecture.md). The longest path that fits a
// package is its room.
var rooms = []room{
	{"services/errs", 0, 1, "the one error type"},
	{"services/clock", 0, 2, "the clock interface"},
	{"services/lifecycle", 0, 3, "the dependency graph of components"},
	{"services/watch", 0, 3, "the event hub"},
	{"services/command", 1, 1, "the log-entry codec"},
	{"services/telemetry", 1, 1, "logs, metrics and traces"},
	{"services/state", 1, 2, "the replicated state machine"},
	{"services/replica", 2, 1, "what services see of the replicated state"},
	{"services/auth", 2, 1, "who may do what"},
	{"services/replica/local", 2, 2, "the replica of one process"},
	{"services/internal/link", 2, 1, "what connections of framed protocols share"},
	{"services/grpcserver", 2, 2, "gRPC over HTTP/2, for doors"},
	{"services/wire", 2, 2, "the framing of the native door and of peer calls"},
	{"services/httpapi", 2, 2, "the HTTP door"},
	{"services/lease", 2, 3, "TTLs that survive leader changes"},
	{"services/replica/raftnode", 2, 3, "the replica over Raft"},
	{"services/peer", 2, 4, "the node-to-node port"},
	{"numgen", 3, 1, "IDs"},
	{"naming", 3, 1, "discovery"},
	{"warehouse", 3, 1, "keys and configuration"},
	{"mq", 3, 1, "messages"},
	{"scheduling", 3, 1, "jobs"},
	{"client", 4, 1, "the Go SDK"},
	{"services/gateway", 4, 1, "protocol doors that span services"},
	{"portal", 4, 1, "the console"},
	{"configs", 5, 1, "the one configuration"},
	{"services/app", 5, 2, "composition"},
	{"services/localswitch", 5, 3, "a whole NekoQ inside a test"},
	{"cmd", 6, 1, "the commands"},
	{"services/testkit", testFloor, 1, "what tests need"},
	{"services/archtest", testFloor, 1, "these tests"},
}

// testFloor stands above all and is imported by tests only.
const testFloor = 9

func roomOf(pkg string) (room, bool) {
	var best room
	for _, r := range rooms {
		if (pkg == r.path || strings.HasPrefix(pkg, r.path+"/")) && len(r.path) > len(best.path) {
			best = r
		}
	}
	return best, best.path != ""
}

// forTests tells whether a package exists for tests: the testkit, or a package
// named after what it tests (numgentest).
func forTests(pkg string) bool {
	r, _ := roomOf(pkg)
	return r.floor == testFloor || strings.HasSuffix(path.Base(pkg), "test")
}

// external is a dependency that only some packages may import.
type external struct {
	prefixes []string
	allowed  func(pkg string) bool
	reason   string
}

func under(roots ...string) func(string) bool {
	return func(pkg string) bool {
		return slices.ContainsFunc(roots, func(r string) bool { return pkg == r || strings.HasPrefix(pkg, r+"/") })
	}
}

func isDoor(pkg string) bool {
	return path.Base(pkg) == "rest" || under("services/httpapi", "services/app/system", "services/gateway", "portal")(pkg)
}

var externals = []external{
	{
		[]string{"github.com/hashicorp/raft", "github.com/hashicorp/raft-wal", "github.com/hashicorp/raft-boltdb"},
		under("services/replica/raftnode"),
		"only services/replica/raftnode knows Raft, so that services run the same over a local replica and the library can be replaced",
	},
	{
		[]string{"go.etcd.io/bbolt"},
		// raftnode for the options of raft-boltdb's log store; backend writes files of etcd's, never the state's.
		under("services/state", "services/replica/raftnode", "warehouse/etcd/internal/backend"),
		"only services/state touches the state file: what bypasses it is neither replicated nor in a snapshot",
	},
	{
		[]string{"github.com/gin-gonic/gin", "github.com/danielgtaylor/huma"},
		isDoor,
		"only HTTP doors know the HTTP framework: a service that knows it cannot be used through the other doors",
	},
	{
		[]string{"github.com/knadh/koanf"},
		under("configs"),
		"only configs reads configuration: packages get typed values and never look keys up",
	},
	{
		[]string{"github.com/spf13/cobra"},
		under("cmd"),
		"only cmd is a command line",
	},
	{
		[]string{
			"testing", "github.com/stretchr/testify", "pgregory.net/rapid", "go.uber.org/goleak",
			"github.com/anishathalye/porcupine",
		},
		forTests,
		"test libraries stay out of the program",
	},
}

// clientMay is what the SDK may import of this module: what a program of a
// user can carry.
func clientMay(pkg string) bool {
	r, _ := roomOf(pkg)
	return r.floor == 0 || path.Base(pkg) == "api" ||
		under("client", "services/command", "services/wire", "numgen/idgen")(pkg)
}

// CheckImports returns a message for each import that breaks a rule, and for
// each package that has no room.
func CheckImports(pkgs []Package) []string {
	var out []string
	for _, p := range pkgs {
		pkg := strings.TrimPrefix(p.ImportPath, Module)
		own, ok := roomOf(pkg)
		if !ok {
			out = append(out, fmt.Sprintf("%s has no room in the house: put it into one, or add a row to floors.go and to "+
				"docs/architecture.md with the reason", pkg))
			continue
		}
		for _, imp := range p.Imports {
			if to, inside := strings.CutPrefix(imp, Module); inside {
				out = append(out, checkInside(pkg, own, to)...)
			} else {
				out = append(out, checkOutside(pkg, imp)...)
			}
		}
	}
	return out
}

func checkInside(pkg string, own room, to string) []string {
	r, ok := roomOf(to)
	switch {
	case !ok:
		return nil // reported for the package itself
	case forTests(to) && !forTests(pkg):
		return []string{fmt.Sprintf("%s imports %s: it exists for tests and stays out of the program", pkg, to)}
	case forTests(pkg):
		return nil
	case r.path == own.path:
		return nil
	case own.floor == 3 && r.floor == 3:
		return []string{fmt.Sprintf("%s imports %s: product services never import each other, so that each can be switched off; "+
			"they meet in services/app, which hands each one the small interfaces it asked for", pkg, to)}
	case own.path == "client" && !clientMay(to):
		return []string{fmt.Sprintf("%s imports %s: the client is part of users' programs and carries wire types only, "+
			"never the server", pkg, to)}
	case r.floor > own.floor || r.floor == own.floor && r.step >= own.step:
		return []string{fmt.Sprintf("%s (floor %d, %s) imports %s (floor %d, %s): a package imports only from the floors "+
			"below it and, on its own floor, from the rooms before it; turn the dependency round with an interface "+
			"that %s declares", pkg, own.floor, own.owns, to, r.floor, r.owns, pkg)}
	}
	return nil
}

func checkOutside(pkg, imp string) []string {
	var out []string
	for _, e := range externals {
		for _, prefix := range e.prefixes {
			if (imp == prefix || strings.HasPrefix(imp, prefix+"/")) && !e.allowed(pkg) && !forTests(pkg) {
				out = append(out, fmt.Sprintf("%s imports %s: %s", pkg, imp, e.reason))
			}
		}
	}
	return out
}

// badNames say nothing about what a package owns.
var badNames = []string{"util", "utils", "common", "types", "helper", "helpers", "misc", "base", "shared", "lib"}

// CheckPackages returns a message for each package without a comment or with a
// name that says nothing.
func CheckPackages(pkgs []Package) []string {
	var out []string
	for _, p := range pkgs {
		if p.Doc == "" && len(p.GoFiles) > 0 {
			out = append(out, fmt.Sprintf("%s has no package comment: say what it owns, its concurrency rules and who may "+
				"import it", p.ImportPath))
		}
		if want := "Package " + p.Name + " "; p.Doc != "" && p.Name != "main" && !strings.HasPrefix(p.Doc, want) {
			out = append(out, fmt.Sprintf("%s: its comment starts %.30q; want %q", p.ImportPath, p.Doc, want+"..."))
		}
		if slices.Contains(badNames, p.Name) {
			out = append(out, fmt.Sprintf("%s: the name %q does not say what it owns", p.ImportPath, p.Name))
		}
	}
	return out
}
