package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	ids "nekoq/numgen/api"
	"nekoq/numgen/idgen"
	"nekoq/services/errs"
)

// listPage is how many rows one request of a list asks for.
const listPage = 1000

func (a *app) id() *cobra.Command {
	cmd := &cobra.Command{
		Use: "id", Short: "Get ids, and manage their generators", Args: cobra.NoArgs, RunE: help,
		Example: `  nekoq id next orders
  nekoq id create invoices --kind format --template 'INV-{yyyyMMdd}-{n:6}' --reset day
  nekoq id decode --generator orders 00003a5f...`,
	}
	cmd.AddCommand(a.idNext(), a.idCreate(), a.idList(), a.idGet(), a.idUpdate(), a.idDelete(), a.idDecode(), a.idWorkers())
	a.completeArguments(cmd, generatorNames, "create", "decode")
	return cmd
}

func (a *app) idNext() *cobra.Command {
	var n int
	cmd := &cobra.Command{
		Use: "next NAME", Short: "Get the next ids of a generator, one per line", Args: cobra.ExactArgs(1),
		Long: `Get the next ids of a generator, one per line. By default a generator that does not exist is created on first use.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				got, err := b.NextIDs(ctx, args[0], n)
				if err != nil {
					return err
				}
				return a.emit(map[string]any{"generator": args[0], "ids": got}, func(*table) {
					fmt.Fprintln(a.Stdout, strings.Join(got, "\n"))
				})
			})
		},
	}
	cmd.Flags().IntVarP(&n, "count", "n", 1, "how many")
	return cmd
}

func (a *app) idCreate() *cobra.Command {
	var r ids.CreateRequest
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Create a generator", Args: cobra.ExactArgs(1),
		Long: "Create a generator. Created again with the same kind and options it is no change; with others it is a conflict.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				r.Name = args[0]
				g, err := b.CreateGenerator(ctx, r)
				if err != nil {
					return err
				}
				return a.emit(g, func(t *table) { generator(t, g) })
			})
		},
	}
	cmd.Flags().StringVar(&r.Kind, "kind", "", "one of "+strings.Join(idgen.Kinds(), ", ")+"; the server's default without")
	cmd.Flags().StringVar(&r.Description, "description", "", "free text")
	_ = cmd.RegisterFlagCompletionFunc("kind", cobra.FixedCompletions(idgen.Kinds(), cobra.ShellCompDirectiveNoFileComp))
	optionFlags(cmd, &r.Options)
	return cmd
}

func optionFlags(cmd *cobra.Command, o *ids.Options) {
	f := cmd.Flags()
	f.StringVar(&o.Epoch, "epoch", "", "snowflake: zero of its time, RFC 3339")
	f.IntVar(&o.TimeBits, "time-bits", 0, "snowflake: bits of the time (default 41)")
	f.IntVar(&o.WorkerBits, "worker-bits", 0, "snowflake: bits of the worker (default 10)")
	f.IntVar(&o.SequenceBits, "sequence-bits", 0, "snowflake: bits of the sequence (default 12)")
	f.Int64Var(&o.Start, "start", 0, "segment, sequence: first number (default 1)")
	f.Int64Var(&o.MinStep, "min-step", 0, "segment: least numbers leased at once")
	f.Int64Var(&o.MaxStep, "max-step", 0, "segment: most numbers leased at once")
	f.StringVar(&o.Template, "template", "", "format: literals, {n:8}, dates such as {yyyyMMdd}, {check=luhn}")
	f.StringVar(&o.TimeZone, "time-zone", "", "format: IANA zone of the dates (default UTC)")
	f.StringVar(&o.Reset, "reset", "", "format over sequence: day, month or year")
	f.StringVar(&o.Of, "of", "", "format: kind of its numbers (default sequence)")
}

func generator(t *table, g ids.Generator) {
	t.row("name", g.Name)
	t.row("kind", g.Kind)
	t.row("element", g.Element)
	t.row("description", g.Description)
	t.row("options", optionsText(g.Options))
	t.row("created", g.Created)
	t.row("revision", g.UpdatedRevision)
}

// optionsText lists the options that are set.
func optionsText(o ids.Options) string {
	var out []string
	add := func(name string, v any, set bool) {
		if set {
			out = append(out, fmt.Sprintf("%s=%v", name, v))
		}
	}
	add("epoch", o.Epoch, o.Epoch != "")
	add("bits", fmt.Sprintf("%d+%d+%d", o.TimeBits, o.WorkerBits, o.SequenceBits), o.TimeBits != 0)
	add("start", o.Start, o.Start != 0)
	add("min_step", o.MinStep, o.MinStep != 0)
	add("max_step", o.MaxStep, o.MaxStep != 0)
	add("template", o.Template, o.Template != "")
	add("time_zone", o.TimeZone, o.TimeZone != "")
	add("reset", o.Reset, o.Reset != "")
	add("of", o.Of, o.Of != "")
	return strings.Join(out, " ")
}

func (a *app) idList() *cobra.Command {
	var r ids.ListRequest
	cmd := &cobra.Command{
		Use: "list", Short: "List the generators", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				all := []ids.Generator{}
				for r.Limit = listPage; ; {
					page, err := b.Generators(ctx, r)
					if err != nil {
						return err
					}
					all = append(all, page.Generators...)
					if !page.More || len(page.Generators) == 0 {
						break
					}
					r.After = all[len(all)-1].Name
				}
				return a.emit(ids.GeneratorList{Generators: all}, func(t *table) {
					t.row("NAME", "KIND", "OPTIONS", "CREATED", "DESCRIPTION")
					for _, g := range all {
						t.row(g.Name, g.Kind, optionsText(g.Options), g.Created, g.Description)
					}
				})
			})
		},
	}
	cmd.Flags().StringVar(&r.Prefix, "prefix", "", "only names that begin so")
	return cmd
}

func (a *app) idGet() *cobra.Command {
	return &cobra.Command{
		Use: "get NAME", Short: "Show a generator", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				g, err := b.Generator(ctx, args[0])
				if err != nil {
					return err
				}
				return a.emit(g, func(t *table) { generator(t, g) })
			})
		},
	}
}

func (a *app) idUpdate() *cobra.Command {
	var (
		description string
		minStep     int64
		maxStep     int64
	)
	cmd := &cobra.Command{
		Use: "update NAME", Short: "Change what may change without an id coming twice", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r := ids.UpdateRequest{Name: args[0]}
			if cmd.Flags().Changed("description") {
				r.Description = &description
			}
			if cmd.Flags().Changed("min-step") {
				r.MinStep = &minStep
			}
			if cmd.Flags().Changed("max-step") {
				r.MaxStep = &maxStep
			}
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				g, err := b.UpdateGenerator(ctx, r)
				if err != nil {
					return err
				}
				return a.emit(g, func(t *table) { generator(t, g) })
			})
		},
	}
	cmd.Flags().StringVar(&description, "description", "", "free text")
	cmd.Flags().Int64Var(&minStep, "min-step", 0, "segment: least numbers leased at once")
	cmd.Flags().Int64Var(&maxStep, "max-step", 0, "segment: most numbers leased at once")
	return cmd
}

func (a *app) idDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Delete a generator", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				if err := b.DeleteGenerator(ctx, args[0]); err != nil {
					return err
				}
				return a.emit(map[string]any{"name": args[0], "deleted": true}, func(t *table) { t.row("deleted " + args[0]) })
			})
		},
	}
}

func (a *app) idDecode() *cobra.Command {
	var r ids.DecodeRequest
	cmd := &cobra.Command{
		Use: "decode ID", Short: "Take an id apart", Args: cobra.ExactArgs(1),
		Long: "Take an id apart. Name the generator it comes from, or its kind.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if (r.Name == "") == (r.Kind == "") {
				return errs.New(errs.InvalidArgument, "name either the id's --generator or its --kind")
			}
			r.ID = args[0]
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				d, err := b.DecodeID(ctx, r)
				if err != nil {
					return err
				}
				return a.emit(d, func(t *table) {
					t.row("kind", d.Kind)
					if d.Time != "" {
						t.row("time", d.Time)
					}
					for _, p := range d.Parts {
						t.row(p.Name, p.Value)
					}
				})
			})
		},
	}
	cmd.Flags().StringVar(&r.Name, "generator", "", "generator that the id is from")
	cmd.Flags().StringVar(&r.Kind, "kind", "", "kind of the id: "+strings.Join(idgen.Kinds(), ", "))
	optionFlags(cmd, &r.Options)
	return cmd
}

func (a *app) idWorkers() *cobra.Command {
	return &cobra.Command{
		Use: "workers", Short: "List the worker numbers and who holds them", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				all := []ids.WorkerInfo{}
				for from := 0; ; {
					page, err := b.Workers(ctx, ids.WorkersRequest{From: from, Limit: listPage})
					if err != nil {
						return err
					}
					all = append(all, page.Workers...)
					if !page.More || len(page.Workers) == 0 {
						break
					}
					from = all[len(all)-1].Number + 1
				}
				return a.emit(ids.WorkerList{Workers: all}, func(t *table) {
					t.row("WORKER", "HELD", "HOLDER", "TOKEN", "HIGH WATER", "EXPIRES")
					for _, w := range all {
						t.row(w.Number, w.Held, w.Holder, w.Token, w.HighWater, w.Expires)
					}
				})
			})
		},
	}
}
