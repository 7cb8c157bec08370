package errs

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite docs/errors.md")

// docs/errors.md is the table, rendered.
func TestDocumentIsTheTable(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Errors\n\nEvery error on every door has one of these codes. REST answers them as `application/problem+json` (RFC 9457) with the members\n" +
		"`code`, `request_id`, `retryable` and `errors` (field, value, limit, help). *Retryable* means that the same request may be sent again as it is.\n" +
		"Generated from `services/errs`; `make fix-golden` rewrites it.\n\n| code | HTTP | retryable | meaning |\n|---|---|---|---|\n")
	for _, r := range Table {
		retry := "no"
		if r.Retryable {
			retry = "yes"
		}
		fmt.Fprintf(&b, "| `%s` | %d | %s | %s |\n", r.Code, r.Status, retry, r.Doc)
	}
	const path = "../../docs/errors.md"
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != b.String() {
		t.Fatal("docs/errors.md is not the table of codes.go any more: make fix-golden")
	}
}
