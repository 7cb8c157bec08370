package warehouse

import (
	"time"

	"nekoq/services/errs"
	"nekoq/warehouse/internal/table"
)

// Config is the [warehouse] section.
type Config struct {
	MaxKeyBytes       int64         `koanf:"max_key_bytes" doc:"Longest key in bytes; a longer one is refused."`
	MaxValueBytes     int64         `koanf:"max_value_bytes" doc:"Largest value in bytes; a larger one is refused."`
	DefaultListLimit  int           `koanf:"default_list_limit" doc:"Keys in a page of a list when the request names no limit."`
	MaxListLimit      int           `koanf:"max_list_limit" doc:"Largest limit of a list page, in keys."`
	MaxPageBytes      int64         `koanf:"max_page_bytes" doc:"Bytes of keys and values at which a list page ends before its limit."`
	MaxWatchers       int64         `koanf:"max_watchers" doc:"Watches open at once on this node; above it 429."`
	WatchBuffer       int           `koanf:"watch_buffer" doc:"Events kept in memory for a slow watcher, which is then caught up from the history."`
	WatchBatchBytes   int64         `koanf:"watch_batch_bytes" doc:"Bytes of keys and values at which one step of a watch that reads the history ends (at the next whole revision)."`
	WatchProgress     time.Duration `koanf:"watch_progress" doc:"Pause after which an idle watch is told the revision it has reached."`
	SweepRows         int           `koanf:"sweep_rows" doc:"History rows that one command of the compaction removes."`
	SweepPause        time.Duration `koanf:"sweep_pause" doc:"Pause between two commands of the compaction, which leaves room for other writes."`
	SweepPollInterval time.Duration `koanf:"sweep_poll_interval" doc:"How often the leader looks whether a compaction is unfinished."`
	MaxTxnOps         int           `koanf:"max_txn_ops" doc:"Operations, and conditions, that a transaction may have; nested ones count on top of those around them."`
	CompactMode       string        `koanf:"compact_mode" doc:"Automatic compaction: off, periodic (history older than compact_retention goes) or revision (all but the newest compact_revisions go)."`
	CompactRetention  time.Duration `koanf:"compact_retention" doc:"How long history is kept with compact_mode = periodic."`
	CompactRevisions  int64         `koanf:"compact_revisions" doc:"How many revisions of history are kept with compact_mode = revision."`
}

// The values of CompactMode.
const (
	CompactOff      = "off"
	CompactPeriodic = "periodic"
	CompactRevision = "revision"
)

// DefaultConfig gives the values that are used where nothing is set.
func DefaultConfig() Config {
	return Config{
		MaxKeyBytes:       4 << 10,
		MaxValueBytes:     3 << 19, // etcd's largest request, 1.5 MiB
		DefaultListLimit:  100,
		MaxListLimit:      10_000,
		MaxPageBytes:      4 << 20,
		MaxWatchers:       100_000,
		WatchBuffer:       1024,
		WatchBatchBytes:   1 << 20,
		WatchProgress:     10 * time.Second,
		SweepRows:         1000,
		SweepPause:        2 * time.Millisecond,
		SweepPollInterval: time.Second,
		MaxTxnOps:         128,
		CompactMode:       CompactOff,
		CompactRetention:  24 * time.Hour,
		CompactRevisions:  100_000,
	}
}

// Validate gives every mistake, each with the path of the field relative to the
// section.
func (c Config) Validate() []error {
	var bad errs.Limits
	bad.Number("max_key_bytes", c.MaxKeyBytes, 1, table.MaxKey, "bytes")
	bad.Number("max_value_bytes", c.MaxValueBytes, 1, table.MaxValue, "bytes")
	bad.Number("max_list_limit", int64(c.MaxListLimit), 1, 1_000_000, "keys")
	bad.Number("default_list_limit", int64(c.DefaultListLimit), 1, int64(max(c.MaxListLimit, 1)), "(max_list_limit) keys")
	bad.Number("max_page_bytes", c.MaxPageBytes, 1<<10, 64<<20, "bytes")
	bad.Number("max_watchers", c.MaxWatchers, 1, 10_000_000, "")
	bad.Number("watch_buffer", int64(c.WatchBuffer), 1, 1<<20, "events")
	bad.Number("watch_batch_bytes", c.WatchBatchBytes, 1<<10, 64<<20, "bytes")
	bad.Time("watch_progress", c.WatchProgress, 10*time.Millisecond, time.Hour)
	bad.Number("sweep_rows", int64(c.SweepRows), 1, table.MaxSweep, "rows")
	bad.Time("sweep_pause", c.SweepPause, 0, time.Minute)
	bad.Time("sweep_poll_interval", c.SweepPollInterval, 10*time.Millisecond, time.Hour)
	bad.Number("max_txn_ops", int64(c.MaxTxnOps), 1, table.MaxTxnOps, "")
	mode := c.CompactMode
	bad.Want(mode == CompactOff || mode == CompactPeriodic || mode == CompactRevision, "compact_mode", mode, "off, periodic or revision")
	bad.Time("compact_retention", c.CompactRetention, time.Second, 10*365*24*time.Hour)
	bad.Number("compact_revisions", c.CompactRevisions, 1, 1<<62, "revisions")
	return bad
}
