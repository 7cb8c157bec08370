package cli

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// WriteReference writes docs/cli.md.
func WriteReference(w io.Writer) error {
	a := &app{}
	root := a.root()
	out := bufio.NewWriter(w)
	fmt.Fprint(out, referenceHead)
	fmt.Fprint(out, "\n## Exit codes\n\n| code | meaning |\n|---|---|\n")
	for _, e := range exitCodes {
		fmt.Fprintf(out, "| %d | %s |\n", e.code, e.doc)
	}
	fmt.Fprint(out, "\n## Commands\n")
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if !c.IsAvailableCommand() {
			return
		}
		fmt.Fprintf(out, "\n### %s\n\n%s\n", c.CommandPath(), sentence(c))
		fmt.Fprintf(out, "\n```\n%s\n```\n", strings.TrimSpace(c.UsageString()))
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	for _, c := range root.Commands() {
		walk(c)
	}
	return out.Flush()
}

func sentence(c *cobra.Command) string {
	if c.Long != "" {
		return c.Long
	}
	return c.Short + "."
}

const referenceHead = `# Command line

<!-- Written from the commands by "make fix-golden"; a test compares. Don't edit. -->

One binary: ` + "`nekoq serve`" + ` runs a server, ` + "`nekoq config`" + ` checks and prints its configuration, and the other commands speak to running servers
over the native door.

- Answers are tables for people. ` + "`-o json`" + ` (or ` + "`NEKOQ_OUTPUT=json`" + `) gives JSON in the words of the REST API, and errors as JSON on the standard error.
- ` + "`--endpoints`" + ` (or ` + "`NEKOQ_ENDPOINTS`" + `) names the native doors to try, ` + "`127.0.0.1:9313`" + ` by default; any node answers any command.
- ` + "`--timeout`" + ` (or ` + "`NEKOQ_TIMEOUT`" + `) bounds the wait for an answer, 5 s by default.
- ` + "`nekoq completion bash|zsh|fish|powershell`" + ` prints the completion script of a shell: ` + "`source <(nekoq completion bash)`" + `.
`
