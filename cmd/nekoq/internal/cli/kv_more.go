package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"nekoq/client"
	"nekoq/services/errs"
)

// Store is the rest of warehouse: what the commands take from the Go client as it is.
type Store interface {
	KV() *client.KV
	Leases() *client.Leases
	Locks() *client.Locks
	Elections() *client.Elections
}

func storeOf(cmd *cobra.Command, b Backend) (Store, error) {
	s, ok := b.(Store)
	if !ok {
		return nil, errs.New(errs.Unimplemented, "this client has no %s", cmd.CommandPath())
	}
	return s, nil
}

// store runs fn with the client's warehouse.
func (a *app) store(cmd *cobra.Command, fn func(ctx context.Context, s Store) error) error {
	return a.online(cmd, func(ctx context.Context, b Backend) error {
		s, err := storeOf(cmd, b)
		if err != nil {
			return err
		}
		return fn(ctx, s)
	})
}

func (a *app) kvMore() []*cobra.Command {
	return []*cobra.Command{
		a.kvTxn(), a.kvDiff(), a.kvRollback(), a.kvFolder(), a.kvQuota(), a.kvSpace(), a.kvDefrag(), a.kvLease(),
		a.kvClaims("lock", "locks", "nekoq lock NAME takes one.",
			func(ctx context.Context, s Store, name string) (client.Claim, error) {
				return s.Locks().Look(ctx, name)
			},
			func(ctx context.Context, s Store, name string) (*client.Observation, error) {
				return s.Locks().Observe(ctx, name)
			}),
		a.kvClaims("election", "elections", "nekoq elect NAME VALUE stands for one.",
			func(ctx context.Context, s Store, name string) (client.Claim, error) {
				return s.Elections().Leader(ctx, name)
			},
			func(ctx context.Context, s Store, name string) (*client.Observation, error) {
				return s.Elections().Observe(ctx, name)
			}),
	}
}

// spanArg reads KEY, or PREFIX with --prefix.
func spanArg(cmd *cobra.Command) func(arg string) client.KeySpan {
	prefix := cmd.Flags().Bool("prefix", false, "all keys that begin with the argument")
	return func(arg string) client.KeySpan {
		if *prefix {
			return client.SpanPrefix(arg)
		}
		return client.SpanOf(arg)
	}
}

func (a *app) kvDiff() *cobra.Command {
	var from, to uint64
	var limit int
	cmd := &cobra.Command{
		Use: "diff KEY", Short: "Show what differs between two revisions", Args: cobra.ExactArgs(1),
		Example: "  nekoq kv diff --prefix app/ --from 120\n  nekoq kv diff app/db --from 120 --to 130",
	}
	span := spanArg(cmd)
	cmd.Flags().Uint64Var(&from, "from", 0, "older revision")
	cmd.Flags().Uint64Var(&to, "to", 0, "newer revision; 0 is the newest")
	cmd.Flags().IntVar(&limit, "limit", 0, "most keys; 0 is the server's default")
	_ = cmd.MarkFlagRequired("from") // the flag exists
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.store(cmd, func(ctx context.Context, s Store) error {
			res, err := s.KV().Diff(ctx, span(args[0]), from, to, limit)
			if err != nil {
				return err
			}
			type difference struct {
				Key  string  `json:"key"`
				From *kvJSON `json:"from,omitempty"`
				To   *kvJSON `json:"to,omitempty"`
			}
			list := make([]difference, len(res.Differences))
			one := func(kv *client.KeyValue) *kvJSON {
				if kv == nil {
					return nil
				}
				out := keyJSON(*kv, true)
				return &out
			}
			for i, d := range res.Differences {
				list[i] = difference{string(d.Key), one(d.From), one(d.To)}
			}
			return a.emit(map[string]any{"differences": list, "more": res.More, "revision": res.Revision}, func(t *table) {
				t.row("KEY", "FROM", "TO")
				for _, d := range res.Differences {
					t.row(printable(d.Key, valueWidth), side(d.From), side(d.To))
				}
				if res.More {
					t.row("...", "", "")
				}
			})
		})
	}
	return cmd
}

func side(kv *client.KeyValue) string {
	if kv == nil {
		return "-"
	}
	return printable(kv.Value, valueWidth)
}

func (a *app) kvRollback() *cobra.Command {
	var rev uint64
	cmd := &cobra.Command{
		Use: "rollback KEY", Short: "Make keys what they were at a revision, as one new revision", Args: cobra.ExactArgs(1),
		Example: "  nekoq kv rollback --prefix app/ --revision 120",
	}
	span := spanArg(cmd)
	cmd.Flags().Uint64Var(&rev, "revision", 0, "the revision to go back to")
	_ = cmd.MarkFlagRequired("revision") // the flag exists
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.store(cmd, func(ctx context.Context, s Store) error {
			res, err := s.KV().Rollback(ctx, span(args[0]), rev)
			if err != nil {
				return err
			}
			return a.emit(map[string]uint64{"revision": res.Revision, "put": res.Put, "deleted": res.Deleted}, func(t *table) {
				t.row(fmt.Sprintf("revision %d: %d written, %d deleted", res.Revision, res.Put, res.Deleted))
			})
		})
	}
	return cmd
}

