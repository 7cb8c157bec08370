// Package handshake is the first exchange on every node-to-node connection:
// each side says who it is, and each judges the other before a byte of Raft or
// of a call flows.
//
// The dialler sends its hello, the acceptor answers with its own and its
// verdict, the dialler ends with its verdict. So a refusal reaches the refused
// side with its reason, whichever side that is, and it costs one round trip.
// The package is pure but for the connection that it is given, which belongs to
// the caller before and after; it reads not one byte beyond the handshake. Only
// services/peer imports it.
//
// Format (integers big endian):
//
//	dialler    "NQP" kind   u16 length  hello
//	acceptor  "NQA" status u16 length  hello, verdict
//	dialler   "NQV" status u16 length  verdict
package handshake

import (
	"encoding/binary"
	"strings"

	"nekoq/services/errs"
	"nekoq/services/peer/internal/table"
)

// Protocol is the version of the handshake and of what follows it. MinProtocol
// is the oldest that is still understood.
const (
	Protocol    = 1
	MinProtocol = 1
)

// maxBody bounds one message of the handshake, in bytes.
const maxBody = 8 << 10

// Kind says what the connection is for.
type Kind byte

const (
	// Raft is a stream of Raft's own RPCs.
	Raft Kind = 1
	// Calls is a wire connection between members.
	Calls Kind = 2
	// Guest is a wire connection of a node that is not a member yet: it can ask
	// to join, and nothing else.
	Guest Kind = 3
)

func (k Kind) String() string {
	switch k {
	case Raft:
		return "raft"
	case Calls:
		return "calls"
	case Guest:
		return "guest"
	}
	return "unknown"
}

// Hello is who a node says it is.
type Hello struct {
	Protocol    uint64
	ClusterID   string // "" before it is known
	NodeID      string
	Incarnation table.Incarnation
	Address     string // advertised peer address
	HTTP        string // where clients go
	Native      string
	Version     uint32 // newest cluster version that the node supports
	Software    string
	Joined      uint64 // store revision at which it entered the cluster, 0 for the first nodes
	Formed      bool   // it has a Raft state
	Peers       string // ids of cluster.peers, sorted, comma-separated; "" for none
	Target      string // whom the dialler meant to reach; "" for anyone
}

func (h Hello) append(b []byte) []byte {
	b = binary.AppendUvarint(b, h.Protocol)
	b = appendString(b, h.ClusterID)
	b = appendString(b, h.NodeID)
	b = append(b, h.Incarnation[:]...)
	b = appendString(b, h.Address)
	b = appendString(b, h.HTTP)
	b = appendString(b, h.Native)
	b = binary.AppendUvarint(b, uint64(h.Version))
	b = appendString(b, h.Software)
	b = binary.AppendUvarint(b, h.Joined)
	formed := uint64(0)
	if h.Formed {
		formed = 1
	}
	b = binary.AppendUvarint(b, formed)
	b = appendString(b, h.Peers)
	return appendString(b, h.Target)
}

func (d *decoder) hello() (h Hello) {
	h.Protocol = d.uint()
	h.ClusterID = d.str()
	h.NodeID = d.str()
	copy(h.Incarnation[:], d.take(len(h.Incarnation)))
	h.Address = d.str()
	h.HTTP = d.str()
	h.Native = d.str()
	h.Version = uint32(min(d.uint(), 1<<32-1))
	h.Software = d.str()
	h.Joined = d.uint()
	h.Formed = d.uint() != 0
	h.Peers = d.str()
	h.Target = d.str()
	return h
}

// Reason sorts refusals for the refused side.
type Reason byte

const (
	// None is no refusal.
	None Reason = iota
	// Other needs no special treatment.
	Other
	// Removed: this life of the node was removed from the cluster.
	Removed
	// OtherLife: the id is known under another incarnation.
	OtherLife
	// OtherCluster: the two belong to different clusters.
	OtherCluster
	// TooOld: protocol or cluster version.
	TooOld
	// Stranger: the node is no member.
	Stranger
	// WrongNode: the address leads to another node than was meant.
	WrongNode
	// PeersDiffer: the two first-start lists name different nodes.
	PeersDiffer
	// Busy: the node cannot judge now; nothing is wrong with the other.
	Busy
)

// Verdict is the judgement of one side on the other. The zero Verdict accepts.
type Verdict struct {
	Reason  Reason
	Code    errs.Code
	Message string
}

// Refuse makes a verdict from an error.
func Refuse(reason Reason, err *errs.Error) Verdict {
	return Verdict{Reason: reason, Code: err.Code, Message: err.Message}
}

// OK tells whether the verdict accepts.
func (v Verdict) OK() bool { return v.Reason == None }

func (v Verdict) append(b []byte) []byte {
	b = append(b, byte(v.Reason))
	b = appendString(b, string(v.Code))
	return appendString(b, v.Message)
}

func (d *decoder) verdict() (v Verdict) {
	if p := d.take(1); p != nil {
		v.Reason = Reason(p[0])
	}
	v.Code = errs.Code(d.str())
	v.Message = d.str()
	return v
}

// maxString bounds every string, so that a body always fits in maxBody.
const maxString = 1200

func appendString(b []byte, s string) []byte {
	if len(s) > maxString {
		s = s[:maxString]
	}
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if d.bad || n <= 0 {
		d.bad = true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) take(n int) []byte {
	if d.bad || n > len(d.b) {
		d.bad = true
		return nil
	}
	p := d.b[:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) str() string {
	n := d.uint()
	if n > maxString {
		d.bad = true
		return ""
	}
	// What a stranger sends ends up in logs.
	return strings.ToValidUTF8(string(d.take(int(n))), "?")
}

// decodeHello reads a hello; bytes after the fields it knows are of a newer
// protocol and are ignored.
func decodeHello(b []byte) (Hello, error) {
	d := decoder{b: b}
	h := d.hello()
	if d.bad {
		return Hello{}, errs.New(errs.ProtocolViolation, "the peer's hello cannot be decoded")
	}
	return h, nil
}
