package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nekoq/client"
	"nekoq/services/errs"
)

// Configuration is the configuration centre.
type Configuration interface{ Conf() client.Conf }

func (a *app) conf() *cobra.Command {
	cmd := &cobra.Command{
		Use: "conf", Short: "Read, publish and watch configuration", Args: cobra.NoArgs, RunE: help,
		Long: `Read, publish and watch configuration. An item is named AREA/GROUP/KEY; areas inherit from those above them.

Which content of an item is meant, --which, --from and --to say: release, draft, scheduled, schema, gray:NAME, or the number of a release.`,
		Example: `  nekoq conf publish default/shop/app.yaml --file app.yaml --comment 'first one'
  nekoq conf draft eu/shop/app.yaml - < app.yaml
  nekoq conf diff eu/shop/app.yaml --from release --to draft
  nekoq conf publish eu/shop/app.yaml --at 2026-12-01T03:00:00Z
  nekoq conf gray eu/shop/app.yaml canary --percent 5 --file new.yaml
  nekoq conf effective shop --area eu
  nekoq conf export shop-config/ --area eu`,
	}
	cmd.AddCommand(a.confList(), a.confGet(), a.confDraft(), a.confPublish(), a.confDiscard(), a.confUnschedule(), a.confHistory(), a.confDiff(),
		a.confRollback(), a.confDelete(), a.confSet(), a.confGray(), a.confGrayEnd("gray-promote"), a.confGrayEnd("gray-drop"),
		a.confEffective(), a.confWatch(), a.confListeners(), a.confClone(), a.confCompare(), a.confImport(), a.confExport(), a.confGroup(), a.confScope())
	a.completeArguments(cmd, itemNames, "effective", "watch", "import", "export", "list", "listeners")
	return cmd
}

func itemNames(ctx context.Context, b Backend, prefix string) (names []string) {
	all, err := b.Conf().Items(ctx, "", "", "", false)
	if err != nil {
		return nil
	}
	for i := range all {
		if p := all[i].Path(); strings.HasPrefix(p, prefix) && len(names) < completeMost {
			names = append(names, p)
		}
	}
	return names
}

// itemAddress reads AREA/GROUP/KEY.
func itemAddress(s string) (client.ConfAddress, error) {
	p := strings.Split(s, "/")
	if len(p) != 3 {
		return client.ConfAddress{}, errs.Invalid("ITEM", s, "AREA/GROUP/KEY")
	}
	at := client.ConfAddress{Area: p[0], Group: p[1], Key: p[2]}
	return at, at.Check()
}

// groupAddress reads AREA/GROUP.
func groupAddress(s string) (area, group string, err error) {
	area, group, ok := strings.Cut(s, "/")
	if !ok || group == "" || strings.Contains(group, "/") {
		return "", "", errs.Invalid("GROUP", s, "AREA/GROUP")
	}
	return area, group, nil
}

// contentFlags add --file, and give the content that a command line brings: an
// argument, - for standard input, or a file.
func (a *app) contentFlags(cmd *cobra.Command) func(args []string) ([]byte, bool, error) {
	file := cmd.Flags().String("file", "", "take the content from this file, or for - from the standard input")
	return func(args []string) ([]byte, bool, error) {
		switch {
		case len(args) > 0 && *file != "":
			return nil, false, errs.Invalid("--file", *file, "either CONTENT or --file")
		case len(args) > 0 && args[0] == "-":
			b, err := a.read("", "-")
			return b, err == nil, err
		case len(args) > 0:
			return []byte(args[0]), true, nil
		case *file != "":
			b, err := a.read("--file", *file)
			return b, err == nil, err
		}
		return nil, false, nil
	}
}

type revisionFlag struct {
	cmd *cobra.Command
	rev uint64
}

func ifRevisionFlag(cmd *cobra.Command, usage string) *revisionFlag {
	f := &revisionFlag{cmd: cmd}
	cmd.Flags().Uint64Var(&f.rev, "if-revision", 0, usage)
	return f
}

func ifItemRevision(cmd *cobra.Command) *revisionFlag {
	return ifRevisionFlag(cmd, "only if the item is at this revision; 0: only if it does not exist")
}

// on gives the configuration centre whose changes demand what the flag says.
func (f *revisionFlag) on(c client.Conf) client.Conf {
	if at := f.get(); at != nil {
		return c.IfRevision(*at)
	}
	return c
}

