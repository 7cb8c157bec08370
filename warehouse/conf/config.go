package conf

import (
	"time"

	"nekoq/services/errs"
	"nekoq/warehouse/conf/api"
)

// Config is the [config] section.
type Config struct {
	MaxItems          int           `koanf:"max_items" doc:"Most configuration items there may be; creating more is refused."`
	MaxContentBytes   int64         `koanf:"max_content_bytes" doc:"Largest content of an item in bytes; at most 10 MiB."`
	MaxImportBytes    int64         `koanf:"max_import_bytes" doc:"Most bytes of contents, unpacked, that one import or clone takes: it is one command of the log."`
	MaxListeners      int           `koanf:"max_listeners" doc:"Listeners at once on this node; above it 429."`
	HistoryAge        time.Duration `koanf:"history_age" doc:"How long releases that are no longer published are kept."`
	HistoryCount      int           `koanf:"history_count" doc:"Most releases that are kept of an item, whatever their age."`
	RetentionInterval time.Duration `koanf:"retention_interval" doc:"How often the leader looks for releases that are kept no longer."`
	ReportInterval    time.Duration `koanf:"report_interval" doc:"How often a node tells the others who listens at it, when that has changed. One small write each."`
	MaxReported       int           `koanf:"max_reported" doc:"Most listeners in a node's report to the others; the node itself shows all of its own."`
	ListenerLinger    time.Duration `koanf:"listener_linger" doc:"How long a client that long-polls stays in the list of listeners between two polls."`
}

// DefaultConfig gives the values that are used where nothing is set.
func DefaultConfig() Config {
	return Config{
		MaxItems:          100_000,
		MaxContentBytes:   api.MaxContent,
		MaxImportBytes:    maxCommand,
		MaxListeners:      100_000,
		HistoryAge:        30 * 24 * time.Hour,
		HistoryCount:      1000,
		RetentionInterval: time.Hour,
		ReportInterval:    10 * time.Second,
		MaxReported:       1000,
		ListenerLinger:    time.Minute,
	}
}

// maxCommand is what fits into one command with the words around it.
const maxCommand = 14 << 20

// Validate gives every mistake, each with the path of the field relative to the
// section.
func (c Config) Validate() []error {
	var bad errs.Limits
	bad.Number("max_items", int64(c.MaxItems), 1, 10_000_000, "")
	bad.Number("max_content_bytes", c.MaxContentBytes, 1, api.MaxContent, "bytes")
	bad.Number("max_import_bytes", c.MaxImportBytes, 1, maxCommand, "bytes")
	bad.Number("max_listeners", int64(c.MaxListeners), 1, 10_000_000, "")
	bad.Time("history_age", c.HistoryAge, time.Minute, 100*365*24*time.Hour)
	bad.Number("history_count", int64(c.HistoryCount), 1, 1_000_000, "releases")
	bad.Time("retention_interval", c.RetentionInterval, 10*time.Millisecond, 24*time.Hour)
	bad.Time("report_interval", c.ReportInterval, 10*time.Millisecond, time.Hour)
	bad.Number("max_reported", int64(c.MaxReported), 0, 10_000, "")
	bad.Time("listener_linger", c.ListenerLinger, 0, time.Hour)
	return bad
}
