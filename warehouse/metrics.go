package warehouse

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"nekoq/services/replica"
	"nekoq/warehouse/internal/table"
)

type metrics struct {
	puts, deletes, gets, lists, txns     prometheus.Counter
	refused                              prometheus.Counter
	watches, events, caughtUp, compacted prometheus.Counter
	swept                                prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, s *Service) *metrics {
	ops := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "nekoq_warehouse_operations_total", Help: "Requests to warehouse on this node, by operation.",
	}, []string{"op"})
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "nekoq_warehouse_" + name, Help: help})
	}
	m := &metrics{
		puts: ops.WithLabelValues("put"), deletes: ops.WithLabelValues("delete"),
		txns: ops.WithLabelValues("txn"),
		gets: ops.WithLabelValues("get"), lists: ops.WithLabelValues("list"), watches: ops.WithLabelValues("watch"),
		refused:   counter("writes_refused_total", "Writes that failed or were refused after they were proposed."),
		events:    counter("watch_events_total", "Events handed to watchers."),
		caughtUp:  counter("watch_catchups_total", "Times that a watcher was caught up from the history."),
		compacted: counter("watch_compacted_total", "Watches ended because compaction overtook them."),
		swept:     counter("compaction_rows_total", "History rows that this node's compaction loop removed as leader."),
	}
	if reg == nil {
		return m
	}
	reg.MustRegister(ops, m.refused, m.events, m.caughtUp, m.compacted, m.swept,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "nekoq_warehouse_watchers", Help: "Watches open on this node."},
			func() float64 { return float64(s.watchers.Load()) }))
	for _, g := range []struct {
		name, help string
		of         func(m table.Meta) uint64
	}{
		{"revision", "Key revision that this node has applied.", func(m table.Meta) uint64 { return m.Revision }},
		{"compact_revision", "Revision below which the history is gone.", func(m table.Meta) uint64 { return m.Compact }},
		{"keys", "Keys in the store.", func(m table.Meta) uint64 { return m.Keys }},
		{"bytes", "Bytes of keys and latest values.", func(m table.Meta) uint64 { return m.Bytes }},
		{"used_bytes", "Bytes of keys, values and history, which count toward the limit of the store.", func(m table.Meta) uint64 { return m.Used() }},
		{"limit_bytes", "Limit of the whole store in bytes.", func(m table.Meta) uint64 { return m.StoreLimit() }},
	} {
		reg.MustRegister(prometheus.NewGaugeFunc(
			prometheus.GaugeOpts{Name: "nekoq_warehouse_" + g.name, Help: g.help},
			func() float64 { return float64(g.of(s.localMeta())) }))
	}
	return m
}

func (s *Service) localMeta() table.Meta {
	v, _, err := s.replica.View(context.Background(), replica.Stale)
	if err != nil {
		return table.Meta{}
	}
	defer v.Release()
	m, _ := table.ReadMeta(v)
	return m
}
