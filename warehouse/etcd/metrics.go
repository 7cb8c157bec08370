package etcd

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	ranges, puts, deletes, txns, beats, streams, events prometheus.Counter
	watches                                             prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer, _ *Door) *metrics {
	ops := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "nekoq_etcd_requests_total", Help: "Requests to the etcd door, by kind.",
	}, []string{"kind"})
	m := &metrics{
		ranges: ops.WithLabelValues("range"), puts: ops.WithLabelValues("put"), deletes: ops.WithLabelValues("delete_range"),
		txns: ops.WithLabelValues("txn"), beats: ops.WithLabelValues("lease_keep_alive"), streams: ops.WithLabelValues("watch_stream"),
		events:  prometheus.NewCounter(prometheus.CounterOpts{Name: "nekoq_etcd_watch_events_total", Help: "Events sent to watchers of the etcd door."}),
		watches: prometheus.NewGauge(prometheus.GaugeOpts{Name: "nekoq_etcd_watches", Help: "Watches open at the etcd door."}),
	}
	if reg != nil {
		reg.MustRegister(ops, m.events, m.watches)
	}
	return m
}
