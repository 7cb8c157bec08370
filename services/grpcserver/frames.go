package grpcserver

import (
	"encoding/binary"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	frameHead  = 9 // bytes before a frame's payload
	prefixSize = 5 // bytes before a message: compressed or not, length
	// maxFrame is the longest payload that every peer takes (RFC 9113, 4.2).
	maxFrame = 16 << 10
)

func appendFrameHead(b []byte, length int, typ http2.FrameType, flags http2.Flags, id uint32) []byte {
	b = append(b, byte(length>>16), byte(length>>8), byte(length), byte(typ), byte(flags))
	return binary.BigEndian.AppendUint32(b, id)
}

func appendSettings(b []byte, settings ...http2.Setting) []byte {
	b = appendFrameHead(b, 6*len(settings), http2.FrameSettings, 0, 0)
	for _, s := range settings {
		b = binary.BigEndian.AppendUint16(b, uint16(s.ID))
		b = binary.BigEndian.AppendUint32(b, s.Val)
	}
	return b
}

func appendNumber(b []byte, typ http2.FrameType, id, n uint32) []byte {
	return binary.BigEndian.AppendUint32(appendFrameHead(b, 4, typ, 0, id), n)
}

func appendReset(b []byte, id uint32, code http2.ErrCode) []byte {
	return appendNumber(b, http2.FrameRSTStream, id, uint32(code))
}

func appendWindowUpdate(b []byte, id, n uint32) []byte {
	return appendNumber(b, http2.FrameWindowUpdate, id, n)
}

func appendPing(b []byte, ack bool, data [8]byte) []byte {
	flags := http2.Flags(0)
	if ack {
		flags = http2.FlagPingAck
	}
	return append(appendFrameHead(b, 8, http2.FramePing, flags, 0), data[:]...)
}

func appendGoAway(b []byte, last uint32, code http2.ErrCode, why string) []byte {
	b = appendFrameHead(b, 8+len(why), http2.FrameGoAway, 0, 0)
	b = binary.BigEndian.AppendUint32(b, last)
	b = binary.BigEndian.AppendUint32(b, uint32(code))
	return append(b, why...)
}

// coder compresses the headers of answers. Two fields are in all of them, so they
// go into the peer's table once and cost a byte from then on; everything else is
// written out, which leaves the table, and with it their places, as they are. It is
// guarded by the connection's writer.
type coder struct {
	// The table that the peer allows is too small: nothing goes into it.
	tiny    bool
	cut     uint32 // how many bytes of the table we do without
	shrink  bool   // and the peer has not been told yet that we know
	typed   bool   // content-type: application/grpc is in the table
	success bool   // grpc-status: 0 is in the table, before it
}

// Parts of RFC 7541: representations, and places in the static table.
const (
	hpIndexed     = 0x80
	hpInsert      = 0x40
	hpSize        = 0x20
	hpStatus200   = hpIndexed | 8
	hpContentType = 31
	hpFirstOwn    = 62 // the newest entry of the dynamic table
	// tableNeeded is what the two entries take: 32 bytes each beside their text.
	tableNeeded = 32 + len("content-type") + len(contentType) + 32 + len("grpc-status") + len("0")
)

const contentType = "application/grpc"

// allow takes the size of the table that the peer allows. A table that became smaller
// stays so, and the next block must begin with its size (RFC 7541, 4.2).
func (c *coder) allow(size uint32) {
	if size >= headerTable-c.cut {
		return
	}
	if size < uint32(tableNeeded) {
		size, c.tiny = 0, true
	}
	c.shrink, c.cut = true, headerTable-size
}

func (c *coder) begin(b []byte) []byte {
	if c.shrink {
		c.shrink = false
		b = appendSize(b, headerTable-c.cut)
	}
	return b
}

// appendSize appends the size of the table, an integer with a prefix of 5 bits.
func appendSize(b []byte, n uint32) []byte {
	if n < 31 {
		return append(b, hpSize|byte(n))
	}
	b = append(b, hpSize|31)
	for n -= 31; n >= 128; n >>= 7 {
		b = append(b, byte(n)|128)
	}
	return append(b, byte(n))
}

// opening appends the block that opens every answer.
func (c *coder) opening(b []byte) []byte {
	b = append(c.begin(b), hpStatus200)
	switch {
	case c.tiny:
		return appendField(b, "content-type", contentType)
	case !c.typed:
		c.typed = true
		return appendText(append(b, hpInsert|hpContentType), contentType)
	case c.success:
		return append(b, hpIndexed|(hpFirstOwn+1))
	}
	return append(b, hpIndexed|hpFirstOwn)
}

// ending appends the status of success. It comes after an opening.
func (c *coder) ending(b []byte) []byte {
	b = c.begin(b)
	switch {
	case c.tiny:
		return appendField(b, "grpc-status", "0")
	case !c.success:
		c.success = true
		return appendText(appendText(append(b, hpInsert), "grpc-status"), "0")
	}
	return append(b, hpIndexed|hpFirstOwn)
}

// appendField appends a field that stays out of the table.
func appendField(b []byte, name, v string) []byte {
	return appendText(appendText(append(b, 0), name), v)
}

// appendText appends a string without Huffman's code, which costs more time than it
// saves bytes here.
func appendText(b []byte, s string) []byte {
	n := len(s)
	if n < 127 {
		return append(append(b, byte(n)), s...)
	}
	b = append(b, 127)
	for n -= 127; n >= 128; n >>= 7 {
		b = append(b, byte(n)|128)
	}
	return append(append(b, byte(n)), s...)
}

// appendHeaders appends a header block in as many frames as it needs.
func appendHeaders(b []byte, id uint32, end bool, block []byte) []byte {
	var flags http2.Flags
	if end {
		flags = http2.FlagHeadersEndStream
	}
	typ := http2.FrameHeaders
	for {
		n := min(len(block), maxFrame)
		if n == len(block) {
			flags |= http2.FlagHeadersEndHeaders
		}
		b = append(appendFrameHead(b, n, typ, flags, id), block[:n]...)
		if block = block[n:]; len(block) == 0 {
			return b
		}
		typ, flags = http2.FrameContinuation, 0
	}
}

// newDecoder decodes what the peer's headers say, field by field.
func newDecoder(emit func(hpack.HeaderField)) *hpack.Decoder {
	d := hpack.NewDecoder(headerTable, emit)
	d.SetMaxStringLength(maxHeaderString)
	return d
}
