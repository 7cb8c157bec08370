package httpapi

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"nekoq/services/errs"
)

// A read says how fresh it must be in one of two ways that mean the same:
// consistency=stale and stale=true. A route reads one of them; the server takes
// both on every route that reads either, documents both, and hands the route the
// one that it knows.
const (
	consistency = "consistency"
	stale       = "stale"
)

// bothSpellings documents the spelling that op lacks, and gives its name; "" when
// op's answers are never stale.
func bothSpellings(op *huma.Operation) (lacks string) {
	has := func(name string) bool {
		return slices.ContainsFunc(op.Parameters, func(p *huma.Param) bool { return p.In == "query" && p.Name == name })
	}
	if op.Method != http.MethodGet || has(consistency) == has(stale) {
		return ""
	}
	if has(stale) {
		op.Parameters = append(op.Parameters, &huma.Param{
			Name: consistency, In: "query", Description: "consistency=stale is another word for stale=true.",
			Schema: &huma.Schema{Type: "string", Enum: []any{"linearizable", "stale"}},
		})
		return consistency
	}
	op.Parameters = append(op.Parameters, &huma.Param{
		Name: stale, In: "query", Description: "stale=true is another word for consistency=stale.", Schema: &huma.Schema{Type: "boolean"},
	})
	return stale
}

// translate replaces the spelling that a route lacks by the one that it has.
func translate(raw, lacks string) (string, error) {
	if !strings.Contains(raw, lacks) {
		return raw, nil
	}
	known := stale
	if lacks == stale {
		known = consistency
	}
	pairs := strings.Split(raw, "&")
	at := -1
	for i, pair := range pairs {
		switch name, _, _ := strings.Cut(pair, "="); name {
		case known:
			known = ""
		case lacks:
			if at < 0 { // as with all parameters, the first one counts
				at = i
			}
		}
	}
	if at < 0 {
		return raw, nil
	}
	_, v, _ := strings.Cut(pairs[at], "=")
	v, _ = url.QueryUnescape(v)
	if known == "" {
		return "", errs.Invalid(lacks, v, "one of consistency and stale, which mean the same")
	}
	said, err := otherWord(lacks, v)
	pairs[at] = said
	return strings.Join(pairs, "&"), err
}

func otherWord(name, v string) (string, error) {
	if name == consistency {
		switch v {
		case "linearizable":
			return stale + "=false", nil
		case "stale":
			return stale + "=true", nil
		}
		return "", errs.Invalid(consistency, v, "linearizable or stale")
	}
	old, err := strconv.ParseBool(v)
	switch {
	case v == "", err == nil && old:
		return consistency + "=stale", nil
	case err == nil:
		return consistency + "=linearizable", nil
	}
	return "", errs.Invalid(stale, v, "true or false")
}
