// Package watch is the event hub: what the state machine changed, by topic,
// key and store revision.
//
// The one writer (the apply loop) appends to a bounded ring and returns at
// once; a dispatcher fans out to subscribers through an index over exact keys
// and key ranges. A subscriber has a bounded buffer: when it overflows the
// subscriber is told (ErrLagged) and catches up from its service's history.
// A slow reader never slows the writer or another reader.
//
// It owns Hub, the one implementation. Publish and Reset are called by one
// goroutine, everything else by any number; one Subscription is read by one.
// Every package of floor 1 and above may import it.
package watch

import "context"

// Topic is one stream of events, usually a service's table.
type Topic uint16

// The topics. Only ever appended.
const (
	TopicKV     Topic = 1 // warehouse keys
	TopicLease  Topic = 2
	TopicNumgen Topic = 3
	TopicMember Topic = 4
	TopicArea   Topic = 5
	TopicConfig Topic = 6
)

// Event is one change. It is immutable once published.
type Event struct {
	Topic    Topic
	Revision uint64 // store revision of the command; several events may share it
	Key      []byte
	Data     any // the service's own immutable value
}

// Filter picks events of one topic. End empty means exactly Start; End = {0}
// means every key from Start on; otherwise Start <= key < End. Both empty: all.
type Filter struct {
	Topic      Topic
	Start, End []byte
}

// Publisher is the writer's side. Publish is called by one goroutine, in
// revision order, after the batch is visible to readers.
type Publisher interface {
	Publish(batch []Event)
	// Reset ends every subscription with ErrReset: the state was replaced (a
	// snapshot was installed), and readers must start anew from history.
	Reset()
}

// Source is the readers' side.
type Source interface {
	// Subscribe delivers every event published after its return that fits f.
	// buffer is the most events kept for a slow reader (0 for the default).
	Subscribe(f Filter, buffer int) Subscription
	// SubscribeNotify is Subscribe for a reader of many subscriptions: notify is
	// called when Poll may have news. It must not block nor call the hub.
	SubscribeNotify(f Filter, buffer int, notify func()) Subscription
	// Dispatched is the store revision up to which every event has reached the
	// subscriptions' buffers.
	Dispatched() uint64
}

// Subscription is read by one goroutine.
type Subscription interface {
	// Next blocks for at least one event. It fails with ErrLagged, ErrReset,
	// ErrClosed or the context's error; after the first three the subscription
	// is finished.
	Next(ctx context.Context) ([]Event, error)
	// Poll is Next that does not wait: no events and no error is nothing yet.
	Poll() ([]Event, error)
	Close()
}
