package cli

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"nekoq/client"
	"nekoq/services/errs"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// ruleFlags add the flags of a rule, nil when none is given.
func ruleFlags(cmd *cobra.Command) func() (*client.ConfRule, error) {
	var r client.ConfRule
	var labels []string
	cmd.Flags().StringSliceVar(&r.IPs, "ip", nil, "client addresses or ranges, such as 10.0.0.0/8")
	cmd.Flags().StringSliceVar(&labels, "label", nil, "labels, NAME=VALUE; one NAME with several values fits any of them")
	cmd.Flags().Float64Var(&r.Percent, "percent", 0, "share of the clients, 0.01 to 100")
	return func() (*client.ConfRule, error) {
		for _, l := range labels {
			name, value, ok := strings.Cut(l, "=")
			if !ok {
				return nil, errs.Invalid("--label", l, "NAME=VALUE")
			}
			if r.Labels == nil {
				r.Labels = map[string][]string{}
			}
			r.Labels[name] = append(r.Labels[name], value)
		}
		if len(r.IPs) == 0 && len(r.Labels) == 0 && !cmd.Flags().Changed("percent") {
			return nil, nil
		}
		return &r, r.Check("rule")
	}
}

func (a *app) confGray() *cobra.Command {
	var r client.ConfGray
	var priority int
	cmd := &cobra.Command{
		Use: "gray ITEM NAME [CONTENT|-]", Short: "Make or change a gray release: a content for some clients first", Args: cobra.RangeArgs(2, 3),
		Long: "Make or change a gray release. A new one needs a content and a rule; of one that is there, what is not given stays.",
	}
	content, rev, rule := a.contentFlags(cmd), ifItemRevision(cmd), ruleFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var err error
		if r.Bytes, r.HasContent, err = content(args[2:]); err != nil {
			return err
		}
		if r.Rule, err = rule(); err != nil {
			return err
		}
		if cmd.Flags().Changed("priority") {
			r.Priority = &priority
		}
		return a.onItem(cmd, args[0], func(ctx context.Context, c client.Conf, at client.ConfAddress) (client.ConfItem, error) {
			r.Address, r.Name, r.IfRevision = at, args[1], rev.get()
			return c.Gray(ctx, r)
		})
	}
	cmd.Flags().IntVar(&priority, "priority", 0, "the greater is asked first")
	cmd.Flags().StringVar(&r.Type, "type", "", typeHelp)
	cmd.Flags().StringVar(&r.Comment, "comment", "", "why")
	return cmd
}

func (a *app) confGrayEnd(name string) *cobra.Command {
	short := "Give a gray release to everybody"
	if name == "gray-drop" {
		short = "Take a gray release back"
	}
	var comment string
	cmd := &cobra.Command{Use: name + " ITEM NAME", Short: short, Args: cobra.ExactArgs(2)}
	rev := ifItemRevision(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.onItem(cmd, args[0], func(ctx context.Context, c client.Conf, at client.ConfAddress) (client.ConfItem, error) {
			if name == "gray-drop" {
				return rev.on(c).GrayDrop(ctx, at, args[1])
			}
			return rev.on(c).GrayPromote(ctx, at, args[1], comment)
		})
	}
	if name != "gray-drop" {
		cmd.Flags().StringVar(&comment, "comment", "", "why; that of the gray release without")
	}
	return cmd
}

// clientFlags say which client is asked for.
func clientFlags(cmd *cobra.Command, q *client.ConfQuery) {
	cmd.Flags().StringVar(&q.Area, "area", "", "area; that of the client's scope without")
	cmd.Flags().StringVar(&q.Key, "key", "", "only this key")
	cmd.Flags().StringVar(&q.Client, "client", "", "name of the client, which gray releases by percentage go by")
	cmd.Flags().StringVar(&q.IP, "ip", "", "address of the client; that of this connection without")
	cmd.Flags().StringToStringVar(&q.Labels, "label", nil, "labels of the client, NAME=VALUE")
}

