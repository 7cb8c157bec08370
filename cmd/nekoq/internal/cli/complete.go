package cli

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	ids "nekoq/numgen/api"
	keys "nekoq/warehouse/api"
)

const (
	// completeWithin bounds the wait of a shell that completes a word.
	completeWithin = time.Second
	completeMost   = 100
)

// completed fills in the first argument from what a server has. Without a server
// there is nothing to offer, and no error: a shell would print it into the line.
func (a *app) completed(ask func(ctx context.Context, b Backend, prefix string) []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		var words []string
		if len(args) == 0 {
			_ = a.connected(func(b Backend) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), completeWithin)
				defer cancel()
				words = ask(ctx, b, prefix)
				return nil
			})
		}
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}

func generatorNames(ctx context.Context, b Backend, prefix string) (names []string) {
	page, err := b.Generators(ctx, ids.ListRequest{Prefix: prefix, Limit: completeMost})
	if err != nil {
		return nil
	}
	for _, g := range page.Generators {
		names = append(names, g.Name)
	}
	return names
}

func keyNames(ctx context.Context, b Backend, prefix string) (names []string) {
	page, err := b.List(ctx, keys.ListRequest{
		Start: []byte(prefix), End: keys.PrefixEnd([]byte(prefix)), KeysOnly: true, Stale: true, Limit: completeMost,
	})
	if err != nil {
		return nil
	}
	for _, kv := range page.Items {
		if text := printable(kv.Key, 0); text == string(kv.Key) {
			names = append(names, text)
		}
	}
	return names
}

func memberNames(ctx context.Context, b Backend, _ string) (names []string) {
	s, err := b.ClusterStatus(ctx)
	if err != nil {
		return nil
	}
	for _, n := range s.Nodes {
		names = append(names, n.ID+"\t"+role(n)+", "+nodeState(n))
	}
	return names
}

// completeArguments gives every sub-command that takes a name its completion.
func (a *app) completeArguments(cmd *cobra.Command, ask func(context.Context, Backend, string) []string, except ...string) {
	skip := map[string]bool{}
	for _, e := range except {
		skip[e] = true
	}
	for _, c := range cmd.Commands() {
		if strings.Contains(c.Use, " ") && !skip[c.Name()] {
			c.ValidArgsFunction = a.completed(ask)
		}
	}
}
