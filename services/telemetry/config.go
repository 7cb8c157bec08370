package telemetry

import (
	"log/slog"
	"net/url"
	"strings"
	"time"

	"nekoq/services/errs"
)

// Log formats of Config.LogFormat.
const (
	FormatText = "text"
	FormatJSON = "json"
)

// Config is the [telemetry] section.
type Config struct {
	LogLevel         string        `koanf:"log_level" doc:"Least level that is logged: debug, info, warn or error. It can be changed while the process runs."`
	LogFormat        string        `koanf:"log_format" doc:"Form of a log line: text or json."`
	LogSource        bool          `koanf:"log_source" doc:"Add file and line of the code to each log line."`
	AccessLogFlush   time.Duration `koanf:"access_log_flush" doc:"Longest time that a line of the access log stays in memory before it is written."`
	TraceEndpoint    string        `koanf:"trace_endpoint" doc:"OTLP/HTTP address for traces, such as http://127.0.0.1:4318; empty is off."`
	TraceSampleRatio float64       `koanf:"trace_sample_ratio" doc:"Share of the requests that are traced, 0 to 1, where the caller has not decided already."`
	TraceTimeout     time.Duration `koanf:"trace_timeout" doc:"Longest time for one export of traces."`
}

// DefaultConfig gives the values that are used where nothing is set.
func DefaultConfig() Config {
	return Config{
		LogLevel: "info", LogFormat: FormatText, AccessLogFlush: 200 * time.Millisecond,
		TraceSampleRatio: 1, TraceTimeout: 10 * time.Second,
	}
}

// Validate gives every mistake, with the field relative to the section.
func (c Config) Validate() []error {
	var out []error
	bad := func(field string, value any, limit string) {
		out = append(out, errs.Invalid(field, value, limit))
	}
	if _, err := ParseLevel(c.LogLevel); err != nil {
		out = append(out, err)
	}
	if c.LogFormat != FormatText && c.LogFormat != FormatJSON {
		bad("log_format", c.LogFormat, "text or json")
	}
	if c.AccessLogFlush <= 0 {
		bad("access_log_flush", c.AccessLogFlush, "a duration above 0, such as 200ms")
	}
	if c.TraceEndpoint != "" {
		u, err := url.Parse(c.TraceEndpoint)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
			bad("trace_endpoint", c.TraceEndpoint, "an http:// or https:// URL, or empty for off")
		}
	}
	if !(c.TraceSampleRatio >= 0 && c.TraceSampleRatio <= 1) {
		bad("trace_sample_ratio", c.TraceSampleRatio, "a number from 0 to 1")
	}
	if c.TraceTimeout <= 0 {
		bad("trace_timeout", c.TraceTimeout, "a duration above 0, such as 10s")
	}
	return out
}

// ParseLevel reads a level's name.
func ParseLevel(name string) (slog.Level, error) {
	switch strings.ToLower(name) {
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, errs.Invalid("log_level", name, "debug, info, warn or error")
}
