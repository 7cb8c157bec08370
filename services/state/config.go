package state

import (
	"fmt"
	"time"

	"nekoq/services/errs"
)

// Config tunes a Machine. A zero field means its default.
type Config struct {
	FlushBytes    int64         `koanf:"flush_bytes" doc:"Bytes of unsaved changes from which the state file is written."`
	FlushInterval time.Duration `koanf:"flush_interval" doc:"Longest time that a change waits before the state file is written (the log holds it meanwhile)."`
	MaxLagBytes   int64         `koanf:"max_lag_bytes" doc:"Bytes of unsaved changes at which applying waits for the state file."`
	MmapBytes     int64         `koanf:"mmap_bytes" doc:"Address space reserved for the state file, in bytes; it grows beyond at the cost of a remap."`
	MaxFileBytes  int64         `koanf:"max_file_bytes" doc:"Largest size of the state file in bytes; writes are refused beyond. 0 is no limit."`
	TrimBytes     int64         `koanf:"trim_bytes" doc:"Resident memory of the process in bytes from which pages of the state file are given back to the system's cache; 64 MiB more within a commit. More is faster when keys are written or read in no order."`
	LockTimeout   time.Duration `koanf:"lock_timeout" doc:"How long to wait for another process to let go of the state file."`
	CloseTimeout  time.Duration `koanf:"close_timeout" doc:"How long closing waits for open read views."`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{
		FlushBytes:    32 << 20,
		FlushInterval: 3 * time.Second,
		MaxLagBytes:   96 << 20,
		MmapBytes:     64 << 30,
		TrimBytes:     320 << 20,
		LockTimeout:   time.Second,
		CloseTimeout:  5 * time.Second,
	}
}

// Validate returns every mistake; zero fields are fine.
func (c *Config) Validate() []error {
	var bad errs.Limits
	d := c.withDefaults()
	bad.Want(d.FlushBytes >= 4<<10 && d.FlushBytes <= 1<<30, "flush_bytes", c.FlushBytes, "4096 to 1073741824 bytes")
	bad.Want(d.FlushInterval >= time.Millisecond && d.FlushInterval <= time.Hour, "flush_interval", c.FlushInterval, "1ms to 1h")
	bad.Want(d.MaxLagBytes >= d.FlushBytes && d.MaxLagBytes <= 16<<30, "max_lag_bytes", c.MaxLagBytes,
		fmt.Sprintf("flush_bytes = %d to 17179869184 bytes", d.FlushBytes))
	bad.Want(d.MmapBytes >= 32<<10 && d.MmapBytes <= 128<<40, "mmap_bytes", c.MmapBytes, "32768 bytes to 128 TiB")
	bad.Want(c.MaxFileBytes == 0 || c.MaxFileBytes >= 1<<20, "max_file_bytes", c.MaxFileBytes, "0 or at least 1048576 bytes")
	bad.Want(d.TrimBytes >= 1<<20 && d.TrimBytes <= 1<<50, "trim_bytes", c.TrimBytes, "1048576 bytes to 1 PiB")
	bad.Want(d.LockTimeout >= 0 && d.LockTimeout <= time.Hour, "lock_timeout", c.LockTimeout, "1ns to 1h")
	bad.Want(d.CloseTimeout >= 0 && d.CloseTimeout <= time.Hour, "close_timeout", c.CloseTimeout, "1ns to 1h")
	return bad
}

func (c *Config) withDefaults() Config {
	out, d := *c, DefaultConfig()
	fill := func(v *int64, def int64) {
		if *v == 0 {
			*v = def
		}
	}
	fill(&out.FlushBytes, d.FlushBytes)
	fill(&out.MaxLagBytes, d.MaxLagBytes)
	fill(&out.MmapBytes, d.MmapBytes)
	fill(&out.TrimBytes, d.TrimBytes)
	fill((*int64)(&out.FlushInterval), int64(d.FlushInterval))
	fill((*int64)(&out.LockTimeout), int64(d.LockTimeout))
	fill((*int64)(&out.CloseTimeout), int64(d.CloseTimeout))
	return out
}
