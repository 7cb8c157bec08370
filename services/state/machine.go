// Package state is the replicated state machine over one bbolt file: tables,
// appliers, read views, snapshot, restore and hash. It knows nothing of Raft.
//
// One goroutine applies; any number read. A batch is applied to an in-memory
// overlay and published as one consistent generation; overlays are committed to
// the file in the background, each in one synced transaction that carries the
// applied index. See docs/architecture.md.
//
// Locks, in the order in which they are taken: commitMu (who may write the
// file), mu (the apply state), pub (the parts of the newest generation), wait.
// Views take none. Only floors above 1 import it; only it imports bbolt.
package state

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"nekoq/services/errs"
	"nekoq/services/watch"
)

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

// Options of a Machine.
type Options struct {
	Path     string // the bbolt file
	Registry *Registry
	Events   watch.Publisher // nil for none
	Mode     Mode
	Config   Config
	Logger   *slog.Logger          // nil for none
	Metrics  prometheus.Registerer // nil for none
	// OnStorage is told when commits to the file begin to fail (an *errs.Error,
	// storage_full) and when they work again (nil). It must not block.
	OnStorage func(error)
	// Faults are hooks for tests.
	Faults Faults
}

// Faults lets a test fail what the disk would fail. Nil hooks do nothing.
type Faults struct {
	// OpenFile replaces os.OpenFile for the state file.
	OpenFile func(name string, flag int, perm os.FileMode) (*os.File, error)
	// BeforeCommit may fail a commit before anything is written, AfterWrite
	// after every row was put and before bbolt's own commit.
	BeforeCommit, AfterWrite func() error
	// Restore is called before each step of a restore, by its name.
	Restore func(step string) error
}

// Machine is the state machine.
type Machine struct {
	opts Options
	cfg  Config
	reg  *Registry
	log  *slog.Logger

	commitMu sync.Mutex // held while the file is written or replaced
	defrag   *defragging
	defragMu sync.Mutex // held by the one Defragment, before all others

	mu       sync.Mutex // guards the apply state down to the blank line
	meta     meta
	version  uint32
	active   *overlay
	tx       Tx
	sessions sessionTable
	indexes  []Index
	frozenIx []any
	ring     chainRing
	seq      uint64 // counts changes of the apply state, for Flush
	changed  bool   // rows since the last rotation, so a timed flush is due
	wrote    []bool // by slot: rows that Written has not told of

	news     sync.Mutex // guards what Written tells: mu is held as long as a restore loads
	told     uint64     // counts batches
	written  []uint64   // by slot: the batch that last wrote the table
	revision uint64

	pub      sync.Mutex // guards the parts of the newest generation
	layer    layer
	flushing *batch
	base     *base
	gmeta    meta
	gversion uint32
	gindexes []any
	gen      atomic.Pointer[generation]
	current  atomic.Pointer[[]any] // frozen indexes; only those of Registry.Current are kept up to date

	applied atomic.Pointer[position]
	behind  atomic.Bool // the newest generation is older than applied; set and cleared under mu
	asked   atomic.Bool // somebody has taken a view since the last batch was shown

	wait     sync.Mutex // guards the blocked callers
	waiters  waiterHeap
	durSeq   uint64
	storage  error         // why the file cannot be written; nil when it can
	progress chan struct{} // closed and replaced when durSeq or storage changes

	waiting     atomic.Int64 // len(waiters), to skip the lock
	durable     atomic.Uint64
	activeBytes atomic.Int64
	flushAt     atomic.Int64 // bytes of changes from which the file is written, at most cfg.FlushBytes
	flushBytes  atomic.Int64
	openViews   atomic.Int64
	reading     atomic.Int64 // commits under way, which read all over the file
	pace        pacer        // of commits; their goroutine's own
	spread      spread       // of their rows; likewise
	opened      time.Time
	trimmed     atomic.Int64 // when pages were last given back, in nanoseconds since opened

	dirty, kick chan struct{} // capacity 1
	touched     chan struct{} // capacity 1
	stop        chan struct{}
	stopped     sync.WaitGroup
	done        chan struct{}
	haltOnce    sync.Once
	err         error // valid when done is closed
	closeOnce   sync.Once
	closeErr    error
	metrics     *metrics
}

// position is the last entry that was applied.
type position struct{ index, term uint64 }

// Open opens or makes the state file and starts its committer. Its errors are
// *errs.Error: corrupt and conflict (in use) name the file and the way out.
func Open(opts Options) (*Machine, error) {
	if errsFound := opts.Config.Validate(); len(errsFound) > 0 {
		return nil, errsFound[0]
	}
	m := &Machine{
		opts: opts, cfg: opts.Config.withDefaults(), reg: opts.Registry, log: opts.Logger,
		progress: make(chan struct{}),
		dirty:    make(chan struct{}, 1), kick: make(chan struct{}, 1), touched: make(chan struct{}, 1),
		stop: make(chan struct{}), done: make(chan struct{}), opened: time.Now(),
	}
	m.flushAt.Store(m.startAt()) // grows with what commits cost
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	if opts.Config.MmapBytes == 0 && opts.Mode == Volatile {
		m.cfg.MmapBytes = 4 << 30
	}
	removeLeftovers(opts.Path)
	h, mt, err := openFile(opts.Path, m.reg, &m.cfg, opts.Mode, opts.Faults.OpenFile)
	if err != nil {
		return nil, err
	}
	m.metrics = newMetrics(m)
	if err := m.adopt(h, mt); err != nil {
		h.release()
		return nil, err
	}
	if err := m.metrics.register(opts.Metrics); err != nil {
		m.dropCurrent()
		h.release()
		return nil, err
	}
	trim(h) // what loading has read; a view maps again what it needs
	m.stopped.Go(m.trimLoop)
	if opts.Mode != Synced {
		m.stopped.Go(m.commitLoop)
	}
	return m, nil
}

