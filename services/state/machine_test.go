package state

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"nekoq/services/command"
	"nekoq/services/errs"
)

func TestApplyAndRead(t *testing.T) {
	modes(t, func(t *testing.T, mode Mode) {
		h := &hub{}
		f := open(t, Options{Mode: mode, Events: h})
		r := f.apply(put("a", "1"), put("b", "2"), command.Command{Kind: kindNothing}, del("missing"),
			command.Command{Kind: kindRefuse}, command.Command{Kind: kindEmit, Payload: []byte("e")})
		require.Equal(t, []uint64{1, 2, 2, 2, 2, 3}, []uint64{
			r[0].Revision, r[1].Revision, r[2].Revision, r[3].Revision, r[4].Revision, r[5].Revision,
		})
		require.True(t, r[0].Changed && r[5].Changed)
		require.False(t, r[2].Changed || r[3].Changed || r[4].Changed)
		require.True(t, errs.Has(r[4].Err, errs.InvalidArgument))
		require.Len(t, h.events, 1)
		require.Equal(t, uint64(3), h.events[0].Revision)
		require.Equal(t, uint64(3), h.events[0].Data)

		old := f.View()
		f.apply(del("a"), put("c", ""))
		require.Equal(t, map[string]string{"a": "1", "b": "2"}, rowsOf(old))
		old.Release()
		old.Release() // no harm
		require.Panics(t, func() { old.Revision() })
		require.Equal(t, map[string]string{"b": "2", "c": ""}, f.rows())
		f.flush()
		require.Equal(t, f.index, f.Durable())
		require.Equal(t, map[string]string{"b": "2", "c": ""}, f.rows())
		f.apply(command.Command{Kind: kindSum})
		before := f.hash()
		f.reopen()
		require.Equal(t, before, f.hash())
	})
}

func TestEntriesAtOrBelowTheIndexAreSkipped(t *testing.T) {
	f := open(t, Options{})
	f.apply(put("a", "1"))
	r, err := f.ApplyEntry(1, 1, command.AppendBatch(nil, []command.Command{put("a", "2")}))
	require.NoError(t, err)
	require.Nil(t, r)
	v, _ := f.get("a")
	require.Equal(t, "1", v)
}

func TestDefectsHalt(t *testing.T) {
	good := command.AppendBatch(nil, []command.Command{put("a", "1")})
	one := func(k command.Kind) []byte {
		return command.AppendBatch(nil, []command.Command{put("b", "2"), {Kind: k}})
	}
	for name, c := range map[string]struct {
		entry []byte
		want  string
	}{
		"write then refuse": {one(kindDirty), "it wrote and was then refused"},
		"plain error":       {one(kindBroken), "no such disk"},
		"panic":             {one(kindPanic), "panic"},
		"unknown kind":      {one(0x7777), "kind 0x7777 is unknown"},
		"empty key":         {one(kindEmpty), "a row of 0 + 0 bytes"},
		"cut entry":         {good[:len(good)-1], "malformed"},
		"version":           {append([]byte{9}, good[1:]...), "version 9"},
	} {
		t.Run(name, func(t *testing.T) {
			modes(t, func(t *testing.T, mode Mode) {
				f := open(t, Options{Mode: mode})
				f.apply(put("a", "1"))
				f.flush()
				_, err := f.ApplyEntry(2, 1, c.entry)
				require.ErrorContains(t, err, c.want)
				<-f.Done()
				require.Equal(t, err, f.Err())
				_, again := f.ApplyEntry(3, 1, good)
				require.Equal(t, err, again)
				require.Equal(t, err, f.Flush(context.Background()))
				require.Equal(t, err, f.WaitApplied(context.Background(), 9))
				// Nothing of the batch is visible, now or after a restart.
				require.Equal(t, map[string]string{"a": "1"}, f.rows())
				f.reopen()
				require.Equal(t, map[string]string{"a": "1"}, f.rows())
				require.Equal(t, uint64(1), f.index)
			})
		})
	}
}

