// Package table is warehouse's part of the replicated state: the layout of the
// tables, the records in them, the appliers that change them, and the reads over
// any state.Reader. Only package warehouse and its doors import it.
//
// # Layout
//
//	kv    key                       -> latest record
//	hist  escaped key, mod revision -> superseded record, or tombstone of a delete
//	log   revision, sub             -> kind of change, key
//	meta  "m"                       -> revision, compact revision, counts
//
// A latest value is one lookup and a range scan runs in key order. An overwrite
// moves the record it replaces from kv to hist, so a key that is written once
// stands once. A read at revision r takes the latest record when its mod revision is
// at most r, else the last hist row of the key at or before r. A watch from a
// revision walks log, and compaction walks it too: a log row at revision n says
// that everything of its key before n was superseded at n.
//
// # Revisions
//
// The key revision counts as etcd's: 1 for the empty store, one more for each write
// transaction that changed a key, and changes within one are numbered by sub from
// 0. Deleting nothing changes nothing. Beside it every record carries the store
// revision of its command, the fencing token that is shared by all services.
//
// # Rules
//
// Appliers run on the one goroutine that applies, and read only the transaction, the
// command and constants. Reads are safe wherever their Reader is.
package table
