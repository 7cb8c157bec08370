package etcd

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// sniffTimeout is how long a new connection may take to send its first bytes.
const sniffTimeout = 10 * time.Second

// acceptPause is the pause after an accept that failed for want of descriptors.
const acceptPause = 20 * time.Millisecond

// splitter gives the connections of one port to gRPC, when they begin as HTTP/2, or
// to the HTTP/1 server. It looks at the first bytes only, so gRPC keeps its own
// transport and what comes after costs nothing.
type splitter struct {
	ln         net.Listener // nil without a port
	grpc, http *handoff

	mu     sync.Mutex
	closed bool
	fresh  map[net.Conn]struct{} // not yet told apart
	wg     sync.WaitGroup
	done   chan struct{}
}

func newSplitter(ln net.Listener) *splitter {
	addr := net.Addr(inProcess{})
	if ln != nil {
		addr = ln.Addr()
	}
	s := &splitter{ln: ln, fresh: map[net.Conn]struct{}{}, done: make(chan struct{})}
	s.grpc = &handoff{addr: addr, conns: make(chan net.Conn), done: s.done}
	s.http = &handoff{addr: addr, conns: make(chan net.Conn), done: s.done}
	return s
}

// serve accepts until Close.
func (s *splitter) serve() error {
	for s.ln != nil {
		c, err := s.ln.Accept()
		if err != nil {
			select {
			case <-s.done:
				return nil
			default:
			}
			if ne, ok := errors.AsType[*net.OpError](err); ok && ne.Temporary() { //nolint:staticcheck // EMFILE and the like
				select {
				case <-time.After(acceptPause):
					continue
				case <-s.done:
					return nil
				}
			}
			return err
		}
		if !s.take(c) {
			_ = c.Close()
		}
	}
	<-s.done
	return nil
}

func (s *splitter) take(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.fresh[c] = struct{}{}
	s.wg.Go(func() { s.sniff(c) })
	return true
}

const preface = "PRI "

func (s *splitter) sniff(c net.Conn) {
	head := make([]byte, len(preface))
	_ = c.SetReadDeadline(time.Now().Add(sniffTimeout))
	_, err := io.ReadFull(c, head)
	s.mu.Lock()
	delete(s.fresh, c)
	s.mu.Unlock()
	if err != nil || c.SetReadDeadline(time.Time{}) != nil {
		_ = c.Close()
		return
	}
	to := s.http
	if string(head) == preface {
		to = s.grpc
	}
	select {
	case to.conns <- &sniffed{Conn: c, head: head}:
	case <-s.done:
		_ = c.Close()
	}
}

// dial gives a connection inside the process.
func (s *splitter) dial(context.Context) (net.Conn, error) {
	client, server := net.Pipe()
	if !s.take(server) {
		return nil, net.ErrClosed
	}
	return client, nil
}

// Close stops accepting; connections that were handed on stay.
func (s *splitter) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.done)
	for c := range s.fresh {
		_ = c.Close()
	}
	s.mu.Unlock()
	var err error
	if s.ln != nil {
		err = s.ln.Close()
	}
	s.wg.Wait()
	return err
}

// handoff is the listener that a server of one protocol sees.
type handoff struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
}

func (h *handoff) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close does nothing: the port belongs to the splitter, whichever server stops first.
func (h *handoff) Close() error   { return nil }
func (h *handoff) Addr() net.Addr { return h.addr }

// sniffed is a connection whose first bytes were read already.
type sniffed struct {
	net.Conn
	head []byte
}

func (c *sniffed) Read(b []byte) (int, error) {
	if len(c.head) > 0 {
		n := copy(b, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

// CloseWrite ends our side alone, so that a client reads the last of what it is sent.
func (c *sniffed) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

type inProcess struct{}

func (inProcess) Network() string { return "pipe" }
func (inProcess) String() string  { return "in-process" }
