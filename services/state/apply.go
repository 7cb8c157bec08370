package state

import (
	"errors"
	"fmt"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/watch"
)

func panicError(p any) error {
	if err, ok := p.(error); ok {
		return fmt.Errorf("panic: %w", err)
	}
	return fmt.Errorf("panic: %v", p)
}

// ApplyEntry applies the batch in entry (command.AppendBatch) at index. entry is
// kept and must never change. An entry at or below the applied index is skipped
// and has no results. Results are in command order. An error halts the machine.
// Called by one goroutine. It waits while the file lags more than
// Config.MaxLagBytes.
//
// In Synced mode with a full disk every result is storage_full, nothing is
// visible, Applied has not moved and index may be used again.
func (m *Machine) ApplyEntry(index, term uint64, entry []byte) ([]Result, error) {
	if err := m.awaitLag(); err != nil {
		return nil, err
	}
	m.touch()
	if m.opts.Mode == Synced {
		return m.applySynced(index, term, entry)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.haltedNow() {
		return nil, m.err
	}
	if index <= m.meta.index {
		return nil, nil
	}
	results, err := m.applyBatch(index, term, entry)
	if err != nil {
		return nil, m.halt(err)
	}
	m.offer()
	m.publishEvents()
	m.activeBytes.Store(m.active.bytes)
	m.changed = true
	signal(m.dirty)
	if m.active.bytes >= m.flushAt.Load() {
		signal(m.kick)
	}
	return results, nil
}

// applyBatch applies entry to the active overlay. The caller holds mu.
func (m *Machine) applyBatch(index, term uint64, entry []byte) (results []Result, err error) {
	g := m.acquire() // keeps the lower layers while the committer moves on
	if g == nil {
		return nil, errs.New(errs.ShuttingDown, "the state machine is closed")
	}
	defer g.release()
	m.tx.base, m.tx.active = g.stack, m.active
	m.tx.events = nil
	var current command.Kind
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("entry %d: command kind %s: %w", index, m.reg.KindName(current), panicError(p))
		}
	}()
	n, err := command.Count(entry)
	if err != nil {
		return nil, fmt.Errorf("entry %d: %w", index, err)
	}
	results = make([]Result, 0, n)
	err = command.ParseBatch(entry, func(cmd *command.Command) error {
		current = cmd.Kind
		r, err := m.applyCommand(cmd)
		results = append(results, r)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("entry %d: %w", index, err)
	}
	m.meta.index, m.meta.term = index, term
	m.ring.add(index, m.meta.chain)
	m.seq++
	return results, nil
}

// refreeze takes a new copy of an index that has changed since the last one.
func (m *Machine) refreeze(i int) {
	next := append([]any(nil), m.frozenIx...)
	next[i] = m.indexes[i].Freeze()
	m.frozenIx = next
	m.tx.changed[i] = false
}

// applyCommand carries one command out, or answers a retried one. An error
// halts the machine.
func (m *Machine) applyCommand(cmd *command.Command) (Result, error) {
	m.meta.time = max(m.meta.time, cmd.Time)
	h := m.reg.kinds[cmd.Kind]
	if h == nil {
		return Result{}, fmt.Errorf("command kind %#x is unknown to this program; install the version that the cluster runs", uint16(cmd.Kind))
	}
	s, first, refused := m.beginRequest(cmd)
	switch {
	case refused != nil:
		return Result{Revision: m.meta.revision, Err: refused}, nil
	case first != nil:
		r := Result{Revision: first.revision, Changed: first.changed, Data: first.data}
		if first.err != nil {
			r.Err = first.err
		}
		return r, nil
	}
	r, err := m.runApplier(h, cmd)
	if err != nil {
		return r, fmt.Errorf("command kind %s: %w", h.name, err)
	}
	if s != nil {
		m.finishRequest(s, cmd.Seq, &r)
	}
	m.metrics.count(cmd.Kind, r.Err != nil)
	return r, nil
}

func (m *Machine) runApplier(h *kind, cmd *command.Command) (Result, error) {
	m.tx.wrote = false
	if m.version < h.since {
		return Result{Revision: m.meta.revision, Err: errs.New(errs.VersionTooOld,
			"%s needs cluster version %d; the cluster is at %d", h.name, h.since, m.version)}, nil
	}
	data, err := h.apply(&m.tx, cmd)
	if err != nil {
		refused, ok := errors.AsType[*errs.Error](err)
		if !ok {
			return Result{}, err
		}
		if m.tx.wrote {
			return Result{}, fmt.Errorf("it wrote and was then refused: %w", err)
		}
		return Result{Revision: m.meta.revision, Err: refused}, nil
	}
	if m.tx.wrote {
		m.meta.revision++
	}
	return Result{Revision: m.meta.revision, Changed: m.tx.wrote, Data: m.tx.base.base.h.own(data)}, nil
}

// publishEvents hands the batch's events on, after its generation is visible.
func (m *Machine) publishEvents() {
	var events []watch.Event
	events, m.tx.events = m.tx.events, nil
	if len(events) > 0 && m.opts.Events != nil {
		m.opts.Events.Publish(events)
	}
}
