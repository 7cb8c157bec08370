package configs

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// field is one key: where it stands in Config and how it is documented.
type field struct {
	key    string // "http.listen"
	doc    string
	secret bool
	index  []int // for reflect.Value.FieldByIndex
	typ    reflect.Type
}

// section is one heading, "" for the keys before the first.
type section struct {
	name, doc string
	fields    []field
}

var (
	schema      = buildSchema()
	fieldsByKey = func() map[string]*field {
		m := make(map[string]*field)
		for i := range schema {
			for j := range schema[i].fields {
				f := &schema[i].fields[j]
				if m[f.key] != nil {
					panic("configs: two fields have the key " + f.key)
				}
				m[f.key] = f
			}
		}
		return m
	}()
	durationType = reflect.TypeFor[time.Duration]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// buildSchema walks Config. A struct without fields of its own kind becomes a
// section; ",squash" puts a struct's fields into the section around it.
func buildSchema() []section {
	sections := []section{{}}
	var walk func(at int, t reflect.Type, prefix string, index []int)
	walk = func(at int, t reflect.Type, prefix string, index []int) {
		for i := range t.NumField() {
			f := t.Field(i)
			name, opts, _ := strings.Cut(f.Tag.Get("koanf"), ",")
			if !f.IsExported() || name == "-" || name == "" && opts != "squash" {
				continue
			}
			path := append(append([]int{}, index...), i)
			key := prefix + name
			switch {
			case opts == "squash":
				walk(at, f.Type, prefix, path)
			case f.Type.Kind() == reflect.Struct && !reflect.PointerTo(f.Type).Implements(textType):
				sections = append(sections, section{name: key, doc: f.Tag.Get("doc")})
				walk(len(sections)-1, f.Type, key+".", path)
			default:
				sections[at].fields = append(sections[at].fields, field{
					key: key, doc: sentence(f.Tag.Get("doc")), secret: f.Tag.Get("secret") == "true", index: path, typ: f.Type,
				})
			}
		}
	}
	walk(0, reflect.TypeFor[Config](), "", nil)
	return sections
}

// sentence gives the docs of all packages one form.
func sentence(doc string) string {
	doc = strings.TrimSpace(doc)
	if doc == "" {
		return doc
	}
	if !strings.HasSuffix(doc, ".") {
		doc += "."
	}
	return strings.ToUpper(doc[:1]) + doc[1:]
}

func isSection(key string) bool {
	for _, s := range schema {
		if s.name == key && key != "" {
			return true
		}
	}
	return false
}

// Keys is every key, in the order of the document.
func Keys() []string {
	var out []string
	for _, s := range schema {
		for _, f := range s.fields {
			out = append(out, f.key)
		}
	}
	return out
}

// env is the variable that sets the key.
func (f *field) env() string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(f.key, ".", "__"))
}

// wanted says what a value of the field looks like.
func (f *field) wanted() string { return wanted(f.typ) }

func wanted(t reflect.Type) string {
	switch {
	case t == durationType:
		return "a duration such as 30s or 1m30s"
	case reflect.PointerTo(t).Implements(textType):
		return "a text"
	}
	switch t.Kind() {
	case reflect.String:
		return "a text"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "a whole number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number, 0 or more"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Slice:
		return "a list of " + strings.TrimPrefix(wanted(t.Elem()), "a ") + `s, such as ["x", "y"]`
	}
	panic("configs: no value of type " + t.String() + " can be set")
}

// typeName is the word for the type in the reference.
func typeName(t reflect.Type) string {
	switch {
	case t == durationType:
		return "duration"
	case reflect.PointerTo(t).Implements(textType):
		return "text"
	}
	switch t.Kind() {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "bool"
	case reflect.Float32, reflect.Float64:
		return "float"
	case reflect.Slice:
		return "list of " + typeName(t.Elem())
	}
	return "integer"
}

