package archtest

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"slices"
	"strconv"
	"strings"
)

// Applier code must give the same state on every node, today and when a log is
// replayed next year. These imports and calls make that impossible.
var forbiddenImports = map[string]string{
	"math/rand":               "randomness is drawn before proposing and carried in the command",
	"math/rand/v2":            "randomness is drawn before proposing and carried in the command",
	"crypto/rand":             "randomness is drawn before proposing and carried in the command",
	"hash/maphash":            "its seed differs between processes",
	"os":                      "the environment and files differ between nodes",
	"io/fs":                   "files differ between nodes",
	"path/filepath":           "it depends on the platform",
	"syscall":                 "the system differs between nodes",
	"net":                     "effects happen outside Apply, in leader loops that propose the outcome",
	"net/http":                "effects happen outside Apply, in leader loops that propose the outcome",
	"runtime":                 "the machine differs between nodes",
	"runtime/debug":           "the machine differs between nodes",
	"sync":                    "one goroutine applies; a lock hides that something else takes part",
	"sync/atomic":             "one goroutine applies; an atomic hides that something else takes part",
	"context":                 "Apply is not cancelled: it happens on every node or on none",
	"log":                     "Apply is replayed; it reports through its result",
	"log/slog":                "Apply is replayed; it reports through its result",
	"unsafe":                  "memory layout differs between platforms",
	Module + "services/clock": "time is stamped into the command: use tx.Time()",
}

// forbiddenNames are by package path and name.
var forbiddenNames = map[string]map[string]string{
	"time": {
		"Now": timeReason, "Since": timeReason, "Until": timeReason, "After": timeReason, "AfterFunc": timeReason,
		"NewTimer": timeReason, "NewTicker": timeReason, "Tick": timeReason, "Sleep": timeReason,
		"Local":        "the time zone differs between nodes: use UTC",
		"LoadLocation": "the time zone database differs between nodes: compute before proposing",
	},
	"github.com/google/uuid":   {"New": drawn, "NewString": drawn, "NewUUID": drawn, "NewRandom": drawn, "NewV7": drawn, "NewV6": drawn},
	"github.com/oklog/ulid/v2": {"Make": drawn, "Now": drawn, "DefaultEntropy": drawn},
}

const (
	timeReason = "time is stamped into the command: use tx.Time()"
	drawn      = "ids are made before proposing and carried in the command"
)

// CheckDeterminism returns a message for everything in files that could make
// two nodes differ. info needs Uses, Defs and Types.
func CheckDeterminism(fset *token.FileSet, files []*ast.File, info *types.Info) []string {
	c := &checker{fset: fset, info: info}
	for _, f := range files {
		for _, imp := range f.Imports {
			p, _ := strconv.Unquote(imp.Path.Value)
			if reason, bad := forbiddenImports[p]; bad {
				c.report(imp, "imports %s: %s", p, reason)
			}
		}
		ast.PreorderStack(f, nil, func(n ast.Node, stack []ast.Node) bool {
			c.visit(n, stack)
			return true
		})
	}
	return c.found
}

type checker struct {
	fset  *token.FileSet
	info  *types.Info
	found []string
}

func (c *checker) report(n ast.Node, format string, args ...any) {
	at := c.fset.Position(n.Pos())
	c.found = append(c.found, fmt.Sprintf("%s:%d: ", at.Filename, at.Line)+fmt.Sprintf(format, args...))
}

func (c *checker) visit(n ast.Node, stack []ast.Node) {
	switch n := n.(type) {
	case *ast.GoStmt:
		c.report(n, "starts a goroutine: Apply is one goroutine, in log order")
	case *ast.SelectStmt:
		c.report(n, "selects: which case is ready differs between nodes")
	case *ast.SendStmt:
		c.report(n, "sends on a channel: effects happen outside Apply")
	case *ast.UnaryExpr:
		if n.Op == token.ARROW {
			c.report(n, "receives from a channel: Apply reads only the transaction, the entry and its payload")
		}
		if n.Op == token.AND {
			c.mutates(n, n.X, "takes the address of")
		}
	case *ast.RangeStmt:
		c.rangeStmt(n)
	case *ast.AssignStmt:
		if n.Tok != token.DEFINE {
			for _, l := range n.Lhs {
				c.mutates(n, l, "assigns to")
			}
		}
	case *ast.IncDecStmt:
		c.mutates(n, n.X, "changes")
	case *ast.CallExpr:
		c.call(n, stack)
	case *ast.SelectorExpr:
		c.selector(n)
	}
}

