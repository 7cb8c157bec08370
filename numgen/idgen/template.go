package idgen

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // the zones of a template must be known on every machine alike

	"nekoq/services/errs"
)

// Limits of templates.
const (
	MaxTemplate = 256 // bytes
	MaxPad      = 64  // digits
)

// Reset says when the counter of a formatted sequence starts again.
type Reset string

const (
	ResetNever Reset = ""
	ResetDay   Reset = "day"
	ResetMonth Reset = "month"
	ResetYear  Reset = "year"
)

type partKind uint8

const (
	partLiteral partKind = iota
	partNumber
	partDate
	partCheck
)

type part struct {
	kind  partKind
	text  string // literal, or date tokens
	width int    // of literal, date and check
}

// Template is a parsed template of formatted ids. It is immutable.
//
// A template is literal text with parts in braces; {{ and }} stand for braces.
//
//	{n}  {n:8}  {n:8,base=36,lower}   the number: least width, base 10 16 32 36 62
//	{yyyyMMdd}  {yy-DDD}  {HHmmss}    date: yyyy yy MM dd DDD HH mm ss SSS and - . _ / :
//	{check=luhn}                      check characters over what stands before
//
// Exactly one {n}; everything else has a fixed width, so an id has one reading.
type Template struct {
	parts    []part
	zone     *time.Location
	reset    Reset
	pad      int
	base     uint64
	alphabet string
	check    *checkDigit
	dates    bool
	fixed    int // width of everything but the number
}

