package areas

import (
	"strconv"

	"nekoq/services/errs"
)

// Config is the [areas] section.
type Config struct {
	MaxAreas    int `koanf:"max_areas" doc:"Most areas there may be; creating more is refused."`
	MaxWatchers int `koanf:"max_watchers" doc:"Watches of the tree open at once on this node; above it 429."`
}

// DefaultConfig gives the values that are used where nothing is set.
func DefaultConfig() Config { return Config{MaxAreas: 10_000, MaxWatchers: 100_000} }

// Validate gives every mistake, each with the path of the field relative to the
// section.
func (c Config) Validate() []error {
	var out []error
	for _, f := range []struct {
		field string
		v     int
		most  int
	}{{"max_areas", c.MaxAreas, 1_000_000}, {"max_watchers", c.MaxWatchers, 10_000_000}} {
		if f.v < 1 || f.v > f.most {
			out = append(out, errs.Invalid(f.field, f.v, "1 to "+strconv.Itoa(f.most)))
		}
	}
	return out
}
