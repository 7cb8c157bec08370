package conf

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"nekoq/services/errs"
	"nekoq/services/state"
	"nekoq/warehouse/areas"
	"nekoq/warehouse/conf/api"
	"nekoq/warehouse/conf/internal/table"
)

// reading works out effective values over one view for one client.
type reading struct {
	r      state.Reader
	tree   *areas.Tree
	x      *table.Index
	client *api.Client
	levels map[string][]string
	gray   bool // a gray release was asked: other clients may get something else

	// own stands in for the content of one item that is not written yet; with, for
	// those of others that are written together with it.
	own  *candidate
	with candidates
}

type candidate struct {
	address api.Address
	content api.Content
	bytes   []byte
}

// candidates are contents that are written at once.
type candidates map[api.Address]*candidate

func newReading(v *state.View, c *api.Client) *reading {
	return &reading{r: v, tree: areas.TreeOf(v), x: indexOf(v), client: c, levels: map[string][]string{}}
}

// picked is the content that a client gets of one item.
type picked struct {
	address  api.Address
	content  api.Content
	key      []byte // of the content
	bytes    []byte // of a candidate
	revision uint64
	release  uint64
	gray     string
}

func (d *reading) load(p *picked) ([]byte, error) {
	if p.key == nil {
		return p.bytes, nil
	}
	b, ok := table.Content(d.r, p.key)
	if !ok {
		return nil, fmt.Errorf("conf: the content of %s is missing", p.address.Path())
	}
	return b, nil
}

func (d *reading) levelsOf(area string) []string {
	l, ok := d.levels[area]
	if !ok {
		l = d.tree.Levels(area)
		d.levels[area] = l
	}
	return l
}

// pick gives what the nearest level has for the client.
func (d *reading) pick(area, group, key string) (picked, bool) {
	for _, level := range d.levelsOf(area) {
		a := api.Address{Area: level, Group: group, Key: key}
		c := d.with[a]
		if d.own != nil && d.own.address == a {
			c = d.own
		}
		if c != nil {
			return picked{address: a, content: c.content, bytes: c.bytes}, true
		}
		row, ok := d.x.Item(a)
		if !ok {
			continue
		}
		for i := range row.Gray {
			d.gray = true
			if g := &row.Gray[i]; g.Rule.Fits(d.client, a.Path()+"/"+g.Name) {
				return picked{address: a, content: g.Content, key: table.GrayKey(row.ID, g.Name), revision: g.Revision, gray: g.Name}, true
			}
		}
		if rel := row.Release; rel != nil {
			return picked{address: a, content: rel.Content, key: table.ReleaseKey(row.ID, rel.Number), revision: rel.Revision, release: rel.Number}, true
		}
	}
	return picked{}, false
}

// source is a group that gives keys, and why.
type source struct{ group, via string }

func (d *reading) sources(group string) []source {
	out := []source{{group, "own"}}
	if g, ok := d.x.Group(group); ok {
		for _, q := range g.Quotes {
			out = append(out, source{q, "quoted"})
		}
	}
	if group != api.GlobalGroup {
		out = append(out, source{api.GlobalGroup, "global"})
	}
	return out
}

// found is one effective value before it is resolved.
type found struct {
	picked
	via string
}

// find gives one key of a group: own over quoted over global.
func (d *reading) find(area, group, key string) (found, bool) {
	for _, s := range d.sources(group) {
		if p, ok := d.pick(area, s.group, key); ok {
			return found{p, s.via}, true
		}
	}
	return found{}, false
}

// all gives every key of a group that clients see, in order.
func (d *reading) all(area, group string) []found {
	have := map[string]bool{}
	var out []found
	for _, s := range d.sources(group) {
		for _, key := range d.keys(area, s.group) {
			if have[key] {
				continue
			}
			if p, ok := d.pick(area, s.group, key); ok {
				have[key] = true
				out = append(out, found{p, s.via})
			}
		}
	}
	slices.SortFunc(out, func(a, b found) int { return strings.Compare(a.address.Key, b.address.Key) })
	return out
}

// keys gives the keys that clients see of one group in an area and those above.
func (d *reading) keys(area, group string) []string {
	var out []string
	for _, level := range d.levelsOf(area) {
		prefix := string(table.ItemKey(api.Address{Area: level, Group: group}))
		d.x.Ascend(prefix, func(k string, row *table.Row) bool {
			key, ok := strings.CutPrefix(k, prefix)
			if ok && !row.Deleted && !api.Hidden(key) {
				out = append(out, key)
			}
			return ok
		})
	}
	return out
}

// problem is a reference that stands unresolved.
type problem struct {
	text  string
	fatal bool // a loop, or too deep, or too large: no change elsewhere would be meant to cure it
}

// expansion resolves the references of one content.
type expansion struct {
	d        *reading
	area     string
	room     int // bytes that may still be written
	problems []problem
	stack    []string
}

// stepCost is what one reference costs of the room even when it is empty, so that
// many of them end too.
const stepCost = 64

// resolve gives the bytes that a client gets. The slice may be the state's.
func (d *reading) resolve(area string, p *picked) ([]byte, []problem, error) {
	b, err := d.load(p)
	if err != nil || !p.content.Refs {
		return b, nil, err
	}
	x := &expansion{d: d, area: area, room: api.MaxContent, stack: []string{p.address.Path()}}
	out, err := x.expand(b)
	return out, x.problems, err
}

