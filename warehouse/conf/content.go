package conf

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/magiconair/properties"
	"github.com/pelletier/go-toml/v2"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"nekoq/services/errs"
	"nekoq/warehouse/conf/api"
)

// typeOf is the content type that a key's ending says.
func typeOf(key string) string {
	switch _, ending, _ := cutLast(key, '.'); strings.ToLower(ending) {
	case "json":
		return api.JSON
	case "yaml", "yml":
		return api.YAML
	case "toml":
		return api.TOML
	case "properties":
		return api.Properties
	}
	return api.Text
}

func cutLast(s string, sep byte) (before, after string, ok bool) {
	if i := strings.LastIndexByte(s, sep); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}

// hashOf is what tells two contents apart, type and bytes.
func hashOf(typ string, b []byte) string {
	h := sha256.New()
	h.Write([]byte(typ))
	h.Write([]byte{0})
	h.Write(b)
	return hex.EncodeToString(h.Sum(nil))
}

// describe checks what can be told from a content alone.
func (s *Service) describe(typ string, b []byte) (api.Content, error) {
	c := api.Content{Type: typ, Size: len(b)}
	if int64(len(b)) > s.cfg.MaxContentBytes {
		return c, errs.New(errs.TooLarge, "content: %d bytes: the limit is config.max_content_bytes = %d", len(b), s.cfg.MaxContentBytes).
			With(errs.Detail{Field: "content", Value: itoa(len(b)), Limit: itoa(s.cfg.MaxContentBytes) + " bytes"})
	}
	switch typ {
	case api.Text, api.JSON, api.YAML, api.TOML, api.Properties:
	default:
		return c, errs.Invalid("content_type", typ, "one of "+strings.Join(api.Types(), ", "))
	}
	if !utf8.Valid(b) {
		return c, errs.New(errs.InvalidArgument, "content: it is not valid UTF-8").With(errs.Detail{Field: "content", Limit: "UTF-8"})
	}
	c.Hash, c.Refs = hashOf(typ, b), api.HasReferences(b)
	return c, nil
}

// parse reads a content as its type says; text gives nil.
func parse(typ string, b []byte) (any, error) {
	switch typ {
	case api.JSON:
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
		if err != nil {
			return nil, jsonPlace(b, err)
		}
		return v, nil
	case api.YAML:
		return parseYAML(b)
	case api.TOML:
		var v map[string]any
		if err := toml.Unmarshal(b, &v); err != nil {
			if at, ok := errors.AsType[*toml.DecodeError](err); ok {
				line, column := at.Position()
				return nil, fmt.Errorf("line %d, column %d: %w", line, column, err)
			}
			return nil, err
		}
		return v, nil
	case api.Properties:
		l := properties.Loader{Encoding: properties.UTF8, DisableExpansion: true}
		p, err := l.LoadBytes(b)
		if err != nil {
			return nil, err
		}
		v := map[string]any{}
		for _, k := range p.Keys() {
			v[k], _ = p.Get(k)
		}
		return v, nil
	}
	return nil, nil
}

// parseYAML takes one document or several; the value is that of the first.
func parseYAML(b []byte) (first any, err error) {
	dec := yaml.NewDecoder(bytes.NewReader(b))
	for n := 0; ; n++ {
		var v any
		switch err := dec.Decode(&v); {
		case errors.Is(err, io.EOF):
			return first, nil
		case err != nil:
			return nil, err
		}
		if n == 0 {
			first = v
		}
	}
}

// viaJSON brings a value into the shapes that JSON has.
func viaJSON(v any) (any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("it has no JSON form: %w", err)
	}
	return jsonschema.UnmarshalJSON(bytes.NewReader(b))
}

// jsonPlace adds where a JSON text breaks off.
func jsonPlace(b []byte, err error) error {
	var raw json.RawMessage
	at, ok := errors.AsType[*json.SyntaxError](json.Unmarshal(b, &raw))
	if !ok {
		return err
	}
	err = at
	before := b[:min(max(int(at.Offset)-1, 0), len(b))]
	return fmt.Errorf("line %d, column %d: %w", 1+bytes.Count(before, []byte("\n")), len(before)-bytes.LastIndexByte(before, '\n'), err)
}

func badContent(typ string, err error) error {
	return errs.New(errs.InvalidArgument, "content: it is not valid %s: %s", typ, err).
		With(errs.Detail{Field: "content", Limit: "valid " + typ, Help: err.Error()})
}

// noRemote keeps schemas from reading files and from calling other servers.
type noRemote struct{}

func (noRemote) Load(url string) (any, error) {
	return nil, fmt.Errorf("%q: a schema refers to nothing outside of itself", url)
}

func compile(schema []byte) (*jsonschema.Schema, error) {
	bad := func(err error) error {
		return errs.New(errs.InvalidArgument, "schema: it is not a valid JSON Schema: %s", err).
			With(errs.Detail{Field: "schema", Limit: "a JSON Schema without references to other documents", Help: err.Error()})
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		return nil, bad(jsonPlace(schema, err))
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(noRemote{})
	const name = "nekoq:schema"
	if err := c.AddResource(name, doc); err != nil {
		return nil, bad(errors.New(schemaText(err)))
	}
	out, err := c.Compile(name)
	if err != nil {
		return nil, bad(errors.New(schemaText(err)))
	}
	return out, nil
}

// schemaText leaves of an error of the schema's library what tells the place and the
// mistake.
func schemaText(err error) string {
	if bad, ok := errors.AsType[*jsonschema.SchemaValidationError](err); ok {
		err = bad.Err
	}
	text := strings.TrimSpace(err.Error())
	if _, ok := errors.AsType[*jsonschema.ValidationError](err); ok {
		_, text, _ = strings.Cut(text, "\n") // the first line names the schema only
		text = strings.TrimPrefix(strings.TrimSpace(text), "- ")
	}
	return strings.ReplaceAll(text, "nekoq:schema#", "the schema")
}

// fits checks a content against its type and, with schema, against that.
func fits(typ string, b []byte, schema *jsonschema.Schema) error {
	v, err := parse(typ, b)
	if err != nil {
		return badContent(typ, err)
	}
	if schema == nil {
		return nil
	}
	if typ == api.Text {
		return errs.New(errs.InvalidArgument, "content_type: a content of type text fits no schema: want json, yaml, toml or properties").
			With(errs.Detail{Field: "content_type", Value: typ, Limit: "json, yaml, toml or properties, since the item has a schema"})
	}
	if v, err = viaJSON(v); err != nil {
		return badContent(typ, err)
	}
	if err := schema.Validate(v); err != nil {
		text := schemaText(err)
		return errs.New(errs.InvalidArgument, "content: it does not fit the item's schema: %s", text).
			With(errs.Detail{Field: "content", Limit: "what the item's schema allows", Help: text})
	}
	return nil
}
