package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"
)

// table writes aligned columns for people.
type table struct {
	w   *tabwriter.Writer
	err error
}

func newTable(w io.Writer) *table {
	return &table{w: tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.StripEscape)}
}

// row writes one line; empty cells show as "-". What would break the line, or tell
// the terminal something, shows quoted: names and comments are what anybody says.
func (t *table) row(cells ...any) {
	for i, c := range cells {
		text := printable([]byte(fmt.Sprint(c)), 0)
		if text == "" {
			text = "-"
		}
		if i > 0 {
			text = "\t" + text
		}
		if _, err := io.WriteString(t.w, text); err != nil && t.err == nil {
			t.err = err
		}
	}
	_, _ = io.WriteString(t.w, "\n")
}

// text writes lines as they are.
func (t *table) text(lines string) {
	if _, err := io.WriteString(t.w, lines); err != nil && t.err == nil {
		t.err = err
	}
}

// many is "1 item" or "2 items".
func many[T int | int64 | uint64](n T, one string) string {
	if n == 1 {
		return "1 " + one
	}
	if stem, ok := strings.CutSuffix(one, "y"); ok {
		one = stem + "ie"
	}
	return fmt.Sprintf("%d %ss", n, one)
}

func (t *table) flush() error {
	if t.err != nil {
		return t.err
	}
	return t.w.Flush()
}

// printable shows bytes that are text as they are, and others quoted, on one
// line of at most limit runes (0 for no bound).
func printable(b []byte, limit int) string {
	s := string(b)
	plain := isText(b) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
	if !plain {
		s = fmt.Sprintf("%q", s)
	}
	if limit > 0 && utf8.RuneCountInString(s) > limit {
		s = string([]rune(s)[:limit-1]) + "…"
	}
	return s
}

func isText(b []byte) bool { return utf8.Valid(b) }

// when shows a time in Unix nanoseconds to people, in UTC to the second; "" for 0.
func when(unixNano int64) string { return formatted(unixNano, time.RFC3339) }

// stamp is when for programs, whole.
func stamp(unixNano int64) string { return formatted(unixNano, time.RFC3339Nano) }

func formatted(unixNano int64, layout string) string {
	if unixNano == 0 {
		return ""
	}
	return time.Unix(0, unixNano).UTC().Format(layout)
}
