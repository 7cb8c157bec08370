package client

import (
	"encoding"
	"encoding/json"
	"os"

	"github.com/magiconair/properties"
	"github.com/pelletier/go-toml/v2"
	"go.yaml.in/yaml/v3"

	"nekoq/services/errs"
	"nekoq/warehouse/conf/api"
)

// ConfValue is one value that a client gets.
type ConfValue api.Value

// Text is the content as it is.
func (v ConfValue) Text() string { return string(v.Bytes) }

// Decode reads the content into what to points to, by its content type: json, yaml
// and toml by the tags of those names, properties by the tag properties into a
// struct or into a map of strings, text into a string, bytes or a
// TextUnmarshaler.
func (v ConfValue) Decode(to any) error {
	var err error
	switch v.Type {
	case api.JSON:
		err = json.Unmarshal(v.Bytes, to)
	case api.YAML:
		err = yaml.Unmarshal(v.Bytes, to)
	case api.TOML:
		err = toml.Unmarshal(v.Bytes, to)
	case api.Properties:
		err = decodeProperties(v.Bytes, to)
	default:
		switch p := to.(type) {
		case *string:
			*p = string(v.Bytes)
		case *[]byte:
			*p = append([]byte(nil), v.Bytes...)
		case encoding.TextUnmarshaler:
			err = p.UnmarshalText(v.Bytes)
		default:
			err = errs.New(errs.InvalidArgument, "a content of type text goes into a string, bytes or a TextUnmarshaler, not into %T", to)
		}
	}
	if err != nil {
		return errs.New(errs.InvalidArgument, "%s: the %s content does not fit %T", v.Key, v.Type, to).Wrap(err)
	}
	return nil
}

func decodeProperties(b []byte, to any) error {
	l := properties.Loader{Encoding: properties.UTF8, DisableExpansion: true}
	p, err := l.LoadBytes(b)
	if err != nil {
		return err
	}
	if m, ok := to.(*map[string]string); ok {
		*m = p.Map()
		return nil
	}
	return p.Decode(to)
}

// ConfSet is what a client gets of a group (or of one key) at one version. It is
// immutable.
type ConfSet struct {
	Area, Group string
	Hash        string // the version
	Revision    uint64 // store revision of the last change of any configuration when it was read
	Cached      bool   // it came from the cache file: no server has confirmed it yet
	values      map[string]ConfValue
	keys        []string
}

// Keys gives the keys in order.
func (s *ConfSet) Keys() []string { return append([]string(nil), s.keys...) }

// Get gives a value.
func (s *ConfSet) Get(key string) (ConfValue, bool) {
	v, ok := s.values[key]
	return v, ok
}

// Text gives a content as it is, or otherwise when there is none.
func (s *ConfSet) Text(key, otherwise string) string {
	if v, ok := s.values[key]; ok {
		return v.Text()
	}
	return otherwise
}

// Decode reads a value into what to points to, as ConfValue.Decode does.
func (s *ConfSet) Decode(key string, to any) error {
	v, ok := s.values[key]
	if !ok {
		return noSuchKey(s.Area, s.Group, key)
	}
	return v.Decode(to)
}

func newConfSet(e *api.Effective) *ConfSet {
	s := &ConfSet{Area: e.Area, Group: e.Group, Hash: e.Hash, Revision: e.Revision, values: make(map[string]ConfValue, len(e.Values))}
	for _, v := range e.Values {
		s.values[v.Key] = ConfValue(v)
		s.keys = append(s.keys, v.Key)
	}
	return s
}

// instance is what a client calls itself to the configuration centre: its name and
// its host's.
func (c *Config) instance() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		return c.Name
	}
	s := c.Name + "@" + host
	return s[:min(len(s), 128)]
}
