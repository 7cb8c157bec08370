package wire

import (
	"fmt"
	"sync/atomic"
)

// method is one row of a Mux: exactly one of the two handlers is set.
type method struct {
	id     Method
	name   string
	unary  Unary
	stream Streaming
	// size is how large the answers of a unary method get, so that its buffer
	// need not grow each time; at most keepPooled.
	size atomic.Int64
}

// Mux is the table of methods. Duplicates panic. It is filled before it is
// served and not changed afterwards.
type Mux struct {
	methods map[Method]*method
	names   map[string]Method
}

// NewMux makes an empty table.
func NewMux() *Mux {
	return &Mux{methods: make(map[Method]*method), names: make(map[string]Method)}
}

// Unary registers a method that answers once.
func (m *Mux) Unary(id Method, name string, h Unary) {
	m.add(&method{id: id, name: name, unary: h})
}

// Streaming registers a method that answers with a stream of messages.
func (m *Mux) Streaming(id Method, name string, h Streaming) {
	m.add(&method{id: id, name: name, stream: h})
}

func (m *Mux) add(e *method) {
	if e.unary == nil && e.stream == nil {
		panic(fmt.Sprintf("wire: method %q (0x%04x) has no handler", e.name, e.id))
	}
	if old, dup := m.methods[e.id]; dup {
		panic(fmt.Sprintf("wire: method 0x%04x is both %q and %q", e.id, old.name, e.name))
	}
	if old, dup := m.names[e.name]; dup {
		panic(fmt.Sprintf("wire: the name %q is given to 0x%04x and 0x%04x", e.name, old, e.id))
	}
	m.methods[e.id] = e
	m.names[e.name] = e.id
}
