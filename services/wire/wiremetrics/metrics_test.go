package wiremetrics

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"nekoq/services/errs"
	"nekoq/services/wire"
)

func TestCounts(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := New(reg, "native")
	New(reg, "peer") // another door beside it
	mux := wire.NewMux()
	mux.Unary(1, "echo", func(_ context.Context, req, dst []byte) ([]byte, error) { return append(dst, req...), nil })
	mux.Unary(2, "fail", func(context.Context, []byte, []byte) ([]byte, error) { return nil, errs.New(errs.NotFound, "no") })
	srv := wire.NewServer(mux, wire.ServerOptions{After: m.After})
	m.Connections(srv.Conns)
	a, b := wire.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.ServeConn(b)
	}()
	c, err := wire.NewConn(t.Context(), a, wire.Options{})
	require.NoError(t, err)
	for range 3 {
		_, err = c.Call(t.Context(), 1, []byte("four"))
		require.NoError(t, err)
	}
	_, err = c.Call(t.Context(), 2, nil)
	require.Error(t, err)
	require.Equal(t, 1.0, gather(t, reg, "nekoq_wire_connections", ""))
	require.NoError(t, c.Close())
	<-done
	require.Equal(t, 3.0, gather(t, reg, "nekoq_wire_requests_total", "ok native echo"))
	require.Equal(t, 1.0, gather(t, reg, "nekoq_wire_requests_total", "not_found native fail"))
	require.Equal(t, 12.0, gather(t, reg, "nekoq_wire_received_bytes_total", "native echo"))
	require.Equal(t, 12.0, gather(t, reg, "nekoq_wire_sent_bytes_total", "native echo"))
	require.Equal(t, 0.0, gather(t, reg, "nekoq_wire_sent_bytes_total", "native fail"))
}

// gather gives the value of the metric whose label values, in the order of the
// label names, are labels; "" is the only one.
func gather(t *testing.T, reg *prometheus.Registry, name, labels string) float64 {
	t.Helper()
	families, err := reg.Gather()
	require.NoError(t, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var values []string
			for _, l := range m.GetLabel() {
				values = append(values, l.GetValue())
			}
			if f.GetName() == name && (labels == "" || strings.Join(values, " ") == labels) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	t.Fatalf("no metric %s{%s}", name, labels)
	return 0
}

func TestWithoutRegistry(t *testing.T) {
	m := New(nil, "native")
	m.Connections(func() int { return 0 })
	m.After(wire.Result{Name: "echo", Duration: time.Second})
}

func BenchmarkAfter(b *testing.B) {
	m := New(prometheus.NewRegistry(), "native")
	b.ReportAllocs()
	for b.Loop() {
		m.After(wire.Result{Name: "echo", Duration: time.Millisecond, RequestBytes: 10})
	}
}
