package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"nekoq/services/auth"
	"nekoq/services/errs"
	"nekoq/services/internal/link"
)

// lingerTime is how long a drained connection waits for its caller to leave, so
// that a request that crossed the goaway is answered and not cut off.
const lingerTime = 250 * time.Millisecond

// servConn is the serving side of one connection: one goroutine reads and hands
// each request to a worker.
type servConn struct {
	srv       *Server
	conn      net.Conn
	limits    Limits
	w         *link.Writer
	fr        *frameReader
	keep      *keeper
	principal auth.Principal
	window    int64 // credit a stream starts with, as the caller asked
	maxOut    int   // longest frame that the caller accepts

	mu       sync.Mutex
	calls    map[uint32]*call
	streams  int
	reqBytes int
	sweep    link.Sweeper
	draining bool
	linger   *time.Timer
	closed   bool
	pool     link.Pool[*call]
}

func newServConn(s *Server, c net.Conn) *servConn {
	sc := &servConn{srv: s, conn: c, limits: s.opts.Limits, calls: make(map[uint32]*call)}
	sc.w = link.NewWriter(c, sc.fail)
	sc.fr = newFrameReader(c, maxHello)
	sc.keep = &keeper{
		w: sc.w, fail: sc.fail,
		interval: sc.limits.PingInterval, timeout: sc.limits.PingTimeout, stall: sc.limits.WriteTimeout,
	}
	sc.fr.onRead = sc.keep.noteHeard
	sc.keep.onTick = sc.trim
	sc.sweep.Run = sc.expire
	sc.pool.Mu, sc.pool.Serve = &sc.mu, (*call).run
	return sc
}

// refuse answers a connection that is not taken with the reason and closes it.
func (sc *servConn) refuse(e *errs.Error) {
	_ = sc.conn.SetDeadline(time.Now().Add(link.FinalWrite))
	if _, err := sc.conn.Write(appendErrorFrame(appendPreamble(nil), frameError, 0, e)); err == nil {
		if cw, ok := sc.conn.(interface{ CloseWrite() error }); ok {
			_ = cw.CloseWrite()
		}
		sc.discard()
	}
	_ = sc.conn.Close()
}

// discard reads what the peer still sends until it leaves or link.FinalWrite passes:
// closing over unread bytes resets the connection, and the reason that was just
// written would be lost.
func (sc *servConn) discard() {
	_ = sc.conn.SetReadDeadline(time.Now().Add(link.FinalWrite))
	_, _ = io.Copy(io.Discard, sc.conn)
}

func (sc *servConn) serve() {
	if err := sc.handshake(); err != nil {
		sc.srv.log.Debug("connection refused", "door", sc.srv.opts.Door, "peer", sc.conn.RemoteAddr().String(), "error", err)
		// An error that did not come from the peer's going away is told to it.
		if _, ok := errors.AsType[*errs.Error](err); ok {
			sc.refuse(errs.From(err))
		}
		_ = sc.conn.Close()
		return
	}
	flushed := make(chan struct{})
	go func() {
		defer close(flushed)
		sc.w.Run()
	}()
	sc.keep.start()
	err := sc.read()
	if _, ours := errors.AsType[*errs.Error](err); ours {
		sc.violate(errs.From(err))
	}
	sc.fail(err)
	sc.pool.Wait()
	<-flushed
}

// handshake reads the preamble and the caller's hello, and answers with ours.
func (sc *servConn) handshake() error {
	ctx, cancel := context.WithTimeout(context.Background(), sc.limits.Handshake)
	defer cancel()
	deadline, _ := ctx.Deadline()
	_ = sc.conn.SetDeadline(deadline)
	if err := readPreamble(sc.conn); err != nil {
		return err
	}
	fr, err := sc.fr.next()
	if err != nil {
		return err
	}
	if fr.typ != frameHello || fr.over > 0 {
		return violation("the first frame is of type %d and not a hello of at most %d bytes", fr.typ, maxHello)
	}
	var h callerHello
	if err := parseHello(fr.body, &h); err != nil {
		return err
	}
	who := auth.Principal{Name: "anonymous"}
	opts := &sc.srv.opts
	if opts.Authenticate != nil {
		if who, err = opts.Authenticate(ctx, sc.conn, h.Token); err != nil {
			return errs.From(err)
		}
	}
	fill(&who.Door, opts.Door)
	fill(&who.Addr, sc.conn.RemoteAddr().String())
	sc.principal = who
	sc.window = min(max(h.Window, 1), 1<<30)
	sc.maxOut = max(h.MaxFrame, maxHello)

	ours := serverHello{
		MaxFrame: int(sc.limits.MaxFrameBytes), MaxRequests: sc.limits.MaxRequests, MaxStreams: sc.limits.MaxStreams,
	}
	if opts.Hello != nil {
		ours.Info = opts.Hello()
	}
	out, err := appendHello(appendPreamble(nil), ours)
	if err != nil {
		return err
	}
	if _, err := sc.conn.Write(out); err != nil {
		return err
	}
	sc.fr.limit = int(sc.limits.MaxFrameBytes)
	return sc.conn.SetDeadline(time.Time{})
}

