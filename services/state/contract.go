// Package state is the replicated state machine over one bbolt file: tables,
// appliers, read views, snapshot, restore and hash. It knows nothing of Raft.
//
// One goroutine applies; any number read. A batch is applied to an in-memory
// overlay and published as one consistent generation; overlays are committed to
// the file in the background, each in one synced transaction that carries the
// applied index. See docs/architecture.md.
package state

import (
	"context"
	"io"

	"nekoq/services/command"
	"nekoq/services/watch"
)

// TableID numbers a table (a bbolt bucket). Only ever appended:
// 1-15 state, 16-31 peer and lease, 0x40- numgen, 0x80- warehouse, 0xc0- naming,
// 0x100- scheduling, 0x140- mq.
type TableID uint16

// Applier carries out one kind of command. It is pure: it reads only tx and
// cmd. It checks first and writes last: when it returns an *errs.Error it must
// have written nothing. Any other error stops the node. The returned bytes are
// the command's result and are kept for retries, so they are small.
type Applier func(tx *Tx, cmd *command.Command) ([]byte, error)

// Registry holds the tables and appliers of all services. Every node registers
// all of them, whatever services it serves. Duplicates panic.
type Registry struct{}

func NewRegistry() *Registry { panic("being built") }

// Table declares a table and returns its id, for package-level variables.
func (r *Registry) Table(id TableID, name string) { panic("being built") }

// Handle declares the applier of kind. since is the cluster version from which
// the kind may be proposed (1 at first).
func (r *Registry) Handle(kind command.Kind, name string, since uint32, a Applier) {
	panic("being built")
}

// Reader is what a Tx and a View have in common. Returned slices belong to the
// state: never modify them; from a Tx they are valid until the applier returns,
// from a View until its Release.
type Reader interface {
	Get(t TableID, key []byte) (value []byte, ok bool)
	// Scan calls fn for start <= key < end in key order until it returns false.
	// end nil means to the end of the table.
	Scan(t TableID, start, end []byte, fn func(key, value []byte) bool)
	// ScanReverse is Scan from the greatest key down.
	ScanReverse(t TableID, start, end []byte, fn func(key, value []byte) bool)
	// Revision is the store revision that the reader sees. In a Tx it is that
	// of the last finished command; Next() is this command's.
	Revision() uint64
	// Time is the replicated clock in Unix nanoseconds.
	Time() int64
	// ClusterVersion is the replicated cluster version.
	ClusterVersion() uint32
}

// Tx is one command's transaction over the newest state.
type Tx struct{}

func (tx *Tx) Get(t TableID, key []byte) ([]byte, bool)                     { panic("being built") }
func (tx *Tx) Scan(t TableID, start, end []byte, fn func(k, v []byte) bool) { panic("being built") }
func (tx *Tx) ScanReverse(t TableID, start, end []byte, fn func(k, v []byte) bool) {
	panic("being built")
}
func (tx *Tx) Revision() uint64       { panic("being built") }
func (tx *Tx) Time() int64            { panic("being built") }
func (tx *Tx) ClusterVersion() uint32 { panic("being built") }

// Next is the store revision that this command has if it changes something.
func (tx *Tx) Next() uint64 { panic("being built") }

// Put writes a row. Key and value are kept: the caller must not change them
// afterwards (cmd.Payload may be sliced: it is immutable).
func (tx *Tx) Put(t TableID, key, value []byte) { panic("being built") }

// Delete removes a row; a missing row is no change.
func (tx *Tx) Delete(t TableID, key []byte) { panic("being built") }

// Emit publishes an event with this command's revision once the batch is visible.
func (tx *Tx) Emit(topic watch.Topic, key []byte, data any) { panic("being built") }

// View is an immutable, consistent read view. It is cheap (no copy), safe for
// concurrent use, and must be released.
type View struct{}

func (v *View) Get(t TableID, key []byte) ([]byte, bool)                     { panic("being built") }
func (v *View) Scan(t TableID, start, end []byte, fn func(k, v []byte) bool) { panic("being built") }
func (v *View) ScanReverse(t TableID, start, end []byte, fn func(k, v []byte) bool) {
	panic("being built")
}
func (v *View) Revision() uint64       { panic("being built") }
func (v *View) Time() int64            { panic("being built") }
func (v *View) ClusterVersion() uint32 { panic("being built") }

