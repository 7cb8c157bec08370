// Package table is warehouse's part of the replicated state: the layout of the
// tables, the records in them, the appliers that change them, and the reads over
// any state.Reader. Only package warehouse and its doors import it.
//
// # Layout
//
//	kv    key                       -> latest record
//	log   revision, sub             -> kind of change, key, the record it superseded
//	hist  escaped key, mod revision -> where the record was superseded: revision, sub
//	meta  "m"                       -> revision, compact revision, counts
//
// A latest value is one lookup and a range scan runs in key order. A change moves the
// record that it supersedes from kv to its own row of log, so a record stands once, and
// what is superseded lies in the order of time: rewriting many keys fills pages of log
// one after the other, and what lies by key is small. A read at revision r takes the
// latest record when its mod revision is at most r. Else the last hist row of the key at
// or before r leads to the change that superseded the record: one after r holds it, and
// one at or before r deleted the key. The log row of a delete holds a tombstone too: who
// and when. A watch from a revision walks log, and compaction walks it too: when the
// change at n goes, so do the record that it superseded and the hist row of that.
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
