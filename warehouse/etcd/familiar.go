package etcd

import (
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// familiar is what /metrics of this port shows: NekoQ's metrics and, under the names
// that etcd's dashboards and alerts ask for, those that have the same meaning here.
// What would only look alike is left out.
type familiar struct{ s *Door }

// renamed are NekoQ's metrics that are etcd's under another name.
var renamed = map[string]struct{ name, help string }{
	"nekoq_raftnode_log_sync_seconds":  {"etcd_disk_wal_fsync_duration_seconds", "Time to write and sync entries to the log."},
	"nekoq_state_commit_seconds":       {"etcd_disk_backend_commit_duration_seconds", "Time to write and sync one commit to the state file."},
	"nekoq_raftnode_commit_index":      {"etcd_server_proposals_committed_total", "Last log index that a majority holds."},
	"nekoq_raftnode_applied_index":     {"etcd_server_proposals_applied_total", "Last log index that was applied."},
	"nekoq_raftnode_pending_commands":  {"etcd_server_proposals_pending", "Commands that wait for a log entry."},
	"nekoq_warehouse_revision":         {"etcd_debugging_mvcc_current_revision", "Key revision that this node has applied."},
	"nekoq_warehouse_compact_revision": {"etcd_debugging_mvcc_compact_revision", "Revision below which the history is gone."},
	"nekoq_warehouse_keys":             {"etcd_debugging_mvcc_keys_total", "Keys in the store."},
	"nekoq_etcd_watches":               {"etcd_debugging_mvcc_watcher_total", "Watches open at this door."},
}

// Gather is prometheus.Gatherer.
func (f familiar) Gather() ([]*dto.MetricFamily, error) {
	all, err := f.s.deps.Gatherer.Gather()
	for _, m := range all[:len(all):len(all)] {
		if to, ok := renamed[m.GetName()]; ok {
			all = append(all, &dto.MetricFamily{Name: &to.name, Help: &to.help, Type: m.Type, Metric: m.Metric})
		}
	}
	all = append(all, f.s.ownFamilies()...)
	slices.SortFunc(all, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
	return all, err
}

func family(name, help string, kind dto.MetricType, values ...*dto.Metric) *dto.MetricFamily {
	return &dto.MetricFamily{Name: &name, Help: &help, Type: kind.Enum(), Metric: values}
}

func gauge(v float64, labels ...string) *dto.Metric {
	return &dto.Metric{Label: pairs(labels), Gauge: &dto.Gauge{Value: &v}}
}

func counter(v uint64, labels ...string) *dto.Metric {
	return &dto.Metric{Label: pairs(labels), Counter: &dto.Counter{Value: proto.Float64(float64(v))}}
}

// pairs takes names and values in turn, names in order.
func pairs(labels []string) (out []*dto.LabelPair) {
	for i := 0; i+1 < len(labels); i += 2 {
		out = append(out, &dto.LabelPair{Name: &labels[i], Value: &labels[i+1]})
	}
	return out
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// ownFamilies are the metrics of etcd that this door knows itself.
func (s *Door) ownFamilies() []*dto.MetricFamily {
	leader, term := s.deps.Replica.Leader()
	s.metrics.terms.look(leader, term)
	sizes := s.store.Sizes()
	g, c := dto.MetricType_GAUGE, dto.MetricType_COUNTER
	out := []*dto.MetricFamily{
		family("etcd_server_has_leader", "1 when this node knows a leader.", g, gauge(truth(leader != ""))),
		family("etcd_server_is_leader", "1 when this node leads.", g, gauge(truth(s.deps.Replica.IsLeader()))),
		family("etcd_server_leader_changes_seen_total", "Terms in which this node saw a leader, looked at once a second.", c, counter(s.metrics.terms.seen.Load())),
		family("etcd_server_is_learner", "1 while this node has no vote yet.", g, gauge(truth(s.learner()))),
		family("etcd_server_version", "The version that this door gives itself.", g, gauge(1, "server_version", ServerVersion)),
		family("etcd_cluster_version", "The cluster version that this door gives itself.", g, gauge(1, "cluster_version", ClusterVersion)),
		family("etcd_server_health_success", "Probes of this door that were well.", c, counter(s.metrics.healthy.Load())),
		family("etcd_server_health_failures", "Probes of this door that were not.", c, counter(s.metrics.unhealthy.Load())),
		family("etcd_mvcc_db_total_size_in_bytes", "Bytes of the state file, which holds all services.", g, gauge(float64(sizes.File))),
		family("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of the state file that are in use.", g, gauge(float64(sizes.InUse))),
		family("etcd_server_quota_backend_bytes", "Limit of the store.", g, gauge(float64(sizes.Limit))),
	}
	if h := s.metrics.handledFamily(); len(h.Metric) > 0 { // a family without any cannot be written
		out = append(out, h)
	}
	return out
}

// handledFamily is the counter that gRPC's own middleware keeps for etcd.
func (m *metrics) handledFamily() *dto.MetricFamily {
	var out []*dto.Metric
	m.handled.Range(func(k, v any) bool {
		service, method, _ := strings.Cut(strings.TrimPrefix(k.(string), "/"), "/")
		h, kind := v.(*handled), "unary"
		if h.stream {
			kind = "bidi_stream"
			if serverStreams[method] {
				kind = "server_stream"
			}
		}
		for code := range h.codes {
			if n := h.codes[code].Load(); n > 0 {
				out = append(out, counter(n, "grpc_code", codes.Code(code).String(), "grpc_method", method, "grpc_service", service, "grpc_type", kind))
			}
		}
		return true
	})
	return family("grpc_server_handled_total", "Requests that ended, by method and code; what clients of the JSON gateway ask is among them.", dto.MetricType_COUNTER, out...)
}

// serverStreams are the methods in which only the server streams.
var serverStreams = map[string]bool{"Snapshot": true, "Observe": true, "RangeStream": true}

// watchLeader counts leaders while nobody looks at the metrics.
func (s *Door) watchLeader() {
	tick := s.clock.NewTicker(time.Second)
	defer tick.Stop()
	for {
		s.metrics.terms.look(s.deps.Replica.Leader())
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C():
		}
	}
}

var _ prometheus.Gatherer = familiar{}
