package numgen

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"nekoq/numgen/idgen"
	"nekoq/services/errs"
)

type metrics struct {
	ids      [idgen.Format + 1]prometheus.Counter
	refills  prometheus.Counter
	numbers  prometheus.Counter
	lost     prometheus.Counter
	backward prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, s *Service) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "nekoq_numgen_" + name, Help: help})
	}
	ids := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "nekoq_numgen_ids_total", Help: "Ids given out by this node."}, []string{"kind"})
	m := &metrics{
		refills:  counter("segment_leases_total", "Segments leased by this node."),
		numbers:  counter("segment_leased_numbers_total", "Numbers in the segments leased by this node."),
		lost:     counter("worker_leases_lost_total", "Worker leases that were superseded while this node held them."),
		backward: counter("clock_moved_back_total", "Requests refused because the clock stands too far behind the last id."),
	}
	for k := idgen.ID128; k <= idgen.Format; k++ {
		m.ids[k] = ids.WithLabelValues(k.String())
	}
	if reg == nil {
		return m, nil
	}
	gauge := func(name, help string, fn func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "nekoq_numgen_" + name, Help: help}, fn)
	}
	for _, c := range []prometheus.Collector{
		ids, m.refills, m.numbers, m.lost, m.backward,
		gauge("worker_numbers_held", "Worker numbers that this node holds.", func() float64 { n, _, _ := s.workerState(); return n }),
		gauge("worker_high_water_seconds", "How far the nearest durable high-water time of a worker lies ahead of the clock.", func() float64 { _, high, _ := s.workerState(); return high }),
		gauge("clock_behind_seconds", "How far the clock stands behind the latest time in an id; above 0 after a step back, a crash or high demand.", func() float64 { _, _, b := s.workerState(); return b }),
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// workerState sums up the pools, in seconds where it is a time.
func (s *Service) workerState() (held, high, behind float64) {
	now := s.clock.Now()
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, w := range s.pools {
		g, ok := w.Grant()
		if !ok {
			continue
		}
		ahead := time.UnixMilli(g.High).Sub(now).Seconds()
		if held == 0 || ahead < high {
			high = ahead
		}
		held += float64(len(g.Numbers))
		behind = max(behind, w.Last().Sub(now).Seconds())
	}
	return held, high, behind
}

func (m *metrics) issued(k idgen.Kind, n int) { m.ids[k].Add(float64(n)) }

func (m *metrics) refill(n uint64) {
	m.refills.Inc()
	m.numbers.Add(float64(n))
}

func (m *metrics) failed(err error) {
	if errs.Has(err, errs.ClockMovedBack) {
		m.backward.Inc()
	}
}
