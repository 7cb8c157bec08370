package client

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"nekoq/services/errs"
	"nekoq/services/wire"
)

// Pauses between the attempts of one request, once every live endpoint has been
// tried: an election or a restart takes some hundreds of milliseconds.
const (
	retryMin = 10 * time.Millisecond
	retryMax = 400 * time.Millisecond
)

// trial is one request with its retries.
type trial struct {
	c     *Client
	r     wire.Request
	write bool
	sess  *session

	doubt   bool // an attempt may have been carried out
	expired int
	last    error    // of the last attempt that a server answered or lost
	failed  failures // by endpoint, of this request
	pause   time.Duration
}

// bound sets the deadline once: the context's, or the default one, which costs
// no timer.
func (t *trial) bound(ctx context.Context) {
	if !t.r.Deadline.IsZero() {
		return
	}
	if at, ok := ctx.Deadline(); ok {
		t.r.Deadline = at
		return
	}
	t.r.Deadline = time.Now().Add(t.c.cfg.Timeout)
}

// run attempts until an answer, an error that a retry does not cure, or the
// deadline.
func (t *trial) run(ctx context.Context) ([]byte, error) {
	t.bound(ctx)
	for {
		ep := t.c.pool.pick(&t.failed)
		if ep != nil {
			out, err := t.attempt(ctx, ep)
			if err == nil || !t.again(ep, err) {
				return out, t.explain(ctx, err)
			}
		}
		if err := t.wait(ctx, ep == nil); err != nil {
			return nil, t.explain(ctx, err)
		}
	}
}

func (t *trial) attempt(ctx context.Context, ep *endpoint) ([]byte, error) {
	if t.c.closed.Load() {
		return nil, errClosed
	}
	if t.sess != nil {
		t.r.RequestID.Acked = t.sess.acked()
	}
	slot, conn, err := ep.get(ctx, t.r.Deadline)
	if err != nil {
		return nil, err
	}
	out, err := conn.Do(ctx, t.r)
	if err != nil {
		slot.check(conn)
	}
	return out, err
}

// again tells whether another attempt may help, and notes why this one failed.
func (t *trial) again(ep *endpoint, err error) bool {
	code := errs.CodeOf(err)
	if code == errs.OutcomeUnknown {
		t.doubt = true
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		t.last = err
		return false
	}
	if code == errs.DeadlineExceeded {
		// The server's clock ran out first. Where in the handler is not known.
		t.doubt, t.last = true, err
		return false
	}
	// A node without disk space may be behind; another one can answer a read.
	if !tryElsewhere(code) && (t.write || code != errs.StorageFull) {
		return false
	}
	t.last = err
	t.failed.note(ep, err)
	return true
}

// tryElsewhere: the next endpoint, or the same one a moment later, may do it. A
// lost connection (outcome_unknown) is retried too: a read changes nothing, and
// a write has its request id.
func tryElsewhere(code errs.Code) bool {
	switch code {
	case errs.Unavailable, errs.ShuttingDown, errs.NoLeader, errs.OutcomeUnknown:
		return true
	}
	return false
}

// beforeState: a server that answers so has not asked the state, which knows
// the request ids. So it says nothing about an earlier attempt of the same write.
func beforeState(code errs.Code) bool {
	switch code {
	case errs.TooManyRequests, errs.StorageFull, errs.Canceled, errs.Unauthenticated, errs.Forbidden, errs.ServiceOff, errs.Internal:
		return true
	}
	return tryElsewhere(code)
}

// wait pauses before the next attempt, unless an endpoint is there that this
// request has not tried. The error ends the trial.
func (t *trial) wait(ctx context.Context, none bool) error {
	if !none && t.c.pool.untried(&t.failed) {
		return nil
	}
	if t.c.cfg.FailFast {
		return errDeadline
	}
	// A new round: everyone may be asked again.
	t.failed.newRound()
	t.pause = min(max(2*t.pause, retryMin), retryMax)
	pause := jitter(t.pause)
	if none {
		pause = max(pause, t.c.pool.untilReady())
	}
	if left := time.Until(t.r.Deadline); left <= pause {
		pause = left
	}
	if err := sleep(ctx, t.c.ctx, pause); err != nil {
		return err
	}
	if !time.Now().Before(t.r.Deadline) {
		return errDeadline
	}
	return nil
}

