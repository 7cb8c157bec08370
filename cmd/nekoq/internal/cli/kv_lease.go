package cli

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"nekoq/client"
	"nekoq/services/errs"
	"nekoq/warehouse/form"
)

type leaseJSON struct {
	ID        string   `json:"id"`
	TTL       string   `json:"ttl"`
	Remaining string   `json:"remaining"`
	Token     uint64   `json:"token"`
	Keys      []string `json:"keys,omitempty"`
}

func (a *app) kvLease() *cobra.Command {
	cmd := &cobra.Command{
		Use: "lease", Short: "Grant, keep, list and revoke leases", Args: cobra.NoArgs, RunE: help,
		Example: `  nekoq kv lease grant 30s
  nekoq kv put app/me here --lease 7587912
  nekoq kv lease keepalive 7587912 --hold
  nekoq kv lease list`,
	}
	show := func(l client.LeaseInfo, err error) error {
		if err != nil {
			return err
		}
		out := leaseJSON{ID: fmt.Sprint(l.ID), TTL: l.TTL.String(), Remaining: l.Remaining.String(), Token: l.Token}
		for _, k := range l.Keys {
			out.Keys = append(out.Keys, string(k))
		}
		return a.emit(out, func(t *table) {
			t.row("lease", out.ID)
			t.row("ttl", out.TTL)
			t.row("remaining", out.Remaining)
			for _, k := range l.Keys {
				t.row("key", printable(k, valueWidth))
			}
		})
	}
	one := func(use, short string, fn func(ctx context.Context, l *client.Leases, id uint64) error) *cobra.Command {
		c := &cobra.Command{Use: use + " ID", Short: short, Args: cobra.ExactArgs(1)}
		if use == "get" {
			c.Aliases = []string{"ttl", "timetolive"}
		}
		c.RunE = func(cmd *cobra.Command, args []string) error {
			id, err := parseLease(args[0])
			if err != nil {
				return err
			}
			return a.store(cmd, func(ctx context.Context, s Store) error { return fn(ctx, s.Leases(), id) })
		}
		return c
	}
	grant := &cobra.Command{Use: "grant TTL", Short: "Grant a lease, such as 30s", Args: cobra.ExactArgs(1)}
	grant.RunE = func(cmd *cobra.Command, args []string) error {
		ttl, err := time.ParseDuration(args[0])
		if err != nil {
			return errs.Invalid("TTL", args[0], "a duration such as 30s")
		}
		return a.store(cmd, func(ctx context.Context, s Store) error { return show(s.Leases().Grant(ctx, ttl)) })
	}
	list := &cobra.Command{
		Use: "list", Short: "List the leases", Args: cobra.NoArgs,
		Long: "List the leases that were granted, and those of locks and elections; not those of single keys with a time to live.",
	}
	limit := list.Flags().Int("limit", 0, "most leases; 0 for all")
	list.RunE = func(cmd *cobra.Command, _ []string) error {
		if *limit < 0 {
			return errs.Invalid("--limit", *limit, "0 or more")
		}
		return a.store(cmd, func(ctx context.Context, s Store) error {
			out := []string{}
			for id, err := range s.Leases().All(ctx) {
				if err != nil {
					return err
				}
				if out = append(out, form.LeaseText(id)); len(out) == *limit {
					break
				}
			}
			return a.emit(map[string]any{"leases": out}, func(t *table) {
				for _, id := range out {
					t.row(id)
				}
			})
		})
	}
	cmd.AddCommand(grant, list,
		one("get", "Show what a lease has left, and its keys", func(ctx context.Context, l *client.Leases, id uint64) error { return show(l.Get(ctx, id)) }),
		a.kvKeepAlive(show),
		one("revoke", "End a lease and delete its keys", func(ctx context.Context, l *client.Leases, id uint64) error {
			if err := l.Revoke(ctx, id); err != nil {
				return err
			}
			return a.emit(map[string]string{"id": form.LeaseText(id)}, func(t *table) { t.row(fmt.Sprintf("lease %d is revoked, and its keys are deleted", id)) })
		}),
	)
	return cmd
}

func parseLease(text string) (uint64, error) {
	id, err := strconv.ParseUint(text, 10, 64)
	if err != nil || id == 0 {
		return 0, errs.Invalid("ID", text, "the number of a lease")
	}
	return id, nil
}

// kvKeepAlive keeps a lease alive, once or until it is interrupted.
func (a *app) kvKeepAlive(show func(client.LeaseInfo, error) error) *cobra.Command {
	var hold bool
	cmd := &cobra.Command{
		Use: "keepalive ID", Aliases: []string{"keep-alive"}, Short: "Give a lease its whole time again", Args: cobra.ExactArgs(1),
		Long: "Give a lease its whole time again, once; with --hold three times in each TTL until interrupted, over the loss of servers too.",
	}
	cmd.Flags().BoolVar(&hold, "hold", false, "go on until interrupted")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		id, err := parseLease(args[0])
		if err != nil {
			return err
		}
		if !hold {
			return a.store(cmd, func(ctx context.Context, s Store) error { return show(s.Leases().KeepAlive(ctx, id)) })
		}
		return a.patiently(func(b Backend) error {
			s, err := storeOf(cmd, b)
			if err != nil {
				return err
			}
			return keepOn(cmd.Context(), s.Leases(), id, a.timeout)
		})
	}
	return cmd
}

// keepOn keeps a lease alive until ctx ends. Without an answer for a whole TTL it may
// be gone, and goes on being asked for: only a server can say that it is.
func keepOn(ctx context.Context, l *client.Leases, id uint64, timeout time.Duration) error {
	for {
		try, cancel := context.WithTimeout(ctx, timeout)
		info, err := l.KeepAlive(try, id)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case errs.Has(err, errs.LeaseNotFound):
			return err
		case err != nil && !errs.From(err).Retryable() && !errs.Has(err, errs.OutcomeUnknown):
			return err
		}
		pause := time.NewTimer(max(info.TTL/3, 100*time.Millisecond))
		select {
		case <-ctx.Done():
			pause.Stop()
			return nil
		case <-pause.C:
		}
	}
}
