package state

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/watch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The test service: a map with a count index.
const (
	tblKV   TableID = 0x80
	tblMore TableID = 0x81

	kindPut     command.Kind = 0x2000 // payload: key length byte, key, value
	kindDelete  command.Kind = 0x2001 // payload: key
	kindEmit    command.Kind = 0x2002
	kindRefuse  command.Kind = 0x2003
	kindDirty   command.Kind = 0x2004 // writes, then refuses
	kindBroken  command.Kind = 0x2005 // a plain error
	kindPanic   command.Kind = 0x2006
	kindNothing command.Kind = 0x2007
	kindLater   command.Kind = 0x2008 // since version 2
	kindSum     command.Kind = 0x2009 // scans and writes what it found
	kindEmpty   command.Kind = 0x200a // puts an empty key
)

// countIndex counts keys by first byte; an Index with a persistent Freeze.
type countIndex struct{ n map[byte]map[string]bool }

func (c *countIndex) Rebuild(r Reader) {
	c.n = make(map[byte]map[string]bool)
	r.Scan(tblKV, nil, nil, func(k, v []byte) bool {
		c.Change(tblKV, k, v)
		return true
	})
}

func (c *countIndex) Change(_ TableID, key, value []byte) {
	if c.n[key[0]] == nil {
		c.n[key[0]] = make(map[string]bool)
	}
	if value == nil {
		delete(c.n[key[0]], string(key))
	} else {
		c.n[key[0]][string(key)] = true
	}
}

func (c *countIndex) Freeze() any {
	out := make(map[byte]int)
	for b, keys := range c.n {
		if len(keys) > 0 {
			out[b] = len(keys)
		}
	}
	return out
}

func testRegistry() *Registry {
	reg := NewRegistry()
	reg.Table(tblKV, "kv")
	reg.Table(tblMore, "more")
	reg.AddIndex("count", []TableID{tblKV}, func() Index { return &countIndex{} })
	reg.Current("count")
	reg.Handle(kindPut, "put", 1, func(tx *Tx, cmd *command.Command) ([]byte, error) {
		n := int(cmd.Payload[0])
		tx.Put(tblKV, cmd.Payload[1:1+n], cmd.Payload[1+n:])
		return binary.BigEndian.AppendUint64(nil, tx.Next()), nil
	})
	reg.Handle(kindDelete, "delete", 1, func(tx *Tx, cmd *command.Command) ([]byte, error) {
		tx.Delete(tblKV, cmd.Payload)
		return nil, nil
	})
	reg.Handle(kindEmit, "emit", 1, func(tx *Tx, cmd *command.Command) ([]byte, error) {
		tx.Emit(watch.TopicKV, cmd.Payload, tx.Next())
		return nil, nil
	})
	refusal := errs.Invalid("size", 9, "less")
	reg.Handle(kindRefuse, "refuse", 1, func(tx *Tx, cmd *command.Command) ([]byte, error) {
		return nil, fmt.Errorf("wrapped: %w", refusal)
	})
	reg.Handle(kindDirty, "dirty", 1, func(tx *Tx, cmd *command.Command) ([]byte, error) {
		tx.Put(tblKV, []byte("x"), nil)
		return nil, refusal
	})
	reg.Handle(kindBroken, "broken", 1, func(tx *Tx, cmd *command.Command) ([]byte, error) {
		return nil, errors.New("no such disk")
	})
	reg.Handle(kindPanic, "panic", 1, func(tx *Tx, cmd *command.Command) ([]byte, error) {
		var p *Tx
		return nil, fmt.Errorf("%v", p.wrote)
	})
	reg.Handle(kindNothing, "nothing", 1, func(tx *Tx, cmd *command.Command) ([]byte, error) { return nil, nil })
	reg.Handle(kindLater, "later", 2, func(tx *Tx, cmd *command.Command) ([]byte, error) { return nil, nil })
	reg.Handle(kindSum, "sum", 1, func(tx *Tx, cmd *command.Command) ([]byte, error) {
		n := uint64(0)
		tx.Scan(tblKV, nil, nil, func(k, v []byte) bool {
			n += uint64(len(k) + len(v))
			tx.Put(tblMore, k, v) // writing while scanning is allowed
			return true
		})
		tx.ScanReverse(tblMore, nil, nil, func(k, v []byte) bool {
			tx.Delete(tblMore, k)
			return true
		})
		sum := binary.BigEndian.AppendUint64(nil, n)
		tx.Put(tblMore, []byte("sum"), sum)
		return sum, nil
	})
	reg.Handle(kindEmpty, "empty", 1, func(tx *Tx, cmd *command.Command) ([]byte, error) {
		tx.Put(tblKV, nil, nil)
		return nil, nil
	})
	return reg
}

