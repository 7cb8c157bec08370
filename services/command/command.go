// Package command is the codec of a log entry: a batch of commands, each with
// its kind, flags, time, request id, actor and payload.
//
// It owns the byte format, which is only ever appended to. It has no state and
// is safe for concurrent use. services/state and services/replica import it;
// a service imports it to number its kinds and to build payloads.
package command

import "context"

// Kind names what a command does. Kinds are only ever appended. Each owner has
// its own range:
//
//	0x0001-0x00ff  services/state (sessions, cluster version, checkpoints)
//	0x0100-0x01ff  services/peer (members)
//	0x0200-0x02ff  services/lease
//	0x1000-0x10ff  numgen
//	0x2000-0x20ff  warehouse
//	0x3000-0x30ff  naming
//	0x4000-0x40ff  scheduling
//	0x5000-0x50ff  mq
type Kind uint16

// Command is one change to the replicated state.
type Command struct {
	Kind Kind
	// Time is when the leader took the command in, in Unix nanoseconds. It is
	// stamped when the batch is formed and clamped at apply so that it never
	// goes back.
	Time int64
	RequestID
	// Actor says who did it through which door, as "door:principal", for the
	// audit answer. At most 255 bytes.
	Actor   string
	Payload []byte
}

// Limits of one log entry.
const (
	MaxBatchCommands = 1024
	MaxBatchBytes    = 1 << 20 // a single larger command still gets an entry of its own
)

// RequestID makes a retry safe (Ongaro's dissertation, 6.3): Session is 0 for
// none; Seq numbers the session's requests from 1; every result below Acked has
// reached the client and may be forgotten. It identifies one command: a service
// whose request becomes several commands puts it on the one that carries the
// outcome.
type RequestID struct {
	Session, Seq, Acked uint64
}

type requestIDKey struct{}

// NewContext carries the request id from the door to the service.
func NewContext(ctx context.Context, id RequestID) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// RequestIDFrom gives the context's request id, the zero RequestID for none.
func RequestIDFrom(ctx context.Context) RequestID {
	id, _ := ctx.Value(requestIDKey{}).(RequestID)
	return id
}