type effectiveJSON struct {
	Area   string      `json:"area"`
	Group  string      `json:"group"`
	Hash   string      `json:"hash"`
	Values []valueJSON `json:"values"`
}

type valueJSON struct {
	Key      string   `json:"key"`
	Type     string   `json:"content_type"`
	Content  string   `json:"content"`
	Origin   string   `json:"origin"`
	Problems []string `json:"problems,omitempty"`
}

func (a *app) showEffective(e *client.ConfEffective) error {
	out := effectiveJSON{Area: e.Area, Group: e.Group, Hash: e.Hash, Values: []valueJSON{}}
	for i := range e.Values {
		v := &e.Values[i]
		from := fmt.Sprintf("%s release %d", v.Origin.Path(), v.Origin.Release)
		if v.Origin.Gray != "" {
			from = fmt.Sprintf("%s gray %s", v.Origin.Path(), v.Origin.Gray)
		}
		out.Values = append(out.Values, valueJSON{v.Key, v.Type, string(v.Bytes), from, v.Problems})
	}
	return a.emit(out, func(t *table) {
		t.row(fmt.Sprintf("group %s in area %s, version %s", e.Group, e.Area, e.Hash))
		t.row("KEY", "TYPE", "CONTENT", "ORIGIN", "PROBLEMS")
		for _, v := range out.Values {
			t.row(v.Key, v.Type, printable([]byte(v.Content), valueWidth), v.Origin, strings.Join(v.Problems, "; "))
		}
	})
}

func (a *app) confEffective() *cobra.Command {
	var q client.ConfQuery
	cmd := &cobra.Command{
		Use: "effective GROUP", Short: "Show what a client gets of a group, and where it comes from", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Group = args[0]
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				e, err := b.Conf().GetAll(ctx, q)
				if err != nil {
					return err
				}
				return a.showEffective(&e)
			})
		},
	}
	clientFlags(cmd, &q)
	return cmd
}

func (a *app) confWatch() *cobra.Command {
	var q client.ConfQuery
	var count int
	cmd := &cobra.Command{
		Use: "watch GROUP", Short: "Print what a client gets of a group whenever it changes", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if q.IP != "" {
				return errs.Invalid("--ip", q.IP, "none: who listens is seen at the address of this connection")
			}
			return a.connected(func(b Backend) error {
				changes := make(chan *client.ConfSet)
				ctx, cancel := context.WithCancel(cmd.Context())
				defer cancel()
				l, err := b.Conf().Subscribe(ctx, client.ConfSubscription{
					Group: args[0], Key: q.Key, Area: q.Area, Client: q.Client, Labels: q.Labels, Wait: a.timeout,
					OnChange: func(_, now *client.ConfSet) {
						select {
						case changes <- now:
						case <-ctx.Done():
						}
					},
				})
				if err != nil {
					return err
				}
				defer func() { cancel(); l.Close() }()
				now := l.Current()
				for seen := 1; ; seen++ {
					if err := a.printVersion(now); err != nil || seen == count {
						return err
					}
					select {
					case now = <-changes:
					case <-cmd.Context().Done():
						return nil
					}
				}
			})
		},
	}
	clientFlags(cmd, &q)
	cmd.Flags().IntVarP(&count, "count", "n", 0, "end after this many versions, the present one included; 0 for never")
	return cmd
}

// printVersion prints one version of a watch.
func (a *app) printVersion(s *client.ConfSet) error {
	e := client.ConfEffective{Area: s.Area, Group: s.Group, Hash: s.Hash}
	out := effectiveJSON{Area: s.Area, Group: s.Group, Hash: s.Hash, Values: []valueJSON{}}
	if a.output == "json" {
		for _, k := range s.Keys() {
			v, _ := s.Get(k)
			out.Values = append(out.Values, valueJSON{Key: k, Type: v.Type, Content: v.Text(), Origin: v.Origin.Path(), Problems: v.Problems})
		}
		return a.line(out)
	}
	for _, k := range s.Keys() {
		v, _ := s.Get(k)
		e.Values = append(e.Values, valueOf(v))
	}
	return a.showEffective(&e)
}