func (f *revisionFlag) get() *uint64 {
	if f.cmd.Flags().Changed("if-revision") {
		return &f.rev
	}
	return nil
}

const typeHelp = "content type: text, json, yaml, toml or properties; without it that of the item, else what the key's ending says"

// onItem runs a change of an item and shows the item as it then is.
func (a *app) onItem(cmd *cobra.Command, name string, call func(ctx context.Context, c client.Conf, at client.ConfAddress) (client.ConfItem, error)) error {
	at, err := itemAddress(name)
	if err != nil {
		return err
	}
	return a.online(cmd, func(ctx context.Context, b Backend) error {
		it, err := call(ctx, b.Conf(), at)
		if err != nil {
			return err
		}
		return a.emit(it, func(t *table) { itemTable(t, &it) })
	})
}

func stampText(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func itemTable(t *table, it *client.ConfItem) {
	t.row("item", it.Path())
	t.row("revision", it.Revision)
	if it.Description != "" {
		t.row("description", it.Description)
	}
	if it.ReadOnly {
		t.row("read-only", "yes")
	}
	if it.Deleted {
		t.row("deleted", "yes")
	}
	if s := it.Schema; s != nil {
		t.row("schema", many(s.Size, "byte"))
	}
	if r := it.Release; r != nil {
		t.row("release", fmt.Sprintf("%d: %s, %s, by %s of %s at %s", r.Number, r.Type, many(r.Size, "byte"), r.By, r.Actor, stampText(r.Time)))
	}
	if d := it.Draft; d != nil {
		t.row("draft", fmt.Sprintf("%s, %s, on release %d, of %s at %s", d.Type, many(d.Size, "byte"), d.Base, d.Actor, stampText(d.Time)))
	}
	if s := it.Scheduled; s != nil {
		t.row("scheduled", fmt.Sprintf("for %s: %s, %s, of %s", stampText(s.At), s.Type, many(s.Size, "byte"), s.Actor))
	}
	for i := range it.Gray {
		g := &it.Gray[i]
		t.row("gray "+g.Name, fmt.Sprintf("%s: %s, %s, priority %d", ruleText(&g.Rule), g.Type, many(g.Size, "byte"), g.Priority))
	}
}

func ruleText(r *client.ConfRule) string {
	var out []string
	if len(r.IPs) > 0 {
		out = append(out, "ip in "+strings.Join(r.IPs, ","))
	}
	for _, k := range sortedKeys(r.Labels) {
		out = append(out, k+" in "+strings.Join(r.Labels[k], ","))
	}
	if r.Percent != 0 {
		out = append(out, fmt.Sprintf("%g %%", r.Percent))
	}
	return strings.Join(out, " and ")
}

func (a *app) confList() *cobra.Command {
	var deleted bool
	cmd := &cobra.Command{
		Use: "list [AREA[/GROUP[/PREFIX]]]", Short: "List items", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p := []string{"", "", ""}
			if len(args) > 0 {
				copy(p, strings.SplitN(args[0], "/", 3))
			}
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				all, err := b.Conf().Items(ctx, p[0], p[1], p[2], deleted)
				if err != nil {
					return err
				}
				return a.emit(map[string]any{"items": all}, func(t *table) {
					t.row("ITEM", "TYPE", "BYTES", "RELEASE", "DRAFT", "GRAY", "REVISION", "DESCRIPTION")
					for i := range all {
						it := &all[i]
						typ, size, number, draft := "", "", "", ""
						if r := it.Release; r != nil {
							typ, size, number = r.Type, fmt.Sprint(r.Size), fmt.Sprint(r.Number)
						}
						if it.Deleted {
							number = "deleted"
						}
						if it.Draft != nil {
							draft = "yes"
						}
						if it.Scheduled != nil {
							draft = stampText(it.Scheduled.At)
						}
						t.row(it.Path(), typ, size, number, draft, len(it.Gray), it.Revision, it.Description)
					}
				})
			})
		},
	}
	cmd.Flags().BoolVar(&deleted, "deleted", false, "deleted items too, while their history is kept")
	return cmd
}

// contentJSON is a content for programs; all contents are UTF-8.
type contentJSON struct {
	client.ConfItem
	Which   string `json:"which"`
	Type    string `json:"content_type,omitempty"`
	Content string `json:"content"`
}

