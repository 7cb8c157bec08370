// Package lifecycle is the dependency graph of a process: what there is, what
// it needs, in which order it starts and stops.
package lifecycle

import (
	"context"
	"time"
)

// Component is one service or door. Every hook may be nil. Start returns when
// the component is started; Ready, polled after Start, says whether it serves
// (nil) or why not yet; Drain stops taking new work and waits for the running;
// Stop ends it.
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
