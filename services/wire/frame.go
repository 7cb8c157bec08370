package wire

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"nekoq/services/command"
	"nekoq/services/errs"
)

// A connection starts with a preamble from each side, the caller's first:
//
//	magic "NKQW" | version u16 | flags u16 (0)
//
// and goes on with frames, all integers big endian:
//
//	length u32 (of what follows) | type u8 | stream id u32 | body
//
// The caller's first frame is its hello and the server's first is its own hello
// or an error. Stream ids are chosen by the caller, never 0 and never one that
// is in use; 0 is for frames about the connection.
//
//	request, open   flags u8 | method u16 | [timeout uvarint, µs] |
//	                [session u64 | seq uvarint | acked uvarint] | payload
//	response        payload
//	error           code u8-string | message uvarint-string | count uvarint |
//	                count * (field, value, limit, help: uvarint-string)
//	message         payload
//	credit          uvarint, bytes of messages the caller has consumed
//	end, cancel     empty
//	ping, pong      8 bytes, returned unchanged
//	goaway          as error: why no new request is taken
const (
	frameHello    byte = 1
	frameRequest  byte = 2
	frameResponse byte = 3
	frameError    byte = 4
	frameOpen     byte = 5
	frameMessage  byte = 6
	frameCredit   byte = 7
	frameEnd      byte = 8
	frameCancel   byte = 9
	framePing     byte = 10
	framePong     byte = 11
	frameGoaway   byte = 12
)

const (
	magic        = "NKQW"
	version      = 1
	preambleSize = 8
	headerSize   = 9
	lengthSize   = 4
	minLength    = headerSize - lengthSize // type and id

	// maxHello bounds what is read before the peer is known.
	maxHello = 64 << 10
	// maxRequestHead is the most that flags, method, timeout and request id take.
	maxRequestHead = 1 + 2 + 3*binary.MaxVarintLen64 + 8
	// skipFactor: a frame of up to this many times the limit is skipped and its
	// request answered with too_large; a longer one ends the connection.
	skipFactor = 4

	flagTimeout   = 1 << 0
	flagRequestID = 1 << 1
)

// violation says that the peer broke the protocol; the connection ends.
func violation(format string, args ...any) *errs.Error {
	return errs.New(errs.ProtocolViolation, format, args...)
}

func tooLarge(what string, size, limit int) *errs.Error {
	return errs.New(errs.TooLarge, "%s: %d bytes are over the limit of %d bytes a frame", what, size, limit).
		With(errs.Detail{Field: what, Value: fmt.Sprint(size), Limit: fmt.Sprint(limit)})
}

func appendPreamble(b []byte) []byte {
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint16(b, version)
	return binary.BigEndian.AppendUint16(b, 0)
}

// readPreamble reads exactly the preamble.
func readPreamble(r io.Reader) error {
	var p [preambleSize]byte
	if _, err := io.ReadFull(r, p[:]); err != nil {
		return err
	}
	if string(p[:4]) != magic {
		return violation("the peer does not speak this protocol: it began with %q", p[:4])
	}
	if v := binary.BigEndian.Uint16(p[4:]); v != version {
		return errs.New(errs.VersionTooOld, "the peer speaks version %d of the native protocol, this side version %d", v, version)
	}
	return nil
}

// appendHeader writes the header of a frame whose body has size bytes.
func appendHeader(b []byte, typ byte, id uint32, size int) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(minLength+size))
	b = append(b, typ)
	return binary.BigEndian.AppendUint32(b, id)
}

func appendFrame(b []byte, typ byte, id uint32, body []byte) []byte {
	return append(appendHeader(b, typ, id, len(body)), body...)
}

// setLength patches the length of the frame that starts at b[start:].
func setLength(b []byte, start int) {
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-lengthSize))
}

// requestHead is what stands before the payload of a request.
type requestHead struct {
	method  Method
	timeout time.Duration // 0 is none; rounded to µs
	id      command.RequestID
}

func appendRequest(b []byte, typ byte, id uint32, h requestHead, payload []byte) []byte {
	start := len(b)
	b = appendHeader(b, typ, id, 0)
	var flags byte
	if h.timeout > 0 {
		flags |= flagTimeout
	}
	if h.id != (command.RequestID{}) {
		flags |= flagRequestID
	}
	b = append(b, flags)
	b = binary.BigEndian.AppendUint16(b, uint16(h.method))
	if flags&flagTimeout != 0 {
		// Rounded up, so that a deadline less than 1 µs away is not "none".
		b = binary.AppendUvarint(b, uint64((h.timeout+time.Microsecond-1)/time.Microsecond))
	}
	if flags&flagRequestID != 0 {
		b = binary.BigEndian.AppendUint64(b, h.id.Session)
		b = binary.AppendUvarint(b, h.id.Seq)
		b = binary.AppendUvarint(b, h.id.Acked)
	}
	b = append(b, payload...)
	setLength(b, start)
	return b
}