func (a *app) confGet() *cobra.Command {
	var which string
	var info bool
	cmd := &cobra.Command{
		Use: "get ITEM", Short: "Print a content of an item, or what is known of it", Args: cobra.ExactArgs(1),
		Long: "Print a content of an item as it stands there, without inheritance and references. See conf effective for what clients get.",
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := itemAddress(args[0])
			if err != nil {
				return err
			}
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				x, err := b.Conf().Item(ctx, at, which)
				if err != nil {
					return err
				}
				if a.output != "json" && info {
					return a.emit(nil, func(t *table) { itemTable(t, &x.Item) })
				}
				if a.output != "json" && x.Type == "" {
					return errs.New(errs.NotFound, "the item %s has no release yet; see --info, or --which draft", at.Path())
				}
				if a.output != "json" {
					_, err := a.Stdout.Write(x.Bytes)
					return err
				}
				return a.emit(contentJSON{x.Item, x.Which, x.Type, string(x.Bytes)}, nil)
			})
		},
	}
	cmd.Flags().StringVar(&which, "which", "", "which content; the release without")
	cmd.Flags().BoolVar(&info, "info", false, "not the content but what is known of the item")
	return cmd
}

func (a *app) confDraft() *cobra.Command {
	var r client.ConfWrite
	cmd := &cobra.Command{Use: "draft ITEM [CONTENT|-]", Short: "Write the draft of an item, which nobody sees before it is published", Args: cobra.RangeArgs(1, 2)}
	content, rev := a.contentFlags(cmd), ifItemRevision(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		b, ok, err := content(args[1:])
		if err != nil {
			return err
		}
		if !ok {
			return errs.New(errs.InvalidArgument, "give the content: as an argument, by --file, or - for the standard input")
		}
		return a.onItem(cmd, args[0], func(ctx context.Context, c client.Conf, at client.ConfAddress) (client.ConfItem, error) {
			r.Address, r.Bytes, r.IfRevision = at, b, rev.get()
			return c.Draft(ctx, r)
		})
	}
	cmd.Flags().StringVar(&r.Type, "type", "", typeHelp)
	cmd.Flags().StringVar(&r.Comment, "comment", "", "why")
	return cmd
}

func (a *app) confPublish() *cobra.Command {
	var r client.ConfPublish
	var when string
	cmd := &cobra.Command{
		Use: "publish ITEM [CONTENT|-]", Short: "Publish the draft of an item, or a content, now or at a time", Args: cobra.RangeArgs(1, 2),
		Long: "Publish the draft of an item, or the content given, now or at a time. What is published already is no new release.",
	}
	content, rev := a.contentFlags(cmd), ifItemRevision(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var err error
		if r.Bytes, r.Direct, err = content(args[1:]); err != nil {
			return err
		}
		if when != "" {
			at, err := time.Parse(time.RFC3339, when)
			if err != nil {
				return errs.Invalid("--at", when, "a time such as 2026-12-01T03:00:00Z")
			}
			r.At = &at
		}
		return a.onItem(cmd, args[0], func(ctx context.Context, c client.Conf, at client.ConfAddress) (client.ConfItem, error) {
			r.Address, r.IfRevision = at, rev.get()
			return c.Publish(ctx, r)
		})
	}
	cmd.Flags().StringVar(&when, "at", "", "publish at this time, RFC 3339")
	cmd.Flags().StringVar(&r.Type, "type", "", typeHelp)
	cmd.Flags().StringVar(&r.Comment, "comment", "", "why")
	return cmd
}

func (a *app) confDiscard() *cobra.Command {
	cmd := &cobra.Command{Use: "discard ITEM", Short: "Drop the draft of an item", Args: cobra.ExactArgs(1)}
	rev := ifItemRevision(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.onItem(cmd, args[0], func(ctx context.Context, c client.Conf, at client.ConfAddress) (client.ConfItem, error) {
			return rev.on(c).Discard(ctx, at)
		})
	}
	return cmd
}

func (a *app) confUnschedule() *cobra.Command {
	cmd := &cobra.Command{Use: "unschedule ITEM", Short: "Cancel what is to be published at a time; it becomes the draft again", Args: cobra.ExactArgs(1)}
	rev := ifItemRevision(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.onItem(cmd, args[0], func(ctx context.Context, c client.Conf, at client.ConfAddress) (client.ConfItem, error) {
			return rev.on(c).Unschedule(ctx, at)
		})
	}
	return cmd
}

