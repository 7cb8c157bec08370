// Package api is what warehouse's native door and the Go SDK say to each other:
// the numbers of the methods, the requests and answers, and their bytes.
//
// The bytes are hand-coded varints, since encoding is on the hot path of both
// sides. Every message is one byte of flags and then fields in a fixed order.
// Fields are only ever appended, and a reader ignores what follows the fields it
// knows. Decoded byte slices alias the message unless the doc says otherwise.
// The package has no state. The server, its doors and the SDK import it.
package api

import (
	"strconv"
	"time"

	"nekoq/services/errs"
	"nekoq/services/wire"
)

// Methods of the native door.
const (
	MethodPut     wire.Method = 0x0200
	MethodGet     wire.Method = 0x0201
	MethodDelete  wire.Method = 0x0202
	MethodList    wire.Method = 0x0203
	MethodWatch   wire.Method = 0x0204 // stream of WatchBatch
	MethodHistory wire.Method = 0x0205
	MethodCompact wire.Method = 0x0206
	MethodStatus  wire.Method = 0x0207

	MethodRange       wire.Method = 0x0208
	MethodTxn         wire.Method = 0x0209
	MethodLeaseGrant  wire.Method = 0x020a
	MethodLeaseKeep   wire.Method = 0x020b
	MethodLeaseRevoke wire.Method = 0x020c
	MethodLeaseGet    wire.Method = 0x020d
	MethodClaim       wire.Method = 0x020e
	MethodRelease     wire.Method = 0x020f
	MethodLook        wire.Method = 0x0210
	MethodObserve     wire.Method = 0x0211 // stream of Claim
	MethodUpkeep      wire.Method = 0x0212 // JSON
	MethodFolder      wire.Method = 0x0213 // stream of WatchBatch
)

// Condition demands a mod revision: 0 means that the key must not exist. The zero
// Condition demands nothing.
type Condition struct {
	Set      bool
	Revision uint64
	// Exists demands that the key exists, at any revision. It goes without Set, and has
	// no place in the bytes of a request: clients have transactions for it.
	Exists bool
}

// If demands the mod revision rev.
func If(rev uint64) Condition { return Condition{Set: true, Revision: rev} }

// KV is a key at one revision.
type KV struct {
	Key            []byte
	Value          []byte
	CreateRevision uint64
	ModRevision    uint64
	Version        uint64 // puts since the creation, from 1
	Lease          uint64 // 0 for none
	StoreRevision  uint64 // store revision of the last write: a fencing token
	Created        int64  // Unix nanoseconds of the leader's clock
	Modified       int64
	Actor          string // "door:principal" of the last write
	Deleted        bool   // a tombstone of the history
}

// Header is common to all answers to reads.
type Header struct {
	Revision      uint64 // key revision that the answer shows
	StoreRevision uint64
	Stale         bool // answered without asking the leader; then the lag follows
	LagEntries    uint64
	LagAge        time.Duration
	LagKnown      bool
}

// PutRequest writes a key.
type PutRequest struct {
	Key   []byte
	Value []byte
	If    Condition
	TTL   time.Duration // 0 for none; the key is deleted when it has passed
	Lease uint64        // hang the key on this lease; not with TTL
}

// DeleteRequest deletes a key; a missing key is no error unless If says so.
type DeleteRequest struct {
	Key []byte
	If  Condition
}

// WriteResult answers a put or delete.
type WriteResult struct {
	Revision       uint64 // key revision: that of this write, or the present one if nothing was deleted
	CreateRevision uint64 // put only
	Version        uint64 // put only
	Lease          uint64 // put only
	PrevRevision   uint64 // mod revision that was replaced or deleted; 0 for none
	StoreRevision  uint64
}

// GetRequest reads a key, at Revision if that is not 0.
type GetRequest struct {
	Key      []byte
	Revision uint64
	Stale    bool
}

// GetResult answers it. KV is set when Found.
type GetResult struct {
	Header
	Found bool
	KV    KV
}

// ListRequest lists the keys from Start up to but not including End, in order. An
// empty End is no bound.
type ListRequest struct {
	Start, End []byte
	Limit      int    // most keys of the page; 0 for the server's default
	PageToken  string // from the page before, which also fixes the revision
	Revision   uint64 // 0 for the newest
	Stale      bool
	KeysOnly   bool
	Count      bool // also count the whole range
}

// ListResult is one page. All pages of a list show the revision of the first.
type ListResult struct {
	Header
	Items         []KV
	NextPageToken string // "" on the last page
	Counted       bool
	Count         uint64
}

// HistoryRequest asks for the versions of a key, newest first.
type HistoryRequest struct {
	Key    []byte
	Before uint64 // only versions older than this revision; 0 for all
	Limit  int    // 0 for the server's default
	Stale  bool
}

// HistoryResult answers it; deletions are KVs with Deleted set. What compaction took
// away is missing at the end.
type HistoryResult struct {
	Header
	CompactRevision uint64
	Items           []KV
	More            bool
}

// WatchRequest asks for the changes of the keys from Start up to but not including
// End; an empty End is no bound, and Exact means the key Start alone.
type WatchRequest struct {
	Start, End []byte
	Exact      bool
	// After: the changes after this revision, then those to come. Now leaves
	// the past out and begins with the revision at which the watch starts.
	After uint64
	Now   bool
	Prev  bool // with each change, the version before it (where compaction left it)
	// From: the changes from this revision on, which may lie ahead of the store:
	// then what comes before is left out. It excludes After and Now.
	From uint64
	// NoPut and NoDelete leave events of one kind out.
	NoPut, NoDelete bool
}

// EventKind says what happened to a key.
type EventKind byte

const (
	EventPut    EventKind = 1
	EventDelete EventKind = 2
)

// Event is one change. Within a revision Sub counts from 0.
type Event struct {
	Kind EventKind
	Sub  uint32
	// KV is the new version; for a delete it has key, revision, time and actor.
	KV           KV
	PrevRevision uint64 // mod revision before the change, 0 for none or unknown
	Prev         *KV
}

// WatchBatch is a step of a watch. It holds whole revisions, in order, and may be
// empty: then it says that nothing happened up to Revision, from where a new watch
// can go on.
type WatchBatch struct {
	Revision uint64
	Events   []Event
}

// Status is the state of the store.
type Status struct {
	Header
	CompactRevision uint64
	Keys            uint64
	Bytes           uint64 // of keys and latest values
}

// PrefixEnd gives the end of the range of keys that begin with prefix: nil, no
// bound, when there is none.
func PrefixEnd(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] < 0xff {
			end := append([]byte(nil), prefix[:i+1]...)
			end[i]++
			return end
		}
	}
	return nil
}

// CompactRevision takes the compact revision out of a compacted error.
func CompactRevision(err error) (uint64, bool) {
	if !errs.Has(err, errs.Compacted) {
		return 0, false
	}
	for _, d := range errs.From(err).Details {
		if d.Field == "revision" {
			n, perr := strconv.ParseUint(d.Limit, 10, 64)
			return n, perr == nil
		}
	}
	return 0, false
}

// CompactRequest gives up the history before Revision. The answer has the same
// form.
type CompactRequest struct{ Revision uint64 }

// StatusRequest asks for Status.
type StatusRequest struct{ Stale bool }
