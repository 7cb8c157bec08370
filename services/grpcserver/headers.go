package grpcserver

import (
	"encoding/base64"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/metadata"
)

// Limits of a header block: its encoded bytes, over all frames, and a single value.
const (
	maxHeaderBlock  = 64 << 10
	maxHeaderString = maxHeaderBlock
	maxHeaderFields = 256
	headerTable     = 4 << 10 // HPACK's default dynamic table
)

// head is the header of a request.
type head struct {
	method, path, contentType, encoding string
	timeout                             time.Duration // 0 for none
	length                              int64         // content-length, negative for none
	own                                 []hpack.HeaderField
	fields                              int
	bad                                 string // what gRPC forbids in it
	malformed                           bool   // what HTTP/2 forbids is in it
	regular                             bool   // a field came that is no pseudo header
	pseudo                              uint8  // the pseudo headers that came
}

// The pseudo headers of a request.
const (
	pseudoMethod = 1 << iota
	pseudoPath
	pseudoScheme
	pseudoAuthority
	pseudoAll = pseudoMethod | pseudoPath | pseudoScheme | pseudoAuthority
)

// emit takes one decoded field.
func (h *head) emit(f hpack.HeaderField) {
	if h.fields++; h.fields > maxHeaderFields {
		h.bad = "too many header fields"
		return
	}
	if f.IsPseudo() {
		h.takePseudo(f)
		return
	}
	h.regular = true
	switch f.Name {
	case "content-type":
		h.contentType = f.Value
	case "grpc-encoding":
		h.encoding = f.Value
	case "grpc-timeout":
		d, ok := parseTimeout(f.Value)
		if !ok {
			h.bad = "malformed grpc-timeout: " + f.Value
		}
		h.timeout = d
	case "te":
		h.malformed = h.malformed || f.Value != "trailers"
	case "content-length":
		n, err := strconv.ParseUint(f.Value, 10, 63)
		h.malformed = h.malformed || err != nil || h.length >= 0 && h.length != int64(n)
		h.length = int64(n)
	case "grpc-accept-encoding", "accept-encoding":
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		h.malformed = true
	default:
		if !sound(f) {
			h.malformed = true
			return
		}
		h.own = append(h.own, f)
	}
}

// takePseudo takes a pseudo header: each comes once, and before all other fields.
func (h *head) takePseudo(f hpack.HeaderField) {
	bit := uint8(0)
	switch f.Name {
	case ":method":
		h.method, bit = f.Value, pseudoMethod
	case ":path":
		h.path, bit = f.Value, pseudoPath
		h.malformed = h.malformed || f.Value == ""
	case ":scheme":
		bit = pseudoScheme
	case ":authority":
		bit = pseudoAuthority
	}
	h.malformed = h.malformed || bit == 0 || h.regular || h.pseudo&bit != 0
	h.pseudo |= bit
}

// sound tells whether HTTP/2 allows a field (RFC 9113, 8.2.1).
func sound(f hpack.HeaderField) bool {
	for i := range len(f.Name) {
		if c := f.Name[i]; c <= ' ' || c >= 0x7f || c == ':' || 'A' <= c && c <= 'Z' {
			return false
		}
	}
	for i := range len(f.Value) {
		if c := f.Value[i]; c == 0 || c == '\r' || c == '\n' {
			return false
		}
	}
	return f.Name != ""
}

// value gives the first value of a header.
func value(fields []hpack.HeaderField, name string) (string, bool) {
	for _, f := range fields {
		if f.Name == name {
			return f.Value, true
		}
	}
	return "", false
}

// mdOf makes grpc's metadata of the fields.
func mdOf(fields []hpack.HeaderField) metadata.MD {
	md := make(metadata.MD, len(fields))
	for _, f := range fields {
		v := f.Value
		if strings.HasSuffix(f.Name, "-bin") {
			b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(v, "="))
			if err != nil {
				continue
			}
			v = string(b)
		}
		md[f.Name] = append(md[f.Name], v)
	}
	return md
}

// maxTimeout stands for every longer one: some clients say "never" with the largest
// number there is, which no clock may be added to.
const maxTimeout = 100 * 365 * 24 * time.Hour

// parseTimeout reads up to 8 digits and a unit.
func parseTimeout(v string) (time.Duration, bool) {
	n := len(v) - 1
	if n < 1 || n > 8 {
		return 0, false
	}
	var unit time.Duration
	switch v[n] {
	case 'H':
		unit = time.Hour
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	default:
		return 0, false
	}
	var d time.Duration
	for i := range n {
		if v[i] < '0' || v[i] > '9' {
			return 0, false
		}
		d = 10*d + time.Duration(v[i]-'0')
	}
	if d > maxTimeout/unit {
		return maxTimeout, true
	}
	return max(d*unit, 1), true
}

const upperhex = "0123456789ABCDEF"

// percent encodes a status message as gRPC demands it.
func percent(s string) string {
	plain := true
	for i := range len(s) {
		plain = plain && s[i] >= ' ' && s[i] <= '~' && s[i] != '%'
	}
	if plain {
		return s
	}
	out := make([]byte, 0, len(s)+16)
	for i := range len(s) {
		if c := s[i]; c >= ' ' && c <= '~' && c != '%' {
			out = append(out, c)
		} else {
			out = append(out, '%', upperhex[c>>4], upperhex[c&15])
		}
	}
	return string(out)
}
