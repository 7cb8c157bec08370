package archtest

import (
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/go/packages"
)

const root = "../.."

func listAll(t *testing.T) []Package {
	t.Helper()
	pkgs, err := List(root, "./...")
	if err != nil {
		t.Fatal(err)
	}
	if len(pkgs) < 20 {
		t.Fatalf("go list found %d packages", len(pkgs))
	}
	return pkgs
}

func TestImports(t *testing.T) {
	for _, msg := range CheckImports(listAll(t)) {
		t.Error(msg)
	}
}

func TestPackageCommentsAndNames(t *testing.T) {
	for _, msg := range CheckPackages(listAll(t)) {
		t.Error(msg)
	}
}

// maxLines is the size from which a file asks for a seam.
const maxLines = 650

func TestFilesAreNotTooLong(t *testing.T) {
	for _, p := range listAll(t) {
		for _, name := range p.GoFiles {
			b, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(b), "\n"); n > maxLines {
				t.Errorf("%s/%s has %d lines; from %d on a file asks for a seam", p.ImportPath, name, n, maxLines)
			}
		}
	}
}

// applierFiles are the files of services/state that run inside Apply; its
// other files are the machinery around it.
var applierFiles = []string{"own.go", "session.go", "tx.go", "apply.go", "merge.go", "overlay.go"}

func TestAppliersAreDeterministic(t *testing.T) {
	pkgs, err := packages.Load(&packages.Config{
		Dir: root,
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedCompiledGoFiles | packages.NeedImports |
			packages.NeedTypes | packages.NeedTypesInfo | packages.NeedSyntax,
	}, "./...")
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, p := range pkgs {
		files := p.Syntax
		switch pkg := strings.TrimPrefix(p.PkgPath, Module); {
		case pkg == "services/state":
			files = slices.DeleteFunc(slices.Clone(files), func(f *ast.File) bool {
				return !slices.Contains(applierFiles, filepath.Base(p.Fset.Position(f.Pos()).Filename))
			})
			if len(files) != len(applierFiles) {
				t.Errorf("%s: %d of the files %v are there", pkg, len(files), applierFiles)
			}
		case strings.HasSuffix(pkg, "/internal/table"), pkg == "services/lease/leasetable":
		default:
			continue
		}
		checked++
		for _, e := range p.Errors {
			t.Errorf("%s: %v", p.PkgPath, e)
		}
		for _, msg := range CheckDeterminism(p.Fset, files, p.TypesInfo) {
			t.Error(msg)
		}
	}
	if checked < 2 {
		t.Errorf("%d packages with appliers were found", checked)
	}
}

// TestDeterminismCheckCatches gives the check one violation of each kind, and
// pure code that it must accept.
func TestDeterminismCheckCatches(t *testing.T) {
	for name, c := range map[string]struct{ imports, body, want string }{
		"now":             {"time", "_ = time.Now()", "time.Now"},
		"since":           {"time", "_ = time.Since(time.Time{})", "time.Since"},
		"now as value":    {"time", "f := time.Now; _ = f", "time.Now"},
		"sleep":           {"time", "time.Sleep(1)", "time.Sleep"},
		"zone":            {"time", "_ = time.Unix(0, 0).In(time.Local)", "time.Local"},
		"local method":    {"time", "_ = time.Unix(0, 0).Local()", "local time zone"},
		"location":        {"time", `_, _ = time.LoadLocation("x")`, "time.LoadLocation"},
		"rand":            {"math/rand", "_ = rand.Int()", "imports math/rand"},
		"rand v2":         {"math/rand/v2", "_ = rand.Int()", "imports math/rand/v2"},
		"crypto rand":     {"crypto/rand", "_ = rand.Text()", "imports crypto/rand"},
		"environment":     {"os", `_ = os.Getenv("X")`, "imports os"},
		"network":         {"net", `_, _ = net.Dial("tcp", "x")`, "imports net"},
		"lock":            {"sync", "var mu sync.Mutex; mu.Lock()", "imports sync"},
		"maphash":         {"hash/maphash", "_ = maphash.MakeSeed()", "imports hash/maphash"},
		"goroutine":       {"", "go func() {}()", "starts a goroutine"},
		"select":          {"", "select { default: }", "selects"},
		"send":            {"", "make(chan int, 1) <- 1", "sends on a channel"},
		"receive":         {"", "_ = <-make(chan int)", "receives from a channel"},
		"range chan":      {"", "for range make(chan int) {}", "ranges over a channel"},
		"range map":       {"", "for range map[int]int{} {}", "ranges over a map"},
		"range named map": {"", "type m map[int]int; for k := range (m{}) { _ = k }", "ranges over a map"},
		"maps.Keys":       {"maps", "for range maps.Keys(map[int]int{}) {}", "walks a map with maps.Keys"},
		"maps.All":        {"maps", "_ = maps.All(map[int]int{})", "walks a map with maps.All"},
		"assign":          {"", "counter = 1", "assigns to the package variable counter"},
		"increment":       {"", "counter++", "changes the package variable counter"},
		"add":             {"", "counter += 2", "assigns to the package variable counter"},
		"map element":     {"", "cache[1] = 2", "assigns to the package variable cache"},
		"delete":          {"", "delete(cache, 1)", "changes the package variable cache"},
		"clear":           {"", "clear(cache)", "changes the package variable cache"},
		"field":           {"", "config.n = 1", "assigns to the package variable config"},
		"address":         {"", "p := &config; _ = p", "takes the address of the package variable config"},
		"range variable":  {"", "for counter = range 3 {}", "assigns to the package variable counter"},
	} {
		t.Run(name, func(t *testing.T) {
			got := checkSource(t, c.imports, c.body)
			if len(got) == 0 || !strings.Contains(strings.Join(got, "\n"), c.want) {
				t.Errorf("the check says %q; want %q", got, c.want)
			}
		})
	}
	for name, c := range map[string]struct{ imports, body string }{
		"sorted keys": {"maps;slices", "for _, k := range slices.Sorted(maps.Keys(map[int]int{})) { _ = k }"},
		"utc":         {"time", "_ = time.Unix(0, 5).UTC().Hour()"},
		"locals":      {"", "n := 0; n++; m := map[int]int{}; m[1] = n; p := &n; *p = 2; delete(m, 1); for i := range 3 { _ = i }"},
		"reading":     {"", "_ = counter + len(cache) + config.n"},
		"slices":      {"", "for i, v := range []int{1} { _, _ = i, v }"},
	} {
		t.Run("pure "+name, func(t *testing.T) {
			if got := checkSource(t, c.imports, c.body); len(got) > 0 {
				t.Errorf("the check refuses it: %q", got)
			}
		})
	}
}

