package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/validation"

	"nekoq/services/errs"
)

// humaError turns what huma found wrong into one *errs.Error: a code of the
// table instead of huma's status, and every finding with field, value and limit.
func humaError(op *huma.Operation, status int, msg string, list []error) *errs.Error {
	for _, err := range list {
		if e, ok := errors.AsType[*errs.Error](err); ok {
			return e
		}
	}
	switch status {
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return invalidInput(op, msg, list)
	case http.StatusRequestEntityTooLarge:
		return errs.New(errs.TooLarge, "%s", msg)
	case http.StatusUnsupportedMediaType:
		return errs.New(errs.UnsupportedMedia, "the body's content type is not supported: want Content-Type: %s", bodyTypes(op)).
			With(errs.Detail{Field: "Content-Type", Limit: bodyTypes(op), Help: "curl: -H 'Content-Type: application/json', or --json"})
	case http.StatusNotAcceptable:
		return errs.New(errs.NotAcceptable, "none of the accepted content types can be served").
			With(errs.Detail{Field: "Accept", Limit: "application/json"})
	case http.StatusRequestTimeout:
		return errs.New(errs.DeadlineExceeded, "the request body did not arrive in time")
	case http.StatusNotFound:
		return errs.New(errs.NotFound, "%s", msg)
	}
	e := errs.New(errs.Internal, "internal error")
	if len(list) > 0 {
		e = e.Wrap(errors.Join(list...))
	} else {
		e = e.Wrap(errors.New(msg))
	}
	return e
}

func bodyTypes(op *huma.Operation) string {
	if op == nil || op.RequestBody == nil {
		return "application/json"
	}
	var types []string
	for t := range op.RequestBody.Content {
		types = append(types, t)
	}
	slices.Sort(types)
	return strings.Join(types, ", ")
}

func invalidInput(op *huma.Operation, msg string, list []error) *errs.Error {
	code := errs.InvalidArgument
	var details []errs.Detail
	var says []string
	slices.SortStableFunc(list, unknownFirst)
	for _, err := range list {
		d, ok := errors.AsType[*huma.ErrorDetail](err)
		if !ok {
			says = append(says, err.Error())
			details = append(details, errs.Detail{Limit: err.Error()})
			continue
		}
		det := detailOf(op, d)
		if d.Message == validation.MsgUnexpectedProperty {
			code = errs.UnknownField
			det.Value = ""
			says = append(says, unknownText(det))
		} else {
			says = append(says, invalidText(det))
		}
		details = append(details, det)
	}
	if len(says) == 0 {
		if msg == "request body is required" {
			details = append(details, errs.Detail{Field: "body", Limit: bodyTypes(op)})
			msg = "body: missing: want " + bodyTypes(op)
		}
		says = append(says, msg)
	}
	e := errs.New(code, "%s", strings.Join(says, "; "))
	for _, d := range details {
		e = e.With(d)
	}
	return e
}

// unknownFirst puts misspelt names first: a missing field is often just one.
func unknownFirst(a, b error) int { return rank(a) - rank(b) }

func rank(err error) int {
	if d, ok := errors.AsType[*huma.ErrorDetail](err); ok && d.Message == validation.MsgUnexpectedProperty {
		return 0
	}
	return 1
}

func invalidText(d errs.Detail) string {
	if d.Value == "" {
		return d.Field + ": " + d.Limit
	}
	return fmt.Sprintf("%s: %q is not valid: %s", d.Field, shorten(d.Value), d.Limit)
}

func unknownText(d errs.Detail) string {
	if d.Help == "" {
		return d.Field + ": no such field"
	}
	return d.Field + ": no such field; " + d.Help
}

// detailOf rewrites a location such as "body.items[3].tags" into the field name
// that a user knows, and gives the nearest name for an unknown one.
func detailOf(op *huma.Operation, d *huma.ErrorDetail) errs.Detail {
	field := d.Location
	for _, in := range []string{"path.", "query.", "header.", "body."} {
		if rest, ok := strings.CutPrefix(field, in); ok {
			field = rest
			break
		}
	}
	det := errs.Detail{Field: field, Value: valueText(d.Value), Limit: wanted(d.Message)}
	if name, ok := strings.CutPrefix(d.Message, "expected required property "); ok {
		name = strings.TrimSuffix(name, " to be present")
		if field == "body" {
			det.Field = name
		} else {
			det.Field = field + "." + name
		}
		det.Value, det.Limit = "", "missing, and it is required"
	}
	if strings.HasPrefix(d.Message, "required ") && strings.HasSuffix(d.Message, " parameter is missing") {
		det.Limit = "missing, and it is required"
	}
	if text, ok := d.Value.(string); ok && d.Location == "body" && d.Message != validation.MsgExpectedObject && d.Message != validation.MsgExpectedArray {
		det.Value, det.Limit = "", bodyFault(text, d.Message)
	}
	if d.Message == validation.MsgUnexpectedProperty {
		parent, name := "", field
		if i := strings.LastIndexByte(field, '.'); i >= 0 {
			parent, name = field[:i], field[i+1:]
		}
		known := propertiesAt(op, parent)
		det.Limit = ""
		if near := nearest(name, known); near != "" {
			det.Help = "did you mean " + near + "?"
		} else if len(known) > 0 {
			det.Help = "known are " + strings.Join(known, ", ")
		}
	}
	return det
}

// wanted turns the validator's sentences into the form of errs.Invalid.
func wanted(message string) string {
	switch message {
	case "invalid integer":
		return "want a whole number"
	case "invalid float":
		return "want a number"
	case "invalid boolean":
		return "want true or false"
	}
	if rest, ok := strings.CutPrefix(message, "expected "); ok {
		return "want " + strings.TrimPrefix(rest, "string to be ")
	}
	return message
}

func valueText(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}

// schemaSource resolves references; huma's registry is one.
type schemaSource interface {
	SchemaFromRef(ref string) *huma.Schema
}

// propertiesAt gives the sorted names that the body's schema knows at a path
// such as "items[3].tags".
func propertiesAt(op *huma.Operation, path string) []string {
	if op == nil || op.RequestBody == nil {
		return nil
	}
	mt := op.RequestBody.Content["application/json"]
	src, _ := op.Metadata[registryKey].(schemaSource)
	if mt == nil || mt.Schema == nil || src == nil {
		return nil
	}
	s := resolve(src, mt.Schema)
	if path != "" {
		for _, seg := range strings.Split(path, ".") {
			name, _, isItem := strings.Cut(seg, "[")
			if s = resolve(src, s.Properties[name]); s == nil {
				return nil
			}
			if isItem {
				if s = resolve(src, s.Items); s == nil {
					return nil
				}
			}
		}
	}
	var names []string
	for n := range s.Properties {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func resolve(src schemaSource, s *huma.Schema) *huma.Schema {
	for s != nil && s.Ref != "" {
		s = src.SchemaFromRef(s.Ref)
	}
	return s
}
