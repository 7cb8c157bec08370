package grpcserver

import (
	"context"

	"google.golang.org/grpc"
)

// What handlers of streams with many small messages use beside grpc.ServerStream. ss
// is a stream of this package's Server.

func streamOf(ss grpc.ServerStream) *stream { return ss.Context().Value(streamKey{}).(*stream) }

// SendHeld is ss.SendMsg that leaves it to Flush to have the message written: a burst
// of messages then costs few system calls, and a lone one no hop to another goroutine.
func SendHeld(ss grpc.ServerStream, m any) error { return streamOf(ss).sendMsg(m, true) }

// Flush writes what SendHeld has left.
func Flush(ss grpc.ServerStream) {
	c := streamOf(ss).c
	c.mu.Lock()
	lone := len(c.streams) == 1
	c.mu.Unlock()
	c.w.Flush(lone)
}

// Receive is ss.RecvMsg that also ends with ctx.
func Receive(ctx context.Context, ss grpc.ServerStream, m any) error {
	s := streamOf(ss)
	compressed, b, err := s.next(ctx.Done())
	if err != nil {
		return err
	}
	return s.receive(compressed, b, m)
}

// TryReceive receives a message that has come already.
func TryReceive(ss grpc.ServerStream, m any) (ok bool, err error) {
	s := streamOf(ss)
	compressed, b, ok, err := s.poll()
	if err != nil || !ok {
		return false, err
	}
	return true, s.receive(compressed, b, m)
}
