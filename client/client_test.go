package client

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	mRead wire.Method = 0x7001 + iota
	mWrite
	mBlock
	mWatch
	mJSON
)

// fakeCluster is the replicated state behind fake nodes: sessions, and a log of
// the writes that took effect.
type fakeCluster struct {
	mu       sync.Mutex
	lastSess uint64
	sessions map[uint64]map[uint64][]byte // session → seq → result
	acked    map[uint64]uint64
	log      []string
}

func newFakeCluster() *fakeCluster {
	return &fakeCluster{sessions: map[uint64]map[uint64][]byte{}, acked: map[uint64]uint64{}}
}

func (f *fakeCluster) open() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lastSess++
	f.sessions[f.lastSess] = map[uint64][]byte{}
	return f.lastSess
}

func (f *fakeCluster) expire() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.sessions)
}

// apply is the state machine: at most once a request id.
func (f *fakeCluster) apply(id command.RequestID, req string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.sessions[id.Session]
	if s == nil {
		return nil, errs.New(errs.SessionExpired, "the session %d is unknown", id.Session)
	}
	f.acked[id.Session] = max(f.acked[id.Session], id.Acked)
	if id.Seq < f.acked[id.Session] {
		return nil, errs.New(errs.SessionExpired, "request %d is forgotten", id.Seq)
	}
	if out, ok := s[id.Seq]; ok {
		return out, nil
	}
	f.log = append(f.log, req)
	out := fmt.Appendf(nil, "%d", len(f.log))
	s[id.Seq] = out
	return out, nil
}

func (f *fakeCluster) writes() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.log...)
}

// fakeNode is one server of a fakeCluster; before may refuse or break a request.
type fakeNode struct {
	t      testing.TB
	name   string
	f      *fakeCluster
	before atomic.Pointer[func(m wire.Method) error]
	after  atomic.Pointer[func(m wire.Method) error]
	served atomic.Int64

	mu    sync.Mutex
	srv   *wire.Server
	conns []net.Conn
	down  bool
	wg    sync.WaitGroup
}

func newFakeNode(t testing.TB, f *fakeCluster, name string) *fakeNode {
	n := &fakeNode{t: t, name: name, f: f}
	n.start()
	t.Cleanup(n.stop)
	return n
}

func (n *fakeNode) start() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.srv = wire.NewServer(n.mux(), wire.ServerOptions{
		Hello: func() wire.ServerInfo { return wire.ServerInfo{NodeID: n.name} },
	})
	n.down = false
}

func (n *fakeNode) hook(p *atomic.Pointer[func(wire.Method) error], m wire.Method) error {
	if f := p.Load(); f != nil {
		return (*f)(m)
	}
	return nil
}

