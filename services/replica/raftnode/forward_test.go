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

// An answer is fetched part by part, once, and is forgotten then; an asking node that
// never comes does not hold more memory than is allowed.
func TestAnswersAreKeptUntilFetched(t *testing.T) {
	var a answers
	data := make([]byte, 2*answerPart+1)
	for i := range data {
		data[i] = byte(i * 7)
	}
	announced := func(b []byte) (id, size uint64) {
		require.Equal(t, outcomeParts, b[0])
		r := outcomeReader{buf: b[1:]}
		id, size = r.uvarint(), r.uvarint()
		require.False(t, r.failed)
		require.Empty(t, r.buf)
		return id, size
	}
	id, size := announced(a.keep(data, nil))
	require.Equal(t, uint64(len(data)), size)
	var got []byte
	for uint64(len(got)) < size {
		part, err := a.part(id, uint64(len(got)), nil)
		require.NoError(t, err)
		require.LessOrEqual(t, len(part), answerPart)
		got = append(got, part...)
	}
	require.Equal(t, data, got)
	_, err := a.part(id, 0, nil)
	require.Equal(t, errs.NotFound, errs.CodeOf(err))
	require.Zero(t, a.bytes)

	first, _ := announced(a.keep(data, nil))
	_, err = a.part(first, size, nil)
	require.Error(t, err, "behind the end")
	a.bytes += keptAnswers - len(data) // as if others were kept
	second, _ := announced(a.keep(data, nil))
	_, err = a.part(first, 0, nil)
	require.Equal(t, errs.NotFound, errs.CodeOf(err), "the oldest went")
	a.drop(second)
	a.drop(second)
	require.Empty(t, a.kept)
	require.Empty(t, a.order)
}
