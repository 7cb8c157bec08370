package errs

import (
	"strconv"
	"time"
)

// Limits collects the values of a configuration that are outside their limits, one
// error each.
type Limits []error

// Number wants v within low and high. unit is what it counts, "" for nothing to say.
func (l *Limits) Number(field string, v, low, high int64, unit string) {
	if unit != "" {
		unit = " " + unit
	}
	l.Want(v >= low && v <= high, field, v, strconv.FormatInt(low, 10)+" to "+strconv.FormatInt(high, 10)+unit)
}

// Time wants v within low and high.
func (l *Limits) Time(field string, v, low, high time.Duration) {
	l.Want(v >= low && v <= high, field, v, low.String()+" to "+high.String())
}

// Want adds Invalid unless the value is good.
func (l *Limits) Want(good bool, field string, value any, limit string) {
	if !good {
		*l = append(*l, Invalid(field, value, limit))
	}
}
