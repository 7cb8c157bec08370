package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/internal/link"
)

// Conn is the calling side of one connection. Any number of goroutines may call
// at once; their requests are pipelined.
type Conn struct {
	conn   net.Conn
	opts   Options
	w      *link.Writer
	fr     *frameReader
	keep   *keeper
	hello  serverHello
	maxOut int // longest frame that both sides accept

	// spare is of this connection, not of the package, so that no channel gets
	// from one test bubble (testing/synctest) into another.
	spare sync.Pool

	mu       sync.Mutex
	calls    map[uint32]*pending
	streams  map[uint32]*Stream
	lastID   uint32
	sweep    link.Sweeper
	draining bool
	err      error // why the connection ended
	done     chan struct{}
}

// Request is one call in full. Conn.Call takes the usual parts from its
// context.
type Request struct {
	Method  Method
	Payload []byte
	// RequestID makes a retry of a write safe.
	RequestID command.RequestID
	// Deadline counts beside the context's; it costs no timer. Zero is none.
	Deadline time.Time
	// Dst is what the answer is appended to; nil allocates.
	Dst []byte
}

// pending is a call that waits for its answer. They are pooled: the channel
// carries exactly one token a use.
type pending struct {
	ready    chan struct{}
	deadline int64 // link.Nano(), 0 for none
	out      []byte
	err      error
	lost     bool // the connection ended first
}

func newPending() any { return &pending{ready: make(chan struct{}, 1)} }

// Dial connects and says hello. The error is unavailable when nobody answers,
// and the server's own when it refuses.
func Dial(ctx context.Context, network, addr string, opts Options) (*Conn, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, errs.New(errs.Unavailable, "%s: %s", addr, dialReason(err)).Wrap(err)
	}
	c, err := NewConn(ctx, nc, opts)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// dialReason is the part of a dial error that says what happened; the address
// is named by the caller.
func dialReason(err error) string {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Err != nil {
		err = op.Err
	}
	if u := errors.Unwrap(err); u != nil {
		err = u
	}
	return err.Error()
}

// NewConn says hello over nc, which it owns from now on, even if it fails.
func NewConn(ctx context.Context, nc net.Conn, opts Options) (*Conn, error) {
	opts.Limits = opts.Limits.withDefaults()
	c := &Conn{
		conn: nc, opts: opts,
		calls: make(map[uint32]*pending), streams: make(map[uint32]*Stream), done: make(chan struct{}),
	}
	c.spare.New = newPending
	c.w = link.NewWriter(nc, c.fail)
	c.fr = newFrameReader(nc, maxHello)
	c.keep = &keeper{
		w: c.w, fail: c.fail,
		interval: opts.Limits.PingInterval, timeout: opts.Limits.PingTimeout, stall: opts.Limits.WriteTimeout,
		busy: c.waiting, busyInterval: time.Second, busyTimeout: 2 * time.Second,
	}
	c.fr.onRead = c.keep.noteHeard
	c.sweep.Run = c.expire
	if err := c.handshake(ctx); err != nil {
		_ = nc.Close()
		if ctx.Err() != nil {
			return nil, errs.From(ctx.Err())
		}
		if e, ok := errors.AsType[*errs.Error](err); ok {
			return nil, e
		}
		return nil, errs.New(errs.Unavailable, "%s: no hello from the server: %s", nc.RemoteAddr(), plainReason(err)).Wrap(err)
	}
	go c.w.Run()
	c.keep.start()
	go c.read()
	return c, nil
}

func plainReason(err error) string {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection was closed"
	case errors.Is(err, net.ErrClosed):
		return "the connection is closed"
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return "timed out"
	}
	return dialReason(err)
}

func (c *Conn) handshake(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Limits.Handshake)
	defer cancel()
	deadline, _ := ctx.Deadline()
	_ = c.conn.SetDeadline(deadline)
	// A cancelled dial must not wait for the deadline.
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	out, err := appendHello(appendPreamble(nil), callerHello{
		Token: c.opts.Token, Agent: c.opts.Agent, MaxFrame: int(c.opts.Limits.MaxFrameBytes), Window: c.opts.Limits.WindowBytes,
	})
	if err != nil {
		return err
	}
	if _, err := c.conn.Write(out); err != nil {
		return err
	}
	if err := readPreamble(c.conn); err != nil {
		return err
	}
	fr, err := c.fr.next()
	if err != nil {
		return err
	}
	switch {
	case fr.typ == frameError || fr.typ == frameGoaway:
		e, err := parseError(fr.body)
		if err != nil {
			return err
		}
		return e
	case fr.typ != frameHello || fr.over > 0:
		return violation("the server's first frame is of type %d and not a hello", fr.typ)
	}
	if err := parseHello(fr.body, &c.hello); err != nil {
		return err
	}
	c.fr.limit = int(c.opts.Limits.MaxFrameBytes)
	c.maxOut = min(c.fr.limit, max(c.hello.MaxFrame, maxHello))
	if !stop() {
		return ctx.Err()
	}
	return c.conn.SetDeadline(time.Time{})
}