func (a *app) confListeners() *cobra.Command {
	var area, group, key string
	cmd := &cobra.Command{
		Use: "listeners", Short: "List who listens, and which version each has", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				all, err := b.Conf().Listeners(ctx, area, group, key)
				if err != nil {
					return err
				}
				return a.emit(map[string]any{"listeners": all}, func(t *table) {
					t.row("CLIENT", "ADDRESS", "NODE", "DOOR", "AREA", "GROUP", "KEY", "VERSION", "SINCE")
					for _, l := range all {
						t.row(l.Client, l.Addr, l.Node, l.Door, l.Area, l.Group, l.Key, l.Hash, stampText(l.Since))
					}
				})
			})
		},
	}
	cmd.Flags().StringVar(&area, "area", "", "only this area")
	cmd.Flags().StringVar(&group, "group", "", "only this group")
	cmd.Flags().StringVar(&key, "key", "", "only this key")
	return cmd
}

// takeFlags are those of clone and import.
func takeFlags(cmd *cobra.Command, ifExists *string, draft, dryRun *bool, comment *string) {
	cmd.Flags().StringVar(ifExists, "if-exists", "fail", "what to do with items that are there: fail, skip or overwrite")
	cmd.Flags().BoolVar(draft, "draft", false, "make drafts instead of publishing")
	cmd.Flags().BoolVar(dryRun, "dry-run", false, "only tell what would be done")
	cmd.Flags().StringVar(comment, "comment", "", "why")
}

func (a *app) outcome(o *client.ConfOutcome) error {
	return a.emit(o, func(t *table) {
		t.row("ITEM", "DID")
		for _, s := range o.Steps {
			t.row(s.Path(), s.Did)
		}
	})
}

func (a *app) confClone() *cobra.Command {
	var r client.ConfClone
	cmd := &cobra.Command{
		Use: "clone FROM-AREA/GROUP TO-AREA/GROUP", Short: "Copy what is published in a group to another group or area", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if r.FromArea, r.FromGroup, err = groupAddress(args[0]); err != nil {
				return err
			}
			if r.ToArea, r.ToGroup, err = groupAddress(args[1]); err != nil {
				return err
			}
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				o, err := b.Conf().Clone(ctx, r)
				if err != nil {
					return err
				}
				return a.outcome(&o)
			})
		},
	}
	cmd.Flags().StringSliceVar(&r.Keys, "key", nil, "only these keys")
	takeFlags(cmd, &r.IfExists, &r.Draft, &r.DryRun, &r.Comment)
	return cmd
}

func (a *app) confCompare() *cobra.Command {
	var r client.ConfCompare
	cmd := &cobra.Command{
		Use: "compare AREA/GROUP AREA/GROUP", Short: "Compare two groups key by key", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if r.LeftArea, r.LeftGroup, err = groupAddress(args[0]); err != nil {
				return err
			}
			if r.RightArea, r.RightGroup, err = groupAddress(args[1]); err != nil {
				return err
			}
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				c, err := b.Conf().Compare(ctx, r)
				if err != nil {
					return err
				}
				return a.emit(c, func(t *table) {
					t.row("KEY", "STATUS")
					for _, k := range c.Keys {
						t.row(k.Key, k.Status)
						if k.Unified != "" {
							t.text(strings.TrimSuffix(k.Unified, "\n") + "\n")
						}
					}
				})
			})
		},
	}
	cmd.Flags().BoolVar(&r.Effective, "effective", false, "compare what clients get, with what is inherited")
	cmd.Flags().BoolVar(&r.Diff, "diff", false, "with the differences")
	return cmd
}

