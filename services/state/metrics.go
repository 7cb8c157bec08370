package state

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"nekoq/services/command"
)

// metrics is the machine's collector: most values are read when they are asked
// for, so that applying costs one counter a command.
type metrics struct {
	m        *Machine
	kinds    map[command.Kind]*[2]atomic.Uint64 // carried out, refused
	seconds  prometheus.Histogram
	bytes    prometheus.Counter
	failures prometheus.Counter
}

var (
	descApplied  = prometheus.NewDesc("nekoq_state_applied_index", "Log index that readers see.", nil, nil)
	descDurable  = prometheus.NewDesc("nekoq_state_durable_index", "Log index that the state file holds.", nil, nil)
	descRevision = prometheus.NewDesc("nekoq_state_revision", "Store revision.", nil, nil)
	descOverlay  = prometheus.NewDesc("nekoq_state_overlay_bytes", "Changes in memory that the state file does not hold yet.", []string{"buffer"}, nil)
	descFile     = prometheus.NewDesc("nekoq_state_file_bytes", "Size of the state file.", nil, nil)
	descFree     = prometheus.NewDesc("nekoq_state_file_free_pages", "Pages of the state file that are free to be used again.", nil, nil)
	descViews    = prometheus.NewDesc("nekoq_state_views_open", "Read views and snapshots that are open.", nil, nil)
	descFull     = prometheus.NewDesc("nekoq_state_storage_full", "1 while the state file cannot be written.", nil, nil)
	descCommands = prometheus.NewDesc("nekoq_state_commands_total", "Commands applied since start, by kind and outcome.", []string{"kind", "outcome"}, nil)
)

func newMetrics(m *Machine) *metrics {
	c := &metrics{
		m:     m,
		kinds: make(map[command.Kind]*[2]atomic.Uint64, len(m.reg.kinds)),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "nekoq_state_commit_seconds", Help: "Time to write and sync one overlay to the state file.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nekoq_state_commit_bytes_total", Help: "Bytes of rows written to the state file.",
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nekoq_state_commit_failures_total", Help: "Commits to the state file that failed.",
		}),
	}
	for k := range m.reg.kinds {
		c.kinds[k] = new([2]atomic.Uint64)
	}
	return c
}

func (c *metrics) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	err := r.Register(c)
	if already := (prometheus.AlreadyRegisteredError{}); errors.As(err, &already) {
		return errors.New("state: the metrics of two machines in one registry")
	}
	return err
}

func (c *metrics) unregister(r prometheus.Registerer) {
	if r != nil {
		r.Unregister(c)
	}
}

func (c *metrics) count(k command.Kind, refused bool) {
	i := 0
	if refused {
		i = 1
	}
	c.kinds[k][i].Add(1)
}

func (c *metrics) committed(d time.Duration, bytes int64) {
	c.seconds.Observe(d.Seconds())
	c.bytes.Add(float64(bytes))
}

func (c *metrics) failed() { c.failures.Inc() }

// Describe implements prometheus.Collector.
func (c *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descApplied, descDurable, descRevision, descOverlay, descFile, descFree, descViews, descFull, descCommands,
	} {
		ch <- d
	}
	c.seconds.Describe(ch)
	c.bytes.Describe(ch)
	c.failures.Describe(ch)
}

// Collect implements prometheus.Collector.
func (c *metrics) Collect(ch chan<- prometheus.Metric) {
	m := c.m
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	if v := m.View(); v != nil {
		g := v.gen()
		gauge(descApplied, float64(g.meta.index))
		gauge(descRevision, float64(g.meta.revision))
		if info, err := g.base.h.file.Stat(); err == nil {
			gauge(descFile, float64(info.Size()))
		}
		gauge(descFree, float64(g.base.h.db.Stats().FreePageN))
		v.Release()
	}
	gauge(descDurable, float64(m.Durable()))
	gauge(descOverlay, float64(m.activeBytes.Load()), "active")
	gauge(descOverlay, float64(m.flushBytes.Load()), "flushing")
	gauge(descViews, float64(m.openViews.Load()))
	full := 0.0
	if m.Storage() != nil {
		full = 1
	}
	gauge(descFull, full)
	for k, n := range c.kinds {
		for i, outcome := range [2]string{"done", "refused"} {
			if v := n[i].Load(); v > 0 {
				ch <- prometheus.MustNewConstMetric(descCommands, prometheus.CounterValue, float64(v), m.reg.KindName(k), outcome)
			}
		}
	}
	c.seconds.Collect(ch)
	c.bytes.Collect(ch)
	c.failures.Collect(ch)
}
