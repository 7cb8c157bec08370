package state

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/services/command"
	"nekoq/services/errs"
)

func openSessionOn(f *fixture) uint64 {
	f.t.Helper()
	r := f.apply(OpenSession())
	require.NoError(f.t, r[0].Err)
	id, err := SessionID(r[0].Data)
	require.NoError(f.t, err)
	require.Equal(f.t, r[0].Revision, id)
	return id
}

func with(c command.Command, session, seq, acked uint64) command.Command {
	c.RequestID = command.RequestID{Session: session, Seq: seq, Acked: acked}
	return c
}

func TestRetriesGetTheFirstAnswer(t *testing.T) {
	modes(t, func(t *testing.T, mode Mode) {
		h := &hub{}
		f := open(t, Options{Mode: mode, Events: h})
		s := openSessionOn(f)
		cmds := []command.Command{
			with(put("a", "1"), s, 1, 1),
			with(command.Command{Kind: kindRefuse}, s, 2, 1),
			with(command.Command{Kind: kindNothing}, s, 4, 1), // out of order
			with(command.Command{Kind: kindEmit}, s, 3, 1),
		}
		first := f.apply(cmds...)
		require.Len(t, h.events, 1)
		check := func() {
			t.Helper()
			revision := f.hash().Revision
			for i, c := range cmds {
				got := f.apply(c)[0]
				require.Equal(t, first[i].Revision, got.Revision)
				require.Equal(t, first[i].Changed, got.Changed)
				require.Equal(t, first[i].Data, got.Data)
				require.Equal(t, errs.From(first[i].Err), errs.From(got.Err))
			}
			require.Equal(t, revision, f.hash().Revision)
			require.Len(t, h.events, 1)
		}
		check()
		f.flush()
		check()
		f.reopen()
		check()
		stream := f.snapshot()
		other := open(t, Options{Mode: mode, Events: h})
		require.NoError(t, other.Restore(newReader(stream)))
		other.index, _ = other.Applied()
		own := f
		f = other
		check()
		f = own

		// What the client has acknowledged is forgotten.
		f.apply(with(put("a", "2"), s, 5, 4))
		for i, c := range cmds {
			c.Acked = 0
			got := f.apply(c)[0]
			if c.Seq < 4 {
				require.True(t, errs.Has(got.Err, errs.SessionExpired), "request %d", i)
			} else {
				require.NoError(t, got.Err)
			}
		}
		v, _ := f.get("a")
		require.Equal(t, "2", v)
	})
}

func TestSessionsEnd(t *testing.T) {
	f := open(t, Options{})
	at := func(c command.Command, sec int64) command.Command {
		c.Time = sec * int64(time.Second)
		return c
	}
	f.apply(at(OpenSession(), 10)) // 1
	f.apply(at(OpenSession(), 10)) // 2
	f.apply(at(OpenSession(), 10)) // 3
	f.flush()                      // rows in the file
	f.apply(at(with(put("a", "1"), 2, 1, 1), 20))
	revision := f.hash().Revision
	r := f.apply(at(ExpireSessions(time.Unix(15, 0)), 30), with(put("a", "2"), 1, 1, 1),
		with(put("a", "3"), 2, 2, 1), with(put("a", "3"), 3, 1, 1))
	require.Equal(t, revision, r[0].Revision)
	require.True(t, errs.Has(r[1].Err, errs.SessionExpired))
	require.NoError(t, r[2].Err)
	require.True(t, errs.Has(r[3].Err, errs.SessionExpired))
	f.reopen()
	require.Len(t, f.sessions.byID, 1)
	r = f.apply(CloseSession(2), CloseSession(99), with(put("a", "4"), 2, 3, 1), with(put("a", "4"), 77, 0, 1))
	require.NoError(t, r[0].Err)
	require.NoError(t, r[1].Err)
	require.True(t, errs.Has(r[2].Err, errs.SessionExpired))
	require.True(t, errs.Has(r[3].Err, errs.SessionExpired))
	f.reopen()
	require.Empty(t, f.sessions.byID)

	// A session may close itself.
	s := openSessionOn(f)
	require.NoError(t, f.apply(with(CloseSession(s), s, 1, 1))[0].Err)
	require.True(t, errs.Has(f.apply(with(CloseSession(s), s, 1, 1))[0].Err, errs.SessionExpired))

	for _, kind := range []command.Kind{KindCloseSession, KindExpireSessions} {
		require.True(t, errs.Has(f.apply(command.Command{Kind: kind})[0].Err, errs.InvalidArgument))
	}
	_, err := SessionID(nil)
	require.Error(t, err)
}