func (a *app) confHistory() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use: "history ITEM", Short: "List the releases of an item, newest first", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := itemAddress(args[0])
			if err != nil {
				return err
			}
			if limit < 0 {
				return errs.Invalid("--limit", limit, "0 (all) or more")
			}
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				all, err := b.Conf().History(ctx, at, limit)
				if err != nil {
					return err
				}
				return a.emit(map[string]any{"releases": all}, func(t *table) {
					t.row("NUMBER", "BY", "TYPE", "BYTES", "TIME", "WHO", "COMMENT")
					for i := range all {
						r := &all[i]
						by := r.By
						if r.From != 0 {
							by += fmt.Sprintf(" to %d", r.From)
						}
						if r.Gray != "" {
							by += " of " + r.Gray
						}
						t.row(r.Number, by, r.Type, r.Size, stampText(r.Time), r.Actor, r.Comment)
					}
				})
			})
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 0, "most releases; 0 for all")
	return cmd
}

func (a *app) confDiff() *cobra.Command {
	var from, to string
	cmd := &cobra.Command{
		Use: "diff ITEM", Short: "Compare two contents of an item", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := itemAddress(args[0])
			if err != nil {
				return err
			}
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				d, err := b.Conf().Diff(ctx, at, from, to)
				if err != nil {
					return err
				}
				if a.output == "json" {
					return a.emit(d, nil)
				}
				_, err = io.WriteString(a.Stdout, d.Unified)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&from, "from", "release", "one side")
	cmd.Flags().StringVar(&to, "to", "draft", "the other side")
	return cmd
}

func (a *app) confRollback() *cobra.Command {
	var r client.ConfRollback
	cmd := &cobra.Command{Use: "rollback ITEM", Short: "Publish an older release once more; a deleted item comes back", Args: cobra.ExactArgs(1)}
	rev := ifItemRevision(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.onItem(cmd, args[0], func(ctx context.Context, c client.Conf, at client.ConfAddress) (client.ConfItem, error) {
			r.Address, r.IfRevision = at, rev.get()
			return c.Rollback(ctx, r)
		})
	}
	cmd.Flags().Uint64Var(&r.Number, "to", 0, "number of the release")
	cmd.Flags().StringVar(&r.Comment, "comment", "", "why")
	_ = cmd.MarkFlagRequired("to")
	return cmd
}

func (a *app) confDelete() *cobra.Command {
	var comment string
	cmd := &cobra.Command{Use: "delete ITEM", Short: "Delete an item; its history stays for a while", Args: cobra.ExactArgs(1)}
	rev := ifItemRevision(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.onItem(cmd, args[0], func(ctx context.Context, c client.Conf, at client.ConfAddress) (client.ConfItem, error) {
			return rev.on(c).Delete(ctx, at, comment)
		})
	}
	cmd.Flags().StringVar(&comment, "comment", "", "why")
	return cmd
}

func (a *app) confSet() *cobra.Command {
	var description, schema string
	var readOnly bool
	cmd := &cobra.Command{Use: "set ITEM", Short: "Change an item's description, schema or read-only flag", Args: cobra.ExactArgs(1)}
	rev := ifItemRevision(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var r client.ConfSettings
		if cmd.Flags().Changed("description") {
			r.Description = &description
		}
		if cmd.Flags().Changed("read-only") {
			r.ReadOnly = &readOnly
		}
		if cmd.Flags().Changed("schema") {
			text := ""
			if schema != "" {
				b, err := a.read("--schema", schema)
				if err != nil {
					return err
				}
				text = string(b)
			}
			r.Schema = &text
		}
		return a.onItem(cmd, args[0], func(ctx context.Context, c client.Conf, at client.ConfAddress) (client.ConfItem, error) {
			r.Address = at
			return rev.on(c).Settings(ctx, r)
		})
	}
	cmd.Flags().StringVar(&description, "description", "", "free text")
	cmd.Flags().StringVar(&schema, "schema", "", "file with a JSON Schema that contents must fit; empty takes it away")
	cmd.Flags().BoolVar(&readOnly, "read-only", false, "refuse every change of contents; --read-only=false allows them again")
	return cmd
}
