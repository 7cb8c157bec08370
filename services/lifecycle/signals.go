package lifecycle

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
	"time"

	"nekoq/services/errs"
)

// ErrForced is what Run answers when a second signal cut the stop short. The
// caller should end the process at once: components may still be running.
var ErrForced = errs.New(errs.Canceled, "stopped at once by a second signal; components may not have ended in order")

// RunSignals is Run with SIGTERM and SIGINT.
func RunSignals(ctx context.Context, g *Graph) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	defer signal.Stop(signals)
	return g.Run(ctx, signals)
}

// sameSignal is the time within which a second signal is the first one, delivered
// twice: supervisors and shells signal a process and then its group.
const sameSignal = 250 * time.Millisecond

// Run starts the graph and runs until a signal, the end of ctx or a failure;
// then it drains and stops. A second signal stops at once. The error is the
// first cause, or what went wrong while stopping, or nil.
func (g *Graph) Run(ctx context.Context, signals <-chan os.Signal) error {
	runCtx, ended := context.WithCancel(ctx)
	defer ended()
	stopCtx, force := context.WithCancel(context.WithoutCancel(ctx))
	defer force()
	finished := make(chan error, 1)
	go func() {
		err := g.Start(runCtx)
		if err == nil {
			select {
			case <-runCtx.Done():
			case <-g.background.Done(): // something failed, and all is being stopped
			}
		}
		stopErr := g.Stop(stopCtx)
		switch {
		case err != nil && !(errs.Has(err, errs.Canceled) && runCtx.Err() != nil):
			finished <- err
		case g.failure() != nil:
			finished <- g.failure()
		default:
			finished <- stopErr
		}
	}()
	var first time.Time
	for {
		select {
		case err := <-finished:
			return err
		case s := <-signals:
			if !first.IsZero() && time.Since(first) < sameSignal {
				continue
			}
			if !first.IsZero() {
				g.opts.Logger.Warn("second signal: stopping at once", "signal", s.String())
				force()
				return ErrForced
			}
			first = time.Now()
			g.opts.Logger.Info("signal: draining; a second one stops at once", "signal", s.String())
			ended()
		}
	}
}

// failure is the first cause when it is a component's.
func (g *Graph) failure() error {
	if f, ok := errors.AsType[*Failure](g.Cause()); ok {
		return f
	}
	return nil
}