// read takes frames until the connection ends. An *errs.Error is a violation by
// the peer.
func (sc *servConn) read() error {
	var now int64
	fresh := false // now belongs to the batch that one read brought
	for {
		fr, err := sc.fr.next()
		if err != nil {
			return err
		}
		if !fresh {
			now = link.Nano()
		}
		fresh = sc.fr.buffered()
		if err := sc.take(fr, now); err != nil {
			return err
		}
	}
}

func (sc *servConn) take(fr frame, now int64) error {
	switch fr.typ {
	case frameRequest, frameOpen:
		return sc.request(fr, now)
	case frameCredit:
		p := cursor{b: fr.body}
		n := p.uvarint()
		if p.bad {
			return violation("a credit frame is damaged")
		}
		if c := sc.find(fr.id); c != nil && c.more != nil && !c.addCredit(n) {
			return violation("a stream was given more than 2^40 bytes of credit")
		}
	case frameCancel:
		if c := sc.find(fr.id); c != nil {
			c.end(context.Canceled, nil)
		}
	case framePing:
		if len(fr.body) != 8 {
			return violation("a ping has %d bytes and not 8", len(fr.body))
		}
		sendControl(sc.w, framePong, 0, fr.body)
	case framePong:
	default:
		return violation("a caller does not send frames of type %d", fr.typ)
	}
	return nil
}

func (sc *servConn) find(id uint32) *call {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	return sc.calls[id]
}

// request starts a handler, or refuses.
func (sc *servConn) request(fr frame, now int64) error {
	if fr.id == 0 {
		return violation("a request has stream id 0")
	}
	if fr.over > 0 {
		sc.answerError(fr.id, tooLarge("request", fr.over+minLength, sc.fr.limit))
		return nil
	}
	head, payload, err := parseRequest(fr.body)
	if err != nil {
		return err
	}
	m := sc.srv.mux.methods[head.method]
	if m == nil {
		sc.answerError(fr.id, errs.New(errs.Unimplemented, "this server has no method 0x%04x", uint16(head.method)))
		return nil
	}
	if (fr.typ == frameOpen) != (m.stream != nil) {
		sc.answerError(fr.id, errs.New(errs.Unimplemented, "method %s: a stream and a single request are not the same", m.name))
		return nil
	}
	c := &call{sc: sc, method: m, id: fr.id, rid: head.id, start: now}
	if head.timeout > 0 {
		c.DeadlineAt = now + int64(head.timeout)
	}
	if m.stream != nil {
		c.credit, c.more = sc.window, make(chan struct{}, 1)
	}
	c.req = getBuffer()
	c.req.b = append(c.req.b, payload...)
	w, refusal, err := sc.enter(c)
	if refusal == nil && err == nil {
		sc.pool.Start(w, c)
		return nil
	}
	putBuffer(c.req)
	if refusal != nil {
		sc.answerError(fr.id, refusal)
	}
	return err
}

// maxBytes bounds the payloads of all requests under way on the connection.
func (sc *servConn) maxBytes() int { return max(4*int(sc.limits.MaxFrameBytes), 64<<20) }

