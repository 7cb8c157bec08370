package watch

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	subscribers                            prometheus.Gauge
	published, delivered, lagged, overruns prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "nekoq_watch_" + name, Help: help})
	}
	m := metrics{
		subscribers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "nekoq_watch_subscribers", Help: "Subscriptions that are open.",
		}),
		published: counter("events_published_total", "Events published by the state machine."),
		delivered: counter("events_delivered_total", "Events put into a subscriber's buffer."),
		lagged:    counter("lagged_total", "Subscriptions ended because their reader was too slow."),
		overruns:  counter("overruns_total", "Times the ring was full because the dispatcher fell behind."),
	}
	if reg != nil {
		reg.MustRegister(m.subscribers, m.published, m.delivered, m.lagged, m.overruns)
	}
	return m
}
