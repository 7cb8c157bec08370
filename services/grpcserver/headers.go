package grpcserver

import (
	"encoding/base64"
	"math"
	"strings"
	"time"

	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/metadata"
)

// Limits of a header block: its encoded bytes, over all frames, and a single value.
const (
	maxHeaderBlock  = 64 << 10
	maxHeaderString = 16 << 10
	maxHeaderFields = 256
	headerTable     = 4 << 10 // HPACK's default dynamic table
)

// head is the header of a request.
type head struct {
	method, path, contentType, encoding string
	timeout                             time.Duration // 0 for none
	own                                 []hpack.HeaderField
	fields                              int
	bad                                 string // what is wrong with it
}

// emit takes one decoded field.
func (h *head) emit(f hpack.HeaderField) {
	if h.fields++; h.fields > maxHeaderFields {
		h.bad = "too many header fields"
		return
	}
	switch f.Name {
	case ":method":
		h.method = f.Value
	case ":path":
		h.path = f.Value
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
	case "te", ":scheme", ":authority", "grpc-accept-encoding", "accept-encoding":
	case "connection":
		h.bad = "connection-specific header field"
	default:
		if f.Name != "" && f.Name[0] == ':' {
			h.bad = "unknown pseudo header " + f.Name
			return
		}
		h.own = append(h.own, f)
	}
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
	if d > math.MaxInt64/unit {
		return math.MaxInt64, true
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
