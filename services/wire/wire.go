// Package wire is the framing of the native door and of peer calls: many
// requests and streams multiplexed and pipelined over one connection.
//
// It owns the byte format, flow control, keepalive and limits; it knows nothing
// of what the methods do. The format stands in frame.go. A Server, a Conn
// and a Mux that is being served are safe for concurrent use; a Stream is read
// by one goroutine. Everything above floor 1 may import it, and so may the Go
// client, so it pulls in nothing but errs, command and auth.
//
// Lock order: servConn.mu or Conn.mu, then one of call.mu, Stream.mu, keeper.mu,
// then the mutex of its link.Writer. No lock is held over a read, a write or a
// handler.
package wire

import "context"

// Method numbers a call. Only ever appended. Ranges: 0x0001- system, 0x0100-
// numgen, 0x0200- warehouse, 0x0300- naming, 0x0400- scheduling, 0x0500- mq,
// 0x0f00- peer calls (cluster port only).
type Method uint16

// Unary answers one request. req is valid until it returns; the answer may be
// appended to dst, a reusable buffer. The context carries the caller's deadline,
// its auth.Principal and its command.RequestID, and ends when the caller cancels
// or goes away and when the handler returns. An *errs.Error travels whole; any
// other error becomes "internal".
type Unary func(ctx context.Context, req, dst []byte) ([]byte, error)

// Streaming answers with any number of messages; send blocks for flow control
// and keeps nothing of msg. send is for one goroutine at a time.
type Streaming func(ctx context.Context, req []byte, send func(msg []byte) error) error
