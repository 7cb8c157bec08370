package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
)

// jsonFormat is huma's JSON, except that bad UTF-8 is refused instead of being
// replaced: a name must not change on its way in.
var jsonFormat = huma.Format{
	Marshal: huma.DefaultJSONFormat.Marshal,
	Unmarshal: func(data []byte, v any) error {
		if !utf8.Valid(data) {
			return errBadUTF8
		}
		err := json.Unmarshal(data, v)
		if at, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return fmt.Errorf("%s: %s does not fit %s", at.Field, at.Value, at.Type.Kind())
		}
		return err
	},
}

var errBadUTF8 = errors.New("not valid UTF-8")

// bodyFault says where a body stops being JSON. huma hands over only the text of
// the decoder's error, so the body is decoded once more, on this path alone.
func bodyFault(body, message string) string {
	if message == errBadUTF8.Error() {
		return message
	}
	if _, text, ok := strings.Cut(message, "invalid use of ,string struct tag, trying to unmarshal "); ok {
		return strings.Replace(text, " into ", " does not fit ", 1)
	}
	var v any
	err := json.Unmarshal([]byte(body), &v)
	if at, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Sprintf("not valid JSON at byte %d: %s", at.Offset, strings.TrimPrefix(message, "json: "))
	}
	return strings.TrimPrefix(message, "json: ")
}

// int64String is how a 64-bit number with the json option ",string" looks.
const (
	uint64Pattern = `^(0|[1-9][0-9]{0,19})$`
	int64Pattern  = `^(0|-?[1-9][0-9]{0,18})$`
)

// patchStrings documents and validates 64-bit numbers that travel as strings
// (`json:"id,string"`), which huma takes for plain numbers. Registered types are
// reached through the registry's references; each is patched once.
func (s *Server) patchStrings() {
	reg := s.api.OpenAPI().Components.Schemas
	for name, schema := range reg.Map() {
		if s.patched[name] {
			continue
		}
		s.patched[name] = true
		t := reg.TypeFromRef("#/components/schemas/" + name)
		for t != nil && t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		if t == nil || t.Kind() != reflect.Struct {
			continue
		}
		for _, f := range reflect.VisibleFields(t) {
			patchField(schema, f)
		}
	}
}

func patchField(schema *huma.Schema, f reflect.StructField) {
	name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
	p := schema.Properties[name]
	if p == nil || p.Ref != "" || !strings.Contains(","+opts+",", ",string,") {
		return
	}
	t := f.Type
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Int64, reflect.Int:
		p.Format, p.Pattern = "int64", int64Pattern
	case reflect.Uint64, reflect.Uint:
		p.Format, p.Pattern = "uint64", uint64Pattern
	default:
		return
	}
	p.PatternDescription = "a 64-bit integer written as a string"
	p.Type = huma.TypeString
	p.Minimum, p.Maximum, p.ExclusiveMinimum, p.ExclusiveMaximum, p.MultipleOf = nil, nil, nil, nil, nil
	p.Default, p.Enum = nil, nil
	for i, e := range p.Examples {
		p.Examples[i] = fmt.Sprint(e)
	}
	p.PrecomputeMessages()
}