// Index is the applied log index that the view includes.
func (v *View) Index() uint64 { panic("being built") }
func (v *View) Release()      { panic("being built") }

// Result is the outcome of one command of a batch.
type Result struct {
	Revision uint64 // store revision after the command
	Changed  bool
	Data     []byte
	Err      error // an *errs.Error: the command was refused and wrote nothing
}

// Hash identifies the state at an index.
type Hash struct {
	Index, Revision uint64
	// Chain is a running hash over every change ever applied: equal on all
	// nodes at equal index, free to read.
	Chain uint64
	// Content is a hash over all rows of all tables; zero where not computed.
	Content uint64
}

// Mode says what a batch's durability is.
type Mode int

const (
	// Logged: a log outside makes commands durable; the file follows in the
	// background with fully synced commits. Used by raftnode.
	Logged Mode = iota
	// Synced: ApplyEntry returns, and readers see the batch, after its own
	// synced commit. LocalSwitch with a data folder.
	Synced
	// Volatile: nothing is synced. LocalSwitch with a temporary folder.
	Volatile
)

// Options of a Machine; see docs of each in state.Config.
type Options struct {
	Path     string // the bbolt file
	Registry *Registry
	Events   watch.Publisher
	Mode     Mode
	// more: flush bytes and interval, lag limit, mmap size, logger, metrics
}

// Machine is the state machine.
type Machine struct{}

func Open(opts Options) (*Machine, error) { panic("being built") }

// ApplyEntry applies the batch in entry (command.AppendBatch) at index. An entry
// at or below the applied index is skipped. Results are in command order. An
// error halts the machine. Called by one goroutine.
func (m *Machine) ApplyEntry(index, term uint64, entry []byte) ([]Result, error) {
	panic("being built")
}

// View gives the newest published state.
func (m *Machine) View() *View { panic("being built") }

// Applied is the index and term of the last entry that readers can see.
func (m *Machine) Applied() (index, term uint64) { panic("being built") }

// WaitApplied returns when Applied has reached index.
func (m *Machine) WaitApplied(ctx context.Context, index uint64) error { panic("being built") }

// Durable is the applied index that the file holds.
func (m *Machine) Durable() uint64 { panic("being built") }

// Advance moves the applied index over entries that carry no batch (no-ops,
// configuration changes), and SetConfiguration keeps the Raft configuration that
// snapshots carry; both become durable with the next commit.
func (m *Machine) Advance(index, term uint64)                    { panic("being built") }
func (m *Machine) SetConfiguration(index uint64, encoded []byte) { panic("being built") }
func (m *Machine) Configuration() (index uint64, encoded []byte) { panic("being built") }

// Flush commits and syncs everything applied so far.
func (m *Machine) Flush(ctx context.Context) error { panic("being built") }

// Snapshot opens its read transaction first and takes the index from it.
func (m *Machine) Snapshot() (*Snapshot, error) { panic("being built") }

// Snapshot is the file's state at one index, streamed from a bbolt read transaction.
type Snapshot struct{}

func (s *Snapshot) Index() uint64                      { panic("being built") }
func (s *Snapshot) Term() uint64                       { panic("being built") }
func (s *Snapshot) Size() int64                        { panic("being built") }
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) { panic("being built") }
func (s *Snapshot) Close() error                       { panic("being built") }

// Restore replaces the state by a stream that Snapshot.WriteTo made: new file,
// sync, rename, sync folder, swap, rebuild what is derived, reset the watchers.
func (m *Machine) Restore(r io.Reader) error { panic("being built") }

// Hash gives the chain hash, and with content also the hash over all rows, of
// one consistent generation.
func (m *Machine) Hash(ctx context.Context, content bool) (Hash, error) { panic("being built") }

// Done is closed when the machine has halted; Err says why.
func (m *Machine) Done() <-chan struct{} { panic("being built") }
func (m *Machine) Err() error            { panic("being built") }
func (m *Machine) Close() error          { panic("being built") }