// enter puts c into the table and gives an idle worker, nil for none. refusal is
// for this request only; err ends the connection.
func (sc *servConn) enter(c *call) (w *link.Worker[*call], refusal *errs.Error, err error) {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	switch {
	case sc.closed:
		return nil, nil, net.ErrClosed
	case sc.draining:
		return nil, errs.New(errs.ShuttingDown, "the server is stopping; use another one"), nil
	case len(sc.calls) >= sc.limits.MaxRequests:
		return nil, errs.New(errs.TooManyRequests, "this connection has %d requests under way, its limit", sc.limits.MaxRequests).
			With(errs.Detail{Field: "max_requests"}), nil
	case sc.reqBytes+len(c.req.b) > sc.maxBytes():
		return nil, errs.New(errs.TooManyRequests, "this connection has requests of %d bytes under way; the limit is %d bytes", sc.reqBytes, sc.maxBytes()).
			With(errs.Detail{Field: "max_frame_bytes"}), nil
	case c.more != nil && sc.streams >= sc.limits.MaxStreams:
		return nil, errs.New(errs.TooManyRequests, "this connection has %d streams open, its limit", sc.limits.MaxStreams).
			With(errs.Detail{Field: "max_streams"}), nil
	}
	if _, dup := sc.calls[c.id]; dup {
		return nil, nil, violation("stream id %d is in use", c.id)
	}
	sc.calls[c.id] = c
	sc.reqBytes += len(c.req.b)
	if c.more != nil {
		sc.streams++
	}
	if c.DeadlineAt != 0 {
		sc.sweep.Note(c.DeadlineAt)
	}
	return sc.pool.Take(), nil, nil
}

// leave takes c out of the table and tells whether the connection is now
// without another request.
func (sc *servConn) leave(c *call) (lone bool) {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	delete(sc.calls, c.id)
	sc.reqBytes -= len(c.req.b)
	if c.more != nil {
		sc.streams--
	}
	if sc.draining {
		sc.lingerLocked()
	}
	return len(sc.calls) == 0
}

// run serves the request.
func (c *call) run() {
	sc := c.sc
	var code errs.Code
	var size int
	if c.method.unary != nil {
		code, size = c.runUnary()
	} else {
		code, size = c.runStream()
	}
	if after := sc.srv.opts.After; after != nil {
		after(Result{
			Name: c.method.name, Stream: c.more != nil, Code: code, Duration: time.Duration(link.Nano() - c.start),
			RequestBytes: len(c.req.b), ResponseBytes: size,
		})
	}
	putBuffer(c.req)
}

func (c *call) runUnary() (errs.Code, int) {
	sc := c.sc
	dst := getBuffer()
	defer putBuffer(dst)
	if size := int(c.method.size.Load()); cap(dst.b) < size {
		dst.b = make([]byte, 0, size)
	}
	var out []byte
	err := c.guard(func() (err error) {
		out, err = c.method.unary(c, c.req.b, dst.b)
		return err
	})
	if err == nil && len(out)+minLength > sc.maxOut {
		err = tooLarge("answer", len(out)+minLength, sc.maxOut)
	}
	if err != nil {
		return c.fail(err), 0
	}
	if n := int64(len(out)); n > c.method.size.Load() && n <= keepPooled {
		c.method.size.Store(n)
	}
	lone := sc.leave(c)
	c.end(context.Canceled, nil)
	if sc.w.Begin(nil, nil, false) == nil {
		sc.w.Buf = appendFrame(sc.w.Buf, frameResponse, c.id, out)
		sc.w.End(lone)
	}
	return "", len(out)
}

func (c *call) runStream() (errs.Code, int) {
	sc := c.sc
	total := 0
	err := c.guard(func() error {
		return c.method.stream(c, c.req.b, func(msg []byte) error {
			total += len(msg)
			return c.send(msg)
		})
	})
	if err != nil {
		return c.fail(err), total
	}
	sc.leave(c)
	c.end(context.Canceled, nil)
	if sc.w.Begin(nil, nil, false) == nil {
		sc.w.Buf = appendFrame(sc.w.Buf, frameEnd, c.id, nil)
		sc.w.End(false)
	}
	return "", total
}

// send is a stream's message on its way out.
func (c *call) send(msg []byte) error {
	if len(msg)+minLength > c.sc.maxOut {
		return tooLarge("message", len(msg)+minLength, c.sc.maxOut)
	}
	if err := c.takeCredit(headerSize + len(msg)); err != nil {
		return err
	}
	w := c.sc.w
	if err := w.Begin(c.Done(), nil, false); err != nil {
		return err
	}
	w.Buf = appendFrame(w.Buf, frameMessage, c.id, msg)
	w.End(false)
	return nil
}

