package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"nekoq/client"
	"nekoq/services/errs"
	keys "nekoq/warehouse/api"
	"nekoq/warehouse/form"
)

// valueWidth bounds a value in a table, in runes.
const valueWidth = 60

func (a *app) kv() *cobra.Command {
	cmd := &cobra.Command{
		Use: "kv", Short: "Read, write and watch keys", Args: cobra.NoArgs, RunE: help,
		Example: `  nekoq kv put app/db 'host=db1'
  nekoq kv put app/cert - < cert.pem
  nekoq kv get app/cert > cert.pem
  nekoq kv list app/
  nekoq kv watch --prefix app/`,
	}
	cmd.AddCommand(a.kvPut(), a.kvGet(), a.kvDel(), a.kvList(), a.kvWatch(), a.kvHistory(), a.kvCompact(), a.kvStatus())
	a.completeArguments(cmd, keyNames, "compact")
	cmd.AddCommand(a.kvMore()...)
	return cmd
}

// ifRevision adds --if-revision, whose 0 means "must not exist".
func ifRevision(cmd *cobra.Command) func() keys.Condition {
	var rev uint64
	cmd.Flags().Uint64Var(&rev, "if-revision", 0, "only if the key is at this mod revision; 0: only if it does not exist")
	return func() keys.Condition {
		if cmd.Flags().Changed("if-revision") {
			return keys.If(rev)
		}
		return keys.Condition{}
	}
}

// whileHeld adds --holding, in the words of nekoq kv txn.
func whileHeld(cmd *cobra.Command) func() ([]client.KVOption, error) {
	var holding []string
	cmd.Flags().StringArrayVar(&holding, "holding", nil, "only while lock:NAME=TOKEN (or election:, key:) is still held; may be repeated")
	return func() (out []client.KVOption, err error) {
		for _, line := range holding {
			h, err := parseHolding(line)
			if err != nil {
				return nil, err
			}
			token, err := h.Token("--holding")
			if err != nil {
				return nil, err
			}
			out = append(out, client.WhileHeld(token))
		}
		return out, nil
	}
}

// writeJSON is a write's answer in the words of the REST door.
type writeJSON struct {
	Key            string `json:"key"`
	ModRevision    uint64 `json:"mod_revision"`
	CreateRevision uint64 `json:"create_revision,omitempty"`
	Version        uint64 `json:"version,omitempty"`
	Lease          string `json:"lease,omitempty"`
	PrevRevision   uint64 `json:"prev_revision,omitempty"`
	StoreRevision  uint64 `json:"store_revision"`
	Deleted        *bool  `json:"deleted,omitempty"`
}

func written(key string, w keys.WriteResult) writeJSON {
	return writeJSON{
		Key: key, ModRevision: w.Revision, CreateRevision: w.CreateRevision, Version: w.Version,
		Lease: form.LeaseText(w.Lease), PrevRevision: w.PrevRevision, StoreRevision: w.StoreRevision,
	}
}

func (a *app) kvPut() *cobra.Command {
	var (
		r    keys.PutRequest
		file string
	)
	cmd := &cobra.Command{
		Use: "put KEY [VALUE|-]", Short: "Write a key", Args: cobra.RangeArgs(1, 2),
		Example: `  nekoq kv put app/db 'host=db1'
  nekoq kv put app/cert - < cert.pem
  nekoq kv put app/lease-me here --ttl 30s
  nekoq kv put app/db 'host=db2' --if-revision 17
  nekoq kv put app/version 7 --holding lock:deploy=42`,
		Long: "Write a key. The value is the argument, the standard input for -, or a file with --file; it may be any bytes.",
	}
	condition, holding := ifRevision(cmd), whileHeld(cmd)
	cmd.Flags().DurationVar(&r.TTL, "ttl", 0, "delete the key after this time, unless it is put again")
	cmd.Flags().Uint64Var(&r.Lease, "lease", 0, "hang the key on this lease: it is deleted with it")
	cmd.Flags().StringVar(&file, "file", "", "read the value from a file, or for - from the standard input")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if cmd.Flags().Changed("ttl") && r.TTL <= 0 {
			return errs.Invalid("--ttl", r.TTL, "a duration above 0, such as 30s")
		}
		if r.Lease != 0 && r.TTL != 0 {
			return errs.New(errs.InvalidArgument, "--ttl and --lease: a key has one or the other")
		}
		if r.Value, err = a.value(args[1:], file); err != nil {
			return err
		}
		r.Key, r.If = []byte(args[0]), condition()
		held, err := holding()
		if err != nil {
			return err
		}
		return a.online(cmd, func(ctx context.Context, b Backend) error {
			w, err := b.Put(ctx, r, held...)
			if err != nil {
				return err
			}
			return a.emit(written(args[0], w), func(t *table) {
				t.row(fmt.Sprintf("revision %d, version %d", w.Revision, w.Version))
			})
		})
	}
	return cmd
}

