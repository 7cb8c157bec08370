package table

import (
	"bytes"
	"encoding/binary"
	"strings"
	"time"

	"nekoq/numgen/api"
	"nekoq/numgen/idgen"
	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/state"
)

// createPayload is a checked generator with its options filled in.
type createPayload struct {
	Name        string      `json:"name"`
	Kind        string      `json:"kind"`
	Description string      `json:"description,omitempty"`
	Options     api.Options `json:"options"`
}

// Create is the payload that makes g. Options have their defaults.
func Create(g api.Generator) []byte {
	return encodeJSON(createPayload{Name: g.Name, Kind: g.Kind, Description: g.Description, Options: g.Options})
}

// Update is the payload of a change.
func Update(r api.UpdateRequest) []byte { return encodeJSON(r) }

// DecodeGenerator reads the result of create, update and delete.
func DecodeGenerator(b []byte) (g api.Generator, err error) {
	return g, decodeJSON("generator", b, &g)
}

var metaKey = []byte("elements")

// elements reads the last element given out and the number of generators.
func elements(r state.Reader) (last, count uint64, err error) {
	b, ok := r.Get(Meta, metaKey)
	if !ok {
		return 0, 0, nil
	}
	f := fields{b: b}
	last, count = f.uvarint(), f.uvarint()
	return last, count, f.err("numgen_meta")
}

func putElements(tx *state.Tx, last, count uint64) {
	tx.Put(Meta, metaKey, binary.AppendUvarint(binary.AppendUvarint(nil, last), count))
}

// Count is the number of generators.
func Count(r state.Reader) (uint64, error) {
	_, n, err := elements(r)
	return n, err
}

// Get reads a generator.
func Get(r state.Reader, name string) (g api.Generator, ok bool, err error) {
	b, ok := r.Get(Generators, []byte(name))
	if !ok {
		return g, false, nil
	}
	err = decodeJSON("generator row", b, &g)
	return g, err == nil, err
}

// List calls fn for the generators after the name after that begin with prefix,
// in the order of names, until it returns false.
func List(r state.Reader, prefix, after string, fn func(api.Generator) bool) error {
	start := []byte(prefix)
	if after != "" && after >= prefix {
		start = append([]byte(after), 0)
	}
	var err error
	r.Scan(Generators, start, nil, func(k, v []byte) bool {
		if !strings.HasPrefix(string(k), prefix) {
			return false
		}
		var g api.Generator
		if err = decodeJSON("generator row", v, &g); err != nil {
			return false
		}
		return fn(g)
	})
	return err
}

func applyCreate(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	var p createPayload
	if err := decodeJSON("create", cmd.Payload, &p); err != nil {
		return nil, err
	}
	old, ok, err := Get(tx, p.Name)
	if err != nil {
		return nil, err
	}
	if ok {
		if d := difference(old, p); d != nil {
			return nil, errs.New(errs.AlreadyExists, "generator %s exists with %s %s, not %s", p.Name, d.Field, d.Limit, d.Value).With(*d)
		}
		return encodeJSON(old), nil
	}
	last, count, err := elements(tx)
	if err != nil {
		return nil, err
	}
	if last >= 1<<32-1 {
		return nil, errs.New(errs.Exhausted, "all %d elements have been given out", uint64(1<<32-1))
	}
	rev := tx.Next()
	g := api.Generator{
		Name: p.Name, Kind: p.Kind, Element: uint32(last + 1), Description: p.Description, Options: p.Options,
		CreatedRevision: rev, UpdatedRevision: rev,
		Created: time.Unix(0, tx.Time()).UTC().Format(idgen.RFC3339ms),
	}
	b := encodeJSON(g)
	putElements(tx, last+1, count+1)
	tx.Put(Generators, []byte(g.Name), b)
	if k := g.Behind(); k == idgen.Segment || k == idgen.Sequence {
		start := uint64(max(g.Options.Start, 1))
		counter{start: start, next: start}.put(tx, g.Element)
	}
	emit(tx, g, false)
	return b, nil
}

