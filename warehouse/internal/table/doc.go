// Package table is warehouse's part of the replicated state: the layout of the
// tables, the records in them, the appliers that change them, and the reads over
// any state.Reader. Only package warehouse and its doors import it.
//
// # Layout
//
//	kv    key                       -> latest record, with its trail
//	log   revision, sub             -> kind of change, key, the record it superseded
//	hist  escaped key, mod revision -> mark: where the record was superseded, its trail
//	meta  "m"                       -> revision, compact revision, counts
//
// A latest value is one lookup and a range scan runs in key order. A change moves the
// record that it supersedes from kv to its own row of log, so a record stands once, and
// what is superseded lies in the order of time: rewriting many keys fills pages of log
// one after the other.
//
// The trail of a record lists the last changes of its key, a few bytes each: where it
// superseded the record before, and that one the one before it, back to the last
// version that is a multiple of eight. That one has a mark in hist, with its own trail,
// and so has the last record of a deleted key. So an eighth of the puts write a row of
// hist, one read of log leads from the newest record to any of the eight before it, and
// a lookup in hist to the eight about any other.
//
// A read at revision r takes the latest record when its mod revision is at most r. Else
// the trail of it, or of the first mark after r, leads to the change that superseded
// the record that it wants; where it does not, the key was created after r, and the
// last mark at or before r tells whether it lived at r before, and its end. The log
// row of a delete holds a tombstone too: who and when. A watch from a revision walks
// log, and compaction walks it too: when the change at n goes, so do the record that it
// superseded and the mark of that. Links to what a compaction has taken stay behind in
// trails; no read of a revision that is left follows them.
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
