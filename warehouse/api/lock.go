package api

import (
	"encoding/binary"
	"time"
)

// ClaimRequest asks for a lock, or stands for an election.
type ClaimRequest struct {
	Kind   TokenKind // TokenLock or TokenElection
	Name   string
	Holder string // who asks; shown to the others
	// Lease on which the claim hangs; asking again with the same one changes nothing.
	// 0: the server grants one of TTL, which the holder keeps alive.
	Lease uint64
	TTL   time.Duration // with Lease 0; 0 is 10 s
	// Wait is how long to wait in line. Without it the answer tells at once.
	Wait time.Duration
	// Stay keeps the place in line when the claim is not held in time.
	Stay bool
}

// Claim is the answer, and the state of a lock or election.
type Claim struct {
	Header
	Held bool // by the asker
	// Token is the fencing token of the present holder, 0 for none; Holder its name.
	Token  uint64
	Holder string
	Lease  uint64 // of the asker's claim; of the holder when only looked at
	Own    uint64 // token that the asker has or will have; 0 when it left the line
	Since  int64  // Unix nanoseconds of the holder's claim
	// Waiting are the names of those in line behind the holder.
	Waiting []string
}

// ReleaseRequest gives a lock back, or resigns. Token 0 takes whatever the lease has.
type ReleaseRequest struct {
	Kind  TokenKind
	Name  string
	Lease uint64
	Token uint64
	// Revoke also ends the lease.
	Revoke bool
}

// LookRequest asks who holds a lock or leads. As a stream it tells every change.
type LookRequest struct {
	Kind  TokenKind
	Name  string
	Stale bool
}

// Append encodes the request.
func (r *ClaimRequest) Append(b []byte) []byte {
	b = append(b, bits(r.Stay), byte(r.Kind))
	b = binary.AppendUvarint(b, r.Lease)
	b = binary.AppendVarint(b, int64(r.TTL))
	b = binary.AppendVarint(b, int64(r.Wait))
	return appendString(appendString(b, r.Name), r.Holder)
}

// Decode reads what Append wrote.
func (r *ClaimRequest) Decode(b []byte) error {
	d := reader{b: b}
	r.Stay = d.byte()&1 != 0
	r.Kind = TokenKind(d.byte())
	r.Lease = d.uint()
	r.TTL, r.Wait = time.Duration(d.int()), time.Duration(d.int())
	r.Name, r.Holder = string(d.bytes()), string(d.bytes())
	return d.err("claim")
}

// Append encodes the answer.
func (c *Claim) Append(b []byte) []byte {
	b = append(b, bits(c.Held))
	b = c.Header.append(b)
	for _, v := range [...]uint64{c.Token, c.Lease, c.Own} {
		b = binary.AppendUvarint(b, v)
	}
	b = binary.AppendVarint(b, c.Since)
	b = appendString(b, c.Holder)
	b = binary.AppendUvarint(b, uint64(len(c.Waiting)))
	for _, w := range c.Waiting {
		b = appendString(b, w)
	}
	return b
}

// Decode reads what Append wrote.
func (c *Claim) Decode(b []byte) error {
	d := reader{b: b}
	c.Held = d.byte()&1 != 0
	c.Header.decode(&d)
	c.Token, c.Lease, c.Own = d.uint(), d.uint(), d.uint()
	c.Since = d.int()
	c.Holder = string(d.bytes())
	c.Waiting = nil
	for range d.count(1) {
		c.Waiting = append(c.Waiting, string(d.bytes()))
	}
	return d.err("claim")
}

// Append encodes the request.
func (r *ReleaseRequest) Append(b []byte) []byte {
	b = append(b, bits(r.Revoke), byte(r.Kind))
	b = binary.AppendUvarint(b, r.Lease)
	b = binary.AppendUvarint(b, r.Token)
	return appendString(b, r.Name)
}

// Decode reads what Append wrote.
func (r *ReleaseRequest) Decode(b []byte) error {
	d := reader{b: b}
	r.Revoke = d.byte()&1 != 0
	r.Kind = TokenKind(d.byte())
	r.Lease, r.Token = d.uint(), d.uint()
	r.Name = string(d.bytes())
	return d.err("release")
}

// Append encodes the request.
func (r *LookRequest) Append(b []byte) []byte {
	return appendString(append(b, bits(r.Stale), byte(r.Kind)), r.Name)
}

// Decode reads what Append wrote.
func (r *LookRequest) Decode(b []byte) error {
	d := reader{b: b}
	r.Stale = d.byte()&1 != 0
	r.Kind = TokenKind(d.byte())
	r.Name = string(d.bytes())
	return d.err("request")
}

// LeaseRequest is about one lease: grant (ID 0 lets the server choose), keep alive,
// revoke, or time to live.
type LeaseRequest struct {
	ID   uint64
	TTL  time.Duration // grant only
	Keys bool          // time to live only
}

// LeaseResult answers it.
type LeaseResult struct {
	ID        uint64
	TTL       time.Duration // as granted
	Remaining time.Duration
	Revision  uint64 // key revision
	Token     uint64 // store revision of the grant: a fencing token
	Keys      [][]byte
}

// Append encodes the request.
func (r *LeaseRequest) Append(b []byte) []byte {
	b = binary.AppendUvarint(append(b, bits(r.Keys)), r.ID)
	return binary.AppendVarint(b, int64(r.TTL))
}

// Decode reads what Append wrote.
func (r *LeaseRequest) Decode(b []byte) error {
	d := reader{b: b}
	r.Keys = d.byte()&1 != 0
	r.ID = d.uint()
	r.TTL = time.Duration(d.int())
	return d.err("lease request")
}

// Append encodes the result.
func (r *LeaseResult) Append(b []byte) []byte {
	b = binary.AppendUvarint(append(b, 0), r.ID)
	b = binary.AppendVarint(binary.AppendVarint(b, int64(r.TTL)), int64(r.Remaining))
	b = binary.AppendUvarint(binary.AppendUvarint(b, r.Revision), r.Token)
	b = binary.AppendUvarint(b, uint64(len(r.Keys)))
	for _, k := range r.Keys {
		b = appendBytes(b, k)
	}
	return b
}

// Decode reads what Append wrote.
func (r *LeaseResult) Decode(b []byte) error {
	d := reader{b: b}
	d.byte()
	r.ID = d.uint()
	r.TTL, r.Remaining = time.Duration(d.int()), time.Duration(d.int())
	r.Revision, r.Token = d.uint(), d.uint()
	r.Keys = nil
	for range d.count(1) {
		r.Keys = append(r.Keys, d.bytes())
	}
	return d.err("lease result")
}
