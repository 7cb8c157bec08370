package conf

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	writes, wakes, evaluations, cached, fired, pruned prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, s *Service) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "nekoq_conf_" + name, Help: help})
	}
	m := &metrics{
		writes:      counter("writes_total", "Writes proposed to the configuration centre."),
		wakes:       counter("listener_wakes_total", "Changes handed to listeners of this node."),
		evaluations: counter("evaluations_total", "Times that this node worked out what a client gets."),
		cached:      counter("evaluations_cached_total", "Times that it was known already."),
		fired:       counter("scheduled_total", "Scheduled contents that this node, as the leader, published."),
		pruned:      counter("pruned_total", "Items whose old releases this node, as the leader, gave up."),
	}
	if reg != nil {
		reg.MustRegister(m.writes, m.wakes, m.evaluations, m.cached, m.fired, m.pruned,
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "nekoq_conf_listeners", Help: "Listeners at this node."},
				func() float64 { return float64(s.listeners.count()) }))
	}
	return m
}
