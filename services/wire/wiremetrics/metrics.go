// Package wiremetrics counts what a wire.Server does, for Prometheus.
//
// It is apart from wire so that the Go client does not pull Prometheus in. It
// owns the nekoq_wire_* metrics; everything in it is safe for concurrent use.
// services/peer, services/app and doors may import it.
package wiremetrics

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"nekoq/services/errs"
	"nekoq/services/wire"
)

// Metrics is the counters of one door.
type Metrics struct {
	reg      prometheus.Registerer
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	in, out  *prometheus.CounterVec

	// byMethod is replaced whole when a method is seen for the first time, so a
	// request finds its counters without a lock or an allocation.
	byMethod atomic.Pointer[map[string]*counters]
	mu       sync.Mutex
}

type counters struct {
	ok, in, out prometheus.Counter
	seconds     prometheus.Observer
}

// New registers the metrics of one door; each door has its own label value. A
// nil reg counts nothing.
func New(reg prometheus.Registerer, door string) *Metrics {
	m := &Metrics{}
	if reg == nil {
		return m
	}
	m.reg = prometheus.WrapRegistererWith(prometheus.Labels{"door": door}, reg)
	m.requests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "nekoq_wire_requests_total", Help: "Requests and streams that ended, by method and code (ok or the error's).",
	}, []string{"method", "code"})
	m.seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "nekoq_wire_request_seconds", Help: "Time from the arrival of a request to its answer; streams are left out.",
		Buckets: prometheus.ExponentialBuckets(20e-6, 3, 13), // 20 µs to 10 s
	}, []string{"method"})
	m.in = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "nekoq_wire_received_bytes_total", Help: "Payload bytes of requests.",
	}, []string{"method"})
	m.out = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "nekoq_wire_sent_bytes_total", Help: "Payload bytes of answers and stream messages.",
	}, []string{"method"})
	m.reg.MustRegister(m.requests, m.seconds, m.in, m.out)
	m.byMethod.Store(&map[string]*counters{})
	return m
}

// Connections shows the number of open connections of a server.
func (m *Metrics) Connections(count func() int) {
	if m.reg == nil {
		return
	}
	m.reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "nekoq_wire_connections", Help: "Open connections.",
	}, func() float64 { return float64(count()) }))
}

// After is for wire.ServerOptions.After.
func (m *Metrics) After(r wire.Result) {
	if m.reg == nil {
		return
	}
	c := (*m.byMethod.Load())[r.Name]
	if c == nil {
		c = m.add(r.Name)
	}
	if r.Code == "" {
		c.ok.Inc()
	} else {
		m.requests.WithLabelValues(r.Name, string(errs.InfoOf(r.Code).Code)).Inc()
	}
	if !r.Stream {
		c.seconds.Observe(r.Duration.Seconds())
	}
	c.in.Add(float64(r.RequestBytes))
	c.out.Add(float64(r.ResponseBytes))
}

func (m *Metrics) add(method string) *counters {
	m.mu.Lock()
	defer m.mu.Unlock()
	known := *m.byMethod.Load()
	if c := known[method]; c != nil {
		return c
	}
	c := &counters{
		ok: m.requests.WithLabelValues(method, "ok"), seconds: m.seconds.WithLabelValues(method),
		in: m.in.WithLabelValues(method), out: m.out.WithLabelValues(method),
	}
	next := maps.Clone(known)
	next[method] = c
	m.byMethod.Store(&next)
	return c
}
