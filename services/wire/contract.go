// Package wire is the framing of the native door and of peer calls: many
// requests and streams multiplexed and pipelined over one connection.
//
// It owns the byte format, flow control and limits; it knows nothing of what
// the methods do.
package wire

import (
	"context"
	"net"
)

// Method numbers a call. Only ever appended. Ranges: 0x0001- system, 0x0100-
// numgen, 0x0200- warehouse, 0x0300- naming, 0x0400- scheduling, 0x0500- mq,
// 0x0f00- peer calls (cluster port only).
type Method uint16

// Unary answers one request. req is valid until it returns; the answer may be
// appended to dst, a reusable buffer. The context carries the caller's deadline
// and its auth.Principal, and ends when the caller cancels or goes away. An
// *errs.Error travels whole; any other error becomes "internal".
type Unary func(ctx context.Context, req, dst []byte) ([]byte, error)

// Streaming answers with any number of messages; send blocks for flow control
// and keeps nothing of msg.
type Streaming func(ctx context.Context, req []byte, send func(msg []byte) error) error

// Mux is the table of methods. Duplicates panic.
type Mux struct{}

func NewMux() *Mux                                           { panic("being built") }
func (m *Mux) Unary(id Method, name string, h Unary)         { panic("being built") }
func (m *Mux) Streaming(id Method, name string, h Streaming) { panic("being built") }

// Server serves a Mux.
type Server struct{}

// ServeConn serves one connection until it ends. Serve accepts until the
// listener closes. Shutdown stops taking requests (new ones get shutting_down),
// waits for the running ones, and closes what is left when ctx ends.
func (s *Server) Serve(ln net.Listener) error        { panic("being built") }
func (s *Server) ServeConn(c net.Conn)               { panic("being built") }
func (s *Server) Shutdown(ctx context.Context) error { panic("being built") }

// Conn is the calling side of one connection.
type Conn struct{}

// Call sends req and waits; ctx's deadline travels along. Transport failures are
// *errs.Error: unavailable when the request certainly was not sent,
// outcome_unknown when it may have been.
func (c *Conn) Call(ctx context.Context, m Method, req []byte) ([]byte, error) { panic("being built") }

// Stream opens a stream.
func (c *Conn) Stream(ctx context.Context, m Method, req []byte) (*Stream, error) {
	panic("being built")
}
func (c *Conn) Close() error          { panic("being built") }
func (c *Conn) Done() <-chan struct{} { panic("being built") }

// Stream is read by one goroutine. Recv gives io.EOF at the orderly end.
type Stream struct{}

func (s *Stream) Recv(ctx context.Context) ([]byte, error) { panic("being built") }
func (s *Stream) Close()                                   { panic("being built") }

// Pipe is an in-process connection pair, buffered, with deadlines.
func Pipe() (client, server net.Conn) { panic("being built") }
