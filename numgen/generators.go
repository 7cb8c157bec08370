package numgen

import (
	"context"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"nekoq/numgen/api"
	"nekoq/numgen/idgen"
	"nekoq/numgen/internal/table"
	"nekoq/services/errs"
	"nekoq/services/replica"
	"nekoq/services/state"
)

func utoa(v uint64) string { return strconv.FormatUint(v, 10) }

// Create makes a generator. created is false when it was there already with the
// same kind and options.
func (s *Service) Create(ctx context.Context, r api.CreateRequest) (g *api.Generator, created bool, err error) {
	if err := api.CheckNewName("name", r.Name); err != nil {
		return nil, false, err
	}
	if err := checkDescription(r.Description); err != nil {
		return nil, false, err
	}
	if r.Kind == "" {
		r.Kind = s.cfg.DefaultKind
	}
	kind, ok := idgen.ParseKind(r.Kind)
	if !ok {
		return nil, false, errs.Invalid("kind", r.Kind, "one of "+strings.Join(idgen.Kinds(), ", "))
	}
	opts, err := s.normalize(kind, r.Options)
	if err != nil {
		return nil, false, err
	}
	if err := s.roomForOne(ctx, r.Name); err != nil {
		return nil, false, err
	}
	res, err := s.propose(ctx, table.KindCreate, table.Create(api.Generator{Name: r.Name, Kind: r.Kind, Description: r.Description, Options: opts}))
	if err != nil {
		return nil, false, err
	}
	out, err := table.DecodeGenerator(res.Data)
	return &out, res.Changed, err
}

// roomForOne is asked before proposing: max_generators is this node's setting
// and must not decide in the state machine.
func (s *Service) roomForOne(ctx context.Context, name string) error {
	v, _, err := s.replica.View(ctx, replica.Stale)
	if err != nil {
		return err
	}
	defer v.Release()
	count, err := table.Count(v)
	if err != nil || count < uint64(s.cfg.MaxGenerators) {
		return err
	}
	if _, ok, err := table.Get(v, name); ok || err != nil {
		return err
	}
	return errs.New(errs.Exhausted, "there are %d generators, and numgen.max_generators = %d", count, s.cfg.MaxGenerators).
		With(errs.Detail{Field: "numgen.max_generators", Limit: strconv.Itoa(s.cfg.MaxGenerators)})
}

const maxDescription = 256

func checkDescription(d string) error {
	if len(d) > maxDescription || !utf8.ValidString(d) {
		return errs.Invalid("description", d, "up to 256 bytes of UTF-8")
	}
	return nil
}

// normalize checks the options of a kind and fills in their defaults, so that
// equal generators have equal options. Options of other kinds are refused.
func (s *Service) normalize(kind idgen.Kind, o api.Options) (api.Options, error) {
	behind := kind
	if kind == idgen.Format {
		if o.Of == "" {
			o.Of = idgen.Sequence.String()
		}
		var ok bool
		if behind, ok = idgen.ParseKind(o.Of); !ok || behind == idgen.Format {
			return o, errs.Invalid("options.of", o.Of, "id128, snowflake, uuidv7, ulid, segment or sequence")
		}
	}
	if err := foreign(kind, behind, o); err != nil {
		return o, err
	}
	if behind == idgen.Snowflake {
		l, err := o.Layout(behind, 0)
		if err == nil {
			err = l.Check(s.clock.Now().UnixMilli())
		}
		if err != nil {
			return o, err
		}
		o.Epoch = time.UnixMilli(l.Epoch).UTC().Format(time.RFC3339Nano)
		o.TimeBits, o.WorkerBits, o.SequenceBits = int(l.TimeBits), int(l.WorkerBits), int(l.SlotBits)
	}
	if behind == idgen.Segment || behind == idgen.Sequence {
		if o.Start == 0 {
			o.Start = 1
		}
		if o.Start < 1 {
			return o, errs.Invalid("options.start", o.Start, "1 or more")
		}
	}
	if behind == idgen.Segment {
		if o.MinStep == 0 {
			o.MinStep = s.cfg.SegmentMinStep
			if o.MaxStep > 0 {
				o.MinStep = min(o.MinStep, o.MaxStep)
			}
		}
		if o.MaxStep == 0 {
			o.MaxStep = max(s.cfg.SegmentMaxStep, o.MinStep)
		}
		if err := checkSteps(&o.MinStep, &o.MaxStep); err != nil {
			return o, err
		}
	}
	if kind == idgen.Format {
		if o.Reset != "" && behind != idgen.Sequence {
			return o, errs.Invalid("options.reset", o.Reset, "nothing: only numbers of kind sequence can start again")
		}
		if _, err := idgen.ParseTemplate(o.Template, o.TimeZone, idgen.Reset(o.Reset)); err != nil {
			return o, err
		}
	}
	return o, nil
}

