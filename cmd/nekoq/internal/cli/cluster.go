package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nekoq/services/errs"
	"nekoq/services/peer/api"
)

func (a *app) cluster() *cobra.Command {
	cmd := &cobra.Command{
		Use: "cluster", Short: "See and change the cluster", Args: cobra.NoArgs, RunE: help,
		Example: `  nekoq cluster status
  nekoq cluster join n4
  nekoq cluster remove n1
  nekoq cluster verify --content`,
	}
	cmd.AddCommand(a.clusterStatus(), a.clusterNode(), a.clusterJoin(), a.clusterPromote(), a.clusterRemove(), a.clusterTransfer(), a.clusterVerify())
	a.completeArguments(cmd, memberNames, "join")
	return cmd
}

func (a *app) clusterStatus() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show members, leader and quorum", Args: cobra.NoArgs,
		Long: "Show members, leader and quorum, as the server that answers sees them.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				s, err := b.ClusterStatus(ctx)
				if err != nil {
					return err
				}
				if err := a.emit(s, func(t *table) { clusterTable(t, s) }); err != nil || s.Quorum.State != api.QuorumLost {
					return err
				}
				return errs.New(errs.NoLeader, "%d of %d voters live and %d are needed: writes are refused", s.Quorum.Alive, s.Quorum.Voters, s.Quorum.Needed)
			})
		},
	}
}

func clusterTable(t *table, s api.Cluster) {
	leader := s.LeaderID
	if leader == "" {
		leader = "none known"
	}
	t.row(fmt.Sprintf("cluster %s seen from %s: leader %s, term %d, version %d", s.ClusterID, s.SeenFrom, leader, s.Term, s.Version))
	t.row(fmt.Sprintf("quorum %s: %d of %d voters live, %d needed, %d more may fail",
		s.Quorum.State, s.Quorum.Alive, s.Quorum.Voters, s.Quorum.Needed, s.Quorum.MayFail))
	if h := s.Hashes; h != nil {
		t.row(fmt.Sprintf("state hashes %s at index %d (%s)", hashWord(h), h.Index, h.At.UTC().Format(time.RFC3339)))
	}
	t.row("ID", "ROLE", "STATE", "LAG", "HASH", "CLUSTER", "NATIVE", "HTTP", "NOTE")
	for _, n := range s.Nodes {
		t.row(n.ID, role(n), nodeState(n), n.Lag, n.State, n.Address, n.NativeAddress, n.HTTPAddress, n.Reason)
	}
}

func role(n api.Node) string {
	if n.Leader {
		return "leader"
	}
	return n.Role
}

func nodeState(n api.Node) string {
	switch {
	case !n.Alive && n.LastSeen != nil:
		return "dead since " + n.LastSeen.UTC().Format(time.RFC3339)
	case !n.Alive:
		return "dead"
	case n.Ready:
		return "ready"
	}
	return "alive"
}

// hashWord sums a comparison up.
func hashWord(h *api.HashReport) string {
	if h.Equal {
		return "equal"
	}
	for _, n := range h.Nodes {
		if n.Verdict == api.HashDiverged {
			return "DIVERGED"
		}
	}
	return "not all known"
}

func (a *app) clusterNode() *cobra.Command {
	return &cobra.Command{
		Use: "node", Short: "Show what the server that answers says of itself", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				n, err := b.Node(ctx)
				if err != nil {
					return err
				}
				return a.emit(n, func(t *table) {
					t.row("id", n.ID)
					t.row("mode", n.Mode)
					t.row("version", n.Version+" ("+n.Go+")")
					t.row("uptime", n.Uptime)
					t.row("leader", n.LeaderID)
					t.row("term", n.Term)
					t.row("applied index", n.AppliedIndex)
					t.row("durable index", n.DurableIndex)
					t.row("store revision", n.Revision)
					t.row("cluster version", n.Cluster)
					if n.Insecure {
						t.row("INSECURE", "no identities and no TLS")
					}
					if n.Storage != "" {
						t.row("storage", n.Storage)
					}
				})
			})
		},
	}
}

