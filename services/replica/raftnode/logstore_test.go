package raftnode

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"nekoq/services/errs"
)

var bothStores = []string{LogStoreWAL, LogStoreBolt}

func eachStore(t *testing.T, test func(t *testing.T, cfg Config)) {
	for _, store := range bothStores {
		t.Run(store, func(t *testing.T) {
			cfg := DefaultConfig()
			cfg.LogStore = store
			cfg.SegmentBytes = 64 << 10
			cfg.TrailingLogBytes = 0
			cfg.CacheBytes = 8 << 10
			test(t, cfg)
		})
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func openTestLog(dir string, cfg Config, wrap func(logEngine) logEngine) (*logStore, error) {
	engine := newEngine(cfg, dir, &hclogger{log: quiet()})
	if wrap != nil {
		engine = wrap(engine)
	}
	return openLog(engine, cfg, newDiskGuard(dir, 0, quiet()), quiet(), newMetrics(), func(err error) {
		panic(fmt.Sprintf("the node was failed: %v", err))
	})
}

func mustOpen(t *testing.T, dir string, cfg Config) *logStore {
	t.Helper()
	s, err := openTestLog(dir, cfg, nil)
	require.NoError(t, err)
	return s
}

func entry(i, term uint64) *raft.Log {
	return &raft.Log{Index: i, Term: term, Type: raft.LogCommand, Data: fmt.Appendf(nil, "%d/%d %s", i, term, strings.Repeat("x", int(i*37%900)))}
}

func entries(from, to, term uint64) (out []*raft.Log) {
	for i := from; i <= to; i++ {
		out = append(out, entry(i, term))
	}
	return out
}

func requireLog(t *testing.T, s *logStore, from, to, term uint64) {
	t.Helper()
	last, err := s.LastIndex()
	require.NoError(t, err)
	require.Equal(t, to, last)
	for i := from; i <= to; i++ {
		var l raft.Log
		require.NoError(t, s.GetLog(i, &l), "entry %d", i)
		require.Equal(t, entry(i, term).Data, l.Data)
	}
	var l raft.Log
	require.ErrorIs(t, s.GetLog(to+1, &l), raft.ErrLogNotFound)
}

func TestLogKeepsWhatWasStored(t *testing.T) {
	eachStore(t, func(t *testing.T, cfg Config) {
		dir := t.TempDir()
		s := mustOpen(t, dir, cfg)
		for i := uint64(1); i <= 500; i += 5 {
			require.NoError(t, s.StoreLogs(entries(i, i+4, 1)))
		}
		requireLog(t, s, 1, 500, 1)
		require.NoError(t, s.Close())
		s = mustOpen(t, dir, cfg)
		requireLog(t, s, 1, 500, 1)
		require.NoError(t, s.Close())
	})
}

// A follower cuts entries of a leader that was superseded, and is restarted.
func TestLogTailIsCutAndRead(t *testing.T) {
	eachStore(t, func(t *testing.T, cfg Config) {
		dir := t.TempDir()
		s := mustOpen(t, dir, cfg)
		require.NoError(t, s.StoreLogs(entries(1, 20, 1)))
		for round := uint64(2); round < 6; round++ {
			require.NoError(t, s.DeleteRange(11, s.last.Load()))
			require.NoError(t, s.StoreLogs(entries(11, 20+round, round)))
			require.NoError(t, s.Close())
			s = mustOpen(t, dir, cfg)
			requireLog(t, s, 11, 20+round, round)
			var l raft.Log
			require.NoError(t, s.GetLog(10, &l))
			require.Equal(t, uint64(1), l.Term)
		}
		s.snapshot = func() (index, term uint64) { return 99, 7 }
		require.NoError(t, s.DeleteRange(1, s.last.Load()))
		require.NoError(t, s.StoreLogs(entries(100, 110, 7)))
		require.NoError(t, s.Close())
		s = mustOpen(t, dir, cfg)
		requireLog(t, s, 100, 110, 7)
		require.NoError(t, s.Close())
	})
}

func TestLogHeadGoesStepByStep(t *testing.T) {
	eachStore(t, func(t *testing.T, cfg Config) {
		cfg.TrailingLogBytes = 100 << 10
		dir := t.TempDir()
		s := mustOpen(t, dir, cfg)
		for i := uint64(1); i <= 2000; i += 10 {
			require.NoError(t, s.StoreLogs(entries(i, i+9, 1)))
		}
		require.NoError(t, s.DeleteRange(1, 1999))
		first, err := s.FirstIndex()
		require.NoError(t, err)
		require.Equal(t, uint64(1), first, "nothing is deleted while a writer waits")
		steps := 0
		for s.trimOnce() {
			steps++
		}
		require.Greater(t, steps, 1)
		first, err = s.FirstIndex()
		require.NoError(t, err)
		require.Greater(t, first, uint64(100))
		kept := 0
		for i := first; i <= 2000; i++ {
			kept += len(entry(i, 1).Data) + entryOverhead
		}
		require.GreaterOrEqual(t, kept, 100<<10)
		requireLog(t, s, first, 2000, 1)
		require.NoError(t, s.Close())
		s = mustOpen(t, dir, cfg)
		requireLog(t, s, first, 2000, 1)
		require.NoError(t, s.Close())
	})
}

func TestLogRefusesDamagedEntries(t *testing.T) {
	eachStore(t, func(t *testing.T, cfg Config) {
		s := mustOpen(t, t.TempDir(), cfg)
		l := entry(1, 1)
		l.Extensions = checksum(l)
		l.Data = append(slices.Clone(l.Data), '!')
		require.ErrorContains(t, s.StoreLogs([]*raft.Log{l}), "checksum")
		require.NoError(t, s.StoreLogs(entries(1, 3, 1)))
		require.Error(t, s.DeleteRange(2, 2))
		require.NoError(t, s.Close())
	})
}

func TestEntryCacheIsBounded(t *testing.T) {
	c := entryCache{limit: 10 << 10}
	for i := uint64(1); i <= 1000; i++ {
		c.put(entry(i, 1))
		require.LessOrEqual(t, c.bytes, c.limit)
	}
	var l raft.Log
	require.True(t, c.get(1000, &l))
	require.Equal(t, uint64(1000), l.Index)
	require.False(t, c.get(1001, &l))
	require.False(t, c.get(1, &l))
	c.cut(1000)
	require.False(t, c.get(1000, &l))
	require.True(t, c.get(999, &l))
	c.put(entry(2000, 1))
	require.False(t, c.get(999, &l))
	require.True(t, c.get(2000, &l))
}

// faultyEngine fails writes of the store that it opens.
type faultyEngine struct {
	logEngine
	before, after error
	opens         int
	openErr       error
}

type faultyLog struct {
	rawLog
	e *faultyEngine
}

func (e *faultyEngine) open() (rawLog, error) {
	e.opens++
	if e.openErr != nil {
		return nil, e.openErr
	}
	raw, err := e.logEngine.open()
	if err != nil {
		return nil, err
	}
	return &faultyLog{raw, e}, nil
}

func (l *faultyLog) StoreLogs(logs []*raft.Log) error {
	if l.e.before != nil {
		return l.e.before
	}
	err := l.rawLog.StoreLogs(logs)
	return errors.Join(err, l.e.after)
}

func TestFullDiskUnderTheLog(t *testing.T) {
	eachStore(t, func(t *testing.T, cfg Config) {
		for _, written := range []bool{false, true} {
			f := &faultyEngine{}
			s, err := openTestLog(t.TempDir(), cfg, func(e logEngine) logEngine { f.logEngine = e; return f })
			require.NoError(t, err)
			require.NoError(t, s.StoreLogs(entries(1, 10, 1)))
			full := &fs.PathError{Op: "write", Path: "log", Err: syscall.ENOSPC}
			if written {
				f.after = full
			} else {
				f.before = full
			}
			err = s.StoreLogs(entries(11, 15, 1))
			require.Equal(t, errs.StorageFull, errs.CodeOf(err), "%v", err)
			require.Equal(t, errs.OutcomeUnknown, errs.CodeOf(entryError(err)), "it may be found after a crash")
			requireLog(t, s, 1, 10, 1)
			f.before, f.after = nil, nil
			f.openErr = full
			err = s.StoreLogs(entries(11, 15, 2))
			require.Equal(t, errs.StorageFull, errs.CodeOf(err), "%v", err)
			f.openErr = nil
			require.NoError(t, s.StoreLogs(entries(11, 15, 3)), "space has returned")
			var l raft.Log
			require.NoError(t, s.GetLog(10, &l))
			require.Equal(t, entry(10, 1).Data, l.Data)
			requireLog(t, s, 11, 15, 3)
			require.NoError(t, s.Close())
		}
	})
}

func TestBrokenDiskFailsTheNode(t *testing.T) {
	f := &faultyEngine{}
	failed := make(chan error, 1)
	cfg := DefaultConfig()
	cfg.SegmentBytes = 64 << 10
	dir := t.TempDir()
	f.logEngine = newEngine(cfg, dir, &hclogger{log: quiet()})
	s, err := openLog(f, cfg, newDiskGuard(dir, 0, quiet()), quiet(), newMetrics(), func(err error) { failed <- err })
	require.NoError(t, err)
	f.before = syscall.EIO
	require.Error(t, s.StoreLogs(entries(1, 1, 1)))
	require.ErrorIs(t, <-failed, syscall.EIO)
	require.NoError(t, s.Close())
}

func TestLowDiskStopsTheLogBeforeItWrites(t *testing.T) {
	free := int64(1 << 30)
	d := newDiskGuard(t.TempDir(), 1000, quiet())
	d.free = func(string) (int64, error) { return free, nil }
	look := func(v int64) (low, out bool) {
		free = v
		d.look()
		return d.low.Load(), d.out.Load()
	}
	low, out := look(999)
	require.True(t, low)
	require.False(t, out)
	low, out = look(249)
	require.True(t, low && out)
	s := mustOpen(t, t.TempDir(), DefaultConfig())
	s.disk = d
	err := s.StoreLogs(entries(1, 1, 1))
	require.Equal(t, errs.StorageFull, errs.CodeOf(entryError(err)), "nothing was written: %v", err)
	low, out = look(1000)
	require.False(t, low || out)
	require.NoError(t, s.StoreLogs(entries(1, 1, 1)))
	require.NoError(t, s.Close())
}

// TestCrash kills a process that writes to a log and looks at what it left.
func TestCrash(t *testing.T) {
	if dir := os.Getenv("RAFTNODE_CRASH_DIR"); dir != "" {
		crashWriter(t, dir, os.Getenv("RAFTNODE_CRASH_STORE"))
		return
	}
	eachStore(t, func(t *testing.T, cfg Config) {
		dir := t.TempDir()
		var acked uint64
		for round := range 4 {
			cmd := exec.Command(os.Args[0], "-test.run=^TestCrash$")
			cmd.Env = append(os.Environ(), "RAFTNODE_CRASH_DIR="+dir, "RAFTNODE_CRASH_STORE="+cfg.LogStore)
			out, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			lines := bufio.NewScanner(out)
			for n := 0; n < 100*(round+1) && lines.Scan(); n++ {
				if i, err := strconv.ParseUint(lines.Text(), 10, 64); err == nil {
					acked = i
				}
			}
			require.NoError(t, cmd.Process.Kill())
			for lines.Scan() {
				if i, err := strconv.ParseUint(lines.Text(), 10, 64); err == nil {
					acked = i
				}
			}
			_ = cmd.Wait()
			require.NotZero(t, acked)
			s := mustOpen(t, dir, cfg)
			last := s.last.Load()
			require.GreaterOrEqual(t, last, acked)
			first, err := s.FirstIndex()
			require.NoError(t, err)
			require.LessOrEqual(t, first, uint64(1))
			requireLog(t, s, first, last, 1)
			require.NoError(t, s.Close())
		}
	})
}

func crashWriter(t *testing.T, dir, store string) {
	cfg := DefaultConfig()
	cfg.LogStore, cfg.SegmentBytes = store, 64<<10
	s := mustOpen(t, dir, cfg)
	for {
		at := s.last.Load()
		require.NoError(t, s.StoreLogs(entries(at+1, at+5, 1)))
		fmt.Println(at + 5)
	}
}

// damage changes one byte of a file.
func damage(t *testing.T, path string, at int) {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	b[at] ^= 0x40
	require.NoError(t, os.WriteFile(path, b, 0o600))
}

func TestDamagedSegmentsAreRefused(t *testing.T) {
	cfg := DefaultConfig()
	cfg.SegmentBytes = 64 << 10
	fill := func(t *testing.T) (dir string, segments []string) {
		dir = t.TempDir()
		s := mustOpen(t, dir, cfg)
		for i := uint64(1); i <= 300; i += 3 {
			require.NoError(t, s.StoreLogs(entries(i, i+2, 1)))
		}
		require.NoError(t, s.Close())
		segments, err := filepath.Glob(filepath.Join(dir, "wal", "*.wal"))
		require.NoError(t, err)
		require.Greater(t, len(segments), 2)
		return dir, segments
	}
	refused := func(t *testing.T, dir, file string) {
		t.Helper()
		_, err := openTestLog(dir, cfg, nil)
		require.Equal(t, errs.Corrupt, errs.CodeOf(err), "%v", err)
		require.ErrorContains(t, err, file)
		require.ErrorContains(t, err, "remove this node")
	}
	t.Run("sealed", func(t *testing.T) {
		dir, segments := fill(t)
		damage(t, segments[0], 30<<10)
		refused(t, dir, segments[0])
	})
	t.Run("middle of the last", func(t *testing.T) {
		dir, segments := fill(t)
		tail := segments[len(segments)-1]
		damage(t, tail, 100)
		refused(t, dir, tail)
	})
	t.Run("frame header in the last", func(t *testing.T) {
		dir, segments := fill(t)
		tail := segments[len(segments)-1]
		damage(t, tail, walHeader)
		refused(t, dir, tail)
	})
	t.Run("missing segment", func(t *testing.T) {
		dir, segments := fill(t)
		require.NoError(t, os.Remove(segments[1]))
		refused(t, dir, segments[1])
	})
	t.Run("missing list", func(t *testing.T) {
		dir, _ := fill(t)
		require.NoError(t, os.Remove(filepath.Join(dir, "wal", "wal-meta.db")))
		refused(t, dir, "wal-meta.db")
	})
	t.Run("torn last write", func(t *testing.T) {
		dir, segments := fill(t)
		tail := segments[len(segments)-1]
		b, err := os.ReadFile(tail)
		require.NoError(t, err)
		end := len(bytes.TrimRight(b, "\x00"))
		for cut := end - 1; cut > end-700; cut -= 9 {
			torn := slices.Clone(b)
			clear(torn[cut:])
			require.NoError(t, os.WriteFile(tail, torn, 0o600))
			s, err := openTestLog(dir, cfg, nil)
			require.NoError(t, err, "torn at %d of %d", cut, end)
			require.GreaterOrEqual(t, s.last.Load(), uint64(294))
			requireLog(t, s, 1, s.last.Load(), 1)
			require.NoError(t, s.Close())
		}
	})
}

func TestDamagedBoltLogIsRefused(t *testing.T) {
	cfg := DefaultConfig()
	cfg.LogStore = LogStoreBolt
	dir := t.TempDir()
	s := mustOpen(t, dir, cfg)
	require.NoError(t, s.StoreLogs(entries(1, 200, 1)))
	require.NoError(t, s.Close())
	path := filepath.Join(dir, "log.db")
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	at := bytes.Index(b, entry(77, 1).Data)
	require.Positive(t, at)
	damage(t, path, at+3)
	_, err = openTestLog(dir, cfg, nil)
	require.Equal(t, errs.Corrupt, errs.CodeOf(err), "%v", err)
	require.ErrorContains(t, err, path)

	require.NoError(t, os.Truncate(path, 8192)) // pages beyond the end
	_, err = openTestLog(dir, cfg, nil)
	require.Equal(t, errs.Corrupt, errs.CodeOf(err), "%v", err)
}

func TestVoteSurvivesTornAndDamagedSlots(t *testing.T) {
	dir := t.TempDir()
	s, err := openStable(dir)
	require.NoError(t, err)
	v, err := s.GetUint64([]byte("CurrentTerm"))
	require.NoError(t, err)
	require.Zero(t, v)
	require.NoError(t, s.SetUint64([]byte("CurrentTerm"), 7))
	require.NoError(t, s.Set([]byte("LastVoteCand"), []byte("n2")))
	require.NoError(t, s.Close())
	path := filepath.Join(dir, "vote")
	for _, at := range []int{30, stableSlot + 30} {
		good, err := os.ReadFile(path)
		require.NoError(t, err)
		damage(t, path, at)
		s, err := openStable(dir)
		require.NoError(t, err)
		v, err := s.GetUint64([]byte("CurrentTerm"))
		require.NoError(t, err)
		require.Equal(t, uint64(7), v)
		c, err := s.Get([]byte("LastVoteCand"))
		require.NoError(t, err)
		require.Equal(t, "n2", string(c))
		require.NoError(t, s.Close())
		require.NoError(t, os.WriteFile(path, good, 0o600))
	}
	damage(t, path, 30)
	damage(t, path, stableSlot+30)
	_, err = openStable(dir)
	require.Equal(t, errs.Corrupt, errs.CodeOf(err))
	require.ErrorContains(t, err, path)
}

// TestHeartbeatsTakeTheNormalPath guards against hashicorp/raft issue 695, over
// TCP: the in-memory transport never takes the fast path.
func TestHeartbeatsTakeTheNormalPath(t *testing.T) {
	newEnd := func() (*transport, string) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		addr := ln.Addr().String()
		tr := newTransport(tcpPeers{Listener: ln}, addr, DefaultConfig(), &hclogger{log: quiet()})
		return tr, addr
	}
	a, _ := newEnd()
	b, addr := newEnd()
	defer func() { require.NoError(t, errors.Join(a.Close(), b.Close())) }()
	var any raft.Transport = b
	_, ok := any.(raft.WithPreVote)
	require.True(t, ok, "raft turns pre-vote off when it cannot see it")
	b.SetHeartbeatHandler(func(raft.RPC) { t.Error("a heartbeat took the fast path") }) // as raft does
	var wg sync.WaitGroup
	wg.Go(func() {
		rpc := <-b.Consumer()
		rpc.Respond(&raft.AppendEntriesResponse{Term: 9, Success: true}, nil)
	})
	req := &raft.AppendEntriesRequest{Term: 9, RPCHeader: raft.RPCHeader{ProtocolVersion: 3, ID: []byte("a"), Addr: []byte("a")}}
	var resp raft.AppendEntriesResponse
	require.NoError(t, a.AppendEntries("b", raft.ServerAddress(addr), req, &resp))
	require.True(t, resp.Success)
	wg.Wait()

	// While the main loop takes over a state nobody reads the consumer's channel.
	b.answerHeartbeats(func() uint64 { return 9 })
	resp = raft.AppendEntriesResponse{}
	require.NoError(t, a.AppendEntries("b", raft.ServerAddress(addr), req, &resp))
	require.True(t, resp.Success)
	req.Term = 10
	require.ErrorContains(t, a.AppendEntries("b", raft.ServerAddress(addr), req, &resp), errInstalling.Error())
	b.passHeartbeats()
	wg.Go(func() {
		rpc := <-b.Consumer()
		rpc.Respond(&raft.AppendEntriesResponse{Term: 10}, nil)
	})
	require.NoError(t, a.AppendEntries("b", raft.ServerAddress(addr), req, &resp))
	require.Equal(t, uint64(10), resp.Term)
	wg.Wait()

	req.Entries = entries(1, 10000, 1)
	a.bound(req)
	size := 0
	for _, e := range req.Entries {
		size += len(e.Data)
	}
	require.LessOrEqual(t, size, 4<<20)
	require.Greater(t, size, 3<<20)
}