// errDeadline ends a trial whose time is up; explain says what was tried.
var errDeadline = errors.New("client: out of time")

// sleep waits for d, the caller or the client's end.
func sleep(ctx, client context.Context, d time.Duration) error {
	timer := time.NewTimer(max(d, 0))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-client.Done():
		return errClosed
	}
}

// explain turns the way a trial ended into the error for the caller.
func (t *trial) explain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if t.c.closed.Load() {
		err = errClosed
	}
	timeUp := err == errDeadline || errors.Is(err, context.DeadlineExceeded) || errs.Has(err, errs.DeadlineExceeded)
	if t.write && t.doubt && (timeUp || beforeState(errs.CodeOf(err))) {
		return errs.New(errs.OutcomeUnknown,
			"the write was sent, and no answer came%s; it may have taken effect", t.failed.told(": ")).Wrap(t.cause(err))
	}
	if errors.Is(err, context.Canceled) {
		return errs.From(context.Canceled)
	}
	if !timeUp {
		return err
	}
	if e := errs.From(t.last); e != nil && (e.Code == errs.NoLeader || e.Code == errs.StorageFull) {
		return e
	}
	if t.last != nil && len(t.failed.all) == 0 {
		return errs.New(errs.DeadlineExceeded, "no answer before the deadline").Wrap(t.cause(err))
	}
	return t.c.nobody(&t.failed, t.cause(err))
}

// nobody is the error of a request that no server answered.
func (c *Client) nobody(f *failures, cause error) error {
	c.pool.addDown(f)
	if len(f.all) == 0 {
		return errs.New(errs.DeadlineExceeded, "no answer before the deadline").Wrap(cause)
	}
	return errs.New(errs.Unavailable, "no server answered: %s%s", f.told(""), f.hint()).Wrap(cause)
}

func (t *trial) cause(err error) error {
	if err == errDeadline {
		return t.last
	}
	return err
}

// failures keeps the latest failure of each endpoint, for the error text, and
// which of them were tried in this round.
type failures struct {
	all []failure
}

type failure struct {
	ep    *endpoint
	err   error
	tried bool // in this round
}

func (f *failures) note(ep *endpoint, err error) {
	for i := range f.all {
		if f.all[i].ep == ep {
			f.all[i] = failure{ep, err, true}
			return
		}
	}
	f.all = append(f.all, failure{ep, err, true})
}

func (f *failures) has(ep *endpoint) bool {
	return slices.ContainsFunc(f.all, func(x failure) bool { return x.ep == ep })
}

func (f *failures) tried(ep *endpoint) bool {
	for i := range f.all {
		if f.all[i].ep == ep {
			return f.all[i].tried
		}
	}
	return false
}

func (f *failures) newRound() {
	for i := range f.all {
		f.all[i].tried = false
	}
}

// told lists the endpoints with what happened to each, after prefix; "" for none.
func (f *failures) told(prefix string) string {
	var b strings.Builder
	for i, x := range f.all {
		if i == 0 {
			b.WriteString(prefix)
		} else {
			b.WriteString("; ")
		}
		msg := "it took the stream and ended it"
		if x.err != nil {
			msg = errs.From(x.err).Message
		}
		if !strings.HasPrefix(msg, x.ep.addr) {
			b.WriteString(x.ep.addr + ": ")
		}
		b.WriteString(msg)
	}
	return b.String()
}

// hint is for the most common case of all.
func (f *failures) hint() string {
	for _, x := range f.all {
		if !refused(x.err) {
			return ""
		}
	}
	return "; is `nekoq serve` running?"
}
