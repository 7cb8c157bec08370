package etcd

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/coder/websocket"
)

// sockets serves the JSON gateway over WebSockets, as etcd's does: each text frame of
// the client is one request message, each one of the server an answer. A path that
// streams goes on until either side closes.
type sockets struct {
	api   http.Handler
	limit int64           // bytes of one frame
	ctx   context.Context // ends with the gateway

	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

func asksForSocket(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get("Upgrade"), "websocket")
}

func (s *sockets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !asksForSocket(r) {
		s.api.ServeHTTP(w, r)
		return
	}
	if !s.enter() {
		http.Error(w, "the server is shutting down", http.StatusServiceUnavailable)
		return
	}
	defer s.wg.Done()
	opts := &websocket.AcceptOptions{} // pages of other origins are refused
	token, bearer := protocolToken(r)
	if bearer {
		opts.Subprotocols = []string{"Bearer"}
	}
	c, err := websocket.Accept(w, r, opts)
	if err != nil {
		return // Accept has answered
	}
	defer func() { _ = c.CloseNow() }()
	c.SetReadLimit(s.limit)
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	body, frames := io.Pipe()
	defer func() { _ = body.Close() }()
	var reading sync.WaitGroup
	reading.Go(func() {
		defer cancel()
		takeFrames(ctx, c, frames, r.URL.Path == "/v3/watch" || r.URL.Path == "/v3/lease/keepalive")
	})
	out := &frameWriter{ctx: ctx, c: c, header: http.Header{}}
	s.api.ServeHTTP(out, s.request(ctx, r, body, token))
	out.rest()
	if s.ctx.Err() == nil { // a stop does not wait for the client's part of the farewell
		_ = c.Close(websocket.StatusNormalClosure, "")
	}
	cancel()
	_ = body.Close()
	reading.Wait()
}

func (s *sockets) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.wg.Add(1)
	}
	return !s.closed
}

// close waits for those that are open; the context has ended.
func (s *sockets) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.wg.Wait()
}

// protocolToken reads the token of a browser, which can set no header but this one:
// "Sec-WebSocket-Protocol: Bearer, TOKEN".
func protocolToken(r *http.Request) (token string, bearer bool) {
	name, token, ok := strings.Cut(r.Header.Get("Sec-WebSocket-Protocol"), ",")
	return strings.TrimSpace(token), ok && strings.TrimSpace(name) == "Bearer"
}

// request is the POST that the gateway gets in place of the upgrade.
func (s *sockets) request(ctx context.Context, r *http.Request, body io.ReadCloser, token string) *http.Request {
	out := r.Clone(ctx)
	out.Method, out.Body, out.ContentLength = http.MethodPost, body, -1
	for name := range out.Header {
		if strings.HasPrefix(name, "Sec-Websocket-") {
			out.Header.Del(name)
		}
	}
	out.Header.Del("Upgrade")
	out.Header.Del("Connection")
	out.Header.Set("Content-Type", "application/json")
	if token != "" {
		out.Header.Set("Authorization", "Bearer "+token)
	}
	return out
}

// takeFrames hands the client's messages on, until it closes. Where a path takes one
// message, the gateway wants the end of the body after it.
func takeFrames(ctx context.Context, c *websocket.Conn, to *io.PipeWriter, many bool) {
	defer func() { _ = to.Close() }()
	for {
		_, msg, err := c.Read(ctx)
		if err != nil {
			return
		}
		_, _ = to.Write(append(msg, '\n')) // fails once nobody reads any more
		if !many {
			_ = to.Close()
		}
	}
}

// frameWriter sends each line of an answer as one frame.
type frameWriter struct {
	ctx    context.Context
	c      *websocket.Conn
	header http.Header
	buf    []byte
}

func (w *frameWriter) Header() http.Header { return w.header }
func (w *frameWriter) WriteHeader(int)     {}
func (w *frameWriter) Flush()              {}

func (w *frameWriter) Write(b []byte) (int, error) {
	w.buf = append(w.buf, b...)
	for {
		at := bytes.IndexByte(w.buf, '\n')
		if at < 0 {
			return len(b), nil
		}
		line := w.buf[:at]
		if err := w.send(line); err != nil {
			return 0, err
		}
		w.buf = append(w.buf[:0], w.buf[at+1:]...)
	}
}

func (w *frameWriter) send(line []byte) error {
	if len(bytes.TrimSpace(line)) == 0 {
		return nil
	}
	return w.c.Write(w.ctx, websocket.MessageText, line)
}

// rest sends what came without an end of line: the answer of a path that does not
// stream.
func (w *frameWriter) rest() {
	if w.ctx.Err() == nil {
		_ = w.send(w.buf)
	}
}