// value is the bytes to put, from one of three places.
func (a *app) value(args []string, file string) ([]byte, error) {
	switch {
	case file != "" && len(args) > 0:
		return nil, errs.New(errs.InvalidArgument, "the value is given twice: as an argument and with --file")
	case file != "":
		return a.read("--file", file)
	case len(args) == 0:
		return nil, errs.New(errs.InvalidArgument, "no value: give it as an argument, - for the standard input, or --file")
	case args[0] == "-":
		return a.read("", "-")
	}
	return []byte(args[0]), nil
}

// read gives the bytes of a file, or for - of the standard input. what is the flag or
// argument that names it.
func (a *app) read(what, name string) ([]byte, error) {
	if name == "-" {
		b, err := io.ReadAll(a.Stdin)
		if err != nil {
			return nil, errs.New(errs.InvalidArgument, "the standard input cannot be read: %v", err).Wrap(err)
		}
		return b, nil
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, errs.New(errs.InvalidArgument, "%s: %v", what, err).Wrap(err)
	}
	return b, nil
}

// kvJSON is a key in the words of the REST door; Value goes out as base64.
type kvJSON struct {
	Key            string  `json:"key"`
	KeyBytes       []byte  `json:"key_base64,omitempty"`
	Value          *[]byte `json:"value,omitempty"`
	Deleted        bool    `json:"deleted,omitempty"`
	CreateRevision uint64  `json:"create_revision,omitempty"`
	ModRevision    uint64  `json:"mod_revision"`
	Version        uint64  `json:"version,omitempty"`
	Lease          string  `json:"lease,omitempty"`
	Created        string  `json:"created,omitempty"`
	Modified       string  `json:"modified,omitempty"`
	Actor          string  `json:"actor,omitempty"`
	StoreRevision  uint64  `json:"store_revision"`
}

func keyJSON(kv keys.KV, value bool) kvJSON {
	out := kvJSON{
		Key: string(kv.Key), Deleted: kv.Deleted, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision,
		Version: kv.Version, Lease: form.LeaseText(kv.Lease), Created: stamp(kv.Created), Modified: stamp(kv.Modified),
		Actor: kv.Actor, StoreRevision: kv.StoreRevision,
	}
	if !isText(kv.Key) {
		out.KeyBytes = kv.Key
	}
	if value && !kv.Deleted {
		bytes := append([]byte{}, kv.Value...)
		out.Value = &bytes
	}
	return out
}

