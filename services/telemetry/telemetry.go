package telemetry

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Info names the process in metrics and traces.
type Info struct {
	Version, Commit string
	NodeID          string
}

// Telemetry is one process's log, metrics and traces.
type Telemetry struct {
	// Log writes each line at once. AccessLog has the same form and level and
	// goes to the same output, but its lines are gathered and written together:
	// one system call for many requests.
	Log, AccessLog *slog.Logger
	// Registry holds the process's metrics; Go, process and build metrics are in.
	Registry *prometheus.Registry
	// Tracing is off, and costs nothing, unless an endpoint is configured.
	Tracing *Tracing

	level *slog.LevelVar
	lines *LineBuffer
}

// New sets everything up. Log lines go to out, os.Stderr when nil.
func New(ctx context.Context, cfg Config, info Info, out io.Writer) (*Telemetry, error) {
	if list := cfg.Validate(); len(list) > 0 {
		return nil, errors.Join(list...)
	}
	if out == nil {
		out = os.Stderr
	}
	shared := &lockedWriter{w: out}
	t := &Telemetry{level: new(slog.LevelVar), lines: NewLineBuffer(shared, cfg.AccessLogFlush)}
	if err := t.SetLevel(cfg.LogLevel); err != nil {
		return nil, err
	}
	t.Log = slog.New(newHandler(shared, cfg, t.level, redact))
	t.AccessLog = slog.New(newHandler(t.lines, cfg, t.level, nil))
	t.Registry = newRegistry(info)
	tracing, err := newTracing(ctx, cfg, info, t.Log)
	if err != nil {
		return nil, err
	}
	t.Tracing = tracing
	return t, nil
}

// SetLevel changes the least level that is logged: debug, info, warn or error.
func (t *Telemetry) SetLevel(name string) error {
	l, err := ParseLevel(name)
	if err != nil {
		return err
	}
	t.level.Set(l)
	return nil
}

// Level gives the level in force.
func (t *Telemetry) Level() slog.Level { return t.level.Level() }

// Shutdown writes the gathered log lines and the traces not yet sent. Log can
// still be used afterwards.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	return errors.Join(t.Tracing.shutdown(ctx), t.lines.Close())
}

func newRegistry(info Info) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "nekoq_build_info", Help: "Always 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"version": info.Version, "commit": info.Commit, "go": runtime.Version(), "node": info.NodeID},
	})
	build.Set(1)
	reg.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}
