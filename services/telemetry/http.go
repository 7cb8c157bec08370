package telemetry

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// HTTP counts requests by route template, method and status class.
type HTTP struct {
	reg      prometheus.Registerer
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

// NewHTTP makes the HTTP metrics; reg may be nil.
func NewHTTP(reg prometheus.Registerer) *HTTP {
	h := &HTTP{
		reg: reg,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nekoq_http_requests_total", Help: "Requests by method, route and status class.",
		}, []string{"method", "route", "class"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "nekoq_http_request_seconds", Help: "Time from the request's header to the end of its answer.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"method", "route"}),
	}
	if reg != nil {
		reg.MustRegister(h.requests, h.seconds)
	}
	return h
}

// Gauge publishes a count that its owner keeps.
func (h *HTTP) Gauge(name, help string, n *atomic.Int64) {
	if h.reg != nil {
		h.reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "nekoq_http_" + name, Help: help},
			func() float64 { return float64(n.Load()) }))
	}
}

// HTTPRoute is one route's metrics, resolved once so that a request looks
// nothing up.
type HTTPRoute struct {
	class   [6]prometheus.Counter // by status / 100; 0 for anything odd
	seconds prometheus.Observer
}

var classes = [6]string{"other", "1xx", "2xx", "3xx", "4xx", "5xx"}

// Route resolves the metrics of one route.
func (h *HTTP) Route(method, route string) HTTPRoute {
	var r HTTPRoute
	for i, class := range classes {
		r.class[i] = h.requests.WithLabelValues(method, route, class)
	}
	r.seconds = h.seconds.WithLabelValues(method, route)
	return r
}

// Observe counts one finished request.
func (r *HTTPRoute) Observe(status int, took time.Duration) {
	class := status / 100
	if class < 1 || class > 5 {
		class = 0
	}
	r.class[class].Inc()
	r.seconds.Observe(took.Seconds())
}