func (a *app) kvGet() *cobra.Command {
	var (
		r   keys.GetRequest
		raw bool
	)
	cmd := &cobra.Command{
		Use: "get KEY", Short: "Read a key", Args: cobra.ExactArgs(1),
		Long: `Read a key. On a terminal it is shown with its revisions; into a pipe or file, or with --raw, go the bytes of the value and
nothing else. With -o json the value is base64.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				r.Key = []byte(args[0])
				res, err := b.Get(ctx, r)
				if err != nil {
					return err
				}
				if !res.Found {
					return errs.New(errs.NotFound, "%s does not exist at revision %d", printable(r.Key, 0), res.Revision).
						With(errs.Detail{Field: "key", Value: args[0]})
				}
				chosen := cmd.Flags().Changed("output") || a.getenv("NEKOQ_OUTPUT", "") != ""
				if raw || !a.Terminal && !chosen {
					_, err := a.Stdout.Write(res.KV.Value)
					return err
				}
				return a.emit(keyJSON(res.KV, true), func(t *table) {
					showKey(t, res.KV)
					if res.Stale {
						t.row("stale", staleText(res.Header))
					}
				})
			})
		},
	}
	cmd.Flags().BoolVar(&raw, "raw", false, "print the bytes of the value and nothing else")
	cmd.Flags().Uint64Var(&r.Revision, "revision", 0, "as it was at this key revision")
	staleFlag(cmd, &r.Stale)
	return cmd
}

func staleFlag(cmd *cobra.Command, stale *bool) {
	cmd.Flags().BoolVar(stale, "stale", false, "let the server at hand answer without asking the leader")
}

func staleText(h keys.Header) string {
	if !h.LagKnown {
		return "no leader has been heard of since the server started"
	}
	return fmt.Sprintf("%s behind, leader heard of %s ago", many(h.LagEntries, "entry"), h.LagAge)
}

func showKey(t *table, kv keys.KV) {
	t.row("key", printable(kv.Key, 0))
	t.row("value", printable(kv.Value, 0))
	t.row("mod revision", kv.ModRevision)
	t.row("create revision", kv.CreateRevision)
	t.row("version", kv.Version)
	if kv.Lease != 0 {
		t.row("lease", kv.Lease)
	}
	t.row("modified", when(kv.Modified))
	t.row("by", kv.Actor)
	t.row("store revision", kv.StoreRevision)
}

func (a *app) kvDel() *cobra.Command {
	cmd := &cobra.Command{
		Use: "del KEY", Aliases: []string{"delete"}, Short: "Delete a key", Args: cobra.ExactArgs(1),
		Long:    "Delete a key, or with --prefix all keys that begin so, as one revision. One that does not exist is no error, unless --if-revision demands it.",
		Example: "  nekoq kv del app/db --if-revision 17\n  nekoq kv del --prefix app/old/\n  nekoq kv del app/leader --holding election:app=42",
	}
	condition, holding := ifRevision(cmd), whileHeld(cmd)
	prefix := cmd.Flags().Bool("prefix", false, "all keys that begin with KEY")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		held, err := holding()
		if err != nil {
			return err
		}
		if *prefix {
			if cmd.Flags().Changed("if-revision") {
				return errs.New(errs.InvalidArgument, "--if-revision is of one key, and does not go with --prefix")
			}
			return a.delPrefix(cmd, args[0], held)
		}
		return a.online(cmd, func(ctx context.Context, b Backend) error {
			w, err := b.Delete(ctx, keys.DeleteRequest{Key: []byte(args[0]), If: condition()}, held...)
			if err != nil {
				return err
			}
			out, deleted := written(args[0], w), w.PrevRevision != 0
			out.Deleted = &deleted
			return a.emit(out, func(t *table) {
				if deleted {
					t.row(fmt.Sprintf("deleted at revision %d", w.Revision))
				} else {
					t.row("nothing to delete")
				}
			})
		})
	}
	return cmd
}

func (a *app) delPrefix(cmd *cobra.Command, prefix string, held []client.KVOption) error {
	return a.store(cmd, func(ctx context.Context, s Store) error {
		n, rev, err := s.KV().DeletePrefix(ctx, prefix, held...)
		if err != nil {
			return err
		}
		return a.emit(map[string]uint64{"deleted": n, "revision": rev}, func(t *table) {
			if n == 0 {
				t.row("nothing to delete")
				return
			}
			t.row(fmt.Sprintf("%d deleted at revision %d", n, rev))
		})
	})
}

func (a *app) kvList() *cobra.Command {
	var (
		r     keys.ListRequest
		limit int
		end   string
	)
	cmd := &cobra.Command{
		Use: "list [PREFIX]", Aliases: []string{"ls"}, Short: "List keys in order", Args: cobra.MaximumNArgs(1),
		Long: "List the keys with a prefix, or with --end those from the argument up to but not including it. All pages show one revision.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 0 {
				return errs.Invalid("--limit", limit, "0 (all) or more")
			}
			if len(args) > 0 {
				r.Start = []byte(args[0])
			}
			if r.End = []byte(end); end == "" {
				r.End = keys.PrefixEnd(r.Start)
			}
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				all, header, err := listAll(ctx, b, r, limit)
				if err != nil {
					return err
				}
				items := make([]kvJSON, len(all))
				for i := range all {
					items[i] = keyJSON(all[i], !r.KeysOnly)
				}
				return a.emit(map[string]any{"revision": header.Revision, "items": items}, func(t *table) { listed(t, all, r.KeysOnly) })
			})
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 0, "most keys; 0 for all")
	cmd.Flags().StringVar(&end, "end", "", "list the range [PREFIX, END) instead of a prefix")
	cmd.Flags().Uint64Var(&r.Revision, "revision", 0, "as it was at this key revision")
	cmd.Flags().BoolVar(&r.KeysOnly, "keys-only", false, "leave the values out")
	staleFlag(cmd, &r.Stale)
	return cmd
}

func listAll(ctx context.Context, b Backend, r keys.ListRequest, limit int) (all []keys.KV, h keys.Header, err error) {
	for {
		r.Limit = listPage
		if limit > 0 {
			r.Limit = min(listPage, limit-len(all))
		}
		page, err := b.List(ctx, r)
		if err != nil {
			return nil, h, err
		}
		h = page.Header
		all = append(all, page.Items...)
		if page.NextPageToken == "" || limit > 0 && len(all) >= limit {
			return all, h, nil
		}
		r.PageToken = page.NextPageToken
	}
}

func listed(t *table, all []keys.KV, keysOnly bool) {
	if keysOnly {
		t.row("KEY", "MOD REVISION", "VERSION", "MODIFIED")
	} else {
		t.row("KEY", "VALUE", "MOD REVISION", "VERSION", "MODIFIED")
	}
	for _, kv := range all {
		cells := []any{printable(kv.Key, 0)}
		if !keysOnly {
			cells = append(cells, printable(kv.Value, valueWidth))
		}
		t.row(append(cells, kv.ModRevision, kv.Version, when(kv.Modified))...)
	}
}

// eventJSON is one change, one line each.
type eventJSON struct {
	Type         string  `json:"type"`
	KV           kvJSON  `json:"kv"`
	PrevRevision uint64  `json:"prev_revision,omitempty"`
	Prev         *kvJSON `json:"prev,omitempty"`
}

func (a *app) kvWatch() *cobra.Command {
	var (
		r      keys.WatchRequest
		prefix bool
		count  int
	)
	cmd := &cobra.Command{
		Use: "watch KEY", Short: "Print the changes of a key or prefix as they come", Args: cobra.MaximumNArgs(1),
		Long: `Print the changes of a key, or with --prefix of all keys that begin so, one per line until interrupted. With --after it
begins with the changes after that key revision, so a watch that was interrupted goes on without a gap.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && !prefix {
				return errs.New(errs.InvalidArgument, "name a key, or --prefix for all keys")
			}
			if len(args) > 0 {
				r.Start = []byte(args[0])
			}
			if r.Exact = !prefix; prefix {
				r.End = keys.PrefixEnd(r.Start)
			}
			r.Now = !cmd.Flags().Changed("after")
			return a.connected(func(b Backend) error {
				seen := 0
				err := b.Watch(cmd.Context(), r, func(events []keys.Event) error {
					for _, e := range events {
						if err := a.event(e); err != nil {
							return err
						}
						if seen++; seen == count {
							return errEnough
						}
					}
					return nil
				})
				if errors.Is(err, errEnough) || cmd.Context().Err() != nil {
					return nil
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&prefix, "prefix", false, "watch all keys that begin with KEY")
	cmd.Flags().Uint64Var(&r.After, "after", 0, "begin with the changes after this key revision")
	cmd.Flags().BoolVar(&r.Prev, "prev", false, "with each change, the version before it")
	cmd.Flags().IntVarP(&count, "count", "n", 0, "end after this many changes; 0 for never")
	return cmd
}

var errEnough = errors.New("enough events")

func (a *app) event(e keys.Event) error {
	kind := "put"
	if e.Kind == keys.EventDelete {
		kind = "delete"
	}
	if a.output == "json" {
		out := eventJSON{Type: kind, KV: keyJSON(e.KV, kind == "put"), PrevRevision: e.PrevRevision}
		if e.Prev != nil {
			prev := keyJSON(*e.Prev, true)
			out.Prev = &prev
		}
		return a.line(out)
	}
	text := fmt.Sprintf("%d %s %s", e.KV.ModRevision, kind, printable(e.KV.Key, 0))
	if kind == "put" {
		text += " " + printable(e.KV.Value, 0)
	}
	if e.Prev != nil {
		text += " (was " + printable(e.Prev.Value, 0) + ")"
	}
	_, err := fmt.Fprintln(a.Stdout, text)
	return err
}

func (a *app) kvHistory() *cobra.Command {
	var (
		r     keys.HistoryRequest
		limit int
	)
	cmd := &cobra.Command{
		Use: "history KEY", Short: "Show the versions of a key, newest first", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 0 {
				return errs.Invalid("--limit", limit, "0 (all) or more")
			}
			r.Key = []byte(args[0])
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				all := []keys.KV{}
				var compacted uint64
				for {
					r.Limit = listPage
					if limit > 0 {
						r.Limit = min(listPage, limit-len(all))
					}
					page, err := b.History(ctx, r)
					if err != nil {
						return err
					}
					compacted = page.CompactRevision
					all = append(all, page.Items...)
					if !page.More || len(page.Items) == 0 || limit > 0 && len(all) >= limit {
						break
					}
					r.Before = all[len(all)-1].ModRevision
				}
				items := make([]kvJSON, len(all))
				for i := range all {
					items[i] = keyJSON(all[i], true)
				}
				return a.emit(map[string]any{"key": args[0], "compact_revision": compacted, "items": items}, func(t *table) {
					t.row("REVISION", "CHANGE", "VALUE", "TIME", "BY")
					for _, kv := range all {
						if kv.Deleted {
							t.row(kv.ModRevision, "delete", "", when(kv.Modified), kv.Actor)
						} else {
							t.row(kv.ModRevision, "put", printable(kv.Value, valueWidth), when(kv.Modified), kv.Actor)
						}
					}
				})
			})
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 0, "most versions; 0 for all")
	staleFlag(cmd, &r.Stale)
	return cmd
}

func (a *app) kvCompact() *cobra.Command {
	return &cobra.Command{
		Use: "compact REVISION", Short: "Give up the history before a key revision", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			rev, err := parseRevision("REVISION", args[0])
			if err != nil {
				return err
			}
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				at, err := b.Compact(ctx, rev)
				if err != nil {
					return err
				}
				return a.emit(map[string]any{"compact_revision": at}, func(t *table) {
					t.row(fmt.Sprintf("history begins at revision %d", at))
				})
			})
		},
	}
}

func parseRevision(field, text string) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n == 0 {
		return 0, errs.Invalid(field, text, "a key revision, 1 or more")
	}
	return n, nil
}

func (a *app) kvStatus() *cobra.Command {
	var stale bool
	cmd := &cobra.Command{
		Use: "status", Short: "Show how large the store is", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				s, err := b.KeyStatus(ctx, stale)
				if err != nil {
					return err
				}
				out := map[string]any{
					"revision": s.Revision, "store_revision": s.StoreRevision, "compact_revision": s.CompactRevision,
					"keys": s.Keys, "bytes": s.Bytes,
				}
				return a.emit(out, func(t *table) {
					t.row("keys", s.Keys)
					t.row("bytes", s.Bytes)
					t.row("revision", s.Revision)
					t.row("compact revision", s.CompactRevision)
					t.row("store revision", s.StoreRevision)
					if s.Stale {
						t.row("stale", staleText(s.Header))
					}
				})
			})
		},
	}
	staleFlag(cmd, &stale)
	return cmd
}
