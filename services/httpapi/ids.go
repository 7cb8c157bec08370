package httpapi

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"strconv"
	"sync/atomic"
)

// maxRequestID bounds a request id that a client brings, in bytes.
const maxRequestID = 128

// idSource makes request ids: a random prefix for the process, then a counter.
type idSource struct {
	prefix string
	next   *atomic.Uint64
}

func newIDSource() idSource {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails
	return idSource{prefix: hex.EncodeToString(b[:]) + "-", next: new(atomic.Uint64)}
}

func (s idSource) make() string {
	var buf [40]byte
	b := append(buf[:0], s.prefix...)
	return string(strconv.AppendUint(b, s.next.Add(1), 36))
}

// requestID takes the client's X-Request-Id when it is short and of harmless
// characters, else it makes one: a bad id is no reason to refuse the request.
func (s *Server) requestID(h http.Header) string {
	if v := h["X-Request-Id"]; len(v) > 0 && goodRequestID(v[0]) {
		return v[0]
	}
	return s.ids.make()
}

func goodRequestID(id string) bool {
	if id == "" || len(id) > maxRequestID {
		return false
	}
	for i := range len(id) {
		switch c := id[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '-', c == '_', c == '.', c == ':', c == '/', c == '+', c == '=', c == '@':
		default:
			return false
		}
	}
	return true
}
