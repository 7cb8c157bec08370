package idgen

import (
	"encoding/binary"
	"encoding/hex"
	"math/bits"
	"strconv"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	"nekoq/services/errs"
)

// Number is an id as an unsigned number of 128 bits.
type Number struct{ Hi, Lo uint64 }

// divmod divides by a small number.
func (n Number) divmod(d uint64) (q Number, r uint64) {
	q.Hi, r = n.Hi/d, n.Hi%d
	q.Lo, r = bits.Div64(r, n.Lo, d)
	return q, r
}

// muladd is n*m + a; ok is false when it does not fit.
func (n Number) muladd(m, a uint64) (Number, bool) {
	over, hi := bits.Mul64(n.Hi, m)
	carry, lo := bits.Mul64(n.Lo, m)
	hi, c1 := bits.Add64(hi, carry, 0)
	lo, c2 := bits.Add64(lo, a, 0)
	hi, c3 := bits.Add64(hi, 0, c2)
	return Number{hi, lo}, over == 0 && c1 == 0 && c3 == 0
}

// Unpack gives the number of a packed id of 8 or 16 bytes.
func Unpack(p []byte) Number {
	if len(p) == 16 {
		return Number{binary.BigEndian.Uint64(p), binary.BigEndian.Uint64(p[8:])}
	}
	return Number{Lo: binary.BigEndian.Uint64(p)}
}

func (n Number) bytes() (b [16]byte) {
	binary.BigEndian.PutUint64(b[:], n.Hi)
	binary.BigEndian.PutUint64(b[8:], n.Lo)
	return b
}

// Next cuts the first packed id of kind k off p. ok is false at the end and for
// damaged input, which the caller tells apart by len(p).
func (k Kind) Next(p []byte) (id, rest []byte, ok bool) {
	if size := k.Size(); size > 0 {
		if len(p) < size {
			return nil, p, false
		}
		return p[:size], p[size:], true
	}
	n, w := binary.Uvarint(p)
	if w <= 0 || n > uint64(len(p)-w) {
		return nil, p, false
	}
	return p[w : w+int(n)], p[w+int(n):], true
}

// AppendText writes one packed id as its text: 32 lower-case hex digits, a
// decimal number, a UUID, a ULID, or the formatted text itself.
func (k Kind) AppendText(dst, id []byte) []byte {
	switch k {
	case ID128:
		return hex.AppendEncode(dst, id)
	case UUIDv7:
		var b [36]byte
		hex.Encode(b[:8], id[:4])
		hex.Encode(b[9:13], id[4:6])
		hex.Encode(b[14:18], id[6:8])
		hex.Encode(b[19:23], id[8:10])
		hex.Encode(b[24:], id[10:16])
		b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
		return append(dst, b[:]...)
	case ULID:
		var b [ulid.EncodedSize]byte
		_ = ulid.ULID(id).MarshalTextTo(b[:]) // fails only for a wrong length
		return append(dst, b[:]...)
	case Format:
		return append(dst, id...)
	}
	return strconv.AppendUint(dst, binary.BigEndian.Uint64(id), 10)
}

// TextSize is about how long one id's text is, to size buffers.
func (k Kind) TextSize() int {
	switch k {
	case ID128:
		return 32
	case UUIDv7:
		return 36
	case ULID:
		return ulid.EncodedSize
	}
	return 20
}

// AppendLines writes all packed ids as lines, without a final newline.
func (k Kind) AppendLines(dst, packed []byte) []byte {
	first := true
	for {
		id, rest, ok := k.Next(packed)
		if !ok {
			return dst
		}
		if !first {
			dst = append(dst, '\n')
		}
		dst, packed, first = k.AppendText(dst, id), rest, false
	}
}

// Texts gives all packed ids as strings that share one allocation.
func (k Kind) Texts(packed []byte, n int) []string {
	buf := make([]byte, 0, n*k.TextSize())
	ends := make([]int, 0, n)
	for {
		id, rest, ok := k.Next(packed)
		if !ok {
			break
		}
		buf, packed = k.AppendText(buf, id), rest
		ends = append(ends, len(buf))
	}
	all := string(buf)
	out := make([]string, len(ends))
	start := 0
	for i, end := range ends {
		out[i], start = all[start:end], end
	}
	return out
}

// ParseText turns the text of an id that is not a format back into its number.
func (k Kind) ParseText(text string) (Number, error) {
	switch k {
	case ID128:
		var b [16]byte
		if len(text) != 32 {
			return Number{}, errs.Invalid("id", text, "32 lower-case hex digits")
		}
		for i := range len(text) {
			if c := text[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				return Number{}, errs.Invalid("id", text, "32 lower-case hex digits")
			}
		}
		_, _ = hex.Decode(b[:], []byte(text))
		return Unpack(b[:]), nil
	case UUIDv7:
		u, err := uuid.Parse(text)
		if err != nil || len(text) != 36 || u.Version() != 7 || u.Variant() != uuid.RFC4122 {
			return Number{}, errs.Invalid("id", text, "a UUID of version 7, such as 0190163d-8694-739b-aea5-966c26f8ad91")
		}
		return Unpack(u[:]), nil
	case ULID:
		u, err := ulid.ParseStrict(text)
		if err != nil {
			return Number{}, errs.Invalid("id", text, "a ULID of 26 characters of Crockford's base 32")
		}
		return Unpack(u[:]), nil
	}
	v, err := strconv.ParseUint(text, 10, 64)
	if err != nil || v > 1<<63-1 || (len(text) > 1 && text[0] == '0') || text[0] == '+' {
		return Number{}, errs.Invalid("id", text, "a decimal number from 0 to 9223372036854775807")
	}
	return Number{Lo: v}, nil
}
