package raftnode

import (
	"errors"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics of one node. Gauges are read from the node when they are scraped.
type metrics struct {
	logSync     prometheus.Histogram
	perEntry    prometheus.Histogram
	entries     prometheus.Counter
	forwarded   prometheus.Counter
	rounds      prometheus.Counter
	roundReads  prometheus.Histogram
	roundTime   prometheus.Histogram
	snapshots   prometheus.Histogram
	sent        prometheus.Histogram
	installs    prometheus.Histogram
	trimmed     prometheus.Histogram
	transitions prometheus.Counter
}

func newMetrics() *metrics {
	hist := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: "nekoq_raftnode_" + name, Help: help, Buckets: buckets})
	}
	count := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "nekoq_raftnode_" + name, Help: help})
	}
	short := prometheus.ExponentialBuckets(25e-6, 2, 16) // 25 µs to 0.8 s
	long := prometheus.ExponentialBuckets(1e-3, 4, 10)   // 1 ms to 4 min
	sizes := prometheus.ExponentialBuckets(1, 2, 11)     // 1 to 1,024
	return &metrics{
		logSync:     hist("log_sync_seconds", "Time to write and sync entries to the log.", short),
		perEntry:    hist("commands_per_entry", "Commands that shared one log entry.", sizes),
		entries:     count("entries_proposed_total", "Log entries proposed by this node as leader."),
		forwarded:   count("commands_forwarded_total", "Commands sent to the leader."),
		rounds:      count("read_rounds_total", "Rounds in which this leader asked the others whether it still leads."),
		roundReads:  hist("reads_per_round", "Linearizable reads that shared one round.", sizes),
		roundTime:   hist("read_round_seconds", "Time of one round.", short),
		snapshots:   hist("snapshot_seconds", "Time to record a snapshot.", long),
		sent:        hist("snapshot_send_seconds", "Time to send the state to another node.", long),
		installs:    hist("snapshot_install_seconds", "Time to take the state over from another node.", long),
		trimmed:     hist("log_trim_seconds", "Time of one step of shortening the log.", short),
		transitions: count("leadership_changes_total", "Times that this node gained or lost leadership."),
	}
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{
		m.logSync, m.perEntry, m.entries, m.forwarded, m.rounds, m.roundReads, m.roundTime,
		m.snapshots, m.sent, m.installs, m.trimmed, m.transitions,
	}
}

// register adds the metrics to reg; Shutdown removes them again.
func (n *Node) register(reg prometheus.Registerer) error {
	if reg == nil {
		return nil
	}
	gauge := func(name, help string, fn func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "nekoq_raftnode_" + name, Help: help}, fn)
	}
	withRaft := func(fn func(*raft.Raft) float64) func() float64 {
		return func() float64 {
			if r := n.raft.Load(); r != nil {
				return fn(r)
			}
			return 0
		}
	}
	n.collectors = append(n.m.collectors(),
		gauge("term", "Current term.", withRaft(func(r *raft.Raft) float64 { return float64(r.CurrentTerm()) })),
		gauge("state", "0 follower, 1 candidate, 2 leader, 3 stopped.", withRaft(func(r *raft.Raft) float64 { return float64(r.State()) })),
		gauge("commit_index", "Last log index that a majority holds.", withRaft(func(r *raft.Raft) float64 { return float64(r.CommitIndex()) })),
		gauge("first_log_index", "First index of the log; what is before it is in snapshots only.", func() float64 {
			i, _ := n.logs.FirstIndex()
			return float64(i)
		}),
		gauge("last_log_index", "Last index of the log.", func() float64 { return float64(n.logs.last.Load()) }),
		gauge("applied_index", "Last log index that readers see.", func() float64 { i, _ := n.machine.Applied(); return float64(i) }),
		gauge("log_bytes_since_snapshot", "Bytes of log written since the last snapshot.", func() float64 { return float64(n.logs.sinceSnapshot()) }),
		gauge("pending_commands", "Commands that wait for a log entry.", func() float64 { return float64(n.queue.Len()) }),
		gauge("disk_free_bytes", "Free space on the disk of the Raft log.", func() float64 { return float64(n.disk.last.Load()) }),
		gauge("disk_low", "1 while writes are refused because the disk is almost full.", func() float64 {
			if n.disk.low.Load() {
				return 1
			}
			return 0
		}),
		&lagCollector{n: n, desc: prometheus.NewDesc("nekoq_raftnode_peer_lag_entries", "Entries by which a node was behind the leader when it last said so.", []string{"node"}, nil)},
	)
	for _, c := range n.collectors {
		if err := reg.Register(c); err != nil {
			return err
		}
	}
	n.unregister = func() {
		for _, c := range n.collectors {
			reg.Unregister(c)
		}
	}
	return nil
}

// lagCollector tells how far the followers were behind at the last read round or
// progress call, on the leader.
type lagCollector struct {
	n    *Node
	desc *prometheus.Desc
}

func (l *lagCollector) Describe(ch chan<- *prometheus.Desc) { ch <- l.desc }

func (l *lagCollector) Collect(ch chan<- prometheus.Metric) {
	if !l.n.IsLeader() {
		return
	}
	at, _ := l.n.machine.Applied()
	l.n.progress.Range(func(k, v any) bool {
		lag := float64(0)
		if applied := v.(uint64); applied < at {
			lag = float64(at - applied)
		}
		ch <- prometheus.MustNewConstMetric(l.desc, prometheus.GaugeValue, lag, k.(string))
		return true
	})
}

var errNoRaft = errors.New("the node has not been started")
