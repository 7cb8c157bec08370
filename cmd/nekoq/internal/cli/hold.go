package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"nekoq/client"
	"nekoq/services/errs"
	"nekoq/warehouse/form"
)

// Locks and elections that are held as long as a command of the shell runs.

// releaseWithin bounds the giving back of a lock after an interrupt; its lease ends it
// at the latest.
const releaseWithin = 5 * time.Second

// held is what "nekoq lock" and "nekoq elect" differ in.
type held struct {
	what, verb string // "lock", "hold"
	variable   string // names it in the command's environment
	take       func(ctx context.Context, s Store, on *client.Session, name, holder string) (*client.Lock, error)
	try        func(ctx context.Context, s Store, on *client.Session, name, holder string) (*client.Lock, client.Claim, error)
	look       func(ctx context.Context, s Store, name string) (client.Claim, error)
}

type holdFlags struct {
	ttl, wait, grace time.Duration
	try              bool
	holder           string
}

func (f *holdFlags) add(cmd *cobra.Command) {
	cmd.Flags().DurationVar(&f.ttl, "ttl", 10*time.Second, "time without a word from here after which it passes to the next, at least 1s")
	cmd.Flags().DurationVar(&f.wait, "wait", 0, "longest wait in line; 0 for no bound")
	cmd.Flags().BoolVar(&f.try, "try", false, "do not wait: fail (exit code 4) when another holds it")
	cmd.Flags().DurationVar(&f.grace, "grace", 5*time.Second, "when it is lost: time for the command to end after SIGTERM, before SIGKILL")
}

func (f *holdFlags) check() error {
	switch {
	case f.ttl < time.Second:
		return errs.Invalid("--ttl", f.ttl, "at least 1s")
	case f.wait < 0:
		return errs.Invalid("--wait", f.wait, "0 (no bound) or a duration such as 30s")
	case f.grace <= 0:
		return errs.Invalid("--grace", f.grace, "a duration above 0, such as 5s")
	case f.try && f.wait != 0:
		return errs.New(errs.InvalidArgument, "--try does not wait: give it or --wait, not both")
	}
	return nil
}

const environmentOfHeld = `The environment of the command names it: NEKOQ_%s, NEKOQ_FENCING_TOKEN, NEKOQ_LEASE. A store that keeps the greatest token that it has
seen can refuse a holder that lost it; "nekoq kv txn --holding" does so for keys.`

func (a *app) lock() *cobra.Command {
	var f holdFlags
	cmd := &cobra.Command{
		Use: "lock NAME [-- COMMAND [ARG...]]", Short: "Take a lock, and hold it while a command runs",
		Long: `Wait in line for a lock, hold it while the command runs, and give it back. Without a command it is held until interrupted. While it is
held, a lease is kept alive, over the loss of servers too. When that fails for as long as --ttl, the lock is lost: the command
is ended, and the exit code is 4. Else it is that of the command.

` + fmt.Sprintf(environmentOfHeld, "LOCK") + `

"nekoq kv lock NAME" shows who holds it.`,
		Example: `  nekoq lock deploy -- ./deploy.sh
  nekoq lock deploy --try -- ./deploy.sh || echo somebody else does
  nekoq lock deploy --wait 30s -- sh -c 'nekoq kv txn --holding lock:deploy=$NEKOQ_FENCING_TOKEN --then "put app/version 7"'`,
		Args: heldArgs(1, "NAME"),
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.holder, "holder", "", "who holds it, as others see it; host:pid by default")
	h := held{
		what: "lock", verb: "hold", variable: "NEKOQ_LOCK",
		take: func(ctx context.Context, s Store, on *client.Session, name, holder string) (*client.Lock, error) {
			return s.Locks().Acquire(ctx, on, name, holder)
		},
		try: func(ctx context.Context, s Store, on *client.Session, name, holder string) (*client.Lock, client.Claim, error) {
			return s.Locks().Try(ctx, on, name, holder)
		},
		look: func(ctx context.Context, s Store, name string) (client.Claim, error) {
			return s.Locks().Look(ctx, name)
		},
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return a.hold(cmd, &h, &f, args[0], args[1:]) }
	return cmd
}

