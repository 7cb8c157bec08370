package etcd

import (
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"nekoq/services/grpcserver"
)

type metrics struct {
	ranges, puts, deletes, txns, beats, streams, events prometheus.Counter
	watches                                             prometheus.Gauge

	handled   sync.Map // path → *handled
	healthy   atomic.Uint64
	unhealthy atomic.Uint64
	terms     leaderTerms
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

// handled counts the requests of one method that ended, by code.
type handled struct {
	stream bool
	codes  [codes.Unauthenticated + 1]atomic.Uint64
}

func (m *metrics) ended(r grpcserver.Result) {
	if r.Method == "" {
		return // no method of this door
	}
	v, ok := m.handled.Load(r.Method)
	if !ok {
		v, _ = m.handled.LoadOrStore(r.Method, &handled{stream: r.Stream})
	}
	if int(r.Code) < len(v.(*handled).codes) {
		v.(*handled).codes[r.Code].Add(1)
	}
}

func (m *metrics) health(ok bool) {
	if ok {
		m.healthy.Add(1)
	} else {
		m.unhealthy.Add(1)
	}
}

// leaderTerms counts the terms in which this node saw a leader.
type leaderTerms struct {
	last, seen atomic.Uint64
}

func (t *leaderTerms) look(leader string, term uint64) {
	if leader != "" && t.last.Swap(term) != term {
		t.seen.Add(1)
	}
}
