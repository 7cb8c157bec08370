package rest

import (
	"encoding/base64"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/gin-gonic/gin"

	"nekoq/warehouse/api"
)

// buffer builds one JSON object without reflection; get is a hot path.
type buffer struct{ b []byte }

func takeBuffer() *buffer {
	b := buffers.Get().(*buffer)
	b.b = append(b.b[:0], '{')
	return b
}

// free gives the buffer back, unless one large answer made it large.
func (b *buffer) free() {
	if cap(b.b) <= 256<<10 {
		buffers.Put(b)
	}
}

var jsonType = []string{"application/json"}

// send closes the object and answers with it.
func (b *buffer) send(c *gin.Context) {
	b.b = append(b.b, '}')
	c.Writer.Header()["Content-Type"] = jsonType
	b.write(c)
}

var rawType = []string{"application/octet-stream"}

func (b *buffer) sendRaw(c *gin.Context) {
	c.Writer.Header()["Content-Type"] = rawType
	b.write(c)
}

// small is an answer that net/http holds back until the handler is through, and then
// tells the length of without another string.
const small = 2048

func (b *buffer) write(c *gin.Context) {
	if len(b.b) > small || c.Request.Method == http.MethodHead {
		c.Writer.Header()["Content-Length"] = []string{strconv.Itoa(len(b.b))}
	}
	c.Writer.WriteHeader(http.StatusOK)
	_, _ = c.Writer.Write(b.b) // the client is gone; there is nobody to tell
	b.free()
}

// name begins a member.
func (b *buffer) name(n string) {
	if b.b[len(b.b)-1] != '{' {
		b.b = append(b.b, ',')
	}
	b.b = append(b.b, '"')
	b.b = append(b.b, n...)
	b.b = append(b.b, '"', ':')
}

func (b *buffer) uint(n string, v uint64) {
	b.name(n)
	b.b = strconv.AppendUint(b.b, v, 10)
}

func (b *buffer) bool(n string, v bool) {
	b.name(n)
	b.b = strconv.AppendBool(b.b, v)
}

func (b *buffer) text(n, v string) {
	b.name(n)
	b.b = appendJSONString(b.b, v)
}

// lease is a 64-bit id, so a string.
func (b *buffer) lease(id uint64) {
	if id != 0 {
		b.name("lease")
		b.b = append(strconv.AppendUint(append(b.b, '"'), id, 10), '"')
	}
}

func (b *buffer) time(n string, ns int64) {
	b.name(n)
	b.b = append(b.b, '"')
	b.b = time.Unix(0, ns).UTC().AppendFormat(b.b, time.RFC3339Nano)
	b.b = append(b.b, '"')
}

func (b *buffer) base64(n string, v []byte) {
	b.name(n)
	b.b = append(b.b, '"')
	b.b = base64.StdEncoding.AppendEncode(b.b, v)
	b.b = append(b.b, '"')
}

func (b *buffer) array(n string, count int, each func(i int)) {
	b.name(n)
	b.b = append(b.b, '[')
	for i := range count {
		if i > 0 {
			b.b = append(b.b, ',')
		}
		b.b = append(b.b, '{')
		each(i)
		b.b = append(b.b, '}')
	}
	b.b = append(b.b, ']')
}

// kv writes the members of a key. A key that is not UTF-8 (another door wrote it)
// has its bytes beside the readable form.
func (b *buffer) kv(kv *api.KV, value bool) {
	b.key(kv.Key)
	if kv.Deleted {
		b.bool("deleted", true)
	} else {
		if value {
			b.base64("value", kv.Value)
		}
		b.uint("create_revision", kv.CreateRevision)
	}
	b.uint("mod_revision", kv.ModRevision)
	if !kv.Deleted {
		b.uint("version", kv.Version)
		b.lease(kv.Lease)
		b.time("created", kv.Created)
	}
	b.time("modified", kv.Modified)
	b.text("actor", kv.Actor)
	b.uint("store_revision", kv.StoreRevision)
}

func (b *buffer) key(key []byte) {
	b.name("key")
	b.b = appendJSONString(b.b, string(key))
	if !utf8.Valid(key) {
		b.base64("key_base64", key)
	}
}

func (b *buffer) lag(h *api.Header) {
	if !h.Stale {
		return
	}
	b.name("stale")
	b.b = append(b.b, '{')
	b.uint("lag_entries", h.LagEntries)
	b.text("lag_age", h.LagAge.String())
	b.bool("leader_known", h.LagKnown)
	b.b = append(b.b, '}')
}

const hexDigits = "0123456789abcdef"

// appendJSONString quotes s; bytes that are not UTF-8 become the replacement
// character.
func appendJSONString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			b = utf8.AppendRune(b, r)
			i += n
			continue
		}
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < 0x20 || c == 0x7f:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
		default:
			b = append(b, c)
		}
		i++
	}
	return append(b, '"')
}