func (a *app) elect() *cobra.Command {
	var f holdFlags
	cmd := &cobra.Command{
		Use: "elect NAME VALUE [-- COMMAND [ARG...]]", Short: "Stand for an election, and lead while a command runs",
		Long: `Stand for an election under VALUE, lead while the command runs, and resign. Without a command it leads until interrupted. While it
leads, a lease is kept alive, over the loss of servers too. When that fails for as long as --ttl, the leadership is lost: the
command is ended, and the exit code is 4. Else it is that of the command.

` + fmt.Sprintf(environmentOfHeld, "ELECTION") + `

"nekoq kv election NAME" shows who leads, with --watch on every change.`,
		Example: `  nekoq elect scheduler host1:8080 -- ./scheduler
  nekoq elect scheduler host1:8080 --try
  nekoq kv election scheduler --watch`,
		Args: heldArgs(2, "NAME and VALUE"),
	}
	f.add(cmd)
	h := held{
		what: "election", verb: "lead", variable: "NEKOQ_ELECTION",
		take: func(ctx context.Context, s Store, on *client.Session, name, holder string) (*client.Lock, error) {
			return s.Elections().Campaign(ctx, on, name, holder)
		},
		try: func(ctx context.Context, s Store, on *client.Session, name, holder string) (*client.Lock, client.Claim, error) {
			return s.Elections().Try(ctx, on, name, holder)
		},
		look: func(ctx context.Context, s Store, name string) (client.Claim, error) {
			return s.Elections().Leader(ctx, name)
		},
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		f.holder = args[1]
		return a.hold(cmd, &h, &f, args[0], args[2:])
	}
	return cmd
}

// heldArgs wants n arguments, and whatever stands behind --.
func heldArgs(n int, names string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		dash := cmd.ArgsLenAtDash()
		switch {
		case dash < 0 && len(args) == n, dash == n && len(args) > n:
			return nil
		case dash == n:
			return errs.New(errs.InvalidArgument, "no command stands behind --")
		case dash < 0 && len(args) > n:
			return errs.New(errs.InvalidArgument, "want %s, and a command behind --: nekoq %s -- COMMAND", names, cmd.Name())
		}
		return errs.New(errs.InvalidArgument, "want %s; see nekoq %s --help", names, cmd.Name())
	}
}

// hold takes it, runs the command or waits for an interrupt, and gives it back.
func (a *app) hold(cmd *cobra.Command, h *held, f *holdFlags, name string, command []string) error {
	if err := f.check(); err != nil {
		return err
	}
	if f.holder == "" {
		host, _ := os.Hostname()
		f.holder = host + ":" + strconv.Itoa(os.Getpid())
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM)
	defer stop()
	return a.patiently(func(b Backend) error {
		s, err := storeOf(cmd, b)
		if err != nil {
			return err
		}
		first, cancel := context.WithTimeout(ctx, a.timeout)
		session, err := s.Leases().Session(first, f.ttl)
		cancel()
		if err != nil {
			return err
		}
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseWithin)
			defer cancel()
			_ = session.Close(ctx) // else the lease ends by itself
		}()
		l, err := a.takeHeld(ctx, s, h, f, session, name)
		if err != nil {
			return err
		}
		if err := a.tellHeld(h, name, f.holder, l, session, len(command) > 0); err != nil {
			return err
		}
		return a.while(ctx, h, f, l, session, name, command)
	})
}

