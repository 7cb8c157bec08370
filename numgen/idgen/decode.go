package idgen

import (
	"strconv"
	"strings"
	"time"

	"nekoq/services/errs"
)

// Part is one named part of a decoded id.
type Part struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Decoded is what an id says about itself.
type Decoded struct {
	Kind string `json:"kind"`
	// Time is when the id was made, RFC 3339 with milliseconds; empty for kinds
	// that carry none.
	Time  string `json:"time,omitempty"`
	Parts []Part `json:"parts"`
}

// RFC3339ms is RFC 3339 with milliseconds.
const RFC3339ms = "2006-01-02T15:04:05.000Z07:00"

func part10(name string, v uint64) Part { return Part{Name: name, Value: strconv.FormatUint(v, 10)} }

// Decode takes an id of the layout apart.
func (l Layout) Decode(text string) (Decoded, error) {
	n, err := l.Kind.ParseText(text)
	if err != nil {
		return Decoded{}, err
	}
	return l.decodeNumber(n), nil
}

func (l Layout) decodeNumber(n Number) Decoded {
	d := Decoded{Kind: l.Kind.String()}
	at := func(unixMS uint64) {
		d.Time = time.UnixMilli(int64(unixMS)).UTC().Format(RFC3339ms)
		d.Parts = append(d.Parts, part10("unix_ms", unixMS))
	}
	switch l.Kind {
	case ID128:
		at(n.Hi>>16 + EpochMS)
		d.Parts = append(d.Parts, part10("ms", n.Hi>>16), part10("worker", n.Hi&0xffff), part10("element", n.Lo>>32), part10("sequence", n.Lo&0xffffffff))
	case Snowflake:
		ms := n.Lo >> (l.WorkerBits + l.SlotBits)
		at(ms + uint64(l.Epoch))
		d.Parts = append(d.Parts, part10("ms", ms), part10("worker", n.Lo>>l.SlotBits&(1<<l.WorkerBits-1)), part10("sequence", n.Lo&(1<<l.SlotBits-1)))
	case UUIDv7:
		at(n.Hi >> 16)
		d.Parts = append(d.Parts, part10("counter", n.Hi&0xfff<<10|n.Lo>>52&0x3ff), part10("worker", n.Lo>>36&0xffff),
			Part{Name: "random", Value: strconv.FormatUint(n.Lo&(1<<36-1), 16)})
	case ULID:
		at(n.Hi >> 16)
		d.Parts = append(d.Parts, part10("counter", n.Hi&0xffff<<8|n.Lo>>56), part10("worker", n.Lo>>40&0xffff),
			Part{Name: "random", Value: strconv.FormatUint(n.Lo&(1<<40-1), 16)})
	default:
		d.Parts = append(d.Parts, part10("number", n.Lo))
	}
	return d
}

// TimeOf is when a packed id of a timed layout was made.
func (l Layout) TimeOf(n Number) time.Time {
	switch l.Kind {
	case ID128:
		return time.UnixMilli(int64(n.Hi>>16) + EpochMS)
	case Snowflake:
		return time.UnixMilli(int64(n.Lo>>(l.WorkerBits+l.SlotBits)) + l.Epoch)
	}
	return time.UnixMilli(int64(n.Hi >> 16))
}

// Decode takes a formatted id apart, verifies its check characters, and decodes
// the number by the layout of the kind behind it.
func (t *Template) Decode(text string, behind Layout) (Decoded, error) {
	bad := func(want string, args ...any) (Decoded, error) {
		return Decoded{}, errs.Invalid("id", text, strings.TrimSpace(want))
	}
	width := len(text) - t.fixed
	if width < max(t.pad, 1) || width > 128 {
		return bad("an id of the generator's template: " + strconv.Itoa(t.fixed+max(t.pad, 1)) + " characters or more")
	}
	d := Decoded{Kind: Format.String()}
	var number Number
	rest := text
	for _, p := range t.parts {
		w := p.width
		if p.kind == partNumber {
			w = width
		}
		s := rest[:w]
		before := text[:len(text)-len(rest)]
		rest = rest[w:]
		switch p.kind {
		case partLiteral:
			if s != p.text {
				return bad("the literal " + strconv.Quote(p.text) + " at position " + strconv.Itoa(len(before)+1))
			}
		case partNumber:
			n, ok := t.parseDigits(s)
			if !ok {
				return bad("a number of base " + strconv.FormatUint(t.base, 10) + " at position " + strconv.Itoa(len(before)+1))
			}
			number = n
		case partDate:
			parts, ok := decodeDate(p.text, s)
			if !ok {
				return bad("a date as " + p.text + " at position " + strconv.Itoa(len(before)+1))
			}
			d.Parts = append(d.Parts, parts...)
		case partCheck:
			if want := t.check.of([]byte(before)); s != want {
				return bad("the check characters " + want + " (" + t.check.name + ") at position " + strconv.Itoa(len(before)+1))
			}
			d.Parts = append(d.Parts, Part{Name: "check", Value: s})
		}
	}
	if !behind.Kind.Wide() && (number.Hi != 0 || number.Lo > 1<<63-1) {
		return bad("a number of at most 63 bits")
	}
	inner := behind.decodeNumber(number)
	d.Time = inner.Time
	d.Parts = append(d.Parts, inner.Parts...)
	return d, nil
}

func (t *Template) parseDigits(s string) (n Number, ok bool) {
	if len(s) > max(t.pad, 1) && s[0] == t.alphabet[0] {
		return n, false // wider than its padding, so it does not begin with a zero
	}
	for i := range len(s) {
		v := strings.IndexByte(t.alphabet, s[i])
		if v < 0 {
			return n, false
		}
		if n, ok = n.muladd(t.base, uint64(v)); !ok {
			return n, false
		}
	}
	return n, true
}

var dateNames = map[string]string{
	"yyyy": "year", "yy": "year", "MM": "month", "dd": "day", "DDD": "day_of_year",
	"HH": "hour", "mm": "minute", "ss": "second", "SSS": "millisecond",
}

// dateMax is the greatest value of each token.
var dateMax = map[string]int{"yyyy": 9999, "yy": 99, "MM": 12, "dd": 31, "DDD": 366, "HH": 23, "mm": 59, "ss": 59, "SSS": 999}

func decodeDate(tokens, s string) (parts []Part, ok bool) {
	for tokens != "" {
		var tok string
		tok, tokens = nextToken(tokens)
		field := s[:len(tok)]
		s = s[len(tok):]
		name, isToken := dateNames[tok]
		if !isToken {
			if field != tok {
				return nil, false
			}
			continue
		}
		v, err := strconv.ParseUint(field, 10, 16)
		if err != nil || int(v) > dateMax[tok] {
			return nil, false
		}
		if (tok == "MM" || tok == "dd" || tok == "DDD") && v == 0 {
			return nil, false
		}
		parts = append(parts, Part{Name: name, Value: field})
	}
	return parts, true
}
