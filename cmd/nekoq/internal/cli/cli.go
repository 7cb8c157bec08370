// Package cli is the command line: serve, configuration, and the online commands
// over the Go client.
//
// It owns the words, the tables, the JSON of -o json and the exit codes. It keeps
// no state between commands. Only cmd/nekoq and its tests import it; what it
// needs of the server comes in through Env.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nekoq/configs"
	"nekoq/services/errs"
)

// Env is the process around a command.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Environ        []string
	Version        string
	// Terminal tells whether a person reads Stdout.
	Terminal bool
	// Serve runs a node until a signal or ctx ends it.
	Serve func(ctx context.Context, cfg configs.Config) error
	// Connect opens the online commands' connection.
	Connect func(endpoints []string, timeout time.Duration) (Backend, error)
	// Patient is Connect for commands that go on over the loss of servers.
	Patient func(endpoints []string, timeout time.Duration) (Backend, error)
}

// The exit codes.
const (
	exitOK = iota
	exitError
	exitUsage
	exitNotFound
	exitConflict
	exitUnavailable
	exitUnknown
	exitDenied
)

// exitCodes documents them.
var exitCodes = []struct {
	code int
	doc  string
}{
	{exitOK, "done"},
	{exitError, "an error that has no code of its own below"},
	{exitUsage, "the command line, the configuration or an argument is not valid"},
	{exitNotFound, "no such key, generator, member or lease"},
	{exitConflict, "the present state is another than demanded: it exists already, has another revision, a precondition fails, another holds the lock, or it was lost"},
	{exitUnavailable, "no server answered in time, or none can answer now (no leader, stopping, too busy): nothing was done"},
	{exitUnknown, "a write was sent and its outcome is not known: read before trying again"},
	{exitDenied, "not allowed"},
}

// app is one run of the command line.
type app struct {
	Env
	output    string
	endpoints []string
	timeout   time.Duration
	offline   bool // the command asks no server
	running   bool // the arguments were understood
}

// Main runs one command and gives the exit code.
func Main(ctx context.Context, args []string, env Env) int {
	a := &app{Env: env}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	return a.report(cmd, err)
}

const rootLong = `NekoQ coordinates a distributed system: it gives out ids and keeps small consistent data.

Run a server with "nekoq serve": without arguments it is LocalSwitch, one process on this machine with everything
on. The other commands speak to running servers over the native door.`

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:               "nekoq",
		Short:             "Ids and small consistent data for distributed systems, in one binary",
		Long:              rootLong + "\n\n" + exitHelp(),
		SilenceErrors:     true,
		SilenceUsage:      true,
		DisableAutoGenTag: true,
		Args:              cobra.NoArgs,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkGlobals(cmd); err != nil {
				return err
			}
			if err := cmd.ValidateRequiredFlags(); err != nil {
				return err
			}
			a.running = true
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.HiddenDefaultCmd = false
	root.AddGroup(
		&cobra.Group{ID: "server", Title: "Run a server:"},
		&cobra.Group{ID: "online", Title: "Speak to running servers:"},
	)
	for _, c := range []*cobra.Command{a.serve(), a.config()} {
		c.GroupID = "server"
		root.AddCommand(c)
	}
	for _, c := range []*cobra.Command{a.id(), a.kv(), a.lock(), a.elect(), a.area(), a.conf(), a.cluster(), a.services()} {
		c.GroupID = "online"
		a.onlineFlags(c)
		root.AddCommand(c)
	}
	root.AddCommand(a.version())
	root.PersistentFlags().StringVarP(&a.output, "output", "o", a.getenv("NEKOQ_OUTPUT", "table"), "table for people, json for programs")
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return root
}

func exitHelp() string {
	var b strings.Builder
	b.WriteString("Exit codes:\n")
	for _, e := range exitCodes {
		fmt.Fprintf(&b, "  %d  %s\n", e.code, e.doc)
	}
	return strings.TrimRight(b.String(), "\n")
}