// guard runs the hook and the handler; a panic ends the request and not the
// server.
func (c *call) guard(handler func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.sc.srv.log.Error("a handler panicked", "method", c.method.name, "panic", p, "stack", string(debug.Stack()))
			err = errs.New(errs.Internal, "%s: the server has a defect here; its log has the details", c.method.name)
		}
	}()
	if before := c.sc.srv.opts.Before; before != nil {
		in := Info{Method: c.method.id, Name: c.method.name, Stream: c.more != nil, Principal: c.sc.principal, Request: c.req.b}
		if err := before(c, in); err != nil {
			return err
		}
	}
	return handler()
}

// fail answers with an error. When the handler only reports that its context
// ended, the caller gets the reason why.
func (c *call) fail(err error) errs.Code {
	var e *errs.Error
	if _, ok := errors.AsType[*errs.Error](err); !ok || errs.Has(err, errs.Canceled) {
		e = c.endCause()
	}
	if e == nil {
		e = errs.From(err)
	}
	if e.Code == errs.Internal {
		c.sc.srv.log.Error("a request failed", "method", c.method.name, "error", err)
	}
	c.sc.leave(c)
	c.end(context.Canceled, nil)
	c.sc.answerError(c.id, e)
	return e.Code
}

func (sc *servConn) answerError(id uint32, e *errs.Error) {
	if sc.w.Begin(nil, nil, false) == nil {
		sc.w.Buf = appendErrorFrame(sc.w.Buf, frameError, id, e)
		sc.w.End(false)
	}
}

// trim lets go what an idle connection does not need.
func (sc *servConn) trim() {
	sc.w.Trim()
	sc.mu.Lock()
	defer sc.mu.Unlock()
	sc.pool.Trim()
}

// expire ends the calls whose deadline has passed.
func (sc *servConn) expire() {
	var late []*call
	sc.mu.Lock()
	if !sc.closed {
		link.Expire(&sc.sweep, sc.calls, func(c *call) int64 { return c.DeadlineAt },
			func(_ uint32, c *call) { late = append(late, c) })
	}
	sc.mu.Unlock()
	for _, c := range late {
		c.end(context.DeadlineExceeded, nil)
	}
}

// drain tells the caller to go elsewhere and ends its streams.
func (sc *servConn) drain() {
	e := errs.New(errs.ShuttingDown, "the server is stopping; use another one")
	if sc.w.Begin(nil, nil, true) == nil {
		sc.w.Buf = appendErrorFrame(sc.w.Buf, frameGoaway, 0, e)
		sc.w.End(false)
	}
	var open []*call
	sc.mu.Lock()
	sc.draining = true
	for _, c := range sc.calls {
		if c.more != nil {
			open = append(open, c)
		}
	}
	sc.lingerLocked()
	sc.mu.Unlock()
	for _, c := range open {
		c.end(context.Canceled, e)
	}
}

// lingerLocked starts the last wait when no request is left.
func (sc *servConn) lingerLocked() {
	if len(sc.calls) > 0 || sc.closed {
		return
	}
	if sc.linger == nil {
		sc.linger = time.AfterFunc(lingerTime, func() {
			sc.w.Finish(net.ErrClosed)
			// Ends a handshake that is still waited for.
			_ = sc.conn.SetReadDeadline(time.Now().Add(link.FinalWrite))
		})
	}
}

// violate tells the peer what it did wrong and closes once that is written.
func (sc *servConn) violate(e *errs.Error) {
	sc.srv.log.Warn("connection closed", "door", sc.srv.opts.Door, "peer", sc.principal.Addr, "error", e)
	if sc.w.Begin(nil, nil, true) != nil {
		return
	}
	sc.w.Buf = appendErrorFrame(sc.w.Buf, frameGoaway, 0, e)
	sc.w.End(false)
	sc.w.Finish(e)
	sc.discard()
}

// fail closes the connection and ends every handler's context.
func (sc *servConn) fail(err error) {
	if err == nil {
		err = net.ErrClosed
	}
	sc.mu.Lock()
	if sc.closed {
		sc.mu.Unlock()
		return
	}
	sc.closed = true
	sc.pool.End()
	calls := make([]*call, 0, len(sc.calls))
	for _, c := range sc.calls {
		calls = append(calls, c)
	}
	sc.sweep.Stop()
	if sc.linger != nil {
		sc.linger.Stop()
	}
	sc.mu.Unlock()
	sc.keep.stop()
	sc.w.Stop(err)
	_ = sc.conn.Close()
	for _, c := range calls {
		c.end(context.Canceled, nil)
	}
}
