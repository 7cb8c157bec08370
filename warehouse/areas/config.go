package areas

import "nekoq/services/errs"

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
	var bad errs.Limits
	bad.Number("max_areas", int64(c.MaxAreas), 1, 1_000_000, "")
	bad.Number("max_watchers", int64(c.MaxWatchers), 1, 10_000_000, "")
	return bad
}
