package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"

	"nekoq/configs"
)

// configFlags are the flags of every command that loads a configuration.
type configFlags struct {
	file     string
	set      []string
	short    [3]string
	insecure bool
}

// shortForms are flags that stand for keys.
var shortForms = [3]struct{ flag, key, usage string }{
	{"data-dir", "node.data_dir", "folder of the data (node.data_dir)"},
	{"mode", "mode", "localswitch or cluster (mode)"},
	{"node-id", "node.id", "name of this node (node.id)"},
}

func (f *configFlags) add(a *app, cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVarP(&f.file, "config", "c", a.getenv("NEKOQ_CONFIG", ""), "TOML file; NEKOQ_CONFIG names it too")
	flags.StringArrayVar(&f.set, "set", nil, "key=value, stronger than file and environment; may be given again")
	for i, s := range shortForms {
		flags.StringVar(&f.short[i], s.flag, "", s.usage)
	}
	flags.BoolVar(&f.insecure, "insecure", false, "allow cluster mode without identities and TLS (insecure)")
	_ = cmd.MarkFlagFilename("config", "toml")
	_ = cmd.MarkFlagDirname("data-dir")
	_ = cmd.RegisterFlagCompletionFunc("mode", cobra.FixedCompletions(
		[]string{configs.ModeLocalSwitch, configs.ModeCluster}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("set", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		keys := configs.Keys()
		for i := range keys {
			keys[i] += "="
		}
		return keys, cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
	})
}

func (f *configFlags) load(a *app, cmd *cobra.Command) (*configs.Loaded, error) {
	src := configs.Source{File: f.file, Environ: a.Environ, Set: f.set}
	for i, s := range shortForms {
		if cmd.Flags().Changed(s.flag) {
			src.Flags = append(src.Flags, configs.Flag{Name: "--" + s.flag, Key: s.key, Value: f.short[i]})
		}
	}
	if cmd.Flags().Changed("insecure") {
		src.Flags = append(src.Flags, configs.Flag{Name: "--insecure", Key: "insecure", Value: fmt.Sprint(f.insecure)})
	}
	return configs.Load(src)
}

func (a *app) serve() *cobra.Command {
	var f configFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a server",
		Long: `Run a server until SIGTERM or SIGINT, which drain it; a second signal stops it at once.

Without arguments it is LocalSwitch: one process, everything on, reachable from this machine only. Three or more make a
cluster: see configs/samples and docs/configuration.md.`,
		Example: `  nekoq serve
  nekoq serve --data-dir "" --set http.listen=127.0.0.1:8080
  nekoq serve --insecure --config configs/samples/n1.toml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			loaded, err := f.load(a, cmd)
			if err != nil {
				return err
			}
			return a.Serve(cmd.Context(), loaded.Config)
		},
	}
	f.add(a, cmd)
	return cmd
}

func (a *app) config() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Check and print the configuration", Args: cobra.NoArgs, RunE: help}
	var checked configFlags
	check := &cobra.Command{
		Use:     "check",
		Short:   "Tell every mistake, and start nothing",
		Example: "  nekoq config check --config nekoq.toml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			loaded, err := checked.load(a, cmd)
			if err != nil {
				return err
			}
			for _, w := range loaded.Warnings() {
				fmt.Fprintln(a.Stderr, "warning:", w)
			}
			return a.emit(map[string]any{"valid": true, "mode": loaded.Mode, "node_id": loaded.Node.ID}, func(*table) {
				fmt.Fprintf(a.Stdout, "The configuration is valid: mode %s, node %s.\n", loaded.Mode, loaded.Node.ID)
			})
		},
	}
	checked.add(a, check)
	var printed configFlags
	var origin bool
	show := &cobra.Command{
		Use:   "print",
		Short: "Print every key with its documentation, as TOML that can be loaded",
		Long: `Print every key with its documentation, as TOML that can be loaded. Secrets are hidden. Mistakes go to the standard
error after the document.`,
		Example: "  nekoq config print --origin",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			loaded, err := printed.load(a, cmd)
			if perr := loaded.Print(a.Stdout, origin); perr != nil {
				return perr
			}
			return err
		},
	}
	printed.add(a, show)
	show.Flags().BoolVar(&origin, "origin", false, "say where each value comes from")
	cmd.AddCommand(check, show)
	return cmd
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version string `json:"version"`
				Go      string `json:"go"`
				OS      string `json:"os"`
				Arch    string `json:"arch"`
			}{a.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH}
			return a.emit(v, func(*table) {
				fmt.Fprintf(a.Stdout, "nekoq %s (%s, %s/%s)\n", v.Version, v.Go, v.OS, v.Arch)
			})
		},
	}
}

// line writes v as JSON on one line, for a stream of them.
func (a *app) line(v any) error { return a.lineTo(a.Stdout, v) }

func (a *app) lineTo(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// help is what a command does that only has sub-commands.
func help(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// emit writes v as JSON, or calls people for the form that people read.
func (a *app) emit(v any, people func(t *table)) error {
	if a.output == "json" {
		enc := json.NewEncoder(a.Stdout)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	t := newTable(a.Stdout)
	people(t)
	return t.flush()
}