func (x *expansion) expand(b []byte) ([]byte, error) {
	var out bytes.Buffer
	from := 0
	for {
		ref, ok := api.NextReference(b, from)
		if !ok {
			break
		}
		out.Write(b[from:ref.Start])
		x.room -= ref.Start - from
		from = ref.End
		if ref.Escaped {
			out.Write(b[ref.Start+1 : ref.End])
			continue
		}
		text, why, err := x.follow(&ref)
		if err != nil {
			return nil, err
		}
		if why != nil {
			x.note(*why)
			text = b[ref.Start:ref.End]
		}
		out.Write(text)
	}
	out.Write(b[from:])
	x.room -= len(b) - from
	return out.Bytes(), nil
}

// maxProblems bounds what is told of one content.
const maxProblems = 20

func (x *expansion) note(p problem) {
	if len(x.problems) < maxProblems && !slices.Contains(x.problems, p) {
		x.problems = append(x.problems, p)
	}
}

// follow gives what a reference stands for, or why it cannot be followed.
func (x *expansion) follow(ref *api.Reference) ([]byte, *problem, error) {
	area := ref.Area
	if area == "" {
		area = x.area
	}
	if x.room -= stepCost; x.room < 0 {
		return nil, &problem{"resolved, the content is larger than " + itoa(api.MaxContent) + " bytes", true}, nil
	}
	p, ok := x.d.pick(area, ref.Group, ref.Key)
	if !ok {
		return nil, &problem{ref.Text() + ": there is no such item in area " + area + " or above", false}, nil
	}
	path := p.address.Path()
	if slices.Contains(x.stack, path) {
		return nil, &problem{ref.Text() + " closes a loop: " + strings.Join(append(slices.Clone(x.stack), path), " -> "), true}, nil
	}
	if len(x.stack) > api.MaxRefDepth {
		return nil, &problem{ref.Text() + " stands deeper than " + itoa(api.MaxRefDepth) + " references", true}, nil
	}
	b, err := x.d.load(&p)
	if err != nil {
		return nil, nil, err
	}
	if len(b) > x.room {
		return nil, &problem{"resolved, the content is larger than " + itoa(api.MaxContent) + " bytes", true}, nil
	}
	if !p.content.Refs {
		x.room -= len(b)
		return b, nil, nil
	}
	x.stack = append(x.stack, path)
	b, err = x.expand(b)
	x.stack = x.stack[:len(x.stack)-1]
	return b, nil, err
}

// evaluated is what a client gets.
type evaluated struct {
	hash   string
	values []api.Value
}

// evaluate works out a set of values: their hash, and with values themselves.
func (d *reading) evaluate(area string, list []found, values bool) (e evaluated, err error) {
	h := sha256.New()
	for i := range list {
		f := &list[i]
		v := api.Value{
			Key: f.address.Key, Type: f.content.Type, Hash: f.content.Hash, Revision: f.revision,
			Origin: api.Origin{Address: f.address, Release: f.release, Gray: f.gray, Via: f.via},
		}
		if values || f.content.Refs {
			b, problems, err := d.resolve(area, &f.picked)
			if err != nil {
				return e, err
			}
			if f.content.Refs {
				v.Hash = hashOf(v.Type, b)
			}
			for _, p := range problems {
				v.Problems = append(v.Problems, p.text)
			}
			if values {
				v.Bytes = bytes.Clone(b)
				e.values = append(e.values, v)
			}
		}
		fmt.Fprintf(h, "%s\x00%s\n", v.Key, v.Hash)
	}
	e.hash = hex.EncodeToString(h.Sum(nil)[:16])
	return e, nil
}

// scopeOf gives the area of the first scope that fits the client, else the root.
func (d *reading) scopeOf() string {
	for _, s := range d.x.Scopes() {
		if s.Rule.Fits(d.client, "scope/"+s.Name) {
			return s.Area
		}
	}
	return "default"
}

// check refuses a content that does not fit its type or the item's schema, and one
// whose references cannot work. With references it is the resolved content that
// counts, unless some cannot be resolved yet; then the content as it stands may
// fit instead.
func (s *Service) check(v *state.View, a api.Address, c api.Content, b []byte, with candidates) error {
	row, known := indexOf(v).Item(a)
	schema, err := s.schemaOf(v, row, known)
	if err != nil {
		return err
	}
	return s.checkUnder(v, a, c, b, schema, with)
}

func (s *Service) checkUnder(v *state.View, a api.Address, c api.Content, b []byte, schema *jsonschema.Schema, with candidates) error {
	d := newReading(v, &api.Client{})
	if !c.Refs {
		return fits(c.Type, b, schema)
	}
	d.own, d.with = &candidate{address: a, content: c, bytes: b}, with
	resolved, problems, err := d.resolve(a.Area, &picked{address: a, content: c, bytes: b})
	if err != nil {
		return damaged(err)
	}
	for _, p := range problems {
		if p.fatal {
			return errs.New(errs.InvalidArgument, "content: %s", p.text).With(errs.Detail{Field: "content", Help: p.text})
		}
	}
	err = fits(c.Type, resolved, schema)
	if err != nil && len(problems) > 0 && fits(c.Type, b, nil) == nil {
		return nil // what is missing may yet make it fit
	}
	return err
}
