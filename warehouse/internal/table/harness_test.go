package table

import (
	"path/filepath"
	"testing"

	"nekoq/services/command"
	"nekoq/services/lease/leasetable"
	"nekoq/services/state"
	"nekoq/services/watch"
)

// store applies commands one by one to a machine of its own.
type store struct {
	t      failer
	m      *state.Machine
	index  uint64
	now    int64
	events []watch.Event
}

type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

func (s *store) Publish(b []watch.Event) { s.events = append(s.events, b...) }
func (s *store) Reset()                  {}

func registry() *state.Registry {
	reg := state.NewRegistry()
	Register(reg, leasetable.Register(reg))
	return reg
}

func newStore(t failer, dir string) *store { return newStoreOf(t, dir, registry()) }

func newStoreOf(t failer, dir string, reg *state.Registry) *store {
	s := &store{t: t, now: 1_700_000_000_000_000_000}
	m, err := state.Open(state.Options{Path: filepath.Join(dir, "state.db"), Registry: reg, Events: s, Mode: state.Volatile})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	s.m = m
	return s
}

func openStore(t testing.TB) *store {
	s := newStore(t, t.TempDir())
	t.Cleanup(func() {
		if err := s.m.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func (s *store) apply(cmds ...command.Command) []state.Result {
	s.t.Helper()
	for i := range cmds {
		s.now += 1000
		cmds[i].Time = s.now
		if cmds[i].Actor == "" {
			cmds[i].Actor = "test:me"
		}
	}
	s.index++
	res, err := s.m.ApplyEntry(s.index, 1, command.AppendBatch(nil, cmds))
	if err != nil {
		s.t.Fatalf("apply: %v", err)
	}
	return res
}

func (s *store) put(c PutCommand) (Written, error) {
	s.t.Helper()
	return s.written(command.Command{Kind: KindPut, Payload: c.Encode()})
}

func (s *store) del(c DeleteCommand) (Written, error) {
	s.t.Helper()
	return s.written(command.Command{Kind: KindDelete, Payload: c.Encode()})
}

func (s *store) written(cmd command.Command) (Written, error) {
	s.t.Helper()
	r := s.apply(cmd)[0]
	if r.Err != nil {
		return Written{}, r.Err
	}
	w, err := DecodeWritten(r.Data)
	if err != nil {
		s.t.Fatalf("result: %v", err)
	}
	return w, nil
}

func (s *store) step(ms uint64) {
	s.t.Helper()
	for ms > 0 {
		n := min(ms, leasetable.MaxStep)
		v := s.m.View()
		step, _ := leasetable.Clock(v)
		v.Release()
		if r := s.apply(command.Command{Kind: leasetable.KindStep, Payload: leasetable.AppendStep(nil, step, n)})[0]; r.Err != nil {
			s.t.Fatalf("step: %v", r.Err)
		}
		ms -= n
	}
}

func (s *store) expire() leasetable.Expired {
	s.t.Helper()
	r := s.apply(command.Command{Kind: leasetable.KindExpire, Payload: leasetable.AppendExpire(nil, 512)})[0]
	if r.Err != nil {
		s.t.Fatalf("expire: %v", r.Err)
	}
	e, err := leasetable.DecodeExpired(r.Data)
	if err != nil {
		s.t.Fatalf("expire: %v", err)
	}
	return e
}

func (s *store) meta() Meta {
	s.t.Helper()
	v := s.m.View()
	defer v.Release()
	m, err := ReadMeta(v)
	if err != nil {
		s.t.Fatalf("meta: %v", err)
	}
	return m
}