func TestTimeNeverGoesBack(t *testing.T) {
	f := open(t, Options{})
	for _, at := range []int64{100, 50, 200} {
		c := put("a", "1")
		c.Time = at
		f.apply(c)
		v := f.View()
		require.Equal(t, max(100, at), v.Time())
		v.Release()
	}
	f.reopen()
	v := f.View()
	defer v.Release()
	require.Equal(t, int64(200), v.Time())
}

func TestClusterVersion(t *testing.T) {
	f := open(t, Options{})
	r := f.apply(command.Command{Kind: kindLater}, SetClusterVersion(1), SetClusterVersion(0),
		command.Command{Kind: KindClusterVersion})
	require.True(t, errs.Has(r[0].Err, errs.VersionTooOld))
	require.NoError(t, r[1].Err)
	require.False(t, r[1].Changed)
	require.True(t, errs.Has(r[2].Err, errs.FailedPrecond))
	require.True(t, errs.Has(r[3].Err, errs.InvalidArgument))
	_, err := f.try(SetClusterVersion(MaxClusterVersion + 1))
	require.ErrorContains(t, err, "newer program")
}

func TestAdvanceAndConfiguration(t *testing.T) {
	modes(t, func(t *testing.T, mode Mode) {
		f := open(t, Options{Mode: mode})
		f.apply(put("a", "1"))
		f.SetConfiguration(2, []byte("three nodes"))
		f.Advance(5, 3)
		f.Advance(4, 3) // no way back
		index, term := f.Applied()
		require.Equal(t, []uint64{5, 3}, []uint64{index, term})
		f.flush()
		require.Equal(t, uint64(5), f.Durable())
		c1, ok1 := f.ChainAt(1)
		c5, ok5 := f.ChainAt(5)
		_, ok4 := f.ChainAt(4)
		require.True(t, ok1 && ok5 && !ok4)
		require.Equal(t, c1, c5)
		f.reopen()
		index, conf := f.Configuration()
		require.Equal(t, uint64(2), index)
		require.Equal(t, "three nodes", string(conf))
		index, term = f.Applied()
		require.Equal(t, []uint64{5, 3}, []uint64{index, term})
		require.Equal(t, uint64(5), f.hash().Index)
	})
}

func TestWaitApplied(t *testing.T) {
	f := open(t, Options{})
	f.apply(put("a", "1"))
	require.NoError(t, f.WaitApplied(context.Background(), 1))
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	require.True(t, errs.Has(f.WaitApplied(ctx, 2), errs.DeadlineExceeded))
	cancel()
	require.Zero(t, f.waiting.Load())
	done := make(chan error, 3)
	for i := range uint64(3) {
		go func() { done <- f.WaitApplied(context.Background(), 4-i) }()
	}
	for range 3 {
		f.apply(put("a", "1"))
	}
	for range 3 {
		require.NoError(t, <-done)
	}
	go func() { done <- f.WaitApplied(context.Background(), 100) }()
	require.NoError(t, f.Machine.Close())
	require.True(t, errs.Has(<-done, errs.ShuttingDown))
	require.Nil(t, f.View())
}

func TestTimedFlush(t *testing.T) {
	cfg := lazy()
	cfg.FlushInterval = time.Minute
	path := t.TempDir() + "/state.db"
	synctest.Test(t, func(t *testing.T) {
		m, err := Open(Options{Path: path, Registry: testRegistry(), Config: cfg})
		require.NoError(t, err)
		_, err = m.ApplyEntry(1, 1, command.AppendBatch(nil, []command.Command{put("a", "1")}))
		require.NoError(t, err)
		time.Sleep(59 * time.Second)
		synctest.Wait()
		require.Zero(t, m.Durable())
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.Equal(t, uint64(1), m.Durable())
		require.NoError(t, m.Close())
	})
}

func TestFlushBySizeAndLagBound(t *testing.T) {
	cfg := lazy()
	cfg.FlushBytes, cfg.MaxLagBytes = 4<<10, 16<<10
	f := open(t, Options{Config: cfg})
	value := string(make([]byte, 1<<10))
	for i := range 200 {
		f.apply(put(string(rune('a'+i%26))+string(rune('a'+i/26)), value))
		require.Less(t, f.activeBytes.Load()+f.flushBytes.Load(), cfg.MaxLagBytes+2<<10)
	}
	require.NotZero(t, f.Durable())
	require.Len(t, f.rows(), 200)
}

