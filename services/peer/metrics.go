package peer

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"nekoq/services/errs"
	"nekoq/services/peer/api"
)

// metrics of the node-to-node port. Without a registerer they are counted and
// shown to nobody.
type metrics struct {
	reg      prometheus.Registerer
	all      []prometheus.Collector
	calls    prometheus.Counter
	failures *prometheus.CounterVec
	latency  prometheus.Histogram
	dials    *prometheus.CounterVec
	refusals *prometheus.CounterVec
	rooms    *prometheus.CounterVec
	compares prometheus.Counter
	diverged prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer, s *Service) *metrics {
	const ns, sub = "nekoq", "peer"
	m := &metrics{
		reg:   reg,
		calls: prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "calls_total", Help: "Calls made to other nodes."}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Subsystem: sub, Name: "call_failures_total", Help: "Calls to other nodes that failed, by error code.",
		}, []string{"code"}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: ns, Subsystem: sub, Name: "call_seconds", Help: "Time of a call to another node.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5},
		}),
		dials: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Subsystem: sub, Name: "dial_failures_total", Help: "Failed attempts to open a call connection, by node.",
		}, []string{"node"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Subsystem: sub, Name: "refusals_total", Help: "Handshakes that ended with a refusal on either side, by reason.",
		}, []string{"reason"}),
		rooms: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Subsystem: sub, Name: "disk_handovers_total", Help: "Attempts of this node as leader to hand leadership over because its disk had no space, by outcome: done, failed, nobody.",
		}, []string{"outcome"}),
		compares: prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "hash_comparisons_total", Help: "Comparisons of state hashes known to this node."}),
		diverged: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: "diverged_nodes", Help: "Nodes whose state differed in the last comparison; anything but 0 is an emergency."}),
	}
	m.all = []prometheus.Collector{
		m.calls, m.failures, m.latency, m.dials, m.refusals, m.rooms, m.compares, m.diverged,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: "nodes", Help: "Other nodes that this one keeps in touch with."},
			func() float64 { return float64(len(s.others())) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: "nodes_alive", Help: "Those of them that were heard of lately."},
			func() float64 {
				n := 0
				for _, id := range s.others() {
					if s.alive(id) {
						n++
					}
				}
				return float64(n)
			}),
	}
	if reg != nil {
		reg.MustRegister(m.all...)
	}
	return m
}

func (m *metrics) unregister() {
	if m.reg != nil {
		for _, c := range m.all {
			m.reg.Unregister(c)
		}
	}
}

func (m *metrics) called(err error, took time.Duration) {
	m.calls.Inc()
	m.latency.Observe(took.Seconds())
	if err != nil {
		m.failures.WithLabelValues(string(errs.CodeOf(err))).Inc()
	}
}

func (m *metrics) dialFailed(node string) { m.dials.WithLabelValues(node).Inc() }
func (m *metrics) refused(reason string)  { m.refusals.WithLabelValues(reason).Inc() }

func (m *metrics) handover(outcome string) { m.rooms.WithLabelValues(outcome).Inc() }

func (m *metrics) compared(rep api.HashReport) {
	m.compares.Inc()
	n := 0
	for _, h := range rep.Nodes {
		if h.Verdict == api.HashDiverged {
			n++
		}
	}
	m.diverged.Set(float64(n))
}