// takeHeld takes it at once, or waits in line and says for whom.
func (a *app) takeHeld(ctx context.Context, s Store, h *held, f *holdFlags, on *client.Session, name string) (*client.Lock, error) {
	once, cancel := context.WithTimeout(ctx, a.timeout)
	l, now, err := h.try(once, s, on, name, f.holder)
	cancel()
	if err != nil || l != nil {
		return l, err
	}
	taken := func(more string) error {
		return errs.New(errs.Conflict, "%s %q: %q has it under token %d%s", h.what, name, now.Holder, now.Token, more).
			With(errs.Detail{Field: "NAME", Value: name})
	}
	if f.try {
		return nil, taken("")
	}
	fmt.Fprintf(a.Stderr, "nekoq: waiting for the %s %s: %q has it under token %d\n", h.what, name, now.Holder, now.Token)
	wait := ctx
	if f.wait > 0 {
		wait, cancel = context.WithTimeout(ctx, f.wait)
		defer cancel()
	}
	if l, err = h.take(wait, s, on, name, f.holder); err == nil || ctx.Err() != nil || wait.Err() == nil {
		return l, err
	}
	look, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	if c, lookErr := h.look(look, s, name); lookErr == nil {
		now = c
	}
	return nil, taken(fmt.Sprintf(", and did not give it up within %s", f.wait))
}

type heldJSON struct {
	Name   string `json:"name"`
	Holder string `json:"holder"`
	Token  uint64 `json:"token"`
	Lease  string `json:"lease"`
}

// tellHeld says what is held: on the standard output, unless a command has that for
// itself.
func (a *app) tellHeld(h *held, name, holder string, l *client.Lock, on *client.Session, command bool) error {
	w := a.Stdout
	if command {
		w = a.Stderr
	}
	if a.output == "json" {
		return a.lineTo(w, heldJSON{Name: name, Holder: holder, Token: l.Token, Lease: form.LeaseText(on.ID())})
	}
	if command {
		_, err := fmt.Fprintf(w, "nekoq: %s %s is ours under token %d\n", h.what, name, l.Token)
		return err
	}
	_, err := fmt.Fprintf(w, "token %d\n", l.Token)
	return err
}

// while runs the command, or waits for an interrupt, and then gives it back.
func (a *app) while(ctx context.Context, h *held, f *holdFlags, l *client.Lock, on *client.Session, name string, command []string) error {
	lost := func() error {
		return errs.New(errs.NotLeader, "the %s %s is lost: %v", h.what, name, errs.From(on.Err()).Message)
	}
	var ended error
	if len(command) == 0 {
		select {
		case <-l.Done():
			return lost()
		case <-ctx.Done():
		}
	} else {
		ended = a.runHeld(ctx, h, f, l, on, name, command)
		select {
		case <-l.Done():
			return lost()
		default:
		}
	}
	back, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseWithin)
	defer cancel()
	if err := l.Release(back); errs.Has(err, errs.NotLeader) {
		return errs.New(errs.NotLeader, "the %s %s was lost before it was given back", h.what, name).Wrap(err)
	} else if err != nil && ended == nil {
		return err
	}
	return ended
}

// runHeld runs the command; it is ended when ctx ends or when what it needs is lost.
func (a *app) runHeld(ctx context.Context, h *held, f *holdFlags, l *client.Lock, on *client.Session, name string, command []string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-l.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	c := exec.CommandContext(ctx, command[0], command[1:]...)
	c.Stdin, c.Stdout, c.Stderr = a.Stdin, a.Stdout, a.Stderr
	c.Env = append(append([]string{}, a.Environ...),
		h.variable+"="+name, "NEKOQ_FENCING_TOKEN="+strconv.FormatUint(l.Token, 10), "NEKOQ_LEASE="+strconv.FormatUint(on.ID(), 10))
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.WaitDelay = f.grace
	err := c.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if st, ok := exit.Sys().(syscall.WaitStatus); ok && st.Signaled() {
			return commandExit(128 + int(st.Signal()))
		}
		return commandExit(exit.ExitCode())
	}
	if err != nil && ctx.Err() == nil {
		return errs.New(errs.InvalidArgument, "%s cannot be run: %v", command[0], err).Wrap(err)
	}
	return nil
}

// commandExit is the exit code of a command that was run, which becomes ours.
type commandExit int

func (e commandExit) Error() string {
	return fmt.Sprintf("the command ended with exit code %d", int(e))
}
