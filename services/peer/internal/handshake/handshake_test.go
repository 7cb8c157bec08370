package handshake

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"nekoq/services/errs"
	"nekoq/services/peer/internal/table"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func sample(id string) Hello {
	return Hello{
		Protocol: Protocol, ClusterID: "c1", NodeID: id, Incarnation: table.Incarnation{1, 2, 3}, Address: "127.0.0.1:9311",
		HTTP: "127.0.0.1:9310", Native: "127.0.0.1:9313", Version: 1, Software: "dev", Joined: 7, Formed: true, Peers: "n1,n2", Target: "n2",
	}
}

func anyone(Kind, Hello) Verdict { return Verdict{} }

func refuseWith(reason Reason, text string) Judge {
	return func(Kind, Hello) Verdict { return Refuse(reason, errs.New(errs.IdentityRefused, "%s", text)) }
}

type side struct {
	kind Kind
	peer Hello
	err  error
}

// shake runs both sides over one connection.
func shake(t *testing.T, kind Kind, dialJudge, acceptJudge Judge) (dialler, acceptor side) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	done := make(chan side)
	go func() {
		var s side
		s.kind, s.peer, s.err = Accept(t.Context(), b, func() Hello { return sample("n2") }, acceptJudge, 5*time.Second)
		done <- s
	}()
	dialler.peer, dialler.err = Dial(t.Context(), a, kind, sample("n1"), dialJudge, 5*time.Second)
	return dialler, <-done
}

func TestBothSidesLearnEachOther(t *testing.T) {
	for _, kind := range []Kind{Raft, Calls, Guest} {
		d, a := shake(t, kind, anyone, anyone)
		require.NoError(t, d.err)
		require.NoError(t, a.err)
		require.Equal(t, sample("n2"), d.peer)
		require.Equal(t, sample("n1"), a.peer)
		require.Equal(t, kind, a.kind)
	}
}

func TestRefusalReachesTheOtherSideWithItsReason(t *testing.T) {
	t.Run("by the acceptor", func(t *testing.T) {
		d, a := shake(t, Raft, anyone, refuseWith(OtherLife, "lost its disk"))
		r, ok := errors.AsType[*Refused](d.err)
		require.True(t, ok, "%v", d.err)
		require.True(t, r.ByPeer)
		require.Equal(t, OtherLife, r.Verdict.Reason)
		require.Equal(t, errs.IdentityRefused, errs.CodeOf(d.err))
		require.Equal(t, "node n2 refused this node: lost its disk", d.err.Error())
		r, ok = errors.AsType[*Refused](a.err)
		require.True(t, ok)
		require.False(t, r.ByPeer)
		require.Equal(t, "n1", r.Peer.NodeID)
	})
	t.Run("by the dialler", func(t *testing.T) {
		d, a := shake(t, Calls, refuseWith(Removed, "was removed"), anyone)
		r, ok := errors.AsType[*Refused](a.err)
		require.True(t, ok, "%v", a.err)
		require.True(t, r.ByPeer)
		require.Equal(t, Removed, r.Verdict.Reason)
		require.Equal(t, "node n1 refused this node: was removed", a.err.Error())
		r, ok = errors.AsType[*Refused](d.err)
		require.True(t, ok)
		require.False(t, r.ByPeer)
	})
}

// What follows the handshake must still be in the connection.
func TestHandshakeReadsNoFurther(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	errc := make(chan error, 1)
	go func() {
		_, err := Dial(t.Context(), a, Raft, sample("n1"), anyone, time.Second)
		if err == nil {
			_, err = a.Write([]byte("first bytes"))
		}
		errc <- err
	}()
	_, _, err := Accept(t.Context(), b, func() Hello { return sample("n2") }, anyone, time.Second)
	require.NoError(t, err)
	buf := make([]byte, 64)
	n, err := b.Read(buf)
	require.NoError(t, err)
	require.Equal(t, "first bytes", string(buf[:n]))
	require.NoError(t, <-errc)
}

