package httpapi

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"

	"nekoq/services/errs"
)

// WaitQuery is embedded in the input of a typed route that long-polls.
type WaitQuery struct {
	Wait     string `query:"wait" doc:"Long poll: wait up to this long (such as 30s; at most http.max_wait) for something newer than revision."`
	Revision uint64 `query:"revision" doc:"Answer at once when something is newer than this revision."`
}

// Duration gives the wait, 0 for none.
func (q WaitQuery) Duration(s *Server) (time.Duration, error) { return s.parseWait(q.Wait) }

// Wait is a long poll's ?wait= and ?revision=.
type Wait struct {
	For         time.Duration // 0: answer at once
	Revision    uint64
	HasRevision bool
}

// WaitOf reads ?wait= and ?revision= of a raw route.
func WaitOf(c *gin.Context) (Wait, error) {
	var w Wait
	r := requestOf(c.Request.Context())
	if r == nil {
		return w, errs.New(errs.Internal, "internal error").Wrap(errors.New("WaitOf outside of a request"))
	}
	d, err := r.srv.parseWait(c.Query("wait"))
	if err != nil {
		return w, err
	}
	w.For = d
	if v, ok := c.GetQuery("revision"); ok {
		if w.Revision, err = strconv.ParseUint(v, 10, 64); err != nil {
			return w, errs.Invalid("revision", v, "a number from 0 to 18446744073709551615")
		}
		w.HasRevision = true
	}
	return w, nil
}

// WaitParams documents what WaitOf reads.
func WaitParams() []*huma.Param {
	return []*huma.Param{
		{Name: "wait", In: "query", Description: "Long poll: wait up to this long (such as 30s; at most http.max_wait) for something newer than revision.", Schema: &huma.Schema{Type: "string"}},
		{Name: "revision", In: "query", Description: "Answer at once when something is newer than this revision.", Schema: &huma.Schema{Type: "integer", Format: "uint64"}},
	}
}

func (s *Server) parseWait(v string) (time.Duration, error) {
	if v == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 || d > s.cfg.MaxWait {
		return 0, errs.Invalid("wait", v, "a duration from 0s to http.max_wait = "+s.cfg.MaxWait.String())
	}
	return d, nil
}

// LongPoll runs fn with a context that ends after wait, when the client goes
// away, or when the server drains; the request's own timeout does not count, and
// begins anew afterwards. The request is counted under http.max_waiting instead of the running
// ones. timedOut says that fn came back with the wait's end: the handler then
// answers that nothing is new. At the drain the error is shutting_down.
func LongPoll(ctx context.Context, wait time.Duration, fn func(ctx context.Context) error) (timedOut bool, err error) {
	ctx, cancel, err := waiting(ctx)
	if err != nil {
		return false, err
	}
	defer cancel()
	bounded, stop := context.WithTimeout(ctx, wait)
	defer stop()
	err = fn(bounded)
	if err == nil || bounded.Err() == nil || !isContextEnd(err) {
		return false, err
	}
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	return true, nil
}

// isContextEnd tells whether err is what a context's end looks like, as it is
// or after a service turned it into its own error.
func isContextEnd(err error) bool {
	code := errs.CodeOf(err)
	return code == errs.DeadlineExceeded || code == errs.Canceled
}

// waiting parks the request behind ctx and gives the context of its wait: the
// request's values, ended by the client, by the drain, or by the deadline that
// the client itself asked for.
func waiting(ctx context.Context) (context.Context, context.CancelFunc, error) {
	r := requestOf(ctx)
	if r == nil {
		ctx, cancel := context.WithCancel(ctx)
		return ctx, cancel, nil
	}
	if err := r.park(); err != nil {
		return nil, nil, err
	}
	base, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	unhookClient := context.AfterFunc(r.parent, func() { cancel(context.Cause(r.parent)) })
	unhookDrain := context.AfterFunc(r.srv.drainCtx, func() { cancel(errStopping) })
	out, stop := base, context.CancelFunc(func() {})
	if r.asked {
		out, stop = context.WithDeadline(base, r.deadline)
	} else {
		r.limit(time.Time{})
	}
	return out, func() {
		if !r.asked && r.route.timeout > 0 {
			r.limit(time.Now().Add(r.route.timeout)) // for what follows the wait
		}
		unhookClient()
		unhookDrain()
		stop()
		cancel(nil)
	}, nil
}
