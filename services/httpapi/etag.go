package httpapi

import (
	"context"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"nekoq/services/errs"
)

// An entity tag names a version of what a path stands for (RFC 9110, 8.8.3): here its
// revision, or the hash of its content. Reads give it and take If-None-Match; writes
// take If-Match and If-None-Match: * in place of if_revision. A revision that such a
// header demands and that is not there is failed_precondition (412), where if_revision
// alone is revision_mismatch (409).

const (
	ifMatch     = "If-Match"
	ifNoneMatch = "If-None-Match"
)

// zipped ends the tags of compressed answers, whose bytes are others.
const zipped = "-gzip"

// tag is one entity tag without its quotes.
type tag struct {
	text string
	weak bool
}

func (t tag) names(version string) bool { return strings.TrimSuffix(t.text, zipped) == version }

func (t tag) String() string {
	if t.weak {
		return `W/"` + t.text + `"`
	}
	return `"` + t.text + `"`
}

// tags is what a header lists.
type tags struct {
	any  bool // *
	list []tag
}

func (t *tags) given() bool { return t.any || len(t.list) > 0 }

// parseTags reads If-Match or If-None-Match.
func parseTags(h http.Header, name string) (t tags, err error) {
	lines := h[name]
	if len(lines) == 0 {
		return t, nil
	}
	all := strings.Join(lines, ",")
	bad := errs.Invalid(name, shorten(all), `entity tags as an ETag header gave them, such as "17", or *`)
	if strings.Trim(all, " \t") == "*" {
		return tags{any: true}, nil
	}
	for rest := all; ; {
		if rest = strings.TrimLeft(rest, " \t,"); rest == "" {
			break
		}
		var one tag
		rest, one.weak = strings.CutPrefix(rest, "W/")
		quoted, opened := strings.CutPrefix(rest, `"`)
		end := strings.IndexByte(quoted, '"')
		if !opened || end < 0 || strings.ContainsFunc(quoted[:end], func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return t, bad
		}
		one.text, rest = quoted[:end], strings.TrimLeft(quoted[end+1:], " \t")
		if rest != "" && rest[0] != ',' {
			return t, bad
		}
		t.list = append(t.list, one)
	}
	if len(t.list) == 0 {
		return t, bad
	}
	return t, nil
}

// SetETag tells the version that the answer shows. It is of plain characters without
// quotes.
func SetETag(ctx context.Context, version string) {
	if r := requestOf(ctx); r != nil {
		r.etag[0] = `"` + version + `"`
		r.out["Etag"] = r.etag[:]
	}
}

// NotModified compares the version that the answer would show with what the client
// asked for, and tells it as SetETag does. When it is true, the client has this version
// (If-None-Match), and the answer is 304 without a body. A version that If-Match does
// not list is failed_precondition.
func NotModified(ctx context.Context, version string) (bool, error) {
	SetETag(ctx, version)
	r := requestOf(ctx)
	if r == nil || len(r.in[ifMatch]) == 0 && len(r.in[ifNoneMatch]) == 0 {
		return false, nil
	}
	want, err := parseTags(r.in, ifMatch)
	if err != nil {
		return false, err
	}
	if want.given() && !want.any {
		if found := want.find(version, false); found == nil {
			return false, errs.New(errs.FailedPrecond, `If-Match: it is at "%s"`, version).
				With(errs.Detail{Field: ifMatch, Value: shorten(strings.Join(r.in[ifMatch], ",")), Limit: `"` + version + `"`})
		}
	}
	known, err := parseTags(r.in, ifNoneMatch)
	if err != nil || !known.given() {
		return false, err
	}
	if found := known.find(version, true); found != nil {
		r.etag[0] = found.String()
		return true, nil
	}
	return known.any, nil
}

// find gives the tag of a version. Weak ones name it too where bytes do not count.
func (t *tags) find(version string, weak bool) *tag {
	for i := range t.list {
		if t.list[i].names(version) && (weak || !t.list[i].weak) {
			return &t.list[i]
		}
	}
	return nil
}

// KnownVersion gives the version that If-None-Match names, "" when there is none. A
// read that waits for another version takes one alone; else several are "" too.
func KnownVersion(ctx context.Context, waits bool) (string, error) {
	r := requestOf(ctx)
	if r == nil {
		return "", nil
	}
	t, err := parseTags(r.in, ifNoneMatch)
	switch {
	case err != nil:
		return "", err
	case waits && t.given() && len(t.list) != 1:
		return "", errs.Invalid(ifNoneMatch, shorten(strings.Join(r.in[ifNoneMatch], ",")), "one entity tag together with wait")
	case len(t.list) != 1:
		return "", nil
	}
	return strings.TrimSuffix(t.list[0].text, zipped), nil
}

// Demand is what a write demands of the revision of what it changes.
type Demand struct {
	Set      bool
	Revision uint64 // 0: it must not exist
	Exists   bool   // it must exist, at any revision; not with Set
}