func (a *app) confImport() *cobra.Command {
	var r client.ConfImport
	cmd := &cobra.Command{
		Use: "import FOLDER|FILE.zip", Short: "Import a folder or a zip file of AREA/GROUP/KEY, as a whole or not at all", Args: cobra.ExactArgs(1),
		Long: `Import a folder or a zip file of AREA/GROUP/KEY, as a whole or not at all. With --area, or --area and --group, paths may be
GROUP/KEY, or KEY, and what the flags name takes the place of what the paths say. Of a folder, links and names that begin with a
dot are left out.`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if r.Archive, err = readArchive(args[0]); err != nil {
				return errs.New(errs.InvalidArgument, "the archive cannot be read: %s", err)
			}
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				o, err := b.Conf().Import(ctx, r)
				if err != nil {
					return err
				}
				return a.outcome(&o)
			})
		},
	}
	cmd.Flags().StringVar(&r.Area, "area", "", "put all items into this area")
	cmd.Flags().StringVar(&r.Group, "group", "", "put all items into this group")
	takeFlags(cmd, &r.IfExists, &r.Draft, &r.DryRun, &r.Comment)
	return cmd
}

// readArchive reads a zip file, or packs a folder. Files whose names begin with a
// dot stay out, and what is no file too.
func readArchive(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return os.ReadFile(path)
	}
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	err = filepath.WalkDir(path, func(p string, e fs.DirEntry, err error) error {
		if err != nil || p == path {
			return err
		}
		if strings.HasPrefix(e.Name(), ".") {
			if e.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if !e.Type().IsRegular() {
			return nil
		}
		rel, err := filepath.Rel(path, p)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		f, err := z.Create(filepath.ToSlash(rel))
		if err != nil {
			return err
		}
		_, err = f.Write(b)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func (a *app) confExport() *cobra.Command {
	var r client.ConfExport
	cmd := &cobra.Command{
		Use: "export FOLDER|FILE.zip", Short: "Export what is published into a folder or a zip file", Args: cobra.ExactArgs(1),
		Long: `Export what is published, hidden keys too, as AREA/GROUP/KEY and the manifest nekoq.json: into a zip file when the name ends so, else into a folder.
All of it is as of one revision. --with adds drafts (and what is scheduled), gray releases and history, which an import takes in again.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.connected(func(b Backend) error {
				var files []client.ConfFile
				about := client.ConfManifest{Items: []client.ConfArchived{}}
				if err := b.Conf().Export(cmd.Context(), r, func(x client.ConfArchived) error {
					if err := x.Check(); err != nil { // names become paths
						return err
					}
					files = append(files, x.Files()...)
					about.Add(x)
					return nil
				}); err != nil {
					return err
				}
				text, err := json.MarshalIndent(about, "", "  ")
				if err != nil {
					return err
				}
				if err := writeArchive(args[0], append(files, client.ConfFile{Name: manifestName, Bytes: text})); err != nil {
					return err
				}
				return a.emit(map[string]any{"items": len(about.Items), "to": args[0], "revision": about.Revision}, func(t *table) {
					n := many(len(about.Items), "item")
					if about.Revision != 0 { // there is none when there is no item
						n = fmt.Sprintf("%s as of revision %d", n, about.Revision)
					}
					t.row(n + " to " + args[0])
				})
			})
		},
	}
	cmd.Flags().StringVar(&r.Area, "area", "", "only this area")
	cmd.Flags().StringVar(&r.Group, "group", "", "only this group; needs --area")
	cmd.Flags().StringSliceVar(&r.With, "with", nil, "what to add: drafts, gray, history")
	return cmd
}

const manifestName = "nekoq.json"

// writeArchive writes a zip file or a folder.
func writeArchive(path string, files []client.ConfFile) error {
	if strings.HasSuffix(path, ".zip") {
		var buf bytes.Buffer
		z := zip.NewWriter(&buf)
		for _, x := range files {
			f, err := z.Create(x.Name)
			if err != nil {
				return err
			}
			if _, err := f.Write(x.Bytes); err != nil {
				return err
			}
		}
		if err := z.Close(); err != nil {
			return err
		}
		return os.WriteFile(path, buf.Bytes(), 0o600)
	}
	for _, x := range files {
		file := filepath.Join(path, filepath.FromSlash(x.Name))
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(file, x.Bytes, 0o600); err != nil {
			return err
		}
	}
	return nil
}