// checkSteps checks the steps that are given; nil is not given.
func checkSteps(lo, hi *int64) error {
	if hi != nil && (*hi < 1 || *hi > maxStep) {
		return errs.Invalid("max_step", *hi, "1 to "+utoa(maxStep))
	}
	if lo != nil && (*lo < 1 || *lo > maxStep) {
		return errs.Invalid("min_step", *lo, "1 to "+utoa(maxStep))
	}
	if lo != nil && hi != nil && *lo > *hi {
		return errs.Invalid("min_step", *lo, "at most max_step = "+utoa(uint64(*hi)))
	}
	return nil
}

// foreign refuses options that the kind does not have.
func foreign(kind, behind idgen.Kind, o api.Options) error {
	counted := behind == idgen.Segment || behind == idgen.Sequence
	for _, f := range []struct {
		name  string
		set   bool
		value any
		fits  bool
		of    string
	}{
		{"options.epoch", o.Epoch != "", o.Epoch, behind == idgen.Snowflake, "snowflake"},
		{"options.time_bits", o.TimeBits != 0, o.TimeBits, behind == idgen.Snowflake, "snowflake"},
		{"options.worker_bits", o.WorkerBits != 0, o.WorkerBits, behind == idgen.Snowflake, "snowflake"},
		{"options.sequence_bits", o.SequenceBits != 0, o.SequenceBits, behind == idgen.Snowflake, "snowflake"},
		{"options.start", o.Start != 0, o.Start, counted, "segment and sequence"},
		{"options.min_step", o.MinStep != 0, o.MinStep, behind == idgen.Segment, "segment"},
		{"options.max_step", o.MaxStep != 0, o.MaxStep, behind == idgen.Segment, "segment"},
		{"options.template", o.Template != "", o.Template, kind == idgen.Format, "format"},
		{"options.time_zone", o.TimeZone != "", o.TimeZone, kind == idgen.Format, "format"},
		{"options.reset", o.Reset != "", o.Reset, kind == idgen.Format, "format"},
		{"options.of", o.Of != "", o.Of, kind == idgen.Format, "format"},
	} {
		if f.set && !f.fits {
			return errs.Invalid(f.name, f.value, "nothing: it is an option of "+f.of+", and the kind is "+kind.String())
		}
	}
	return nil
}

func (s *Service) view(ctx context.Context, stale bool, fn func(v *state.View) error) error {
	c := replica.Linearizable
	if stale {
		c = replica.Stale
	}
	v, _, err := s.replica.View(ctx, c)
	if err != nil {
		return err
	}
	defer v.Release()
	return fn(v)
}