// DemandOf reads If-Match and If-None-Match of a write. d is what the request demands
// otherwise; headers that contradict it, or each other, are refused.
func DemandOf(ctx context.Context, d Demand) (Demand, error) {
	r := requestOf(ctx)
	if r == nil || len(r.in[ifMatch]) == 0 && len(r.in[ifNoneMatch]) == 0 {
		return d, nil
	}
	none, err := parseTags(r.in, ifNoneMatch)
	if err != nil {
		return d, err
	}
	match, err := parseTags(r.in, ifMatch)
	if err != nil {
		return d, err
	}
	if none.given() {
		if !none.any {
			return d, errs.Invalid(ifNoneMatch, shorten(strings.Join(r.in[ifNoneMatch], ",")), "* in a write")
		}
		if d, err = d.and(ifNoneMatch, "*", Demand{Set: true}); err != nil {
			return d, err
		}
		r.condition = ifNoneMatch
	}
	if !match.given() {
		return d, nil
	}
	r.condition = ifMatch
	if match.any {
		return d.and(ifMatch, "*", Demand{Exists: true})
	}
	if len(match.list) > 1 {
		return d, errs.Invalid(ifMatch, shorten(strings.Join(r.in[ifMatch], ",")), "one entity tag, or *, in a write")
	}
	one := match.list[0]
	rev, bad := strconv.ParseUint(strings.TrimSuffix(one.text, zipped), 10, 64)
	if bad != nil || rev == 0 || one.weak {
		return d, errs.New(errs.FailedPrecond, "If-Match: no revision has the tag %s: want one that GET gave, and not a weak one", shorten(one.String())).
			With(errs.Detail{Field: ifMatch, Value: one.String(), Limit: `a revision, such as "17"`})
	}
	return d.and(ifMatch, one.String(), Demand{Set: true, Revision: rev})
}

// IfRevision is DemandOf for typed routes: text is their parameter if_revision, "" for
// none. If-Match: * is refused.
func IfRevision(ctx context.Context, text string) (*uint64, error) {
	var d Demand
	if text != "" {
		rev, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return nil, errs.Invalid("if_revision", text, "a number from 0 to 18446744073709551615")
		}
		d = Demand{Set: true, Revision: rev}
	}
	d, err := DemandOf(ctx, d)
	switch {
	case err != nil:
		return nil, err
	case d.Exists:
		return nil, errs.Invalid(ifMatch, "*", "the ETag that GET gave")
	case !d.Set:
		return nil, nil
	}
	return &d.Revision, nil
}

// and adds what a header demands.
func (d Demand) and(header, value string, more Demand) (Demand, error) {
	switch {
	case !d.Set && !d.Exists:
		return more, nil
	case d.Set && more.Set && d.Revision == more.Revision:
		return d, nil
	case d.Set && d.Revision != 0 && more.Exists:
		return d, nil
	}
	return d, errs.Invalid(header, value, "what if_revision and the other headers say, or alone")
}

// failedPrecondition turns the mismatch of a revision that a header demanded into what
// HTTP calls it.
func (r *request) failedPrecondition(e *errs.Error) *errs.Error {
	if r.condition == "" || e.Code != errs.RevisionMismatch {
		return e
	}
	out := errs.New(errs.FailedPrecond, "%s: %s", r.condition, strings.TrimPrefix(e.Message, "if_revision: "))
	for _, d := range e.Details {
		if d.Field == "if_revision" {
			d.Field, d.Value = r.condition, shorten(strings.Join(r.in[r.condition], ","))
		}
		out = out.With(d)
	}
	return out
}

// ReadTags documents the headers of NotModified, and the answer 304. Responses are
// added before.
func ReadTags(op *huma.Operation) {
	op.Parameters = append(op.Parameters, header(ifNoneMatch, "The ETag of an answer: 304 without a body when it is still the same."),
		header(ifMatch, "The ETag of an answer: failed_precondition (412) when it is not the same."))
	if op.Responses == nil {
		op.Responses = map[string]*huma.Response{}
	}
	ok := op.Responses["200"]
	if ok == nil {
		ok = &huma.Response{Description: http.StatusText(http.StatusOK)}
		op.Responses["200"] = ok
	}
	ok.Headers = map[string]*huma.Param{"ETag": {Description: "The version that the answer shows.", Schema: &huma.Schema{Type: "string"}}}
	op.Responses["304"] = &huma.Response{Description: "The client has this version."}
}

// WriteTags documents the headers of DemandOf.
func WriteTags(op *huma.Operation) {
	op.Parameters = append(op.Parameters,
		header(ifMatch, "Only if this is the ETag of what is there, or for * if there is anything; else failed_precondition (412). In place of if_revision."),
		header(ifNoneMatch, "With *: only if there is nothing yet; else failed_precondition (412). In place of if_revision=0."))
}

func header(name, doc string) *huma.Param {
	return &huma.Param{Name: name, In: "header", Description: doc, Schema: &huma.Schema{Type: "string"}}
}
