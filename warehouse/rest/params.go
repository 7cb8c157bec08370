package rest

import (
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/gin-gonic/gin"

	"nekoq/services/errs"
	"nekoq/services/httpapi"
	"nekoq/warehouse/api"
)

// params reads query parameters; the first mistake sticks. A request without a
// query costs nothing.
type params struct {
	c   *gin.Context
	err error
}

func (p *params) get(name string) (string, bool) {
	if p.c.Request.URL.RawQuery == "" {
		return "", false
	}
	return p.c.GetQuery(name)
}

func (p *params) fail(field, value, limit string) {
	if p.err == nil {
		p.err = errs.Invalid(field, value, limit)
	}
}

// uint gives a number, with whether it was given.
func (p *params) uint(name string) (uint64, bool) {
	v, ok := p.get(name)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		p.fail(name, v, "a number from 0 to 18446744073709551615")
	}
	return n, true
}

// condition reads if_revision and the headers that stand for it.
func (p *params) condition() api.Condition {
	var d httpapi.Demand
	d.Revision, d.Set = p.uint("if_revision")
	d, err := httpapi.DemandOf(p.c.Request.Context(), d)
	if p.err == nil {
		p.err = err
	}
	return api.Condition{Set: d.Set, Revision: d.Revision, Exists: d.Exists}
}

// limit gives 0 when none is given. highest is for the message only: the service
// checks it.
func (p *params) limit(highest int) int {
	v, ok := p.get("limit")
	if !ok {
		return 0
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > highest {
		p.fail("limit", v, "1 to "+strconv.Itoa(highest))
	}
	return n
}

func (p *params) bool(name string) bool {
	v, ok := p.get(name)
	if !ok || v == "" {
		return ok // ?raw is ?raw=true
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		p.fail(name, v, "true or false")
	}
	return b
}

func (p *params) stale() bool {
	switch v, ok := p.get("consistency"); {
	case !ok, v == "linearizable":
		return false
	case v == "stale":
		return true
	default:
		p.fail("consistency", v, "linearizable or stale")
		return false
	}
}

// ttl gives 0 when none is given.
func (p *params) ttl() time.Duration {
	v, ok := p.get("ttl")
	if !ok {
		return 0
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < time.Second {
		p.fail("ttl", v, "a duration from 1s to 9000000000s, such as 30s")
	}
	return d
}

func (p *params) text(field, v string) []byte {
	if !utf8.ValidString(v) {
		p.fail(field, v, "UTF-8 text")
	}
	return []byte(v)
}

// key gives the key of the path.
func (p *params) key() []byte { return p.text("key", httpapi.Param(p.c, "key")) }

// keys gives the range that prefix, or start and end, name.
func (p *params) keys() (start, end []byte) {
	prefix, isPrefix := p.get("prefix")
	from, hasStart := p.get("start")
	to, hasEnd := p.get("end")
	if isPrefix {
		if hasStart || hasEnd {
			p.fail("prefix", prefix, "prefix, or start and end, not both")
		}
		start = p.text("prefix", prefix)
		return start, api.PrefixEnd(start)
	}
	if hasEnd && to == "" {
		p.fail("end", to, "a key after start, or no end at all")
	}
	return p.text("start", from), p.text("end", to)
}