// difference names the first member in which a repeated create differs.
func difference(old api.Generator, p createPayload) *errs.Detail {
	a, b := old.Options, p.Options
	for _, f := range []struct{ name, was, want string }{
		{"kind", old.Kind, p.Kind},
		{"options.of", a.Of, b.Of},
		{"options.epoch", a.Epoch, b.Epoch},
		{"options.time_bits", itoa(a.TimeBits), itoa(b.TimeBits)},
		{"options.worker_bits", itoa(a.WorkerBits), itoa(b.WorkerBits)},
		{"options.sequence_bits", itoa(a.SequenceBits), itoa(b.SequenceBits)},
		{"options.start", itoa(a.Start), itoa(b.Start)},
		{"options.min_step", itoa(a.MinStep), itoa(b.MinStep)},
		{"options.max_step", itoa(a.MaxStep), itoa(b.MaxStep)},
		{"options.template", a.Template, b.Template},
		{"options.time_zone", a.TimeZone, b.TimeZone},
		{"options.reset", a.Reset, b.Reset},
		{"description", old.Description, p.Description},
	} {
		if f.was != f.want {
			return &errs.Detail{Field: f.name, Value: quoted(f.want), Limit: quoted(f.was), Help: "create it with the same options, use another name, or delete it first"}
		}
	}
	return nil
}

func quoted(s string) string {
	if s == "" {
		return `""`
	}
	return s
}

func applyUpdate(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	var p api.UpdateRequest
	if err := decodeJSON("update", cmd.Payload, &p); err != nil {
		return nil, err
	}
	g, ok, err := Get(tx, p.Name)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, NotFound(p.Name)
	}
	was := encodeJSON(g)
	if p.Description != nil {
		g.Description = *p.Description
	}
	if p.MinStep != nil || p.MaxStep != nil {
		if g.Behind() != idgen.Segment {
			return nil, errs.New(errs.InvalidArgument, "min_step and max_step are options of segments, and generator %s is of kind %s", g.Name, g.Kind).
				With(errs.Detail{Field: "min_step", Limit: "a generator of kind segment"})
		}
		if p.MinStep != nil {
			g.Options.MinStep = *p.MinStep
		}
		if p.MaxStep != nil {
			g.Options.MaxStep = *p.MaxStep
		}
		if g.Options.MinStep > g.Options.MaxStep {
			return nil, errs.Invalid("min_step", g.Options.MinStep, "at most max_step = "+itoa(g.Options.MaxStep))
		}
	}
	if bytes.Equal(was, encodeJSON(g)) {
		return was, nil
	}
	g.UpdatedRevision = tx.Next()
	b := encodeJSON(g)
	tx.Put(Generators, []byte(g.Name), b)
	emit(tx, g, false)
	return b, nil
}

// NotFound is the answer for an unknown generator.
func NotFound(name string) error {
	return errs.New(errs.NotFound, "there is no generator named %q", name).
		With(errs.Detail{Field: "name", Value: name, Help: "create it with POST /v1/numgen/generators"})
}

func applyDelete(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	name := string(cmd.Payload)
	g, ok, err := Get(tx, name)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, NotFound(name)
	}
	last, count, err := elements(tx)
	if err != nil {
		return nil, err
	}
	tx.Delete(Generators, []byte(name))
	tx.Delete(Counters, elementKey(g.Element))
	deleteElement(tx, FreeBlocks, g.Element)
	deleteElement(tx, SegmentHolders, g.Element)
	putElements(tx, last, count-1)
	emit(tx, g, true)
	return encodeJSON(g), nil
}

func deleteElement(tx *state.Tx, t state.TableID, element uint32) {
	var keys [][]byte
	tx.Scan(t, elementKey(element), elementKey(element+1), func(k, _ []byte) bool {
		keys = append(keys, bytes.Clone(k))
		return true
	})
	for _, k := range keys {
		tx.Delete(t, k)
	}
}