func (a *app) clusterJoin() *cobra.Command {
	return &cobra.Command{
		Use: "join ID", Aliases: []string{"add"}, Short: "Print how to start a node that joins the cluster", Args: cobra.ExactArgs(1),
		Long: `Print the command that starts a new node which joins the running cluster. Run it on the new machine; it takes part without a
vote until it has caught up, and becomes a voter then ("nekoq cluster status" shows it).`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				s, err := b.ClusterStatus(ctx)
				if err != nil {
					return err
				}
				var members []string
				for _, n := range s.Nodes {
					if n.ID == args[0] {
						return errs.New(errs.AlreadyExists, "%s is a member already (%s)", n.ID, nodeState(n))
					}
					if n.Alive && n.Address != "" {
						members = append(members, n.Address)
					}
				}
				if len(members) == 0 {
					return errs.New(errs.FailedPrecond, "there is no cluster to join: the server runs without peers (mode = \"localswitch\")")
				}
				command := []string{
					"nekoq", "serve", "--mode", "cluster", "--insecure", "--node-id", args[0], "--data-dir", "nekoq-data/" + args[0],
					"--set", "cluster.join=" + strings.Join(members, ","),
					"--set", "cluster.listen=HOST:9311", "--set", "http.listen=HOST:9310", "--set", "native.listen=HOST:9313",
					"--set", "warehouse.etcd.listen=HOST:2379",
				}
				return a.emit(map[string]any{"cluster_id": s.ClusterID, "members": members, "command": command}, func(*table) {
					fmt.Fprintf(a.Stdout, "Run this where the new node is to live, with its own address for HOST:\n\n  %s\n", strings.Join(command, " "))
				})
			})
		},
	}
}

// done is a command whose answer only names the leader.
func (a *app) done(cmd *cobra.Command, text string, do func(ctx context.Context, b Backend) (api.Done, error)) error {
	return a.online(cmd, func(ctx context.Context, b Backend) error {
		d, err := do(ctx, b)
		if err != nil {
			return err
		}
		return a.emit(d, func(t *table) {
			if d.LeaderID != "" {
				text += "; the leader is " + d.LeaderID
			}
			t.row(text)
		})
	})
}

func (a *app) clusterPromote() *cobra.Command {
	return &cobra.Command{
		Use: "promote ID", Short: "Make a joining member a voter now", Args: cobra.ExactArgs(1),
		Long: "Make a joining member a voter now, without waiting for it to keep up. It happens by itself when it has.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.done(cmd, args[0]+" is a voter", func(ctx context.Context, b Backend) (api.Done, error) {
				return b.PromoteMember(ctx, args[0])
			})
		},
	}
}

func (a *app) clusterRemove() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "remove ID", Short: "Remove a member for good", Args: cobra.ExactArgs(1),
		Long: "Remove a member for good. Its data folder can not come back; with an empty one it may join again.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.done(cmd, args[0]+" is removed", func(ctx context.Context, b Backend) (api.Done, error) {
				return b.RemoveMember(ctx, args[0], force)
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "even when the rest has no quorum of live nodes")
	return cmd
}

func (a *app) clusterTransfer() *cobra.Command {
	return &cobra.Command{
		Use: "transfer [ID]", Short: "Hand leadership to a member, or to the most advanced one", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			to := ""
			if len(args) > 0 {
				to = args[0]
			}
			return a.done(cmd, "leadership is handed over", func(ctx context.Context, b Backend) (api.Done, error) {
				return b.TransferLeadership(ctx, to)
			})
		},
	}
}

func (a *app) clusterVerify() *cobra.Command {
	var content bool
	cmd := &cobra.Command{
		Use: "verify", Aliases: []string{"hash"}, Short: "Compare the state hashes of all members now", Args: cobra.NoArgs,
		Long: `Compare the hash over all changes on every member at one log index. --content also compares a hash over all rows, which
reads the whole state on every node. The exit code is 4 when a node has diverged.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				h, err := b.CompareHashes(ctx, content)
				if err != nil {
					return err
				}
				err = a.emit(h, func(t *table) {
					t.row(fmt.Sprintf("state hashes %s at index %d", hashWord(&h), h.Index))
					t.row("ID", "VERDICT", "INDEX", "CHAIN", "CONTENT", "NOTE")
					for _, n := range h.Nodes {
						t.row(n.ID, n.Verdict, n.Index, n.Chain, n.Content, n.Reason)
					}
				})
				if err == nil && hashWord(&h) == "DIVERGED" {
					return errs.New(errs.Conflict, "a member has other data than the leader: stop it and let it join anew under a new id")
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&content, "content", false, "also compare a hash over all rows")
	return cmd
}

func (a *app) services() *cobra.Command {
	return &cobra.Command{
		Use: "services", Short: "Show the server's components, what they need and their states", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.online(cmd, func(ctx context.Context, b Backend) error {
				s, err := b.Services(ctx)
				if err != nil {
					return err
				}
				return a.emit(s, func(t *table) {
					t.row("NAME", "STATE", "SINCE", "NEEDS", "NOTE")
					for _, c := range s.Services {
						note := c.Error
						if c.OffReason != "" {
							note = c.OffReason
						}
						t.row(c.Name, c.State, c.Since.UTC().Format(time.RFC3339), strings.Join(c.Needs, ","), note)
					}
					if !s.Ready {
						t.row("not ready: " + s.Reason)
					}
				})
			})
		},
	}
}
