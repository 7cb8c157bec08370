package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"nekoq/client"
	"nekoq/services/errs"
	confapi "nekoq/warehouse/conf/api"
)

func valueOf(v client.ConfValue) confapi.Value { return confapi.Value(v) }

func (a *app) confGroup() *cobra.Command {
	cmd := &cobra.Command{Use: "group", Short: "Say which groups a group quotes", Args: cobra.NoArgs, RunE: help}
	var g client.ConfGroup
	put := &cobra.Command{
		Use: "put NAME", Short: "Set what belongs to a group in every area", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			g.Name = args[0]
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				out, err := b.Conf().PutGroup(ctx, g)
				if err != nil {
					return err
				}
				return a.emit(out, func(t *table) { t.row("group " + out.Name + " quotes " + strings.Join(out.Quotes, ", ")) })
			})
		},
	}
	put.Flags().StringSliceVar(&g.Quotes, "quote", nil, "groups whose keys this one has too, where it has none of its own")
	put.Flags().StringVar(&g.Description, "description", "", "free text")
	cmd.AddCommand(put, a.confForget("group", func(ctx context.Context, c client.Conf, name string) error { return c.DeleteGroup(ctx, name) }), &cobra.Command{
		Use: "list", Short: "List groups that have settings", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				all, err := b.Conf().Groups(ctx)
				if err != nil {
					return err
				}
				return a.emit(map[string]any{"groups": all}, func(t *table) {
					t.row("GROUP", "QUOTES", "DESCRIPTION", "CHANGED", "BY")
					for _, g := range all {
						t.row(g.Name, strings.Join(g.Quotes, ","), g.Description, stampText(g.Stamp.Time), g.Stamp.Actor)
					}
				})
			})
		},
	})
	return cmd
}

func (a *app) confForget(what string, call func(ctx context.Context, c client.Conf, name string) error) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Delete a " + what + "'s settings", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				if err := call(ctx, b.Conf(), args[0]); err != nil {
					return err
				}
				return a.emit(map[string]any{"name": args[0], "deleted": true}, func(t *table) { t.row("deleted " + args[0]) })
			})
		},
	}
}

func (a *app) confScope() *cobra.Command {
	cmd := &cobra.Command{
		Use: "scope", Short: "Put clients that name no area into one by rule", Args: cobra.NoArgs, RunE: help,
		Example: "  nekoq conf scope put office --ip 10.0.0.0/8 --area eu",
	}
	var s client.ConfScope
	put := &cobra.Command{Use: "put NAME", Short: "Set a scope", Args: cobra.ExactArgs(1)}
	rule := ruleFlags(put)
	put.RunE = func(cmd *cobra.Command, args []string) error {
		r, err := rule()
		if err != nil {
			return err
		}
		if r == nil {
			return errs.New(errs.InvalidArgument, "give a rule: --ip, --label or --percent")
		}
		s.Name, s.Rule = args[0], *r
		return a.online(cmd, func(ctx context.Context, b Backend) error {
			out, err := b.Conf().PutScope(ctx, s)
			if err != nil {
				return err
			}
			return a.emit(out, func(t *table) {
				t.row(fmt.Sprintf("scope %s: %s get area %s", out.Name, ruleText(&out.Rule), out.Area))
			})
		})
	}
	put.Flags().StringVar(&s.Area, "area", "", "the area that they get")
	put.Flags().IntVar(&s.Priority, "priority", 0, "the greater is asked first")
	_ = put.MarkFlagRequired("area")
	cmd.AddCommand(put, a.confForget("scope", func(ctx context.Context, c client.Conf, name string) error { return c.DeleteScope(ctx, name) }), &cobra.Command{
		Use: "list", Short: "List scopes, first asked first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				all, err := b.Conf().Scopes(ctx)
				if err != nil {
					return err
				}
				return a.emit(map[string]any{"scopes": all}, func(t *table) {
					t.row("SCOPE", "PRIORITY", "RULE", "AREA", "CHANGED", "BY")
					for i := range all {
						t.row(all[i].Name, all[i].Priority, ruleText(&all[i].Rule), all[i].Area, stampText(all[i].Stamp.Time), all[i].Stamp.Actor)
					}
				})
			})
		},
	})
	return cmd
}
