package grpcserver

import (
	"google.golang.org/grpc"
)

// SendHeld is ss.SendMsg that leaves it to Flush to have the message written: a burst
// of messages then costs few system calls, and a lone one no hop to another
// goroutine. Streams of other servers just send.
func SendHeld(ss grpc.ServerStream, m any) error {
	if s, ok := ss.Context().Value(streamKey{}).(*stream); ok {
		return s.sendMsg(m, true)
	}
	return ss.SendMsg(m)
}

// Flush writes what SendHeld has left.
func Flush(ss grpc.ServerStream) {
	if s, ok := ss.Context().Value(streamKey{}).(*stream); ok {
		s.c.w.Flush()
	}
}