// Get gives a generator.
func (s *Service) Get(ctx context.Context, r api.NameRequest) (*api.Generator, error) {
	if err := api.CheckName("name", r.Name); err != nil {
		return nil, err
	}
	var g api.Generator
	err := s.view(ctx, r.Stale, func(v *state.View) (err error) {
		var ok bool
		if g, ok, err = table.Get(v, r.Name); err == nil && !ok {
			err = table.NotFound(r.Name)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return &g, nil
}

// maxPage bounds a list page for callers that name no limit, or too great a one.
const maxPage = 1000

func pageSize(limit int) int {
	if limit < 1 || limit > maxPage {
		return maxPage
	}
	return limit
}

// List gives generators in the order of their names.
func (s *Service) List(ctx context.Context, r api.ListRequest) (*api.GeneratorList, error) {
	limit := pageSize(r.Limit)
	out := &api.GeneratorList{Generators: []api.Generator{}}
	err := s.view(ctx, r.Stale, func(v *state.View) error {
		return table.List(v, r.Prefix, r.After, func(g api.Generator) bool {
			if len(out.Generators) == limit {
				out.More = true
				return false
			}
			out.Generators = append(out.Generators, g)
			return true
		})
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Update changes what can be changed safely.
func (s *Service) Update(ctx context.Context, r api.UpdateRequest) (*api.Generator, error) {
	if err := api.CheckName("name", r.Name); err != nil {
		return nil, err
	}
	if r.Description != nil {
		if err := checkDescription(*r.Description); err != nil {
			return nil, err
		}
	}
	if err := checkSteps(r.MinStep, r.MaxStep); err != nil {
		return nil, err
	}
	res, err := s.propose(ctx, table.KindUpdate, table.Update(r))
	if err != nil {
		return nil, err
	}
	g, err := table.DecodeGenerator(res.Data)
	return &g, err
}

// Delete removes a generator. Its element is never given out again, so a
// generator made anew under the name repeats no id128; a sequence starts again.
func (s *Service) Delete(ctx context.Context, name string) error {
	if err := api.CheckName("name", name); err != nil {
		return err
	}
	res, err := s.propose(ctx, table.KindDelete, []byte(name))
	if err != nil {
		return err
	}
	g, err := table.DecodeGenerator(res.Data)
	if err != nil {
		return err
	}
	s.changed(table.Event{Generator: g, Deleted: true}) // at once on this node
	return nil
}

// Workers lists the worker numbers that were ever used.
func (s *Service) Workers(ctx context.Context, r api.WorkersRequest) (*api.WorkerList, error) {
	if r.From < 0 {
		return nil, errs.Invalid("from", r.From, "0 to 65535")
	}
	limit := pageSize(r.Limit)
	out := &api.WorkerList{Workers: []api.WorkerInfo{}}
	err := s.view(ctx, r.Stale, func(v *state.View) error {
		return table.ListWorkers(v, r.From, func(w api.WorkerInfo) bool {
			if len(out.Workers) == limit {
				out.More = true
				return false
			}
			out.Workers = append(out.Workers, w)
			return true
		})
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Decode takes an id apart: by its generator, or by its kind alone.
func (s *Service) Decode(ctx context.Context, r api.DecodeRequest) (*idgen.Decoded, error) {
	var d idgen.Decoded
	switch {
	case r.Name != "" && r.Kind != "":
		return nil, errs.Invalid("kind", r.Kind, "nothing beside the name of a generator")
	case r.Name != "":
		h, err := s.existing(ctx, r.Name)
		if err != nil {
			return nil, err
		}
		if h.template != nil {
			d, err = h.template.Decode(r.ID, h.layout)
		} else {
			d, err = h.layout.Decode(r.ID)
		}
		if err != nil {
			return nil, err
		}
		return &d, nil
	}
	kind, ok := idgen.ParseKind(r.Kind)
	if !ok {
		return nil, errs.Invalid("kind", r.Kind, "one of "+strings.Join(idgen.Kinds(), ", "))
	}
	o, err := s.normalize(kind, r.Options)
	if err != nil {
		return nil, err
	}
	behind := kind
	if kind == idgen.Format {
		behind, _ = idgen.ParseKind(o.Of)
	}
	l, err := o.Layout(behind, 0)
	if err != nil {
		return nil, err
	}
	if kind != idgen.Format {
		d, err = l.Decode(r.ID)
	} else {
		var t *idgen.Template
		if t, err = idgen.ParseTemplate(o.Template, o.TimeZone, idgen.Reset(o.Reset)); err == nil {
			d, err = t.Decode(r.ID, l)
		}
	}
	if err != nil {
		return nil, err
	}
	return &d, nil
}
