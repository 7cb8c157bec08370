package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"nekoq/client"
	"nekoq/services/errs"
)

// Places is the tree of areas.
type Places interface{ Areas() client.Areas }

func (a *app) area() *cobra.Command {
	cmd := &cobra.Command{
		Use: "area", Short: "See and change the tree of areas", Args: cobra.NoArgs, RunE: help,
		Long: "See and change the tree of areas: named places, each below another. The root is default.",
		Example: `  nekoq area create eu
  nekoq area create eu.north --parent eu
  nekoq area tree
  nekoq area levels eu.north`,
	}
	cmd.AddCommand(a.areaCreate(), a.areaTree(), a.areaGet(), a.areaMove(), a.areaDescribe(), a.areaDelete(), a.areaLevels(), a.areaWatch())
	a.completeArguments(cmd, areaNames, "create")
	return cmd
}

func areaNames(ctx context.Context, b Backend, prefix string) (names []string) {
	all, err := b.Areas().List(ctx, "")
	if err != nil {
		return nil
	}
	for _, x := range all {
		if strings.HasPrefix(x.Name, prefix) {
			names = append(names, x.Name)
		}
	}
	return names
}

// showArea prints the outcome of a call that answers with an area.
func (a *app) showArea(cmd *cobra.Command, call func(ctx context.Context, at client.Areas) (client.Area, error)) error {
	return a.online(cmd, func(ctx context.Context, b Backend) error {
		x, err := call(ctx, b.Areas())
		if err != nil {
			return err
		}
		return a.emit(x, func(t *table) {
			t.row("name", x.Name)
			t.row("parent", x.Parent)
			t.row("description", x.Description)
			t.row("revision", x.Revision)
			t.row("changed", x.Updated)
			t.row("by", x.Actor)
		})
	})
}

func (a *app) areaCreate() *cobra.Command {
	var parent, description string
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Create an area", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.showArea(cmd, func(ctx context.Context, at client.Areas) (client.Area, error) {
				return at.Create(ctx, args[0], parent, description)
			})
		},
	}
	cmd.Flags().StringVar(&parent, "parent", "default", "the area above")
	cmd.Flags().StringVar(&description, "description", "", "free text")
	return cmd
}

func (a *app) areaGet() *cobra.Command {
	return &cobra.Command{
		Use: "get NAME", Short: "Show an area", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.showArea(cmd, func(ctx context.Context, at client.Areas) (client.Area, error) { return at.Get(ctx, args[0]) })
		},
	}
}

func (a *app) areaMove() *cobra.Command {
	var parent string
	cmd := &cobra.Command{
		Use: "move NAME PARENT", Short: "Move an area, with all below it, below another", Args: cobra.RangeArgs(1, 2),
		Example: `  nekoq area move eu.north default
  nekoq area move eu.north --parent default`,
	}
	rev := ifRevisionFlag(cmd, "only if the area is at this revision")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == 2 && parent != "":
			return errs.Invalid("--parent", parent, "either PARENT or --parent")
		case len(args) == 2:
			parent = args[1]
		case parent == "":
			return errs.New(errs.InvalidArgument, "give the area to move it below: nekoq area move %s PARENT", args[0])
		}
		return a.showArea(cmd, func(ctx context.Context, at client.Areas) (client.Area, error) {
			return at.Update(ctx, client.AreaChanges{Name: args[0], Parent: &parent, IfRevision: rev.get()})
		})
	}
	cmd.Flags().StringVar(&parent, "parent", "", "the area above, instead of PARENT")
	return cmd
}

func (a *app) areaDescribe() *cobra.Command {
	cmd := &cobra.Command{Use: "describe NAME TEXT", Short: "Change an area's description", Args: cobra.ExactArgs(2)}
	rev := ifRevisionFlag(cmd, "only if the area is at this revision")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.showArea(cmd, func(ctx context.Context, at client.Areas) (client.Area, error) {
			return at.Update(ctx, client.AreaChanges{Name: args[0], Description: &args[1], IfRevision: rev.get()})
		})
	}
	return cmd
}

func (a *app) areaDelete() *cobra.Command {
	cmd := &cobra.Command{Use: "delete NAME", Short: "Delete an area that nothing stands in", Args: cobra.ExactArgs(1)}
	rev := ifRevisionFlag(cmd, "only if the area is at this revision")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.online(cmd, func(ctx context.Context, b Backend) (err error) {
			if at := rev.get(); at != nil {
				err = b.Areas().DeleteAt(ctx, args[0], *at)
			} else {
				err = b.Areas().Delete(ctx, args[0])
			}
			if err != nil {
				return err
			}
			return a.emit(map[string]any{"name": args[0], "deleted": true}, func(t *table) { t.row("deleted " + args[0]) })
		})
	}
	return cmd
}

func (a *app) areaLevels() *cobra.Command {
	return &cobra.Command{
		Use: "levels NAME", Short: "List an area and those above it, the root last", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				levels, err := b.Areas().Levels(ctx, args[0])
				if err != nil {
					return err
				}
				return a.emit(map[string]any{"levels": levels}, func(t *table) {
					for _, l := range levels {
						t.row(l)
					}
				})
			})
		},
	}
}

func (a *app) areaTree() *cobra.Command {
	return &cobra.Command{
		Use: "tree", Aliases: []string{"list", "ls"}, Short: "Show the whole tree", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				all, err := b.Areas().List(ctx, "")
				if err != nil {
					return err
				}
				return a.emit(map[string]any{"areas": all}, func(t *table) {
					below := map[string][]client.Area{}
					for _, x := range all {
						below[x.Parent] = append(below[x.Parent], x)
					}
					t.row("AREA", "DESCRIPTION", "CHANGED", "BY")
					var walk func(parent string, depth int)
					walk = func(parent string, depth int) {
						for _, x := range below[parent] {
							t.row(strings.Repeat("  ", depth)+x.Name, x.Description, x.Updated, x.Actor)
							walk(x.Name, depth+1)
						}
					}
					walk("", 0)
				})
			})
		},
	}
}

func (a *app) areaWatch() *cobra.Command {
	var count int
	cmd := &cobra.Command{
		Use: "watch", Short: "Print changes of the tree as they come", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.connected(func(b Backend) error {
				w, err := b.Areas().Watch(cmd.Context())
				if err != nil {
					return err
				}
				defer w.Close()
				for seen := 0; count == 0 || seen < count; seen++ {
					u, err := w.Next(cmd.Context())
					if cmd.Context().Err() != nil {
						return nil
					}
					if err != nil {
						return err
					}
					if err := a.areaUpdate(u); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	cmd.Flags().IntVarP(&count, "count", "n", 0, "end after this many updates, the first of which is the whole tree; 0 for never")
	return cmd
}

func (a *app) areaUpdate(u client.AreaUpdate) error {
	if a.output == "json" {
		return a.line(u)
	}
	kind := "changed"
	if u.Full {
		kind = "has"
	}
	for _, x := range u.Areas {
		if _, err := fmt.Fprintf(a.Stdout, "%d %s %s below %q\n", u.Revision, kind, x.Name, x.Parent); err != nil {
			return errs.From(err)
		}
	}
	for _, name := range u.Deleted {
		if _, err := fmt.Fprintf(a.Stdout, "%d deleted %s\n", u.Revision, name); err != nil {
			return errs.From(err)
		}
	}
	return nil
}