func (c *checker) rangeStmt(n *ast.RangeStmt) {
	t := c.info.TypeOf(n.X)
	if t == nil {
		return
	}
	switch core(t).(type) {
	case *types.Map:
		c.report(n, "ranges over a map: its order differs between nodes; range over slices.Sorted(maps.Keys(m))")
	case *types.Chan:
		c.report(n, "ranges over a channel: Apply reads only the transaction, the entry and its payload")
	}
	c.mutates(n, n.Key, "assigns to")
	c.mutates(n, n.Value, "assigns to")
}

func core(t types.Type) types.Type { return t.Underlying() }

// mutates reports when e is, or is part of, a package-level variable.
func (c *checker) mutates(at ast.Node, e ast.Expr, how string) {
	for e != nil {
		switch x := e.(type) {
		case *ast.Ident:
			c.global(at, x, how)
			return
		case *ast.SelectorExpr:
			if id, ok := x.X.(*ast.Ident); ok {
				if _, isPkg := c.info.Uses[id].(*types.PkgName); isPkg {
					c.global(at, x.Sel, how)
					return
				}
			}
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		case *ast.SliceExpr:
			e = x.X
		default:
			return
		}
	}
}

func (c *checker) global(at ast.Node, id *ast.Ident, how string) {
	v, ok := c.info.Uses[id].(*types.Var)
	if !ok || v.IsField() || v.Pkg() == nil || v.Parent() != v.Pkg().Scope() {
		return
	}
	c.report(at, "%s the package variable %s: what is kept outside the tables is not replicated", how, id.Name)
}

func (c *checker) call(n *ast.CallExpr, stack []ast.Node) {
	if id, ok := n.Fun.(*ast.Ident); ok {
		if _, builtin := c.info.Uses[id].(*types.Builtin); builtin && len(n.Args) > 0 &&
			slices.Contains([]string{"delete", "clear", "copy"}, id.Name) {
			c.mutates(n, n.Args[0], "changes")
		}
	}
	pkg, name := c.qualified(n.Fun)
	if pkg != "maps" || !slices.Contains([]string{"Keys", "Values", "All"}, name) {
		return
	}
	if len(stack) > 0 {
		if outer, ok := stack[len(stack)-1].(*ast.CallExpr); ok {
			if p, f := c.qualified(outer.Fun); p == "slices" && strings.HasPrefix(f, "Sorted") {
				return
			}
		}
	}
	c.report(n, "walks a map with maps.%s: its order differs between nodes; give it to slices.Sorted", name)
}

// qualified returns the package path and name that e selects.
func (c *checker) qualified(e ast.Expr) (pkg, name string) {
	switch x := e.(type) {
	case *ast.IndexExpr: // explicit instantiation
		return c.qualified(x.X)
	case *ast.SelectorExpr:
		if id, ok := x.X.(*ast.Ident); ok {
			if p, ok := c.info.Uses[id].(*types.PkgName); ok {
				return p.Imported().Path(), x.Sel.Name
			}
		}
	}
	return "", ""
}

func (c *checker) selector(n *ast.SelectorExpr) {
	if pkg, name := c.qualified(n); pkg != "" {
		if reason, bad := forbiddenNames[pkg][name]; bad {
			c.report(n, "uses %s.%s: %s", pkg, name, reason)
		}
		return
	}
	// time.Time.Local, by any receiver.
	if f, ok := c.info.Uses[n.Sel].(*types.Func); ok && f.FullName() == "(time.Time).Local" {
		c.report(n, "uses the local time zone, which differs between nodes: use UTC")
	}
}
