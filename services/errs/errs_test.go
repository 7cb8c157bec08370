package errs

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// Every declared code has exactly one row in the table, and the other way round.
func TestTableIsComplete(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "codes.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	declared := map[Code]bool{}
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if id, ok := spec.Type.(*ast.Ident); ok && id.Name == "Code" {
			for _, v := range spec.Values {
				s, err := strconv.Unquote(v.(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				declared[Code(s)] = true
			}
		}
		return true
	})
	if len(declared) == 0 {
		t.Fatal("no codes found in codes.go")
	}
	snake := regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)
	for _, row := range Table {
		if !declared[row.Code] {
			t.Errorf("row %q has no constant", row.Code)
		}
		delete(declared, row.Code)
		if !snake.MatchString(string(row.Code)) {
			t.Errorf("code %q is not snake_case", row.Code)
		}
		if row.Status < 400 || row.Status > 599 {
			t.Errorf("code %q: status %d", row.Code, row.Status)
		}
		if row.Doc == "" {
			t.Errorf("code %q has no documentation", row.Code)
		}
	}
	for c := range declared {
		t.Errorf("code %q has no row in Table", c)
	}
}

func TestFromKeepsTheFirstErrorOfTheChain(t *testing.T) {
	cause := errors.New("disk on fire")
	e := New(StorageFull, "no space on %s", "log").Wrap(cause)
	wrapped := fmt.Errorf("propose: %w", e)
	if got := From(wrapped); got != e {
		t.Fatalf("From gave %v", got)
	}
	if !errors.Is(wrapped, cause) || !errors.Is(wrapped, New(StorageFull, "")) {
		t.Fatal("cause or code lost")
	}
	if !Has(wrapped, StorageFull) || Has(wrapped, Internal) || CodeOf(nil) != "" {
		t.Fatal("CodeOf is wrong")
	}
}

func TestFromContextAndUnknown(t *testing.T) {
	for err, want := range map[error]Code{
		context.DeadlineExceeded: DeadlineExceeded,
		context.Canceled:         Canceled,
		errors.New("anything"):   Internal,
	} {
		if got := CodeOf(fmt.Errorf("x: %w", err)); got != want {
			t.Errorf("%v: code %q, want %q", err, got, want)
		}
	}
	if From(nil) != nil {
		t.Error("From(nil) is not nil")
	}
}

func TestWithDoesNotChangeTheOriginal(t *testing.T) {
	base := Invalid("count", 0, "1 to 10000")
	a := base.With(Detail{Field: "a"})
	b := base.With(Detail{Field: "b"})
	if len(base.Details) != 1 || a.Details[1].Field != "a" || b.Details[1].Field != "b" {
		t.Fatalf("details shared: %v %v %v", base.Details, a.Details, b.Details)
	}
	if base.Details[0] != (Detail{Field: "count", Value: "0", Limit: "1 to 10000"}) {
		t.Fatalf("detail %+v", base.Details[0])
	}
}

// A bad value that is long is not given back whole.
func TestInvalidShowsTheBeginningOfALongValue(t *testing.T) {
	for _, n := range []int{0, 512, 513, 1 << 20} {
		value := strings.Repeat("é", n/2) + strings.Repeat("x", n%2)
		e := Invalid("description", value, "up to 256 bytes")
		if long := n > maxShown; long != strings.Contains(e.Message, fmt.Sprintf("… (%d bytes)", n)) || long == (e.Details[0].Value == value) {
			t.Fatalf("%d bytes: %.600s", n, e.Message)
		}
		if len(e.Message) > 2*maxShown || !utf8.ValidString(e.Message) {
			t.Fatalf("a value of %d bytes makes a message of %d", n, len(e.Message))
		}
	}
}

func TestLimits(t *testing.T) {
	var bad Limits
	bad.Number("n", 1, 1, 2, "keys")
	bad.Number("n", 2, 1, 2, "")
	bad.Time("t", 0, 0, time.Second)
	bad.Want(true, "w", "x", "y")
	if bad != nil {
		t.Fatalf("good values: %v", bad)
	}
	bad.Number("n", 0, 1, 2, "keys")
	bad.Number("n", 3, 1, 2, "")
	bad.Time("t", time.Minute, 0, time.Second)
	bad.Want(false, "w", "x", "y")
	for i, want := range []string{
		`n: "0" is not valid: want 1 to 2 keys`, `n: "3" is not valid: want 1 to 2`, `t: "1m0s" is not valid: want 0s to 1s`, `w: "x" is not valid: want y`,
	} {
		if From(bad[i]).Message != want || CodeOf(bad[i]) != InvalidArgument {
			t.Errorf("%v; want %s", bad[i], want)
		}
	}
}
