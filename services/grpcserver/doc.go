// Package grpcserver serves gRPC over HTTP/2 in clear text to doors whose clients
// speak it. It takes the generated service descriptions of grpc-go and their
// handlers as they are, and uses that module's statuses, metadata and codecs; what
// is its own is the transport, because that was half of the processor time of a
// small write (docs/performance.md). Frames and header compression are those of
// golang.org/x/net/http2.
//
// What it does to be quick: one goroutine reads a connection, requests are served by
// warm goroutines, and answers of many requests leave in one system call, as in
// services/wire. A method may be registered as bytes in, bytes out (HandleUnary).
//
// A Server is safe for concurrent use. Lock order: conn.mu, then the mutex of the
// connection's link.Writer, then stream.mu; no lock is held over a handler or a
// read. Everything above floor 2 may import it.
//
// Sources: RFC 9113 (HTTP/2), RFC 7541 (HPACK), the protocol text "gRPC over HTTP2"
// of the gRPC project.
package grpcserver