// ServerInfo gives what the server said of itself.
func (c *Conn) ServerInfo() ServerInfo { return c.hello.Info }

// RemoteAddr gives the server's address.
func (c *Conn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// Draining tells whether the server asked to be left: new calls fail with
// shutting_down, those under way go on.
func (c *Conn) Draining() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.draining
}

// Pending gives the number of calls and streams under way.
func (c *Conn) Pending() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.calls) + len(c.streams)
}

// waiting tells whether a caller waits for an answer.
func (c *Conn) waiting() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.calls) > 0
}

// Close ends the connection. Calls under way get an error as from a lost
// connection.
func (c *Conn) Close() error {
	c.fail(net.ErrClosed)
	return nil
}

// Done is closed when the connection has ended.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err tells why the connection ended, nil while it lives.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Call sends req and waits; ctx's deadline and command.RequestID travel along.
// Transport failures are *errs.Error: unavailable when the request certainly was
// not acted on, outcome_unknown when it may have been. When ctx ends first, the
// error is canceled, or by its deadline: deadline_exceeded if the request can not
// go out any more, else outcome_unknown; errors.Is finds ctx's own error in all of
// them.
func (c *Conn) Call(ctx context.Context, m Method, req []byte) ([]byte, error) {
	return c.Do(ctx, Request{Method: m, Payload: req, RequestID: command.RequestIDFrom(ctx)})
}

// Do is Call with everything said in r and nothing but the end taken from ctx.
func (c *Conn) Do(ctx context.Context, r Request) ([]byte, error) {
	head, deadline, err := c.head(ctx, r)
	if err != nil {
		return nil, err
	}
	p := c.spare.Get().(*pending)
	p.deadline, p.out, p.err, p.lost = deadline, r.Dst, nil, false
	id, lone, err := c.enter(p, nil)
	if err != nil {
		c.spare.Put(p)
		return nil, err
	}
	var offset int64 // of the end of the request; 0 for not even begun
	if err = c.w.Begin(ctx.Done(), p.ready, false); err == nil {
		c.w.Buf = appendRequest(c.w.Buf, frameRequest, id, head, r.Payload)
		offset = c.w.End(lone)
		err = c.await(ctx, id, p, offset)
	} else if err != link.ErrLate && c.take(id) == nil {
		<-p.ready
	}
	out := p.out
	if err != nil {
		if offset == 0 {
			err = c.notSent(ctx, err)
		}
		out = nil
	}
	p.out, p.err = nil, nil
	c.spare.Put(p)
	return out, err
}

// await waits for the answer to the request that ends at offset.
func (c *Conn) await(ctx context.Context, id uint32, p *pending, offset int64) error {
	select {
	case <-p.ready:
	case <-ctx.Done():
		if c.take(id) != nil {
			sendControl(c.w, frameCancel, id, nil)
			return c.gaveUp(ctx.Err(), offset)
		}
		<-p.ready // the answer is just being put down
	}
	switch {
	case p.lost:
		return c.lost(offset)
	case p.err == link.ErrLate:
		sendControl(c.w, frameCancel, id, nil)
		return c.gaveUp(context.DeadlineExceeded, offset)
	}
	return p.err
}

// head builds what travels before the payload and finds the nearest deadline.
func (c *Conn) head(ctx context.Context, r Request) (requestHead, int64, error) {
	h := requestHead{method: r.Method, id: r.RequestID}
	if size := minLength + maxRequestHead + len(r.Payload); size > c.maxOut {
		return h, 0, tooLarge("request", size, c.maxOut)
	}
	if err := ctx.Err(); err != nil {
		return h, 0, errs.From(err)
	}
	at, ok := ctx.Deadline()
	// The context's own timer ends the call at its deadline; only an earlier one
	// has to be watched here.
	watch := !r.Deadline.IsZero() && (!ok || r.Deadline.Before(at))
	if watch {
		at = r.Deadline
	} else if !ok {
		return h, 0, nil
	}
	left := min(time.Until(at), maxTimeout)
	if left <= 0 {
		return h, 0, errs.From(context.DeadlineExceeded)
	}
	// The server is to end a little earlier, so that its answer, which knows the
	// reason, arrives before the wait is over.
	h.timeout = left - min(left/20, maxHeadStart)
	if !watch {
		return h, 0, nil
	}
	return h, link.Nano() + int64(left), nil
}

// maxHeadStart bounds how much earlier than the caller the server's deadline is.
const maxHeadStart = 100 * time.Millisecond

// enter gives a free id to p or st, whichever is set. lone tells that nothing
// else is under way.
func (c *Conn) enter(p *pending, st *Stream) (id uint32, lone bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, false, errs.New(errs.Unavailable, "%s: the connection is lost: %s", c.conn.RemoteAddr(), plainReason(c.err)).Wrap(c.err)
	}
	if c.draining {
		return 0, false, errs.New(errs.ShuttingDown, "%s: the server is stopping", c.conn.RemoteAddr())
	}
	for {
		c.lastID++
		if c.lastID == 0 {
			continue
		}
		if _, used := c.calls[c.lastID]; used {
			continue
		}
		if _, used := c.streams[c.lastID]; !used {
			break
		}
	}
	if st != nil {
		c.streams[c.lastID] = st
		return c.lastID, false, nil
	}
	c.calls[c.lastID] = p
	if p.deadline != 0 {
		c.sweep.Note(p.deadline)
	}
	return c.lastID, len(c.calls) == 1, nil
}