func put(key, value string) command.Command {
	return command.Command{Kind: kindPut, Payload: append(append([]byte{byte(len(key))}, key...), value...)}
}

func del(key string) command.Command {
	return command.Command{Kind: kindDelete, Payload: []byte(key)}
}

// hub records what is published.
type hub struct {
	mu     sync.Mutex
	events []watch.Event
	resets int
}

func (h *hub) Publish(batch []watch.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, batch...)
}

func (h *hub) Reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.resets++
}

// lazy is a configuration whose file is written only when a test asks.
func lazy() Config {
	return Config{FlushInterval: time.Hour, FlushBytes: 1 << 30, MaxLagBytes: 1 << 30, MmapBytes: 64 << 20}
}

type fixture struct {
	*Machine
	t     testing.TB
	opts  Options
	index uint64
}

func open(t testing.TB, opts Options) *fixture {
	t.Helper()
	if opts.Path == "" {
		opts.Path = filepath.Join(t.TempDir(), "state.db")
	}
	if opts.Registry == nil {
		opts.Registry = testRegistry()
	}
	if opts.Config == (Config{}) {
		opts.Config = lazy()
	}
	m, err := Open(opts)
	require.NoError(t, err)
	f := &fixture{Machine: m, t: t, opts: opts}
	f.index, _ = m.Applied()
	t.Cleanup(func() { _ = f.Machine.Close() })
	return f
}

func (f *fixture) reopen() {
	f.t.Helper()
	require.NoError(f.t, f.Machine.Close())
	m, err := Open(f.opts)
	require.NoError(f.t, err)
	f.Machine = m
	f.index, _ = m.Applied()
}

func (f *fixture) try(cmds ...command.Command) ([]Result, error) {
	r, err := f.ApplyEntry(f.index+1, 1, command.AppendBatch(nil, cmds))
	if at, _ := f.Applied(); at == f.index+1 {
		f.index++
	}
	return r, err
}

func (f *fixture) apply(cmds ...command.Command) []Result {
	f.t.Helper()
	r, err := f.try(cmds...)
	require.NoError(f.t, err)
	require.Len(f.t, r, len(cmds))
	return r
}

func (f *fixture) get(key string) (string, bool) {
	v := f.View()
	defer v.Release()
	b, ok := v.Get(tblKV, []byte(key))
	return string(b), ok
}

func (f *fixture) rows() map[string]string {
	v := f.View()
	defer v.Release()
	return rowsOf(v)
}

func rowsOf(v *View) map[string]string {
	out := make(map[string]string)
	v.Scan(tblKV, nil, nil, func(k, val []byte) bool {
		out[string(k)] = string(val)
		return true
	})
	return out
}

func (f *fixture) hash() Hash {
	f.t.Helper()
	h, err := f.Hash(context.Background(), true)
	require.NoError(f.t, err)
	return h
}

func (f *fixture) flush() {
	f.t.Helper()
	require.NoError(f.t, f.Flush(context.Background()))
}

func (f *fixture) snapshot() []byte {
	f.t.Helper()
	s, err := f.Snapshot()
	require.NoError(f.t, err)
	defer func() { require.NoError(f.t, s.Close()) }()
	var buf bytes.Buffer
	n, err := s.WriteTo(&buf)
	require.NoError(f.t, err)
	require.Equal(f.t, s.Size(), n)
	return buf.Bytes()
}

// modes runs a test in every durability mode.
func modes(t *testing.T, test func(t *testing.T, mode Mode)) {
	for mode, name := range map[Mode]string{Logged: "logged", Synced: "synced", Volatile: "volatile"} {
		t.Run(name, func(t *testing.T) { test(t, mode) })
	}
}

func newReader(b []byte) *bytes.Reader { return bytes.NewReader(b) }

func puts(keys []string, value string) []command.Command {
	out := make([]command.Command, len(keys))
	for i, k := range keys {
		out[i] = put(k, value)
	}
	return out
}