// adopt makes h the machine's file: an empty overlay over it, sessions and
// indexes rebuilt, one generation published. The caller holds commitMu and mu,
// or is Open. On an error nothing has changed.
func (m *Machine) adopt(h *handle, mt meta) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = corrupt(m.opts.Path, panicError(p))
		}
	}()
	readAhead(h)
	b, err := newBase(h, m.reg)
	if err != nil {
		return corrupt(m.opts.Path, err)
	}
	tables := len(m.reg.tables)
	r := &generation{
		stack: stack{active: make(layer, tables), flushing: make(layer, tables), base: b},
		reg:   m.reg, meta: mt, open: &m.openViews,
	}
	v := &View{}
	v.g.Store(r)
	var sessions sessionTable
	if err := sessions.load(v); err != nil {
		b.release()
		return corrupt(m.opts.Path, err)
	}
	r.version = clusterVersion(v)
	indexes := make([]Index, len(m.reg.indexes))
	frozen := make([]any, len(indexes))
	for i, d := range m.reg.indexes {
		indexes[i] = d.make()
		indexes[i].Rebuild(v)
		frozen[i] = indexes[i].Freeze()
	}

	m.meta, m.version, m.sessions = mt, r.version, sessions
	m.indexes, m.frozenIx = indexes, frozen
	m.active = newOverlay(tables)
	m.tx = Tx{m: m, changed: make([]bool, len(indexes))}
	m.ring.reset(mt.index, mt.chain)
	m.changed = false
	m.durable.Store(mt.index)
	m.activeBytes.Store(0)
	m.flushBytes.Store(0)
	m.seq++
	m.wrote = slices.Repeat([]bool{true}, tables)

	m.pub.Lock()
	old := m.base
	m.base, m.layer, m.flushing = b, m.active.published, nil
	m.publishApplied()
	m.pub.Unlock()
	if old != nil {
		old.release()
	}
	m.moved()
	m.setDurable(m.seq)
	return nil
}

// publishApplied makes a generation of the apply state. The caller holds mu and pub.
func (m *Machine) publishApplied() {
	for i, c := range m.tx.changed {
		if c {
			m.refreeze(i)
		}
	}
	m.showCurrent()
	m.gmeta, m.gversion, m.gindexes = m.meta, m.version, m.frozenIx
	m.publishLocked()
	m.behind.Store(false) // not before: whoever finds nothing behind takes the newest generation
}

// publishLocked makes a generation of the present parts. The caller holds pub.
func (m *Machine) publishLocked() {
	g := &generation{
		stack: stack{active: m.layer, base: m.base},
		reg:   m.reg, meta: m.gmeta, version: m.gversion, indexes: m.gindexes, open: &m.openViews,
	}
	if m.flushing != nil {
		g.flushing = m.flushing.rows
	} else {
		g.flushing = emptyLayer(len(m.reg.tables))
	}
	m.base.refs.Add(1)
	g.refs.Store(1)
	if old := m.gen.Swap(g); old != nil {
		old.release()
	}
}

// dropCurrent lets go of the newest generation and base.
func (m *Machine) dropCurrent() {
	m.pub.Lock()
	defer m.pub.Unlock()
	if g := m.gen.Swap(nil); g != nil {
		g.release()
	}
	if m.base != nil {
		m.base.release()
		m.base = nil
	}
}

// View gives the newest published state, nil once the machine is closed.
func (m *Machine) View() *View {
	if !m.asked.Load() {
		m.asked.Store(true)
	}
	if m.behind.Load() {
		m.mu.Lock()
		m.show()
		m.mu.Unlock()
	}
	g := m.acquire()
	if g == nil {
		return nil
	}
	m.openViews.Add(1)
	m.touch()
	v := &View{}
	v.g.Store(g)
	return v
}

// Current gives the frozen copy of an index (see Registry.Current) as Applied has it. It
// costs nothing, where a View makes the next batch copy what it changes.
func (m *Machine) Current(name string) any { return (*m.current.Load())[m.reg.index(name)] }

// showCurrent makes the frozen indexes those that Current gives. The caller holds mu.
func (m *Machine) showCurrent() {
	frozen := m.frozenIx
	m.current.Store(&frozen)
}