// take removes the call from the table; nil when it is gone already.
func (c *Conn) take(id uint32) *pending {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.calls[id]
	if p != nil {
		delete(c.calls, id)
		c.leaveLocked()
	}
	return p
}

// leaveLocked closes a connection that was to be left, after its last call.
func (c *Conn) leaveLocked() {
	if c.draining && len(c.calls)+len(c.streams) == 0 {
		c.w.Finish(net.ErrClosed)
	}
}

// notSent is the error of a request of which nothing went out.
func (c *Conn) notSent(ctx context.Context, err error) error {
	switch {
	case err == link.ErrGaveUp:
		return errs.From(ctx.Err())
	case err == link.ErrLate && c.Err() == nil:
		return errs.From(context.DeadlineExceeded)
	case err == link.ErrLate:
		err = c.Err()
	}
	return errs.New(errs.Unavailable, "%s: the connection is lost: %s", c.conn.RemoteAddr(), plainReason(err)).Wrap(err)
}

// lost is the error of a request whose connection ended before its answer.
func (c *Conn) lost(offset int64) error {
	cause := c.Err()
	if c.w.Sent(offset) {
		return errs.New(errs.OutcomeUnknown, "%s: the connection was lost before the answer came: %s",
			c.conn.RemoteAddr(), plainReason(cause)).Wrap(cause)
	}
	return errs.New(errs.Unavailable, "%s: the connection was lost before the request was sent: %s",
		c.conn.RemoteAddr(), plainReason(cause)).Wrap(cause)
}

// gaveUp is the error of a request whose caller stopped waiting. A request that
// still waits to be written goes out later, when a frozen peer reads again.
func (c *Conn) gaveUp(cause error, offset int64) error {
	if errors.Is(cause, context.DeadlineExceeded) && !c.w.NeverSent(offset) {
		return errs.New(errs.OutcomeUnknown, "%s: no answer before the deadline", c.conn.RemoteAddr()).Wrap(cause)
	}
	return errs.From(cause)
}

// read takes frames until the connection ends.
func (c *Conn) read() {
	for {
		fr, err := c.fr.next()
		if err == nil {
			err = c.handle(fr)
		}
		if err != nil {
			c.fail(err)
			return
		}
	}
}

func (c *Conn) handle(fr frame) error {
	switch fr.typ {
	case frameResponse:
		c.answer(fr, nil)
	case frameError:
		e, err := parseError(fr.body)
		if err != nil {
			return err
		}
		if !c.answer(frame{id: fr.id}, e) {
			c.endStream(fr.id, e)
		}
	case frameMessage:
		return c.message(fr)
	case frameEnd:
		c.endStream(fr.id, io.EOF)
	case framePing:
		if len(fr.body) != 8 {
			return violation("a ping has %d bytes and not 8", len(fr.body))
		}
		sendControl(c.w, framePong, 0, fr.body)
	case framePong:
	case frameGoaway:
		e, err := parseError(fr.body)
		if err != nil {
			return err
		}
		if e.Code != errs.ShuttingDown {
			return e
		}
		c.goaway()
	default:
		return violation("a server does not send frames of type %d", fr.typ)
	}
	return nil
}

// answer hands a call its result; false if there is no such call.
func (c *Conn) answer(fr frame, e error) bool {
	p := c.take(fr.id)
	if p == nil {
		return false
	}
	switch {
	case e != nil:
		p.err = e
	case fr.over > 0:
		p.err = tooLarge("answer", fr.over+minLength, c.fr.limit)
	default:
		p.out = append(p.out, fr.body...)
	}
	p.ready <- struct{}{}
	return true
}

func (c *Conn) goaway() {
	c.mu.Lock()
	c.draining = true
	c.leaveLocked()
	c.mu.Unlock()
	if f := c.opts.OnGoaway; f != nil {
		f()
	}
}

// expire ends the calls whose deadline has passed.
func (c *Conn) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	link.Expire(&c.sweep, c.calls, func(p *pending) int64 { return p.deadline }, func(id uint32, p *pending) {
		delete(c.calls, id)
		p.err = link.ErrLate
		p.ready <- struct{}{}
	})
	c.leaveLocked()
}

// fail ends the connection and everything under way on it; only the first call
// counts.
func (c *Conn) fail(err error) {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF // io.EOF is the orderly end of a stream
	}
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	c.sweep.Stop()
	calls, streams := c.calls, c.streams
	c.calls, c.streams = nil, nil
	c.mu.Unlock()
	c.keep.stop()
	c.w.Stop(err)
	_ = c.conn.Close()
	for _, p := range calls {
		p.lost = true
		p.ready <- struct{}{}
	}
	for _, s := range streams {
		s.end(c.lost(s.offset.Load()))
	}
	close(c.done)
}