// parse turns the text of an environment variable or of --set into a raw value
// of the kind that TOML would give; assign then checks it.
func (f *field) parse(text string) any {
	switch {
	case f.typ == durationType, f.typ.Kind() == reflect.String, reflect.PointerTo(f.typ).Implements(textType):
		if strings.HasPrefix(text, `"`) {
			if v, ok := parseTOML(text).(string); ok {
				return v
			}
		}
		return text
	case f.typ.Kind() == reflect.Slice:
		if strings.HasPrefix(strings.TrimSpace(text), "[") {
			if v, ok := parseTOML(text).([]any); ok {
				return v
			}
			return text
		}
		out := []any{}
		elem := field{typ: f.typ.Elem()}
		for part := range strings.SplitSeq(text, ",") {
			if part = strings.TrimSpace(part); part != "" {
				out = append(out, elem.parse(part))
			}
		}
		return out
	}
	switch f.typ.Kind() {
	case reflect.Bool:
		if v, err := strconv.ParseBool(text); err == nil {
			return v
		}
	case reflect.Float32, reflect.Float64:
		if v, err := strconv.ParseFloat(text, 64); err == nil {
			return v
		}
	default:
		if v, err := strconv.ParseInt(strings.ReplaceAll(text, "_", ""), 10, 64); err == nil {
			return v
		}
	}
	return text
}

func parseTOML(value string) any {
	var doc map[string]any
	if toml.Unmarshal([]byte("v = "+value), &doc) != nil {
		return nil
	}
	return doc["v"]
}

// assign puts a raw value into dst and tells whether it fits.
func assign(dst reflect.Value, raw any) bool {
	t := dst.Type()
	if reflect.PointerTo(t).Implements(textType) {
		text, ok := raw.(string)
		return ok && dst.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(text)) == nil
	}
	if t == durationType {
		text, ok := raw.(string)
		if !ok {
			return false
		}
		d, err := time.ParseDuration(text)
		dst.SetInt(int64(d))
		return err == nil
	}
	switch v := raw.(type) {
	case string:
		if t.Kind() == reflect.String {
			dst.SetString(v)
			return true
		}
	case bool:
		if t.Kind() == reflect.Bool {
			dst.SetBool(v)
			return true
		}
	case int64:
		return assignInt(dst, v)
	case float64:
		if t.Kind() == reflect.Float32 || t.Kind() == reflect.Float64 {
			dst.SetFloat(v)
			return true
		}
	case []any:
		if t.Kind() != reflect.Slice {
			return false
		}
		out := reflect.MakeSlice(t, len(v), len(v))
		for i, e := range v {
			if !assign(out.Index(i), e) {
				return false
			}
		}
		dst.Set(out)
		return true
	}
	return false
}

func assignInt(dst reflect.Value, v int64) bool {
	switch dst.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if dst.OverflowInt(v) {
			return false
		}
		dst.SetInt(v)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if v < 0 || dst.OverflowUint(uint64(v)) {
			return false
		}
		dst.SetUint(uint64(v))
	case reflect.Float32, reflect.Float64:
		dst.SetFloat(float64(v))
	default:
		return false
	}
	return true
}

// literal is v as a TOML value.
func literal(v reflect.Value) string {
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		if text, err := m.MarshalText(); err == nil {
			return quote(string(text))
		}
	}
	switch {
	case v.Type() == durationType:
		return quote(Duration(time.Duration(v.Int())))
	case v.Kind() == reflect.String:
		return quote(v.String())
	case v.Kind() == reflect.Slice:
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = literal(v.Index(i))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case v.Kind() == reflect.Float32 || v.Kind() == reflect.Float64:
		s := strconv.FormatFloat(v.Float(), 'g', -1, 64)
		if !strings.ContainsAny(s, ".eIN") {
			s += ".0"
		}
		return s
	}
	return fmt.Sprint(v.Interface())
}

// Duration writes d without the zero units of time.Duration.String: 10m, not 10m0s.
func Duration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// quote writes a TOML basic string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