var (
	sourceFset     = token.NewFileSet()
	sourceImporter = importer.ForCompiler(sourceFset, "source", nil)
)

func checkSource(t *testing.T, imports, body string) []string {
	t.Helper()
	var src strings.Builder
	src.WriteString("package p\n")
	for imp := range strings.SplitSeq(imports, ";") {
		if imp != "" {
			src.WriteString("import \"" + imp + "\"\n")
		}
	}
	src.WriteString("var counter int\nvar cache = map[int]int{}\nvar config struct{ n int }\nfunc f() {\n" + body + "\n}\n")
	file, err := parser.ParseFile(sourceFset, t.Name()+".go", src.String(), 0)
	if err != nil {
		t.Fatal(err)
	}
	info := &types.Info{
		Uses: map[*ast.Ident]types.Object{}, Defs: map[*ast.Ident]types.Object{}, Types: map[ast.Expr]types.TypeAndValue{},
	}
	if _, err := (&types.Config{Importer: sourceImporter}).Check("p", sourceFset, []*ast.File{file}, info); err != nil {
		t.Fatal(err)
	}
	return CheckDeterminism(sourceFset, []*ast.File{file}, info)
}

// TestImportCheckCatches gives the import check one violation of each kind.
func TestImportCheckCatches(t *testing.T) {
	for _, c := range []struct{ pkg, imp, want string }{
		{"services/errs", "nekoq/services/state", "only from the floors below"},
		{"services/state", "nekoq/services/replica", "only from the floors below"},
		{"services/wire", "nekoq/services/peer", "only from the floors below"},
		{"numgen", "nekoq/services/app", "only from the floors below"},
		{"numgen/rest", "nekoq/warehouse/api", "never import each other"},
		{"client", "nekoq/services/state", "carries wire types only"},
		{"client", "nekoq/numgen", "carries wire types only"},
		{"warehouse", "nekoq/services/testkit/cluster", "exists for tests"},
		{"warehouse", "nekoq/services/auth/authtest", "exists for tests"},
		{"warehouse", "github.com/hashicorp/raft", "only services/replica/raftnode knows Raft"},
		{"services/peer", "github.com/hashicorp/raft-boltdb/v2", "only services/replica/raftnode knows Raft"},
		{"warehouse", "go.etcd.io/bbolt", "only services/state touches the state file"},
		{"services/replica/local", "go.etcd.io/bbolt", "only services/state touches the state file"},
		{"numgen", "github.com/gin-gonic/gin", "only HTTP doors"},
		{"numgen/native", "github.com/danielgtaylor/huma/v2", "only HTTP doors"},
		{"numgen", "github.com/knadh/koanf/v2", "only configs reads"},
		{"services/app", "github.com/spf13/cobra", "only cmd"},
		{"numgen", "testing", "test libraries"},
		{"numgen", "pgregory.net/rapid", "test libraries"},
		{"misc", "fmt", "has no room"},
	} {
		got := CheckImports([]Package{{ImportPath: Module + c.pkg, Imports: []string{c.imp}}})
		if len(got) != 1 || !strings.Contains(got[0], c.want) || !strings.Contains(got[0], c.pkg) {
			t.Errorf("%s importing %s: %q; want %q", c.pkg, c.imp, got, c.want)
		}
	}
	for _, c := range []struct{ pkg, imp string }{
		{"services/state", "nekoq/services/command"},
		{"services/state", "go.etcd.io/bbolt"},
		{"services/peer", "nekoq/services/wire"},
		{"numgen/rest", "nekoq/numgen"},
		{"numgen/rest", "github.com/danielgtaylor/huma/v2"},
		{"client", "nekoq/warehouse/api"},
		{"services/testkit/cluster", "nekoq/services/replica/raftnode"},
		{"numgen/numgentest", "testing"},
		{"cmd/nekoq", "nekoq/services/app"},
	} {
		if got := CheckImports([]Package{{ImportPath: Module + c.pkg, Imports: []string{c.imp}}}); len(got) > 0 {
			t.Errorf("%s importing %s is refused: %q", c.pkg, c.imp, got)
		}
	}
}

func TestPackageCheckCatches(t *testing.T) {
	for _, p := range []Package{
		{ImportPath: "nekoq/a", Name: "a", GoFiles: []string{"a.go"}},
		{ImportPath: "nekoq/a", Name: "a", Doc: "This package does things."},
		{ImportPath: "nekoq/common", Name: "common", Doc: "Package common has everything."},
	} {
		if got := CheckPackages([]Package{p}); len(got) != 1 {
			t.Errorf("%+v: %q", p, got)
		}
	}
}
