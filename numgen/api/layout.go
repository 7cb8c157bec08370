package api

import (
	"time"
	"unicode"

	"nekoq/numgen/idgen"
	"nekoq/services/errs"
)

func nameRune(r rune) bool {
	return unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.IsMark(r)
}

// Layout is the bit layout of ids of kind k under the options. k is not format.
func (o Options) Layout(k idgen.Kind, element uint32) (idgen.Layout, error) {
	l := idgen.Layout{Kind: k, Element: element}
	if k != idgen.Snowflake {
		return l, nil
	}
	l = idgen.DefaultSnowflake()
	if o.Epoch != "" {
		t, err := time.Parse(time.RFC3339, o.Epoch)
		if err != nil {
			return l, errs.Invalid("epoch", o.Epoch, "a time as RFC 3339, such as 2018-03-21T13:30:00Z")
		}
		l.Epoch = t.UnixMilli()
	}
	for _, f := range []struct {
		name string
		v    int
		to   *uint
	}{{"time_bits", o.TimeBits, &l.TimeBits}, {"worker_bits", o.WorkerBits, &l.WorkerBits}, {"sequence_bits", o.SequenceBits, &l.SlotBits}} {
		if f.v < 0 || f.v > 63 {
			return l, errs.Invalid(f.name, f.v, "a number of bits")
		}
		if f.v > 0 {
			*f.to = uint(f.v)
		}
	}
	return l, nil
}

// Behind is the kind whose numbers the generator hands out: that of a format's
// template, and else its own.
func (g *Generator) Behind() idgen.Kind {
	name := g.Kind
	if name == idgen.Format.String() {
		name = g.Options.Of
	}
	k, _ := idgen.ParseKind(name)
	return k
}