// Written gives a number that is another one whenever rows of the tables or the cluster
// version may have changed since it was asked, and the store revision at which it is so.
// It tells who looks often whether a View is worth it: one that is taken afterwards is
// not older.
func (m *Machine) Written(tables ...TableID) (at, revision uint64) {
	m.news.Lock()
	defer m.news.Unlock()
	at = m.written[m.reg.slot(tableSystem)]
	for _, t := range tables {
		at = max(at, m.written[m.reg.slot(t)])
	}
	return at, m.revision
}

// tellWritten makes Written tell of what views show. The caller holds mu.
func (m *Machine) tellWritten() {
	m.news.Lock()
	defer m.news.Unlock()
	m.told++
	m.revision = m.meta.revision
	if m.written == nil {
		m.written = make([]uint64, len(m.wrote))
	}
	for i, w := range m.wrote {
		if w {
			m.written[i], m.wrote[i] = m.told, false
		}
	}
}

// acquire takes a reference on the newest generation.
func (m *Machine) acquire() *generation {
	for {
		g := m.gen.Load()
		if g == nil || g.acquire() {
			return g
		}
		// It was replaced between the two steps: take the newer one.
	}
}

// Applied is the index and term of the last entry that readers can see.
func (m *Machine) Applied() (index, term uint64) {
	p := m.applied.Load()
	return p.index, p.term
}

// Durable is the applied index that the file holds.
func (m *Machine) Durable() uint64 { return m.durable.Load() }

// Advance moves the applied index over entries that carry no batch (no-ops,
// configuration changes); it becomes durable with the next commit.
func (m *Machine) Advance(index, term uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if index <= m.meta.index || m.haltedNow() {
		return
	}
	m.meta.index, m.meta.term = index, term
	m.ring.add(index, m.meta.chain)
	m.seq++
	m.offer()
}

// offer makes the apply state the one that views see. As long as nobody takes views
// it is only announced: a batch that is shown has its own copy of every node of the
// trees that the next one touches, which is half of the work of applying small batches
// of puts. The caller holds mu.
func (m *Machine) offer() {
	m.behind.Store(true)
	for _, i := range m.reg.current {
		if m.tx.changed[i] {
			m.refreeze(i)
			m.showCurrent()
		}
	}
	if m.asked.Swap(false) {
		m.show()
	}
	m.moved()
}

// show makes a generation of the apply state, unless the newest is one. The caller
// holds mu.
func (m *Machine) show() {
	if !m.behind.Load() {
		return
	}
	m.pub.Lock()
	if m.base != nil { // not closed
		m.layer = m.active.publish()
		m.publishApplied()
	}
	m.pub.Unlock()
}

// moved tells how far the machine has applied, when views show it. The caller holds mu.
func (m *Machine) moved() {
	m.tellWritten()
	m.applied.Store(&position{m.meta.index, m.meta.term})
	m.wakeApplied(m.meta.index)
}

// SetConfiguration keeps the Raft configuration that snapshots carry; it
// becomes durable with the next commit.
func (m *Machine) SetConfiguration(index uint64, encoded []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.meta.configIndex, m.meta.config = index, append([]byte(nil), encoded...)
	m.seq++
}

// Configuration returns the last configuration set.
func (m *Machine) Configuration() (index uint64, encoded []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.meta.configIndex, append([]byte(nil), m.meta.config...)
}

// ChainAt is the chain hash right after index was applied, for the last 4,096
// indexes, so that nodes can be compared at a common one.
func (m *Machine) ChainAt(index uint64) (chain uint64, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ring.at(index)
}

// Done is closed when the machine has halted or was closed; Err says why.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Err is nil while the machine runs.
func (m *Machine) Err() error {
	select {
	case <-m.done:
		return m.err
	default:
		return nil
	}
}

func (m *Machine) haltedNow() bool {
	select {
	case <-m.done:
		return true
	default:
		return false
	}
}

// halt stops applying and committing for good. Views go on.
func (m *Machine) halt(err error) error {
	m.haltOnce.Do(func() {
		m.err = err
		close(m.done)
		if !errs.Has(err, errs.ShuttingDown) {
			m.log.Error("the state machine halted", "file", m.opts.Path, "error", err)
		}
	})
	return m.err
}

// Close commits what was applied, stops and closes the file. It waits for open
// views up to Config.CloseTimeout; views that are open still keep the file
// mapped, and the error says how many there are.
func (m *Machine) Close() error {
	m.closeOnce.Do(func() { m.closeErr = m.close() })
	return m.closeErr
}

// Storage says why the file cannot be written at present: an *errs.Error with
// code storage_full, or nil. Reads go on meanwhile; writes go on when it works again.
func (m *Machine) Storage() error {
	m.wait.Lock()
	defer m.wait.Unlock()
	return m.storage
}

// WaitApplied returns when Applied has reached index. It fails with the
// context's error or, when the machine halts, with Err.
func (m *Machine) WaitApplied(ctx context.Context, index uint64) error {
	if at, _ := m.Applied(); at >= index {
		return nil
	}
	w := m.addWaiter(index)
	defer m.dropWaiter(w)
	// It may have been reached before the waiter stood in the list.
	if at, _ := m.Applied(); at >= index {
		return nil
	}
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
		return errs.From(ctx.Err())
	case <-m.done:
		return m.err
	}
}
