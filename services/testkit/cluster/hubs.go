package cluster

import (
	"sync"
	"testing"

	"nekoq/services/watch"
)

// Hubs are the event hubs of a cluster's nodes.
type Hubs struct {
	mu   sync.Mutex
	hubs map[string]*watch.Hub // the newest of each id
}

// NewHubs comes before New, so that the hubs, which end with the test, outlive the
// nodes.
func NewHubs(tb testing.TB) *Hubs {
	h := &Hubs{hubs: map[string]*watch.Hub{}}
	tb.Cleanup(func() {
		for _, hub := range h.hubs {
			hub.Close()
		}
	})
	return h
}

// Events is an Options.Events: a new hub each time that the node starts.
func (h *Hubs) Events(id string) watch.Publisher {
	h.mu.Lock()
	defer h.mu.Unlock()
	if old := h.hubs[id]; old != nil {
		old.Close()
	}
	h.hubs[id] = watch.NewHub(watch.Options{})
	return h.hubs[id]
}

// Of is the hub of a node.
func (h *Hubs) Of(id string) *watch.Hub {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.hubs[id]
}
