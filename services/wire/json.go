package wire

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"

	"nekoq/services/errs"
)

// JSON makes a Unary of a typed function, for management calls where speed does
// not count. An empty request is the zero In. A field that In does not have is
// refused by name, and so is a value of the wrong type.
func JSON[In, Out any](f func(ctx context.Context, in *In) (*Out, error)) Unary {
	return func(ctx context.Context, req, dst []byte) ([]byte, error) {
		in := new(In)
		if err := decodeJSON(req, in); err != nil {
			return nil, err
		}
		out, err := f(ctx, in)
		if err != nil {
			return nil, err
		}
		b, err := json.Marshal(out)
		if err != nil {
			return nil, errs.New(errs.Internal, "the answer cannot be encoded").Wrap(err)
		}
		return append(dst, b...), nil
	}
}

func decodeJSON(req []byte, in any) error {
	if len(bytes.TrimSpace(req)) == 0 {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(req))
	dec.DisallowUnknownFields()
	if err := dec.Decode(in); err != nil {
		return jsonError(err, reflect.TypeOf(in).Elem())
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errs.New(errs.InvalidArgument, "the request holds more than one JSON value")
	}
	return nil
}

func jsonError(err error, t reflect.Type) error {
	if te, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		field := te.Field
		if field == "" {
			field = "request"
		}
		return errs.New(errs.InvalidArgument, "%s: a JSON %s is not valid: want %s", field, te.Value, jsonKind(te.Type)).
			With(errs.Detail{Field: field, Value: te.Value, Limit: jsonKind(te.Type)}).Wrap(err)
	}
	// encoding/json has no type for an unknown field; its text is pinned by a test.
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		name = strings.Trim(name, `"`)
		d := errs.Detail{Field: name, Help: "known fields: " + strings.Join(jsonFields(t), ", ")}
		return errs.New(errs.UnknownField, "%s: there is no such field (%s)", name, d.Help).With(d)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errs.New(errs.InvalidArgument, "the request is not whole JSON: it ends too early").Wrap(err)
	}
	return errs.New(errs.InvalidArgument, "the request is not valid JSON: %s", err).Wrap(err)
}

func jsonKind(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return fmt.Sprintf("a whole number of %d bits", t.Bits())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return fmt.Sprintf("a whole number of %d bits, not negative", t.Bits())
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Slice, reflect.Array:
		return "an array"
	case reflect.Pointer:
		return jsonKind(t.Elem())
	}
	return "an object"
}

// jsonFields lists the field names of a struct in its order, those of structs
// within it with their path.
func jsonFields(t reflect.Type) []string {
	const deepest = 4
	return appendJSONFields(nil, "", t, deepest)
}

func appendJSONFields(names []string, path string, t reflect.Type, depth int) []string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || depth == 0 {
		return names
	}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || !f.IsExported() || (f.Anonymous && name == "") {
			continue
		}
		if name == "" {
			name = f.Name
		}
		names = append(names, path+name)
		if !f.Type.Implements(unmarshaler) && !reflect.PointerTo(f.Type).Implements(unmarshaler) {
			names = appendJSONFields(names, path+name+".", f.Type, depth-1)
		}
	}
	return names
}

// A type with a JSON form of its own, such as time.Time, has no fields to name.
var unmarshaler = reflect.TypeFor[json.Unmarshaler]()
