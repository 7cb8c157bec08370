package raftnode

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"nekoq/services/errs"
	"nekoq/services/replica"
	"nekoq/services/replica/internal/group"
)

func TestOutcomesTravelWhole(t *testing.T) {
	res := replica.Result{Index: 1 << 40, Revision: 7, Changed: true, Data: []byte("data")}
	refused := errs.Invalid("name", "x", "at least 3").With(errs.Detail{Help: "ask"})
	var b []byte
	b = appendOutcome(b, res, nil)
	b = appendOutcome(b, replica.Result{}, refused)
	b = appendOutcome(b, replica.Result{}, errNotTaken)
	b = appendOutcome(b, replica.Result{}, errors.New("plain"))
	r := outcomeReader{buf: b}
	got, err := r.next()
	require.NoError(t, err)
	require.Equal(t, res, got)
	_, err = r.next()
	require.Equal(t, refused, errs.From(err))
	_, err = r.next()
	require.ErrorIs(t, err, errNotTaken)
	_, err = r.next()
	require.Equal(t, errs.Internal, errs.CodeOf(err))
	require.Empty(t, r.buf)
	require.False(t, r.failed)
}

func TestCallErrorsSayWhetherSomethingWasSent(t *testing.T) {
	for code, taken := range map[errs.Code]bool{
		errs.Unavailable: false, errs.NoLeader: false, errs.ShuttingDown: false, errs.TooManyRequests: false,
		errs.OutcomeUnknown: true, errs.Canceled: true, errs.DeadlineExceeded: true, errs.Internal: true,
	} {
		err := callError(errs.New(code, "x"))
		require.Equal(t, !taken, errors.Is(err, errNotTaken), code)
		if taken {
			require.Equal(t, errs.OutcomeUnknown, errs.CodeOf(err))
		}
	}
	require.Equal(t, errs.OutcomeUnknown, errs.CodeOf(finishAll(make([]*group.Proposal, 1), []byte{9})))
}

// What a later attempt is told never hides that an earlier one may have been
// carried out.
func TestErrorsAfterAnUnknownOutcome(t *testing.T) {
	refused := errs.New(errs.RevisionMismatch, "the answer of the state, first or repeated")
	for _, c := range []struct {
		err            error
		sent, session  bool
		again, nowSent bool
		code           errs.Code
	}{
		{errNotTaken, false, false, true, false, ""},
		{errNotTaken, true, true, true, true, ""},
		{group.Unknown(nil), false, false, false, true, errs.OutcomeUnknown},
		{group.Unknown(nil), false, true, true, true, ""},
		{errs.New(errs.TooManyRequests, "full"), false, true, false, false, errs.TooManyRequests},
		{errs.New(errs.TooManyRequests, "full"), true, true, true, true, ""},
		{errs.New(errs.StorageFull, "full"), true, true, true, true, ""},
		{errs.New(errs.SessionExpired, "gone"), false, true, false, false, errs.SessionExpired},
		{errs.New(errs.SessionExpired, "gone"), true, true, false, true, errs.OutcomeUnknown},
		{refused, true, true, false, true, errs.RevisionMismatch},
	} {
		sent := c.sent
		again, err := afterAttempt(c.err, &sent, c.session)
		require.Equal(t, c.again, again, "%v, sent %v", c.err, c.sent)
		require.Equal(t, c.nowSent, sent, "%v, sent %v", c.err, c.sent)
		if !again {
			require.Equal(t, c.code, errs.CodeOf(err), "%v, sent %v", c.err, c.sent)
		}
	}
}

func FuzzOutcomes(f *testing.F) {
	f.Add(appendOutcome(nil, replica.Result{Index: 3, Data: []byte("x")}, nil))
	f.Add(appendOutcome(nil, replica.Result{}, errs.Invalid("a", "b", "c")))
	f.Add([]byte{outcomeError, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Add([]byte{outcomeError, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := outcomeReader{buf: b}
		for len(r.buf) > 0 && !r.failed {
			_, _ = r.next()
		}
	})
}
