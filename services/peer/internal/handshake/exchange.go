package handshake

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"

	"nekoq/services/errs"
)

// Refused is the error of a handshake that ended with a refusal.
type Refused struct {
	// Peer is the other side.
	Peer Hello
	// ByPeer tells who refused whom: true when the other side refused this node.
	ByPeer  bool
	Verdict Verdict
}

func (r *Refused) Error() string {
	who := "this node refused " + r.Peer.NodeID
	if r.ByPeer {
		who = "node " + r.Peer.NodeID + " refused this node"
	}
	return who + ": " + r.Verdict.Message
}

// Unwrap gives the refusal as an *errs.Error with a message for users.
func (r *Refused) Unwrap() error {
	code := r.Verdict.Code
	if code == "" {
		code = errs.IdentityRefused
	}
	return errs.New(code, "%s", r.Error())
}

// Judge decides on the other side.
type Judge func(Kind, Hello) Verdict

// The third byte of the preamble: dialler's hello, acceptor's answer, dialler's verdict.
const (
	msgHello   = 'P'
	msgAnswer  = 'A'
	msgVerdict = 'V'
)

// Dial runs the dialler's side. It fails with *Refused when either side refuses.
// The deadline is the earlier of ctx's and timeout from now.
func Dial(ctx context.Context, c net.Conn, kind Kind, self Hello, judge Judge, timeout time.Duration) (Hello, error) {
	release := guard(ctx, c, timeout)
	peer, err := dial(c, kind, self, judge)
	return peer, release(err)
}

func dial(c net.Conn, kind Kind, self Hello, judge Judge) (Hello, error) {
	if err := send(c, msgHello, byte(kind), self.append(nil)); err != nil {
		return Hello{}, err
	}
	status, body, err := receive(c, msgAnswer)
	if err != nil {
		return Hello{}, err
	}
	d := decoder{b: body}
	peer := d.hello()
	theirs := d.verdict()
	if d.bad || (status == 0) != theirs.OK() {
		return Hello{}, errs.New(errs.ProtocolViolation, "the peer's answer to the hello cannot be decoded")
	}
	if !theirs.OK() {
		return peer, &Refused{Peer: peer, ByPeer: true, Verdict: theirs}
	}
	ours := judge(kind, peer)
	if err := send(c, msgVerdict, statusOf(ours), ours.append(nil)); err != nil {
		return peer, err
	}
	if !ours.OK() {
		return peer, &Refused{Peer: peer, Verdict: ours}
	}
	return peer, nil
}

// Accept runs the acceptor's side.
func Accept(ctx context.Context, c net.Conn, self func() Hello, judge Judge, timeout time.Duration) (Kind, Hello, error) {
	release := guard(ctx, c, timeout)
	kind, peer, err := accept(c, self, judge)
	return kind, peer, release(err)
}

func accept(c net.Conn, self func() Hello, judge Judge) (Kind, Hello, error) {
	k, body, err := receive(c, msgHello)
	if err != nil {
		return 0, Hello{}, err
	}
	kind := Kind(k)
	peer, err := decodeHello(body)
	if err != nil {
		return kind, Hello{}, err
	}
	if kind != Raft && kind != Calls && kind != Guest {
		return kind, peer, errs.New(errs.ProtocolViolation, "node %s opened a connection of unknown kind %d", peer.NodeID, k)
	}
	ours := judge(kind, peer)
	if err := send(c, msgAnswer, statusOf(ours), ours.append(self().append(nil))); err != nil {
		return kind, peer, err
	}
	if !ours.OK() {
		return kind, peer, &Refused{Peer: peer, Verdict: ours}
	}
	status, body, err := receive(c, msgVerdict)
	if err != nil {
		return kind, peer, err
	}
	d := decoder{b: body}
	theirs := d.verdict()
	if d.bad || (status == 0) != theirs.OK() {
		return kind, peer, errs.New(errs.ProtocolViolation, "the verdict of node %s cannot be decoded", peer.NodeID)
	}
	if !theirs.OK() {
		return kind, peer, &Refused{Peer: peer, ByPeer: true, Verdict: theirs}
	}
	return kind, peer, nil
}

// guard bounds the handshake by timeout and ctx. The returned func lifts both,
// and names the context's end as the cause when that was it.
func guard(ctx context.Context, c net.Conn, timeout time.Duration) func(error) error {
	c.SetDeadline(time.Now().Add(timeout))
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	return func(err error) error {
		if !stop() && err == nil {
			return ctx.Err() // the deadline in the past stays: the connection is of no use
		}
		if err == nil {
			c.SetDeadline(time.Time{})
		}
		return err
	}
}

func statusOf(v Verdict) byte {
	if v.OK() {
		return 0
	}
	return 1
}

const headerSize = 6

func send(c net.Conn, typ, status byte, body []byte) error {
	if len(body) > maxBody {
		return errs.New(errs.Internal, "a handshake message of %d bytes is over its limit of %d", len(body), maxBody)
	}
	b := make([]byte, 0, headerSize+len(body))
	b = append(b, 'N', 'Q', typ, status)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	_, err := c.Write(append(b, body...))
	return err
}

func receive(c net.Conn, typ byte) (status byte, body []byte, err error) {
	var head [headerSize]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return 0, nil, fmt.Errorf("handshake: %w", err)
	}
	if head[0] != 'N' || head[1] != 'Q' || head[2] != typ {
		return 0, nil, errs.New(errs.ProtocolViolation, "what answers there is not a node of this cluster protocol (it sent %q)", head[:4])
	}
	n := binary.BigEndian.Uint16(head[4:])
	if n > maxBody {
		return 0, nil, errs.New(errs.ProtocolViolation, "a handshake message of %d bytes is over its limit of %d", n, maxBody)
	}
	body = make([]byte, n)
	if _, err := io.ReadFull(c, body); err != nil {
		return 0, nil, fmt.Errorf("handshake: %w", err)
	}
	return head[3], body, nil
}
