package configs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"

	koanftoml "github.com/knadh/koanf/parsers/toml/v2"
	"github.com/knadh/koanf/providers/rawbytes"
	"github.com/knadh/koanf/v2"
	"github.com/pelletier/go-toml/v2"

	"nekoq/services/errs"
)

// EnvPrefix starts the name of every variable that sets a key:
// NEKOQ_HTTP__LISTEN is http.listen.
const EnvPrefix = "NEKOQ_"

// OtherEnv are variables with the prefix that are no keys: the command line's
// own, and those of the tests.
var OtherEnv = []string{"NEKOQ_CONFIG", "NEKOQ_ENDPOINTS", "NEKOQ_TIMEOUT", "NEKOQ_OUTPUT", "NEKOQ_SOAK"}

// orchestrated are the variables that Kubernetes gives every container beside a
// service that happens to be named nekoq.
var orchestrated = regexp.MustCompile(`^NEKOQ_(SERVICE_(HOST|PORT)|PORT)(_|$)`)

// Origins of values that are not set by a layer.
const originDefault = "default"

// Flag is a short form on the command line, such as --data-dir for node.data_dir.
// It is as strong as --set and comes after it.
type Flag struct{ Name, Key, Value string }

// Source is where a configuration comes from, the later stronger.
type Source struct {
	File    string   // TOML; "" for none
	Environ []string // as os.Environ
	Set     []string // key=value
	Flags   []Flag
}

// Loaded is a configuration and where each of its values came from.
type Loaded struct {
	Config
	origins map[string]string
}

// Origin tells where a key's value came from: "default", "file:<path>",
// "env:<name>", "--set" or the name of a flag.
func (l *Loaded) Origin(key string) string {
	if o, ok := l.origins[key]; ok {
		return o
	}
	return originDefault
}

// Problem is one mistake in a configuration.
type Problem struct {
	Key    string
	Origin string // the layer that set the value, "default" when none did
	Err    *errs.Error
}

// Problems is every mistake of a configuration, sorted by key.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, one := range p {
		lines[i] = one.Err.Message
		name := strings.TrimPrefix(one.Origin, "env:")
		if one.Origin != originDefault && !strings.Contains(lines[i], name) {
			lines[i] += " (" + one.Origin + ")"
		}
	}
	if len(lines) == 1 {
		return lines[0]
	}
	return fmt.Sprintf("%d mistakes in the configuration:\n  %s", len(lines), strings.Join(lines, "\n  "))
}

// Unwrap gives the mistakes one by one.
func (p Problems) Unwrap() []error {
	out := make([]error, len(p))
	for i, one := range p {
		out[i] = one.Err
	}
	return out
}

// Load reads all layers and checks the outcome. The error is Problems: all
// mistakes at once. Loaded is usable for printing even then.
func Load(src Source) (*Loaded, error) {
	l := &loader{out: &Loaded{Config: Default(), origins: make(map[string]string)}}
	if src.File != "" {
		l.file(src.File)
	}
	l.environ(src.Environ)
	for _, s := range src.Set {
		l.assignment("--set", s)
	}
	for _, f := range src.Flags {
		l.text(f.Key, f.Value, f.Name, f.Name)
	}
	l.out.fill()
	l.validate()
	return l.out, l.problems()
}

type loader struct {
	out   *Loaded
	found Problems
}

func (l *loader) refuse(key, origin string, err *errs.Error) {
	l.found = append(l.found, Problem{Key: key, Origin: origin, Err: err})
}

func (l *loader) problems() error {
	if len(l.found) == 0 {
		return nil
	}
	slices.SortStableFunc(l.found, func(a, b Problem) int {
		if c := strings.Compare(a.Key, b.Key); c != 0 {
			return c
		}
		return strings.Compare(a.Err.Message, b.Err.Message)
	})
	return l.found
}

func (l *loader) file(path string) {
	origin := "file:" + path
	text, err := os.ReadFile(path)
	if err != nil {
		why := err
		if pe, ok := errors.AsType[*fs.PathError](err); ok {
			why = pe.Err
		}
		l.refuse("", "", errs.New(errs.InvalidArgument, "the configuration file %s cannot be read: %v", path, why).Wrap(err))
		return
	}
	k := koanf.NewWithConf(koanf.Conf{Delim: "."})
	if err := k.Load(rawbytes.Provider(text), koanftoml.Parser()); err != nil {
		at := path
		if de, ok := errors.AsType[*toml.DecodeError](err); ok {
			row, column := de.Position()
			at = fmt.Sprintf("%s:%d:%d", path, row, column)
		}
		l.refuse("", "", errs.New(errs.InvalidArgument, "%s is not TOML: %v", at, err))
		return
	}
	for key, raw := range k.All() {
		l.value(key, raw, origin, key)
	}
}

