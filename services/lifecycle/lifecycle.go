// Package lifecycle is the dependency graph of a process: what there is, what
// it needs, in which order it starts and stops.
//
// It owns the states of the components and the deadlines of their hooks. A
// component starts when everything it needs has started (not: is ready, since a
// node of a cluster is ready only when the others are there too). Stopping has
// two passes, both from the dependents down: all drain, then all stop. What is
// independent goes in parallel in all three.
//
// A Graph is filled by one goroutine; after Start its methods are safe for
// concurrent use. Hooks of different components run concurrently, hooks of one
// never do, except for Ready, which may run beside Drain and Stop. Every package
// may import it; it imports nothing of NekoQ but errs.
package lifecycle

import (
	"context"
	"time"
)

// Component is one service or door. Every hook may be nil. Start returns when
// the component is started, and cleans up after itself when it fails; Ready,
// polled after Start, says whether it serves (nil) or why not yet; Drain stops
// taking new work and waits for the running; Stop ends it. A hook's context ends
// when the hook returns or its deadline passes: what outlives the hook needs its own.
type Component struct {
	Name  string
	Needs []string
	// Off switches the component off, with the reason ("services.naming = false").
	// A component that is on and needs one that is off is a configuration error
	// that names the chain.
	Off   string
	Start func(ctx context.Context) error
	Ready func(ctx context.Context) error
	Drain func(ctx context.Context) error
	Stop  func(ctx context.Context) error
	// Failed, when not nil, is watched while the component runs: an error from it
	// is a failure of the component that stops the rest in reverse order.
	Failed <-chan error
	// StartTimeout, DrainTimeout, StopTimeout: 0 for the graph's default.
	StartTimeout, DrainTimeout, StopTimeout time.Duration
}