// maxTimeout is the longest deadline that travels; a longer one is cut.
const maxTimeout = 365 * 24 * time.Hour

func parseRequest(body []byte) (h requestHead, payload []byte, err error) {
	if len(body) < 3 {
		return h, nil, violation("a request of %d bytes is too short", len(body))
	}
	flags := body[0]
	if flags&^(flagTimeout|flagRequestID) != 0 {
		return h, nil, violation("a request has unknown flags 0x%02x", flags)
	}
	h.method = Method(binary.BigEndian.Uint16(body[1:]))
	p := cursor{b: body[3:]}
	if flags&flagTimeout != 0 {
		us := p.uvarint()
		h.timeout = maxTimeout
		if us < uint64(maxTimeout/time.Microsecond) {
			h.timeout = time.Duration(us) * time.Microsecond
		}
		if us == 0 {
			return h, nil, violation("a request has a timeout of zero")
		}
	}
	if flags&flagRequestID != 0 {
		h.id.Session = p.u64()
		h.id.Seq = p.uvarint()
		h.id.Acked = p.uvarint()
	}
	if p.bad {
		return h, nil, violation("the head of a request is cut short")
	}
	return h, p.b, nil
}

// Bounds of an error on the wire; a longer one is cut, so that an error always
// fits into a frame of the smallest limit (maxHello).
const (
	maxErrorText    = 4 << 10
	maxErrorDetails = 64
	maxDetailBytes  = 32 << 10 // then no further detail is added
)

func appendErrorBody(b []byte, e *errs.Error) []byte {
	code := cut(string(e.Code), 255)
	b = append(b, byte(len(code)))
	b = append(b, code...)
	b = appendString(b, e.Message)
	n := 0
	for size := 0; n < min(len(e.Details), maxErrorDetails) && size < maxDetailBytes; n++ {
		d := &e.Details[n]
		for _, s := range [...]string{d.Field, d.Value, d.Limit, d.Help} {
			size += min(len(s), maxErrorText)
		}
	}
	b = binary.AppendUvarint(b, uint64(n))
	for _, d := range e.Details[:n] {
		b = appendString(b, d.Field)
		b = appendString(b, d.Value)
		b = appendString(b, d.Limit)
		b = appendString(b, d.Help)
	}
	return b
}

func appendErrorFrame(b []byte, typ byte, id uint32, e *errs.Error) []byte {
	start := len(b)
	b = appendErrorBody(appendHeader(b, typ, id, 0), e)
	setLength(b, start)
	return b
}

func parseError(body []byte) (*errs.Error, error) {
	p := cursor{b: body}
	e := &errs.Error{Code: errs.Code(p.bytes(uint64(p.u8())))}
	e.Message = string(p.bytes(p.uvarint()))
	n := p.uvarint()
	if n > maxErrorDetails {
		return nil, violation("an error has %d details, more than %d", n, maxErrorDetails)
	}
	for range n {
		var d errs.Detail
		for _, s := range []*string{&d.Field, &d.Value, &d.Limit, &d.Help} {
			*s = string(p.bytes(p.uvarint()))
		}
		e.Details = append(e.Details, d)
	}
	if p.bad || len(p.b) != 0 || e.Code == "" {
		return nil, violation("an error frame is damaged")
	}
	return e, nil
}

func appendString(b []byte, s string) []byte {
	s = cut(s, maxErrorText)
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// cut shortens s to at most n bytes of whole runes.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// cursor reads a body; a read beyond the end sets bad and gives zero.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) bytes(n uint64) []byte {
	if n > uint64(len(c.b)) {
		c.bad, c.b = true, nil
		return nil
	}
	v := c.b[:n:n]
	c.b = c.b[n:]
	return v
}

func (c *cursor) u8() byte {
	if v := c.bytes(1); v != nil {
		return v[0]
	}
	return 0
}

func (c *cursor) u64() uint64 {
	if v := c.bytes(8); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

func (c *cursor) uvarint() uint64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 {
		c.bad, c.b = true, nil
		return 0
	}
	c.b = c.b[n:]
	return v
}