func (a *app) kvQuota() *cobra.Command {
	cmd := &cobra.Command{
		Use: "quota", Short: "Show and set quotas of prefixes", Args: cobra.NoArgs, RunE: help,
		Example: "  nekoq kv quota set tenant-a/ --bytes 104857600 --keys 10000\n  nekoq kv quota set tenant-a/ --write-rate 500\n  nekoq kv quota list",
	}
	list := &cobra.Command{Use: "list", Short: "List quotas with their use", Args: cobra.NoArgs}
	list.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.store(cmd, func(ctx context.Context, s Store) error {
			qs, err := s.KV().Quotas(ctx)
			if err != nil {
				return err
			}
			type used struct {
				quotaJSON
				Bytes   uint64 `json:"bytes"`
				Keys    uint64 `json:"keys"`
				Watches uint64 `json:"watches"`
			}
			out := make([]used, len(qs))
			for i, q := range qs {
				out[i] = used{quotaJSON{string(q.Prefix), q.MaxBytes, q.MaxKeys, q.MaxWatches, q.WriteRate}, q.Bytes, q.Keys, q.Watches}
			}
			return a.emit(map[string]any{"quotas": out}, func(t *table) {
				t.row("PREFIX", "KEYS", "BYTES", "WATCHES", "WRITES/S")
				of := func(used, most uint64) string { return fmt.Sprintf("%d/%s", used, most0(most)) }
				for _, q := range qs {
					t.row(printable(q.Prefix, valueWidth), of(q.Keys, q.MaxKeys), of(q.Bytes, q.MaxBytes), of(q.Watches, q.MaxWatches), most0(q.WriteRate))
				}
			})
		})
	}
	var q client.KeyQuota
	set := &cobra.Command{Use: "set PREFIX", Short: "Set the quota of a prefix; without any limit it is removed", Args: cobra.ExactArgs(1)}
	set.Flags().Uint64Var(&q.MaxBytes, "bytes", 0, "bytes of keys and values")
	set.Flags().Uint64Var(&q.MaxKeys, "keys", 0, "keys")
	set.Flags().Uint64Var(&q.MaxWatches, "watches", 0, "watches open on one server")
	set.Flags().Uint64Var(&q.WriteRate, "write-rate", 0, "puts a second")
	set.RunE = func(cmd *cobra.Command, args []string) error {
		q.Prefix = []byte(args[0])
		return a.store(cmd, func(ctx context.Context, s Store) error {
			if err := s.KV().SetQuota(ctx, q); err != nil {
				return err
			}
			return a.emit(quotaJSON{args[0], q.MaxBytes, q.MaxKeys, q.MaxWatches, q.WriteRate}, func(t *table) {
				if q.MaxBytes+q.MaxKeys+q.MaxWatches+q.WriteRate == 0 {
					t.row("the prefix " + printable(q.Prefix, 0) + " has no quota")
					return
				}
				t.row("the quota of the prefix " + printable(q.Prefix, 0) + " is set")
			})
		})
	}
	cmd.AddCommand(list, set)
	return cmd
}

// quotaJSON is a quota in the words of the REST door.
type quotaJSON struct {
	Prefix     string `json:"prefix"`
	MaxBytes   uint64 `json:"max_bytes,omitempty"`
	MaxKeys    uint64 `json:"max_keys,omitempty"`
	MaxWatches uint64 `json:"max_watches,omitempty"`
	WriteRate  uint64 `json:"write_rate,omitempty"`
}

func most0(n uint64) string {
	if n == 0 {
		return "-"
	}
	return strconv.FormatUint(n, 10)
}

func (a *app) kvSpace() *cobra.Command {
	var limit uint64
	cmd := &cobra.Command{
		Use: "space", Aliases: []string{"alarms"}, Short: "Show the space of the store and its alarms, or set its limit", Args: cobra.NoArgs,
		Long: `Show the space of the store: its limit, what is used of it, the state file of the server that answers, and the alarms. Those are space_80 and
space_95 at 80 and 95 % of the limit, and no_space when puts are refused. They go by themselves when space returns.`,
		Example: "  nekoq kv space\n  nekoq kv space --set-limit 17179869184",
	}
	cmd.Flags().Uint64Var(&limit, "set-limit", 0, "set the limit of the whole store in bytes; 0 is the default of 8 GiB")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.store(cmd, func(ctx context.Context, s Store) error {
			if cmd.Flags().Changed("set-limit") {
				if err := s.KV().SetStoreLimit(ctx, limit); err != nil {
					return err
				}
			}
			sp, alarms, err := s.KV().Space(ctx)
			return a.space(sp, alarms, true, err)
		})
	}
	return cmd
}

type spaceJSON struct {
	LimitBytes     int64    `json:"limit_bytes"`
	UsedBytes      int64    `json:"used_bytes"`
	FileBytes      int64    `json:"file_bytes"`
	FileInUseBytes int64    `json:"file_in_use_bytes"`
	Alarms         []string `json:"alarms"`
}

// space shows it; asked is whether the alarms are known.
func (a *app) space(sp client.KeySpace, alarms []string, asked bool, err error) error {
	if err != nil {
		return err
	}
	return a.emit(spaceJSON{sp.Limit, sp.Used, sp.File, sp.InUse, append([]string{}, alarms...)}, func(t *table) {
		t.row("used", fmt.Sprintf("%d of %d bytes", sp.Used, sp.Limit))
		t.row("file", fmt.Sprintf("%d bytes, %d in use", sp.File, sp.InUse))
		if asked {
			t.row("alarms", strings.Join(alarms, " "))
		}
	})
}

func (a *app) kvDefrag() *cobra.Command {
	cmd := &cobra.Command{
		Use: "defrag", Short: "Give the free space of the server's file back to its disk", Args: cobra.NoArgs,
		Long:    "Give the free space of the state file of the server that answers back to its disk; it goes on serving. Name one server with --endpoints.",
		Example: "  nekoq kv defrag --endpoints 127.0.0.1:9313",
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.store(cmd, func(ctx context.Context, s Store) error {
			sp, err := s.KV().Defragment(ctx)
			return a.space(sp, nil, false, err)
		})
	}
	return cmd
}