func (n *fakeNode) mux() *wire.Mux {
	mux := wire.NewMux()
	unary := func(m wire.Method, h func(ctx context.Context, req []byte) ([]byte, error)) {
		mux.Unary(m, fmt.Sprintf("m%x", m), func(ctx context.Context, req, dst []byte) ([]byte, error) {
			n.served.Add(1)
			if err := n.hook(&n.before, m); err != nil {
				return nil, err
			}
			out, err := h(ctx, req)
			if err2 := n.hook(&n.after, m); err2 != nil {
				return nil, err2
			}
			return append(dst, out...), err
		})
	}
	unary(wire.MethodSessionOpen, func(context.Context, []byte) ([]byte, error) {
		return binary.BigEndian.AppendUint64(nil, n.f.open()), nil
	})
	unary(wire.MethodPing, func(_ context.Context, req []byte) ([]byte, error) { return req, nil })
	unary(mRead, func(context.Context, []byte) ([]byte, error) { return []byte(n.name), nil })
	unary(mWrite, func(ctx context.Context, req []byte) ([]byte, error) {
		return n.f.apply(command.RequestIDFrom(ctx), string(req))
	})
	unary(mBlock, func(ctx context.Context, _ []byte) ([]byte, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	// The stream counts on from the number in its request.
	mux.Streaming(mWatch, "watch", func(ctx context.Context, req []byte, send func([]byte) error) error {
		for i := req[0] + 1; i <= 100; i++ {
			if err := n.hook(&n.before, mWatch); err != nil {
				return err
			}
			if err := send([]byte{i}); err != nil {
				return err
			}
		}
		return nil
	})
	type in struct{ Name string }
	type out struct{ Greeting string }
	mux.Unary(mJSON, "json", wire.JSON(func(_ context.Context, i *in) (*out, error) {
		return &out{"hello " + i.Name}, nil
	}))
	return mux
}

// dial gives a connection to the node, as a socket would.
func (n *fakeNode) dial() (net.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.down {
		return nil, errors.New("connection refused by the test")
	}
	a, b := wire.Pipe()
	n.conns = append(n.conns, b)
	srv := n.srv
	n.wg.Go(func() { srv.ServeConn(b) })
	return a, nil
}

// kill cuts every connection and refuses new ones.
func (n *fakeNode) kill() {
	n.mu.Lock()
	n.down = true
	conns := n.conns
	n.conns = nil
	n.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

func (n *fakeNode) stop() {
	n.kill()
	n.wg.Wait()
}

func set(p *atomic.Pointer[func(wire.Method) error], f func(wire.Method) error) {
	if f == nil {
		p.Store(nil)
		return
	}
	p.Store(&f)
}

// connect makes a client of the nodes, named a, b, c... in the order given.
func connect(t testing.TB, cfg Config, nodes ...*fakeNode) *Client {
	t.Helper()
	byName := map[string]*fakeNode{}
	for _, n := range nodes {
		cfg.Endpoints = append(cfg.Endpoints, n.name)
		byName[n.name] = n
	}
	cfg.Dialer = func(_ context.Context, ep string) (net.Conn, error) { return byName[ep].dial() }
	if cfg.BackoffMin == 0 {
		cfg.BackoffMin, cfg.BackoffMax = time.Millisecond, 20*time.Millisecond
	}
	c, err := New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func TestReadFailsOver(t *testing.T) {
	f := newFakeCluster()
	a, b := newFakeNode(t, f, "a"), newFakeNode(t, f, "b")
	c := connect(t, Config{}, a, b)
	out, err := c.read(t.Context(), mRead, nil)
	require.NoError(t, err)
	first, second := a, b
	if string(out) == "b" {
		first, second = b, a
	}
	for range 10 {
		out, err = c.read(t.Context(), mRead, nil)
		require.NoError(t, err)
		require.Equal(t, first.name, string(out), "a client keeps to a live node")
	}
	first.kill()
	out, err = c.read(t.Context(), mRead, nil)
	require.NoError(t, err)
	require.Equal(t, second.name, string(out))

	// Without a leader the other node is asked, and it is asked again later.
	var refusals atomic.Int64
	set(&second.before, func(wire.Method) error {
		if refusals.Add(1) <= 3 {
			return errs.New(errs.NoLeader, "no leader is known")
		}
		return nil
	})
	out, err = c.read(t.Context(), mRead, nil)
	require.NoError(t, err)
	require.Equal(t, second.name, string(out))
}

func TestWriteOnceOverLostAnswers(t *testing.T) {
	f := newFakeCluster()
	a, b := newFakeNode(t, f, "a"), newFakeNode(t, f, "b")
	c := connect(t, Config{}, a, b)
	var lost atomic.Int64
	for _, n := range []*fakeNode{a, b} {
		set(&n.after, func(m wire.Method) error {
			// The write took effect, and its answer never comes.
			if m == mWrite && lost.Add(1)%2 == 1 {
				n.breakConns()
			}
			return nil
		})
	}
	for i := range 20 {
		out, err := c.write(t.Context(), mWrite, fmt.Appendf(nil, "w%d", i))
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(i+1), string(out))
	}
	require.Len(t, f.writes(), 20)
	require.Len(t, f.sessions, 1)
	require.GreaterOrEqual(t, lost.Load(), int64(40))
}

// breakConns cuts the connections and stays up.
func (n *fakeNode) breakConns() {
	n.mu.Lock()
	conns := n.conns
	n.conns = nil
	n.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

func TestDeadlines(t *testing.T) {
	f := newFakeCluster()
	a := newFakeNode(t, f, "a")
	c := connect(t, Config{Timeout: 500 * time.Millisecond}, a)
	_, err := c.read(t.Context(), mBlock, nil)
	require.Equal(t, errs.DeadlineExceeded, errs.CodeOf(err), "%v", err)
	_, err = c.write(t.Context(), mBlock, nil)
	require.Equal(t, errs.OutcomeUnknown, errs.CodeOf(err), "%v", err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = c.read(ctx, mBlock, nil)
	require.Equal(t, errs.DeadlineExceeded, errs.CodeOf(err), "%v", err)
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	_, err = c.read(ctx, mBlock, nil)
	require.Equal(t, errs.Canceled, errs.CodeOf(err), "%v", err)
}

func TestSessionExpiry(t *testing.T) {
	f := newFakeCluster()
	a := newFakeNode(t, f, "a")
	c := connect(t, Config{}, a)
	_, err := c.write(t.Context(), mWrite, []byte("one"))
	require.NoError(t, err)
	f.expire()
	// Refused before anything was done: a new session carries it.
	_, err = c.write(t.Context(), mWrite, []byte("two"))
	require.NoError(t, err)
	// In doubt when the session goes: nobody can tell any more.
	set(&a.after, func(m wire.Method) error {
		if m == mWrite {
			set(&a.after, nil)
			f.expire()
			return errs.New(errs.OutcomeUnknown, "the leader was lost")
		}
		return nil
	})
	_, err = c.write(t.Context(), mWrite, []byte("three"))
	require.Equal(t, errs.OutcomeUnknown, errs.CodeOf(err), "%v", err)
	require.True(t, errors.Is(err, errs.New(errs.OutcomeUnknown, "")))
	_, err = c.write(t.Context(), mWrite, []byte("four"))
	require.NoError(t, err)
	require.Equal(t, []string{"one", "two", "three", "four"}, f.writes())
}

func TestNobodyAnswers(t *testing.T) {
	free := func() string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer func() { _ = ln.Close() }()
		return ln.Addr().String()
	}
	one, two := free(), free()
	for _, fast := range []bool{true, false} {
		c, err := New(Config{Endpoints: []string{one, two}, Timeout: 500 * time.Millisecond, FailFast: fast})
		require.NoError(t, err)
		for _, send := range []func(context.Context, wire.Method, []byte) ([]byte, error){c.read, c.write} {
			_, err = send(t.Context(), mRead, nil)
			require.Equal(t, errs.Unavailable, errs.CodeOf(err), "%v", err)
			msg := errs.From(err).Message
			require.Contains(t, msg, "no server answered: ")
			require.Contains(t, msg, one+": connection refused")
			require.Contains(t, msg, two+": connection refused")
			require.Contains(t, msg, "; is `nekoq serve` running?")
		}
		require.NoError(t, c.Close())
		_, err = c.read(t.Context(), mRead, nil)
		require.Equal(t, errs.Canceled, errs.CodeOf(err))
	}
}

func TestStreamResumes(t *testing.T) {
	f := newFakeCluster()
	a, b := newFakeNode(t, f, "a"), newFakeNode(t, f, "b")
	c := connect(t, Config{}, a, b)
	var sent atomic.Int64
	for _, n := range []*fakeNode{a, b} {
		set(&n.before, func(m wire.Method) error {
			if m == mWatch && sent.Add(1)%10 == 0 {
				return errs.New(errs.Unavailable, "a hiccup")
			}
			return nil
		})
	}
	last := byte(0)
	s, err := c.stream(t.Context(), mWatch, func() ([]byte, error) { return []byte{last}, nil })
	require.NoError(t, err)
	defer s.close()
	for i := byte(1); i <= 100; i++ {
		msg, err := s.recv(t.Context())
		require.NoError(t, err)
		require.Equal(t, []byte{i}, msg)
		last = i
		if i == 50 {
			go a.breakConns()
			go b.breakConns()
		}
	}
	for range 2 {
		_, err = s.recv(t.Context())
		require.Equal(t, io.EOF, err)
	}
}

func TestJSONCall(t *testing.T) {
	a := newFakeNode(t, newFakeCluster(), "a")
	c := connect(t, Config{}, a)
	var out struct{ Greeting string }
	require.NoError(t, c.callJSON(t.Context(), mJSON, map[string]string{"Name": "cat"}, &out, false))
	require.Equal(t, "hello cat", out.Greeting)
	err := c.callJSON(t.Context(), mJSON, map[string]string{"Nmae": "cat"}, &out, true)
	require.Equal(t, errs.UnknownField, errs.CodeOf(err))
	require.Equal(t, "Nmae", errs.From(err).Details[0].Field)
	err = c.callJSON(t.Context(), mJSON, map[string]int{"Name": 1}, &out, false)
	require.Equal(t, errs.InvalidArgument, errs.CodeOf(err))
	require.Equal(t, "Name", errs.From(err).Details[0].Field)
}