func TestSessionLimits(t *testing.T) {
	f := open(t, Options{Mode: Volatile})
	s := openSessionOn(f)
	require.True(t, errs.Has(f.apply(with(put("a", "1"), s, 0, 1))[0].Err, errs.InvalidArgument))
	var cmds []command.Command
	for seq := range uint64(MaxSessionResults) {
		cmds = append(cmds, with(command.Command{Kind: kindNothing}, s, seq+1, 1))
	}
	for _, r := range f.apply(cmds...) {
		require.NoError(t, r.Err)
	}
	over := with(put("a", "1"), s, MaxSessionResults+1, 1)
	require.True(t, errs.Has(f.apply(over)[0].Err, errs.TooManyRequests))
	over.Acked = 2 // the same request, with one more result acknowledged
	require.NoError(t, f.apply(over)[0].Err)
	f.reopen()
	require.Len(t, f.sessions.byID[s].results, MaxSessionResults)

	cmds = cmds[:0]
	for range MaxSessions {
		cmds = append(cmds, OpenSession())
	}
	var last Result
	for at := 0; at < len(cmds); at += 4096 {
		r := f.apply(cmds[at : at+4096]...)
		last = r[len(r)-1]
	}
	require.True(t, errs.Has(last.Err, errs.Exhausted))
	require.Len(t, f.sessions.byID, MaxSessions)
	require.NoError(t, f.apply(CloseSession(s), OpenSession())[1].Err)
}

func TestSessionRowsRoundTrip(t *testing.T) {
	s := &session{id: 9, lastUse: -5, acked: 3, results: []outcome{
		{seq: 3, revision: 1, changed: true, data: []byte("x")},
		{seq: 4, revision: 1, data: []byte{}},
		{seq: 9, revision: 1, err: errs.Invalid("f", 1, "2").With(errs.Detail{Help: "h"})},
	}}
	row := s.encode()
	got, err := decodeSession(sessionKey(9), row)
	require.NoError(t, err)
	require.Equal(t, s, got)
	for i := range row {
		if _, err := decodeSession(sessionKey(9), row[:i]); err == nil {
			t.Errorf("a row cut to %d bytes was accepted", i)
		}
	}
	_, err = decodeSession([]byte("short"), row)
	require.ErrorIs(t, err, errSessionRow)
	_, err = decodeSession(sessionKey(9), append(row, 0))
	require.ErrorIs(t, err, errSessionRow)
}

func FuzzDecodeSession(f *testing.F) {
	s := &session{id: 9, lastUse: 5, acked: 3, results: []outcome{
		{seq: 3, revision: 1, changed: true, data: []byte("x")},
		{seq: 9, revision: 1, err: errs.Invalid("f", 1, "2")},
	}}
	f.Add(s.encode())
	f.Add([]byte{1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, row []byte) {
		got, err := decodeSession(sessionKey(9), row)
		if err != nil {
			return
		}
		again, err := decodeSession(sessionKey(9), got.encode())
		if err != nil || !bytes.Equal(again.encode(), got.encode()) {
			t.Fatalf("%v, %+v is not %+v", err, again, got)
		}
	})
}