func TestIndexRebuiltEqualsIncremental(t *testing.T) {
	modes(t, func(t *testing.T, mode Mode) {
		f := open(t, Options{Mode: mode})
		f.apply(put("aa", "1"), put("ab", "1"), put("ba", "1"), del("aa"))
		before := f.View()
		want := before.Frozen("count")
		require.Equal(t, map[byte]int{'a': 1, 'b': 1}, want)
		f.apply(put("ca", ""))
		require.Equal(t, want, before.Frozen("count"))
		before.Release()
		now := f.View()
		want = now.Frozen("count")
		now.Release()
		f.reopen()
		v := f.View()
		defer v.Release()
		require.Equal(t, want, v.Frozen("count"))
	})
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	f := open(t, Options{Metrics: reg})
	f.apply(put("a", "1"), command.Command{Kind: kindRefuse})
	f.flush()
	found, err := reg.Gather()
	require.NoError(t, err)
	got := make(map[string]int)
	for _, mf := range found {
		got[mf.GetName()] = len(mf.GetMetric())
	}
	require.Equal(t, 2, got["nekoq_state_commands_total"])
	for _, name := range []string{
		"nekoq_state_applied_index", "nekoq_state_durable_index", "nekoq_state_revision", "nekoq_state_file_bytes",
		"nekoq_state_file_free_pages", "nekoq_state_views_open", "nekoq_state_storage_full",
		"nekoq_state_commit_seconds", "nekoq_state_commit_bytes_total", "nekoq_state_commit_failures_total",
	} {
		require.Equal(t, 1, got[name], name)
	}
	_, err = Open(Options{Path: t.TempDir() + "/x.db", Registry: testRegistry(), Metrics: reg})
	require.ErrorContains(t, err, "two machines")
	require.NoError(t, f.Machine.Close())
	found, err = reg.Gather()
	require.NoError(t, err)
	require.Empty(t, found)
}

func TestConfigValidate(t *testing.T) {
	c := DefaultConfig()
	require.Empty(t, c.Validate())
	require.Empty(t, (&Config{}).Validate())
	bad := Config{FlushBytes: 2, FlushInterval: -1, MaxLagBytes: 1, MmapBytes: 1, MaxFileBytes: 1, LockTimeout: -1, CloseTimeout: -1}
	require.Len(t, bad.Validate(), 7)
	_, err := Open(Options{Config: bad, Registry: NewRegistry()})
	require.True(t, errs.Has(err, errs.InvalidArgument))
}

func TestRegistryRefusesDuplicates(t *testing.T) {
	r := testRegistry()
	apply := func(*Tx, *command.Command) ([]byte, error) { return nil, nil }
	require.Panics(t, func() { r.Table(tblKV, "other") })
	require.Panics(t, func() { r.Table(0x90, "kv") })
	require.Panics(t, func() { r.Table(0, "zero") })
	require.Panics(t, func() { r.Table(0x2000, "far") })
	require.Panics(t, func() { r.Table(0x90, "_meta") })
	require.Panics(t, func() { r.Handle(kindPut, "again", 1, apply) })
	require.Panics(t, func() { r.Handle(0, "zero", 1, apply) })
	require.Panics(t, func() { r.AddIndex("count", nil, nil) })
	require.Equal(t, "put", r.KindName(kindPut))
	require.Equal(t, "0x7777", r.KindName(0x7777))
}

func TestCloseReportsOpenViews(t *testing.T) {
	cfg := lazy()
	cfg.CloseTimeout = 20 * time.Millisecond
	f := open(t, Options{Config: cfg})
	f.apply(put("a", "1"))
	f.flush()
	v := f.View()
	require.ErrorContains(t, f.Machine.Close(), "1 read views")
	value, ok := v.Get(tblKV, []byte("a")) // still mapped
	require.True(t, ok)
	require.Equal(t, "1", string(value))
	v.Release()
}
