package configs

import (
	"bufio"
	"fmt"
	"io"
	"reflect"
	"strings"
)

const (
	hidden    = "(hidden)"
	lineWidth = 100
)

// Print writes the configuration as TOML, each key with its documentation and,
// with withOrigin, where its value came from. Secrets are hidden.
func (l *Loaded) Print(w io.Writer, withOrigin bool) error {
	out := bufio.NewWriter(w)
	for i, s := range schema {
		if s.name != "" {
			if i > 0 {
				fmt.Fprintln(out)
			}
			comment(out, s.doc)
			fmt.Fprintf(out, "[%s]\n", s.name)
		}
		for _, f := range s.fields {
			comment(out, f.doc)
			_, name, _ := cutLast(f.key)
			fmt.Fprintf(out, "%s = %s", name, l.shown(&f))
			if withOrigin {
				fmt.Fprintf(out, " # %s", l.Origin(f.key))
			}
			fmt.Fprintln(out)
		}
	}
	return out.Flush()
}

func (l *Loaded) shown(f *field) string {
	v := reflect.ValueOf(&l.Config).Elem().FieldByIndex(f.index)
	if f.secret && !v.IsZero() {
		return quote(hidden)
	}
	return literal(v)
}

// comment writes text as comment lines of at most lineWidth bytes.
func comment(w io.Writer, text string) {
	line := "#"
	for word := range strings.FieldsSeq(text) {
		if len(line)+1+len(word) > lineWidth {
			fmt.Fprintln(w, line)
			line = "#"
		}
		line += " " + word
	}
	if line != "#" {
		fmt.Fprintln(w, line)
	}
}

// WriteReference writes docs/configuration.md.
func WriteReference(w io.Writer) error {
	out := bufio.NewWriter(w)
	fmt.Fprint(out, referenceHead)
	defaults := &Loaded{Config: Default()}
	for _, s := range schema {
		if s.name == "" {
			fmt.Fprint(out, "\n## Top level\n\n")
		} else {
			fmt.Fprintf(out, "\n## [%s]\n\n%s\n\n", s.name, s.doc)
		}
		fmt.Fprint(out, "| key | type | default | meaning |\n|---|---|---|---|\n")
		for _, f := range s.fields {
			doc := strings.ReplaceAll(f.doc, "|", "\\|")
			if f.secret {
				doc += " Secret: hidden when printed."
			}
			fmt.Fprintf(out, "| `%s` | %s | `%s` | %s |\n", f.key, typeName(f.typ), defaults.shown(&f), doc)
		}
	}
	return out.Flush()
}

const referenceHead = `# Configuration

<!-- Written from the configuration struct by "make fix-golden"; a test compares. Don't edit. -->

` + "`nekoq serve`" + ` needs no configuration: the defaults below run LocalSwitch. Values come from four layers, the later stronger:

1. the defaults below;
2. a TOML file: ` + "`--config FILE`" + ` (or ` + "`NEKOQ_CONFIG`" + `);
3. the environment: ` + "`NEKOQ_`" + ` and the key in capitals, with two underscores for the dot: ` + "`NEKOQ_HTTP__LISTEN`" + ` is ` + "`http.listen`" + `;
4. ` + "`--set key=value`" + `, as often as needed; ` + "`--data-dir`, `--mode`, `--node-id` and `--insecure`" + ` are short forms.

In the environment and in ` + "`--set`" + ` a list is written as in TOML (` + "`[\"a\", \"b\"]`" + `) or with commas (` + "`a,b`" + `). Durations are texts such as ` + "`\"1m30s\"`" + `, sizes are whole
numbers of bytes.

A key that does not exist is an error that names the nearest one, and all mistakes are reported at once: ` + "`nekoq config check`" + ` tells
them without starting anything. A value outside its limits is a mistake in either mode, also in a section that the mode does not use, and for a
service that is off. ` + "`nekoq config print --origin`" + ` shows every value and the layer that it came from. Samples for LocalSwitch and for a cluster of
three are in ` + "`configs/samples`" + `.
`
