package raftnode

import (
	"time"

	"nekoq/services/errs"
)

// Config tunes the Raft group. All nodes of a cluster should agree on it.
type Config struct {
	LogStore           string        `koanf:"log_store" doc:"where the Raft log lives: wal (append-only segments) or bolt (one bbolt file)"`
	HeartbeatTimeout   time.Duration `koanf:"heartbeat_timeout" doc:"a follower that has not heard of the leader for this long to twice this long starts an election"`
	ElectionTimeout    time.Duration `koanf:"election_timeout" doc:"a candidate without a majority tries again after this long to twice this long; at least heartbeat_timeout"`
	LeaderLease        time.Duration `koanf:"leader_lease_timeout" doc:"a leader without a majority for this long steps down; at most heartbeat_timeout"`
	CommitTimeout      time.Duration `koanf:"commit_timeout" doc:"an idle leader repeats the commit index to followers this often to twice this often, for those that missed what it told them at once"`
	MaxAppendEntries   int           `koanf:"max_append_entries" doc:"log entries in one message to a follower, 1 to 1024"`
	MaxAppendBytes     int64         `koanf:"max_append_bytes" doc:"bytes of log entries in one message to a follower; a single larger entry still goes alone"`
	MaxInflight        int           `koanf:"max_inflight_entries" doc:"log entries that this leader proposes at the same time, 1 to 16; more commands wait and share the next entry"`
	EntryWait          time.Duration `koanf:"entry_wait" doc:"at most this long commands wait to share the next entry while one of several commands is under way and fewer than 64 wait, 0 to 1s; 0 is not at all"`
	MaxPending         int           `koanf:"max_pending_commands" doc:"commands that wait for an entry; more are refused with too_many_requests"`
	MaxPendingBytes    int64         `koanf:"max_pending_bytes" doc:"bytes of commands that wait for an entry; more are refused with too_many_requests"`
	LeaderPatience     time.Duration `koanf:"leader_patience" doc:"how long a request without an earlier deadline waits for a leader before no_leader"`
	CacheBytes         int64         `koanf:"log_cache_bytes" doc:"recent log entries kept in memory for followers, in bytes"`
	SegmentBytes       int64         `koanf:"wal_segment_bytes" doc:"size of one segment file of the wal, allocated in advance"`
	SnapshotLogBytes   int64         `koanf:"snapshot_log_bytes" doc:"bytes of log after which a snapshot is recorded and the log is shortened"`
	TrailingLogBytes   int64         `koanf:"trailing_log_bytes" doc:"bytes of log kept behind a snapshot, so that a follower that was away catches up without a full copy"`
	DiskReserveBytes   int64         `koanf:"disk_reserve_bytes" doc:"writes are refused with storage_full while the data folder's disk has less free space than this; 0 is no check"`
	DiskCheckInterval  time.Duration `koanf:"disk_check_interval" doc:"how often the free space is looked at"`
	TransportTimeout   time.Duration `koanf:"transport_timeout" doc:"limit for one Raft message between nodes; a snapshot gets this much per 256 KiB"`
	ShutdownTransfer   bool          `koanf:"transfer_on_shutdown" doc:"a leader that stops hands leadership to another voter first"`
	ReadConfirmTimeout time.Duration `koanf:"read_confirm_timeout" doc:"limit for one round in which the leader asks the others whether it still leads"`
}

// The log stores.
const (
	LogStoreWAL  = "wal"
	LogStoreBolt = "bolt"
)

// DefaultConfig is the configuration for nodes in one data centre. With pre-vote
// both followers of a dead leader must have missed it (up to twice
// heartbeat_timeout), and when the first to ask has the shorter log the other asks
// up to twice election_timeout later: together under 2 s.
func DefaultConfig() Config {
	return Config{
		LogStore:           LogStoreWAL,
		HeartbeatTimeout:   450 * time.Millisecond,
		ElectionTimeout:    450 * time.Millisecond,
		LeaderLease:        400 * time.Millisecond,
		CommitTimeout:      20 * time.Millisecond,
		MaxAppendEntries:   128,
		MaxAppendBytes:     4 << 20,
		MaxInflight:        4,
		EntryWait:          3 * time.Millisecond,
		MaxPending:         16384,
		MaxPendingBytes:    64 << 20,
		LeaderPatience:     10 * time.Second,
		CacheBytes:         16 << 20,
		SegmentBytes:       32 << 20,
		SnapshotLogBytes:   32 << 20,
		TrailingLogBytes:   64 << 20,
		DiskReserveBytes:   128 << 20,
		DiskCheckInterval:  250 * time.Millisecond,
		TransportTimeout:   10 * time.Second,
		ShutdownTransfer:   true,
		ReadConfirmTimeout: time.Second,
	}
}

// maxTime is the longest of the timeouts: Raft adds some of them up and doubles
// them, which must not overflow.
const maxTime = 24 * time.Hour

// Validate reports every field that is out of bounds.
func (c Config) Validate() []error {
	var bad errs.Limits
	bad.Want(c.LogStore == LogStoreWAL || c.LogStore == LogStoreBolt, "log_store", c.LogStore, "wal or bolt")
	bad.Time("heartbeat_timeout", c.HeartbeatTimeout, 20*time.Millisecond, maxTime)
	bad.Time("election_timeout", c.ElectionTimeout, 20*time.Millisecond, maxTime)
	bad.Time("leader_lease_timeout", c.LeaderLease, 10*time.Millisecond, maxTime)
	bad.Want(c.ElectionTimeout >= c.HeartbeatTimeout, "election_timeout", c.ElectionTimeout, "at least heartbeat_timeout = "+c.HeartbeatTimeout.String())
	bad.Want(c.LeaderLease <= c.HeartbeatTimeout, "leader_lease_timeout", c.LeaderLease, "at most heartbeat_timeout = "+c.HeartbeatTimeout.String())
	bad.Time("commit_timeout", c.CommitTimeout, time.Millisecond, maxTime)
	bad.Time("leader_patience", c.LeaderPatience, 10*time.Millisecond, maxTime)
	bad.Time("transport_timeout", c.TransportTimeout, 100*time.Millisecond, maxTime)
	bad.Time("disk_check_interval", c.DiskCheckInterval, 10*time.Millisecond, maxTime)
	bad.Time("read_confirm_timeout", c.ReadConfirmTimeout, 10*time.Millisecond, maxTime)
	bad.Number("max_append_entries", int64(c.MaxAppendEntries), 1, 1024, "")
	bad.Number("max_append_bytes", c.MaxAppendBytes, 64<<10, 256<<20, "")
	bad.Number("max_inflight_entries", int64(c.MaxInflight), 1, 16, "")
	bad.Time("entry_wait", c.EntryWait, 0, time.Second)
	bad.Number("max_pending_commands", int64(c.MaxPending), 1, 1<<24, "")
	bad.Number("max_pending_bytes", c.MaxPendingBytes, 1<<20, 1<<40, "")
	bad.Number("log_cache_bytes", c.CacheBytes, 0, 1<<40, "")
	bad.Number("wal_segment_bytes", c.SegmentBytes, 64<<10, 1<<30, "")
	bad.Number("snapshot_log_bytes", c.SnapshotLogBytes, 64<<10, 1<<40, "")
	bad.Number("trailing_log_bytes", c.TrailingLogBytes, 0, 1<<40, "")
	bad.Number("disk_reserve_bytes", c.DiskReserveBytes, 0, 1<<50, "")
	return bad
}
