package numgen

import (
	"fmt"
	"strings"
	"time"

	"nekoq/numgen/idgen"
	"nekoq/services/errs"
)

// Config is the [numgen] section.
type Config struct {
	DefaultKind      string        `koanf:"default_kind" doc:"Kind of a generator that is created without one, or on first use: id128, snowflake, uuidv7, ulid, segment or sequence."`
	AutoCreate       bool          `koanf:"auto_create" doc:"Create a generator on first use of its name; off means not_found."`
	MaxGenerators    int           `koanf:"max_generators" doc:"Most generators there may be; creating more is refused."`
	MaxBatch         int           `koanf:"max_batch" doc:"Most ids in one request."`
	WorkerReserve    time.Duration `koanf:"worker_reserve" doc:"How far ahead of the clock the durable high-water time of a worker is kept: ids go on for about that long without a leader, and after a crash times run ahead by up to it."`
	WorkerTTL        time.Duration `koanf:"worker_ttl" doc:"Time without extension after which a worker number may go to another holder."`
	WorkerIdle       time.Duration `koanf:"worker_idle" doc:"Time without an id after which the high-water time is no longer extended; the next id costs one write."`
	MaxClockDrift    time.Duration `koanf:"max_clock_drift" doc:"How far the clock may step back while ids go on from the high-water time; beyond it clock_moved_back."`
	MaxAhead         time.Duration `koanf:"max_ahead" doc:"How far demand may push the time in ids ahead of the clock before requests wait."`
	SnowflakeWorkers int           `koanf:"snowflake_workers" doc:"Most worker numbers that one node takes for snowflakes when demand exceeds one number's ids a millisecond."`
	SegmentRefill    time.Duration `koanf:"segment_refill" doc:"How long a leased segment should last; the step is doubled or halved towards it."`
	SegmentMinStep   int64         `koanf:"segment_min_step" doc:"Least numbers that a segment generator leases at once, unless it says otherwise."`
	SegmentMaxStep   int64         `koanf:"segment_max_step" doc:"Most numbers that a segment generator leases at once, unless it says otherwise."`
	LeaseTimeout     time.Duration `koanf:"lease_timeout" doc:"Longest time for one write of a worker or segment lease."`
	ClientLeases     bool          `koanf:"client_leases" doc:"Let clients lease worker numbers and segments to make ids by themselves."`
}

// DefaultConfig gives the values that are used where nothing is set.
func DefaultConfig() Config {
	return Config{
		DefaultKind:      "id128",
		AutoCreate:       true,
		MaxGenerators:    100_000,
		MaxBatch:         10_000,
		WorkerReserve:    5 * time.Second,
		WorkerTTL:        time.Minute,
		WorkerIdle:       time.Minute,
		MaxClockDrift:    10 * time.Second,
		MaxAhead:         time.Second,
		SnowflakeWorkers: 4,
		SegmentRefill:    10 * time.Second,
		SegmentMinStep:   1_000,
		SegmentMaxStep:   10_000_000,
		LeaseTimeout:     5 * time.Second,
		ClientLeases:     true,
	}
}

// maxStep bounds a segment's step, so that a slip cannot burn the whole space.
const maxStep = 1 << 40

// Validate gives every mistake, each with the path of the field relative to the
// section.
func (c Config) Validate() []error {
	var bad errs.Limits
	kinds := idgen.Kinds()
	k, ok := idgen.ParseKind(c.DefaultKind)
	bad.Want(ok && k != idgen.Format, "default_kind", c.DefaultKind, "one of "+strings.Join(kinds[:len(kinds)-1], ", ")+" (a format needs a template)")
	bad.Want(c.MaxGenerators >= 1, "max_generators", c.MaxGenerators, "1 or more")
	bad.Number("max_batch", int64(c.MaxBatch), 1, 1_000_000, "")
	bad.Time("worker_reserve", c.WorkerReserve, 100*time.Millisecond, time.Hour)
	bad.Time("worker_ttl", c.WorkerTTL, time.Second, 30*24*time.Hour)
	bad.Time("worker_idle", c.WorkerIdle, 0, 30*24*time.Hour)
	bad.Time("max_clock_drift", c.MaxClockDrift, 0, 24*time.Hour)
	bad.Time("max_ahead", c.MaxAhead, 2*time.Millisecond, time.Hour)
	bad.Time("segment_refill", c.SegmentRefill, 100*time.Millisecond, 24*time.Hour)
	bad.Time("lease_timeout", c.LeaseTimeout, 10*time.Millisecond, 10*time.Minute)
	// After a crash the times start that far ahead of a clock that is right.
	sum := c.WorkerReserve + c.MaxAhead
	bad.Want(c.MaxClockDrift >= sum, "max_clock_drift", c.MaxClockDrift, "at least worker_reserve + max_ahead = "+sum.String())
	bad.Want(c.WorkerTTL >= 2*c.WorkerReserve, "worker_ttl", c.WorkerTTL, "at least twice worker_reserve = "+(2*c.WorkerReserve).String())
	bad.Number("snowflake_workers", int64(c.SnowflakeWorkers), 1, 64, "")
	bad.Number("segment_max_step", c.SegmentMaxStep, 1, maxStep, "")
	bad.Want(c.SegmentMinStep >= 1 && (c.SegmentMinStep <= c.SegmentMaxStep || c.SegmentMaxStep < 1), "segment_min_step", c.SegmentMinStep,
		fmt.Sprintf("1 to segment_max_step = %d", c.SegmentMaxStep))
	return bad
}