func (a *app) getenv(name, otherwise string) string {
	for i := len(a.Environ) - 1; i >= 0; i-- {
		if v, ok := strings.CutPrefix(a.Environ[i], name+"="); ok && v != "" {
			return v
		}
	}
	return otherwise
}

func (a *app) checkGlobals(cmd *cobra.Command) error {
	if a.output != "table" && a.output != "json" {
		bad := a.output
		a.output = "table"
		return errs.Invalid("--output", bad, "table or json")
	}
	// Everything that goes on until it is interrupted ends after --count lines.
	if f := cmd.Flag("count"); f != nil && strings.HasPrefix(f.Value.String(), "-") {
		return errs.Invalid("--count", f.Value, "0 (never end) or more")
	}
	return a.checkOnline(cmd)
}

// report prints err for the reader at hand and gives the exit code. cmd is the command
// that was understood, or as far as it was.
func (a *app) report(cmd *cobra.Command, err error) int {
	if many, ok := errors.AsType[configs.Problems](err); ok {
		fmt.Fprintf(a.Stderr, "nekoq: %s\n", many.Error())
		return exitUsage
	}
	if !a.running && !isOurs(err) { // cobra's own words for a bad command line
		err = errs.New(errs.InvalidArgument, "%s; see %s --help", strings.TrimSuffix(err.Error(), "\n"), cmd.CommandPath())
	}
	if exit, ok := errors.AsType[commandExit](err); ok {
		return int(exit)
	}
	if !isOurs(err) && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
		fmt.Fprintf(a.Stderr, "nekoq: %v\n", err)
		return exitError
	}
	e := errs.From(err)
	message := e.Message
	if e.Code == errs.Unavailable && !a.offline {
		message = strings.TrimSuffix(message, "; is `nekoq serve` running?") + "; start one with `nekoq serve`, or name it with --endpoints"
	}
	if a.output == "json" {
		a.errorJSON(e, message)
	} else {
		fmt.Fprintf(a.Stderr, "nekoq: %s (%s)\n", message, e.Code)
	}
	code := exitCode(e.Code)
	if a.offline && code != exitUsage {
		return exitError // no server was asked: the other codes speak of its answers
	}
	return code
}

func (a *app) errorJSON(e *errs.Error, message string) {
	text, err := json.Marshal(struct {
		Code      errs.Code     `json:"code"`
		Message   string        `json:"message"`
		Retryable bool          `json:"retryable"`
		Details   []errs.Detail `json:"details,omitempty"`
	}{e.Code, message, e.Retryable(), e.Details})
	if err == nil {
		fmt.Fprintf(a.Stderr, "%s\n", text)
	}
}

func isOurs(err error) bool {
	_, ok := errors.AsType[*errs.Error](err)
	return ok
}

func exitCode(code errs.Code) int {
	switch code {
	case errs.InvalidArgument, errs.UnknownField, errs.BadPageToken, errs.FutureRevision, errs.TooLarge,
		errs.DuplicateKey, errs.TooManyOps:
		return exitUsage
	case errs.NotFound, errs.LeaseNotFound:
		return exitNotFound
	case errs.AlreadyExists, errs.RevisionMismatch, errs.Conflict, errs.FailedPrecond, errs.Compacted,
		errs.SessionExpired, errs.StaleToken, errs.NotLeader, errs.IdentityRefused, errs.VersionTooOld:
		return exitConflict
	case errs.NoLeader, errs.Unavailable, errs.ShuttingDown, errs.DeadlineExceeded, errs.TooManyRequests,
		errs.ServiceOff, errs.WatcherTooSlow, errs.WatchReset, errs.StorageFull, errs.ClockMovedBack:
		return exitUnavailable
	case errs.OutcomeUnknown:
		return exitUnknown
	case errs.Unauthenticated, errs.Forbidden:
		return exitDenied
	}
	return exitError
}

// Standard is the Env of a real process, without Serve and Connect.
func Standard() Env {
	terminal := false
	if st, err := os.Stdout.Stat(); err == nil {
		terminal = st.Mode()&os.ModeCharDevice != 0
	}
	return Env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Environ: os.Environ(), Terminal: terminal}
}
