package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"nekoq/services/errs"
	"nekoq/warehouse/form"
)

// txnLines is a transaction as people write it: one line each.
type txnLines struct{ conditions, then, otherwise, holding []string }

func (l txnLines) empty() bool {
	return len(l.conditions)+len(l.then)+len(l.otherwise)+len(l.holding) == 0
}

func (l txnLines) parse() (*form.Txn, error) {
	t := &form.Txn{}
	for _, line := range l.conditions {
		c, err := parseCondition(line)
		if err != nil {
			return nil, err
		}
		t.If = append(t.If, c)
	}
	for _, line := range l.holding {
		h, err := parseHolding(line)
		if err != nil {
			return nil, err
		}
		t.Holding = append(t.Holding, h)
	}
	var err error
	if t.Then, err = parseOperations("--then", l.then); err != nil {
		return nil, err
	}
	t.Else, err = parseOperations("--else", l.otherwise)
	return t, err
}

// parseTxn reads a file: JSON, or blocks of lines.
func parseTxn(text []byte) (*form.Txn, error) {
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
		return parseJSON("the transaction", text)
	}
	var blocks [3][]string
	at := 0
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "#"):
		case line != "" && at < len(blocks):
			blocks[at] = append(blocks[at], line)
		case line != "":
			return nil, errs.New(errs.InvalidArgument, "%q stands behind the third block: want conditions, then, else, with an empty line between them", line)
		default:
			at++
		}
	}
	l := txnLines{conditions: blocks[0], then: blocks[1], otherwise: blocks[2]}
	if l.empty() {
		return nil, errs.New(errs.InvalidArgument, "the file holds no transaction; see nekoq kv txn --help")
	}
	return l.parse()
}

