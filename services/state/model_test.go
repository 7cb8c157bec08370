package state

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"nekoq/services/command"
)

// model is what the machine must look like: a map and the log that made it.
type model struct {
	rows     map[string]string
	revision uint64
	log      map[uint64][]byte // entries by index
	hashes   map[uint64]Hash
}

func (m model) clone() model {
	return model{
		rows: maps.Clone(m.rows), revision: m.revision, log: maps.Clone(m.log), hashes: maps.Clone(m.hashes),
	}
}

type heldView struct {
	v    *View
	rows map[string]string
}

// world is one run of the property test.
type world struct {
	f     *fixture
	model model
	views []heldView
	saved []byte // a snapshot and the model at its index
	then  model
	dir   string
	files int
}

func (w *world) path() string {
	w.files++
	return filepath.Join(w.dir, fmt.Sprintf("%d.db", w.files))
}

var keys = rapid.StringMatching(`[a-c]{1,3}`)

func (w *world) batch(t *rapid.T) {
	n := rapid.IntRange(1, 12).Draw(t, "commands")
	cmds := make([]command.Command, 0, n)
	for range n {
		key := keys.Draw(t, "key")
		switch rapid.IntRange(0, 9).Draw(t, "kind") {
		case 0, 1, 2, 3, 4:
			value := strings.Repeat(key, rapid.IntRange(0, 60).Draw(t, "len"))
			cmds = append(cmds, put(key, value))
			w.model.rows[key] = value
			w.model.revision++
		case 5, 6:
			cmds = append(cmds, del(key))
			if _, ok := w.model.rows[key]; ok {
				w.model.revision++
			}
			delete(w.model.rows, key)
		case 7:
			cmds = append(cmds, command.Command{Kind: kindRefuse})
		case 8:
			cmds = append(cmds, command.Command{Kind: kindSum})
			w.model.revision++
		case 9:
			cmds = append(cmds, OpenSession())
			w.model.revision++
			id := w.model.revision
			cmds = append(cmds, with(put(key, "s"), id, 1, 1), with(put(key, "s"), id, 1, 1))
			w.model.rows[key] = "s"
			w.model.revision++
		}
	}
	entry := command.AppendBatch(nil, cmds)
	results, err := w.f.ApplyEntry(w.f.index+1, 1, entry)
	require.NoError(t, err)
	require.Len(t, results, len(cmds))
	w.f.index++
	w.model.log[w.f.index] = entry
	require.Equal(t, w.model.revision, results[len(results)-1].Revision)
	w.model.hashes[w.f.index] = w.f.hash()
}

func (w *world) check(t *rapid.T) {
	v := w.f.View()
	defer v.Release()
	require.Equal(t, w.f.index, v.Index())
	require.Equal(t, w.model.revision, v.Revision())
	require.Equal(t, w.model.rows, rowsOf(v))
	// A random range, both ways, with an early stop.
	start, end := keys.Draw(t, "start"), keys.Draw(t, "end")
	stop := rapid.IntRange(1, 30).Draw(t, "stop")
	var want []string
	for _, k := range slices.Sorted(maps.Keys(w.model.rows)) {
		if k >= start && k < end {
			want = append(want, k)
		}
	}
	got := collect(v.Scan, start, end, stop)
	require.Equal(t, want[:min(stop, len(want))], got)
	slices.Reverse(want)
	got = collect(v.ScanReverse, start, end, stop)
	require.Equal(t, want[:min(stop, len(want))], got)
	w.leap(t, v, start, end)
	value, ok := v.Get(tblKV, []byte(start))
	wantValue, wantOK := w.model.rows[start]
	require.Equal(t, wantOK, ok)
	require.Equal(t, wantValue, string(value))
	index := map[byte]int{}
	for k := range w.model.rows {
		index[k[0]]++
	}
	require.Equal(t, index, v.Frozen("count"))
}