func (l *loader) environ(environ []string) {
	for _, e := range environ {
		name, text, _ := strings.Cut(e, "=")
		rest, ours := strings.CutPrefix(name, EnvPrefix)
		if !ours || slices.Contains(OtherEnv, name) || orchestrated.MatchString(name) {
			continue
		}
		l.text(strings.ToLower(strings.ReplaceAll(rest, "__", ".")), text, "env:"+name, name)
	}
}

func (l *loader) assignment(origin, s string) {
	key, text, ok := strings.Cut(s, "=")
	if key = strings.TrimSpace(key); !ok || key == "" {
		l.refuse("", "", errs.New(errs.InvalidArgument, "%s %q: want key=value, such as http.listen=127.0.0.1:9310", origin, s))
		return
	}
	l.text(key, text, origin, key)
}

// text sets a key from a layer without types.
func (l *loader) text(key, text, origin, shown string) {
	f := fieldsByKey[key]
	if f == nil {
		l.unknown(key, origin, shown)
		return
	}
	l.value(key, f.parse(text), origin, shown)
}

// value sets a key. shown is the name under which the user wrote it.
func (l *loader) value(key string, raw any, origin, shown string) {
	f := fieldsByKey[key]
	if f == nil {
		if m, ok := raw.(map[string]any); ok && len(m) == 0 && isSection(key) {
			return // an empty section
		}
		l.unknown(key, origin, shown)
		return
	}
	dst := reflect.ValueOf(&l.out.Config).Elem().FieldByIndex(f.index)
	fresh := reflect.New(f.typ).Elem()
	if !assign(fresh, raw) {
		value := fmt.Sprint(raw)
		if f.secret {
			value = hidden
		}
		l.refuse(key, origin, errs.New(errs.InvalidArgument, "%s: %q is not valid: want %s", key, value, f.wanted()).
			With(errs.Detail{Field: key, Value: value, Limit: f.wanted()}))
		return
	}
	dst.Set(fresh)
	l.out.origins[key] = origin
}

func (l *loader) unknown(key, origin, shown string) {
	if isSection(key) {
		l.refuse(key, origin, errs.New(errs.UnknownField, "%s is a section, not a key", shown).With(errs.Detail{Field: shown}))
		return
	}
	near := nearest(key)
	if strings.HasPrefix(origin, "env:") {
		near = fieldsByKey[near].env()
	}
	l.refuse(key, origin, errs.New(errs.UnknownField, "%s is not a key of the configuration; the nearest is %s", shown, near).
		With(errs.Detail{Field: shown, Help: near}))
}

// validate checks the values. A key that could not be read is not checked as
// well: its default stands there, and that is not the user's mistake.
func (l *loader) validate() {
	unread := make(map[string]bool)
	for _, p := range l.found {
		unread[p.Key] = true
	}
	for _, err := range l.out.mistakes() {
		e := errs.From(err)
		key := ""
		if len(e.Details) > 0 {
			key, _, _ = strings.Cut(e.Details[0].Field, "[")
		}
		if unread[key] {
			continue
		}
		if f := fieldsByKey[key]; f != nil && f.secret {
			e = errs.New(e.Code, "%s: this value is not valid", key).With(errs.Detail{Field: key, Value: hidden, Limit: e.Details[0].Limit})
		}
		l.refuse(key, l.out.Origin(key), e)
	}
}

// nearest is the known key with the smallest edit distance to key, the first of
// the document among equals. A section's own keys come first, so that a slip in the last
// part never points elsewhere.
func nearest(key string) string {
	best, at := "", 1<<30
	section, last, _ := cutLast(key)
	for _, known := range Keys() {
		d := 2 * distance(key, known)
		if s, k, _ := cutLast(known); s == section {
			d = min(d, 2*distance(last, k)-1)
		} else if k == last {
			d = min(d, 3) // the right key in the wrong section
		}
		if flat := strings.ReplaceAll(known, ".", "_"); flat == key {
			d = 0 // NEKOQ_HTTP_LISTEN for NEKOQ_HTTP__LISTEN
		}
		if d < at {
			best, at = known, d
		}
	}
	return best
}

func cutLast(key string) (before, last string, found bool) {
	i := strings.LastIndexByte(key, '.')
	if i < 0 {
		return "", key, false
	}
	return key[:i], key[i+1:], true
}

// distance counts the insertions, deletions, substitutions and swaps of
// neighbours that turn a into b (optimal string alignment).
func distance(a, b string) int {
	prev2, prev, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(prev[j]+1, row[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], prev2[j-2]+1)
			}
		}
		prev2, prev, row = prev, row, prev2
	}
	return prev[len(b)]
}