func TestOtherProtocolsAndSilence(t *testing.T) {
	serve := func(t *testing.T, write string) error {
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		go a.Write([]byte(write))
		_, _, err := Accept(t.Context(), b, func() Hello { return sample("n2") }, anyone, 200*time.Millisecond)
		return err
	}
	err := serve(t, "GET / HTTP/1.1\r\n\r\n")
	require.Equal(t, errs.ProtocolViolation, errs.CodeOf(err))
	require.ErrorContains(t, err, "GET ")
	require.Equal(t, errs.ProtocolViolation, errs.CodeOf(serve(t, "NQP\x01\xff\xff")))
	require.ErrorContains(t, serve(t, "NQP\x01\x00\x02\xff\xff"), "cannot be decoded")
	var ne net.Error
	require.ErrorAs(t, serve(t, "NQ"), &ne)
	require.True(t, ne.Timeout(), "a silent peer costs a bounded time")

	ctx, cancel := context.WithCancel(t.Context())
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	cancel()
	_, err = Dial(ctx, a, Raft, sample("n1"), anyone, time.Minute)
	require.Error(t, err)
}

func TestUnknownKindIsRefused(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	go send(a, msgHello, 9, sample("n1").append(nil))
	_, _, err := Accept(t.Context(), b, func() Hello { return sample("n2") }, anyone, time.Second)
	require.ErrorContains(t, err, "unknown kind 9")
}

func TestLongStringsAreCutAndNewerFieldsIgnored(t *testing.T) {
	h := sample("n1")
	h.Software = strings.Repeat("x", 5000)
	got, err := decodeHello(append(h.append(nil), "fields of a later version"...))
	require.NoError(t, err)
	require.Len(t, got.Software, maxString)
	require.Equal(t, "n2", got.Target)
}

func FuzzHello(f *testing.F) {
	f.Add(sample("n1").append(nil))
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xff}, 64))
	f.Add(Refuse(Removed, errs.New(errs.IdentityRefused, "gone")).append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHello(b)
		if err == nil {
			again, err := decodeHello(h.append(nil))
			if err != nil || again != h {
				t.Fatalf("%+v became %+v (%v)", h, again, err)
			}
		}
		d := decoder{b: b}
		if v := d.verdict(); !d.bad && v.OK() != (v.Reason == None) {
			t.Fatal("verdict")
		}
	})
}

// FuzzAccept: whatever a stranger sends, the acceptor ends within its deadline
// and lets nobody in that has not finished the handshake.
func FuzzAccept(f *testing.F) {
	var whole bytes.Buffer
	for _, part := range []struct {
		typ, status byte
		body        []byte
	}{{msgHello, byte(Raft), sample("n1").append(nil)}, {msgVerdict, 0, Verdict{}.append(nil)}} {
		whole.Write([]byte{'N', 'Q', part.typ, part.status, byte(len(part.body) >> 8), byte(len(part.body))})
		whole.Write(part.body)
	}
	f.Add(whole.Bytes())
	f.Add([]byte("NQP\x01\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, h, err := Accept(t.Context(), &script{in: bytes.NewReader(b)}, func() Hello { return sample("n2") }, anyone, time.Second)
		if err == nil && (kind < Raft || kind > Guest) {
			t.Fatalf("let in %v %+v", kind, h)
		}
	})
}

// script is a connection that says what was prepared.
type script struct {
	net.Conn
	in *bytes.Reader
}

func (s *script) Read(p []byte) (int, error)  { return s.in.Read(p) }
func (s *script) Write(p []byte) (int, error) { return len(p), nil }
func (s *script) SetDeadline(time.Time) error { return nil }

// Nodes of two versions meet in a rolling upgrade: the format may only grow at
// its end.
func TestHelloFormatIsFixed(t *testing.T) {
	const want = "01026331026e31010203000000000000000000000000000e3132372e302e302e313a393331310e3132372e302e302e313a393331300e3132372e302e302e313a39333133010364657607" +
		"01056e312c6e32026e32"
	require.Equal(t, want, hex.EncodeToString(sample("n1").append(nil)))
}