// leap walks a range with a cursor that passes over rows now and then.
func (w *world) leap(t *rapid.T, r Reader, start, end string) {
	c := r.Cursor(tblKV, []byte(start), []byte(end))
	defer c.Close()
	from := start
	for {
		if rapid.Bool().Draw(t, "leap") {
			to := keys.Draw(t, "to") // perhaps back, which is no move
			c.Seek([]byte(to))
			from = max(from, to)
		}
		want := ""
		for k := range w.model.rows {
			if k >= from && k < end && (want == "" || k < want) {
				want = k
			}
		}
		k, v, ok := c.Next()
		require.Equal(t, want, string(k))
		require.Equal(t, want != "", ok)
		if !ok {
			return
		}
		require.Equal(t, w.model.rows[want], string(v))
		from = want + "\x00"
	}
}

func collect(scan func(TableID, []byte, []byte, func(k, v []byte) bool), start, end string, stop int) []string {
	var got []string
	scan(tblKV, []byte(start), []byte(end), func(k, _ []byte) bool {
		got = append(got, string(k))
		return len(got) < stop
	})
	return got
}

// crash opens a copy of the file as it is now and replays the log on it.
func (w *world) crash(t *rapid.T) {
	want := w.f.hash()
	durable := w.f.Durable()
	b, err := os.ReadFile(w.f.opts.Path)
	require.NoError(t, err)
	opts := w.f.opts
	opts.Path = w.path()
	require.NoError(t, os.WriteFile(opts.Path, b, 0o600))
	m, err := Open(opts)
	require.NoError(t, err)
	at, _ := m.Applied()
	require.GreaterOrEqual(t, at, durable)
	for i := durable; i <= w.f.index; i++ { // one below too, which is skipped
		if entry := w.model.log[i]; entry != nil {
			_, err := m.ApplyEntry(i, 1, entry)
			require.NoError(t, err)
		}
	}
	got, err := m.Hash(t.Context(), true)
	require.NoError(t, err)
	require.Equal(t, want, got)
	w.closeViews(t)
	require.NoError(t, w.f.Machine.Close())
	w.f.Machine, w.f.opts = m, opts
}

func (w *world) closeViews(t *rapid.T) {
	for _, h := range w.views {
		require.Equal(t, h.rows, rowsOf(h.v))
		h.v.Release()
	}
	w.views = nil
}

func (w *world) snapshot(t *rapid.T) {
	w.saved, w.then = w.f.snapshot(), w.model.clone()
}

func (w *world) restore(t *rapid.T) {
	if w.saved == nil {
		return
	}
	require.NoError(t, w.f.Restore(newReader(w.saved)))
	w.model = w.then.clone()
	w.f.index, _ = w.f.Applied()
	if want, ok := w.model.hashes[w.f.index]; ok {
		require.Equal(t, want, w.f.hash())
	}
}

// TestModel drives a machine and a map with the same random commands between
// flushes, held views, crashes, restarts, snapshots and restores.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		mode := rapid.SampledFrom([]Mode{Logged, Synced, Volatile}).Draw(rt, "mode")
		cfg := lazy()
		cfg.MmapBytes = 32 << 10 << rapid.IntRange(0, 8).Draw(rt, "map")
		cfg.FlushBytes = 4 << 10 << rapid.IntRange(0, 3).Draw(rt, "flush bytes")
		w := &world{dir: t.TempDir(), model: model{
			rows: map[string]string{}, log: map[uint64][]byte{}, hashes: map[uint64]Hash{},
		}}
		w.f = open(t, Options{Mode: mode, Config: cfg, Path: w.path()})
		rt.Repeat(map[string]func(*rapid.T){
			"":      w.check,
			"apply": w.batch,
			"flush": func(t *rapid.T) {
				if cfg.MmapBytes < 1<<20 {
					w.closeViews(t) // an old view may hold a larger map up
				}
				w.f.flush()
			},
			"hold": func(*rapid.T) {
				if mode != Synced || cfg.MmapBytes >= 1<<20 {
					w.views = append(w.views, heldView{w.f.View(), maps.Clone(w.model.rows)})
				}
			},
			"release": w.closeViews,
			"reopen": func(t *rapid.T) {
				w.closeViews(t)
				w.f.reopen()
			},
			"crash": w.crash,
			"snapshot": func(t *rapid.T) {
				w.closeViews(t)
				w.snapshot(t)
			},
			"restore": w.restore,
		})
		w.closeViews(rt)
		require.NoError(rt, w.f.Machine.Close())
		require.NoError(rt, CheckFile(w.f.opts.Path))
	})
}
