package cli

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"nekoq/client"
	"nekoq/warehouse/form"
)

type claimJSON struct {
	Holder  string   `json:"holder"`
	Token   uint64   `json:"token"`
	Since   string   `json:"since,omitempty"`
	Lease   string   `json:"lease,omitempty"`
	Waiting []string `json:"waiting"`
}

func claimOf(c *client.Claim) claimJSON {
	out := claimJSON{Holder: c.Holder, Token: c.Token, Lease: form.LeaseText(c.Lease), Waiting: append([]string{}, c.Waiting...)}
	if c.Token != 0 {
		out.Since = stamp(c.Since)
	}
	return out
}

func (c *claimJSON) same(o *claimJSON) bool {
	return c.Holder == o.Holder && c.Token == o.Token && slices.Equal(c.Waiting, o.Waiting)
}

// kvClaims shows locks or elections.
func (a *app) kvClaims(one, many, more string, look func(ctx context.Context, s Store, name string) (client.Claim, error),
	observe func(ctx context.Context, s Store, name string) (*client.Observation, error),
) *cobra.Command {
	var watch bool
	var count int
	cmd := &cobra.Command{
		Use: one + " NAME", Short: "Show who holds one of the " + many + ", its fencing token, and who waits", Args: cobra.ExactArgs(1),
		Long: "Show who holds one of the " + many + ", its fencing token, and who waits; with --watch again on every change, one line each. " + more,
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on, and print every change, until interrupted")
	cmd.Flags().IntVarP(&count, "count", "n", 0, "with --watch: end after this many lines; 0 for never")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if watch {
			return a.observeClaim(cmd, args[0], count, observe)
		}
		return a.store(cmd, func(ctx context.Context, s Store) error {
			c, err := look(ctx, s, args[0])
			if err != nil {
				return err
			}
			return a.emit(claimOf(&c), func(t *table) {
				if c.Token == 0 {
					t.row("nobody")
					return
				}
				t.row("holder", c.Holder)
				t.row("token", c.Token)
				t.row("since", when(c.Since))
				for _, w := range c.Waiting {
					t.row("waiting", w)
				}
			})
		})
	}
	return cmd
}

// observeClaim prints one line for each state.
func (a *app) observeClaim(cmd *cobra.Command, name string, count int, observe func(ctx context.Context, s Store, name string) (*client.Observation, error)) error {
	return a.connected(func(b Backend) error {
		s, err := storeOf(cmd, b)
		if err != nil {
			return err
		}
		ctx := cmd.Context()
		o, err := observe(ctx, s, name)
		if err != nil {
			return err
		}
		defer o.Close()
		var last claimJSON
		for seen := 0; ; {
			c, err := o.Next(ctx)
			now := claimOf(&c)
			switch {
			case ctx.Err() != nil:
				return nil
			case err != nil:
				return err
			case seen > 0 && now.same(&last): // told again after the loss of a server
				continue
			case a.output == "json":
				err = a.line(now)
			case c.Token == 0:
				_, err = fmt.Fprintln(a.Stdout, "nobody")
			default:
				_, err = fmt.Fprintf(a.Stdout, "%s token %d waiting %d\n", printable([]byte(c.Holder), 0), c.Token, len(c.Waiting))
			}
			last = now
			if seen++; err != nil || seen == count {
				return err
			}
		}
	})
}

// folderJSON is one event of a folder, one line each.
type folderJSON struct {
	Type string `json:"type"`
	KV   kvJSON `json:"kv"`
}

func (a *app) kvFolder() *cobra.Command {
	var count int
	cmd := &cobra.Command{
		Use: "folder PATH/", Short: "Print the keys of a folder, then its changes as they come", Args: cobra.ExactArgs(1),
		Long: `Print the keys below a path that ends with a slash as "existing", and then what is created, modified and deleted there, one per line
until interrupted. Nothing is lost or told twice, over the loss of servers too.`,
		Example: "  nekoq kv folder app/",
	}
	cmd.Flags().IntVarP(&count, "count", "n", 0, "end after this many lines; 0 for never")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.connected(func(b Backend) error {
			s, err := storeOf(cmd, b)
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			w, err := s.KV().WatchFolder(ctx, args[0])
			if err != nil {
				return err
			}
			defer w.Close()
			for seen := 0; ; {
				events, err := w.Next(ctx)
				switch {
				case ctx.Err() != nil:
					return nil
				case err != nil:
					return err
				}
				for i := range events {
					if err := a.folderEvent(&events[i]); err != nil {
						return err
					}
					if seen++; seen == count {
						return nil
					}
				}
			}
		})
	}
	return cmd
}

func (a *app) folderEvent(e *client.FolderEvent) error {
	deleted := e.Kind == client.FolderDeleted
	if a.output == "json" {
		return a.line(folderJSON{Type: string(e.Kind), KV: keyJSON(e.KV, !deleted)})
	}
	text := fmt.Sprintf("%d %s %s", e.KV.ModRevision, e.Kind, printable(e.KV.Key, 0))
	if !deleted {
		text += " " + printable(e.KV.Value, 0)
	}
	_, err := fmt.Fprintln(a.Stdout, text)
	return err
}