func parseJSON(what string, text []byte) (*form.Txn, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	t := &form.Txn{}
	if err := d.Decode(t); err != nil {
		return nil, errs.New(errs.InvalidArgument, "%s is not JSON in the words of POST /v1/warehouse/txn: %s", what, strings.TrimPrefix(err.Error(), "json: ")).Wrap(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errs.New(errs.InvalidArgument, "%s: more stands behind its closing brace", what)
	}
	return t, nil
}

// words splits a line at spaces; what stands in quotes is one word.
func words(line string) (out []string, err error) {
	for rest := strings.TrimSpace(line); rest != ""; rest = strings.TrimLeft(rest, " \t") {
		var w string
		if w, rest, err = word(rest, " \t"); err != nil {
			return nil, err
		}
		out = append(out, w)
	}
	return out, nil
}

// word takes one word off the front: quoted, or up to one of the bytes in stop.
func word(s, stop string) (w, rest string, err error) {
	switch {
	case s == "":
		return "", "", nil
	case s[0] == '"':
		q, err := strconv.QuotedPrefix(s)
		if err != nil {
			return "", "", errs.New(errs.InvalidArgument, "%s: a double quote is not closed, or behind a backslash stands what Go does not know", s)
		}
		w, err := strconv.Unquote(q)
		return w, s[len(q):], err
	case s[0] == '\'':
		w, rest, closed := strings.Cut(s[1:], "'")
		if !closed {
			return "", "", errs.New(errs.InvalidArgument, "%s: a single quote is not closed", s)
		}
		return w, rest, nil
	}
	if i := strings.IndexAny(s, stop); i >= 0 {
		return s[:i], s[i:], nil
	}
	return s, "", nil
}

const conditionForm = `a condition such as 'version(KEY) = 0', 'mod(KEY) > 17', 'value(KEY) = "text"', 'lease(KEY) = 0', 'exists(KEY)' or 'missing(KEY)'`

var (
	conditionTargets = map[string]string{
		"version": "version", "ver": "version", "create": "create_revision", "create_revision": "create_revision", "c": "create_revision",
		"mod": "mod_revision", "mod_revision": "mod_revision", "m": "mod_revision", "value": "value", "val": "value", "lease": "lease",
	}
	conditionRelations = []struct{ sign, is string }{{"==", "equal"}, {"!=", "not_equal"}, {"=", "equal"}, {">", "greater"}, {"<", "less"}}
)

func parseCondition(line string) (c form.Condition, err error) {
	bad := func() (form.Condition, error) { return c, errs.Invalid("--if", line, conditionForm) }
	target, rest, ok := strings.Cut(strings.TrimSpace(line), "(")
	if !ok {
		return bad()
	}
	if c.Key, rest, err = word(strings.TrimSpace(rest), ")"); err != nil {
		return c, err
	}
	c.Key = strings.TrimSpace(c.Key)
	if rest, ok = strings.CutPrefix(strings.TrimSpace(rest), ")"); !ok || c.Key == "" {
		return bad()
	}
	rest = strings.TrimSpace(rest)
	switch target = strings.TrimSpace(target); target {
	case "exists", "missing":
		if rest != "" {
			return bad()
		}
		c.Target = "create_revision"
		if c.Is = "equal"; target == "exists" {
			c.Is = "greater"
		}
		return c, nil
	}
	if c.Target, ok = conditionTargets[target]; !ok {
		return bad()
	}
	for _, r := range conditionRelations {
		if after, is := strings.CutPrefix(rest, r.sign); is {
			c.Is, rest = r.is, strings.TrimSpace(after)
			break
		}
	}
	if c.Is == "" || rest == "" {
		return bad()
	}
	v, rest, err := word(rest, "")
	if err != nil {
		return c, err
	}
	if strings.TrimSpace(rest) != "" {
		return bad()
	}
	switch c.Target {
	case "value":
		c.Text = &v
	case "lease":
		c.Lease = v
	default:
		if c.Number, err = strconv.ParseInt(v, 10, 64); err != nil {
			return bad()
		}
	}
	return c, nil
}

func parseHolding(line string) (h form.Held, err error) {
	const want = "lock:NAME=TOKEN, election:NAME=TOKEN or key:KEY=TOKEN"
	kind, rest, _ := strings.Cut(line, ":")
	i := strings.LastIndexByte(rest, '=')
	if i < 1 {
		return h, errs.Invalid("--holding", line, want)
	}
	if h.Number, err = strconv.ParseUint(rest[i+1:], 10, 64); err != nil {
		return h, errs.Invalid("--holding", line, want)
	}
	switch name := rest[:i]; kind {
	case "lock":
		h.Lock = name
	case "election":
		h.Election = name
	case "key":
		h.Key = name
	default:
		return h, errs.Invalid("--holding", line, want)
	}
	return h, nil
}

func parseOperations(flag string, lines []string) (out []form.Operation, err error) {
	for _, line := range lines {
		o, err := parseOperation(flag, strings.TrimSpace(line))
		if err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, nil
}

const operationForm = `an operation such as 'put KEY VALUE', 'get KEY', 'get KEY --prefix', 'del KEY' or 'txn {"then":[…]}'`

func parseOperation(flag, line string) (o form.Operation, err error) {
	if text, is := strings.CutPrefix(line, "txn "); is {
		o.Txn, err = parseJSON("the transaction of "+flag, []byte(text))
		return o, err
	}
	all, err := words(line)
	if err != nil {
		return o, err
	}
	if len(all) == 0 {
		return o, errs.Invalid(flag, line, operationForm)
	}
	f := pflag.NewFlagSet(all[0], pflag.ContinueOnError)
	var span form.Span
	var fill func(args []string)
	least, most := 1, 2
	switch all[0] {
	case "put":
		p := &form.PutOperation{}
		f.StringVar(&p.TTL, "ttl", "", "")
		f.StringVar(&p.Lease, "lease", "", "")
		f.BoolVar(&p.Prev, "prev", false, "")
		o.Put, least = p, 2
		fill = func(args []string) { p.Key, p.Text = args[0], &args[1] }
	case "get":
		r := &form.RangeOperation{}
		f.Int64Var(&r.Limit, "limit", 0, "")
		f.Uint64Var(&r.Revision, "revision", 0, "")
		f.BoolVar(&r.KeysOnly, "keys-only", false, "")
		f.BoolVar(&r.CountOnly, "count", false, "")
		o.Range = r
		fill = func([]string) { r.Span = span }
	case "del", "delete":
		d := &form.DeleteOperation{}
		f.BoolVar(&d.Prev, "prev", false, "")
		o.Delete = d
		fill = func([]string) { d.Span = span }
	default:
		return o, errs.Invalid(flag, line, operationForm)
	}
	prefix := false
	if o.Put == nil {
		f.BoolVar(&prefix, "prefix", false, "")
	}
	if err := f.Parse(all[1:]); err != nil {
		return o, errs.New(errs.InvalidArgument, "%s: %q: %v; see nekoq kv txn --help", flag, line, err).With(errs.Detail{Field: flag, Value: line, Limit: operationForm})
	}
	args := f.Args()
	if len(args) < least || len(args) > most || prefix && len(args) > 1 {
		return o, errs.Invalid(flag, line, operationForm)
	}
	switch {
	case prefix:
		span.Prefix = args[0]
	case len(args) == 2:
		span.Start, span.End = args[0], args[1]
	default:
		span.Key = args[0]
	}
	fill(args)
	return o, nil
}