// alphabets of the bases; 32 is Crockford's.
const (
	digits16 = "0123456789abcdef"
	digits32 = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	digits62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

func templateError(text string, pos int, reason string, args ...any) error {
	r := fmt.Sprintf(reason, args...)
	return errs.New(errs.InvalidArgument, "template: at position %d: %s", pos+1, r).
		With(errs.Detail{Field: "template", Value: text, Limit: r, Help: "position " + strconv.Itoa(pos+1)})
}

// ParseTemplate parses a template. zone is an IANA name, "" for UTC. A reset
// demands that the date in the template tells the periods apart.
func ParseTemplate(text, zone string, reset Reset) (*Template, error) {
	if text == "" || len(text) > MaxTemplate {
		return nil, errs.Invalid("template", text, "1 to "+strconv.Itoa(MaxTemplate)+" bytes")
	}
	loc, err := loadZone(zone)
	if err != nil {
		return nil, err
	}
	t := &Template{zone: loc, reset: reset}
	if err := t.parse(text); err != nil {
		return nil, err
	}
	if t.base == 0 {
		return nil, templateError(text, len(text), "the number {n} is missing")
	}
	return t, t.checkReset(text)
}

func loadZone(zone string) (*time.Location, error) {
	if zone == "" || zone == "UTC" {
		return time.UTC, nil
	}
	loc, err := time.LoadLocation(zone)
	if err != nil || zone == "Local" { // Local differs from node to node
		return nil, errs.Invalid("time_zone", zone, "an IANA time zone, such as Europe/Berlin")
	}
	return loc, nil
}

func (t *Template) parse(text string) error {
	var lit strings.Builder
	flush := func() {
		if lit.Len() > 0 {
			t.add(part{kind: partLiteral, text: lit.String(), width: lit.Len()})
			lit.Reset()
		}
	}
	for i := 0; i < len(text); {
		c := text[i]
		switch {
		case c < 0x20 || c > 0x7e:
			return templateError(text, i, "only printable ASCII may stand in an id")
		case (c == '{' || c == '}') && i+1 < len(text) && text[i+1] == c:
			lit.WriteByte(c)
			i += 2
		case c == '}':
			return templateError(text, i, "a closing brace without an opening one; write }} for a brace")
		case c != '{':
			lit.WriteByte(c)
			i++
		default:
			end := strings.IndexByte(text[i:], '}')
			if end < 0 {
				return templateError(text, i, "the brace is never closed; write {{ for a brace")
			}
			flush()
			if err := t.parsePart(text, i+1, text[i+1:i+end]); err != nil {
				return err
			}
			i += end + 1
		}
	}
	flush()
	return nil
}

func (t *Template) add(p part) {
	t.parts = append(t.parts, p)
	t.fixed += p.width
}

func (t *Template) parsePart(text string, pos int, body string) error {
	switch {
	case body == "":
		return templateError(text, pos, "empty braces; want n, a date such as yyyyMMdd, or check=luhn")
	case body == "n" || strings.HasPrefix(body, "n:"):
		return t.parseNumber(text, pos, strings.TrimPrefix(body[1:], ":"))
	case strings.HasPrefix(body, "check="):
		return t.parseCheck(text, pos, body[len("check="):])
	}
	return t.parseDate(text, pos, body)
}

func (t *Template) parseNumber(text string, pos int, opts string) error {
	if t.base != 0 {
		return templateError(text, pos, "a second {n}; the number stands in an id once")
	}
	t.base = 10
	letters := ""
	for opt := range strings.SplitSeq(opts, ",") {
		base, isBase := strings.CutPrefix(opt, "base=")
		switch {
		case opt == "" && opts == "":
		case isBase:
			switch base {
			case "10", "16", "32", "36", "62":
				t.base, _ = strconv.ParseUint(base, 10, 8)
			default:
				return templateError(text, pos, "base %q; want 10, 16, 32, 36 or 62", base)
			}
		case opt == "lower" || opt == "upper":
			letters = opt
		default:
			n, err := strconv.Atoi(opt)
			if err != nil || n < 1 || n > MaxPad {
				return templateError(text, pos, "%q; want a width from 1 to %d, base=, lower or upper", opt, MaxPad)
			}
			t.pad = n
		}
	}
	switch t.base {
	case 16:
		t.alphabet = digits16
	case 32:
		t.alphabet = digits32
	default:
		t.alphabet = digits62[:t.base]
	}
	if letters != "" && t.base == 62 {
		return templateError(text, pos, "base 62 needs letters of both cases")
	}
	switch letters {
	case "lower":
		t.alphabet = strings.ToLower(t.alphabet)
	case "upper":
		t.alphabet = strings.ToUpper(t.alphabet)
	}
	t.add(part{kind: partNumber})
	return nil
}

func (t *Template) parseCheck(text string, pos int, name string) error {
	c, ok := checkByName(name)
	switch {
	case !ok:
		return templateError(text, pos, "check %q; want one of %s", name, checkNames())
	case t.check != nil:
		return templateError(text, pos, "a second check")
	case t.base == 0:
		return templateError(text, pos, "the check stands before {n}; it counts only what stands before it")
	case !c.alnum && t.base != 10:
		return templateError(text, pos, "%s counts decimal digits only, and the number has base %d; use mod37_2 or mod37_36", name, t.base)
	case c.alnum && t.base == 62:
		return templateError(text, pos, "%s does not tell letters of both cases apart, and the number has base 62", name)
	}
	t.check = c
	t.add(part{kind: partCheck, width: c.width})
	return nil
}

// dateTokens, longer ones first where they share a beginning.
var dateTokens = []string{"yyyy", "yy", "MM", "dd", "DDD", "HH", "mm", "ss", "SSS"}

const dateSeparators = "-._/:"

// nextToken cuts the first token or separator off a date part.
func nextToken(s string) (token, rest string) {
	for _, tok := range dateTokens {
		if r, ok := strings.CutPrefix(s, tok); ok {
			return tok, r
		}
	}
	if strings.IndexByte(dateSeparators, s[0]) >= 0 {
		return s[:1], s[1:]
	}
	return "", s
}

func (t *Template) parseDate(text string, pos int, body string) error {
	for rest := body; rest != ""; {
		tok, r := nextToken(rest)
		if tok == "" {
			return templateError(text, pos+len(body)-len(rest),
				"%q is neither n, nor check=, nor a date of yyyy yy MM dd DDD HH mm ss SSS and %s", rest, dateSeparators)
		}
		rest = r
	}
	t.dates = true
	t.add(part{kind: partDate, text: body, width: len(body)})
	return nil
}

// has tells whether any date part has the token.
func (t *Template) has(tokens ...string) bool {
	for _, p := range t.parts {
		if p.kind != partDate {
			continue
		}
		for rest := p.text; rest != ""; {
			var tok string
			tok, rest = nextToken(rest)
			for _, want := range tokens {
				if tok == want {
					return true
				}
			}
		}
	}
	return false
}

// checkReset refuses a reset after which the same id could come again.
func (t *Template) checkReset(text string) error {
	year := t.has("yyyy", "yy")
	month := t.has("MM") || t.has("DDD")
	day := t.has("DDD") || t.has("MM") && t.has("dd")
	missing := ""
	switch t.reset {
	case ResetNever:
	case ResetDay:
		if !year || !day {
			missing = "year, month and day"
		}
	case ResetMonth:
		if !year || !month {
			missing = "year and month"
		}
	case ResetYear:
		if !year {
			missing = "year"
		}
	default:
		return errs.Invalid("reset", t.reset, "day, month or year, or nothing")
	}
	if missing != "" {
		return templateError(text, len(text), "with reset per %s the template must have %s, or ids would repeat", t.reset, missing)
	}
	return nil
}

// Period is the number of the reset period that at lies in: 20261121, 202611 or
// 2026, and 0 without reset. Later periods have greater numbers.
func (t *Template) Period(at time.Time) uint64 {
	at = at.In(t.zone)
	y, m, d := uint64(at.Year()), uint64(at.Month()), uint64(at.Day())
	switch t.reset {
	case ResetDay:
		return (y*100+m)*100 + d
	case ResetMonth:
		return y*100 + m
	case ResetYear:
		return y
	}
	return 0
}

// PeriodStart is the first moment of a period.
func (t *Template) PeriodStart(period uint64) time.Time {
	y, m, d := period, uint64(1), uint64(1)
	switch t.reset {
	case ResetDay:
		y, m, d = period/10000, period/100%100, period%100
	case ResetMonth:
		y, m = period/100, period%100
	}
	return time.Date(int(y), time.Month(m), int(d), 0, 0, 0, 0, t.zone)
}

// AppendPacked renders one id and packs it: its length, then its text.
func (t *Template) AppendPacked(dst []byte, n Number, at time.Time) []byte {
	var buf [128]byte
	text := t.Append(buf[:0], n, at)
	dst = binary.AppendUvarint(dst, uint64(len(text)))
	return append(dst, text...)
}

// Append renders one id.
func (t *Template) Append(dst []byte, n Number, at time.Time) []byte {
	start := len(dst)
	if t.dates {
		at = at.In(t.zone)
	}
	for _, p := range t.parts {
		switch p.kind {
		case partLiteral:
			dst = append(dst, p.text...)
		case partNumber:
			dst = t.appendNumber(dst, n)
		case partDate:
			dst = appendDate(dst, p.text, at)
		case partCheck:
			dst = append(dst, t.check.of(dst[start:])...)
		}
	}
	return dst
}

func (t *Template) appendNumber(dst []byte, n Number) []byte {
	var buf [128]byte
	i := len(buf)
	for n != (Number{}) || i > len(buf)-max(t.pad, 1) {
		var r uint64
		n, r = n.divmod(t.base)
		i--
		buf[i] = t.alphabet[r]
	}
	return append(dst, buf[i:]...)
}

func appendDate(dst []byte, tokens string, at time.Time) []byte {
	for tokens != "" {
		var tok string
		tok, tokens = nextToken(tokens)
		switch tok {
		case "yyyy":
			dst = appendPadded(dst, at.Year()%10000, 4)
		case "yy":
			dst = appendPadded(dst, at.Year()%100, 2)
		case "MM":
			dst = appendPadded(dst, int(at.Month()), 2)
		case "dd":
			dst = appendPadded(dst, at.Day(), 2)
		case "DDD":
			dst = appendPadded(dst, at.YearDay(), 3)
		case "HH":
			dst = appendPadded(dst, at.Hour(), 2)
		case "mm":
			dst = appendPadded(dst, at.Minute(), 2)
		case "ss":
			dst = appendPadded(dst, at.Second(), 2)
		case "SSS":
			dst = appendPadded(dst, at.Nanosecond()/1e6, 3)
		default:
			dst = append(dst, tok...)
		}
	}
	return dst
}

func appendPadded(dst []byte, v, width int) []byte {
	for div := pow10(width - 1); div > 0; div /= 10 {
		dst = append(dst, byte('0'+v/div%10))
	}
	return dst
}

func pow10(n int) int {
	p := 1
	for range n {
		p *= 10
	}
	return p
}
